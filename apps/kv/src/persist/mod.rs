//! Persistence: a log of what commands did, on a [`recordstore`], and its replacement by a shorter one while the store
//! serves.
//!
//! * [`Journal`] is part of the [`Server`](crate::Server): each command adds its *effect* to it, in memory.
//! * [`Engine`] writes what the journal has gathered to the device, makes it stable, and replaces the log when it has
//!   grown long.
//! * `effects` says what the effect of each command is, `snapshot` how the keyspace is written out in slices,
//!   `replay` applies records.
//!
//! # Effects
//!
//! An effect is a command again, one that gives the same state whenever it is run: times are absolute, random choices and
//! ranges have become the members that they hit. The effects of one command, or of one transaction, are one record, so
//! they are all there after a crash or none of them is. Keys that expire leave a DEL; while records are replayed nothing
//! expires.
//!
//! # Replacing the log while commands run
//!
//! A log of writes grows without bound, so now and then a new one is begun that says the same in fewer words. It is
//! written in slices: between two slices commands run, and their effects go to both logs. A slice writes keys, or
//! elements of large collections, as they are at that moment. Why does replaying the new log give the right state?
//!
//! Look at one *element*: a string, a field of a hash, a member of a (sorted) set. It is *exact* at some point of the new
//! log if replaying the log up to there leaves it as it is in the store at that moment. The claim:
//!
//! > (I) Every element that is not exact is in the store, and no slice has written it yet.
//!
//! It holds at the start: the log is empty, so what is not exact is in the store, unwritten. Each record keeps it:
//!
//! * *A slice writes an element.* It is exact then, whatever the log said of it before.
//! * *An effect acts on an element that is exact.* Effects act on each element alone, as a function of what that element
//!   was (`effects` sees to it: RENAME becomes DEL and the whole value while a log is being replaced, LMOVE a pop and a
//!   push, ZREMRANGEBYSCORE becomes ZREM). So it stays exact.
//! * *An effect acts on one that is not.* If the element is in the store afterwards, (I) allows it to be wrong. If it is
//!   not, the effect was one that removes it whatever it was, and it is exact.
//!
//! The slices follow the cursor of SCAN, which finds everything that is there from start to end (see
//! [`Table`](crate::base::Table)). At the end an element that is not exact would be in the store and unwritten: so it was
//! not there from the start, but came later, from being absent, which is exact. Hence all are exact. The same holds for a
//! key's expiry, which is written last; and a collection that is empty in the replay but not in the store vanishes there
//! with its expiry, and comes back with the next slice.
//!
//! Lists have no elements of that kind, only places. Of a list that takes several slices the new log holds a *prefix*,
//! and `snapshot` keeps count of it: what happens at the front is followed, what happens at the back comes with a later
//! slice, and what happens inside begins the list again.
//!
//! SWAPDB moves all keys at once, and RENAME of a large collection would have to write it at once: both give the new log
//! up, and another is begun. The old one holds everything meanwhile.
//!
//! Only when the new log is complete and stable does the record store switch to it, by one block.
//!
//! # When the device fails
//!
//! The memory is then ahead of the log, by commands that nobody has been told are done. Writes are refused, as redis
//! refuses them, and reads go on. A new log, written from memory, makes the store whole again, so one is tried at once
//! and then every second.

mod effect;
mod effects;
mod engine;
mod journal;
mod replay;
mod snapshot;
mod whole;

pub(crate) use effects::note;
pub use engine::{Engine, EngineError, Loaded};
pub use journal::{Failure, Journal, Status, Ticket};
pub(crate) use whole::{check, dump, load};

/// When writes are made stable (`appendfsync`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before the reply to them leaves.
    Always,
    /// Once a second.
    EverySec,
    /// When the device sees fit; they are written once a second.
    No,
}

impl Fsync {
    /// All of them with their names.
    pub const NAMES: [(&'static str, Self); 3] =
        [("always", Self::Always), ("everysec", Self::EverySec), ("no", Self::No)];

    /// Its name in redis's configuration.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, policy)| *policy == self).map_or("", |(name, _)| name)
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy)
    }
}
