//! UDP sockets.

use alloc::vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::PacketMeta;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket, UdpMetadata};
use smoltcp::wire::{IpAddress, IpEndpoint};

use crate::device::{FrameSink, Port};
use crate::error::Error;
use crate::event::Readiness;
use crate::frame::is_host;
use crate::id::UdpId;
use crate::slot::Body;
use crate::stack::Stack;

/// IPv4 and UDP headers, in bytes.
const HEADERS_BYTES: usize = 28;
const DHCP_CLIENT_PORT: u16 = 68;
const FIRST_EPHEMERAL: u16 = 32_768;

/// How much a UDP socket may queue, for each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpQueue {
    /// Most datagrams.
    pub datagrams: usize,
    /// Most bytes of payload.
    pub bytes: usize,
}

/// What is known about a received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes of payload; more than the reader's buffer when it was cut off.
    pub len_bytes: usize,
    /// Who sent it.
    pub remote: SocketAddrV4,
    /// The address it was sent to.
    pub local: Ipv4Addr,
}

/// A UDP socket.
pub(crate) struct UdpBody {
    /// Holds exactly the one socket.
    pub(crate) set: SocketSet<'static>,
    port: u16,
    want_write: bool,
}

impl UdpBody {
    fn socket(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(SocketHandle::default())
    }
}

/// What is known about a datagram, out of what smoltcp knows.
fn describe(len_bytes: usize, metadata: &UdpMetadata) -> Datagram {
    let IpAddress::Ipv4(remote) = metadata.endpoint.addr;
    let local = match metadata.local_address {
        Some(IpAddress::Ipv4(local)) => local,
        None => Ipv4Addr::UNSPECIFIED,
    };
    Datagram { len_bytes, remote: SocketAddrV4::new(remote, metadata.endpoint.port), local }
}

impl Stack {
    /// Opens a UDP socket on `port`, or on an ephemeral one when `port` is 0.
    ///
    /// # Errors
    /// [`Error::PortInUse`], also for 68 while DHCP uses it; [`Error::NoFreePort`].
    pub fn bind(&mut self, port: u16, queue: UdpQueue) -> Result<UdpId, Error> {
        let port = if port == 0 { self.free_udp_port()? } else { port };
        if self.udp_ports.contains_key(&port) || (port == DHCP_CLIENT_PORT && self.dhcp.is_some()) {
            return Err(Error::PortInUse);
        }
        let buffer =
            || PacketBuffer::new(vec![PacketMetadata::EMPTY; queue.datagrams.max(1)], vec![0; queue.bytes.max(1)]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.bind(port).map_err(|_| Error::InvalidPort)?;
        let mut set = SocketSet::new(alloc::vec::Vec::with_capacity(1));
        set.add(socket);
        let index = self.slots.insert(Body::Udp(UdpBody { set, port, want_write: false }));
        self.udp_ports.insert(port, index);
        Ok(UdpId { index, generation: self.slots.generation(index) })
    }

    fn free_udp_port(&mut self) -> Result<u16, Error> {
        for _ in FIRST_EPHEMERAL..=u16::MAX {
            self.next_port = self.next_port.wrapping_add(1) | FIRST_EPHEMERAL;
            if !self.udp_ports.contains_key(&self.next_port) {
                return Ok(self.next_port);
            }
        }
        Err(Error::NoFreePort)
    }

    /// Closes the socket; queued datagrams in either direction are lost.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn unbind(&mut self, id: UdpId) -> Result<(), Error> {
        let port = self.udp_mut(id)?.port;
        self.udp_ports.remove(&port);
        let slot = self.slots.slot(id.index);
        self.timers.disarm(&mut slot.registered_us, id.index);
        self.slots.remove(id.index);
        Ok(())
    }

    /// The port that the socket is bound to.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn udp_port(&mut self, id: UdpId) -> Result<u16, Error> {
        self.udp_mut(id).map(|udp| udp.port)
    }

    /// Queues a datagram from our own address.
    ///
    /// # Errors
    /// As [`send_from`](Self::send_from).
    pub fn send_to(&mut self, id: UdpId, data: &[u8], remote: SocketAddrV4) -> Result<(), Error> {
        let own = self.address().ok_or(Error::Unaddressable)?.address();
        self.send_from(id, data, own, remote)
    }

    /// Queues a datagram from the address `local`, which with [`any_ip`](crate::Config::any_ip) may be any, such as
    /// the one that a request was sent to.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the queue is full (an event follows), [`Error::TooLong`] when the datagram can never
    /// leave, [`Error::Unaddressable`] or [`Error::InvalidPort`] for a useless address.
    pub fn send_from(&mut self, id: UdpId, data: &[u8], local: Ipv4Addr, remote: SocketAddrV4) -> Result<(), Error> {
        let most_bytes = self.config.mtu_bytes - HEADERS_BYTES;
        let may_use = self.config.any_ip || self.address().is_some_and(|own| own.address() == local);
        let udp = self.udp_mut(id)?;
        if remote.port() == 0 {
            return Err(Error::InvalidPort);
        }
        if !may_use || !is_host(local.into()) || remote.ip().is_unspecified() {
            return Err(Error::Unaddressable);
        }
        if data.len() > most_bytes.min(udp.socket().payload_send_capacity()) {
            return Err(Error::TooLong);
        }
        let metadata = UdpMetadata {
            endpoint: IpEndpoint::new((*remote.ip()).into(), remote.port()),
            local_address: Some(local.into()),
            meta: PacketMeta::default(),
        };
        if udp.socket().send_slice(data, metadata).is_err() {
            udp.want_write = true;
            return Err(Error::WouldBlock);
        }
        self.touch(id.index, true);
        Ok(())
    }

    /// Copies the oldest received datagram into `buffer`, cut off at its length.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when there is none, [`Error::NotConnected`] when the id is stale.
    pub fn recv_from(&mut self, id: UdpId, buffer: &mut [u8]) -> Result<Datagram, Error> {
        let (data, metadata) = self.udp_mut(id)?.socket().recv().map_err(|_| Error::WouldBlock)?;
        let copied = data.len().min(buffer.len());
        buffer[..copied].copy_from_slice(&data[..copied]);
        Ok(describe(data.len(), &metadata))
    }

    /// As [`recv_from`](Self::recv_from), and leaves the datagram where it is.
    ///
    /// # Errors
    /// As [`recv_from`](Self::recv_from).
    pub fn peek_from(&mut self, id: UdpId, buffer: &mut [u8]) -> Result<Datagram, Error> {
        let (data, metadata) = self.udp_mut(id)?.socket().peek().map_err(|_| Error::WouldBlock)?;
        let copied = data.len().min(buffer.len());
        buffer[..copied].copy_from_slice(&data[..copied]);
        Ok(describe(data.len(), metadata))
    }

    /// What a waiter may expect now.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn udp_readiness(&mut self, id: UdpId) -> Result<Readiness, Error> {
        let udp = self.udp_mut(id)?;
        let mut readiness = Readiness::empty();
        readiness.set(Readiness::READABLE, udp.socket().can_recv());
        readiness.set(Readiness::WRITABLE, udp.socket().can_send());
        udp.want_write |= !udp.socket().can_send();
        Ok(readiness)
    }

    /// How many routers datagrams may pass, at least one; `None` for the usual 64.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn set_udp_hop_limit(&mut self, id: UdpId, hops: Option<core::num::NonZeroU8>) -> Result<(), Error> {
        self.udp_mut(id)?.socket().set_hop_limit(hops.map(core::num::NonZeroU8::get));
        Ok(())
    }

    /// Takes a datagram to `dst_port`.
    pub(crate) fn datagram<S: FrameSink>(&mut self, dst_port: u16, frame: &[u8], sink: &mut S) {
        let index = match self.dhcp {
            Some(index) if dst_port == DHCP_CLIENT_PORT => Some(index),
            _ => self.udp_ports.get(&dst_port).copied(),
        };
        let Some(index) = index else {
            return self.stray(frame, sink);
        };
        let now = self.now();
        let slot = self.slots.slot(index);
        let Some(set) = slot.body.set_mut() else {
            return;
        };
        let mut port = Port::new(Some(frame), sink, &mut self.spill, &self.capabilities);
        self.iface.poll_ingress_single(now, &mut port, set);
        if let Body::Udp(udp) = &mut slot.body {
            if udp.socket().can_recv() {
                self.notify(index, Readiness::READABLE);
            }
        } else {
            self.touch(index, true);
            self.apply_dhcp();
        }
    }

    /// Wakes a writer that found the queue full.
    pub(crate) fn udp_sent(&mut self, index: u32) {
        if let Body::Udp(udp) = &mut self.slots.slot(index).body
            && udp.want_write
            && udp.socket().can_send()
        {
            udp.want_write = false;
            self.notify(index, Readiness::WRITABLE);
        }
    }

    fn udp_mut(&mut self, id: UdpId) -> Result<&mut UdpBody, Error> {
        self.slots.udp_mut(id.index, id.generation).ok_or(Error::NotConnected)
    }
}
