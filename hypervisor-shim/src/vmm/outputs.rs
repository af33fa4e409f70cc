//! Outputs on their way out: released, packed into batches, and confirmed when the devices have taken them.

use alloc::collections::VecDeque;

use protocol::Epoch;
use protocol::control::{Console, Counter, ToSupervisor};
use protocol::hubwire::{self, BatchEncoder, Envelope, HEADER_BYTES};
use protocol::replica::CommandList;

use super::{Vmm, tell};
use crate::machine::{BUFFER_BYTES, Machine, Port};

/// Destination of batches: the hub. Locally administered.
const HUB_MAC: [u8; 6] = [0x02, b'p', b'l', b'x', 0, 0];
/// The guest may put out no more while this much is held, here or for our sake at the backup.
const MAX_HELD_BYTES: usize = 2 * 1024 * 1024;

/// What was given to the devices and when they will have taken it.
#[derive(Debug, Clone, Copy)]
struct Sent {
    epoch: Epoch,
    net: u64,
    control: u64,
    bytes: usize,
}

/// State of what is on its way out.
#[derive(Debug, Default)]
pub struct Outbound {
    /// Outputs up to this epoch may leave.
    released_through: Epoch,
    /// Bytes of records of the oldest held outputs that have left in earlier batches, and their number of frames.
    partial: (usize, u64),
    sent: VecDeque<Sent>,
    /// When the newest outputs left or tried to.
    leaving_ns: u64,
    /// Bytes of outputs that were sent and not confirmed: the backup still holds them.
    unconfirmed_bytes: usize,
}

impl Outbound {
    /// Whether something was sent that the devices have not taken.
    pub fn is_waiting(&self) -> bool {
        !self.sent.is_empty()
    }
}

impl<M: Machine> Vmm<M> {
    /// Whether so much waits to leave that the guest should not run.
    pub(super) fn holds_too_much(&self) -> bool {
        self.outputs.bytes() + self.outbound.unconfirmed_bytes > MAX_HELD_BYTES
    }

    /// Whether outputs that may leave wait for a free buffer, or so much is held that the guest waits.
    pub(super) fn outputs_are_stuck(&self) -> bool {
        self.outputs.oldest(self.outbound.released_through).is_some() || self.holds_too_much()
    }

    /// Lets the outputs of all epochs up to `through` leave.
    pub(super) fn release(&mut self, through: Epoch) {
        self.outbound.released_through = self.outbound.released_through.max(through);
        self.pump_outputs();
    }

    /// Sends as much of what may leave as the devices take: many epochs' frames go in one batch.
    pub(super) fn pump_outputs(&mut self) {
        let through = self.outbound.released_through;
        if self.outputs.oldest(through).is_none() {
            return;
        }
        self.outbound.leaving_ns = self.machine.now_ns();
        while self.outputs.oldest(through).is_some() {
            let has_frames = self.outputs.oldest(through).is_some_and(|outputs| !outputs.records.is_empty());
            if has_frames && !self.send_batch(through) {
                return;
            }
            self.send_rest_of_oldest(through);
        }
    }

    /// Fills one batch with frames of released outputs, oldest first. Fully sent outputs without anything else are
    /// dropped. Returns whether the oldest outputs have no frames left to send.
    fn send_batch(&mut self, through: Epoch) -> bool {
        let Some(mut buffer) = self.machine.net().buffer() else { return false };
        let start = buffer.len();
        // No longer than what waits: zeros are written before the frames, and under load this happens every epoch.
        buffer.resize((start + HEADER_BYTES + self.outputs.bytes()).min(BUFFER_BYTES), 0);
        let Ok(mut encoder) = BatchEncoder::new(&mut buffer[start..]) else { return false };
        let mut first_frame = None;
        let mut complete = true;
        while let Some(outputs) = self.outputs.oldest(through) {
            let (sent_bytes, sent_frames) = self.outbound.partial;
            first_frame.get_or_insert(outputs.first_frame + sent_frames);
            // The records were written by this shim, so they are well formed.
            let taken = encoder.push_records(&outputs.records[sent_bytes..]).unwrap_or_default();
            if sent_bytes + taken.bytes < outputs.records.len() {
                self.outbound.partial = (sent_bytes + taken.bytes, sent_frames + u64::from(taken.frames));
                complete = false;
                break;
            }
            if !outputs.console.is_empty() || outputs.end.is_some() {
                self.outbound.partial = (outputs.records.len(), outputs.frame_count);
                break;
            }
            let (epoch, bytes) = (outputs.epoch, outputs.bytes());
            self.outbound.partial = (0, 0);
            self.drop_left();
            self.note_sent(epoch, bytes, 1);
        }
        let envelope = Envelope {
            destination: HUB_MAC,
            source: self.settings.mac,
            session: self.settings.session,
            generation: self.generation(),
        };
        let frames = u64::from(encoder.frame_count());
        let length = encoder.finish(&envelope, first_frame.unwrap_or(0));
        buffer.truncate(start + length);
        self.machine.net().send(buffer);
        self.counters.add(Counter::HubBatchesOut, 1);
        self.counters.add(Counter::FramesOut, frames);
        complete
    }

    /// Sends console bytes and the end of the oldest outputs, if that is all that is left of them, and drops them.
    fn send_rest_of_oldest(&mut self, through: Epoch) {
        let Some(outputs) = self.outputs.oldest(through) else { return };
        let unsent_frames = self.outbound.partial.0 < outputs.records.len();
        if unsent_frames || (outputs.console.is_empty() && outputs.end.is_none() && !outputs.records.is_empty()) {
            return;
        }
        let (epoch, bytes) = (outputs.epoch, outputs.bytes());
        if !outputs.console.is_empty() {
            let console = Console { stream_offset_bytes: outputs.console_offset, bytes: &outputs.console };
            tell(&mut self.control, &ToSupervisor::Console(console));
        }
        let end = outputs.end.clone();
        self.outbound.partial = (0, 0);
        self.drop_left();
        if let Some(end) = end {
            self.tell_end(epoch, &end);
        }
        self.control.flush(self.machine.control());
        self.note_sent(epoch, bytes, 0);
    }

    /// Drops the oldest outputs, which have left, and counts how long they were kept.
    fn drop_left(&mut self) {
        if let Some(ended_ns) = self.outputs.drop_oldest() {
            self.counters.add(Counter::OutputWaits, 1);
            self.counters.add(Counter::OutputWaitNs, self.outbound.leaving_ns.saturating_sub(ended_ns));
        }
    }

    /// Notes that the outputs of `epoch` are gone when the devices have taken what was sent by now, and `ahead` more
    /// buffers of the network.
    fn note_sent(&mut self, epoch: Epoch, bytes: usize, ahead: u64) {
        if self.replica.is_none() {
            return;
        }
        let control_backlog = u64::from(self.control.backlog_bytes() > 0);
        let sent = Sent {
            epoch,
            net: self.machine.net().sent() + ahead,
            control: self.machine.control().sent() + control_backlog,
            bytes,
        };
        self.outbound.unconfirmed_bytes += bytes;
        // Of several epochs in one batch only the newest counts.
        match self.outbound.sent.back_mut() {
            Some(last) if last.net == sent.net && last.control == sent.control => {
                last.epoch = epoch;
                last.bytes += bytes;
            }
            _ => self.outbound.sent.push_back(sent),
        }
    }

    /// Tells the state machine which outputs the devices have taken.
    pub(super) fn confirm_outputs(&mut self) {
        let Some(front) = self.outbound.sent.front().copied() else { return };
        let net = self.machine.net().completed();
        if front.net > net {
            return;
        }
        let control = self.machine.control().completed();
        let mut confirmed = None;
        while let Some(sent) = self.outbound.sent.front()
            && sent.net <= net
            && sent.control <= control
        {
            confirmed = Some(sent.epoch);
            self.outbound.unconfirmed_bytes -= sent.bytes;
            self.outbound.sent.pop_front();
        }
        if let (Some(through), Some(replica)) = (confirmed, &mut self.replica) {
            let mut commands = CommandList::new();
            let now_ns = self.machine.now_ns();
            replica.confirm_released(now_ns, through, &mut commands);
            self.execute(&commands);
        }
    }

    /// Asks the hub for the frames that the old primary had not recorded.
    pub(super) fn ask_for_frames_in_flight(&mut self, generation: u64) {
        let Some(mut buffer) = self.machine.net().buffer() else { return };
        let start = buffer.len();
        buffer.resize(start + HEADER_BYTES, 0);
        let envelope =
            Envelope { destination: HUB_MAC, source: self.settings.mac, session: self.settings.session, generation };
        let (next_input, _) = self.input_position();
        match hubwire::encode_resume(&mut buffer[start..], &envelope, next_input) {
            Ok(_) => self.machine.net().send(buffer),
            Err(_) => self.machine.net().put_back(buffer),
        }
    }

    /// The generation in which this replica acts.
    pub(super) fn generation(&self) -> u64 {
        self.replica.as_ref().map_or(self.settings.generation, |replica| replica.generation())
    }
}
