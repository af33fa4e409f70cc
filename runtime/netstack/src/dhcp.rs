//! The own address: fixed, or obtained and renewed by DHCP.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Duration;
use smoltcp::wire::{IpCidr, Ipv4Cidr};

use crate::event::Source;
use crate::frame::is_host;
use crate::slot::Body;
use crate::stack::Stack;

/// First wait for an answer. The server is next door (the hub) or on the LAN; smoltcp's 10 s would only delay a boot
/// whose first broadcast was lost.
const RETRY: Duration = Duration::from_millis(500);

impl Stack {
    /// Starts to ask for an address.
    pub(crate) fn start_dhcp(&mut self) {
        let mut socket = dhcpv4::Socket::new();
        let mut retry = socket.get_retry_config();
        retry.discover_timeout = RETRY;
        retry.initial_request_timeout = RETRY;
        socket.set_retry_config(retry);
        let mut set = SocketSet::new(Vec::with_capacity(1));
        set.add(socket);
        let index = self.slots.insert(Body::Dhcp(set));
        self.dhcp = Some(index);
        self.touch(index, true);
    }

    /// Applies what the DHCP exchange has brought. Sockets on an address that is lost are reset when they next send.
    pub(crate) fn apply_dhcp(&mut self) {
        let Some(index) = self.dhcp else {
            return;
        };
        let Body::Dhcp(set) = &mut self.slots.slot(index).body else {
            return;
        };
        let (address, gateway, dns_servers) = match set.get_mut::<dhcpv4::Socket<'_>>(SocketHandle::default()).poll() {
            None => return,
            Some(dhcpv4::Event::Deconfigured) => (None, None, Vec::new()),
            Some(dhcpv4::Event::Configured(lease)) => {
                // A router that is not a host would make route lookups panic.
                let router = lease.router.filter(|&router| is_host(router.into()));
                (Some(lease.address), router, lease.dns_servers.iter().copied().collect())
            }
        };
        if address == self.address() && gateway == self.gateway() && dns_servers == self.dns_servers {
            return;
        }
        self.dns_servers = dns_servers;
        self.set_address(address, gateway);
        self.sources.push(Source::Address);
    }

    /// Sets the interface's address and default route.
    pub(crate) fn set_address(&mut self, address: Option<Ipv4Cidr>, gateway: Option<Ipv4Addr>) {
        self.iface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(cidr) = address {
                // The list was just emptied and holds at least one.
                let _ = addresses.push(IpCidr::Ipv4(cidr));
            }
        });
        self.iface.routes_mut().remove_default_ipv4_route();
        if let Some(gateway) = gateway {
            // The table was just emptied and holds at least one.
            let _ = self.iface.routes_mut().add_default_ipv4_route(gateway);
        }
    }
}
