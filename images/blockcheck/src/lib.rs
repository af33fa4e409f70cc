//! What lies on a disk, judged by somebody who has not written it.
//!
//! The probe fills each block with what follows from a seed, the block's number and a version. A [`Ledger`] notes what the
//! probe was asked for and what it has said is done and is stable; afterwards every block is read, from the host's file
//! or through the guest, and must hold one whole version that is neither older than what was promised nor newer than what
//! was asked for. Nothing of the program that writes, of the shim or of the supervisor is used here: tests and benchmarks
//! share it, and a mistake of theirs is not made twice.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

mod rng;
mod writers;

pub use rng::Rng;
use rng::mix;
pub use writers::Writers;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 512;
/// Where the guest's first block lies in a disk file.
const HEADER_BYTES: u64 = 4096;

/// What the probe writes to a block; version 0 is a block that was never written to.
pub fn content(seed: u64, block: u64, version: u64) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    if version == 0 {
        return bytes;
    }
    let start = mix(seed ^ mix(block ^ mix(version)));
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = if index == 0 { version } else { mix(start.wrapping_add(index as u64)) };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// A disk's file on the host.
#[derive(Debug)]
pub struct Mirror(File);

impl Mirror {
    /// Opens a replica's mirror for reading.
    ///
    /// # Errors
    /// The system's.
    pub fn open(stem: &Path, replica: u8) -> io::Result<Self> {
        let mut path = stem.as_os_str().to_owned();
        path.push(format!(".{replica}"));
        File::open(path).map(Self)
    }

    /// Opens a disk that both replicas share.
    ///
    /// # Errors
    /// The system's.
    pub fn shared(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// The version of a block.
    ///
    /// # Errors
    /// A text that says what is wrong: the block holds no whole version.
    pub fn version(&self, seed: u64, block: u64) -> Result<u64, String> {
        let mut found = [0; BLOCK_BYTES];
        let offset = HEADER_BYTES + block * BLOCK_BYTES as u64;
        self.0.read_exact_at(&mut found, offset).map_err(|error| format!("block {block}: {error}"))?;
        let version = u64::from_le_bytes(*found.first_chunk().expect("eight bytes"));
        if found == content(seed, block, version) {
            return Ok(version);
        }
        Err(format!("block {block} is torn or foreign: it claims version {version}"))
    }
}

/// Compares what the guest sees of both mirrors, byte by byte; returns how many bytes each has.
///
/// # Errors
/// A text that says where they differ, or what the system said.
pub fn compare(stem: &Path) -> Result<u64, String> {
    const CHUNK_BYTES: usize = 1 << 20;
    let open = |replica| Mirror::open(stem, replica).map_err(|error| format!("mirror {replica}: {error}"));
    let (one, other) = (open(0)?, open(1)?);
    let bytes = |mirror: &Mirror| mirror.0.metadata().map(|data| data.len()).map_err(|error| error.to_string());
    let (size, other_size) = (bytes(&one)?, bytes(&other)?);
    if size != other_size {
        return Err(format!("the mirrors have {size} and {other_size} bytes"));
    }
    let mut buffers = [vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]];
    let mut offset = HEADER_BYTES;
    while offset < size {
        let count = (size - offset).min(CHUNK_BYTES as u64) as usize;
        for (mirror, buffer) in [&one, &other].into_iter().zip(&mut buffers) {
            mirror.0.read_exact_at(&mut buffer[..count], offset).map_err(|error| error.to_string())?;
        }
        if let Some(at) = (0..count).find(|&at| buffers[0][at] != buffers[1][at]) {
            let block = (offset + at as u64 - HEADER_BYTES) / BLOCK_BYTES as u64;
            return Err(format!("the mirrors differ, first in block {block}"));
        }
        offset += count as u64;
    }
    Ok(size.saturating_sub(HEADER_BYTES))
}

/// What is known of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    /// The newest version that was asked for.
    asked: u64,
    /// The newest that was said to be written.
    written: u64,
    /// The newest that was written before a flush that was said to be done.
    stable: u64,
}

/// What must still be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// All that was said to be written: a replica has survived.
    Written,
    /// All that was flushed: both replicas have died.
    Stable,
}

/// Blocks that a verdict speaks of in words; it counts all of them.
const MOST_COMPLAINTS: usize = 10;

/// What a checker has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Blocks that were looked at.
    pub blocks: u64,
    /// Those that hold an older version than was promised: the newer one was lost, or an older write came after it.
    pub lost: u64,
    /// Those that hold no whole version, or cannot be read.
    pub torn: u64,
    /// Those that hold a version that nobody has asked for there.
    pub unasked: u64,
    /// The first of them, in words.
    pub complaints: Vec<String>,
}

impl Verdict {
    /// Whether every block is as promised.
    pub fn is_clean(&self) -> bool {
        self.lost + self.torn + self.unasked == 0
    }
}

/// What clients have asked for and were told, of blocks from 0 on.
#[derive(Debug, Clone)]
pub struct Ledger {
    seed: u64,
    blocks: Vec<Known>,
}

impl Ledger {
    /// Nothing is known of so many blocks, all of them zeros.
    pub fn new(seed: u64, blocks: u64) -> Self {
        Self { seed, blocks: vec![Known::default(); blocks as usize] }
    }

    /// Judges every block by the version that `read` finds there. What is there counts as stable from now on: a checker
    /// that has seen it may see neither less nor more later, because nothing is under way when this is called.
    pub fn judge(&mut self, promise: Promise, read: impl Fn(u64, u64) -> Result<u64, String>) -> Verdict {
        let mut verdict = Verdict::default();
        for (block, known) in (0..).zip(&mut self.blocks) {
            verdict.blocks += 1;
            let least = if promise == Promise::Written { known.written } else { known.stable };
            let complaint = match read(self.seed, block) {
                Ok(version) if (least..=known.asked).contains(&version) => {
                    *known = Known { asked: version, written: version, stable: version };
                    continue;
                }
                Ok(version) => {
                    let count = if version < least { &mut verdict.lost } else { &mut verdict.unasked };
                    *count += 1;
                    format!("block {block} holds version {version}, not {least} to {}", known.asked)
                }
                Err(text) => {
                    verdict.torn += 1;
                    text
                }
            };
            if verdict.complaints.len() < MOST_COMPLAINTS {
                verdict.complaints.push(complaint);
            }
        }
        verdict
    }

    /// As [`judge`](Self::judge), for those who want nothing but a clean verdict.
    ///
    /// # Errors
    /// What is wrong, of the first blocks that are.
    pub fn check(&mut self, promise: Promise, read: impl Fn(u64, u64) -> Result<u64, String>) -> Result<(), String> {
        let verdict = self.judge(promise, read);
        if verdict.is_clean() { Ok(()) } else { Err(verdict.complaints.join("; ")) }
    }

    /// How many blocks have a version that was flushed.
    pub fn stable_blocks(&self) -> usize {
        self.blocks.iter().filter(|known| known.stable > 0).count()
    }

    /// The only version that a client may read from a block of its own while it waits for nothing.
    fn expected(&self, block: u64) -> u64 {
        self.blocks[block as usize].asked
    }

    fn ask(&mut self, first: u64, blocks: u64, version: u64) {
        for known in &mut self.blocks[first as usize..(first + blocks) as usize] {
            known.asked = version;
        }
    }

    fn note_written(&mut self, first: u64, blocks: u64, version: u64) {
        for known in &mut self.blocks[first as usize..(first + blocks) as usize] {
            known.written = known.written.max(version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checker_that_always_agrees_would_be_found_out() {
        let mut ledger = Ledger::new(7, 4);
        ledger.ask(0, 2, 5);
        ledger.note_written(0, 1, 5);
        let holds = |versions: [u64; 4]| move |_: u64, block: u64| Ok(versions[block as usize]);
        assert!(
            ledger.check(Promise::Stable, holds([0, 5, 0, 0])).is_ok(),
            "a write that nobody heard of may be there"
        );
        let mut ledger = Ledger { seed: 7, blocks: vec![Known { asked: 5, written: 4, stable: 3 }; 1] };
        for (promise, version, good) in [
            (Promise::Stable, 2, false),
            (Promise::Written, 3, false),
            (Promise::Stable, 6, false),
            (Promise::Stable, 3, true),
            (Promise::Written, 5, true),
        ] {
            let mut copy = Ledger { seed: 7, blocks: ledger.blocks.clone() };
            assert_eq!(copy.check(promise, |_, _| Ok(version)).is_ok(), good, "{promise:?} {version}");
        }
        assert!(ledger.check(Promise::Stable, |_, _| Err("torn".to_owned())).is_err());
    }

    #[test]
    fn contents_tell_blocks_versions_and_seeds_apart() {
        let base = content(1, 2, 3);
        assert_eq!(u64::from_le_bytes(*base.first_chunk().expect("eight bytes")), 3);
        for other in [content(2, 2, 3), content(1, 3, 3), content(1, 2, 4)] {
            assert_ne!(base[8..], other[8..]);
        }
        assert_eq!(content(1, 2, 0), [0; BLOCK_BYTES]);
    }

    #[test]
    fn a_verdict_tells_lost_torn_and_unasked_apart() {
        let known = Known { asked: 5, written: 4, stable: 3 };
        let mut ledger = Ledger { seed: 7, blocks: vec![known; 4] };
        let found = [Ok(2), Ok(6), Err("torn".to_owned()), Ok(4)];
        let verdict = ledger.judge(Promise::Written, |_, block| found[block as usize].clone());
        assert_eq!((verdict.blocks, verdict.lost, verdict.unasked, verdict.torn), (4, 1, 1, 1));
        assert!(!verdict.is_clean() && verdict.complaints.len() == 3, "{verdict:?}");
    }

    #[test]
    fn mirrors_that_differ_in_one_byte_differ() {
        let stem = std::env::temp_dir().join(format!("pollux-blockcheck-{}", std::process::id()));
        let path = |replica: u8| format!("{}.{replica}", stem.display());
        let mut bytes = vec![7; HEADER_BYTES as usize + 3 * BLOCK_BYTES];
        std::fs::write(path(0), &bytes).expect("written");
        // The headers may differ, they do.
        bytes[100] = 1;
        std::fs::write(path(1), &bytes).expect("written");
        assert_eq!(compare(&stem), Ok(3 * BLOCK_BYTES as u64));
        bytes[HEADER_BYTES as usize + BLOCK_BYTES + 9] = 1;
        std::fs::write(path(1), &bytes).expect("written");
        assert_eq!(compare(&stem), Err("the mirrors differ, first in block 1".to_owned()));
        bytes.pop();
        std::fs::write(path(1), &bytes).expect("written");
        assert!(compare(&stem).is_err_and(|text| text.contains("bytes")));
        for replica in 0..2 {
            std::fs::remove_file(path(replica)).expect("removed");
        }
    }
}
