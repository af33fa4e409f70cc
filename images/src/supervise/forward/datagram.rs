//! Datagrams that the guest sends to the outside, and what is answered.
//!
//! A *flow* is one port of the guest that talks to one destination; it has a socket of the host's, connected to that
//! destination, so that nobody else's datagrams reach the guest. A flow that is idle for a minute is forgotten, as
//! is the longest idle one when there are too many. What does not fit somewhere is dropped: these are datagrams.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use mio::net::UdpSocket;
use mio::{Interest, Token};
use netstack::{UdpId, UdpQueue};

use super::outbound::destination;
use super::{Forwarder, MTU_BYTES};

/// Flows at once.
const MAX_FLOWS: usize = 256;
/// Ports of destinations at once: each takes a socket of the stack.
const MAX_PORTS: usize = 64;
/// A flow is forgotten when nothing has passed for so long.
const IDLE_NS: u64 = 60_000_000_000;
/// What the stack keeps for a port until it is looked at.
const QUEUE: UdpQueue = UdpQueue { datagrams: 32, bytes: 128 * 1024 };
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;
const ETHERNET_HEADER_BYTES: usize = 14;

/// One port of the guest and one destination.
#[derive(Debug)]
struct Flow {
    socket: UdpSocket,
    guest: SocketAddrV4,
    /// The destination as the guest names it: answers come from there.
    asked: SocketAddrV4,
    used_ns: u64,
}

/// All flows.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    /// The stack's socket for each port of a destination.
    ports: BTreeMap<u16, UdpId>,
    /// Flows by the guest's address and the destination; indexes of `flows`.
    by_ends: BTreeMap<(SocketAddrV4, SocketAddrV4), usize>,
    flows: Vec<Option<Flow>>,
    buffer: Vec<u8>,
}

/// The port that a frame's datagram is for; `None` for everything else.
fn datagram_port(frame: &[u8]) -> Option<u16> {
    if frame.get(12..14)? != ETHERTYPE_IPV4 || *frame.get(23)? != PROTOCOL_UDP {
        return None;
    }
    let at = ETHERNET_HEADER_BYTES + usize::from(frame[14] & 0x0f) * 4 + 2;
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

impl Forwarder {
    /// Prepares the stack for a frame that may hold a datagram.
    pub(super) fn expect_datagram(&mut self, frame: &[u8]) {
        let Some(port) = datagram_port(frame) else {
            return;
        };
        if port == 0 || self.datagrams.ports.contains_key(&port) {
            return;
        }
        if self.datagrams.ports.len() >= MAX_PORTS {
            self.forget_idle_ports();
        }
        // Without a socket the stack tells the guest that the port is unreachable.
        if self.datagrams.ports.len() < MAX_PORTS
            && let Ok(id) = self.stack.bind(port, QUEUE)
        {
            self.datagrams.ports.insert(port, id);
        }
    }

    /// The stack has datagrams of the guest.
    pub(super) fn datagrams_arrived(&mut self, id: UdpId, now_ns: u64) {
        let Ok(port) = self.stack.udp_port(id) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.datagrams.buffer);
        buffer.resize(MTU_BYTES, 0);
        while let Ok(datagram) = self.stack.recv_from(id, &mut buffer) {
            let asked = SocketAddrV4::new(datagram.local, port);
            let data = &buffer[..datagram.len_bytes.min(MTU_BYTES)];
            if let Some(index) = self.flow(datagram.remote, asked, now_ns)
                && let Some(Some(flow)) = self.datagrams.flows.get_mut(index)
            {
                flow.used_ns = now_ns;
                // What the host does not take now is lost, as on any wire.
                let _ = flow.socket.send(data);
            } else {
                self.counters.outbound_refused += 1;
            }
        }
        self.datagrams.buffer = buffer;
    }

    /// A socket of a flow has answers.
    pub fn datagram_socket_ready(&mut self, index: usize, now_ns: u64) {
        let mut buffer = std::mem::take(&mut self.datagrams.buffer);
        buffer.resize(MTU_BYTES, 0);
        while let Some(Some(flow)) = self.datagrams.flows.get_mut(index) {
            match flow.socket.recv(&mut buffer) {
                Ok(bytes) => {
                    flow.used_ns = now_ns;
                    if let Some(&id) = self.datagrams.ports.get(&flow.asked.port()) {
                        // Too long or too many at once: lost, as on any wire.
                        let _ = self.stack.send_from(id, &buffer[..bytes], *flow.asked.ip(), flow.guest);
                    }
                }
                // A refusal by the destination is told once and ends nothing.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.datagrams.buffer = buffer;
    }

    /// The flow between these two, made if need be; `None` when the guest may not go there.
    fn flow(&mut self, guest: SocketAddrV4, asked: SocketAddrV4, now_ns: u64) -> Option<usize> {
        if let Some(&index) = self.datagrams.by_ends.get(&(guest, asked)) {
            return Some(index);
        }
        let to = destination(asked, self.allow_host)?;
        if self.datagrams.by_ends.len() >= MAX_FLOWS {
            self.forget_longest_idle();
        }
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut socket = UdpSocket::bind(any).ok()?;
        socket.connect(SocketAddr::V4(to)).ok()?;
        let index = self.datagrams.flows.iter().position(Option::is_none).unwrap_or(self.datagrams.flows.len());
        self.registry.register(&mut socket, Token(self.tokens.datagrams + index), Interest::READABLE).ok()?;
        if index == self.datagrams.flows.len() {
            self.datagrams.flows.push(None);
        }
        self.datagrams.flows[index] = Some(Flow { socket, guest, asked, used_ns: now_ns });
        self.datagrams.by_ends.insert((guest, asked), index);
        self.counters.outbound += 1;
        Some(index)
    }

    /// Forgets flows that are idle. Returns when the next one may be.
    pub(super) fn expire_flows(&mut self, now_ns: u64) -> Option<u64> {
        let flows = &self.datagrams.flows;
        let oldest_ns = flows.iter().flatten().map(|flow| flow.used_ns).min()?;
        if oldest_ns + IDLE_NS > now_ns {
            return Some(oldest_ns + IDLE_NS);
        }
        for index in 0..flows.len() {
            if self.datagrams.flows[index].as_ref().is_some_and(|flow| flow.used_ns + IDLE_NS <= now_ns) {
                self.forget(index);
            }
        }
        self.forget_idle_ports();
        self.datagrams.flows.iter().flatten().map(|flow| flow.used_ns + IDLE_NS).min()
    }

    fn forget_longest_idle(&mut self) {
        let flows = self.datagrams.flows.iter().enumerate();
        let idle = flows.filter_map(|(index, flow)| Some((flow.as_ref()?.used_ns, index))).min();
        if let Some((_, index)) = idle {
            self.forget(index);
        }
    }

    fn forget(&mut self, index: usize) {
        if let Some(mut flow) = self.datagrams.flows[index].take() {
            self.datagrams.by_ends.remove(&(flow.guest, flow.asked));
            // Closing it removes it from the registry too.
            let _ = self.registry.deregister(&mut flow.socket);
        }
    }

    /// Gives up the stack's sockets for ports that no flow uses.
    fn forget_idle_ports(&mut self) {
        let used: std::collections::BTreeSet<u16> =
            self.datagrams.flows.iter().flatten().map(|flow| flow.asked.port()).collect();
        let idle: Vec<u16> = self.datagrams.ports.keys().copied().filter(|port| !used.contains(port)).collect();
        for port in idle {
            if let Some(id) = self.datagrams.ports.remove(&port) {
                // A stale id means that it is gone already.
                let _ = self.stack.unbind(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_datagrams_have_a_port() {
        let mut frame = vec![0; 60];
        assert_eq!(datagram_port(&frame), None);
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        frame[14] = 0x45;
        frame[23] = 6;
        assert_eq!(datagram_port(&frame), None);
        frame[23] = PROTOCOL_UDP;
        frame[36..38].copy_from_slice(&53u16.to_be_bytes());
        assert_eq!(datagram_port(&frame), Some(53));
        for cut in 0..38 {
            assert_eq!(datagram_port(&frame[..cut]), None, "cut at {cut}");
        }
    }
}
