//! What a loss of power leaves of a disk.
//!
//! QEMU's `blklogwrites` notes every write and every flush of a disk in the format of Linux's dm-log-writes
//! (`Documentation/admin-guide/device-mapper/log-writes.rst`): a superblock, then entries of one sector, each followed by
//! its data. From that a disk is made anew as a host may find it that lost its power: all that was written before the last
//! flush is there, and of what was written after it any sectors, whole or not at all, in any order.

use std::path::{Path, PathBuf};

use crate::sim::Rng;

/// Bytes of a sector, the least that a disk writes as a whole.
const SECTOR_BYTES: usize = 512;
/// What a log begins with.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
const KNOWN_FLAGS: u64 = 15;

/// One write, one discard, or a flush, which concerns no sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    first_sector: usize,
    sectors: usize,
    is_flush: bool,
    /// Nothing of a discard, which reads as zeros.
    data: Vec<u8>,
}

/// What happened to a disk, in order.
#[derive(Debug, Default)]
pub struct WriteLog(Vec<Entry>);

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let word = bytes.get(8 * index..8 * index + 8)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

/// Bytes of the identity before a disk's blocks, which the supervisor writes and QEMU does not.
const HEADER_BYTES: usize = 4096;

/// Where QEMU notes what is written to this file; see the fault `logged` of `pollux up --disk-fault`.
pub fn log_of(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".writes");
    path.into()
}

/// Makes of a disk's file, which was empty when its log began, what a loss of power leaves. Returns how many sectors were lost
/// that had been written.
///
/// # Panics
/// When there is no log, or the file cannot be written.
pub fn lose_power(path: &Path, rng: &mut Rng) -> usize {
    use std::os::unix::fs::FileExt;
    let log = WriteLog::read(&log_of(path)).expect("a log");
    let file = std::fs::File::options().read(true).write(true).open(path).expect("it is there");
    let mut disk = vec![0; file.metadata().expect("a file").len() as usize];
    let lost = log.lose_power(&mut disk, rng);
    file.write_all_at(&disk[HEADER_BYTES..], HEADER_BYTES as u64).expect("written");
    println!("{}: {:?} entries and flushes, {lost} sectors lost", path.display(), log.count());
    lost
}

impl WriteLog {
    /// Reads a log.
    ///
    /// # Errors
    /// A text: it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::parse(&std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?)
    }

    /// The superblock counts entries up to the last flush at least; the log of one that was killed may hold more, up to the
    /// first that is not there.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let certain = match word(bytes, 0) {
            Some(MAGIC) => word(bytes, 2).unwrap_or(0) as usize,
            // The superblock is written with the first flush.
            Some(0) => 0,
            _ => return Err("this is no log of writes".to_owned()),
        };
        let (mut entries, mut at) = (Vec::new(), SECTOR_BYTES);
        while let Some(entry) = bytes.get(at..).and_then(Entry::parse) {
            at += SECTOR_BYTES + entry.data.len();
            entries.push(entry);
        }
        if entries.len() < certain {
            return Err(format!("the log speaks of {certain} entries and has {}", entries.len()));
        }
        Ok(Self(entries))
    }

    /// How many entries there are, and how many of them are flushes.
    pub fn count(&self) -> (usize, usize) {
        (self.0.len(), self.0.iter().filter(|entry| entry.is_flush).count())
    }

    /// Makes of a disk what a loss of power leaves after all that is in the log. It was empty before. Returns how many
    /// sectors were lost that had been written.
    pub fn lose_power(&self, disk: &mut [u8], rng: &mut Rng) -> usize {
        let stable = self.0.iter().rposition(|entry| entry.is_flush).map_or(0, |last| last + 1);
        let mut lost = 0;
        for (index, entry) in self.0.iter().enumerate() {
            for sector in 0..entry.sectors {
                if index >= stable && rng.chance(50) {
                    lost += 1;
                    continue;
                }
                let at = (entry.first_sector + sector) * SECTOR_BYTES;
                let Some(place) = disk.get_mut(at..at + SECTOR_BYTES) else { continue };
                match entry.data.get(sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES) {
                    Some(data) => place.copy_from_slice(data),
                    None => place.fill(0),
                }
            }
        }
        lost
    }
}

impl Entry {
    /// The entry that these bytes begin with, if they do with a whole one.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [first_sector, sectors, flags] = [0, 1, 2].map(|index| word(bytes, index));
        let (first_sector, sectors, flags) = (first_sector? as usize, sectors? as usize, flags?);
        let is_nothing = sectors == 0 && flags == 0;
        if is_nothing || flags & !KNOWN_FLAGS != 0 {
            return None;
        }
        let data_bytes = if flags & DISCARD == 0 { sectors.checked_mul(SECTOR_BYTES)? } else { 0 };
        let data = bytes.get(SECTOR_BYTES..SECTOR_BYTES.checked_add(data_bytes)?)?.to_vec();
        Some(Self { first_sector, sectors, is_flush: flags & FLUSH != 0, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first_sector: u64, sectors: u64, flags: u64, fill: u8) -> Vec<u8> {
        let mut bytes = [first_sector, sectors, flags, 0].map(u64::to_le_bytes).concat();
        bytes.resize(SECTOR_BYTES, 0);
        let data_bytes = if flags & DISCARD == 0 { sectors as usize * SECTOR_BYTES } else { 0 };
        bytes.resize(SECTOR_BYTES + data_bytes, fill);
        bytes
    }

    fn log(certain: u64, entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = [MAGIC, 1, certain, 512].map(u64::to_le_bytes).concat();
        bytes.resize(SECTOR_BYTES, 0);
        bytes.extend(entries.concat());
        bytes
    }

    #[test]
    fn what_was_flushed_stays_and_what_was_not_may_go_sector_by_sector() {
        let entries = [entry(1, 2, 0, 1), entry(2, 1, DISCARD, 0), entry(0, 0, FLUSH, 0), entry(0, 8, 0, 9)];
        let log = WriteLog::parse(&log(3, &entries)).expect("a log");
        assert_eq!(log.count(), (4, 1));
        let (mut torn, mut all_lost) = (false, 0);
        for seed in 0..50 {
            let mut disk = vec![0; 8 * SECTOR_BYTES];
            let lost = log.lose_power(&mut disk, &mut Rng::new(seed));
            let sectors: Vec<u8> = disk.chunks(SECTOR_BYTES).map(|sector| sector[7]).collect();
            assert!(disk.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
            assert_eq!(sectors.iter().filter(|&&fill| fill == 9).count(), 8 - lost);
            assert!(sectors[1] == 1 || sectors[1] == 9, "what was flushed is there, or what came later");
            assert!(sectors[2] == 0 || sectors[2] == 9, "what was discarded reads as zeros");
            torn |= lost > 0 && lost < 8;
            all_lost += lost;
        }
        assert!(torn && all_lost > 0);
    }

    #[test]
    fn a_log_that_lacks_what_it_speaks_of_is_refused() {
        assert!(WriteLog::parse(b"something else").is_err());
        let entries = [entry(1, 2, 0, 1), entry(0, 0, FLUSH, 0)];
        assert!(WriteLog::parse(&log(3, &entries)).is_err());
        let mut cut = log(1, &entries);
        cut.truncate(cut.len() - SECTOR_BYTES - 1);
        assert!(WriteLog::parse(&cut).is_err(), "an entry without its data is none");
    }
}
