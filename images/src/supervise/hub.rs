//! The hub: the wire between the outside and the active replica.
//!
//! Frames to the guest are numbered and kept in a bounded log, and sent from there. That one log serves three needs:
//! frames made in one turn of the loop leave as one batch, frames wait there while QEMU's socket is full, and a
//! promoted replica is given again those that its primary had received but not recorded.

use std::io;

use netstack::FrameSink;
use protocol::hubwire::{BatchEncoder, Envelope, InputLog, OutputFilter, Packet};
use protocol::{Generation, ReplicaId};

use super::port::Port;

/// Frames kept for a promoted replica, in bytes and in number: far more than a bounded lag lets be on its way.
const LOG_BYTES: usize = 4 * 1024 * 1024;
const LOG_FRAMES: usize = 16 * 1024;
/// Frames that may wait to be sent; beyond that the sockets behind the hub wait. Less than the log holds, so that a
/// waiting frame is never forgotten.
const WAITING_FRAMES: u64 = 4 * 1024;
const WAITING_BYTES: usize = 1024 * 1024;
/// Frames that come while the guest has not answered the last batch are held back for so long, unless there are many.
/// Measured with 50 clients at a pair: 0.06 batches a request instead of 0.28, and 10 us of the vCPU's time instead of
/// 13; at one connection nothing changes.
const HOLD_NS: u64 = 120_000;
const HELD_FRAMES: u64 = 24;
/// The longest frame of a TCP segment without data: Ethernet, IPv4, TCP and the time stamp option. Nobody answers it.
const BARE_FRAME_BYTES: usize = 14 + 20 + 20 + 12;
/// Number of the first frame in either direction.
const FIRST_SEQUENCE: u64 = 0;
/// Longest frame: an MTU of 9000 bytes and the Ethernet header.
const MAX_FRAME_BYTES: usize = 9018;
/// Outer addresses of batches. They are locally administered and mean nothing on a wire between two processes.
const HUB_MAC: [u8; 6] = [0x02, b'p', b'l', b'x', 0, 0xff];
const REPLICA_MAC: [u8; 6] = [0x02, b'p', b'l', b'x', 0, 0];

/// What the hub has done since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct HubCounters {
    /// Frames to the guest.
    pub frames_in: u64,
    /// Batches to the active replica.
    pub batches_in: u64,
    /// Frames from the guest that were let out.
    pub frames_out: u64,
    /// Batches from the active replica.
    pub batches_out: u64,
    /// Frames from the guest that had been let out before.
    pub duplicates: u64,
    /// Numbers that no frame from the guest had: it would be our own bug.
    pub lost_out: u64,
    /// Frames that a promoted replica asked for and that were forgotten; TCP repeats them.
    pub lost_in: u64,
    /// Frames handed to a promoted replica again.
    pub resent: u64,
    /// Packets that were no batches of this pair, or came from a replica that is not active.
    pub foreign: u64,
}

/// The wire to the active replica: where the stack's frames go.
pub struct Wire {
    log: InputLog,
    scratch: Box<[u8]>,
    next_to_send: u64,
    /// Payload bytes of frames not sent yet.
    waiting_bytes: usize,
    filter: OutputFilter,
    session: u64,
    generation: Generation,
    active: ReplicaId,
    /// A promoted replica has not said yet from where on it needs frames.
    awaits_resume: bool,
    /// When the last batch was sent, as long as nothing has come from the guest since.
    unanswered_since_ns: Option<u64>,
    /// Counters.
    pub counters: HubCounters,
}

impl Wire {
    /// A wire to `active`, which need not be up yet. Its guest has sent `frames_out` frames in an earlier life.
    pub fn new(session: u64, generation: Generation, active: ReplicaId, frames_out: u64) -> Self {
        Self {
            log: InputLog::new(LOG_BYTES, LOG_FRAMES, FIRST_SEQUENCE),
            scratch: vec![0; MAX_FRAME_BYTES].into_boxed_slice(),
            next_to_send: FIRST_SEQUENCE,
            waiting_bytes: 0,
            filter: OutputFilter::new(FIRST_SEQUENCE + frames_out),
            session,
            generation,
            active,
            awaits_resume: false,
            unanswered_since_ns: None,
            counters: HubCounters::default(),
        }
    }

    /// Who is let out.
    pub fn active(&self) -> ReplicaId {
        self.active
    }

    /// The guest has sent so many frames in an earlier life, which it has lived through once more.
    pub fn goes_on(&mut self, frames_out: u64) {
        self.filter = OutputFilter::new(FIRST_SEQUENCE + frames_out);
    }

    /// The arbiter has decided. When another replica becomes active, frames wait until it says from where on.
    pub fn switch(&mut self, generation: Generation, active: ReplicaId) {
        self.generation = generation;
        if active != self.active {
            self.active = active;
            self.awaits_resume = true;
            self.unanswered_since_ns = None;
        }
    }

    /// Takes a packet of `replica` and hands the frames in it that are new to `each`, in order.
    pub fn take_packet(&mut self, replica: ReplicaId, packet: &[u8], mut each: impl FnMut(&mut Self, &[u8])) {
        let decoded = Packet::decode(packet, self.session);
        match decoded {
            Ok(Packet::Frames(batch)) if replica == self.active => {
                self.unanswered_since_ns = None;
                let admission = self.filter.admit(batch.first_sequence(), batch.frame_count());
                self.counters.batches_out += 1;
                self.counters.duplicates += u64::from(admission.duplicates);
                self.counters.lost_out += admission.lost_frames;
                self.counters.frames_out += u64::from(batch.frame_count() - admission.duplicates);
                for frame in batch.frames().skip(usize::from(admission.duplicates)) {
                    each(self, frame);
                }
            }
            Ok(Packet::Resume { next_input_sequence, .. }) if replica == self.active => {
                self.resume(next_input_sequence)
            }
            _ => self.counters.foreign += 1,
        }
    }

    fn resume(&mut self, next_input_sequence: u64) {
        // Nobody has seen what was never sent, whatever the packet says.
        let since = self.log.since(next_input_sequence.min(self.next_to_send));
        self.counters.lost_in += since.lost_frames();
        let again = since.next_sequence();
        self.counters.resent += self.next_to_send.saturating_sub(again);
        self.waiting_bytes = since.map(|(_, frame)| frame.len()).sum();
        self.next_to_send = again;
        self.awaits_resume = false;
    }

    /// Whether frames wait to be sent and may be.
    pub fn has_work(&self) -> bool {
        !self.awaits_resume && self.next_to_send < self.log.next_sequence()
    }

    /// Until when what waits had better wait for more, if it had.
    ///
    /// A batch costs an interrupt and an epoch at both replicas, however few frames it holds. A guest that has not
    /// answered the last one is busy with it, so what comes meanwhile can share the cost of the next. A client that
    /// waits for its answer before it asks again is never held up.
    fn holds_until(&self, now_ns: u64) -> Option<u64> {
        let until_ns = self.unanswered_since_ns? + HOLD_NS;
        let few = self.log.next_sequence() - self.next_to_send < HELD_FRAMES;
        (few && now_ns < until_ns).then_some(until_ns)
    }

    /// Sends what waits, as long as the active replica's port takes it. Returns when to call again, if some of it is
    /// held back for company.
    ///
    /// # Errors
    /// The port's error: that replica's QEMU is gone.
    pub fn flush(&mut self, port: &mut Port, now_ns: u64) -> io::Result<Option<u64>> {
        port.flush()?;
        while port.is_idle() && self.has_work() {
            if let Some(until_ns) = self.holds_until(now_ns) {
                return Ok(Some(until_ns));
            }
            let envelope = self.envelope();
            let (first, mut next, mut sent_bytes) = (self.next_to_send, self.next_to_send, 0);
            let mut asks = false;
            let frames = self.log.since(first);
            port.send(|buffer| {
                let Ok(mut batch) = BatchEncoder::new(buffer) else {
                    return 0;
                };
                for (sequence, frame) in frames {
                    if !batch.push(frame) {
                        break;
                    }
                    next = sequence + 1;
                    sent_bytes += frame.len();
                    asks |= frame.len() > BARE_FRAME_BYTES;
                }
                batch.finish(&envelope, first)
            })?;
            self.counters.batches_in += 1;
            self.next_to_send = next;
            self.waiting_bytes = self.waiting_bytes.saturating_sub(sent_bytes);
            if asks {
                self.unanswered_since_ns = Some(now_ns);
            }
        }
        Ok(None)
    }

    fn envelope(&self) -> Envelope {
        let mut destination = REPLICA_MAC;
        destination[5] = self.active.get();
        Envelope { destination, source: HUB_MAC, session: self.session, generation: self.generation }
    }
}

impl FrameSink for Wire {
    fn has_room(&self) -> bool {
        self.log.next_sequence() - self.next_to_send < WAITING_FRAMES && self.waiting_bytes < WAITING_BYTES
    }

    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        if len_bytes > self.scratch.len() {
            self.scratch = vec![0; len_bytes].into_boxed_slice();
        }
        let frame = &mut self.scratch[..len_bytes];
        let result = fill(frame);
        // Fails only for a frame longer than the whole log, which no MTU allows.
        if self.log.push(frame).is_ok() {
            self.waiting_bytes += len_bytes;
            self.counters.frames_in += 1;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    const SESSION: u64 = 77;

    fn wire_and_port() -> (Wire, Port, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("non-blocking");
        theirs.set_nonblocking(true).expect("non-blocking");
        (Wire::new(SESSION, 1, ReplicaId::ZERO, 0), Port::new(mio::net::UnixStream::from_std(ours)), theirs)
    }

    fn transmit(wire: &mut Wire, byte: u8) {
        wire.transmit(BARE_FRAME_BYTES + 1, |buffer| buffer.fill(byte));
    }

    /// The frames' first bytes and the number of the first frame of each batch.
    fn received(peer: &mut UnixStream) -> Vec<(u64, Vec<u8>)> {
        let mut bytes = vec![0; 1 << 20];
        let count = peer.read(&mut bytes).unwrap_or(0);
        let mut rest = &bytes[..count];
        let mut batches = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (packet, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
            rest = tail;
            match Packet::decode(packet, SESSION) {
                Ok(Packet::Frames(batch)) => {
                    batches.push((batch.first_sequence(), batch.frames().map(|frame| frame[0]).collect()));
                }
                other => panic!("expected frames, got {other:?}"),
            }
        }
        batches
    }

    fn packet_of(frames: &[&[u8]], first: u64, session: u64) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        let mut batch = BatchEncoder::new(&mut buffer).expect("large");
        for frame in frames {
            assert!(batch.push(frame));
        }
        let envelope = Envelope { destination: HUB_MAC, source: REPLICA_MAC, session, generation: 1 };
        let used = batch.finish(&envelope, first);
        buffer.truncate(used);
        buffer
    }

    #[test]
    fn frames_of_one_turn_leave_as_one_batch() {
        let (mut wire, mut port, mut peer) = wire_and_port();
        for byte in 1..=3 {
            transmit(&mut wire, byte);
        }
        wire.flush(&mut port, 0).expect("flushed");
        assert_eq!(received(&mut peer), [(0, vec![1, 2, 3])]);
        assert!(!wire.has_work());
    }

    #[test]
    fn a_promoted_replica_gets_what_its_primary_had_not_recorded() {
        let (mut wire, mut port, mut peer) = wire_and_port();
        for byte in 0..4 {
            transmit(&mut wire, byte);
        }
        wire.flush(&mut port, 0).expect("flushed");
        received(&mut peer);
        wire.switch(2, ReplicaId::ONE);
        transmit(&mut wire, 4);
        wire.flush(&mut port, 0).expect("flushed");
        assert_eq!(received(&mut peer), [], "nothing may leave before the resume");
        let mut resume = vec![0; 64];
        let envelope = Envelope { destination: HUB_MAC, source: REPLICA_MAC, session: SESSION, generation: 2 };
        let used = protocol::hubwire::encode_resume(&mut resume, &envelope, 2).expect("large");
        wire.take_packet(ReplicaId::ZERO, &resume[..used], |_, _| panic!("no frame"));
        assert!(!wire.has_work(), "the old primary has no say");
        wire.take_packet(ReplicaId::ONE, &resume[..used], |_, _| panic!("no frame"));
        wire.flush(&mut port, 0).expect("flushed");
        assert_eq!(received(&mut peer), [(2, vec![2, 3, 4])]);
        assert_eq!((wire.counters.resent, wire.counters.lost_in), (2, 0));
    }

    #[test]
    fn only_new_frames_of_the_active_replica_are_let_out() {
        let (mut wire, _port, _peer) = wire_and_port();
        let mut out = Vec::new();
        let mut take = |wire: &mut Wire, replica, packet: &[u8]| {
            wire.take_packet(replica, packet, |_, frame| out.push(frame.to_vec()));
        };
        take(&mut wire, ReplicaId::ZERO, &packet_of(&[b"a", b"b"], 0, SESSION));
        take(&mut wire, ReplicaId::ONE, &packet_of(&[b"x"], 2, SESSION));
        take(&mut wire, ReplicaId::ZERO, &packet_of(&[b"y"], 2, SESSION + 1));
        take(&mut wire, ReplicaId::ZERO, b"garbage");
        wire.switch(2, ReplicaId::ONE);
        take(&mut wire, ReplicaId::ONE, &packet_of(&[b"b", b"c"], 1, SESSION));
        assert_eq!(out, [b"a", b"b", b"c"]);
        assert_eq!((wire.counters.duplicates, wire.counters.lost_out, wire.counters.foreign), (1, 0, 3));
    }

    #[test]
    fn a_full_wire_says_so_before_a_waiting_frame_is_forgotten() {
        let (mut wire, mut port, mut peer) = wire_and_port();
        wire.switch(2, ReplicaId::ONE);
        let mut count = 0u64;
        while wire.has_room() {
            wire.transmit(1500, |buffer| buffer.fill(count as u8));
            count += 1;
        }
        wire.resume(0);
        assert_eq!(wire.counters.lost_in, 0);
        let (mut got, mut now_ns) = (0, 0);
        while wire.has_work() || !port.is_idle() {
            // The guest never answers, so each batch waits its time.
            now_ns += HOLD_NS;
            wire.flush(&mut port, now_ns).expect("flushed");
            let mut bytes = vec![0; 1 << 20];
            got += peer.read(&mut bytes).unwrap_or(0);
        }
        assert!(got as u64 > count * 1500);
        assert!(wire.has_room());
    }

    #[test]
    fn nobody_waits_for_the_answer_to_an_acknowledgement() {
        let (mut wire, mut port, mut peer) = wire_and_port();
        wire.transmit(BARE_FRAME_BYTES, |buffer| buffer.fill(1));
        assert_eq!(wire.flush(&mut port, 1_000).expect("flushed"), None);
        transmit(&mut wire, 2);
        assert_eq!(wire.flush(&mut port, 2_000).expect("flushed"), None);
        assert_eq!(received(&mut peer), [(0, vec![1]), (1, vec![2])]);
    }

    #[test]
    fn frames_wait_for_company_only_while_the_guest_is_busy() {
        let (mut wire, mut port, mut peer) = wire_and_port();
        transmit(&mut wire, 1);
        assert_eq!(wire.flush(&mut port, 1_000).expect("flushed"), None);
        assert_eq!(received(&mut peer), [(0, vec![1])], "an idle guest gets its frame at once");
        transmit(&mut wire, 2);
        assert_eq!(wire.flush(&mut port, 2_000).expect("flushed"), Some(1_000 + HOLD_NS));
        transmit(&mut wire, 3);
        assert_eq!(wire.flush(&mut port, 1_000 + HOLD_NS).expect("flushed"), None);
        assert_eq!(received(&mut peer), [(1, vec![2, 3])], "what was held leaves together when the time is over");
        let answer = packet_of(&[b"answer"], 0, SESSION);
        wire.take_packet(ReplicaId::ZERO, &answer, |_, _| {});
        transmit(&mut wire, 4);
        assert_eq!(wire.flush(&mut port, 2_000 + HOLD_NS).expect("flushed"), None);
        assert_eq!(received(&mut peer), [(3, vec![4])], "a guest that has answered is not busy");
        for byte in 0..HELD_FRAMES {
            transmit(&mut wire, byte as u8);
        }
        assert_eq!(wire.flush(&mut port, 3_000 + HOLD_NS).expect("flushed"), None);
        assert_eq!(received(&mut peer).len(), 1, "many are company enough");
    }
}
