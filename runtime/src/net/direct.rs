//! What descriptors need of sockets: attempts that never wait, and who is to be told when one may succeed.

use alloc::rc::Rc;
use core::net::SocketAddrV4;
use core::num::NonZeroU8;

use netstack::{Readiness, UdpQueue};

use super::{Error, TcpListener, TcpStream, UdpSocket, with_net, with_started};
use crate::executor;
use crate::sys::signal::Signal;

/// What a socket that is used by descriptor queues, in each direction.
const DATAGRAMS: UdpQueue = UdpQueue { datagrams: 64, bytes: 32 * 1024 };

impl TcpListener {
    /// Has a signal notified whenever there is a connection to accept.
    pub(crate) fn watch(&self, signal: Rc<Signal>) {
        // It is stale only when the network went first, and then nothing happens any more; so below.
        let _ = with_started(|net| {
            net.waiters.watch_listener(self.id, signal);
            Ok(())
        });
    }

    /// Takes a connection that waits.
    pub(crate) fn try_accept(&self) -> Result<TcpStream, Error> {
        with_started(|net| net.stack.accept(self.id).map(|id| TcpStream { id }).ok_or(Error::WouldBlock))
    }

    /// Whether one waits.
    pub(crate) fn is_acceptable(&self) -> bool {
        with_started(|net| Ok(net.stack.accept_queue(self.id) > 0)).unwrap_or(false)
    }
}

impl TcpStream {
    /// Begins to open a connection, from a port of one's own choice if there is one.
    pub(crate) fn start(port: Option<u16>, remote: SocketAddrV4) -> Result<Self, Error> {
        with_net(|net| net.stack.connect_from(port, remote)).map(|id| Self { id })
    }

    /// Has a signal notified of everything that happens to the connection.
    pub(crate) fn watch(&self, signal: Rc<Signal>) {
        let _ = with_started(|net| {
            net.waiters.watch_connection(self.id, signal);
            Ok(())
        });
    }

    /// How the opening of the connection went; [`Error::WouldBlock`] while it is not known.
    pub(crate) fn opened(&self) -> Result<(), Error> {
        with_started(|net| {
            if net.stack.may_send(self.id) {
                return Ok(());
            }
            Err(net.stack.end(self.id).unwrap_or(Error::WouldBlock))
        })
    }

    /// What an attempt may succeed at. What it may not succeed at is told to the signal later.
    pub(crate) fn readiness(&self) -> Readiness {
        let looked = with_started(|net| {
            let readiness = net.stack.readiness(self.id);
            if !readiness.contains(Readiness::WRITABLE) {
                net.stack.await_room(self.id)?;
            }
            Ok(readiness)
        });
        looked.unwrap_or(Readiness::all())
    }

    /// Whether the peer's stream has arrived to its end, read or not.
    pub(crate) fn has_peer_finished(&self) -> bool {
        with_started(|net| Ok(net.stack.peer_has_finished(self.id))).unwrap_or(true)
    }

    /// Resets the connection; what is queued is lost.
    pub(crate) fn reset(&self) {
        // It is stale only when the network went first.
        let _ = with_started(|net| net.stack.abort(self.id));
    }

    /// How the connection has ended, if it has.
    pub(crate) fn end(&self) -> Option<Error> {
        with_started(|net| Ok(net.stack.end(self.id))).unwrap_or(Some(Error::NotConnected))
    }

    /// Reads what is there: how many bytes, 0 at the end of the peer's stream.
    ///
    /// # Safety
    /// `bytes` bytes can be written at `place`.
    pub(crate) unsafe fn try_read(&self, place: *mut u8, bytes: usize) -> Result<usize, Error> {
        let read = with_started(|net| {
            let mut read = 0;
            // What has arrived lies in a ring: in two pieces at most.
            while read < bytes {
                let piece = net.stack.recv_with(self.id, |data| {
                    let piece = data.len().min(bytes - read);
                    // SAFETY: the caller's; `piece` is no more than what is left of the place.
                    unsafe { place.add(read).copy_from_nonoverlapping(data.as_ptr(), piece) };
                    (piece, piece)
                });
                match piece {
                    Ok(piece) => read += piece,
                    Err(_) if read > 0 => break,
                    Err(Error::Finished) => return Ok(0),
                    Err(error) => return Err(error),
                }
            }
            Ok(read)
        })?;
        executor::charge(read as u32);
        Ok(read)
    }

    /// Copies what is there, and leaves it there; what lies beyond the end of a ring is not seen.
    pub(crate) fn try_peek(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        let seen = with_started(|net| {
            net.stack.recv_with(self.id, |data| {
                let seen = data.len().min(buffer.len());
                buffer[..seen].copy_from_slice(&data[..seen]);
                (0, seen)
            })
        });
        match seen {
            Err(Error::Finished) => Ok(0),
            other => other,
        }
    }

    /// Writes what there is room for: how many bytes.
    pub(crate) fn try_write(&self, data: &[u8]) -> Result<usize, Error> {
        let written = with_started(|net| net.stack.send(self.id, data))?;
        executor::charge(written as u32);
        Ok(written)
    }

    /// How many routers packets may pass.
    pub(crate) fn set_hop_limit(&self, hops: Option<NonZeroU8>) -> Result<(), Error> {
        with_started(|net| net.stack.set_hop_limit(self.id, hops))
    }
}

impl UdpSocket {
    /// As [`UdpSocket::bind`], with larger queues, and a signal that is notified of everything that happens.
    pub(crate) fn bind_watched(port: u16, signal: Rc<Signal>) -> Result<Self, Error> {
        with_net(|net| {
            let id = net.stack.bind(port, DATAGRAMS)?;
            net.waiters.watch_datagrams(id, signal);
            Ok(Self { id })
        })
    }

    /// Takes the oldest datagram: how long it is, and who sent it. What does not fit is cut off.
    pub(crate) fn try_receive(&self, buffer: &mut [u8], keep: bool) -> Result<(usize, SocketAddrV4), Error> {
        let datagram = with_started(|net| {
            if keep { net.stack.peek_from(self.id, buffer) } else { net.stack.recv_from(self.id, buffer) }
        })?;
        executor::charge(datagram.len_bytes as u32);
        Ok((datagram.len_bytes, datagram.remote))
    }

    /// Queues a datagram.
    pub(crate) fn try_send(&self, data: &[u8], remote: SocketAddrV4) -> Result<(), Error> {
        with_started(|net| net.stack.send_to(self.id, data, remote))?;
        executor::charge(data.len() as u32);
        Ok(())
    }

    /// What an attempt may succeed at.
    pub(crate) fn readiness(&self) -> Readiness {
        with_started(|net| net.stack.udp_readiness(self.id)).unwrap_or(Readiness::all())
    }

    /// How many routers datagrams may pass.
    pub(crate) fn set_hop_limit(&self, hops: Option<NonZeroU8>) -> Result<(), Error> {
        with_started(|net| net.stack.set_udp_hop_limit(self.id, hops))
    }
}
