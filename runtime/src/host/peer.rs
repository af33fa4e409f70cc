//! A world with one other host on the guest's wire: a TCP/IP stack of its own, driven by the test.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::vec;
use std::vec::Vec;

use netstack::dhcp_server::DhcpServer;
use netstack::{Config, Congestion, FrameSink, Ipv4Cidr, Stack};

use super::{Boundary, World};

/// Time that an epoch with traffic takes, in nanoseconds.
const BUSY_EPOCH_NS: u64 = 20_000;

/// What the program of the other host wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Go on; wake me at this time (nanoseconds) or when a frame has come. `u64::MAX` is no time.
    Until(u64),
    /// Everything is done: stop the machine.
    Done,
}

/// The program of the other host.
pub trait Driver {
    /// Called at every epoch boundary, after the guest's frames were taken in and before ours leave.
    fn step(&mut self, stack: &mut Stack, now_ns: u64) -> Step;
}

/// Frames under way to the guest.
#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

impl FrameSink for Outbox {
    fn has_room(&self) -> bool {
        true
    }

    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.resize(len_bytes, 0);
        let result = fill(&mut frame);
        self.frames.push_back(frame);
        result
    }
}

/// The other host, 10.0.2.2.
pub struct Peer<D> {
    stack: Stack,
    outbox: Outbox,
    /// Answers the guest's DHCP requests.
    pub dhcp: Option<DhcpServer>,
    /// Most frames taken from the guest at one boundary: a slow device keeps the ring full.
    pub frames_taken: usize,
    /// Its program.
    pub driver: D,
}

impl<D> Peer<D> {
    /// A host with room for this many connections.
    ///
    /// # Panics
    /// If `max_connections` is zero.
    pub fn new(driver: D, max_connections: usize) -> Self {
        let gateway = Ipv4Addr::new(10, 0, 2, 2);
        let mut config = Config::new([2, 0, 0, 0, 0, 2], Some(Ipv4Cidr::new(gateway, 24)), None, 42);
        config.mtu_bytes = 9000;
        config.software_checksums = false;
        config.tcp_rx_bytes = 64 * 1024;
        config.tcp_tx_bytes = 64 * 1024;
        config.max_connections = max_connections;
        config.congestion = Congestion::None;
        let stack = Stack::new(config, 0).expect("the configuration is sound");
        let outbox = Outbox { frames: VecDeque::new(), spare: vec![] };
        Self { stack, outbox, dhcp: None, frames_taken: usize::MAX, driver }
    }
}

impl<D: Driver> World for Peer<D> {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        let now_ns = boundary.now_ns();
        let mut traffic = false;
        for _ in 0..self.frames_taken {
            let (stack, outbox, dhcp) = (&mut self.stack, &mut self.outbox, &self.dhcp);
            let taken = boundary.take_frame(|frame| {
                if !dhcp.as_ref().is_some_and(|dhcp| dhcp.serve(frame, outbox)) {
                    stack.receive(now_ns, frame, outbox);
                }
            });
            if taken.is_none() {
                break;
            }
            traffic = true;
        }
        let until_ns = match self.driver.step(&mut self.stack, now_ns) {
            Step::Done => return boundary.stop(),
            Step::Until(until_ns) => until_ns,
        };
        let deadline_ns = self.stack.poll(now_ns, &mut self.outbox).unwrap_or(u64::MAX).min(until_ns);
        while let Some(frame) = self.outbox.frames.front() {
            if !boundary.deliver(frame) {
                break;
            }
            traffic = true;
            self.outbox.spare.extend(self.outbox.frames.pop_front());
        }
        let next_ns = boundary.deadline_ns().min(deadline_ns);
        boundary.set_now_ns(if traffic { now_ns + BUSY_EPOCH_NS } else { next_ns.max(now_ns + 1) });
    }
}
