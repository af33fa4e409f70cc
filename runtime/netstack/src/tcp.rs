//! Operations on TCP connections.

use core::net::SocketAddrV4;

use smoltcp::socket::tcp::State;

use crate::conn::{Conn, Stage, UNSET_US, ms_to_us};
use crate::error::Error;
use crate::event::Readiness;
use crate::frame::{FlowKey, is_host};
use crate::id::ConnId;
use crate::slot::Body;
use crate::stack::Stack;

/// First ephemeral port; the range goes to 65535.
const FIRST_EPHEMERAL: u16 = 32_768;
const EPHEMERAL_PORTS: u16 = u16::MAX - FIRST_EPHEMERAL + 1;

impl Stack {
    /// Starts a connection to `remote` from an ephemeral port. `CONNECTED` or `CLOSED` tells how it went; the error
    /// of a read then says why.
    ///
    /// # Errors
    /// [`Error::Unaddressable`], [`Error::InvalidPort`], [`Error::LimitReached`] or [`Error::NoFreePort`].
    pub fn connect(&mut self, remote: SocketAddrV4) -> Result<ConnId, Error> {
        self.connect_from(None, remote)
    }

    /// As [`connect`](Self::connect), from a port of one's own choice.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and [`Error::PortInUse`] when there is a connection between the two already.
    pub fn connect_from(&mut self, port: Option<u16>, remote: SocketAddrV4) -> Result<ConnId, Error> {
        if remote.port() == 0 {
            return Err(Error::InvalidPort);
        }
        let own = self.address().ok_or(Error::Unaddressable)?;
        let to_all = own.broadcast() == Some(*remote.ip());
        if !is_host((*remote.ip()).into()) || to_all || own.address() == *remote.ip() {
            return Err(Error::Unaddressable);
        }
        if !self.make_room() {
            return Err(Error::LimitReached);
        }
        let key = match port {
            None => self.free_flow(remote, own.address())?,
            Some(port) => {
                let key = FlowKey::new(remote, SocketAddrV4::new(own.address(), port));
                if self.flows.contains_key(&key) {
                    return Err(Error::PortInUse);
                }
                key
            }
        };
        let mut conn = self.make_conn(key, Stage::Owned);
        conn.want_write = true;
        let local = key.local();
        conn.socket_mut()
            .connect(self.iface.context(), (*remote.ip(), remote.port()), (*local.ip(), local.port()))
            .map_err(|_| Error::Unaddressable)?;
        conn.seen = State::SynSent;
        let index = self.install(conn);
        self.touch(index, true);
        Ok(ConnId { index, generation: self.slots.generation(index) })
    }

    fn free_flow(&mut self, remote: SocketAddrV4, own: core::net::Ipv4Addr) -> Result<FlowKey, Error> {
        for _ in 0..EPHEMERAL_PORTS {
            self.next_port = self.next_port.wrapping_add(1) | FIRST_EPHEMERAL;
            let key = FlowKey::new(remote, SocketAddrV4::new(own, self.next_port));
            if !self.flows.contains_key(&key) && !self.listening.contains_key(&self.next_port) {
                return Ok(key);
            }
        }
        Err(Error::NoFreePort)
    }

    /// Copies received data into `buffer` and returns how much, 0 at the end of the peer's stream.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when nothing arrived yet; how the connection ended, once everything was read.
    pub fn recv(&mut self, id: ConnId, buffer: &mut [u8]) -> Result<usize, Error> {
        let read = self.recv_conn(id, |conn| conn.socket_mut().recv_slice(buffer).map_err(|_| Error::WouldBlock));
        match read {
            Err(Error::Finished) => Ok(0),
            other => other,
        }
    }

    /// Shows `read` the oldest received data in one piece, without copying; it returns how many bytes it consumed.
    /// The buffer is a ring: the rest may follow in a second call.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), but the end of the peer's stream is [`Error::Finished`].
    pub fn recv_with<R>(&mut self, id: ConnId, read: impl FnOnce(&[u8]) -> (usize, R)) -> Result<R, Error> {
        self.recv_conn(id, |conn| {
            conn.socket_mut()
                .recv(|data| {
                    let (consumed, result) = read(data);
                    (consumed.min(data.len()), result)
                })
                .map_err(|_| Error::WouldBlock)
        })
    }

    #[inline]
    fn recv_conn<R>(&mut self, id: ConnId, read: impl FnOnce(&mut Conn) -> Result<R, Error>) -> Result<R, Error> {
        let conn = self.owned_mut(id)?;
        if !conn.socket().can_recv() {
            return Err(conn.read_error());
        }
        let result = read(conn)?;
        // The window may have opened enough to tell the peer.
        self.touch(id.index, false);
        Ok(result)
    }

    /// Queues as much of `data` as there is room for and returns how much. It leaves at the next
    /// [`poll`](Self::poll). After a short count, or [`Error::WouldBlock`], an event tells when there is room.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when there is no room or the handshake is under way, [`Error::Shutdown`] after
    /// [`shutdown`](Self::shutdown), or how the connection ended.
    pub fn send(&mut self, id: ConnId, data: &[u8]) -> Result<usize, Error> {
        let sent = self.send_conn(id, |conn| {
            let sent = enqueue(conn, data);
            conn.want_write |= sent < data.len();
            (sent > 0).then_some(sent)
        });
        match sent {
            Err(Error::WouldBlock) if data.is_empty() => Ok(0),
            other => other,
        }
    }

    /// Shows `write` the free room in one piece, without copying; it returns how many bytes it filled, from the
    /// start. The buffer is a ring: more room may follow in a second call.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with<R>(&mut self, id: ConnId, write: impl FnOnce(&mut [u8]) -> (usize, R)) -> Result<R, Error> {
        self.send_conn(id, |conn| {
            if conn.send_room() == 0 {
                return None;
            }
            conn.socket_mut()
                .send(|room| {
                    let most = room.len();
                    let (filled, result) = write(room);
                    (filled.min(most), result)
                })
                .ok()
        })
    }

    #[inline]
    fn send_conn<R>(&mut self, id: ConnId, write: impl FnOnce(&mut Conn) -> Option<R>) -> Result<R, Error> {
        let conn = self.owned_mut(id)?;
        if let Some(error) = conn.write_error() {
            conn.want_write |= error == Error::WouldBlock;
            return Err(error);
        }
        let Some(result) = write(conn) else {
            conn.want_write = true;
            return Err(Error::WouldBlock);
        };
        self.touch(id.index, true);
        Ok(result)
    }

    /// Received bytes not yet read.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn recv_queue(&self, id: ConnId) -> Result<usize, Error> {
        self.owned(id).map(|conn| conn.socket().recv_queue())
    }

    /// Bytes sent that the peer has not acknowledged, including those not yet on their way.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn send_queue(&self, id: ConnId) -> Result<usize, Error> {
        self.owned(id).map(|conn| conn.socket().send_queue())
    }

    /// Bytes that [`send`](Self::send) would take now.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn send_capacity(&self, id: ConnId) -> Result<usize, Error> {
        self.owned(id).map(|conn| if conn.write_error().is_none() { conn.send_room() } else { 0 })
    }

    /// Whether [`send`](Self::send) can succeed, given room.
    #[must_use]
    pub fn may_send(&self, id: ConnId) -> bool {
        self.owned(id).is_ok_and(|conn| conn.write_error().is_none())
    }

    /// Whether data can still be read or arrive.
    #[must_use]
    pub fn may_recv(&self, id: ConnId) -> bool {
        self.owned(id).is_ok_and(|conn| conn.socket().can_recv() || conn.read_error() == Error::WouldBlock)
    }

    /// Whether the id is good and the connection has not ended, in whatever phase it is.
    #[must_use]
    pub fn is_open(&self, id: ConnId) -> bool {
        self.owned(id).is_ok_and(|conn| conn.fate.is_none() && conn.socket().is_open())
    }

    /// How the connection ended, if it has.
    #[must_use]
    pub fn end(&self, id: ConnId) -> Option<Error> {
        self.owned(id).map_or(Some(Error::NotConnected), |conn| conn.fate.map(|fate| fate.error()))
    }

    /// What a waiter may expect now, for code that starts to wait after the edge.
    #[must_use]
    pub fn readiness(&self, id: ConnId) -> Readiness {
        let Ok(conn) = self.owned(id) else {
            return Readiness::CLOSED | Readiness::READABLE | Readiness::WRITABLE;
        };
        let (read, write) = (conn.read_error(), conn.write_error());
        let mut readiness = Readiness::empty();
        readiness.set(Readiness::READABLE, conn.socket().can_recv() || read != Error::WouldBlock);
        readiness.set(Readiness::WRITABLE, write.map_or(conn.send_room() > 0, |error| error != Error::WouldBlock));
        readiness.set(Readiness::CONNECTED, write != Some(Error::WouldBlock));
        readiness.set(Readiness::CLOSED, conn.fate.is_some());
        readiness
    }

    /// Whether the peer's stream has arrived to its end, read or not.
    #[must_use]
    pub fn peer_has_finished(&self, id: ConnId) -> bool {
        self.owned(id).is_ok_and(|conn| conn.peer_finished)
    }

    /// Has an event follow when there is room to send, as a send that finds none does.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn await_room(&mut self, id: ConnId) -> Result<(), Error> {
        self.owned_mut(id).map(|conn| conn.want_write = true)
    }

    /// The peer's address.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn remote(&self, id: ConnId) -> Result<SocketAddrV4, Error> {
        self.owned(id).map(|conn| conn.key.remote())
    }

    /// Our own address of this connection.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn local(&self, id: ConnId) -> Result<SocketAddrV4, Error> {
        self.owned(id).map(|conn| conn.key.local())
    }

    /// Sends what is queued and then the end of our stream (FIN). The peer may go on sending.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn shutdown(&mut self, id: ConnId) -> Result<(), Error> {
        let conn = self.owned_mut(id)?;
        if !conn.dead {
            conn.finish();
            self.touch(id.index, true);
        }
        Ok(())
    }

    /// Gives the id up. What is queued is still sent, then the end of the stream, for at most
    /// [`close_timeout_ms`](crate::Config::close_timeout_ms); when received data was not read, the peer gets a reset
    /// instead, so that it knows (RFC 2525, 2.17).
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn close(&mut self, id: ConnId) -> Result<(), Error> {
        let unread = self.owned(id)?.socket().can_recv();
        self.detach(id, unread)
    }

    /// Gives the id up and resets the connection: what is queued is lost.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn abort(&mut self, id: ConnId) -> Result<(), Error> {
        self.detach(id, true)
    }

    fn detach(&mut self, id: ConnId, reset: bool) -> Result<(), Error> {
        let conn = self.owned_mut(id)?;
        conn.stage = Stage::Detached;
        if conn.dead {
            self.free(id.index);
            return Ok(());
        }
        // In TIME-WAIT both sides have finished: there is nothing left to reset.
        if conn.seen != State::TimeWait {
            if reset {
                conn.socket_mut().abort();
                conn.seen = State::Closed;
            } else {
                conn.finish();
            }
        }
        self.slots.slot(id.index).pending = Readiness::empty();
        self.touch(id.index, true);
        Ok(())
    }

    /// Changes the interval of keep-alive probes, in milliseconds. One probe leaves at once when they are switched on.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn set_keep_alive(&mut self, id: ConnId, interval_ms: Option<u64>) -> Result<(), Error> {
        let conn = self.owned_mut(id)?;
        conn.keep_alive_us = interval_ms.map(ms_to_us);
        // Silence before probes began does not count against the peer.
        conn.last_rx_us = UNSET_US;
        conn.apply_keep_alive();
        self.touch(id.index, true);
        Ok(())
    }

    /// Whether small segments leave at once (`true`) or wait for acknowledgements (Nagle, `false`).
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn set_nodelay(&mut self, id: ConnId, nodelay: bool) -> Result<(), Error> {
        self.owned_mut(id)?.socket_mut().set_nagle_enabled(!nodelay);
        self.touch(id.index, true);
        Ok(())
    }

    /// How many routers packets may pass, at least one; `None` for the usual 64.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn set_hop_limit(&mut self, id: ConnId, hops: Option<core::num::NonZeroU8>) -> Result<(), Error> {
        self.owned_mut(id)?.socket_mut().set_hop_limit(hops.map(core::num::NonZeroU8::get));
        Ok(())
    }

    fn owned(&self, id: ConnId) -> Result<&Conn, Error> {
        match self.slots.conn_if_current(id.index, id.generation) {
            Some(conn) if conn.stage == Stage::Owned => Ok(conn),
            _ => Err(Error::NotConnected),
        }
    }

    #[inline]
    fn owned_mut(&mut self, id: ConnId) -> Result<&mut Conn, Error> {
        match self.slots.current_mut(id.index, id.generation).map(|slot| &mut slot.body) {
            Some(Body::Tcp(conn)) if conn.stage == Stage::Owned => Ok(conn),
            _ => Err(Error::NotConnected),
        }
    }
}

/// Copies `data` into the send buffer, at most to its end and then from its start, and returns how much.
#[inline]
fn enqueue(conn: &mut Conn, data: &[u8]) -> usize {
    let mut sent = 0;
    while sent < data.len() {
        let part = conn.socket_mut().send(|room| {
            let part = room.len().min(data.len() - sent);
            room[..part].copy_from_slice(&data[sent..][..part]);
            (part, part)
        });
        match part {
            Ok(0) | Err(_) => break,
            Ok(part) => sent += part,
        }
    }
    sent
}
