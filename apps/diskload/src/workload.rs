//! The work itself.

use alloc::vec;
use core::fmt;

use runtime::block::{BLOCK_BYTES, Disk, Errno};

use crate::command::Command;
use crate::content::{fill, mix};

/// Blocks of an operation: 8 KiB, as in the paper.
pub const OPERATION_BLOCKS: u64 = 16;
/// Blocks that are written at once where the whole disk is.
const FILL_BLOCKS: u64 = 128;
/// The version of everything that is written.
const VERSION: u64 = 1;

/// Why an operation was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadError {
    /// The disk has not enough blocks for one operation.
    TooSmall {
        /// How many it has.
        blocks: u64,
    },
    /// The disk refused.
    Disk(Errno),
    /// What was read is not what must be there.
    Wrong {
        /// The first such block.
        block: u64,
    },
}

impl fmt::Display for WorkloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { blocks } => {
                write!(f, "the disk has {blocks} blocks; at least {OPERATION_BLOCKS} are needed")
            }
            Self::Disk(error) => write!(f, "the disk answers {error:?}"),
            Self::Wrong { block } => {
                write!(f, "block {block} holds something else; was the disk filled with this seed?")
            }
        }
    }
}

impl core::error::Error for WorkloadError {}

impl From<Errno> for WorkloadError {
    fn from(error: Errno) -> Self {
        Self::Disk(error)
    }
}

/// Carries out a command; returns how many blocks the disk has.
///
/// # Errors
/// The first operation that failed ends it.
pub async fn run(disk: Disk, command: Command) -> Result<u64, WorkloadError> {
    let blocks = disk.blocks();
    match command {
        Command::Fill { seed } => fill_all(disk, seed).await?,
        Command::Read { operations, seed } => read(disk, operations, seed).await?,
        Command::Write { operations, seed } => write(disk, operations, seed).await?,
    }
    Ok(blocks)
}

async fn fill_all(disk: Disk, seed: u64) -> Result<(), WorkloadError> {
    let mut buffer = vec![0; FILL_BLOCKS as usize * BLOCK_BYTES];
    for first in (0..disk.blocks()).step_by(FILL_BLOCKS as usize) {
        let blocks = FILL_BLOCKS.min(disk.blocks() - first);
        let part = &mut buffer[..blocks as usize * BLOCK_BYTES];
        make_up(part, seed, first);
        disk.write(first, part).await?;
    }
    Ok(disk.flush().await?)
}

async fn read(disk: Disk, operations: u64, seed: u64) -> Result<(), WorkloadError> {
    let places = Places::of(disk, seed)?;
    let mut buffer = vec![0; OPERATION_BLOCKS as usize * BLOCK_BYTES];
    for operation in 0..operations {
        let first = places.first_block(operation);
        disk.read(first, &mut buffer).await?;
        check(&buffer, seed, first)?;
    }
    Ok(())
}

async fn write(disk: Disk, operations: u64, seed: u64) -> Result<(), WorkloadError> {
    let places = Places::of(disk, seed)?;
    let mut buffer = vec![0; OPERATION_BLOCKS as usize * BLOCK_BYTES];
    for operation in 0..operations {
        let first = places.first_block(operation);
        make_up(&mut buffer, seed, first);
        disk.write(first, &buffer).await?;
    }
    Ok(())
}

/// Where the operations go.
#[derive(Debug, Clone, Copy)]
struct Places {
    count: u64,
    seed: u64,
}

impl Places {
    fn of(disk: Disk, seed: u64) -> Result<Self, WorkloadError> {
        match disk.blocks() {
            blocks @ 0..OPERATION_BLOCKS => Err(WorkloadError::TooSmall { blocks }),
            blocks => Ok(Self { count: blocks / OPERATION_BLOCKS, seed }),
        }
    }

    fn first_block(self, operation: u64) -> u64 {
        mix(self.seed ^ mix(operation)) % self.count * OPERATION_BLOCKS
    }
}

fn make_up(content: &mut [u8], seed: u64, first: u64) {
    for (block, place) in (first..).zip(content.chunks_exact_mut(BLOCK_BYTES)) {
        fill(place, seed, block, VERSION);
    }
}

fn check(found: &[u8], seed: u64, first: u64) -> Result<(), WorkloadError> {
    let mut expected = [0; BLOCK_BYTES];
    for (block, place) in (first..).zip(found.chunks_exact(BLOCK_BYTES)) {
        fill(&mut expected, seed, block, VERSION);
        if expected[..] != *place {
            return Err(WorkloadError::Wrong { block });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_up_passes_and_one_wrong_byte_does_not() {
        let mut content = vec![0; OPERATION_BLOCKS as usize * BLOCK_BYTES];
        make_up(&mut content, 1996, 32);
        assert_eq!(check(&content, 1996, 32), Ok(()));
        assert_eq!(check(&content, 1997, 32), Err(WorkloadError::Wrong { block: 32 }));
        assert_eq!(check(&content, 1996, 48), Err(WorkloadError::Wrong { block: 48 }));
        content[5 * BLOCK_BYTES + 100] ^= 1;
        assert_eq!(check(&content, 1996, 32), Err(WorkloadError::Wrong { block: 37 }));
    }

    #[test]
    fn places_are_whole_and_all_over_the_disk() {
        let places = Places { count: 64, seed: 5 };
        let mut seen = [false; 64];
        for operation in 0..2_000 {
            let first = places.first_block(operation);
            assert_eq!(first % OPERATION_BLOCKS, 0);
            seen[(first / OPERATION_BLOCKS) as usize] = true;
        }
        assert!(seen.iter().all(|&seen| seen));
    }
}
