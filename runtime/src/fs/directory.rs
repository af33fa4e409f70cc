//! Listing directories.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;

use filesystem::Kind;
use hermit_abi::{EINVAL, ENOTDIR};

use super::file::File;
use super::path::Place;
use super::status::metadata_at;
use super::tree::Node;
use super::{Result, the_tree, volume};

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name; `.` and `..` come first.
    pub name: Vec<u8>,
    /// Number of what has it.
    pub ino: u64,
    /// What that is.
    pub kind: Kind,
    /// How many entries were given, this one included.
    pub position: u64,
}

/// How far a directory was listed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cursor {
    /// Entries given.
    given: u64,
    /// The last name, but for the first two.
    last: Option<Vec<u8>>,
}

impl Cursor {
    /// Only the beginning can be gone back to.
    pub fn seek(&mut self, position: u64) -> Result<()> {
        if position == self.given {
            return Ok(());
        }
        *self = Self::default();
        if position == 0 { Ok(()) } else { Err(EINVAL) }
    }
}

impl File {
    /// The next entry of a directory, in the order of names: nothing at the end. Every name that is there all the time is
    /// given once, whatever is made and removed meanwhile.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn next_entry(&self) -> Result<Option<Entry>> {
        if !self.is_directory() {
            return Err(ENOTDIR);
        }
        // Finding it may wait, and others list the same open directory meanwhile: nothing is borrowed.
        let (given, last) = {
            let cursor = self.cursor.borrow();
            (cursor.given, cursor.last.clone())
        };
        let found = match given {
            0 => Some((b".".to_vec(), self.place())),
            1 => Some((b"..".to_vec(), self.place().parent()?)),
            _ => next_after(self.place(), last.as_deref())?,
        };
        let Some((name, place)) = found else { return Ok(None) };
        let kind = place.kind()?;
        let ino = metadata_at(place)?.ino;
        let last = if given < 2 { last } else { Some(name.clone()) };
        self.cursor.replace(Cursor { given: given + 1, last });
        Ok(Some(Entry { name, ino, kind, position: given + 1 }))
    }

    /// How far it was listed.
    pub(crate) fn listed(&self) -> Cursor {
        self.cursor.borrow().clone()
    }

    /// Goes on with the listing from where it was at another time.
    pub(crate) fn list_from(&self, place: Cursor) {
        self.cursor.replace(place);
    }
}

fn next_after(directory: Place, after: Option<&[u8]>) -> Result<Option<(Vec<u8>, Place)>> {
    match directory {
        Place::Stored(at, ino) => {
            let next =
                volume(at)?.with(|fs| Ok(fs.next_entry(ino, after)?.map(|(name, ino, _)| (name.to_vec(), ino))))?;
            Ok(next.map(|(name, ino)| (name, Place::Stored(at, ino))))
        }
        Place::Packed(index) => {
            let tree = the_tree();
            let Node::Directory(entries) = tree.node(index) else { return Err(ENOTDIR) };
            let after = after.and_then(|name| core::str::from_utf8(name).ok());
            let after = after.map_or(Bound::Unbounded, |name| Bound::Excluded(String::from(name)));
            let next = entries.range((after, Bound::Unbounded)).next();
            Ok(next.map(|(name, child)| (name.clone().into_bytes(), Place::at(&tree, *child))))
        }
    }
}
