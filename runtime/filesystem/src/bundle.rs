//! Files packed into an image, and which disks are mounted where: one text of bytes that the build makes and the image reads.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `"PLXFILES"` |
//! | 8..12 | version, u32 |
//! | 12..16 | number of entries, u32 |
//! | each entry | kind u8, bytes of its path u32, bytes of its content u32, path, content |
//!
//! Paths are absolute, without `.` and `..`, sorted; every directory that something lies in comes before it. The content of a mount
//! is the name of its disk. Numbers are little endian.

use alloc::vec::Vec;
use core::fmt;

/// Version of the format.
pub const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"PLXFILES";

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A directory.
    Directory,
    /// A file with this content.
    File(&'a [u8]),
    /// The root of the file system on the disk of this name.
    Mount(&'a str),
}

/// Why bytes are no bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// They begin with something else, or end in the midst of an entry.
    Malformed,
    /// A version that this program does not know.
    Version(u32),
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the files packed into the image cannot be read: build it again"),
            Self::Version(found) => {
                write!(f, "files were packed into the image in format {found}, expected {VERSION}: build it again")
            }
        }
    }
}

impl core::error::Error for BundleError {}

/// Makes a bundle. The caller has put the entries in order.
pub fn encode<'a>(entries: impl ExactSizeIterator<Item = (&'a str, Item<'a>)>) -> Vec<u8> {
    let mut bytes = Vec::from(*MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    for (path, item) in entries {
        let (kind, content): (u8, &[u8]) = match item {
            Item::Directory => (0, &[]),
            Item::File(content) => (1, content),
            Item::Mount(disk) => (2, disk.as_bytes()),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        bytes.extend_from_slice(content);
    }
    bytes
}

/// The entries of a bundle; no bytes at all are an empty one.
///
/// # Errors
/// [`BundleError`].
pub fn decode(bytes: &[u8]) -> Result<Vec<(&str, Item<'_>)>, BundleError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(BundleError::Malformed)?;
    let version = take_u32(&mut rest).ok_or(BundleError::Malformed)?;
    if version != VERSION {
        return Err(BundleError::Version(version));
    }
    let count = take_u32(&mut rest).ok_or(BundleError::Malformed)?;
    (0..count).map(|_| take_entry(&mut rest).ok_or(BundleError::Malformed)).collect()
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (word, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(u32::from_le_bytes(*word))
}

fn take_entry<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, Item<'a>)> {
    let (kind, behind) = rest.split_first()?;
    *rest = behind;
    let (path_bytes, content_bytes) = (take_u32(rest)? as usize, take_u32(rest)? as usize);
    let (path, behind) = rest.split_at_checked(path_bytes)?;
    let (content, behind) = behind.split_at_checked(content_bytes)?;
    *rest = behind;
    let item = match kind {
        0 => Item::Directory,
        1 => Item::File(content),
        2 => Item::Mount(core::str::from_utf8(content).ok()?),
        _ => return None,
    };
    Some((core::str::from_utf8(path).ok()?, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked_and_anything_else_refused() {
        let entries = [("/a", Item::Directory), ("/a/b", Item::File(b"text")), ("/d", Item::Mount("data"))];
        let bytes = encode(entries.into_iter());
        assert_eq!(decode(&bytes).expect("a bundle"), entries);
        assert_eq!(decode(&[]), Ok(Vec::new()));
        for short in 1..bytes.len() {
            assert_eq!(decode(&bytes[..short]), Err(BundleError::Malformed), "cut at {short}");
        }
        let mut newer = bytes.clone();
        newer[8] = 9;
        assert_eq!(decode(&newer), Err(BundleError::Version(9)));
        let mut strange = bytes;
        strange[16] = 7;
        assert_eq!(decode(&strange), Err(BundleError::Malformed));
    }
}
