//! The uplink for production: a tap that is a port of a bridge of this host.
//!
//! The guest's frames go to the tap as they are, and those for the guest come from it. The tap is the supervisor's, not
//! a replica's: when another replica is promoted, the bridge sees the same port and the same Ethernet address, so
//! nothing has to be announced.
//!
//! A frame for a guest costs an epoch at both replicas, and a bridge floods its ports. So what no guest can want
//! stays outside: frames to other stations, multicast (IPv6 neighbours, spanning tree), and what is neither IPv4 nor ARP.

mod device;
mod lease;

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use netstack::FrameSink;
use protocol::control::Network;
use rustix::io::Errno;

pub use self::device::{TapDevice, TapError};
use super::net::{Mac, StaticAddress};

/// Longest frame that is taken: an MTU of 9000 bytes, the Ethernet header and a VLAN tag.
const MAX_FRAME_BYTES: usize = 9018;
/// Frames read in one turn, so that a flood does not keep the replicas waiting.
const FRAMES_A_TURN: usize = 512;
/// Bytes that may wait for a tap that takes no more; what comes then is dropped, as on any full wire.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
const ETHERNET_HEADER_BYTES: usize = 14;
const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// What a tap has not passed on.
#[derive(Debug, Clone, Copy, Default)]
pub struct TapCounters {
    /// Frames for others, or of protocols that no guest speaks.
    pub filtered: u64,
    /// Frames of the guest that the tap did not take.
    pub dropped: u64,
}

/// A tap with a guest behind it.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    mtu_bytes: u16,
    mac: Mac,
    address: Option<StaticAddress>,
    /// What a DHCP server has last given the guest.
    leased: Option<Ipv4Addr>,
    /// There may be frames to be read.
    readable: bool,
    /// Frames of the guest that the tap did not take yet.
    waiting: VecDeque<Box<[u8]>>,
    waiting_bytes: usize,
    /// Why the tap is of no more use, if it is.
    failure: Option<Errno>,
    scratch: Box<[u8; MAX_FRAME_BYTES]>,
    /// Counters.
    pub counters: TapCounters,
}

impl Tap {
    /// Watches a tap for a guest with this address; `None` is one that asks a DHCP server.
    ///
    /// # Errors
    /// The system's.
    pub fn new(
        device: TapDevice,
        mac: Mac,
        address: Option<StaticAddress>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let fd = device.fd.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self::over(device, mac, address))
    }

    fn over(device: TapDevice, mac: Mac, address: Option<StaticAddress>) -> Self {
        Self {
            fd: device.fd,
            mtu_bytes: device.mtu_bytes,
            mac,
            address,
            leased: None,
            readable: true,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            failure: None,
            scratch: Box::new([0; MAX_FRAME_BYTES]),
            counters: TapCounters::default(),
        }
    }

    /// How the guest's network is configured. Frames leave this host, so checksums are made and verified.
    pub fn network(&self) -> Network {
        let fixed = self.address;
        let octets = |address: Option<Ipv4Addr>| address.map_or([0; 4], |address| address.octets());
        Network {
            mac: self.mac.0,
            address: octets(fixed.map(|fixed| fixed.address)),
            prefix_bits: fixed.map_or(0, |fixed| fixed.prefix_bits),
            gateway: octets(fixed.and_then(|fixed| fixed.gateway)),
            mtu_bytes: self.mtu_bytes,
            dhcp: fixed.is_none(),
            checksums: true,
        }
    }

    /// The guest's address: the fixed one, or the one that was seen to be leased to it.
    pub fn guest_address(&self) -> Option<Ipv4Addr> {
        self.address.map(|fixed| fixed.address).or(self.leased)
    }

    /// Why the tap is of no more use, if it is: somebody has removed it.
    pub fn failure(&self) -> Option<io::Error> {
        self.failure.map(Into::into)
    }

    /// The tap has changed.
    pub fn ready(&mut self) {
        self.readable = true;
    }

    /// Takes a frame of the guest.
    pub fn receive(&mut self, frame: &[u8]) {
        if self.waiting.is_empty() && self.write(frame) {
            return;
        }
        if self.failure.is_some() || self.waiting_bytes + frame.len() > MAX_WAITING_BYTES {
            self.counters.dropped += 1;
            return;
        }
        self.waiting_bytes += frame.len();
        self.waiting.push_back(frame.into());
    }

    /// Writes what waits and reads what there is for the guest. Returns when to call again at the latest: at once, when
    /// there is more than one turn may take.
    pub fn run(&mut self, now_ns: u64, wire: &mut impl FrameSink) -> Option<u64> {
        while let Some(frame) = self.waiting.pop_front() {
            if !self.write(&frame) {
                self.waiting.push_front(frame);
                break;
            }
            self.waiting_bytes -= frame.len();
        }
        for _ in 0..FRAMES_A_TURN {
            // A wire that is full has room again after an event of its own; the system keeps the frames.
            if !self.readable || !wire.has_room() {
                return None;
            }
            self.read(wire);
        }
        Some(now_ns)
    }

    fn read(&mut self, wire: &mut impl FrameSink) {
        match rustix::io::read(&self.fd, &mut self.scratch[..]) {
            Ok(0) | Err(Errno::AGAIN) => self.readable = false,
            Ok(length) => {
                let frame = &self.scratch[..length];
                if !wanted(frame, self.mac.0) {
                    self.counters.filtered += 1;
                    return;
                }
                if self.address.is_none() {
                    self.leased = lease::leased_address(frame, self.mac.0).or(self.leased);
                }
                wire.transmit(length, |buffer| buffer.copy_from_slice(frame));
            }
            Err(Errno::INTR) => {}
            Err(error) => {
                self.readable = false;
                self.failed(error);
            }
        }
    }

    /// Hands a frame to the system. Returns whether it is done with.
    fn write(&mut self, frame: &[u8]) -> bool {
        loop {
            match rustix::io::write(&self.fd, frame) {
                Ok(_) => return true,
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR) => {}
                Err(error) => {
                    // A tap that is down (EIO) or short of memory loses this frame and takes the next.
                    self.counters.dropped += 1;
                    self.failed(error);
                    return true;
                }
            }
        }
    }

    fn failed(&mut self, error: Errno) {
        if error == Errno::BADFD && self.failure.is_none() {
            self.failure = Some(error);
        }
    }
}

/// Whether a frame can concern the guest: a whole one, to it or to all, of a protocol that it speaks.
fn wanted(frame: &[u8], mac: [u8; 6]) -> bool {
    let Some((header, _)) = frame.split_first_chunk::<ETHERNET_HEADER_BYTES>() else {
        return false;
    };
    let to_guest = header[..6] == mac || header[..6] == BROADCAST;
    to_guest && (header[12..] == ETHERTYPE_IPV4 || header[12..] == ETHERTYPE_ARP)
}

#[cfg(test)]
mod tests;
