//! The toy disk: a few blocks, each one word. Every replica has one, and it does what the guest asks for after a time of its
//! own, in the order of what concerns one block and in no order otherwise.

use std::collections::VecDeque;

use protocol::Epoch;
use protocol::resync::Changes;

use super::rng::Rng;

/// Blocks of the disk.
pub const BLOCKS: usize = 4;
/// What the shim tells apart is larger than a block.
const NOTED: u64 = 8;

/// What a guest asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// The value of a block.
    Read(usize),
    /// A block gets a value.
    Write(usize, u64),
    /// What was completed before survives the loss of power.
    Flush,
}

impl Request {
    /// The block that it concerns, if it concerns one.
    pub const fn block(self) -> Option<usize> {
        match self {
            Self::Read(block) | Self::Write(block, _) => Some(block),
            Self::Flush => None,
        }
    }
}

/// A request that was taken and of whose end the guest has not heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outstanding {
    number: u64,
    request: Request,
    started: bool,
    /// The value that was read, or that lies there now.
    done: Option<u64>,
    /// It was never started and will not be, or nobody knows what came of it: the guest hears that it is uncertain.
    parked: bool,
    /// The device has failed to do it.
    failed: bool,
    /// At the end of which epoch it was asked for.
    epoch: Epoch,
}

/// What a device refuses to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Reads.
    Reads,
    /// Writes, as when it is full.
    Writes,
    /// Flushes.
    Flushes,
    /// Anything: it was pulled out.
    Everything,
}

impl Refusal {
    pub(super) const fn covers(self, request: Request) -> bool {
        matches!(
            (self, request),
            (Self::Everything, _)
                | (Self::Reads, Request::Read(_))
                | (Self::Writes, Request::Write(..))
                | (Self::Flushes, Request::Flush)
        )
    }
}

impl Trouble {
    /// Whether it fails to do this.
    #[must_use]
    pub fn refuses(&self, request: Request) -> bool {
        self.refuses.is_some_and(|refusal| refusal.covers(request))
    }
}

/// What is wrong with a device.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// It fails to do this.
    pub refuses: Option<Refusal>,
    /// It says nothing before this time.
    pub hangs_until_ns: u64,
    /// It says of flushes that they are done, and does nothing.
    pub lies: bool,
    /// Blocks that hold something else than was written.
    pub spoilt: [bool; BLOCKS],
}

/// The one device that both replicas reach.
#[derive(Clone, Debug, Default)]
pub struct SharedDevice {
    /// What lies on it.
    pub blocks: [u64; BLOCKS],
    /// What a loss of power would leave.
    pub stable: [u64; BLOCKS],
}

impl Outstanding {
    fn new(number: u64, request: Request, epoch: Epoch) -> Self {
        Self { number, request, started: false, done: None, parked: false, failed: false, epoch }
    }
}

/// A replica's disk.
#[derive(Clone, Debug)]
pub struct Disk {
    blocks: [u64; BLOCKS],
    /// What a loss of power would leave.
    stable: [u64; BLOCKS],
    outstanding: VecDeque<Outstanding>,
    taken: u64,
    delay_ns: (u64, u64),
    rng: Rng,
    told_below: u64,
    /// Nothing more is started.
    held: bool,
    /// A bug: what a request that has failed was to change is not waited for.
    pub passes_faults: bool,
    /// What was written while a copy is made.
    changes: Option<Changes>,
    /// What is wrong with it.
    pub trouble: Trouble,
    /// Of a shared disk: the other replica uses it.
    pub by_other: bool,
    /// Of a shared disk: reads that the guest was told of, with the epoch of the record, until that is committed.
    told: Vec<(Epoch, usize)>,
}

impl Disk {
    /// A disk of zeros whose requests take between two times.
    #[must_use]
    pub fn new(delay_ns: (u64, u64), rng: Rng) -> Self {
        Self {
            blocks: [0; BLOCKS],
            stable: [0; BLOCKS],
            outstanding: VecDeque::new(),
            taken: 0,
            delay_ns,
            rng,
            told_below: 0,
            held: false,
            passes_faults: false,
            changes: None,
            trouble: Trouble::default(),
            by_other: false,
            told: Vec::new(),
        }
    }

    /// The same disk, shared and used by the other replica if `by_other`.
    #[must_use]
    pub fn used_by_other(self, by_other: bool) -> Self {
        Self { by_other, ..self }
    }

    /// Takes requests of an epoch; their numbers go on.
    pub fn take(&mut self, epoch: Epoch, requests: &[Request]) {
        for &request in requests {
            self.outstanding.push_back(Outstanding::new(self.taken, request, epoch));
            self.taken += 1;
        }
    }

    /// Starts what may start; returns numbers and how long they take. What concerns a block waits for all before it that does,
    /// for one that has failed until the guest has heard of it: what that was to change is at the other mirror and not here.
    pub fn start(&mut self) -> Vec<(u64, u64)> {
        self.start_if(|_, _| true)
    }

    /// As [`Self::start`], of a shared disk: a write waits until its epoch is committed, and for reads of its block until
    /// what they have read is, if it `spares_reads`.
    pub fn start_shared(&mut self, committed_through: Epoch, spares_reads: bool) -> Vec<(u64, u64)> {
        self.told.retain(|(epoch, _)| *epoch > committed_through);
        let told = std::mem::take(&mut self.told);
        let started = self.start_if(|outstanding, before| {
            let Request::Write(block, _) = outstanding.request else { return true };
            let may_be_repeated = |before: &Outstanding| before.request == Request::Read(block);
            let read_may_be_repeated =
                told.iter().any(|(_, read)| *read == block) || before.iter().any(may_be_repeated);
            outstanding.epoch <= committed_through && !(spares_reads && read_may_be_repeated)
        });
        self.told = told;
        started
    }

    fn start_if(&mut self, may: impl Fn(&Outstanding, &[Outstanding]) -> bool) -> Vec<(u64, u64)> {
        let mut started = Vec::new();
        if self.held {
            return started;
        }
        for index in 0..self.outstanding.len() {
            let Outstanding { number, request, started: false, parked: false, .. } = self.outstanding[index] else {
                continue;
            };
            let waits = |before: &Outstanding| {
                let ended = before.done.is_some() || (before.failed && self.passes_faults);
                !ended && !before.parked && before.request.block() == request.block()
            };
            if request.block().is_some() && self.outstanding.iter().take(index).any(waits) {
                continue;
            }
            let (before, rest) = self.outstanding.make_contiguous().split_at(index);
            if !may(&rest[0], before) {
                continue;
            }
            self.outstanding[index].started = true;
            started.push((number, self.rng.between(self.delay_ns.0, self.delay_ns.1)));
        }
        started
    }

    /// Requests that the device has started and not ended.
    pub fn at_device(&self) -> Vec<u64> {
        let is_there = |at: &&Outstanding| at.started && at.done.is_none() && !at.failed && !at.parked;
        self.outstanding.iter().filter(is_there).map(|outstanding| outstanding.number).collect()
    }

    /// The device that both replicas reach does what was started here.
    pub fn finish_shared(&mut self, number: u64, device: &mut SharedDevice) {
        let Some(outstanding) = self.outstanding.iter_mut().find(|outstanding| outstanding.number == number) else {
            return;
        };
        outstanding.done = Some(match outstanding.request {
            Request::Read(block) => device.blocks[block],
            Request::Write(block, value) => {
                device.blocks[block] = value;
                value
            }
            Request::Flush => {
                device.stable = device.blocks;
                0
            }
        });
    }

    /// The record of this epoch tells of a request: what was read may be read again until it is committed.
    pub fn note_told(&mut self, epoch: Epoch, number: u64) {
        let told = self.outstanding.iter().find(|outstanding| outstanding.number == number);
        if let Some(Request::Read(block)) = told.map(|outstanding| outstanding.request) {
            self.told.push((epoch, block));
        }
    }

    /// At the end of which epoch a write was asked for, if this is one.
    #[must_use]
    pub fn epoch_of_write(&self, number: u64) -> Option<Epoch> {
        let outstanding = self.outstanding.iter().find(|outstanding| outstanding.number == number)?;
        matches!(outstanding.request, Request::Write(..)).then_some(outstanding.epoch)
    }

    /// What was read, if this request is a read that is done.
    #[must_use]
    pub fn value_read(&self, number: u64) -> Option<u64> {
        let outstanding = self.outstanding.iter().find(|outstanding| outstanding.number == number)?;
        if matches!(outstanding.request, Request::Read(_)) { outstanding.done } else { None }
    }

    /// The record brings what the other replica has read.
    pub fn bring(&mut self, number: u64, value: u64) {
        let waiting = self.outstanding.iter_mut().find(|outstanding| outstanding.number == number);
        if let Some(outstanding) = waiting {
            outstanding.done.get_or_insert(value);
        }
    }

    /// Everything outstanding was carried out elsewhere, nobody knows how far: the guest hears that it is uncertain.
    pub fn take_over(&mut self) {
        self.by_other = false;
        self.outstanding.iter_mut().for_each(|outstanding| outstanding.parked = true);
    }

    /// The device ends what it has started: it does it, or fails to. Returns whether it has read a block that was spoilt.
    pub fn finish(&mut self, number: u64) -> bool {
        let Some(outstanding) = self.outstanding.iter_mut().find(|outstanding| outstanding.number == number) else {
            return false;
        };
        if self.trouble.refuses(outstanding.request) {
            outstanding.failed = true;
            return false;
        }
        let mut spoilt = false;
        outstanding.done = Some(match outstanding.request {
            Request::Read(block) => {
                spoilt = self.trouble.spoilt[block];
                self.blocks[block] ^ (u64::from(spoilt) << 40)
            }
            Request::Write(block, value) => {
                self.trouble.spoilt[block] = false;
                self.blocks[block] = value;
                if let Some(changes) = &mut self.changes {
                    changes.note(block as u64 * NOTED, 1);
                }
                value
            }
            Request::Flush if self.trouble.lies => 0,
            Request::Flush => {
                self.stable = self.blocks;
                0
            }
        });
        spoilt
    }

    /// What lies on it survives a loss of power, if the device tells the truth.
    pub const fn make_stable(&mut self) {
        if !self.trouble.lies {
            self.stable = self.blocks;
        }
    }

    /// Starts nothing more, or goes on.
    pub const fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether a copy needs to know no more of what is outstanding than its numbers: nothing of it was started.
    #[must_use]
    pub fn can_be_copied(&self) -> bool {
        self.held && self.outstanding.iter().all(|outstanding| !outstanding.started)
    }

    /// Begins to note what is written.
    pub fn watch(&mut self) {
        self.changes = Some(Changes::new(BLOCKS as u64 * NOTED));
    }

    /// Whether a block was written to since it was taken last.
    #[must_use]
    pub fn has_change(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| !changes.is_empty())
    }

    /// Takes a block that was written to since it was taken last.
    pub fn take_change(&mut self) -> Option<usize> {
        let (first, count) = self.changes.as_mut()?.take()?;
        // Neighbours come together; the others are left for the next time.
        let rest = count - NOTED;
        if rest > 0 {
            self.changes.as_mut()?.note(first + NOTED, rest);
        }
        Some((first / NOTED) as usize)
    }

    /// The copy is made: what is outstanding will be asked for again. Returns the numbers.
    pub fn park(&mut self) -> Vec<u64> {
        self.held = false;
        self.changes = None;
        self.outstanding.iter_mut().for_each(|outstanding| outstanding.parked = true);
        self.outstanding.iter().map(|outstanding| outstanding.number).collect()
    }

    /// Takes up the place of a disk of which a copy was made.
    pub fn take_up(&mut self, taken: u64, parked: &[u64]) {
        self.taken = taken;
        self.outstanding = parked.iter().map(|&number| Outstanding::new(number, Request::Flush, 0)).collect();
        self.outstanding.iter_mut().for_each(|outstanding| outstanding.parked = true);
    }

    /// Somebody else writes a block.
    pub const fn overwrite(&mut self, block: usize, value: u64) {
        self.blocks[block] = value;
    }

    /// Whether the guest is to hear of something that it must ask for again.
    #[must_use]
    pub fn has_parked(&self) -> bool {
        self.outstanding.iter().any(|outstanding| outstanding.parked)
    }

    /// The guest is told what it must ask for again.
    pub fn end_uncertain(&mut self) -> Vec<u64> {
        let parked = self.outstanding.iter().filter(|outstanding| outstanding.parked).map(|parked| parked.number);
        let numbers = parked.collect();
        self.outstanding.retain(|outstanding| !outstanding.parked);
        numbers
    }

    /// Whether a request was done or has failed, or its end was told.
    #[must_use]
    pub fn has_ended(&self, number: u64) -> bool {
        let runs = |at: &Outstanding| at.number == number && at.done.is_none() && !at.failed;
        !self.outstanding.iter().any(runs)
    }

    /// The first request that has failed and whose end was not told.
    #[must_use]
    pub fn failure(&self) -> Option<u64> {
        self.outstanding.iter().find(|outstanding| outstanding.failed).map(|outstanding| outstanding.number)
    }

    /// Requests that have failed.
    pub fn failed(&self) -> impl Iterator<Item = u64> + '_ {
        self.outstanding.iter().filter(|outstanding| outstanding.failed).map(|outstanding| outstanding.number)
    }

    /// Whether nothing was asked for whose end was not told.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// All requests with numbers below this are done.
    #[must_use]
    pub fn done_below(&self) -> u64 {
        let waits = |outstanding: &&Outstanding| outstanding.done.is_none() && !outstanding.parked;
        self.outstanding.iter().find(waits).map_or(self.taken, |first| first.number)
    }

    /// Whether there is a flush below this number that was not at the last call.
    pub fn passes_flush(&mut self, done_below: u64) -> bool {
        let fresh = std::mem::replace(&mut self.told_below, done_below)..done_below;
        self.outstanding
            .iter()
            .any(|outstanding| outstanding.request == Request::Flush && fresh.contains(&outstanding.number))
    }

    /// Numbers of requests that are done, and whether each is a flush.
    pub fn done(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        let done = self.outstanding.iter().filter(|outstanding| outstanding.done.is_some());
        done.map(|outstanding| (outstanding.number, outstanding.request == Request::Flush))
    }

    /// The guest is told: forgets the request and returns the value.
    pub fn complete(&mut self, number: u64) -> Option<u64> {
        let index = self.outstanding.iter().position(|outstanding| outstanding.number == number)?;
        let outstanding = self.outstanding.remove(index)?;
        match outstanding.request {
            // Only what was read comes from elsewhere.
            Request::Write(_, value) if self.by_other => Some(value),
            Request::Flush if self.by_other => Some(0),
            _ => outstanding.done,
        }
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outstanding.iter().all(|outstanding| outstanding.done.is_some())
    }

    /// How many requests were taken.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// What lies on it.
    #[must_use]
    pub const fn blocks(&self) -> &[u64; BLOCKS] {
        &self.blocks
    }

    /// What a loss of power leaves, now: of what was written since the last flush any sectors, two of which make a block.
    #[must_use]
    pub fn lose_power(&self, rng: &mut Rng) -> [[u64; 2]; BLOCKS] {
        let mut sector = |block: usize| if rng.chance(50) { self.blocks[block] } else { self.stable[block] };
        std::array::from_fn(|block| [sector(block), sector(block)])
    }

    /// What a loss of power would leave.
    #[must_use]
    pub const fn stable(&self) -> &[u64; BLOCKS] {
        &self.stable
    }
}
