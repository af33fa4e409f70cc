//! One direction of the replication link: a stream of bytes with delays, whole and in order until it is closed.

use std::collections::VecDeque;

use super::rng::Rng;

/// What arrives at the end of a pipe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The next bytes of the stream.
    Bytes(Vec<u8>),
    /// The stream is closed.
    Closed,
}

/// The bytes on their way in one direction.
#[derive(Clone, Debug, Default)]
pub struct Pipe {
    in_flight: VecDeque<(u64, Arrival)>,
    last_arrival_ns: u64,
    stalled_until_ns: u64,
    closed: bool,
}

impl Pipe {
    /// Sends bytes that would take `delay_ns` on an empty pipe, and returns when they arrive; `None` if they never do.
    pub fn send(&mut self, now_ns: u64, delay_ns: u64, bytes: Vec<u8>) -> Option<u64> {
        (!self.closed).then(|| self.push(now_ns + delay_ns, Arrival::Bytes(bytes)))
    }

    fn push(&mut self, earliest_ns: u64, arrival: Arrival) -> u64 {
        let at_ns = earliest_ns.max(self.last_arrival_ns).max(self.stalled_until_ns);
        self.last_arrival_ns = at_ns;
        self.in_flight.push_back((at_ns, arrival));
        at_ns
    }

    /// Closes the pipe behind what is in flight; returns when that is noticed, if it was open.
    pub fn close(&mut self, now_ns: u64, delay_ns: u64) -> Option<u64> {
        if self.closed {
            return None;
        }
        self.closed = true;
        Some(self.push(now_ns + delay_ns, Arrival::Closed))
    }

    /// Nothing more is taken; the receiver does not notice.
    pub fn close_silently(&mut self) {
        self.closed = true;
    }

    /// Whether the pipe still takes bytes.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !self.closed
    }

    /// Loses a random tail of what is in flight: the sender's machine or the wire is gone. Bytes before it arrive.
    /// Returns whether the cut went through the middle of a piece.
    pub fn lose_tail(&mut self, rng: &mut Rng) -> bool {
        let keep = rng.below(self.in_flight.len() as u64 + 1) as usize;
        let mut inside = false;
        if let Some((_, Arrival::Bytes(bytes))) = self.in_flight.get_mut(keep)
            && rng.chance(50)
        {
            bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
            inside = !bytes.is_empty();
            self.in_flight.truncate(keep + 1);
        } else {
            self.in_flight.truncate(keep);
        }
        inside
    }

    /// Nothing arrives before this time; what is in flight is late, not lost.
    pub fn stall(&mut self, until_ns: u64) {
        self.stalled_until_ns = self.stalled_until_ns.max(until_ns);
        for (at_ns, _) in &mut self.in_flight {
            *at_ns = (*at_ns).max(until_ns);
        }
        self.last_arrival_ns = self.last_arrival_ns.max(until_ns);
    }

    /// Changes the newest bytes in flight; returns whether there were any.
    pub fn tamper(&mut self, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let newest = self.in_flight.iter_mut().rev().find_map(|(_, arrival)| match arrival {
            Arrival::Bytes(bytes) if !bytes.is_empty() => Some(bytes),
            _ => None,
        });
        newest.map(change).is_some()
    }

    /// Takes the next arrival that is due.
    pub fn receive(&mut self, now_ns: u64) -> Option<Arrival> {
        match self.in_flight.front() {
            Some((at_ns, _)) if *at_ns <= now_ns => self.in_flight.pop_front().map(|(_, arrival)| arrival),
            _ => None,
        }
    }

    /// When the next arrival is due.
    #[must_use]
    pub fn next_arrival_ns(&self) -> Option<u64> {
        self.in_flight.front().map(|(at_ns, _)| *at_ns)
    }
}
