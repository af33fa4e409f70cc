//! A block device in memory that does what devices do to stores: it loses, tears and reorders what was not flushed when
//! the power goes, fails, lies about a flush, and changes what it holds.
//!
//! Nothing here draws a random number: what a crash keeps is a function of the seed it is given.

use crate::device::{BLOCK_BYTES, BlockDevice};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;

type Block = [u8; BLOCK_BYTES];

/// Why the model refused an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelError {
    /// An operation was told to fail.
    Io,
    /// The power is gone.
    Off,
    /// Blocks that the device does not have, or a length that is not whole blocks.
    OutOfRange,
}

/// What becomes of a block that was written and not flushed when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing of it is kept.
    LoseAll,
    /// All of it is.
    KeepAll,
    /// Each block of each write is kept or lost by itself, as the seed says: writes are torn and reordered.
    Blocks(u64),
    /// As [`Blocks`](Self::Blocks), and blocks are torn inside: a part is kept.
    Bytes(u64),
}

/// What the device is to do wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Writes and flushes after which the power goes: everything then fails and nothing is stored.
    pub power_off_after: Option<u64>,
    /// The write or flush of this number, from 0, fails; half of a write is done before.
    pub fail_at: Option<u64>,
    /// All writes and flushes fail.
    pub fail_all: bool,
    /// The read of this number, from 0, fails.
    pub fail_read_at: Option<u64>,
    /// The flush of this number, counted among flushes from 0, returns well and does nothing.
    pub lose_flush_at: Option<u64>,
    /// Every operation lets others run once before it is done.
    pub give_way: bool,
}

#[derive(Debug)]
struct State {
    stable: RefCell<Vec<Block>>,
    /// Blocks written since the last flush, in the order of writing.
    unflushed: RefCell<Vec<(u64, Block)>>,
    faults: Cell<Faults>,
    changes: Cell<u64>,
    flushes: Cell<u64>,
    reads: Cell<u64>,
}

/// The device. Clones are the same device.
#[derive(Clone, Debug)]
pub struct ModelDevice(Rc<State>);

impl ModelDevice {
    /// A blank device of `blocks` blocks.
    pub fn new(blocks: u64) -> Self {
        Self::with(vec![[0; BLOCK_BYTES]; blocks as usize])
    }

    fn with(stable: Vec<Block>) -> Self {
        Self(Rc::new(State {
            stable: RefCell::new(stable),
            unflushed: RefCell::new(Vec::new()),
            faults: Cell::new(Faults::default()),
            changes: Cell::new(0),
            flushes: Cell::new(0),
            reads: Cell::new(0),
        }))
    }

    /// Sets what goes wrong from now on. Operations are counted since the device was made.
    pub fn set_faults(&self, faults: Faults) {
        self.0.faults.set(faults);
    }

    /// Writes and flushes so far.
    pub fn changes(&self) -> u64 {
        self.0.changes.get()
    }

    /// Flushes so far.
    pub fn flushes(&self) -> u64 {
        self.0.flushes.get()
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.0.reads.get()
    }

    /// The device as it is after the power was gone, in good order again. This one stays as it is.
    pub fn after(&self, crash: Crash) -> Self {
        let mut stable = self.0.stable.borrow().clone();
        let mut rng = match crash {
            Crash::Blocks(seed) | Crash::Bytes(seed) => Mixer(seed),
            Crash::LoseAll | Crash::KeepAll => Mixer(0),
        };
        for (block, new) in self.0.unflushed.borrow().iter() {
            let Some(place) = stable.get_mut(*block as usize) else { continue };
            let kept_bytes = match crash {
                Crash::LoseAll => 0,
                Crash::KeepAll => BLOCK_BYTES,
                Crash::Blocks(_) => [0, BLOCK_BYTES][(rng.next() & 1) as usize],
                Crash::Bytes(_) => {
                    [0, BLOCK_BYTES, (rng.next() % BLOCK_BYTES as u64) as usize][(rng.next() % 3) as usize]
                }
            };
            if let (Some(place), Some(new)) = (place.get_mut(..kept_bytes), new.get(..kept_bytes)) {
                place.copy_from_slice(new);
            }
        }
        Self::with(stable)
    }

    /// Changes one bit of a block.
    pub fn flip(&self, block: u64, bit: usize) {
        if let Some(block) = self.0.stable.borrow_mut().get_mut(block as usize)
            && let Some(byte) = block.get_mut(bit / 8 % BLOCK_BYTES)
        {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// A block as it is stored now.
    pub fn block(&self, block: u64) -> [u8; BLOCK_BYTES] {
        self.0.stable.borrow().get(block as usize).copied().unwrap_or([0; BLOCK_BYTES])
    }

    /// Replaces a block.
    pub fn set_block(&self, block: u64, contents: [u8; BLOCK_BYTES]) {
        if let Some(place) = self.0.stable.borrow_mut().get_mut(block as usize) {
            *place = contents;
        }
    }

    async fn give_way(&self) {
        let mut first = self.0.faults.get().give_way;
        poll_fn(|context| {
            if core::mem::take(&mut first) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    fn check(&self, first_block: u64, bytes: usize) -> Result<(), ModelError> {
        let end = first_block.checked_add((bytes / BLOCK_BYTES) as u64);
        let fits = end.is_some_and(|end| end <= self.blocks());
        if fits && bytes.is_multiple_of(BLOCK_BYTES) { Ok(()) } else { Err(ModelError::OutOfRange) }
    }

    /// Counts a write or flush; says whether it is to fail, or cannot happen any more.
    fn change(&self) -> Result<bool, ModelError> {
        let (faults, number) = (self.0.faults.get(), self.0.changes.get());
        if faults.power_off_after.is_some_and(|count| number >= count) {
            return Err(ModelError::Off);
        }
        self.0.changes.set(number + 1);
        Ok(faults.fail_all || faults.fail_at == Some(number))
    }

    fn store(&self, first_block: u64, from: &[u8]) {
        let mut unflushed = self.0.unflushed.borrow_mut();
        for (block, bytes) in (first_block..).zip(from.chunks_exact(BLOCK_BYTES)) {
            if let Ok(bytes) = bytes.try_into() {
                unflushed.push((block, bytes));
            }
        }
    }
}

impl BlockDevice for ModelDevice {
    type Error = ModelError;

    fn blocks(&self) -> u64 {
        self.0.stable.borrow().len() as u64
    }

    async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), ModelError> {
        self.give_way().await;
        self.check(first_block, into.len())?;
        let number = self.0.reads.replace(self.0.reads.get() + 1);
        if self.0.faults.get().fail_read_at == Some(number) {
            return Err(ModelError::Io);
        }
        let (stable, unflushed) = (self.0.stable.borrow(), self.0.unflushed.borrow());
        for (block, place) in (first_block..).zip(into.chunks_exact_mut(BLOCK_BYTES)) {
            let newest = unflushed.iter().rev().find(|(at, _)| *at == block).map(|(_, bytes)| bytes);
            let Some(bytes) = newest.or_else(|| stable.get(block as usize)) else { continue };
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), ModelError> {
        self.give_way().await;
        self.check(first_block, from.len())?;
        if self.change()? {
            let half = from.len() / BLOCK_BYTES / 2 * BLOCK_BYTES;
            self.store(first_block, from.get(..half).unwrap_or(&[]));
            return Err(ModelError::Io);
        }
        self.store(first_block, from);
        Ok(())
    }

    async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), ModelError> {
        self.write(first_block, &vec![0; blocks as usize * BLOCK_BYTES]).await
    }

    /// What is discarded reads as a pattern that nobody wrote: the worst that a device may make of it.
    async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), ModelError> {
        self.write(first_block, &vec![0xdd; blocks as usize * BLOCK_BYTES]).await
    }

    async fn flush(&self) -> Result<(), ModelError> {
        self.give_way().await;
        if self.change()? {
            return Err(ModelError::Io);
        }
        let number = self.0.flushes.replace(self.0.flushes.get() + 1);
        if self.0.faults.get().lose_flush_at == Some(number) {
            return Ok(());
        }
        let mut stable = self.0.stable.borrow_mut();
        for (block, bytes) in self.0.unflushed.borrow_mut().drain(..) {
            if let Some(place) = stable.get_mut(block as usize) {
                *place = bytes;
            }
        }
        Ok(())
    }
}

/// SplitMix64: numbers for tests from a seed.
#[derive(Clone, Debug)]
pub struct Mixer(
    /// The state; any number is a seed.
    pub u64,
);

impl Mixer {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "endless, and never iterated")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Runs a future of the model to its end; `between` is called whenever it gives way.
pub fn run<F: Future>(future: F, mut between: impl FnMut()) -> F::Output {
    let mut future = core::pin::pin!(future);
    let mut context = core::task::Context::from_waker(core::task::Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => between(),
        }
    }
}
