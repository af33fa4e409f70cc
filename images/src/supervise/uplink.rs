//! Where the guest's frames go: the forwarder, passt or a tap.

use std::collections::BTreeMap;

use mio::{Registry, Token};
use protocol::control::Network;

use super::forward::{Forwarder, GATEWAY, GUEST, GUEST_MAC, MTU_BYTES, PREFIX_BITS, Published, Tokens};
use super::hub::Wire;
use super::net::{Mac, Net, TapNet};
use super::passt::Passt;
use super::spec::Spec;
use super::tap::{Tap, TapDevice, TapError};
use super::token;
use crate::ctl::{NetStatus, PublishStatus};
use crate::error::{Context, Result};
use crate::state::StateDir;

/// The outside of the hub.
pub enum Uplink {
    /// Sockets of this host.
    Forward(Box<Forwarder>),
    /// Another process that does the same.
    Passt(Box<Passt>),
    /// A port of a bridge.
    Tap(Box<BridgePort>),
}

/// A tap, and what `status` says of it.
pub struct BridgePort {
    tap: Tap,
    net: TapNet,
    device: String,
    mac: Mac,
}

/// Makes the tap, if there is to be one: before anything is started, because it is the likeliest to fail.
///
/// # Errors
/// [`TapError`].
pub fn open_device(spec: &Spec) -> Result<Option<TapDevice>, TapError> {
    match &spec.net {
        Net::Forward | Net::Passt => Ok(None),
        Net::Tap(net) => TapDevice::open(&net.bridge, net.guest_mac(&spec.name)).map(Some),
    }
}

impl Uplink {
    /// The uplink that `spec` asks for. `seed` must be unpredictable.
    ///
    /// # Errors
    /// The system's.
    pub fn new(
        spec: &Spec,
        dir: &StateDir,
        device: Option<TapDevice>,
        published: Vec<Published>,
        registry: Registry,
        seed: u64,
    ) -> Result<Self> {
        match (device, &spec.net) {
            (Some(device), Net::Tap(net)) => {
                let (mac, name) = (net.guest_mac(&spec.name), device.name.clone());
                let tap = Tap::new(device, mac, net.address, &registry, Token(token::DEVICE));
                let tap = tap.context(|| "cannot watch the tap")?;
                let port = BridgePort { tap, net: net.clone(), device: name, mac };
                Ok(Self::Tap(Box::new(port)))
            }
            (_, Net::Passt) => {
                let log = dir.file("passt.log");
                let passt = Passt::start(published, spec.allow_host, log, &registry, Token(token::DEVICE))?;
                Ok(Self::Passt(Box::new(passt)))
            }
            _ => {
                let tokens = Tokens { listeners: token::LISTENERS, datagrams: token::DATAGRAMS, pipes: token::PIPES };
                let forwarder = Forwarder::new(registry, tokens, published, seed, spec.allow_host, 0);
                Ok(Self::Forward(Box::new(forwarder.context(|| "cannot start the forwarder")?)))
            }
        }
    }

    /// How the guest's network is configured.
    pub fn network(&self) -> Network {
        match self {
            Self::Forward(_) => behind_gateway(false),
            // passt makes checksums, and nothing promises that it will never look at the guest's.
            Self::Passt(_) => behind_gateway(true),
            Self::Tap(port) => port.tap.network(),
        }
    }

    /// Takes a frame of the guest.
    pub fn receive(&mut self, now_ns: u64, frame: &[u8], wire: &mut Wire) {
        match self {
            Self::Forward(forwarder) => forwarder.receive(now_ns, frame, wire),
            Self::Passt(passt) => passt.receive(frame),
            Self::Tap(port) => port.tap.receive(frame),
        }
    }

    /// Does all that can be done now. Clients are let in only while `accepting`; at a tap the bridge decides. Returns
    /// when to call again at the latest.
    pub fn run(&mut self, now_ns: u64, wire: &mut Wire, accepting: bool) -> Option<u64> {
        match self {
            Self::Forward(forwarder) => forwarder.run(now_ns, wire, accepting),
            Self::Passt(passt) => {
                passt.run(wire, accepting);
                None
            }
            Self::Tap(port) => port.tap.run(now_ns, wire),
        }
    }

    /// A socket of the forwarder's pipe `index` has changed.
    pub fn pipe_ready(&mut self, index: usize, event: &mio::event::Event) {
        if let Self::Forward(forwarder) = self {
            forwarder.socket_ready(index, event);
        }
    }

    /// A socket of the forwarder's flow `index` has datagrams.
    pub fn datagram_ready(&mut self, index: usize, now_ns: u64) {
        if let Self::Forward(forwarder) = self {
            forwarder.datagram_socket_ready(index, now_ns);
        }
    }

    /// A published port has connections.
    pub fn listener_ready(&mut self, index: usize) {
        if let Self::Forward(forwarder) = self {
            forwarder.listener_ready(index);
        }
    }

    /// The tap, or the socket to passt, has changed.
    pub fn device_ready(&mut self) {
        match self {
            Self::Forward(_) => {}
            Self::Passt(passt) => passt.ready(),
            Self::Tap(port) => port.tap.ready(),
        }
    }

    /// What it takes to say that the guest serves is looked at from now on.
    pub fn start_probes(&mut self) {
        if let Self::Forward(forwarder) = self {
            forwarder.start_probes();
        }
    }

    /// What the guest has not done yet that it does when it serves; `guest_waits` says whether it has come to wait for
    /// the first time, at every replica.
    ///
    /// At the forwarder's ports that is to accept a connection. Of a guest on a bridge it is not known where it
    /// listens, and passt accepts before it asks the guest; but all that a program does before it waits is done then,
    /// its listeners included. One that asks for its address has got it.
    pub fn what_is_missing(&self, guest_waits: bool) -> Option<String> {
        match self {
            Self::Forward(forwarder) => {
                let ports: Vec<_> = forwarder.unanswered_ports().iter().map(u16::to_string).collect();
                (!ports.is_empty())
                    .then(|| format!("the guest does not accept connections on port {}", ports.join(", ")))
            }
            Self::Passt(passt) if !passt.has_answered() => Some("passt does not answer".to_owned()),
            Self::Passt(_) | Self::Tap(_) if !guest_waits => {
                Some("the guest has not come to wait for anything".to_owned())
            }
            Self::Tap(port) if port.tap.guest_address().is_none() => {
                Some(format!("no DHCP server behind bridge {:?} has given the guest an address", port.net.bridge))
            }
            Self::Passt(_) | Self::Tap(_) => None,
        }
    }

    /// No machine runs any more and none will: clients are told.
    pub fn guest_has_gone(&mut self) {
        match self {
            Self::Forward(forwarder) => forwarder.guest_has_gone(),
            Self::Passt(passt) => passt.guest_has_gone(),
            Self::Tap(_) => {}
        }
    }

    /// All is over: what others may want to use next is given back.
    pub fn end(&mut self) {
        match self {
            Self::Forward(forwarder) => forwarder.end(),
            Self::Passt(passt) => passt.end(),
            Self::Tap(_) => {}
        }
    }

    /// Published ports.
    pub fn published(&self) -> Vec<PublishStatus> {
        match self {
            Self::Forward(forwarder) => {
                forwarder.published().iter().map(|port| PublishStatus::new(port.host, port.guest_port)).collect()
            }
            Self::Passt(passt) => {
                passt.published().iter().map(|&(host, guest)| PublishStatus::new(host, guest)).collect()
            }
            Self::Tap(_) => Vec::new(),
        }
    }

    /// What has become of the tap or of passt, if it is of no more use.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Forward(_) => None,
            Self::Passt(passt) => passt.failure().map(str::to_owned),
            Self::Tap(port) => port.tap.failure().map(|failure| {
                format!(
                    "tap {} is gone ({failure}): the guest cannot be reached any more; take the pair down and start it \
                     again",
                    port.device
                )
            }),
        }
    }

    /// What `status` shows.
    pub fn status(&self) -> NetStatus {
        match self {
            Self::Forward(_) => status_behind_gateway("forward", None),
            Self::Passt(passt) => status_behind_gateway("passt", Some(passt.pid())),
            Self::Tap(port) => NetStatus {
                uplink: "tap".to_owned(),
                mac: port.mac.to_string(),
                address: port.tap.guest_address().map(|address| address.to_string()),
                bridge: Some(port.net.bridge.clone()),
                device: Some(port.device.clone()),
                pid: None,
            },
        }
    }

    /// Adds what has been counted.
    pub fn count(&self, into: &mut BTreeMap<String, u64>) {
        let mut add = |name: &str, value| into.insert(name.to_owned(), value);
        match self {
            Self::Forward(forwarder) => {
                let (counted, stack) = (&forwarder.counters, forwarder.stack.stats());
                add("connections_open", forwarder.open_pipes() as u64);
                add("connections_accepted", counted.accepted);
                add("connections_refused", counted.refused);
                add("connections_reset", counted.reset);
                add("connections_outbound", counted.outbound);
                add("connections_outbound_refused", counted.outbound_refused);
                add("stack_timed_out", stack.timed_out);
                add("stack_replies_dropped", stack.replies_dropped);
            }
            Self::Passt(passt) => {
                add("frames_filtered", passt.counters.filtered);
                add("frames_dropped_by_passt", passt.counters.dropped);
            }
            Self::Tap(port) => {
                add("frames_filtered", port.tap.counters.filtered);
                add("frames_dropped_by_tap", port.tap.counters.dropped);
            }
        }
    }
}

/// The network of a guest behind the forwarder or passt: the same, so that a program need not know which.
fn behind_gateway(checksums: bool) -> Network {
    Network {
        mac: GUEST_MAC,
        address: GUEST.octets(),
        prefix_bits: PREFIX_BITS,
        gateway: GATEWAY.octets(),
        mtu_bytes: MTU_BYTES as u16,
        dhcp: false,
        checksums,
    }
}

fn status_behind_gateway(uplink: &str, pid: Option<i32>) -> NetStatus {
    NetStatus {
        uplink: uplink.to_owned(),
        mac: Mac(GUEST_MAC).to_string(),
        address: Some(GUEST.to_string()),
        bridge: None,
        device: None,
        pid,
    }
}
