//! Comparing mirrors, and making one anew from the other. Holes are neither read nor written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use protocol::ReplicaId;
use rustix::fs::SeekFrom;
use serde::Serialize;

use super::identity::{HEADER_BYTES, Identity};
use super::mark::Mark;
use super::mirror::{Mirror, Mirrors};
use super::{DiskError, mirror_path};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// What a comparison has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Bytes that were compared; the rest are holes in both.
    pub compared_bytes: u64,
    /// Blocks that differ.
    pub differing_blocks: u64,
    /// The first of them.
    pub first_difference: Option<u64>,
}

/// Makes the mirror that `source` is not anew: same blocks, same generation, clean both. `progress` is told how many bytes
/// of how many are done.
///
/// # Errors
/// The system's, or there is no source. A mirror that was not finished has generation 0: it is stale for everybody.
pub fn resync(mirrors: &mut Mirrors, source: ReplicaId, mut progress: impl FnMut(u64, u64)) -> Result<(), DiskError> {
    let target = source.peer();
    let target_path = mirror_path(&mirrors.stem, target);
    let source_path = mirror_path(&mirrors.stem, source);
    let [zero, one] = &mut mirrors.each;
    let (from, place) = if source == ReplicaId::ZERO { (zero, one) } else { (one, zero) };
    let Some(from) = from else { return Err(DiskError::NoSize { path: source_path }) };
    let unfinished = Identity { replica: target, generation: 0, clean: false, ..from.identity.clone() };
    // The lock stays with the file, so an open one is kept.
    let mut to = match place.take() {
        Some(mirror) => {
            let mirror = Mirror { identity: unfinished, ..mirror };
            Mark::erase(&mirror.file).map_err(DiskError::file(&target_path))?;
            mirror.write_identity()?;
            let length = HEADER_BYTES + mirror.identity.size_bytes;
            let emptied = mirror.file.set_len(HEADER_BYTES).and_then(|()| mirror.file.set_len(length));
            emptied.map_err(DiskError::file(&target_path))?;
            mirror
        }
        None => Mirror::create(&target_path, unfinished)?,
    };
    copy(&from.file, &from.path, &to, &mut progress)?;
    to.file.sync_all().map_err(DiskError::file(&target_path))?;
    to.identity = Identity { replica: target, leads: false, clean: true, ..from.identity.clone() };
    to.write_identity()?;
    *place = Some(to);
    from.identity.clean = true;
    from.write_identity()
}

fn copy(from: &File, from_path: &Path, to: &Mirror, progress: &mut impl FnMut(u64, u64)) -> Result<(), DiskError> {
    let end = HEADER_BYTES + to.identity.size_bytes;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = HEADER_BYTES;
    while let Some((start, stop)) = next_data(from, at, end).map_err(DiskError::file(from_path))? {
        at = start;
        while at < stop {
            let bytes = (stop - at).min(CHUNK_BYTES as u64) as usize;
            from.read_exact_at(&mut buffer[..bytes], at).map_err(DiskError::file(from_path))?;
            to.file.write_all_at(&buffer[..bytes], at).map_err(DiskError::file(&to.path))?;
            at += bytes as u64;
            progress(at - HEADER_BYTES, to.identity.size_bytes);
        }
    }
    progress(to.identity.size_bytes, to.identity.size_bytes);
    Ok(())
}

/// The next range from `at` on that is not a hole, within `end`.
pub(crate) fn next_data(file: &File, at: u64, end: u64) -> std::io::Result<Option<(u64, u64)>> {
    if at >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stop = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(end);
    Ok((start < stop).then_some((start, stop)))
}

/// Whether all of the guest's blocks are zeros. Holes are not read, and nothing behind the first byte that is none: only a file
/// that has its room already, all of it zeros, takes time.
///
/// # Errors
/// The system's.
pub fn is_blank(disk: &Mirror) -> Result<bool, DiskError> {
    let error = || DiskError::file(&disk.path);
    let end = HEADER_BYTES + disk.identity.size_bytes;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut at = HEADER_BYTES;
    while let Some((start, stop)) = next_data(&disk.file, at, end).map_err(error())? {
        let bytes = (stop - start).min(CHUNK_BYTES as u64) as usize;
        disk.file.read_exact_at(&mut buffer[..bytes], start).map_err(error())?;
        if buffer[..bytes].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at = start + bytes as u64;
    }
    Ok(true)
}

/// Compares the guest's blocks of two mirrors.
///
/// # Errors
/// The system's, or one of them is missing.
pub fn compare(mirrors: &Mirrors, mut progress: impl FnMut(u64, u64)) -> Result<Comparison, DiskError> {
    let [Some(zero), Some(one)] = &mirrors.each else {
        let missing = if mirrors.each[0].is_none() { ReplicaId::ZERO } else { ReplicaId::ONE };
        return Err(DiskError::Differ(format!("there is no {}", mirror_path(&mirrors.stem, missing).display())));
    };
    let size = zero.identity.size_bytes;
    let mut found = Comparison { compared_bytes: 0, differing_blocks: 0, first_difference: None };
    let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = HEADER_BYTES;
    let end = HEADER_BYTES + size;
    loop {
        let next = |mirror: &Mirror| next_data(&mirror.file, at, end).map_err(DiskError::file(&mirror.path));
        // Where either has data; what is a hole here may be zeros there.
        let Some((start, stop)) = [next(zero)?, next(one)?].into_iter().flatten().min() else { break };
        let bytes = (stop - start).min(CHUNK_BYTES as u64) as usize;
        zero.file.read_exact_at(&mut left[..bytes], start).map_err(DiskError::file(&zero.path))?;
        one.file.read_exact_at(&mut right[..bytes], start).map_err(DiskError::file(&one.path))?;
        found.note(start - HEADER_BYTES, &left[..bytes], &right[..bytes]);
        at = start + bytes as u64;
        progress(at - HEADER_BYTES, size);
    }
    progress(size, size);
    Ok(found)
}

impl Comparison {
    fn note(&mut self, offset: u64, left: &[u8], right: &[u8]) {
        self.compared_bytes += left.len() as u64;
        if left == right {
            return;
        }
        let block_bytes = hypercall::disk::BLOCK_BYTES;
        for (index, (one, other)) in left.chunks(block_bytes).zip(right.chunks(block_bytes)).enumerate() {
            if one != other {
                self.differing_blocks += 1;
                self.first_difference.get_or_insert(offset / block_bytes as u64 + index as u64);
            }
        }
    }
}
