//! TCP listeners and streams.

use core::fmt;
use core::future::poll_fn;
use core::net::SocketAddrV4;
use core::task::{Context, Poll};

use netstack::{ConnId, ListenerId};

use super::{Error, own_endpoint, poll_operation, with_net, with_started};
use crate::executor;
use crate::time::Duration;

/// Handshakes and unaccepted connections that a listener holds by default.
const DEFAULT_BACKLOG: usize = 128;

/// Accepts connections to a port.
pub struct TcpListener {
    pub(super) id: ListenerId,
    port: u16,
}

impl TcpListener {
    /// Listens on `port` of the machine's address.
    ///
    /// # Errors
    /// [`Error::PortInUse`], [`Error::InvalidPort`], or [`Error::Unaddressable`] when the network cannot start.
    pub fn bind(port: u16) -> Result<Self, Error> {
        Self::bind_with_backlog(port, DEFAULT_BACKLOG)
    }

    /// Listens with room for `backlog` connections that are not accepted yet. Further SYNs are dropped, and their
    /// senders try again.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_with_backlog(port: u16, backlog: usize) -> Result<Self, Error> {
        with_net(|net| net.stack.listen(port, backlog)).map(|id| Self { id, port })
    }

    /// Waits for the next connection. One task at a time may wait.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the network is gone.
    pub async fn accept(&self) -> Result<TcpStream, Error> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// [`accept`](Self::accept) for hand-written futures.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Result<TcpStream, Error>> {
        poll_operation(
            context,
            |net| net.stack.accept(self.id).map(|id| TcpStream { id }).ok_or(Error::WouldBlock),
            |waiters, wake| waiters.accept(self.id, wake),
        )
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddrV4 {
        own_endpoint(self.port)
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        // It is stale only when the network went first.
        let _ = with_started(|net| net.stack.unlisten(self.id));
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("port", &self.port).finish()
    }
}

/// A TCP connection. Dropping it closes it in good order: what was written is still sent.
///
/// All operations take `&self`, so one task may read while another writes; two readers, or two writers, at a time
/// would take each other's wake-ups.
pub struct TcpStream {
    pub(super) id: ConnId,
}

impl TcpStream {
    /// Opens a connection.
    ///
    /// # Errors
    /// Why it could not be opened: among others [`Error::Refused`], [`Error::TimedOut`], [`Error::LimitReached`].
    pub async fn connect(remote: SocketAddrV4) -> Result<Self, Error> {
        let stream = with_net(|net| net.stack.connect(remote)).map(|id| Self { id })?;
        poll_fn(|context| {
            poll_operation(
                context,
                |net| {
                    if net.stack.may_send(stream.id) {
                        return Ok(());
                    }
                    Err(net.stack.end(stream.id).unwrap_or(Error::WouldBlock))
                },
                |waiters, wake| waiters.write(stream.id, wake),
            )
        })
        .await?;
        Ok(stream)
    }

    /// Reads into `buffer`: how many bytes, 0 at the end of the peer's stream.
    ///
    /// # Errors
    /// How the connection ended, once everything was read.
    pub async fn read(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    /// [`read`](Self::read) for hand-written futures.
    #[inline]
    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Error>> {
        let polled =
            poll_operation(context, |net| net.stack.recv(self.id, buffer), |waiters, wake| waiters.read(self.id, wake));
        if let Poll::Ready(Ok(bytes)) = polled {
            executor::charge(bytes as u32);
        }
        polled
    }

    /// Shows `read` received data in place; it returns how much it consumed. `None` is the end of the peer's stream.
    /// The buffer is a ring, so one call may show less than has arrived.
    ///
    /// `read` must not use this network itself.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_with<R>(&self, mut read: impl FnMut(&[u8]) -> (usize, R)) -> Result<Option<R>, Error> {
        poll_fn(|context| self.poll_read_with(context, &mut read)).await
    }

    /// [`read_with`](Self::read_with) for hand-written futures.
    #[inline]
    pub fn poll_read_with<R>(
        &self,
        context: &mut Context<'_>,
        read: impl FnOnce(&[u8]) -> (usize, R),
    ) -> Poll<Result<Option<R>, Error>> {
        let shown = |data: &[u8]| {
            let (consumed, result) = read(data);
            executor::charge(consumed as u32);
            (consumed, Some(result))
        };
        poll_operation(
            context,
            |net| match net.stack.recv_with(self.id, shown) {
                Err(Error::Finished) => Ok(None),
                other => other,
            },
            |waiters, wake| waiters.read(self.id, wake),
        )
    }

    /// Writes as much of `data` as there is room for: how many bytes. They leave at the end of the epoch.
    ///
    /// # Errors
    /// [`Error::Shutdown`] after [`shutdown`](Self::shutdown), or how the connection ended.
    pub async fn write(&self, data: &[u8]) -> Result<usize, Error> {
        poll_fn(|context| self.poll_write(context, data)).await
    }

    /// [`write`](Self::write) for hand-written futures.
    #[inline]
    pub fn poll_write(&self, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Error>> {
        let polled =
            poll_operation(context, |net| net.stack.send(self.id, data), |waiters, wake| waiters.write(self.id, wake));
        if let Poll::Ready(Ok(bytes)) = polled {
            executor::charge(bytes as u32);
        }
        polled
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// As [`write`](Self::write); how much was written before is unknown.
    pub async fn write_all(&self, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            let written = self.write(data).await?;
            data = data.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Shows `write` free room of the send buffer in place; it returns how much it filled, from the start.
    ///
    /// `write` must not use this network itself.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_with<R>(&self, mut write: impl FnMut(&mut [u8]) -> (usize, R)) -> Result<R, Error> {
        poll_fn(|context| {
            poll_operation(
                context,
                |net| {
                    net.stack.send_with(self.id, |room| {
                        let (filled, result) = write(room);
                        executor::charge(filled as u32);
                        (filled, result)
                    })
                },
                |waiters, wake| waiters.write(self.id, wake),
            )
        })
        .await
    }

    /// Says that nothing more will be written; reading goes on.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the connection is gone.
    pub fn shutdown(&self) -> Result<(), Error> {
        with_started(|net| net.stack.shutdown(self.id))
    }

    /// Resets the connection; what is queued is lost.
    pub fn abort(self) {
        // It is stale only when the network went first.
        let _ = with_started(|net| net.stack.abort(self.id));
    }

    /// Whether small writes leave at once (the default) or wait for acknowledgements.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the connection is gone.
    pub fn set_nodelay(&self, nodelay: bool) -> Result<(), Error> {
        with_started(|net| net.stack.set_nodelay(self.id, nodelay))
    }

    /// Changes the interval of keep-alive probes; `None` switches them off.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the connection is gone.
    pub fn set_keep_alive(&self, interval: Option<Duration>) -> Result<(), Error> {
        let interval_ms = interval.map(|interval| u64::try_from(interval.as_millis()).unwrap_or(u64::MAX));
        with_started(|net| net.stack.set_keep_alive(self.id, interval_ms))
    }

    /// The other end.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the connection is gone.
    pub fn peer_addr(&self) -> Result<SocketAddrV4, Error> {
        with_started(|net| net.stack.remote(self.id))
    }

    /// This end.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the connection is gone.
    pub fn local_addr(&self) -> Result<SocketAddrV4, Error> {
        with_started(|net| net.stack.local(self.id))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        // It is stale after `abort`, or when the network went first.
        let _ = with_started(|net| net.stack.close(self.id));
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream").field("peer", &self.peer_addr().ok()).finish()
    }
}
