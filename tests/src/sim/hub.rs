//! The hub and the client behind it: numbers what goes to the guest, lets each output out once, records what was seen.

use std::collections::VecDeque;

use protocol::ReplicaId;
use protocol::arbiter::ArbiterRecord;
use protocol::hubwire::{Batch, BatchEncoder, Envelope, InputLog, OutputFilter, Packet};

/// The session of the hub's packets.
pub const SESSION: u64 = 0x0048_5542;
/// Room for any packet of a simulation.
const PACKET_BYTES: usize = 2048;

const ENVELOPE: Envelope = Envelope { destination: [1; 6], source: [2; 6], session: SESSION, generation: 0 };

/// Encodes frames, as many as fit in each packet, numbered from `first_sequence` on.
pub fn encode<'f>(frames: impl Iterator<Item = &'f [u8]>, first_sequence: u64) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut frames = frames.peekable();
    let mut sequence = first_sequence;
    while frames.peek().is_some() {
        let mut buffer = [0; PACKET_BYTES];
        let mut encoder = BatchEncoder::new(&mut buffer).expect("large enough");
        while let Some(frame) = frames.peek()
            && encoder.push(frame)
        {
            frames.next();
        }
        let count = encoder.frame_count();
        assert!(count > 0, "a frame is larger than a packet");
        let used = encoder.finish(&ENVELOPE, sequence);
        sequence += u64::from(count);
        packets.push(buffer[..used].to_vec());
    }
    packets
}

/// What a replica has written to the hub and the hub has not read yet.
type Socket = VecDeque<Vec<u8>>;

/// What the hub wants to be done.
#[derive(Clone, Debug)]
pub struct ToReplica {
    /// To whom the packets go.
    pub to: ReplicaId,
    /// The packets.
    pub packets: Vec<Vec<u8>>,
}

/// The hub, with the one client of the simulation.
#[derive(Debug)]
pub struct Hub {
    active: ReplicaId,
    log: InputLog,
    filter: OutputFilter,
    sockets: [Socket; 2],
    /// Every output that was let out, by number.
    pub seen: Vec<Vec<u8>>,
    /// Outputs that came again.
    pub repeated: u64,
    /// Frames handed over at a promotion.
    pub handed_over: u64,
    /// The guests differ on purpose, so an output may come again with another content: the digest of an epoch is
    /// compared after its outputs have left, and whoever dies in between is not compared.
    pub guests_differ: bool,
}

impl Hub {
    /// A hub whose frames go to and come from `active`.
    #[must_use]
    pub fn new(active: ReplicaId) -> Self {
        Self {
            active,
            log: InputLog::new(64 * 1024, 4096, 0),
            filter: OutputFilter::new(0),
            sockets: Default::default(),
            seen: Vec::new(),
            repeated: 0,
            handed_over: 0,
            guests_differ: false,
        }
    }

    /// To and from whom frames go.
    #[must_use]
    pub const fn active(&self) -> ReplicaId {
        self.active
    }

    /// What this replica has written and nobody has read goes with it.
    pub fn forget(&mut self, replica: ReplicaId) {
        self.sockets[replica.index()].clear();
    }

    /// The client sends a frame.
    pub fn send(&mut self, frame: &[u8]) -> ToReplica {
        let sequence = self.log.push(frame).expect("frames are small");
        ToReplica { to: self.active, packets: encode(std::iter::once(frame), sequence) }
    }

    /// A replica has written a packet; it stays in the socket's buffer until [`Hub::read`], even if the replica dies.
    pub fn write(&mut self, from: ReplicaId, packet: Vec<u8>) {
        self.sockets[from.index()].push_back(packet);
    }

    /// Reads what a replica has written. `record` is the arbiter's, which says who may take over.
    ///
    /// # Errors
    /// What a client or an operator would call wrong.
    pub fn read(&mut self, from: ReplicaId, record: ArbiterRecord) -> Result<Option<ToReplica>, String> {
        let mut answer = None;
        while let Some(packet) = self.sockets[from.index()].pop_front() {
            match Packet::decode(&packet, SESSION).map_err(|error| error.to_string())? {
                Packet::Resume { generation, next_input_sequence }
                    if record.active == from && record.generation == generation =>
                {
                    // What the old one wrote before it was replaced has been committed, and the new one was told that
                    // it had left: it must not be lost.
                    if self.active != from {
                        self.read(self.active, record)?;
                    }
                    self.active = from;
                    answer = Some(self.hand_over(next_input_sequence)?);
                }
                Packet::Frames(batch) if from == self.active => {
                    self.let_out(&batch)?;
                }
                Packet::Resume { .. } | Packet::Frames(_) => {}
            }
        }
        Ok(answer)
    }

    fn hand_over(&mut self, next_input_sequence: u64) -> Result<ToReplica, String> {
        let since = self.log.since(next_input_sequence);
        if since.lost_frames() > 0 {
            return Err(format!("{} frames to the guest were lost at the promotion", since.lost_frames()));
        }
        let first_sequence = since.next_sequence();
        let packets = encode(since.map(|(_, frame)| frame), first_sequence);
        self.handed_over += self.log.next_sequence() - first_sequence;
        Ok(ToReplica { to: self.active, packets })
    }

    fn let_out(&mut self, batch: &Batch<'_>) -> Result<(), String> {
        let first_sequence = batch.first_sequence();
        let admission = self.filter.admit(first_sequence, batch.frame_count());
        if admission.lost_frames > 0 {
            return Err(format!("{} outputs before number {first_sequence} never came", admission.lost_frames));
        }
        self.repeated += u64::from(admission.duplicates);
        for (sequence, frame) in (first_sequence..).zip(batch.frames()) {
            match self.seen.get(sequence as usize) {
                None => self.seen.push(frame.to_vec()),
                Some(before) if before == frame || self.guests_differ => {}
                Some(_) => return Err(format!("output {sequence} came again with another content")),
            }
        }
        if self.seen.len() as u64 == self.filter.next_sequence() {
            Ok(())
        } else {
            Err(format!(
                "the client has {} outputs, the filter let {} out",
                self.seen.len(),
                self.filter.next_sequence()
            ))
        }
    }
}
