//! A DHCP server with one fixed lease, for a link with one client: the hub's side of a guest that configures itself.
//!
//! Stateless: every DISCOVER is offered, every fitting REQUEST acknowledged, whoever asks, because both replicas of a
//! pair are the same client. RFC 2131.

use core::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, IpProtocol, Ipv4Cidr, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use crate::device::FrameSink;
use crate::frame::{Class, ETHERNET_BYTES, classify};

/// The one lease and its server.
#[derive(Debug, Clone)]
pub struct DhcpServer {
    /// Ethernet address that answers come from.
    pub server_mac: [u8; 6],
    /// IP address of the server.
    pub server_ip: Ipv4Addr,
    /// Address and prefix given to the client.
    pub client_ip: Ipv4Cidr,
    /// Default router given to the client.
    pub router: Option<Ipv4Addr>,
    /// Name server given to the client.
    pub dns: Option<Ipv4Addr>,
    /// How long the lease lasts, in seconds.
    pub lease_s: u32,
    /// Whether checksums are verified and filled, as [`Config::software_checksums`](crate::Config::software_checksums).
    pub software_checksums: bool,
}

impl DhcpServer {
    /// Answers `frame` if it is for a DHCP server. Returns whether it was, so that nobody else need see it. Without
    /// room in the sink the answer is left out: the client asks again.
    pub fn serve<S: FrameSink>(&self, frame: &[u8], sink: &mut S) -> bool {
        if classify(frame) != (Class::Udp { dst_port: DHCP_SERVER_PORT }) {
            return false;
        }
        if sink.has_room() {
            self.answer(frame, sink);
        }
        true
    }

    fn checksums(&self) -> ChecksumCapabilities {
        if self.software_checksums { ChecksumCapabilities::default() } else { ChecksumCapabilities::ignored() }
    }

    /// Parses a request and sends the reply; `None` when the frame deserves none.
    fn answer<S: FrameSink>(&self, frame: &[u8], sink: &mut S) -> Option<()> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        let ip_repr = Ipv4Repr::parse(&ip, &self.checksums()).ok()?;
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        UdpRepr::parse(&udp, &ip_repr.src_addr.into(), &ip_repr.dst_addr.into(), &self.checksums()).ok()?;
        let packet = DhcpPacket::new_checked(udp.payload()).ok()?;
        let request = DhcpRepr::parse(&packet).ok()?;
        let message_type = self.reply_to(&request)?;
        self.send(message_type, &request, sink);
        Some(())
    }

    /// Which reply a message gets.
    fn reply_to(&self, request: &DhcpRepr<'_>) -> Option<DhcpMessageType> {
        if request.relay_agent_ip != Ipv4Addr::UNSPECIFIED {
            return None;
        }
        match request.message_type {
            DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
            DhcpMessageType::Request => {
                if request.server_identifier.is_some_and(|server| server != self.server_ip) {
                    return None;
                }
                let wanted = request.requested_ip.unwrap_or(request.client_ip);
                let fits = wanted == self.client_ip.address();
                Some(if fits { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
            }
            _ => None,
        }
    }

    fn send<S: FrameSink>(&self, message_type: DhcpMessageType, request: &DhcpRepr<'_>, sink: &mut S) {
        let gives = message_type != DhcpMessageType::Nak;
        let dns_servers = self.dns.filter(|_| gives).map(|dns| core::iter::once(dns).collect());
        let dhcp = DhcpRepr {
            message_type,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: request.client_hardware_address,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: if gives { self.client_ip.address() } else { Ipv4Addr::UNSPECIFIED },
            server_ip: self.server_ip,
            router: self.router.filter(|_| gives),
            subnet_mask: gives.then(|| self.client_ip.netmask()),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.server_ip),
            parameter_request_list: None,
            dns_servers,
            max_size: None,
            lease_duration: gives.then_some(self.lease_s),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let udp = UdpRepr { src_port: DHCP_SERVER_PORT, dst_port: DHCP_CLIENT_PORT };
        let ip = Ipv4Repr {
            src_addr: self.server_ip,
            // The client cannot be addressed before it has its address; a renewal could, but broadcast serves both.
            dst_addr: Ipv4Addr::BROADCAST,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + dhcp.buffer_len(),
            hop_limit: 64,
        };
        let client = request.client_hardware_address;
        let dst = if request.broadcast || !client.is_unicast() { EthernetAddress::BROADCAST } else { client };
        let checksums = self.checksums();
        sink.transmit(ETHERNET_BYTES + ip.buffer_len() + ip.payload_len, |buffer| {
            let mut ethernet = EthernetFrame::new_unchecked(buffer);
            ethernet.set_src_addr(EthernetAddress(self.server_mac));
            ethernet.set_dst_addr(dst);
            ethernet.set_ethertype(EthernetProtocol::Ipv4);
            let mut ip_packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
            ip.emit(&mut ip_packet, &checksums);
            let mut udp_packet = UdpPacket::new_unchecked(ip_packet.payload_mut());
            let (src, dst) = (ip.src_addr.into(), ip.dst_addr.into());
            udp.emit(
                &mut udp_packet,
                &src,
                &dst,
                dhcp.buffer_len(),
                |payload| {
                    payload.fill(0);
                    // The buffer has exactly the length that the representation asks for.
                    let _ = dhcp.emit(&mut DhcpPacket::new_unchecked(payload));
                },
                &checksums,
            );
        });
    }
}
