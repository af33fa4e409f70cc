//! The hypercalls of the fake shim.

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::vec::Vec;

use hypercall::errno::{E2BIG, EAGAIN, ENOSYS, EPROTO};
use hypercall::layout::{CONSOLE_EPOCH_BYTES, DISK_RING_BYTES, MAX_ENTROPY_BYTES, RING_BYTES};
use hypercall::record::{KIND_CONSOLE_INPUT, KIND_FRAME};
use hypercall::ring::{Consumer, Producer};
use hypercall::table::{Hypercalls, Outcome};
use hypercall::{ABI_FINGERPRINT, ABI_VERSION};

use super::calls::Stopped;
use super::disk::Disks;
use super::memory::Memory;
use super::{Setup, World};

/// What a world may do at an epoch boundary.
pub struct Boundary<'a> {
    shim: &'a mut Shim,
    deadline_ns: u64,
}

impl Boundary<'_> {
    /// When the guest wants to run again without an event: 0 for at once, `u64::MAX` for never.
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// The monotonic clock of the epoch that has ended.
    pub fn now_ns(&self) -> u64 {
        self.shim.now_ns
    }

    /// Moves the clock; it never goes back.
    pub fn set_now_ns(&mut self, now_ns: u64) {
        if now_ns > self.shim.now_ns && now_ns != u64::MAX {
            self.shim.now_ns = now_ns;
            self.shim.progress = true;
        }
    }

    /// Takes the next frame that the guest sent. Returns `None` when there are no more.
    pub fn take_frame<R>(&mut self, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let digest = &mut self.shim.digest;
        let taken = self.shim.transmit.pop_with(|record| {
            assert_eq!(record.kind, KIND_FRAME, "a guest sends frames only");
            digest.bytes(record.payload);
            take(record.payload)
        });
        taken.expect("the guest keeps its ring in order")
    }

    /// Delivers a frame. Returns whether there was room in the guest's ring.
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        self.push(KIND_FRAME, frame)
    }

    /// Types at the console. Returns whether there was room in the guest's ring.
    pub fn type_in(&mut self, bytes: &[u8]) -> bool {
        self.push(KIND_CONSOLE_INPUT, bytes)
    }

    fn push(&mut self, kind: u16, payload: &[u8]) -> bool {
        let pushed = self.shim.receive.push(kind, payload).expect("the guest keeps its ring in order");
        self.shim.progress |= pushed;
        pushed
    }

    /// Everything that the guest has written to the console so far.
    pub fn console(&self) -> &[u8] {
        &self.shim.console
    }

    /// Ends the run: the guest does not run again.
    pub fn stop(&mut self) {
        self.shim.stopped = true;
    }
}

/// FNV-1a over words and bytes.
struct Digest(u64);

impl Digest {
    fn word(&mut self, word: u64) {
        self.bytes(&word.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

pub(super) struct Shim {
    memory: &'static Memory,
    world: Rc<RefCell<dyn World>>,
    receive: Producer,
    transmit: Consumer,
    disks: Disks,
    console: Vec<u8>,
    console_epoch_bytes: usize,
    entropy: u64,
    epoch: u64,
    now_ns: u64,
    boot_realtime_ns: u64,
    idle_epochs_left: u32,
    idle_epochs: u32,
    progress: bool,
    stopped: bool,
    digest: Digest,
}

impl Shim {
    /// The caller has just initialised `memory`.
    pub(super) fn new(memory: &'static Memory, setup: &Setup, world: Rc<RefCell<dyn World>>) -> Self {
        // SAFETY: the rings were initialised with this capacity, live for ever, and belong to this thread, where
        // shim and guest never run at the same time.
        let (receive, transmit) = unsafe {
            (Producer::new(memory.receive_ring(), RING_BYTES, 0), Consumer::new(memory.transmit_ring(), RING_BYTES, 0))
        };
        // SAFETY: as above.
        let requests = unsafe { Consumer::new(memory.disk_ring(), DISK_RING_BYTES, 0) };
        Self {
            memory,
            world,
            receive,
            transmit,
            disks: Disks::new(setup.disks.clone(), requests),
            console: Vec::new(),
            console_epoch_bytes: 0,
            entropy: setup.entropy_seed,
            epoch: 0,
            now_ns: 0,
            boot_realtime_ns: setup.realtime_ns,
            idle_epochs_left: setup.idle_epochs,
            idle_epochs: setup.idle_epochs,
            progress: false,
            stopped: false,
            digest: Digest(0xcbf2_9ce4_8422_2325),
        }
    }

    /// Console, epochs, digest.
    pub(super) fn finish(&mut self) -> (Vec<u8>, u64, u64) {
        (mem::take(&mut self.console), self.epoch, self.digest.0)
    }

    pub(super) fn end_epoch(&mut self, deadline_ns: u64) -> Result<(), Stopped> {
        self.digest.word(deadline_ns);
        self.progress = deadline_ns <= self.now_ns;
        let world = Rc::clone(&self.world);
        world.borrow_mut().boundary(&mut Boundary { shim: self, deadline_ns });
        if self.stopped {
            return Err(Stopped::World);
        }
        let (disks, receive, digest) = (&mut self.disks, &mut self.receive, &mut self.digest);
        self.progress |= disks.serve(receive, |bytes| digest.bytes(bytes));
        self.idle_epochs_left = if self.progress { self.idle_epochs } else { self.idle_epochs_left.saturating_sub(1) };
        if self.idle_epochs_left == 0 {
            return Err(Stopped::Stuck);
        }
        self.epoch += 1;
        self.console_epoch_bytes = 0;
        self.memory.set_clock(self.epoch, self.now_ns, self.boot_realtime_ns + self.now_ns);
        Ok(())
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next_random(&mut self) -> u64 {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.entropy ^ (self.entropy >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Hypercalls for Shim {
    fn hello(&mut self, abi_version: u64, fingerprint: u64) -> Outcome {
        let same = abi_version == u64::from(ABI_VERSION) && fingerprint == ABI_FINGERPRINT;
        Outcome::Return(if same { 0 } else { -EPROTO })
    }

    fn wait(&mut self, deadline_ns: u64) -> Outcome {
        Outcome::EndEpoch { deadline_ns }
    }

    fn exit(&mut self, _code: u64) -> Outcome {
        Outcome::Stop
    }

    fn panic_report(&mut self, _text_address: u64, _text_bytes: u64) -> Outcome {
        // On a host a panic unwinds; the runtime does not report it here.
        Outcome::Stop
    }

    fn console_write(&mut self, address: u64, bytes: u64) -> Outcome {
        let room = CONSOLE_EPOCH_BYTES - self.console_epoch_bytes;
        let taken = room.min(bytes as usize);
        if taken == 0 && bytes != 0 {
            return Outcome::Return(-EAGAIN);
        }
        // SAFETY: the only caller, the console of this thread's program, passes a slice.
        let text = unsafe { std::slice::from_raw_parts(address as *const u8, taken) };
        self.console.extend_from_slice(text);
        self.console_epoch_bytes += taken;
        self.digest.bytes(text);
        Outcome::Return(taken as i64)
    }

    fn entropy(&mut self, address: u64, bytes: u64) -> Outcome {
        if bytes > MAX_ENTROPY_BYTES {
            return Outcome::Return(-E2BIG);
        }
        // SAFETY: the only caller passes a slice that it has borrowed exclusively.
        let place = unsafe { std::slice::from_raw_parts_mut(address as *mut u8, bytes as usize) };
        for chunk in place.chunks_mut(8) {
            let random = self.next_random().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        self.digest.word(bytes);
        Outcome::Return(0)
    }

    fn preempt(&mut self, _block_address: u64, _handler_address: u64) -> Outcome {
        // Epochs are not cut here.
        Outcome::Return(0)
    }

    fn cut(&mut self) -> Outcome {
        Outcome::CutEpoch
    }

    fn thread_pointer(&mut self, _address: u64) -> Outcome {
        // It belongs to the host's own thread.
        Outcome::Return(-ENOSYS)
    }

    fn guard(&mut self, _address: u64, _text_address: u64, _text_bytes: u64) -> Outcome {
        // Memory is the host's.
        Outcome::Return(-ENOSYS)
    }

    fn unguard(&mut self, _address: u64) -> Outcome {
        Outcome::Return(-ENOSYS)
    }
}
