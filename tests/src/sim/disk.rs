//! The toy disk: a few blocks, each one word. Every replica has one, and it does what the guest asks for after a time of its
//! own, in the order of what concerns one block and in no order otherwise.

use std::collections::VecDeque;

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
    const fn block(self) -> Option<usize> {
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
    /// It was never started and will not be: the guest hears that it is uncertain.
    parked: bool,
}

impl Outstanding {
    fn new(number: u64, request: Request) -> Self {
        Self { number, request, started: false, done: None, parked: false }
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
    /// What was written while a copy is made.
    changes: Option<Changes>,
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
            changes: None,
        }
    }

    /// Takes requests; their numbers go on.
    pub fn take(&mut self, requests: &[Request]) {
        for &request in requests {
            self.outstanding.push_back(Outstanding::new(self.taken, request));
            self.taken += 1;
        }
    }

    /// Starts what may start; returns numbers and how long they take.
    pub fn start(&mut self) -> Vec<(u64, u64)> {
        let mut started = Vec::new();
        if self.held {
            return started;
        }
        for index in 0..self.outstanding.len() {
            let Outstanding { number, request, started: false, parked: false, .. } = self.outstanding[index] else {
                continue;
            };
            let waits = |before: &Outstanding| {
                before.done.is_none() && !before.parked && before.request.block() == request.block()
            };
            if request.block().is_some() && self.outstanding.iter().take(index).any(waits) {
                continue;
            }
            self.outstanding[index].started = true;
            started.push((number, self.rng.between(self.delay_ns.0, self.delay_ns.1)));
        }
        started
    }

    /// The device does what it has started.
    pub fn finish(&mut self, number: u64) {
        let Some(outstanding) = self.outstanding.iter_mut().find(|outstanding| outstanding.number == number) else {
            return;
        };
        outstanding.done = Some(match outstanding.request {
            Request::Read(block) => self.blocks[block],
            Request::Write(block, value) => {
                self.blocks[block] = value;
                if let Some(changes) = &mut self.changes {
                    changes.note(block as u64 * NOTED, 1);
                }
                value
            }
            Request::Flush => {
                self.stable = self.blocks;
                0
            }
        });
    }

    /// What lies on it survives a loss of power.
    pub const fn make_stable(&mut self) {
        self.stable = self.blocks;
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
        self.outstanding = parked.iter().map(|&number| Outstanding::new(number, Request::Flush)).collect();
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

    /// Whether a request was done, or its end was told.
    #[must_use]
    pub fn has_done(&self, number: u64) -> bool {
        !self.outstanding.iter().any(|outstanding| outstanding.number == number && outstanding.done.is_none())
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
        self.outstanding.remove(index)?.done
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

    /// What a loss of power would leave.
    #[must_use]
    pub const fn stable(&self) -> &[u64; BLOCKS] {
        &self.stable
    }
}

/// What a guest knows of its disk: every read must bring what was written last before it was asked for, and what a flush
/// promises is what was told to be written before the flush was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Knowledge {
    asked: u64,
    /// The newest value asked for, and the newest that was told to be written.
    newest: [u64; BLOCKS],
    written: [u64; BLOCKS],
    /// By number: what was asked for, and what is awaited of it.
    awaited: VecDeque<(u64, Request, Awaited)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    Value(u64),
    Written(usize, u64),
    Promise([u64; BLOCKS]),
}

impl Knowledge {
    /// Notes that something is asked for.
    pub fn ask(&mut self, request: Request) {
        let awaited = match request {
            Request::Read(block) => Awaited::Value(self.newest[block]),
            Request::Write(block, value) => {
                self.newest[block] = value;
                Awaited::Written(block, value)
            }
            Request::Flush => Awaited::Promise(self.written),
        };
        self.awaited.push_back((self.asked, request, awaited));
        self.asked += 1;
    }

    /// Something is uncertain: it is asked for again, with the same expectations. Returns what.
    ///
    /// # Errors
    /// A text when nobody waits for it.
    pub fn ask_again(&mut self, number: u64) -> Result<Request, String> {
        let (request, awaited) = self.take(number)?;
        self.awaited.push_back((self.asked, request, awaited));
        self.asked += 1;
        Ok(request)
    }

    fn take(&mut self, number: u64) -> Result<(Request, Awaited), String> {
        let index = self.awaited.iter().position(|(awaited, ..)| *awaited == number);
        index
            .and_then(|index| self.awaited.remove(index))
            .map(|(_, request, awaited)| (request, awaited))
            .ok_or_else(|| format!("disk request {number} was completed, but nobody waits for it"))
    }

    /// All of it, as words.
    #[must_use]
    pub fn save(&self) -> Vec<u64> {
        let mut words = vec![self.asked];
        words.extend(self.newest);
        words.extend(self.written);
        for &(number, request, awaited) in &self.awaited {
            let (kind, block, value) = match request {
                Request::Read(block) => (0, block, 0),
                Request::Write(block, value) => (1, block, value),
                Request::Flush => (2, 0, 0),
            };
            let expected = match awaited {
                Awaited::Value(value) => [value, 0, 0, 0],
                Awaited::Written(..) => [0; BLOCKS],
                Awaited::Promise(promise) => promise,
            };
            words.extend([number, kind, block as u64, value]);
            words.extend(expected);
        }
        words
    }

    /// What [`Self::save`] has written.
    #[must_use]
    pub fn load(words: &[u64]) -> Option<Self> {
        let (&asked, rest) = words.split_first()?;
        let (newest, rest) = rest.split_first_chunk()?;
        let (written, rest) = rest.split_first_chunk()?;
        let one = |&[number, kind, block, value, a, b, c, d]: &[u64; 8]| {
            let block = block as usize;
            let (request, awaited) = match kind {
                0 => (Request::Read(block), Awaited::Value(a)),
                1 => (Request::Write(block, value), Awaited::Written(block, value)),
                _ => (Request::Flush, Awaited::Promise([a, b, c, d])),
            };
            (number, request, awaited)
        };
        let awaited = rest.as_chunks().0.iter().map(one).collect();
        Some(Self { asked, newest: *newest, written: *written, awaited })
    }

    /// Notes a completion and returns what a flush has promised to be stable.
    ///
    /// # Errors
    /// A text when a read brought something else than was written last.
    pub fn told(&mut self, number: u64, value: u64) -> Result<Option<[u64; BLOCKS]>, String> {
        let (_, awaited) = self.take(number)?;
        match awaited {
            Awaited::Value(expected) if expected != value => {
                Err(format!("disk request {number} has read {value}, and {expected} was written before it"))
            }
            Awaited::Value(_) => Ok(None),
            Awaited::Written(block, value) => {
                // Writes of one block are done in their order, and may be told in any.
                self.written[block] = self.written[block].max(value);
                Ok(None)
            }
            Awaited::Promise(promise) => Ok(Some(promise)),
        }
    }
}

/// Whether a disk holds what was promised; values of a block only grow.
pub fn keeps(stable: &[u64; BLOCKS], promise: &[u64; BLOCKS]) -> bool {
    stable.iter().zip(promise).all(|(found, promised)| found >= promised)
}
