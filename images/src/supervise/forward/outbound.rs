//! Connections that the guest opens to the outside.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use mio::net::TcpStream;
use netstack::IncomingId;

use super::pipe::Pipe;
use super::{Forwarder, GATEWAY, NAME_SERVER, PREFIX_BITS};

/// Where the host says which name servers it asks.
const RESOLVER: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;

/// Where the host goes for a destination of the guest; `None` when the guest may not go there.
pub(super) fn destination(asked: SocketAddrV4, allow_host: bool) -> Option<SocketAddrV4> {
    let ip = *asked.ip();
    if asked == SocketAddrV4::new(NAME_SERVER, DNS_PORT) {
        return name_server(&std::fs::read_to_string(RESOLVER).ok()?);
    }
    if ip == GATEWAY {
        return allow_host.then(|| SocketAddrV4::new(Ipv4Addr::LOCALHOST, asked.port()));
    }
    let ours = u32::from(ip) >> (32 - PREFIX_BITS) == u32::from(GATEWAY) >> (32 - PREFIX_BITS);
    let nobody =
        ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast();
    (!ours && !nobody && asked.port() != 0).then_some(asked)
}

/// The first name server that the resolver's configuration names.
fn name_server(configuration: &str) -> Option<SocketAddrV4> {
    let mut lines = configuration.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.find_map(|rest| rest.trim().parse().ok()).map(|ip| SocketAddrV4::new(ip, DNS_PORT))
}

impl Forwarder {
    /// The guest asks for a connection: the host tries first, so that the guest sees how that went.
    pub(super) fn guest_connects(&mut self, id: IncomingId) {
        let wanted = self.stack.incoming(id).and_then(|incoming| destination(incoming.local, self.allow_host));
        let stream = wanted
            .filter(|_| self.open_pipes() < self.max_pipes)
            .and_then(|to| TcpStream::connect(SocketAddr::V4(to)).ok());
        match stream {
            Some(stream) => {
                self.add_pipe(Pipe::to_host(stream, id));
            }
            None => {
                self.counters.outbound_refused += 1;
                // It may have expired, which is as good.
                let _ = self.stack.refuse_incoming(id);
            }
        }
    }

    /// The host's socket of an attempt changed: it is connected, or it never will be.
    pub(super) fn host_answered(&mut self, index: usize) {
        let Some(Some(pipe)) = self.pipes.get_mut(index) else {
            return;
        };
        let Some(attempt) = pipe.attempt().filter(|_| pipe.host_has_answered()) else {
            return;
        };
        let failed = !matches!(pipe.stream.take_error(), Ok(None)) || pipe.stream.peer_addr().is_err();
        if failed {
            self.counters.outbound_refused += 1;
            return self.drop_pipe(index, true);
        }
        match self.stack.accept_incoming(attempt) {
            Ok(conn) => {
                pipe.answered(conn);
                self.counters.outbound += 1;
                self.own(conn, index);
            }
            Err(_) => self.drop_pipe(index, true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_server_that_can_be_asked_is_asked() {
        let server = |text| name_server(text).map(|server| server.to_string());
        assert_eq!(
            server("search x\nnameserver fe80::1\n nameserver\t192.0.2.53\nnameserver 192.0.2.54"),
            Some("192.0.2.53:53".to_owned())
        );
        assert_eq!(server("# nameserver 192.0.2.53\n"), None);
    }

    #[test]
    fn the_host_is_closed_to_the_guest_unless_allowed() {
        let at = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), port);
        assert_eq!(destination(at([10, 0, 2, 2], 80), false), None);
        assert_eq!(destination(at([10, 0, 2, 2], 80), true), Some(at([127, 0, 0, 1], 80)));
        for nowhere in [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 1], [255; 4], [169, 254, 169, 254], [10, 0, 2, 9]] {
            assert_eq!(destination(at(nowhere, 80), true), None, "{nowhere:?}");
        }
        assert_eq!(destination(at([192, 0, 2, 1], 443), false), Some(at([192, 0, 2, 1], 443)));
        assert_eq!(destination(at([192, 0, 2, 1], 0), false), None);
    }
}
