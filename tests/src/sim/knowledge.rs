//! What a guest must find on its disk, and what flushes have promised it.

use std::collections::VecDeque;

use super::disk::{BLOCKS, Request};

/// What a guest knows of its disk: every read must bring what was written last before it was asked for, and what a flush
/// promises is what was told to be written before the flush was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Knowledge {
    asked: u64,
    /// The newest value asked for, and the newest that was told to be written.
    newest: [u64; BLOCKS],
    written: [u64; BLOCKS],
    /// A write of this block has failed: nobody knows what lies there.
    unknown: [bool; BLOCKS],
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
        words.extend(self.unknown.map(u64::from));
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
        let (unknown, rest) = rest.split_first_chunk::<BLOCKS>()?;
        let unknown = unknown.map(|word| word != 0);
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
        Some(Self { asked, newest: *newest, written: *written, unknown, awaited })
    }

    /// Notes a completion and returns what a flush has promised to be stable.
    ///
    /// # Errors
    /// A text when a read brought something else than was written last.
    pub fn told(&mut self, number: u64, value: u64) -> Result<Option<[u64; BLOCKS]>, String> {
        let (request, awaited) = self.take(number)?;
        let is_unknown = request.block().is_some_and(|block| self.unknown[block]);
        match awaited {
            Awaited::Value(expected) if expected != value && !is_unknown => {
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

impl Knowledge {
    /// A request has failed.
    ///
    /// # Errors
    /// A text when nobody waits for it.
    pub fn failed(&mut self, number: u64) -> Result<(), String> {
        if let (Request::Write(block, _), _) = self.take(number)? {
            self.unknown[block] = true;
        }
        Ok(())
    }

    /// Whether these may be the blocks of the disk that a guest knows so much of: each holds what was told to be written, or
    /// something newer that was asked for.
    #[must_use]
    pub fn fits(&self, blocks: &[u64; BLOCKS]) -> bool {
        (0..BLOCKS).all(|block| (self.written[block]..=self.newest[block]).contains(&blocks[block]))
    }
}

/// Whether a disk holds what was promised; values of a block only grow.
pub fn keeps(stable: &[u64; BLOCKS], promise: &[u64; BLOCKS]) -> bool {
    stable.iter().zip(promise).all(|(found, promised)| found >= promised)
}
