//! Reads just enough of a frame to tell which socket it is for.
//!
//! Everything else, validation included, is left to smoltcp, which sees the same bytes again.

use core::net::{Ipv4Addr, SocketAddrV4};

/// Length of an Ethernet header in bytes.
pub(crate) const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// The four numbers that name a TCP connection, as seen from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowKey {
    /// Remote address in the upper, local address in the lower half.
    addresses: u64,
    /// Remote port in the upper, local port in the lower half.
    ports: u32,
}

impl FlowKey {
    pub(crate) fn new(remote: SocketAddrV4, local: SocketAddrV4) -> Self {
        Self {
            addresses: u64::from(u32::from(*remote.ip())) << 32 | u64::from(u32::from(*local.ip())),
            ports: u32::from(remote.port()) << 16 | u32::from(local.port()),
        }
    }

    pub(crate) fn remote(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from((self.addresses >> 32) as u32), (self.ports >> 16) as u16)
    }

    pub(crate) fn local(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.local_ip(), self.local_port())
    }

    pub(crate) fn local_ip(self) -> Ipv4Addr {
        Ipv4Addr::from(self.addresses as u32)
    }

    pub(crate) fn local_port(self) -> u16 {
        self.ports as u16
    }
}

impl core::hash::Hash for FlowKey {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.addresses);
        state.write_u32(self.ports);
    }
}

/// Where a frame belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A TCP segment between two hosts; `opens` says that it asks for a new connection (SYN alone), `finishes` that it
    /// carries a FIN.
    Tcp { key: FlowKey, opens: bool, finishes: bool },
    /// A datagram to this port.
    Udp { dst_port: u16 },
    /// Address resolution.
    Arp,
    /// Something else that smoltcp may answer (ICMP, an unknown protocol).
    Other,
    /// A fragment or a segment to a group of hosts, which no socket may see.
    Drop,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(be16(bytes, at)?) << 16 | u32::from(be16(bytes, at + 2)?))
}

/// Whether segments from or to this address could belong to a connection.
pub(crate) fn is_host(address: u32) -> bool {
    // 0.0.0.0 is nobody, 224.0.0.0 and above are groups, reserved or broadcast.
    address != 0 && address < 0xe000_0000
}

/// Classifies a frame; never fails, because what is too short or odd is `Other`, which smoltcp rejects.
pub(crate) fn classify(frame: &[u8]) -> Class {
    let Some(header) = frame.first_chunk::<34>() else {
        return Class::Other;
    };
    let ethertype = [header[12], header[13]];
    if ethertype == ETHERTYPE_ARP {
        return Class::Arp;
    }
    if ethertype != ETHERTYPE_IPV4 || header[14] >> 4 != 4 {
        return Class::Other;
    }
    // More-fragments flag or a fragment offset: without this check smoltcp, built without reassembly, would read
    // the middle of a packet as a header.
    if u16::from_be_bytes([header[20], header[21]]) & 0x3fff != 0 {
        return Class::Drop;
    }
    let payload = ETHERNET_BYTES + usize::from(header[14] & 0x0f) * 4;
    match header[23] {
        PROTOCOL_TCP => classify_tcp(frame, payload),
        PROTOCOL_UDP => be16(frame, payload + 2).map_or(Class::Other, |dst_port| Class::Udp { dst_port }),
        _ => Class::Other,
    }
}

fn classify_tcp(frame: &[u8], payload: usize) -> Class {
    let (Some(src), Some(dst), Some(src_port), Some(dst_port), Some(&flags)) =
        (be32(frame, 26), be32(frame, 30), be16(frame, payload), be16(frame, payload + 2), frame.get(payload + 13))
    else {
        return Class::Other;
    };
    if !is_host(src) || !is_host(dst) {
        return Class::Drop;
    }
    Class::Tcp {
        key: FlowKey {
            addresses: u64::from(src) << 32 | u64::from(dst),
            ports: u32::from(src_port) << 16 | u32::from(dst_port),
        },
        opens: flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN,
        finishes: flags & TCP_FIN != 0,
    }
}

/// Whether an ARP packet announces its sender instead of asking for somebody else (sender and target address equal).
pub(crate) fn is_announcement(frame: &[u8]) -> bool {
    let sender = be32(frame, ETHERNET_BYTES + 14);
    sender.is_some() && sender == be32(frame, ETHERNET_BYTES + 24)
}
