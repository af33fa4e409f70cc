//! What a program decides about its network.

use core::fmt;
use core::net::Ipv4Addr;

use hypercall::layout::{BootInfo, NET_CHECKSUM_OFFLOAD, NET_DHCP};
use netstack::{Config, ConfigError, Ipv4Cidr};

use crate::random;
use crate::time::Duration;

/// Heap that a connection costs beyond its two buffers, in bytes: its socket, its place in the tables, and a task
/// that serves it. An estimate on the safe side.
pub const CONNECTION_BYTES: usize = 2048;

/// Most connections that the default allows, however much memory there is.
const DEFAULT_MOST_CONNECTIONS: usize = 10_000;

/// Parameters of the network that are the program's; address, router and MTU are the machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Receive buffer of a connection, in bytes.
    pub tcp_rx_bytes: usize,
    /// Send buffer of a connection, in bytes.
    pub tcp_tx_bytes: usize,
    /// Most connections at once; `None` for as many as a third of the heap holds, and 10,000 at most. Further ones
    /// are refused by a reset.
    pub max_connections: Option<usize>,
    /// Interval of keep-alive probes on idle connections.
    pub keep_alive: Option<Duration>,
    /// Idle connections are reset after this time.
    pub idle_timeout: Option<Duration>,
    /// How long an acknowledgement may wait for an answer to ride on.
    pub ack_delay: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tcp_rx_bytes: 4 * 1024,
            tcp_tx_bytes: 8 * 1024,
            max_connections: None,
            keep_alive: Some(Duration::from_secs(60)),
            idle_timeout: None,
            ack_delay: Some(Duration::from_millis(10)),
        }
    }
}

/// Why the network did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartError {
    /// Nothing to start on: the code does not run in a machine.
    NoMachine,
    /// It has started, by an earlier call or by the first use of a socket.
    AlreadyStarted,
    /// The shim gave an address or prefix that is none.
    Address {
        /// The address.
        address: Ipv4Addr,
        /// The prefix length in bits.
        prefix_bits: u32,
    },
    /// The shim gave no random bytes to seed sequence numbers.
    Entropy(random::Error),
    /// A value of the options is out of range.
    Config(ConfigError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMachine => f.write_str("there is no machine to run a network on"),
            Self::AlreadyStarted => f.write_str("the network has started already: set its options first thing in main"),
            Self::Address { address, prefix_bits } => {
                write!(f, "the machine's address {address}/{prefix_bits} has no valid prefix: expected 0 to 32 bits")
            }
            Self::Entropy(error) => write!(f, "no seed for sequence numbers: {error}"),
            Self::Config(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Options {
    /// Heap that one connection takes, in bytes.
    pub fn connection_bytes(&self) -> usize {
        self.tcp_rx_bytes + self.tcp_tx_bytes + CONNECTION_BYTES
    }

    /// How many connections these options allow on a heap of this size.
    pub fn connections_for(&self, heap_bytes: usize) -> usize {
        let fitting = heap_bytes / 3 / self.connection_bytes();
        self.max_connections.unwrap_or(fitting.clamp(1, DEFAULT_MOST_CONNECTIONS))
    }

    pub(super) fn resolve(&self, boot: &BootInfo) -> Result<Config, StartError> {
        let net = &boot.net;
        let [mac @ .., _, _] = net.mac;
        let address = Ipv4Addr::from(net.address);
        let ip = if net.flags & NET_DHCP != 0 {
            None
        } else {
            let prefix = u8::try_from(net.prefix_bits).ok().filter(|bits| *bits <= 32);
            let bits = prefix.ok_or(StartError::Address { address, prefix_bits: net.prefix_bits })?;
            Some(Ipv4Cidr::new(address, bits))
        };
        let gateway = (net.gateway != 0).then(|| Ipv4Addr::from(net.gateway));
        let mut seed = [0; 8];
        random::fill(&mut seed).map_err(StartError::Entropy)?;
        let in_memory = net.flags & NET_CHECKSUM_OFFLOAD != 0;
        let mut config = Config::new(mac, ip, gateway, u64::from_le_bytes(seed));
        config.mtu_bytes = net.mtu_bytes as usize;
        config.software_checksums = !in_memory;
        config.tcp_rx_bytes = self.tcp_rx_bytes;
        config.tcp_tx_bytes = self.tcp_tx_bytes;
        config.max_connections = self.connections_for(boot.heap_bytes as usize);
        config.keep_alive_ms = self.keep_alive.map(millis);
        config.idle_timeout_ms = self.idle_timeout.map(millis);
        config.ack_delay_ms = self.ack_delay.map(millis);
        #[cfg(feature = "reno")]
        if !in_memory {
            config.congestion = netstack::Congestion::Reno;
        }
        Ok(config)
    }
}
