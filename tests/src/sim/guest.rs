//! The toy guest: a deterministic machine whose every output depends on all that it has seen.

use protocol::Clocks;
use protocol::digest::Digest64;
use protocol::event::{Event, EventReader};

use super::disk::{BLOCKS, Disk, Request};
use super::knowledge::Knowledge;
use super::rng::mix;

/// First word of an output that answers no request.
pub const TIMER_OUTPUT: u64 = u64::MAX;
/// First word of the output that a guest writes when it exits.
pub const EXIT_OUTPUT: u64 = u64::MAX - 1;

/// What an epoch came to.
#[derive(Clone, Debug)]
pub struct EpochResult {
    /// Digest of the epoch: state and outputs.
    pub digest: u64,
    /// The outputs, in order.
    pub outputs: Vec<Vec<u8>>,
    /// What it asks its disk for, in order.
    pub requests: Vec<Request>,
    /// What the guest finds wrong with its disk.
    pub complaint: Option<String>,
    /// What flushes that it has heard of promise.
    pub promises: Vec<[u64; BLOCKS]>,
    /// The guest has ended.
    pub stopped: bool,
}

/// The guest. Two of them that see the same events and clocks are equal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guest {
    state: u64,
    timer_at_ns: u64,
    timer_period_ns: u64,
    requests_taken: u64,
    exit_after_requests: Option<u64>,
    stopped: bool,
    /// It has a disk, and knows this about it.
    disk: Option<Knowledge>,
}

impl Guest {
    /// A guest that has not run. It exits after some requests if it is told so, and wakes itself at the period.
    #[must_use]
    pub fn new(exit_after_requests: Option<u64>, timer_period_ns: u64, has_disk: bool) -> Self {
        let disk = has_disk.then(Knowledge::default);
        Self { state: 1, timer_at_ns: 0, timer_period_ns, requests_taken: 0, exit_after_requests, stopped: false, disk }
    }

    /// When the guest wants to run although nothing has happened, on its own monotonic clock.
    #[must_use]
    pub const fn timer_at_ns(&self) -> u64 {
        self.timer_at_ns
    }

    /// What it knows of its disk, if it has one.
    #[must_use]
    pub const fn knowledge(&self) -> Option<&Knowledge> {
        self.disk.as_ref()
    }

    /// Whether the guest has ended.
    #[must_use]
    pub const fn stopped(&self) -> bool {
        self.stopped
    }

    /// All of it, and what its shim knows beside it.
    #[must_use]
    pub fn save(&self, frames_in_log: u64) -> Vec<u8> {
        let mut words = vec![
            self.state,
            self.timer_at_ns,
            self.timer_period_ns,
            self.requests_taken,
            self.exit_after_requests.map_or(0, |requests| requests + 1),
            self.stopped.into(),
            frames_in_log,
        ];
        words.extend(self.disk.iter().flat_map(Knowledge::save));
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// What [`Self::save`] has written.
    #[must_use]
    pub fn load(bytes: &[u8]) -> Option<(Self, u64)> {
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (fixed, disk) = words.split_first_chunk()?;
        let [state, timer_at_ns, timer_period_ns, requests_taken, exit, stopped, frames_in_log] = *fixed;
        let disk = if disk.is_empty() { None } else { Some(Knowledge::load(disk)?) };
        let exit_after_requests = exit.checked_sub(1);
        let stopped = stopped != 0;
        Some((
            Self { state, timer_at_ns, timer_period_ns, requests_taken, exit_after_requests, stopped, disk },
            frames_in_log,
        ))
    }

    /// A cosmic ray.
    pub const fn flip_bit(&mut self, bit: u32) {
        self.state ^= 1 << (bit % 64);
    }

    /// Runs one epoch. What its disk has done it learns from there.
    ///
    /// # Panics
    /// If the events are malformed: the codec has let something through.
    pub fn run(&mut self, clocks: Clocks, events: &[u8], disk: &mut Disk) -> EpochResult {
        let mut outputs = Vec::new();
        let (mut requests, mut promises, mut complaint) = (Vec::new(), Vec::new(), None);
        self.absorb(clocks.monotonic_ns);
        self.absorb(clocks.realtime_ns);
        for event in EventReader::new(events) {
            match event.expect("events were validated when they were read") {
                Event::Frame(frame) => {
                    self.request(frame, &mut outputs);
                    self.use_disk(&mut requests);
                }
                Event::ConsoleInput(bytes) => self.absorb(bytes.len() as u64),
                Event::Reseed(seed) => self.absorb(u64::from(seed[0])),
                Event::Uncertain(uncertain) => {
                    self.absorb(uncertain.operation);
                    for number in disk.end_uncertain() {
                        match self.ask_again(number) {
                            Ok(request) => requests.extend(request),
                            Err(text) => complaint = Some(text),
                        }
                    }
                }
                Event::DiskData(data) => {
                    disk.bring(data.number, data.bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word)));
                }
                Event::DiskDone(completion) => {
                    let value = disk.complete(completion.number);
                    match self.hear_of_disk(completion.number, completion.status, value) {
                        Ok(promise) => promises.extend(promise),
                        Err(text) => complaint = Some(text),
                    }
                }
            }
        }
        if !self.stopped && clocks.monotonic_ns >= self.timer_at_ns {
            self.timer_at_ns = clocks.monotonic_ns + self.timer_period_ns;
            outputs.push(self.output(TIMER_OUTPUT));
        }
        let mut digest = Digest64::new(self.state);
        outputs.iter().for_each(|output| digest.write_bytes(output));
        EpochResult { digest: digest.finish(), outputs, requests, complaint, promises, stopped: self.stopped }
    }

    fn request(&mut self, frame: &[u8], outputs: &mut Vec<Vec<u8>>) {
        if self.stopped {
            return;
        }
        let id = frame.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        self.absorb(id);
        self.requests_taken += 1;
        outputs.push(self.output(id));
        if self.exit_after_requests == Some(self.requests_taken) {
            outputs.push(self.output(EXIT_OUTPUT));
            self.stopped = true;
        }
    }

    /// Asks the disk for up to three things after each request of the client.
    fn use_disk(&mut self, requests: &mut Vec<Request>) {
        let Some(knowledge) = &mut self.disk else { return };
        let chance = mix(self.state);
        for index in 0..chance % 4 {
            let draw = mix(chance.wrapping_add(index));
            let block = (draw >> 8) as usize % BLOCKS;
            let request = match draw % 4 {
                0 => Request::Read(block),
                1 => Request::Flush,
                // Values grow, so that older and newer can be told.
                _ => Request::Write(block, 4 * self.requests_taken + index + 1),
            };
            knowledge.ask(request);
            requests.push(request);
        }
    }

    fn ask_again(&mut self, number: u64) -> Result<Option<Request>, String> {
        self.absorb(number);
        self.disk.as_mut().map(|knowledge| knowledge.ask_again(number)).transpose()
    }

    fn hear_of_disk(&mut self, number: u64, status: u32, value: Option<u64>) -> Result<Option<[u64; BLOCKS]>, String> {
        if status != 0 {
            self.absorb(number ^ u64::from(status));
            return self.disk.as_mut().map_or(Ok(()), |knowledge| knowledge.failed(number)).map(|()| None);
        }
        let value = value.ok_or_else(|| format!("the guest hears of disk request {number}, which is not done"))?;
        self.absorb(number);
        self.absorb(value);
        self.disk.as_mut().map_or(Ok(None), |knowledge| knowledge.told(number, value))
    }

    fn absorb(&mut self, word: u64) {
        self.state = mix(self.state ^ word).wrapping_add(word);
    }

    /// An output that nobody else could have written: it shows the guest's whole past.
    fn output(&self, id: u64) -> Vec<u8> {
        [id, self.requests_taken, self.state].map(u64::to_le_bytes).concat()
    }
}
