//! Options of sockets.

use core::cell::Cell;
use core::num::NonZeroU8;

use hermit_abi::{EINVAL, ENOPROTOOPT};

use super::{Kind, Result, Socket, State};
use crate::net::{TcpStream, UdpSocket};
use crate::time::Duration;

/// Which option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A port may be used again at once, which it always may.
    ReuseAddress,
    /// An idle connection is probed.
    KeepAlive,
    /// After how long, in whole seconds.
    KeepAliveTime,
    /// Datagrams may go to all.
    Broadcast,
    /// Small writes leave at once.
    NoDelay,
    /// Bytes of the send buffer; what is set is noted, and of no account.
    SendBuffer,
    /// Bytes of the receive buffer; likewise.
    ReceiveBuffer,
    /// How long a call waits to read or to accept.
    ReceiveLimit,
    /// How long a call waits to write or to connect.
    SendLimit,
    /// What becomes of what was not sent when the socket is closed: zero resets the connection.
    Linger,
    /// How many routers packets may pass.
    HopLimit,
    /// What went wrong; asking forgets it.
    Error,
    /// Whether it listens.
    Listens,
}

/// What an option is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Of most.
    Number(i32),
    /// Of limits: none for no limit.
    Time(Option<Duration>),
}

/// Options that are kept.
pub(super) struct Options {
    pub(super) receive_limit: Cell<Option<Duration>>,
    pub(super) send_limit: Cell<Option<Duration>>,
    pub(super) linger: Cell<Option<Duration>>,
    reuse: Cell<bool>,
    keep_alive: Cell<bool>,
    keep_alive_s: Cell<i32>,
    broadcast: Cell<bool>,
    nodelay: Cell<bool>,
    send_buffer_bytes: Cell<i32>,
    receive_buffer_bytes: Cell<i32>,
    hops: Cell<Option<NonZeroU8>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            receive_limit: Cell::new(None),
            send_limit: Cell::new(None),
            linger: Cell::new(None),
            reuse: Cell::new(false),
            keep_alive: Cell::new(false),
            keep_alive_s: Cell::new(7200),
            broadcast: Cell::new(false),
            nodelay: Cell::new(false),
            send_buffer_bytes: Cell::new(16 * 1024),
            receive_buffer_bytes: Cell::new(16 * 1024),
            hops: Cell::new(None),
        }
    }
}

impl Options {
    fn keep_alive(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.keep_alive_s.get()).unwrap_or(1);
        self.keep_alive.get().then(|| Duration::from_secs(seconds))
    }

    /// What was chosen before there was a connection. Small writes leave at once whatever was chosen, until it is said
    /// otherwise: so does every socket of this network.
    pub(super) fn apply_to_network(&self, stream: &TcpStream) {
        // One that is gone needs no options.
        if let Some(interval) = self.keep_alive() {
            let _ = stream.set_keep_alive(Some(interval));
        }
        if self.hops.get().is_some() {
            let _ = stream.set_hop_limit(self.hops.get());
        }
    }

    /// What was chosen before there was a port.
    pub(super) fn apply_to_datagrams(&self, socket: Option<&UdpSocket>) {
        if let (Some(socket), Some(hops)) = (socket, self.hops.get()) {
            let _ = socket.set_hop_limit(Some(hops));
        }
    }
}

/// Hops that packets pass unless it is said otherwise.
const USUAL_HOPS: i32 = 64;

impl Socket {
    /// Sets an option.
    ///
    /// # Errors
    /// `EINVAL` for a value that it cannot have, `ENOPROTOOPT` for an option that cannot be set.
    pub fn set_option(&self, name: Name, value: Value) -> Result<()> {
        let options = &self.options;
        match (name, value) {
            (Name::ReceiveLimit, Value::Time(limit)) => options.receive_limit.set(limit),
            (Name::SendLimit, Value::Time(limit)) => options.send_limit.set(limit),
            (Name::Linger, Value::Time(linger)) => options.linger.set(linger),
            (Name::ReuseAddress, Value::Number(number)) => options.reuse.set(number != 0),
            (Name::Broadcast, Value::Number(number)) => options.broadcast.set(number != 0),
            (Name::SendBuffer, Value::Number(bytes)) => options.send_buffer_bytes.set(bytes),
            (Name::ReceiveBuffer, Value::Number(bytes)) => options.receive_buffer_bytes.set(bytes),
            (Name::NoDelay, Value::Number(number)) => {
                options.nodelay.set(number != 0);
                self.with_stream(|stream| stream.set_nodelay(number != 0));
            }
            (Name::KeepAlive, Value::Number(number)) => {
                options.keep_alive.set(number != 0);
                self.with_stream(|stream| stream.set_keep_alive(options.keep_alive()));
            }
            (Name::KeepAliveTime, Value::Number(seconds)) => {
                if !(1..=32767).contains(&seconds) {
                    return Err(EINVAL);
                }
                options.keep_alive_s.set(seconds);
                if options.keep_alive.get() {
                    self.with_stream(|stream| stream.set_keep_alive(options.keep_alive()));
                }
            }
            (Name::HopLimit, Value::Number(hops)) => {
                // -1 is what the system would take.
                let hops = match hops {
                    -1 => None,
                    hops => Some(u8::try_from(hops).ok().and_then(NonZeroU8::new).ok_or(EINVAL)?),
                };
                options.hops.set(hops);
                self.with_stream(|stream| stream.set_hop_limit(hops));
                if let State::Datagrams(datagrams) = &*self.state.borrow()
                    && let Some(network) = datagrams.network()
                {
                    let _ = network.set_hop_limit(hops);
                }
            }
            (Name::Error | Name::Listens, _) => return Err(ENOPROTOOPT),
            _ => return Err(EINVAL),
        }
        Ok(())
    }

    /// The value of an option.
    pub fn option(&self, name: Name) -> Value {
        let options = &self.options;
        Value::Number(match name {
            Name::ReceiveLimit => return Value::Time(options.receive_limit.get()),
            Name::SendLimit => return Value::Time(options.send_limit.get()),
            Name::Linger => return Value::Time(options.linger.get()),
            Name::ReuseAddress => options.reuse.get().into(),
            Name::Broadcast => options.broadcast.get().into(),
            Name::SendBuffer => options.send_buffer_bytes.get(),
            Name::ReceiveBuffer => options.receive_buffer_bytes.get(),
            Name::NoDelay => options.nodelay.get().into(),
            Name::KeepAlive => options.keep_alive.get().into(),
            Name::KeepAliveTime => options.keep_alive_s.get(),
            Name::HopLimit => options.hops.get().map_or(USUAL_HOPS, |hops| hops.get().into()),
            Name::Error => self.take_error(),
            Name::Listens => matches!(&*self.state.borrow(), State::Listening(_)).into(),
        })
    }

    fn with_stream(&self, f: impl FnOnce(&super::Stream)) {
        if self.kind == Kind::Stream
            && let State::Connected(stream) = &*self.state.borrow()
        {
            f(stream);
        }
    }
}
