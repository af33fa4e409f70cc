//! What the hub keeps about frames: the newest ones to the guest, and how far those from the guest were let out.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use core::fmt;

/// The newest frames to the guest, numbered, in a ring of bytes that never grows.
#[derive(Clone, Debug)]
pub struct InputLog {
    ring: Box<[u8]>,
    entries: VecDeque<Entry>,
    max_frames: usize,
    /// Where the next frame goes if it fits before the end or the oldest frame.
    write_bytes: usize,
    next_sequence: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start_bytes: usize,
    length_bytes: usize,
}

/// A frame that the log can never hold. It has no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLogError {
    /// The log's capacity.
    pub capacity_bytes: usize,
    /// The frame's length.
    pub got_bytes: usize,
}

impl fmt::Display for InputLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity_bytes, got_bytes } = self;
        write!(f, "frame has {got_bytes} bytes, the log holds {capacity_bytes}: drop the frame")
    }
}

impl core::error::Error for InputLogError {}

impl InputLog {
    /// A log of up to `capacity_bytes` of frames and up to `max_frames` (at least one) of them; the first frame gets
    /// `first_sequence`. All memory is taken here.
    #[must_use]
    pub fn new(capacity_bytes: usize, max_frames: usize, first_sequence: u64) -> Self {
        let max_frames = max_frames.max(1);
        Self {
            ring: vec![0; capacity_bytes].into_boxed_slice(),
            entries: VecDeque::with_capacity(max_frames),
            max_frames,
            write_bytes: 0,
            next_sequence: first_sequence,
        }
    }

    /// Adds a frame, forgets the oldest ones as needed, and returns the frame's number.
    ///
    /// # Errors
    /// [`InputLogError`] when the frame alone exceeds the capacity; the log is as it was.
    pub fn push(&mut self, frame: &[u8]) -> Result<u64, InputLogError> {
        if frame.len() > self.ring.len() {
            return Err(InputLogError { capacity_bytes: self.ring.len(), got_bytes: frame.len() });
        }
        if self.entries.len() == self.max_frames {
            self.entries.pop_front();
        }
        let start_bytes = self.make_room(frame.len());
        self.ring[start_bytes..start_bytes + frame.len()].copy_from_slice(frame);
        self.write_bytes = start_bytes + frame.len();
        self.entries.push_back(Entry { start_bytes, length_bytes: frame.len() });
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Ok(sequence)
    }

    /// Finds a place for a frame that fits in the empty ring, forgetting the oldest frames as needed.
    fn make_room(&mut self, length_bytes: usize) -> usize {
        while let Some(oldest) = self.entries.front() {
            let oldest_bytes = oldest.start_bytes;
            if self.write_bytes > oldest_bytes {
                if self.ring.len() - self.write_bytes >= length_bytes {
                    return self.write_bytes;
                }
                if oldest_bytes > length_bytes {
                    return 0;
                }
            } else if oldest_bytes - self.write_bytes > length_bytes {
                return self.write_bytes;
            }
            self.entries.pop_front();
        }
        0
    }

    /// The number that the next frame will get.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// The number of the oldest frame held; the next one's if none is held.
    #[must_use]
    pub fn oldest_sequence(&self) -> u64 {
        self.next_sequence - self.entries.len() as u64
    }

    /// The frames from this number on, as far as they are held.
    #[must_use]
    pub fn since(&self, sequence: u64) -> Since<'_> {
        let oldest = self.oldest_sequence();
        let first_sequence = sequence.clamp(oldest, self.next_sequence);
        Since { log: self, lost_frames: oldest.saturating_sub(sequence), next_sequence: first_sequence }
    }

    /// Forgets all frames before this number: they are not needed again.
    pub fn forget_before(&mut self, sequence: u64) {
        let count = sequence.saturating_sub(self.oldest_sequence()).min(self.entries.len() as u64);
        self.entries.drain(..count as usize);
    }
}

/// Frames with their numbers, oldest first.
#[derive(Clone, Debug)]
pub struct Since<'l> {
    log: &'l InputLog,
    lost_frames: u64,
    next_sequence: u64,
}

impl Since<'_> {
    /// Frames that were asked for and are no longer held.
    #[must_use]
    pub const fn lost_frames(&self) -> u64 {
        self.lost_frames
    }

    /// The number of the frame that comes next.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }
}

impl<'l> Iterator for Since<'l> {
    type Item = (u64, &'l [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let index = usize::try_from(self.next_sequence - self.log.oldest_sequence()).ok()?;
        let entry = self.log.entries.get(index)?;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Some((sequence, &self.log.ring[entry.start_bytes..entry.start_bytes + entry.length_bytes]))
    }
}

/// Which frames of a batch from a guest are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Leading frames that were let out before.
    pub duplicates: u16,
    /// Frames between the last one let out and the first one of the batch, which never came.
    pub lost_frames: u64,
}

/// Lets each frame of a guest out once, whichever replica sends it and however often.
///
/// A gap is reported and passed over: the frames in it cannot come any more, because a replica sends in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputFilter {
    next_sequence: u64,
}

impl OutputFilter {
    /// Expects this number next.
    #[must_use]
    pub const fn new(next_sequence: u64) -> Self {
        Self { next_sequence }
    }

    /// The number of the first frame not yet let out.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Takes note of a batch; all its frames but the first `duplicates` are to be let out.
    pub const fn admit(&mut self, first_sequence: u64, frame_count: u16) -> Admission {
        let repeated = self.next_sequence.saturating_sub(first_sequence);
        let duplicates = if repeated < frame_count as u64 { repeated as u16 } else { frame_count };
        if duplicates == frame_count {
            return Admission { duplicates, lost_frames: 0 };
        }
        let lost_frames = first_sequence.saturating_sub(self.next_sequence);
        self.next_sequence = first_sequence.saturating_add(frame_count as u64);
        Admission { duplicates, lost_frames }
    }
}
