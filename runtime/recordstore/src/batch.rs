//! Records on their way into a log.

use alloc::vec::Vec;

/// Bytes before each record: its length, little endian.
pub(crate) const LENGTH_BYTES: usize = 4;

/// Records in the order in which they shall be stored. Cleared and filled again it allocates nothing.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    records: u64,
    /// Where the open record starts.
    open: Option<usize>,
}

impl Batch {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), records: 0, open: None }
    }

    /// Adds a record.
    ///
    /// # Panics
    /// As [`close`](Self::close).
    pub fn push(&mut self, record: &[u8]) {
        self.open();
        self.extend(record);
        self.close();
    }

    /// Begins a record whose bytes come by [`extend`](Self::extend); ends the one that is open.
    ///
    /// # Panics
    /// As [`close`](Self::close).
    pub fn open(&mut self) {
        self.close();
        self.open = Some(self.bytes.len());
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
    }

    /// Adds bytes to the open record; without one, begins it.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.open.is_none() {
            self.open();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Ends the open record. One without bytes is no record.
    ///
    /// # Panics
    /// When the record has 4 GiB or more.
    pub fn close(&mut self) {
        let Some(start) = self.open.take() else { return };
        let body_start = start + LENGTH_BYTES;
        let len = self.bytes.len() - body_start;
        if len == 0 {
            self.bytes.truncate(start);
            return;
        }
        let len = u32::try_from(len).expect("a record of less than 4 GiB");
        if let Some(place) = self.bytes.get_mut(start..body_start) {
            place.copy_from_slice(&len.to_le_bytes());
        }
        self.records += 1;
    }

    /// Bytes of the open record so far.
    pub fn open_bytes(&self) -> &[u8] {
        self.open.and_then(|start| self.bytes.get(start + LENGTH_BYTES..)).unwrap_or(&[])
    }

    /// Number of closed records.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Memory in use, in bytes: the records and their lengths.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets all records; gives back memory beyond `keep_bytes`.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.records = 0;
        self.open = None;
    }

    /// The closed records with their lengths.
    pub(crate) fn encoded(&self) -> &[u8] {
        self.bytes.get(..self.open.unwrap_or(self.bytes.len())).unwrap_or(&[])
    }
}

/// Cuts encoded records off `bytes`: the record at its start and what comes behind it.
pub(crate) fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let length = u32::from_le_bytes(*length) as usize;
    rest.split_at_checked(length)
}
