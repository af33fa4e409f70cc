//! What a caller decides about a stack.

use core::fmt;
use core::net::Ipv4Addr;

use smoltcp::wire::{EthernetAddress, Ipv4Cidr};

/// Smallest IPv4 MTU that every link must carry, in bytes (RFC 791).
pub const MIN_MTU_BYTES: usize = 576;

/// Largest MTU that an IPv4 total length field can express, in bytes.
pub const MAX_MTU_BYTES: usize = 65_535;

/// How fast TCP may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// Only the peer's window limits: right for a link that does not lose frames, such as the hub.
    None,
    /// Reno (RFC 5681): right for a bridge into a real network.
    #[cfg(feature = "reno")]
    Reno,
}

/// Parameters of a [`Stack`](crate::Stack).
///
/// A connection costs `tcp_rx_bytes + tcp_tx_bytes` of heap plus about 1 KiB, from its SYN until it is reclaimed;
/// `max_connections` therefore bounds the memory of the whole stack.
#[derive(Debug, Clone)]
pub struct Config {
    /// Own Ethernet address; must be unicast.
    pub mac: [u8; 6],
    /// Own address and prefix; `None` asks a DHCP server.
    pub ip: Option<Ipv4Cidr>,
    /// Default router. With DHCP the server's answer replaces it.
    pub gateway: Option<Ipv4Addr>,
    /// Largest IP packet in bytes, without the 14-byte Ethernet header.
    pub mtu_bytes: usize,
    /// Seeds initial sequence numbers, ephemeral ports and the hash of the flow table. Equal seeds and equal calls
    /// give equal frames; it must be unpredictable for outsiders.
    pub seed: u64,
    /// Whether IPv4, TCP, UDP and ICMP checksums are verified on arrival and filled on departure. `false` is for a
    /// link that already protects its content: checksum fields then leave as zero and arrive unread.
    pub software_checksums: bool,
    /// Whether packets to any destination are taken as our own (the hub's gateway). Intercepting their connections
    /// is enabled with [`Stack::intercept`](crate::Stack::intercept).
    pub any_ip: bool,
    /// Receive buffer of a connection, in bytes: also the largest window offered.
    pub tcp_rx_bytes: usize,
    /// Send buffer of a connection, in bytes.
    pub tcp_tx_bytes: usize,
    /// Most TCP connections at once, half-open and closing ones included.
    pub max_connections: usize,
    /// Most connections kept in TIME-WAIT; the oldest goes first.
    pub max_time_wait: usize,
    /// Interval of keep-alive probes on an idle connection; `None` sends none. Three in a row that nobody answers end it,
    /// or `user_timeout_ms` after the first.
    pub keep_alive_ms: Option<u64>,
    /// A connection idle for longer is aborted; `None` lets it idle for ever.
    pub idle_timeout_ms: Option<u64>,
    /// How long a peer may leave a handshake that it began unfinished, and how long an intercepted SYN may wait for
    /// a decision.
    pub half_open_timeout_ms: u64,
    /// How long unacknowledged data, an unanswered [`connect`](crate::Stack::connect) or an unanswered keep-alive
    /// probe may go without a sign of the peer before the connection is aborted (RFC 5482).
    pub user_timeout_ms: u64,
    /// How long a connection that the program has closed may take to finish before it is aborted.
    pub close_timeout_ms: u64,
    /// How long an acknowledgement may wait for data to ride on; `None` acknowledges at once.
    pub ack_delay_ms: Option<u64>,
    /// Whether small segments wait for earlier data to be acknowledged (Nagle, RFC 896).
    pub nagle: bool,
    /// Congestion control.
    pub congestion: Congestion,
}

impl Config {
    /// A configuration with a fixed address and defaults meant for a server on the hub.
    #[must_use]
    pub fn new(mac: [u8; 6], ip: Option<Ipv4Cidr>, gateway: Option<Ipv4Addr>, seed: u64) -> Self {
        Self {
            mac,
            ip,
            gateway,
            mtu_bytes: 1500,
            seed,
            software_checksums: true,
            any_ip: false,
            tcp_rx_bytes: 16 * 1024,
            tcp_tx_bytes: 16 * 1024,
            max_connections: 1024,
            max_time_wait: 64,
            keep_alive_ms: None,
            idle_timeout_ms: None,
            half_open_timeout_ms: 5_000,
            user_timeout_ms: 60_000,
            close_timeout_ms: 10_000,
            ack_delay_ms: Some(10),
            nagle: false,
            congestion: Congestion::None,
        }
    }

    /// Checks every value that would otherwise fail deep inside the stack.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !EthernetAddress(self.mac).is_unicast() {
            return Err(ConfigError::MacNotUnicast(self.mac));
        }
        for address in self.ip.map(|cidr| cidr.address()).into_iter().chain(self.gateway) {
            if address.is_broadcast() || address.is_multicast() || address.is_unspecified() {
                return Err(ConfigError::AddressNotUnicast(address));
            }
        }
        if !(MIN_MTU_BYTES..=MAX_MTU_BYTES).contains(&self.mtu_bytes) {
            return Err(ConfigError::Mtu(self.mtu_bytes));
        }
        for bytes in [self.tcp_rx_bytes, self.tcp_tx_bytes] {
            if !(1..=1 << 30).contains(&bytes) {
                return Err(ConfigError::BufferSize(bytes));
            }
        }
        if self.max_connections == 0 || u32::try_from(self.max_connections).is_err() {
            return Err(ConfigError::MaxConnections(self.max_connections));
        }
        Ok(())
    }
}

/// Why a [`Config`] was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigError {
    /// The Ethernet address is a multicast or broadcast address.
    MacNotUnicast([u8; 6]),
    /// An IP address is unspecified, broadcast or multicast.
    AddressNotUnicast(Ipv4Addr),
    /// The MTU, in bytes, is outside [`MIN_MTU_BYTES`]`..=`[`MAX_MTU_BYTES`].
    Mtu(usize),
    /// A TCP buffer, in bytes, is empty or beyond 1 GiB, the largest window (RFC 7323).
    BufferSize(usize),
    /// The number of connections is zero or does not fit an index.
    MaxConnections(usize),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MacNotUnicast(mac) => {
                write!(
                    f,
                    "Ethernet address {} is not unicast: clear the lowest bit of its first byte",
                    EthernetAddress(*mac)
                )
            }
            Self::AddressNotUnicast(ip) => write!(f, "IP address {ip} is not unicast: choose one of a host"),
            Self::Mtu(bytes) => {
                write!(f, "MTU is {bytes} bytes, expected {MIN_MTU_BYTES} to {MAX_MTU_BYTES}")
            }
            Self::BufferSize(bytes) => write!(f, "TCP buffer is {bytes} bytes, expected 1 to {}", 1 << 30),
            Self::MaxConnections(n) => write!(f, "{n} connections allowed, expected 1 to {}", u32::MAX),
        }
    }
}

impl core::error::Error for ConfigError {}
