//! Upcalls: how a guest comes to interrupt one of its own computations where an epoch was cut.
//!
//! What a guest may hand over is checked when it registers. Where it may write never changes afterwards, so nothing can
//! go wrong at an upcall: the shim reads and writes words of a block that the guest could write itself, and changes three
//! registers that the guest could change itself.

use hypercall::errno::{EFAULT, EINVAL};
use hypercall::layout::{GUEST_BASE, PREEMPTION_ARMED, PREEMPTION_DUE, PREEMPTION_MASKED, PREEMPTION_OFF, Preemption};

use super::Guest;
use crate::machine::{Diverted, Registers};

const BLOCK_BYTES: u64 = size_of::<Preemption>() as u64;

/// A registered block and the handler that belongs to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registration {
    /// Offset of the block in guest memory: aligned, inside, and writable by the guest.
    block: usize,
    /// Address of the handler, in guest memory.
    handler: u64,
}

/// What the shim keeps about upcalls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Preempting {
    registration: Option<Registration>,
    /// The epoch before this one was cut.
    cut: bool,
}

impl Preempting {
    /// Whether the epoch was cut; address of the registered block and its handler.
    pub(super) fn saved(&self) -> (bool, Option<(u64, u64)>) {
        (self.cut, self.registration.map(|Registration { block, handler }| (GUEST_BASE + block as u64, handler)))
    }

    /// What [`Self::saved`] gave, the registration checked again.
    pub(super) fn restored(cut: bool, registration: Option<Registration>) -> Self {
        Self { registration, cut }
    }
}

impl Guest {
    /// Takes a block and a handler, or forgets both for a block at 0; the error number otherwise.
    pub(super) fn register_preemption(&mut self, block: u64, handler: u64) -> Result<(), i64> {
        if block == 0 {
            self.preemption.registration = None;
            return Ok(());
        }
        self.preemption.registration = Some(self.checked_registration(block, handler)?);
        Ok(())
    }

    /// A block at this address and a handler, if a guest may register them; the error number otherwise.
    pub(super) fn checked_registration(&self, block: u64, handler: u64) -> Result<Registration, i64> {
        if !block.is_multiple_of(align_of::<Preemption>() as u64) {
            return Err(EINVAL);
        }
        if !self.may_write(block, BLOCK_BYTES) || self.memory.offset_of(handler, 1).is_none() {
            return Err(EFAULT);
        }
        let block = self.memory.offset_of(block, BLOCK_BYTES).ok_or(EFAULT)?;
        Ok(Registration { block, handler })
    }

    /// Notes that the epoch has been cut: the guest is between any two instructions.
    pub fn note_cut(&mut self) {
        self.preemption.cut = true;
    }

    /// Makes the upcall that is due, if one is. To be called when an epoch has begun and before the guest runs;
    /// `has_events` says whether its record holds any.
    pub fn upcall_if_due(&mut self, has_events: bool, registers: &mut impl Registers) {
        let cut = core::mem::take(&mut self.preemption.cut);
        let Some(Registration { block, handler }) = self.preemption.registration.filter(|_| cut) else { return };
        let mut words = self.memory.read_preemption(block);
        if !has_events && self.clocks.monotonic_ns < words.wake_ns {
            return;
        }
        match words.state {
            PREEMPTION_ARMED => {
                let Diverted { instruction, stack, flags } = registers.divert(handler, words.stack);
                words.state = PREEMPTION_OFF;
                words.saved_instruction = instruction;
                words.saved_stack = stack;
                words.saved_flags = flags;
            }
            PREEMPTION_MASKED => words.state = PREEMPTION_DUE,
            _ => return,
        }
        self.memory.write_struct(block, &words);
        self.note_written(block, size_of::<Preemption>());
    }
}
