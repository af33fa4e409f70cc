//! Why an operation on a socket was not done.

use core::fmt;

/// The error of socket operations. All are values that a server handles; none means that the stack is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The id is stale: its socket was closed, aborted or never existed.
    NotConnected,
    /// Nothing to read, or no room to write, yet: wait for the next event of this socket.
    WouldBlock,
    /// The peer has finished sending and everything was read.
    Finished,
    /// This side has already finished sending.
    Shutdown,
    /// The peer answered the connection attempt with a reset.
    Refused,
    /// The peer, or a change of our own address, reset the connection.
    Reset,
    /// The peer gave no sign of life for the configured time.
    TimedOut,
    /// The port is taken by another listener or socket.
    PortInUse,
    /// Port 0 cannot be bound or reached.
    InvalidPort,
    /// Every ephemeral port towards this destination is in use.
    NoFreePort,
    /// We have no address yet, or the destination is not a host.
    Unaddressable,
    /// The configured number of connections is reached.
    LimitReached,
    /// The datagram is larger than the socket's buffer or the MTU, or the line longer than its reader's buffer.
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "the socket id is stale: its socket was closed; open a new one",
            Self::WouldBlock => "not ready: wait for the socket's next event",
            Self::Finished => "the peer has finished sending and everything was read",
            Self::Shutdown => "this side has already finished sending",
            Self::Refused => "the peer refused the connection",
            Self::Reset => "the connection was reset",
            Self::TimedOut => "the peer gave no sign of life in time",
            Self::PortInUse => "the port is in use: choose another or close its owner",
            Self::InvalidPort => "port 0 is not a port: choose 1 to 65535",
            Self::NoFreePort => "all ephemeral ports to this destination are in use",
            Self::Unaddressable => "no own address yet, or the destination is not a host",
            Self::LimitReached => "the configured number of connections is reached",
            Self::TooLong => "the datagram exceeds the socket's buffer or the MTU, or the line its reader's buffer",
        })
    }
}

impl core::error::Error for Error {}
