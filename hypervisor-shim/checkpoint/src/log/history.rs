//! The one history that the segments of a log tell.

use alloc::vec::Vec;

use protocol::Epoch;

use super::{EntryKind, LogError, Segment};
use crate::file::Identity;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The sequence number of its segment.
    pub sequence: u64,
    /// Where it begins there.
    pub at_byte: u64,
    /// Its length.
    pub bytes: u32,
    /// The digest of the epoch before.
    pub prev_digest: u64,
    content: u64,
}

/// Records of consecutive epochs, gathered from segments in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    first_epoch: Epoch,
    places: Vec<Place>,
    /// The digest of the last epoch, if it was stored.
    last_digest: Option<u64>,
    /// Sequence number, name and guest of the last segment.
    last: Option<(u64, u64, Identity)>,
}

impl History {
    /// Adds the next segment.
    ///
    /// # Errors
    /// It is not the next one of this log.
    pub fn add(&mut self, segment: &Segment) -> Result<(), LogError> {
        let header = &segment.header;
        let sequence = header.sequence;
        if let Some((last, lineage, identity)) = &self.last {
            if sequence != last + 1 {
                return Err(LogError::Missing { sequence: last + 1 });
            }
            if header.lineage != *lineage {
                return Err(LogError::Lineage { sequence });
            }
            identity.check(&header.identity).map_err(LogError::Identity)?;
        }
        self.last = Some((sequence, header.lineage, header.identity));
        for entry in &segment.entries {
            match entry.kind {
                EntryKind::Record { prev_digest, content } => {
                    let place = Place { sequence, at_byte: entry.at_byte, bytes: entry.bytes, prev_digest, content };
                    self.put(entry.epoch, place)?;
                }
                EntryKind::End { digest } if Some(entry.epoch) == self.last_epoch() => self.last_digest = Some(digest),
                EntryKind::End { .. } => {}
            }
        }
        Ok(())
    }

    /// Passes over a segment in which nothing was ever stored.
    pub fn skip(&mut self, sequence: u64) {
        if let Some((last, ..)) = &mut self.last
            && sequence == *last + 1
        {
            *last = sequence;
        }
    }

    fn put(&mut self, epoch: Epoch, place: Place) -> Result<(), LogError> {
        if self.places.is_empty() {
            self.first_epoch = epoch;
        }
        // What was stored again from before the first segment that is left is of no use.
        let Some(index) = epoch.checked_sub(self.first_epoch) else { return Ok(()) };
        let index = index as usize;
        if index > self.places.len() {
            let expected = self.first_epoch + self.places.len() as u64;
            return Err(LogError::Gap { sequence: place.sequence, expected, got: epoch });
        }
        if self.places.get(index).is_some_and(|known| known.content == place.content) {
            return Ok(());
        }
        self.places.truncate(index);
        self.places.push(place);
        self.last_digest = None;
        Ok(())
    }

    /// The last epoch that there is a record of.
    #[must_use]
    pub fn last_epoch(&self) -> Option<Epoch> {
        Some(self.first_epoch + self.places.len().checked_sub(1)? as u64)
    }

    /// The first epoch that there is a record of.
    #[must_use]
    pub fn first_epoch(&self) -> Option<Epoch> {
        (!self.places.is_empty()).then_some(self.first_epoch)
    }

    /// Where the record of this epoch lies.
    #[must_use]
    pub fn place(&self, epoch: Epoch) -> Option<&Place> {
        self.places.get(usize::try_from(epoch.checked_sub(self.first_epoch)?).ok()?)
    }

    /// The digest of this epoch, if it was stored.
    #[must_use]
    pub fn digest(&self, epoch: Epoch) -> Option<u64> {
        match epoch.checked_add(1).and_then(|next| self.place(next)) {
            Some(next) => Some(next.prev_digest),
            None if Some(epoch) == self.last_epoch() => self.last_digest,
            None => None,
        }
    }

    /// The sequence number of the last segment, and the name of the log.
    #[must_use]
    pub fn last_segment(&self) -> Option<(u64, u64)> {
        self.last.as_ref().map(|(sequence, lineage, _)| (*sequence, *lineage))
    }

    /// The guest that this is the log of.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.last.as_ref().map(|(.., identity)| identity)
    }
}
