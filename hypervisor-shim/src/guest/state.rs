//! The state of a guest beside its memory: taken at an epoch boundary, and put in place in a replica that has loaded the
//! same image.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use checkpoint::pages::{PAGE_BYTES, PageRecord, PagesError, check, records};
use checkpoint::state::GuestState;
use hypercall::disk::MAX_OUTSTANDING;
use hypercall::layout::{DISK_RING_BYTES, MAX_GUARDS, RING_BYTES};
use hypercall::record::ALIGNMENT_BYTES;
use hypercall::ring::{Consumer, Producer};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use super::preempt::Preempting;
use super::{Guest, GuestMemory, PageSet};

/// What a guest's state consists of besides its own part: the machine's registers, and what the loop around it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Whose registers they are.
    pub architecture: u32,
    /// Registers in the architecture's own format.
    pub registers: Vec<u8>,
    /// Number that the hub gives the next input frame, less the frames that the guest has received.
    pub input_skew: u64,
    /// When the guest wants to run again, by its own clock.
    pub deadline_ns: u64,
}

impl Guest {
    /// Whether a copy of memory and of this state is all of the guest, but for what its disks hold: nothing that it has asked
    /// of them was begun.
    pub fn can_be_copied(&self) -> bool {
        self.disks.can_be_copied()
    }

    /// The state at an epoch boundary: nothing of the epoch is left in the shim.
    pub fn capture(&self, surroundings: Surroundings) -> GuestState {
        let (cut, preemption) = self.preemption.saved();
        GuestState {
            architecture: surroundings.architecture,
            receive_position: self.receive.position(),
            transmit_position: self.transmit.position(),
            disk_position: self.disks.saved().0,
            disk_requests: self.disks.saved().1,
            disk_parked: self.disks.parked(),
            greeted: self.greeted,
            cut,
            preemption,
            guards: self.guards.pages().to_vec(),
            generator_seed: self.generator.get_seed(),
            generator_stream: self.generator.get_stream(),
            generator_position: self.generator.get_word_pos(),
            clocks: self.clocks,
            hypercalls: self.hypercalls,
            console_offset: self.console_offset,
            frames_in: self.frames_in,
            frames_out: self.frames_out,
            input_skew: surroundings.input_skew,
            deadline_ns: surroundings.deadline_ns,
            registers: surroundings.registers,
        }
    }

    /// Puts a state in place of this guest's own. Its memory must hold what belongs to the state.
    ///
    /// # Errors
    /// What in the state cannot be; nothing has changed then.
    pub fn restore(&mut self, state: &GuestState) -> Result<(), String> {
        let positions =
            [("receive", state.receive_position), ("transmit", state.transmit_position), ("disk", state.disk_position)];
        for (name, position) in positions {
            if !position.is_multiple_of(ALIGNMENT_BYTES as u32) {
                return Err(format!("the {name} ring's position {position:#x} is no multiple of {ALIGNMENT_BYTES}"));
            }
        }
        let known = |number: &u64| *number < state.disk_requests;
        if state.disk_parked.len() > MAX_OUTSTANDING || !state.disk_parked.iter().all(known) {
            return Err(String::from("it says that requests to disks are outstanding that cannot be"));
        }
        let registration = match state.preemption {
            None => None,
            Some((block, handler)) => Some(
                self.checked_registration(block, handler)
                    .map_err(|error| format!("upcalls cannot be registered at {block:#x} (error {error})"))?,
            ),
        };
        if state.guards.len() > MAX_GUARDS {
            return Err(format!("it has {} guards of pages, of which there can be {MAX_GUARDS}", state.guards.len()));
        }
        self.restore_guards(&state.guards).map_err(|page| format!("page {page} of its memory cannot be a guard"))?;
        let ring = |offset: usize| self.memory.pointer(offset);
        // SAFETY: the loader placed the rings inside guest memory, 8-aligned and disjoint from everything else; the
        // guest touches them only while the shim does not run. The positions are aligned.
        let requests = unsafe {
            self.receive = Producer::new(ring(self.rings[0]), RING_BYTES, state.receive_position);
            self.transmit = Consumer::new(ring(self.rings[1]), RING_BYTES, state.transmit_position);
            Consumer::new(ring(self.rings[2]), DISK_RING_BYTES, state.disk_position)
        };
        self.disks.restored(requests, state.disk_requests, &state.disk_parked);
        self.greeted = state.greeted;
        self.preemption = Preempting::restored(state.cut, registration);
        self.generator = ChaCha12Rng::from_seed(state.generator_seed);
        self.generator.set_stream(state.generator_stream);
        self.generator.set_word_pos(state.generator_position);
        self.clocks = state.clocks;
        self.hypercalls = state.hypercalls;
        self.console_offset = state.console_offset;
        self.frames_in = state.frames_in;
        self.frames_out = state.frames_out;
        Ok(())
    }

    /// Notes from now on, or no longer, which pages the shim itself writes to for the guest: the machine notes only what
    /// the guest writes.
    pub fn note_writes(&mut self, noted: bool) {
        if noted != self.written.is_some() {
            self.written = noted.then(|| PageSet::empty(self.memory.bytes()));
        }
    }

    /// Moves the pages noted since the last call to `pages`.
    pub fn take_written(&mut self, pages: &mut PageSet) {
        if let Some(written) = &mut self.written {
            pages.absorb(written);
        }
    }

    /// The shim has written to this range of guest memory. Everything in the shim that does must say so, or a copy of the
    /// guest that is made while it runs would lack it.
    pub(super) fn note_written(&mut self, offset: usize, bytes: usize) {
        if let Some(written) = &mut self.written {
            written.insert_range(offset as u64, bytes as u64);
        }
    }

    /// Notes what was written to the receive ring from this position on: records, and the header.
    pub(super) fn note_received(&mut self, before: u32) {
        if self.written.is_none() {
            return;
        }
        let after = self.receive.position();
        let (ring, data) = (self.rings[0], self.rings[0] + hypercall::ring::DATA_OFFSET);
        let bytes = after.wrapping_sub(before).min(RING_BYTES) as usize;
        let start = (before % RING_BYTES) as usize;
        let to_end = bytes.min(RING_BYTES as usize - start);
        self.note_written(ring, hypercall::ring::DATA_OFFSET);
        self.note_written(data + start, to_end);
        self.note_written(data, bytes - to_end);
    }
}

/// Writes pages into guest memory; all of them are checked before the first is written.
///
/// # Errors
/// The first record that is none of this guest's pages.
pub fn install_pages(memory: &GuestMemory, bytes: &[u8]) -> Result<(), PagesError> {
    let memory_bytes = memory.bytes() as u64;
    check(bytes, memory_bytes)?;
    for record in records(bytes, memory_bytes) {
        match record? {
            PageRecord::Content { page, bytes } => memory.write_offset(page as usize * PAGE_BYTES, bytes),
            PageRecord::Zero { first, count } => memory.zero(first as usize * PAGE_BYTES, count as usize * PAGE_BYTES),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
