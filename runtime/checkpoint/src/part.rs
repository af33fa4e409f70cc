//! What a checkpoint is made of, as the code that takes and restores them sees it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// What kind of thing a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PartKind {
    /// Plain bytes of fixed length.
    Region = 0,
    /// A value that is encoded.
    Value = 1,
}

/// What must be equal for a part to be restored from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it is.
    pub kind: PartKind,
    /// Of a value, the version that the program gave its type; of a region, a hash of what is excluded (0: nothing).
    pub schema: u64,
    /// Of a region, its length in bytes; 0 for a value.
    pub length_bytes: u64,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PartKind::Region => write!(f, "a region of {} bytes, exclusions {:#x}", self.length_bytes, self.schema),
            PartKind::Value => write!(f, "a value of version {}", self.schema),
        }
    }
}

/// What a frozen part will emit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frozen {
    /// It is in this checkpoint at all; an incremental one leaves out what has not changed.
    pub(crate) present: bool,
    /// Of a value, the length of its encoding in bytes; of a region, its length.
    pub(crate) length_bytes: u64,
    /// Pieces that it will emit at most.
    pub(crate) most_pieces: u64,
    /// Bytes in them at most.
    pub(crate) most_bytes: u64,
}

/// Its encoding failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotEncoded;

/// These bytes are no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDecoded;

/// Something that is saved and restored.
pub(crate) trait Part {
    fn name(&self) -> &str;
    fn shape(&self) -> Shape;
    /// Fixes what is to be saved as it is now; what the program changes from now on does not go into this checkpoint.
    /// `changed_only`: only what differs from the base.
    fn freeze(&self, changed_only: bool) -> Result<Frozen, NotEncoded>;
    /// Gives the next few pieces (offset in bytes, content), each of at most [`crate::BLOCK_BYTES`]. False at the end.
    fn emit(&self, emit: &mut dyn FnMut(u64, &[u8])) -> bool;
    /// The checkpoint has become the base of the next incremental one, or nothing has come of it.
    fn thaw(&self, committed: bool);
    /// Decodes an encoded value; the result puts it into place. Regions have nothing to decode.
    fn stage<'a>(&'a self, encoded: &'a [u8]) -> Result<Box<dyn FnOnce() + 'a>, NotDecoded>;
    /// Puts bytes of a region into place; the caller has checked that they fit.
    fn apply(&self, offset: u64, bytes: &[u8]);
    /// It was restored; `base`: with everything else, so that the next incremental checkpoint may build upon that one.
    fn restored(&self, base: bool);
}

/// Hash of bytes: XXH64. It tells changed from unchanged and damaged from whole, not friend from foe.
pub(crate) fn hash(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, seed)
}

/// Parts in the order in which they were registered.
pub(crate) type Parts = Vec<alloc::rc::Rc<dyn Part>>;
