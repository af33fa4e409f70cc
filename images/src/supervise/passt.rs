//! The rootless uplink by another program: passt(1) joins sockets of the host with TCP connections of the guest's
//! network, as the forwarder does, but in a process of its own.
//!
//! Frames go over a socket, in the format of QEMU's stream netdev. passt ends when that socket is closed, however the
//! supervisor ends.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use mio::{Interest, Registry, Token};
use netstack::FrameSink;

use super::forward::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, MTU_BYTES, NAME_SERVER, PREFIX_BITS, Published};
use super::net::Mac;
use super::port::Port;
use super::{replica, report};
use crate::error::{Context, Error, Result};
use crate::qemu;

/// The program.
pub const PROGRAM: &str = "passt";
/// The Debian or Ubuntu package that brings it.
pub const PACKAGE: &str = "passt";
/// Longest frame: the guest's MTU and the Ethernet header. passt does not cut a long datagram into fragments.
const MAX_FRAME_BYTES: usize = MTU_BYTES + ETHERNET_HEADER_BYTES;
const ETHERNET_HEADER_BYTES: usize = 14;
/// Bytes that may wait for passt; what comes then is dropped, as on any full wire.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// Lines of passt's log that say why it has ended.
const TAIL_LINES: usize = 3;
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// ARP for IPv4 over Ethernet, a request (RFC 826).
const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];

/// What has not been passed on.
#[derive(Debug, Clone, Copy, Default)]
pub struct PasstCounters {
    /// Frames for the guest that are longer than it can take.
    pub filtered: u64,
    /// Frames of the guest that passt did not take.
    pub dropped: u64,
}

/// A passt with a guest behind it; it ends when this is dropped.
#[derive(Debug)]
pub struct Passt {
    child: Child,
    log: PathBuf,
    published: Vec<(SocketAddr, u16)>,
    /// `None` once passt, or the guest, is gone.
    port: Option<Port>,
    /// There may be frames to be read.
    readable: bool,
    /// It has said its first word, so its ports are open.
    answered: bool,
    /// Clients have been let in.
    accepting: bool,
    failure: Option<String>,
    /// Counters.
    pub counters: PasstCounters,
}

impl Passt {
    /// Starts passt for the published ports, on which it listens in our place. With `allow_host` the guest reaches the
    /// host's own loopback services at the gateway's address. Its messages go to the file `log`.
    ///
    /// # Errors
    /// [`Error::Missing`] when it is not installed, [`Error::Io`] for everything else. That it cannot work, it says
    /// later: see [`failure`](Self::failure).
    pub fn start(
        published: Vec<Published>,
        allow_host: bool,
        log: PathBuf,
        registry: &Registry,
        token: Token,
    ) -> Result<Self> {
        // Our listeners have proved that the ports are free, and have chosen those that the system was to choose; they
        // are closed here. Should somebody else be quicker now, passt says so.
        let published: Vec<_> = published.into_iter().map(|port| (port.host, port.guest_port)).collect();
        let (ours, theirs) = replica::socket_pair()?;
        let messages = File::create(&log).context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(PROGRAM);
        command.args(arguments(&published, allow_host, theirs.as_raw_fd()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages);
        let child = qemu::spawn_tied(command, &[theirs.as_fd()], &[]).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing(format!(
                "{PROGRAM} is not installed: `apt-get install {PACKAGE}` brings it, --net forward does without it"
            )),
            _ => Error::Io { what: format!("cannot start {PROGRAM}"), source: error },
        })?;
        let mut port = Port::new(replica::nonblocking(ours)?);
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(port.stream(), token, both).context(|| "cannot watch passt")?;
        // passt takes the guest's Ethernet address from what it hears, and the guest may have nothing to say before its
        // first client comes. The answer says that passt is up.
        port.push(&arp_request());
        Ok(Self {
            child,
            log,
            published,
            port: Some(port),
            readable: true,
            answered: false,
            accepting: false,
            failure: None,
            counters: PasstCounters::default(),
        })
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The published ports: where the host listens, and the guest's port.
    pub fn published(&self) -> &[(SocketAddr, u16)] {
        &self.published
    }

    /// Whether it has come up.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// What has become of it, if it is gone.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The socket has changed.
    pub fn ready(&mut self) {
        self.readable = true;
    }

    /// Takes a frame of the guest. It leaves with the others of this turn.
    pub fn receive(&mut self, frame: &[u8]) {
        match &mut self.port {
            Some(port) if port.waiting_bytes() + frame.len() <= MAX_WAITING_BYTES => port.push(frame),
            _ => self.counters.dropped += 1,
        }
    }

    /// Writes what waits and reads what there is for the guest. Clients come in from the first time on that they are
    /// `accepting`: until then what passt has for them waits in the socket, as they would at the forwarder.
    pub fn run(&mut self, wire: &mut impl FrameSink, accepting: bool) {
        self.accepting |= accepting;
        let Some(port) = &mut self.port else { return };
        let mut result = port.flush();
        // A wire that is full has room again after an event of its own.
        while result.is_ok() && self.readable && (self.accepting || !self.answered) && wire.has_room() {
            let (answered, counters) = (&mut self.answered, &mut self.counters);
            let more = port.read_once(|frame| match frame.len() {
                _ if !*answered && is_arp(frame) => *answered = true,
                ..=MAX_FRAME_BYTES => wire.transmit(frame.len(), |buffer| buffer.copy_from_slice(frame)),
                _ => counters.filtered += 1,
            });
            result = more.map(|more| self.readable = more);
        }
        if result.is_err() {
            self.ended();
        }
    }

    /// No machine runs any more and none will. passt is let go with what the guest said last, and its clients see the
    /// end of their connections.
    pub fn guest_has_gone(&mut self) {
        if let Some(mut port) = self.port.take() {
            // One that fails now loses what it would have lost anyway.
            let _ = port.flush();
        }
    }

    /// Ends it and waits until it has: its ports are free then.
    pub fn end(&mut self) {
        // It would end by itself now; the signal is for one that hangs. Ended already is as good.
        self.port = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The socket has failed.
    fn ended(&mut self) {
        self.port = None;
        let pid = self.pid();
        // A process whose end of the socket is closed is about to end; what it ends with is what we want to tell.
        let _ = self.child.kill();
        let mut reason = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let messages = report::tail(&self.log, TAIL_LINES);
        if !messages.is_empty() {
            reason.push_str(&format!("; its last words: {}", messages.replace('\n', " | ")));
        }
        self.failure = Some(format!(
            "passt (process {pid}) is gone ({reason}): the guest cannot be reached any more; take the pair down and \
             start it again"
        ));
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        self.end();
    }
}

/// passt's arguments. The guest's network is the forwarder's, whatever the host's looks like.
fn arguments(published: &[(SocketAddr, u16)], allow_host: bool, socket: RawFd) -> Vec<String> {
    let mut out = vec!["--foreground".to_owned(), "--quiet".to_owned(), "--ipv4-only".to_owned()];
    let mut push = |option: &str, value: String| out.extend([option.to_owned(), value]);
    push("--fd", socket.to_string());
    push("--address", GUEST.to_string());
    push("--netmask", PREFIX_BITS.to_string());
    push("--gateway", GATEWAY.to_string());
    push("--mac-addr", Mac(GATEWAY_MAC).to_string());
    push("--mtu", MTU_BYTES.to_string());
    push("--dns-forward", NAME_SERVER.to_string());
    // Addresses are given above; without this passt refuses to run on a host that has no default route.
    push("--interface", "lo".to_owned());
    for (host, guest) in published {
        push("--tcp-ports", format!("{}/{}:{guest}", host.ip(), host.port()));
    }
    // Otherwise datagrams to published ports would come in too, which no other uplink does.
    push("--udp-ports", "none".to_owned());
    if !allow_host {
        out.push("--no-map-gw".to_owned());
    }
    out
}

/// The guest asks for the gateway.
fn arp_request() -> Vec<u8> {
    let (guest, gateway) = (GUEST.octets(), GATEWAY.octets());
    [&[0xff; 6][..], &GUEST_MAC, &ETHERTYPE_ARP, &ARP_REQUEST, &GUEST_MAC, &guest, &[0; 6], &gateway].concat()
}

fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..ETHERNET_HEADER_BYTES) == Some(&ETHERTYPE_ARP)
}

#[cfg(test)]
mod tests;
