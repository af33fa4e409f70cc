//! UDP sockets.

use core::fmt;
use core::future::poll_fn;
use core::net::SocketAddrV4;

use netstack::{UdpId, UdpQueue};

use super::{Error, own_endpoint, poll_operation, with_net, with_started};
use crate::executor;

/// What a socket queues by default, in each direction.
const DEFAULT_QUEUE: UdpQueue = UdpQueue { datagrams: 16, bytes: 16 * 1024 };

/// A UDP socket. Datagrams that find its queue full are lost, as UDP has it.
pub struct UdpSocket {
    pub(super) id: UdpId,
}

impl UdpSocket {
    /// Opens a socket on `port`, or on a free one when it is 0.
    ///
    /// # Errors
    /// [`Error::PortInUse`], [`Error::NoFreePort`], or [`Error::Unaddressable`] when the network cannot start.
    pub fn bind(port: u16) -> Result<Self, Error> {
        with_net(|net| net.stack.bind(port, DEFAULT_QUEUE)).map(|id| Self { id })
    }

    /// Waits for a datagram: how many of its bytes were stored, and who sent it. What does not fit is cut off.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the network is gone.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddrV4), Error> {
        let room = buffer.len();
        let datagram = poll_fn(|context| {
            poll_operation(
                context,
                |net| net.stack.recv_from(self.id, buffer),
                |waiters, wake| waiters.read_datagram(self.id, wake),
            )
        })
        .await?;
        executor::charge(datagram.len_bytes as u32);
        Ok((datagram.len_bytes.min(room), datagram.remote))
    }

    /// Sends a datagram once there is room for it in the queue.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Unaddressable`], [`Error::InvalidPort`].
    pub async fn send_to(&self, data: &[u8], remote: SocketAddrV4) -> Result<(), Error> {
        poll_fn(|context| {
            poll_operation(
                context,
                |net| net.stack.send_to(self.id, data, remote),
                |waiters, wake| waiters.write_datagram(self.id, wake),
            )
        })
        .await?;
        executor::charge(data.len() as u32);
        Ok(())
    }

    /// The address that it receives on.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the network is gone.
    pub fn local_addr(&self) -> Result<SocketAddrV4, Error> {
        with_started(|net| net.stack.udp_port(self.id)).map(own_endpoint)
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        // It is stale only when the network went first.
        let _ = with_started(|net| net.stack.unbind(self.id));
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").field("local", &self.local_addr().ok()).finish()
    }
}
