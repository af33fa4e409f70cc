//! The rootless uplink: joins sockets of the host with TCP connections of the guest's network.
//!
//! A connection accepted on a published port becomes a connection from the gateway to the guest; a connection that
//! the guest opens becomes a socket of the host. Each such pair is a *pipe*. Bytes go from one receive call into the
//! stack's send buffer and from its receive buffer into one send call, without a copy between; who cannot take more
//! makes the other side wait, so nothing grows without bound. The ends of streams and resets go through both ways.
//! Datagrams that the guest sends go out too, and their answers come back.

mod datagram;
mod outbound;
mod pipe;
mod probe;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use netstack::{Config, ConnId, Error as StackError, Event, Ipv4Cidr, Readiness, Stack};

use self::datagram::Datagrams;
use self::pipe::{Ended, Pipe};
pub use self::probe::Probe;
use super::hub::Wire;

/// Addresses of the guest's network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// At its port 53 the guest reaches the name server of the host.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The guest's own address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Bits of the network's prefix.
pub const PREFIX_BITS: u8 = 24;
/// Longest IP packet: the wire is memory, and a long packet costs hardly more than a short one.
pub const MTU_BYTES: usize = 9000;
/// The gateway's Ethernet address.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
/// The guest's Ethernet address, the same at both replicas.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x15];
/// Buffer of a connection, in each direction.
const BUFFER_BYTES: usize = 32 * 1024;
/// Connection attempts of the guest that may wait for the host.
const OUTBOUND_ATTEMPTS: usize = 256;
/// Descriptors kept for everything but pipes.
const RESERVED_DESCRIPTORS: u64 = 128;
/// Most pipes, whatever the limit of descriptors.
const MAX_PIPES: usize = 8192;
/// How many connections one listener may accept in one turn, so that a flood does not keep the others waiting.
const ACCEPTS_A_TURN: usize = 64;
/// How often one turn looks at what its own sending has changed.
const ROUNDS_A_TURN: usize = 4;

/// A port of the host that leads to a port of the guest.
#[derive(Debug)]
pub struct Published {
    listener: TcpListener,
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
    /// Connections may wait to be accepted.
    ready: bool,
}

impl Published {
    /// A listener that is bound already.
    ///
    /// # Errors
    /// The system's.
    pub fn new(listener: std::net::TcpListener, guest_port: u16) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let host = listener.local_addr()?;
        Ok(Self { listener: TcpListener::from_std(listener), host, guest_port, ready: false })
    }
}

/// What the forwarder has refused or broken.
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardCounters {
    /// Connections of clients accepted.
    pub accepted: u64,
    /// Connections of clients reset because there were too many, or no guest any more.
    pub refused: u64,
    /// Pipes that ended by a reset of either side.
    pub reset: u64,
    /// Connections that the guest opened, and flows of its datagrams.
    pub outbound: u64,
    /// Connection attempts and datagrams of the guest that were refused.
    pub outbound_refused: u64,
}

/// Where the forwarder's tokens begin.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    /// Listener `i` has the token `listeners + i`.
    pub listeners: usize,
    /// Flow `i` of datagrams has the token `datagrams + i`.
    pub datagrams: usize,
    /// Pipe `i` has the token `pipes + i`.
    pub pipes: usize,
}

/// The uplink.
pub struct Forwarder {
    /// The gateway's TCP/IP stack.
    pub stack: Stack,
    registry: Registry,
    tokens: Tokens,
    published: Vec<Published>,
    pipes: Vec<Option<Pipe>>,
    free: Vec<usize>,
    max_pipes: usize,
    /// Which pipe a connection of the stack belongs to, by the connection's index.
    pipe_of: Vec<Option<(ConnId, usize)>>,
    probes: Vec<Probe>,
    datagrams: Datagrams,
    allow_host: bool,
    guest_gone: bool,
    /// Counters.
    pub counters: ForwardCounters,
}

impl Forwarder {
    /// An uplink with these published ports. `seed` must be unpredictable. With `allow_host` the guest reaches the
    /// host's own loopback services at the gateway's address.
    ///
    /// # Errors
    /// The system's.
    pub fn new(
        registry: Registry,
        tokens: Tokens,
        mut published: Vec<Published>,
        seed: u64,
        allow_host: bool,
        now_ns: u64,
    ) -> io::Result<Self> {
        for (index, port) in published.iter_mut().enumerate() {
            registry.register(&mut port.listener, Token(tokens.listeners + index), Interest::READABLE)?;
        }
        let max_pipes = max_pipes();
        let mut config = Config::new(GATEWAY_MAC, Some(Ipv4Cidr::new(GATEWAY, PREFIX_BITS)), None, seed);
        config.mtu_bytes = MTU_BYTES;
        config.software_checksums = false;
        config.any_ip = true;
        config.tcp_rx_bytes = BUFFER_BYTES;
        config.tcp_tx_bytes = BUFFER_BYTES;
        config.max_connections = max_pipes + OUTBOUND_ATTEMPTS;
        let mut stack = Stack::new(config, now_ns).map_err(|error| io::Error::other(error.to_string()))?;
        stack.intercept(OUTBOUND_ATTEMPTS);
        // Spares a round trip at the first connection. It is no fault when the guest has another address.
        let _ = stack.learn_neighbor(GUEST, GUEST_MAC);
        Ok(Self {
            stack,
            registry,
            tokens,
            published,
            pipes: Vec::new(),
            free: Vec::new(),
            max_pipes,
            pipe_of: Vec::new(),
            probes: Vec::new(),
            datagrams: Datagrams::default(),
            allow_host,
            guest_gone: false,
            counters: ForwardCounters::default(),
        })
    }

    /// The published ports.
    pub fn published(&self) -> &[Published] {
        &self.published
    }

    /// Pipes open now.
    pub fn open_pipes(&self) -> usize {
        self.pipes.len() - self.free.len()
    }

    /// Takes a frame of the guest.
    pub fn receive(&mut self, now_ns: u64, frame: &[u8], wire: &mut Wire) {
        self.expect_datagram(frame);
        self.stack.receive(now_ns, frame, wire);
    }

    /// A listener has connections.
    pub fn listener_ready(&mut self, index: usize) {
        if let Some(published) = self.published.get_mut(index) {
            published.ready = true;
        }
    }

    /// A host socket changed.
    pub fn socket_ready(&mut self, index: usize, event: &mio::event::Event) {
        let Some(Some(pipe)) = self.pipes.get_mut(index) else {
            return;
        };
        pipe.note(event);
        self.serve_pipe(index);
    }

    /// No machine runs any more and none will: clients, those to come included, are told by a reset instead of left
    /// waiting. What the guest said last goes to them before.
    pub fn guest_has_gone(&mut self) {
        self.guest_gone = true;
    }

    /// Closes the published ports.
    pub fn end(&mut self) {
        self.published.clear();
    }

    /// Does all that can be done now: accepts clients if they may come, moves bytes, sends. Returns when to call again
    /// at the latest.
    pub fn run(&mut self, now_ns: u64, wire: &mut Wire, accepting: bool) -> Option<u64> {
        if accepting {
            self.accept_clients();
        }
        self.run_probes(now_ns);
        let mut stack_due = None;
        for _ in 0..ROUNDS_A_TURN {
            self.handle_events(now_ns);
            stack_due = self.stack.poll(now_ns, wire);
            // Sending may have ended connections, and their ends may have something to send.
            if !self.stack.has_events() {
                break;
            }
        }
        if self.stack.has_events() {
            stack_due = Some(now_ns);
        } else if self.guest_gone {
            (0..self.pipes.len()).for_each(|index| self.drop_pipe(index, true));
        }
        let more_clients = accepting && self.published.iter().any(|published| published.ready);
        let accepts_due = more_clients.then_some(now_ns);
        [stack_due, accepts_due, self.probes_due(), self.expire_flows(now_ns)].into_iter().flatten().min()
    }

    fn handle_events(&mut self, now_ns: u64) {
        while let Some(event) = self.stack.next_event() {
            match event {
                Event::Connection(conn, readiness) => self.connection_changed(conn, readiness, now_ns),
                Event::Incoming(id) => self.guest_connects(id),
                Event::Datagram(id, _) => self.datagrams_arrived(id, now_ns),
                Event::Acceptable(_) | Event::Address => {}
            }
        }
    }

    fn connection_changed(&mut self, conn: ConnId, readiness: Readiness, now_ns: u64) {
        match self.pipe_of.get(conn.index()) {
            Some(&Some((owner, index))) if owner == conn => self.serve_pipe_after(index, readiness),
            _ => self.probe_changed(conn, readiness, now_ns),
        }
    }

    fn serve_pipe_after(&mut self, index: usize, readiness: Readiness) {
        if let Some(Some(pipe)) = self.pipes.get_mut(index) {
            pipe.guest_connected |= readiness.contains(Readiness::CONNECTED);
        }
        self.serve_pipe(index);
    }

    /// Moves what can be moved and drops the pipe when it has ended.
    fn serve_pipe(&mut self, index: usize) {
        let Some(Some(pipe)) = self.pipes.get_mut(index) else {
            return;
        };
        if pipe.awaits_host() {
            return self.host_answered(index);
        }
        match pipe.serve(&mut self.stack) {
            None => {}
            Some(Ended::Clean) => self.drop_pipe(index, false),
            Some(Ended::Reset) => self.drop_pipe(index, true),
        }
    }

    fn accept_clients(&mut self) {
        for index in 0..self.published.len() {
            for _ in 0..ACCEPTS_A_TURN {
                let published = &mut self.published[index];
                if !published.ready {
                    break;
                }
                match published.listener.accept() {
                    Ok((stream, _)) => {
                        let guest = SocketAddrV4::new(GUEST, published.guest_port);
                        self.client_connected(stream, guest);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => published.ready = false,
                    // The client went away before we looked.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    // The system is short of something: those who wait are taken when the next one comes.
                    Err(_) => published.ready = false,
                }
            }
        }
    }

    fn client_connected(&mut self, stream: TcpStream, guest: SocketAddrV4) {
        if self.guest_gone || self.open_pipes() >= self.max_pipes {
            self.counters.refused += 1;
            return pipe::reset(&stream);
        }
        match self.stack.connect(guest) {
            Ok(conn) => {
                self.counters.accepted += 1;
                self.add_pipe(Pipe::to_guest(stream, conn));
            }
            Err(_) => {
                self.counters.refused += 1;
                pipe::reset(&stream);
            }
        }
    }

    /// Registers a pipe and returns its index; a pipe that cannot be registered is dropped with its connections.
    fn add_pipe(&mut self, mut pipe: Pipe) -> Option<usize> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.pipes.push(None);
            self.pipes.len() - 1
        });
        let token = Token(self.tokens.pipes + index);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.registry.register(&mut pipe.stream, token, interest).is_err() {
            pipe.abandon(&mut self.stack);
            self.free.push(index);
            return None;
        }
        if let Some(conn) = pipe.conn() {
            self.own(conn, index);
        }
        self.pipes[index] = Some(pipe);
        Some(index)
    }

    fn own(&mut self, conn: ConnId, index: usize) {
        if self.pipe_of.len() <= conn.index() {
            self.pipe_of.resize(conn.index() + 1, None);
        }
        self.pipe_of[conn.index()] = Some((conn, index));
    }

    fn drop_pipe(&mut self, index: usize, with_reset: bool) {
        let Some(mut pipe) = self.pipes.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.free.push(index);
        if let Some(conn) = pipe.conn() {
            self.pipe_of[conn.index()] = None;
        }
        // Closing removes it from the registry too; failing to do it first costs nothing.
        let _ = self.registry.deregister(&mut pipe.stream);
        if with_reset {
            self.counters.reset += 1;
            pipe.abandon(&mut self.stack);
        } else if let Some(conn) = pipe.conn() {
            // Both sides have finished; a stale id means that the stack has forgotten it already.
            let _: Result<(), StackError> = self.stack.close(conn);
        }
    }
}

/// How many pipes the limit of descriptors allows, after raising it as far as the system lets us.
fn max_pipes() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused is as good as unchanged: the number below is read back.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(RESERVED_DESCRIPTORS);
    usize::try_from(allowed).unwrap_or(usize::MAX).clamp(1, MAX_PIPES)
}

#[cfg(test)]
mod tests;
