//! What comes in at a boundary: frames from the hub, console input.

use alloc::vec::Vec;

use protocol::Epoch;
use protocol::control::{Counter, Level};
use protocol::event::{self, KIND_CONSOLE_INPUT};
use protocol::hubwire::Packet;

use super::Vmm;
use crate::machine::{Machine, Port};

/// Console input beyond this, not yet read by the guest, is dropped.
const MAX_TYPED_BYTES: usize = 16 * 1024;

impl<M: Machine> Vmm<M> {
    /// Whether there is an event to deliver.
    pub(super) fn has_events(&mut self) -> bool {
        !self.typed.is_empty() || self.machine.net().peek().is_some() || self.has_completions() || self.owes_uncertain()
    }

    /// Keeps console input for the next epoch.
    pub(super) fn note_typed(&mut self, bytes: &[u8]) {
        if self.typed.len() + bytes.len() <= MAX_TYPED_BYTES {
            // Refused only beyond the length that was just checked.
            let _ = event::append_record(&mut self.typed, KIND_CONSOLE_INPUT, bytes);
        }
    }

    /// Appends everything that waits, up to `limit` bytes, to the events of an epoch.
    pub(super) fn gather(&mut self, limit: usize, events: &mut Vec<u8>) {
        let ring_room = self.guest.receive_room_bytes().unwrap_or(0).saturating_sub(self.uncertain_bytes());
        let beside_ring = self.gather_completions(ring_room, limit, events);
        let room = (ring_room + beside_ring).min(limit);
        if !self.typed.is_empty() && events.len() + self.typed.len() <= room {
            events.append(&mut self.typed);
        }
        let session = self.settings.session;
        let mut next = self.guest.frames_in().wrapping_add(self.input_skew);
        while let Some(received) = self.machine.net().peek() {
            let (bytes, end) = match Packet::decode(received, session) {
                Ok(Packet::Frames(batch)) => {
                    let records = batch.records_from(next);
                    if events.len() + records.len() > room {
                        break;
                    }
                    events.extend_from_slice(records);
                    (records.len(), Some((batch.first_sequence(), batch.end_sequence())))
                }
                // Not a batch of this pair: of no concern to the guest.
                Ok(Packet::Resume { .. }) | Err(_) => (0, None),
            };
            if let Some(received) = self.machine.net().take() {
                self.machine.net().give_back(received);
            }
            match end {
                Some((first, end)) => {
                    self.counters.add(Counter::HubBatchesIn, 1);
                    if first > next {
                        // The hub no longer had what was in flight; TCP repairs it.
                        self.input_skew = self.input_skew.wrapping_add(first - next);
                        self.log(
                            Level::Warn,
                            format_args!("{} input frames are missing before number {first}", first - next),
                        );
                    }
                    if bytes > 0 {
                        next = end;
                    }
                }
                None => self.counters.add(Counter::FramesDropped, 1),
            }
        }
    }

    /// Throws away what a replica that is not active has received.
    pub(super) fn drop_input(&mut self) {
        while let Some(received) = self.machine.net().take() {
            self.machine.net().give_back(received);
        }
    }

    /// The machine's clock at which the guest wants to run again; `None` when no time limit was given.
    pub(super) fn deadline_on_machine_ns(&self) -> Option<u64> {
        match self.deadline_ns {
            u64::MAX => None,
            deadline_ns => Some(deadline_ns.wrapping_sub(self.offsets.monotonic_ns).min(i64::MAX as u64)),
        }
    }

    /// Whether the guest shall run: an event waits, or its deadline has come.
    pub(super) fn wants_to_run(&mut self, now_ns: u64) -> bool {
        let due = self.deadline_ns == 0 || self.offsets.clocks(now_ns).monotonic_ns >= self.deadline_ns;
        due || self.has_events()
    }

    /// Number of the next input frame as the hub counts them, and the epoch that runs or ran last.
    pub(super) fn input_position(&self) -> (u64, Epoch) {
        (
            self.guest.frames_in().wrapping_add(self.input_skew),
            self.replica.as_ref().map_or(0, |replica| replica.epoch()),
        )
    }
}
