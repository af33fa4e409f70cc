//! Work on disks, with content that a checker outside can foresee: see [`diskload::content`].

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use diskload::content::{fill, mix};
use runtime::block::{BLOCK_BYTES, Disk, Errno};
use runtime::spawn;
use runtime::time::Instant;

/// Carries out `disk NAME OPERATION …`; the operations are in the table of the crate.
pub async fn run(words: &[&str]) -> String {
    let (Some(name), Some(operation)) = (words.first(), words.get(1)) else { return "which disk, and what?".into() };
    let numbers: Vec<u64> = words[2..].iter().map_while(|word| word.parse().ok()).collect();
    let disk = match Disk::open(name) {
        Ok(disk) => disk,
        Err(error) => return format!("{error:?}"),
    };
    let result = match (*operation, &numbers[..]) {
        ("size", _) => return format!("blocks {}", disk.blocks()),
        ("write", &[first, blocks, seed, version]) => write(disk, first, blocks, seed, version).await,
        ("verify", &[first, blocks, seed, version]) => return verify(disk, first, blocks, seed, version).await,
        ("version", &[block]) => return version_of(disk, block).await,
        ("zero", &[first, blocks]) => disk.write_zeroes(first, blocks).await,
        ("discard", &[first, blocks]) => disk.discard(first, blocks).await,
        ("flush", _) => disk.flush().await,
        ("overlap", &[first, rounds]) => return overlap(disk, first, rounds).await,
        ("stream", &[write, bytes, queue]) => return stream(disk, write != 0, bytes, queue).await,
        ("commit", &[rounds]) => return commit(disk, rounds).await,
        _ => return format!("unknown operation {operation:?} with {} numbers", numbers.len()),
    };
    result.map_or_else(|error| format!("{error:?}"), |()| "done".into())
}

fn content(first: u64, blocks: u64, seed: u64, version: u64) -> Vec<u8> {
    let mut content = vec![0; blocks as usize * BLOCK_BYTES];
    for (block, place) in (first..).zip(content.chunks_exact_mut(BLOCK_BYTES)) {
        fill(place, seed, block, version);
    }
    content
}

async fn write(disk: Disk, first: u64, blocks: u64, seed: u64, version: u64) -> Result<(), Errno> {
    disk.write(first, &content(first, blocks, seed, version)).await
}

async fn verify(disk: Disk, first: u64, blocks: u64, seed: u64, version: u64) -> String {
    let expected = content(first, blocks, seed, version);
    let mut found = vec![0xee; expected.len()];
    if let Err(error) = disk.read(first, &mut found).await {
        return format!("{error:?}");
    }
    let differs = |(one, other): (&[u8], &[u8])| one != other;
    let blocks = found.chunks_exact(BLOCK_BYTES).zip(expected.chunks_exact(BLOCK_BYTES));
    match blocks.clone().position(differs) {
        None => "same".into(),
        Some(index) => format!("differs at block {}", first + index as u64),
    }
}

async fn version_of(disk: Disk, block: u64) -> String {
    let mut found = [0; BLOCK_BYTES];
    match disk.read(block, &mut found).await {
        Ok(()) => format!("version {}", u64::from_le_bytes(found[..8].try_into().unwrap_or_default())),
        Err(error) => format!("{error:?}"),
    }
}

/// Many operations on the same few blocks at once: each must see those before it.
async fn overlap(disk: Disk, first: u64, rounds: u64) -> String {
    let mut tasks = Vec::new();
    for round in 0..rounds {
        let at = first + round % 3;
        tasks.push(spawn(async move {
            disk.write(at, &content(at, 4, 1, round)).await?;
            Ok::<bool, Errno>(true)
        }));
        tasks.push(spawn(async move {
            let mut found = [0; BLOCK_BYTES];
            disk.read(at, &mut found).await?;
            Ok(u64::from_le_bytes(found[..8].try_into().unwrap_or_default()) == round)
        }));
    }
    let mut good = 0;
    for task in tasks {
        good += u64::from(matches!(task.await, Ok(Ok(true))));
    }
    format!("in order {good} of {}", 2 * rounds)
}

/// Reads or writes so many bytes in pieces of 64 KiB, `queue` of them at a time, wrapping around at the disk's end. Answers
/// how many nanoseconds it took.
async fn stream(disk: Disk, write: bool, bytes: u64, queue: u64) -> String {
    const PIECE: usize = 64 * 1024;
    const PIECE_BLOCKS: u64 = (PIECE / BLOCK_BYTES) as u64;
    let pieces = bytes / PIECE as u64;
    let places = (disk.blocks() / PIECE_BLOCKS).max(1);
    let start = Instant::now();
    let lane = move |lane: u64| async move {
        let mut buffer = content(lane, PIECE_BLOCKS, 3, lane);
        let mut piece = lane;
        while piece < pieces {
            let first = piece % places * PIECE_BLOCKS;
            if write {
                disk.write(first, &buffer).await?;
            } else {
                disk.read(first, &mut buffer).await?;
            }
            piece += queue;
        }
        Ok::<(), Errno>(())
    };
    let tasks: Vec<_> = (0..queue).map(|index| spawn(lane(index))).collect();
    for task in tasks {
        match task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return format!("{error:?}"),
            Err(_) => return "aborted".into(),
        }
    }
    format!("took {} ns", Instant::now().duration_since(start).as_nanos())
}

/// Writes 4 KiB at a place of its own and flushes, over and over; answers how long each round took, in nanoseconds.
async fn commit(disk: Disk, rounds: u64) -> String {
    const BLOCKS: u64 = 8;
    let places = (disk.blocks() / BLOCKS).max(1);
    let buffer = content(0, BLOCKS, 5, 5);
    let mut text = String::from("took");
    for round in 0..rounds {
        let start = Instant::now();
        let written = disk.write(mix(round) % places * BLOCKS, &buffer).await;
        if let Err(error) = written.and(disk.flush().await) {
            return format!("{error:?}");
        }
        text.push_str(&format!(" {}", Instant::now().duration_since(start).as_nanos()));
    }
    text
}
