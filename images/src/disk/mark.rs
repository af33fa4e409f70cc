//! What a disk file says of the log that it belongs to, behind its identity: which log that is, and how far the file is known to
//! have come.
//!
//! A log is enough to bring a disk from one of its checkpoints on to its end, if the disk holds, stable, everything up to that
//! checkpoint, and nothing that the log does not know. The second holds for every disk of a pair with a durable log; the mark says
//! that the first does. It is made by whoever writes the log ([`crate::supervise::storage::writer`]), in the order of the log, and
//! goes when the file is made anew or is used without the log.
//!
//! | bytes | field |
//! |---|---|
//! | 512..520 | magic |
//! | 520..524 | version |
//! | 528..536 | the log's name, as its segments have it |
//! | 536..544 | the file's generation when it was marked |
//! | 544..552 | the epoch up to which everything is there |
//! | 1016..1024 | checksum of the bytes before |
//!
//! Integers are little-endian; everything else is zero. All of it lies in one sector of its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use protocol::Epoch;
use protocol::digest::digest_of;

use super::identity::{IDENTITY_BYTES, Identity};

/// Where it lies.
const AT_BYTE: u64 = IDENTITY_BYTES as u64;
const MARK_BYTES: usize = 512;
const MAGIC: [u8; 8] = *b"PLXDMARK";
const VERSION: u32 = 1;
const CHECKSUM_SEED: u64 = 0x6469_736b_6d61_726b;
const CHECKSUM_AT: usize = MARK_BYTES - 8;

/// How far a disk file is known to have come, by a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The log's name.
    pub lineage: u64,
    /// The file's generation when it was marked.
    pub generation: u64,
    /// Everything that the log says was done up to this epoch is in the file, and stable.
    pub through: Epoch,
}

impl Mark {
    fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &self.lineage.to_le_bytes());
        put(24, &self.generation.to_le_bytes());
        put(32, &self.through.to_le_bytes());
        let checksum = digest_of(CHECKSUM_SEED, &bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None`: there is none, or none that can be trusted. Whoever needs one says so.
    fn decode(bytes: &[u8; MARK_BYTES]) -> Option<Self> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let mark = Self { lineage: word(16), generation: word(24), through: word(32) };
        (mark.encode() == *bytes).then_some(mark)
    }

    /// The mark in a disk's file.
    ///
    /// # Errors
    /// The system's.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; MARK_BYTES];
        file.read_exact_at(&mut bytes, AT_BYTE)?;
        Ok(Self::decode(&bytes))
    }

    /// Writes it to where everybody on this host sees it. It is stable with whatever is made stable next.
    ///
    /// # Errors
    /// The system's.
    pub fn note(&self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.encode(), AT_BYTE)
    }

    /// Everything that is in the file by now is made stable, then marked.
    ///
    /// # Errors
    /// The system's. The mark that was there before is true as well.
    pub fn make(&self, file: &File) -> io::Result<()> {
        file.sync_data()?;
        self.note(file)?;
        file.sync_data()
    }

    /// Whatever the file was marked with is true no more. Stable with whatever is made stable next.
    ///
    /// # Errors
    /// The system's.
    pub fn erase(file: &File) -> io::Result<()> {
        file.write_all_at(&[0; MARK_BYTES], AT_BYTE)
    }
}

/// The part of a log that is to be run again, from a checkpoint to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The log's name.
    pub lineage: u64,
    /// The checkpoint's epoch.
    pub from: Epoch,
    /// The last epoch of the log.
    pub through: Epoch,
}

/// Why the files of a disk cannot be brought to the end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// They belong to no log, or to another one.
    #[error(
        "does not belong to this log: it is another disk, or was used without the log since (by `cargo pollux up`, say). Put the \
         file back that belongs there, or go on without the log by `cargo pollux up --disk`"
    )]
    Foreign,
    /// They hold what the log does not know.
    #[error(
        "holds everything up to epoch {through}, and the log ends with epoch {last}: this is an old copy of the log. Restore from the \
         folder that the pair wrote last"
    )]
    Newer {
        /// What the disk holds.
        through: Epoch,
        /// What the log holds.
        last: Epoch,
    },
    /// They lack what the log no longer says.
    #[error(
        "is known to hold everything up to epoch {through} only, and the log leads on from epoch {from}: this is an old copy of the \
         disk. Put the file back that the pair used last"
    )]
    Older {
        /// What the disk holds.
        through: Epoch,
        /// Where the log begins.
        from: Epoch,
    },
}

impl Stretch {
    /// Which of the files of a disk, by their identities and marks, this part of the log can be run again upon. Of several the
    /// first: all of them will be equal at the end.
    ///
    /// It need not be the freshest. A replica that left the pair has a stale mirror; but everything in it happened, in the
    /// history that the log has, and what it lacks since the checkpoint is done again.
    ///
    /// # Errors
    /// None fits.
    pub fn base<const N: usize>(&self, files: [Option<(&Identity, Option<Mark>)>; N]) -> Result<usize, Unfit> {
        let freshest = files.iter().flatten().map(|(identity, _)| identity.generation).max();
        let marked = |file: &Option<(&Identity, Option<Mark>)>| {
            let (identity, mark) = (*file)?;
            // One that was being overwritten when everything died has generation 0.
            let mark = mark.filter(|mark| mark.lineage == self.lineage && identity.generation != 0)?;
            Some((mark, Some(mark.generation) == freshest))
        };
        let marks = files.each_ref().map(marked);
        // A generation that was raised since says that another replica went on, whose history is the log's from there on: how far
        // the file had come by its own is of no meaning then.
        let is_newer = |(mark, is_current): &&(Mark, bool)| *is_current && mark.through > self.through;
        if let Some((mark, _)) = marks.iter().flatten().find(is_newer) {
            return Err(Unfit::Newer { through: mark.through, last: self.through });
        }
        let fits = |mark: &Option<(Mark, bool)>| mark.is_some_and(|(mark, _)| mark.through >= self.from);
        if let Some(base) = marks.iter().position(fits) {
            return Ok(base);
        }
        let newest = marks.iter().flatten().map(|(mark, _)| mark.through).max();
        Err(newest.map_or(Unfit::Foreign, |through| Unfit::Older { through, from: self.from }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use protocol::ReplicaId;

    const STRETCH: Stretch = Stretch { lineage: 7, from: 100, through: 150 };

    fn identity(generation: u64) -> Identity {
        Identity {
            size_bytes: 1 << 20,
            id: [1; 16],
            disk: "data".to_owned(),
            pair: "shop".to_owned(),
            kind: Kind::Mirrored,
            replica: ReplicaId::ZERO,
            generation,
            last_epoch: 0,
            leads: false,
            clean: false,
        }
    }

    fn mark(generation: u64, through: Epoch) -> Option<Mark> {
        Some(Mark { lineage: 7, generation, through })
    }

    #[test]
    fn every_flipped_bit_makes_it_none() {
        let good = Mark { lineage: 7, generation: 3, through: 9 };
        assert_eq!(Mark::decode(&good.encode()), Some(good));
        for bit in 0..MARK_BYTES * 8 {
            let mut bytes = good.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::decode(&bytes), None, "bit {bit}");
        }
        assert_eq!(Mark::decode(&[0; MARK_BYTES]), None);
    }

    #[test]
    fn a_disk_that_holds_the_checkpoint_and_no_more_than_the_log_fits() {
        let (one, two) = (identity(1), identity(2));
        assert_eq!(STRETCH.base([Some((&one, mark(1, 100))), None]), Ok(0));
        assert_eq!(STRETCH.base([Some((&one, mark(1, 150))), Some((&one, None))]), Ok(0));
        assert_eq!(
            STRETCH.base([Some((&one, mark(1, 99))), Some((&two, mark(2, 120)))]),
            Ok(1),
            "the first is too old"
        );
        assert_eq!(STRETCH.base([Some((&one, mark(1, 110))), Some((&two, mark(2, 120)))]), Ok(0), "stale, and enough");
        assert_eq!(
            STRETCH.base([Some((&one, mark(1, 110))), Some((&two, None))]),
            Ok(0),
            "the other was promoted just now"
        );
    }

    #[test]
    fn what_does_not_fit_is_told_apart() {
        let (zero, one, two) = (identity(0), identity(1), identity(2));
        assert_eq!(STRETCH.base([Some((&one, None)), None]), Err(Unfit::Foreign));
        let other = Some(Mark { lineage: 8, generation: 1, through: 120 });
        assert_eq!(STRETCH.base([Some((&one, other))]), Err(Unfit::Foreign));
        assert_eq!(STRETCH.base([Some((&zero, mark(0, 120)))]), Err(Unfit::Foreign), "it was being overwritten");
        assert_eq!(STRETCH.base([Some((&one, mark(1, 99)))]), Err(Unfit::Older { through: 99, from: 100 }));
        let newer = Err(Unfit::Newer { through: 151, last: 150 });
        assert_eq!(STRETCH.base([Some((&one, mark(1, 151)))]), newer);
        assert_eq!(STRETCH.base([Some((&one, mark(1, 120))), Some((&two, mark(2, 151)))]), newer, "one is enough");
    }

    #[test]
    fn a_replica_that_was_ahead_of_its_successor_is_no_newer_disk() {
        // It told of epoch 200, which its backup never had; that one went on from epoch 130.
        let (old, shared) = (identity(1), identity(2));
        assert_eq!(STRETCH.base([Some((&old, mark(1, 200))), Some((&shared, None))]), Ok(0), "not marked yet");
        assert_eq!(STRETCH.base([Some((&shared, mark(1, 200)))]), Ok(0), "a shared disk, whose generation was raised");
        let promoted = identity(2);
        assert_eq!(STRETCH.base([Some((&promoted, mark(2, 130))), Some((&old, mark(1, 120)))]), Ok(0));
    }
}
