//! Opening connections.

use alloc::rc::Rc;
use core::net::{Ipv4Addr, SocketAddrV4};

use hermit_abi::{
    EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EALREADY, ECONNREFUSED, EINPROGRESS, EISCONN, ENETUNREACH, POLLOUT,
};

use super::stream::Stream;
use super::{Family, Kind, Mode, Open, Reservation, Result, Socket, State, errno, is_ours, ports};
use crate::net::{Error, TcpStream};

impl Socket {
    /// Connects to an address. A socket that is not to wait connects while it goes on: `EINPROGRESS`. For datagrams: has all
    /// go there, and takes only what comes from there; `None` undoes that.
    ///
    /// # Errors
    /// `EISCONN`, `EALREADY`, or why there is no connection: `ECONNREFUSED`, `ETIMEDOUT`, `ENETUNREACH` and so on.
    pub fn connect(self: &Rc<Self>, remote: Option<SocketAddrV4>) -> Result<()> {
        if self.family != Family::Internet {
            return Err(EAFNOSUPPORT);
        }
        let remote = remote.map(|remote| match remote.ip().is_unspecified() {
            true => SocketAddrV4::new(Ipv4Addr::LOCALHOST, remote.port()),
            false => remote,
        });
        if self.kind == Kind::Datagram {
            self.datagrams()?.set_peer(remote);
            return Ok(());
        }
        let remote = remote.ok_or(EAFNOSUPPORT)?;
        let connecting = matches!(&*self.state.borrow(), State::Connecting(_));
        if connecting {
            return self.connect_again();
        }
        if !matches!(&*self.state.borrow(), State::Fresh) {
            return Err(EISCONN);
        }
        self.error.set(0);
        if is_ours(*remote.ip()) {
            return self.connect_within(remote);
        }
        let bound = self.bound.borrow().as_ref().map(Reservation::address);
        if bound.is_some_and(|bound| bound.ip().is_loopback()) {
            return Err(ENETUNREACH);
        }
        let stream = TcpStream::start(bound.map(|bound| bound.port()), remote).map_err(errno)?;
        stream.watch(Rc::clone(&self.signal));
        self.options.apply_to_network(&stream);
        self.set_state(State::Connecting(stream));
        self.await_connection()
    }

    /// A call of `connect` while one is under way.
    fn connect_again(&self) -> Result<()> {
        match self.settle() {
            Err(EAGAIN) if self.status.is_nonblocking() => Err(EALREADY),
            Err(EAGAIN) => self.await_connection(),
            other => other,
        }
    }

    fn await_connection(&self) -> Result<()> {
        if self.status().is_nonblocking() {
            return Err(EINPROGRESS);
        }
        match self.attempt(POLLOUT, self.options.send_limit.get(), Mode::default(), || self.settle()) {
            Err(EAGAIN) => Err(EINPROGRESS),
            Err(errno) => {
                // It is told here.
                self.error.set(0);
                Err(errno)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Connects to a socket of this machine.
    fn connect_within(&self, remote: SocketAddrV4) -> Result<()> {
        let listener = ports::find(Kind::Stream, remote).ok_or(ECONNREFUSED)?;
        let own = match self.bound.borrow().as_ref().map(Reservation::address) {
            None => SocketAddrV4::new(*remote.ip(), ports::passing()),
            Some(bound) if bound.ip().is_unspecified() => SocketAddrV4::new(*remote.ip(), bound.port()),
            Some(bound) => bound,
        };
        if own == remote {
            return Err(EADDRNOTAVAIL);
        }
        let end = listener.take_connection(&self.signal, remote, own)?;
        self.set_state(State::Connected(Rc::new(Stream::local(end, Some((own, remote))))));
        self.signal.notify(POLLOUT);
        Ok(())
    }

    /// Looks what has become of a connection that is being opened: `EAGAIN` while it is not known. What went wrong is kept
    /// for `SO_ERROR`, too.
    pub(super) fn settle(&self) -> Result<()> {
        let opened = match &*self.state.borrow() {
            State::Connecting(stream) => stream.opened(),
            _ => return Ok(()),
        };
        match opened {
            Err(Error::WouldBlock) => Err(EAGAIN),
            Err(error) => {
                // One that nobody answers as one that nobody takes: the connection is none.
                let errno = errno(if error == Error::Reset { Error::Refused } else { error });
                self.set_state(State::Fresh);
                self.error.set(errno);
                Err(errno)
            }
            Ok(()) => {
                let connecting = self.state.replace(State::Fresh);
                if let State::Connecting(stream) = connecting {
                    self.set_state(State::Connected(Rc::new(Stream::network(stream))));
                }
                Ok(())
            }
        }
    }
}
