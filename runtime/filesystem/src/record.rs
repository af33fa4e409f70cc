//! The records of the metadata log, encoded and decoded in one place. All numbers are little endian.
//!
//! | kind | fields |
//! |---|---|
//! | 0 format | version u32, bytes of a block u32, data blocks u32 |
//! | 1 begin | whole u8: 1 if the log begins with this commit |
//! | 2 inode | ino u64, kind u8, mode u32, links u32, bytes u64, four times u64, parent u64, target |
//! | 3 entry | directory u64, ino u64 (0: no such name any more), name |
//! | 4 run | ino u64, first index u64, first block u32 (0: holes), a checksum u64 for each block |
//! | 5 cut | ino u64, index u64: no blocks from there on |
//! | 6 gone | ino u64 |
//! | 7 end | next number of an inode u64 |

use alloc::vec::Vec;
use recordstore::Batch;

use crate::inode::{Ino, Kind, Times};

/// Version of the format.
pub(crate) const VERSION: u32 = 1;
/// Blocks of the longest run: 32 KiB of a record.
pub(crate) const MAX_RUN: usize = 4096;

/// Bytes of the longest record, and more: a run or a link's target is all that is long.
pub(crate) const MAX_RECORD_BYTES: u32 = 64 * 1024;

/// Bytes of an inode's record in the log, without its target.
pub(crate) const INODE_BYTES: usize = 70 + LENGTH_BYTES;
/// Bytes of an entry's record without its name.
pub(crate) const ENTRY_BYTES: usize = 17 + LENGTH_BYTES;
/// Bytes of a run's record without its checksums.
pub(crate) const RUN_BYTES: usize = 21 + LENGTH_BYTES;
/// Bytes of a record that a file was cut, and of one that an inode is gone.
pub(crate) const CUT_BYTES: usize = 17 + LENGTH_BYTES;
pub(crate) const GONE_BYTES: usize = 9 + LENGTH_BYTES;
/// What the log adds to a record.
const LENGTH_BYTES: usize = 4;

/// A record, borrowed from what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Format { version: u32, block_bytes: u32, data_blocks: u32 },
    Begin { whole: bool },
    Inode(InodeRecord<'a>),
    Entry { directory: Ino, ino: Ino, name: &'a [u8] },
    Run { ino: Ino, index: u64, block: u32, sums: &'a [u8] },
    Cut { ino: Ino, index: u64 },
    Gone { ino: Ino },
    End { next_ino: Ino },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InodeRecord<'a> {
    pub ino: Ino,
    pub kind: Kind,
    pub mode: u32,
    pub links: u32,
    pub bytes: u64,
    pub times: Times,
    pub parent: Ino,
    pub target: &'a [u8],
}

const KINDS: [Kind; 3] = [Kind::File, Kind::Directory, Kind::Link];

/// Cuts fields off the front of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*word))
    }

    fn u64(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    fn times(&mut self) -> Option<Times> {
        Some(Times {
            accessed_ns: self.u64()?,
            modified_ns: self.u64()?,
            changed_ns: self.u64()?,
            born_ns: self.u64()?,
        })
    }
}

impl<'a> Record<'a> {
    /// Reads a record; nothing if it is none.
    #[inline(never)]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(match fields.u8()? {
            0 => Self::Format { version: fields.u32()?, block_bytes: fields.u32()?, data_blocks: fields.u32()? },
            1 => Self::Begin { whole: fields.u8()? != 0 },
            2 => Self::Inode(InodeRecord {
                ino: fields.u64()?,
                kind: *KINDS.get(usize::from(fields.u8()?))?,
                mode: fields.u32()?,
                links: fields.u32()?,
                bytes: fields.u64()?,
                times: fields.times()?,
                parent: fields.u64()?,
                target: fields.0,
            }),
            3 => Self::Entry { directory: fields.u64()?, ino: fields.u64()?, name: fields.0 },
            4 => Self::Run { ino: fields.u64()?, index: fields.u64()?, block: fields.u32()?, sums: fields.0 },
            5 => Self::Cut { ino: fields.u64()?, index: fields.u64()? },
            6 => Self::Gone { ino: fields.u64()? },
            7 => Self::End { next_ino: fields.u64()? },
            _ => return None,
        })
    }

    /// Adds it to a batch.
    #[inline(never)]
    pub fn put(&self, batch: &mut Batch) {
        batch.open();
        match *self {
            Self::Format { version, block_bytes, data_blocks } => {
                batch.extend(&[0]);
                [version, block_bytes, data_blocks].iter().for_each(|word| batch.extend(&word.to_le_bytes()));
            }
            Self::Begin { whole } => batch.extend(&[1, u8::from(whole)]),
            Self::Inode(inode) => inode.put(batch),
            Self::Entry { directory, ino, name } => {
                words(batch, 3, &[directory, ino]);
                batch.extend(name);
            }
            Self::Run { ino, index, block, sums } => {
                words(batch, 4, &[ino, index]);
                batch.extend(&block.to_le_bytes());
                batch.extend(sums);
            }
            Self::Cut { ino, index } => words(batch, 5, &[ino, index]),
            Self::Gone { ino } => words(batch, 6, &[ino]),
            Self::End { next_ino } => words(batch, 7, &[next_ino]),
        }
        batch.close();
    }
}

fn words(batch: &mut Batch, kind: u8, words: &[u64]) {
    batch.extend(&[kind]);
    words.iter().for_each(|word| batch.extend(&word.to_le_bytes()));
}

impl InodeRecord<'_> {
    fn put(&self, batch: &mut Batch) {
        words(batch, 2, &[self.ino]);
        batch.extend(&[self.kind as u8]);
        batch.extend(&self.mode.to_le_bytes());
        batch.extend(&self.links.to_le_bytes());
        let Times { accessed_ns, modified_ns, changed_ns, born_ns } = self.times;
        for word in [self.bytes, accessed_ns, modified_ns, changed_ns, born_ns, self.parent] {
            batch.extend(&word.to_le_bytes());
        }
        batch.extend(self.target);
    }
}

/// Gathers places that lie one behind the other into runs.
#[derive(Default)]
pub(crate) struct Runs {
    start: Option<(Ino, u64, u32)>,
    sums: Vec<u8>,
}

impl Runs {
    /// Adds the place of a block; `block` 0 is a hole.
    pub fn add(&mut self, batch: &mut Batch, ino: Ino, index: u64, block: u32, sum: u64) {
        let count = self.sums.len() / 8;
        let follows = self.start.is_some_and(|(run_ino, run_index, run_block)| {
            let next_block = if run_block == 0 { 0 } else { run_block.wrapping_add(count as u32) };
            (run_ino, run_index + count as u64, next_block) == (ino, index, block)
        });
        if !follows || count == MAX_RUN {
            self.end(batch);
            self.start = Some((ino, index, block));
        }
        self.sums.extend_from_slice(&sum.to_le_bytes());
    }

    /// Writes the last run.
    pub fn end(&mut self, batch: &mut Batch) {
        if let Some((ino, index, block)) = self.start.take() {
            Record::Run { ino, index, block, sums: &self.sums }.put(batch);
            self.sums.clear();
        }
    }
}
