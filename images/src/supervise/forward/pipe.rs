//! One socket of the host and one connection of the stack.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use mio::net::TcpStream;
use netstack::{ConnId, Error as StackError, IncomingId, Stack};

/// How a pipe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides have sent all they had.
    Clean,
    /// One side broke off: so must the other.
    Reset,
}

/// What the guest's side of a pipe is.
#[derive(Debug, Clone, Copy)]
enum GuestSide {
    /// A connection, perhaps not yet established.
    Connection(ConnId),
    /// The guest's attempt, unanswered until the host's socket is connected.
    Attempt(IncomingId),
}

/// A pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    /// The host's socket.
    pub stream: TcpStream,
    guest: GuestSide,
    /// The handshake with the guest is complete.
    pub guest_connected: bool,
    /// A read of the socket may bring something.
    host_readable: bool,
    /// A write to the socket may be taken.
    host_writable: bool,
    /// The socket's end or fault has been announced: reads go on until they show it.
    host_closing: bool,
    /// The host has finished sending, and the guest has been told.
    host_finished: bool,
    /// The guest has finished sending, and the host has been told.
    guest_finished: bool,
    /// The host's socket has an error.
    broken: bool,
}

impl Pipe {
    /// From a client's socket to a connection that is being opened to the guest.
    pub fn to_guest(stream: TcpStream, conn: ConnId) -> Self {
        // Small replies must not wait for acknowledgements. A socket that refuses is merely slower.
        let _ = stream.set_nodelay(true);
        Self::new(stream, GuestSide::Connection(conn))
    }

    /// From the guest's attempt to a host's socket that is being connected.
    pub fn to_host(stream: TcpStream, attempt: IncomingId) -> Self {
        Self::new(stream, GuestSide::Attempt(attempt))
    }

    fn new(stream: TcpStream, guest: GuestSide) -> Self {
        Self {
            stream,
            guest,
            guest_connected: false,
            host_readable: false,
            host_writable: false,
            host_closing: false,
            host_finished: false,
            guest_finished: false,
            broken: false,
        }
    }

    /// The stack's connection, if there is one already.
    pub fn conn(&self) -> Option<ConnId> {
        match self.guest {
            GuestSide::Connection(conn) => Some(conn),
            GuestSide::Attempt(_) => None,
        }
    }

    /// Whether the guest waits for the host's socket to be connected.
    pub fn awaits_host(&self) -> bool {
        matches!(self.guest, GuestSide::Attempt(_))
    }

    /// The guest's unanswered attempt.
    pub fn attempt(&self) -> Option<IncomingId> {
        match self.guest {
            GuestSide::Attempt(attempt) => Some(attempt),
            GuestSide::Connection(_) => None,
        }
    }

    /// The attempt has been answered.
    pub fn answered(&mut self, conn: ConnId) {
        self.guest = GuestSide::Connection(conn);
        let _ = self.stream.set_nodelay(true);
    }

    /// Takes note of an edge.
    pub fn note(&mut self, event: &mio::event::Event) {
        self.host_readable |= event.is_readable() || event.is_read_closed();
        self.host_writable |= event.is_writable();
        self.host_closing |= event.is_read_closed();
        self.broken |= event.is_error();
    }

    /// Whether the host has answered a connection attempt: with what result the socket itself tells.
    pub fn host_has_answered(&self) -> bool {
        self.host_writable || self.broken
    }

    /// Moves all that can be moved. Returns how the pipe ended, if it has.
    pub fn serve(&mut self, stack: &mut Stack) -> Option<Ended> {
        let conn = self.conn()?;
        let moved = if self.broken {
            Err(Ended::Reset)
        } else {
            self.guest_to_host(stack, conn).and_then(|()| self.host_to_guest(stack, conn))
        };
        match moved {
            Err(ended) => Some(ended),
            Ok(()) if self.host_finished && self.guest_finished => Some(Ended::Clean),
            Ok(()) => None,
        }
    }

    /// Receives from the host straight into the stack's send buffer.
    fn host_to_guest(&mut self, stack: &mut Stack, conn: ConnId) -> Result<(), Ended> {
        while self.guest_connected && self.host_readable && !self.host_finished {
            let stream = &mut self.stream;
            let received = stack.send_with(conn, |room| match stream.read(room) {
                Ok(bytes) => (bytes, Ok((bytes, room.len()))),
                Err(error) => (0, Err(error)),
            });
            match received {
                Ok(Ok((0, _))) => {
                    self.host_finished = true;
                    // The id is good: it was used a moment ago.
                    let _ = stack.shutdown(conn);
                }
                // A short read has emptied the socket, and what comes later is a new edge; only the end that was
                // announced already has to be fetched.
                Ok(Ok((bytes, room))) => self.host_readable = bytes == room || self.host_closing,
                Ok(Err(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.host_readable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(Ended::Reset),
                },
                // An event tells when there is room.
                Err(StackError::WouldBlock) => return Ok(()),
                Err(_) => return Err(Ended::Reset),
            }
        }
        Ok(())
    }

    /// Sends to the host straight from the stack's receive buffer.
    fn guest_to_host(&mut self, stack: &mut Stack, conn: ConnId) -> Result<(), Ended> {
        while !self.guest_finished {
            if !self.host_writable {
                // Nothing can be moved, but a connection that is over must not wait for the host to read.
                return match stack.end(conn) {
                    None | Some(StackError::Finished) => Ok(()),
                    Some(_) => Err(Ended::Reset),
                };
            }
            let stream = &mut self.stream;
            let sent = stack.recv_with(conn, |data| match stream.write(data) {
                Ok(bytes) => (bytes, Ok(bytes == data.len())),
                Err(error) => (0, Err(error)),
            });
            match sent {
                Ok(Ok(all)) => self.host_writable = all,
                Ok(Err(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.host_writable = false,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(Ended::Reset),
                },
                Err(StackError::WouldBlock) => return Ok(()),
                Err(StackError::Finished) => {
                    self.guest_finished = true;
                    // Fails only when the host has closed too, which the next read shows.
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
                Err(_) => return Err(Ended::Reset),
            }
        }
        Ok(())
    }

    /// Breaks off both sides.
    pub fn abandon(&mut self, stack: &mut Stack) {
        // A stale id or an expired attempt means that the stack has forgotten it already.
        let _ = match self.guest {
            GuestSide::Connection(conn) => stack.abort(conn),
            GuestSide::Attempt(attempt) => stack.refuse_incoming(attempt),
        };
        reset(&self.stream);
    }
}

/// Has the socket send a reset instead of an orderly end when it is closed.
pub(super) fn reset(stream: &TcpStream) {
    // Without it the client sees an orderly end, which is the lesser evil.
    let _ = rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO));
}
