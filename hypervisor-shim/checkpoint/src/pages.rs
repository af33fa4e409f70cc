//! Pages of guest memory as a sequence of records.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | number of the first page, u32: its offset in guest memory divided by [`PAGE_BYTES`] |
//! | 4..8 | 0: the content of one page follows; otherwise the length of a run of zero pages, u32 |
//! | 8.. | the content, if it follows |

use alloc::vec::Vec;
use core::fmt;

use hypercall::layout;

/// Bytes of a page.
pub const PAGE_BYTES: usize = layout::PAGE_BYTES as usize;
/// Bytes before a page's content, and all bytes of a run.
pub const HEADER_BYTES: usize = 8;
/// Bytes of a record with content.
pub const CONTENT_BYTES: usize = HEADER_BYTES + PAGE_BYTES;

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageRecord<'a> {
    /// A page with its content of [`PAGE_BYTES`].
    Content {
        /// The page's number.
        page: u32,
        /// What it holds.
        bytes: &'a [u8],
    },
    /// Pages that hold zeros only.
    Zero {
        /// The number of the first.
        first: u32,
        /// How many; at least one.
        count: u32,
    },
}

/// Why bytes are no pages of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagesError {
    /// A record is cut short.
    Truncated {
        /// Where it begins.
        offset_bytes: usize,
        /// What it needs.
        expected_bytes: usize,
        /// What there is.
        got_bytes: usize,
    },
    /// A page beyond the guest's memory.
    Outside {
        /// The page after the last one that the record names.
        end_page: u64,
        /// Pages of the guest.
        pages: u64,
    },
}

impl fmt::Display for PagesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { offset_bytes, expected_bytes, got_bytes } => {
                write!(f, "the page record at byte {offset_bytes} needs {expected_bytes} bytes, got {got_bytes}")
            }
            Self::Outside { end_page, pages } => {
                write!(f, "a record names pages up to {end_page}, the guest has {pages}: it is of another memory size")
            }
        }
    }
}

impl core::error::Error for PagesError {}

/// Appends a page with its content; `fill` appends exactly [`PAGE_BYTES`].
pub fn push_content(out: &mut Vec<u8>, page: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    push_header(out, page, 0);
    let start = out.len();
    fill(out);
    debug_assert_eq!(out.len() - start, PAGE_BYTES);
}

/// Appends a run of zero pages; an empty one is left out.
pub fn push_zero(out: &mut Vec<u8>, first: u32, count: u32) {
    if count > 0 {
        push_header(out, first, count);
    }
}

fn push_header(out: &mut Vec<u8>, first: u32, count: u32) {
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
}

/// Reads records.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    pages: u64,
}

/// The records in `bytes`, of a guest with so much memory. After the first error there are no more.
pub fn records(bytes: &[u8], memory_bytes: u64) -> Records<'_> {
    Records { bytes, at: 0, pages: memory_bytes / layout::PAGE_BYTES }
}

/// Whether all records are in order.
///
/// # Errors
/// The first fault.
pub fn check(bytes: &[u8], memory_bytes: u64) -> Result<(), PagesError> {
    records(bytes, memory_bytes).try_for_each(|record| record.map(drop))
}

impl<'a> Records<'a> {
    fn read(&mut self) -> Result<PageRecord<'a>, PagesError> {
        let rest = &self.bytes[self.at..];
        let truncated =
            |expected_bytes| PagesError::Truncated { offset_bytes: self.at, expected_bytes, got_bytes: rest.len() };
        let (header, body) = rest.split_first_chunk::<HEADER_BYTES>().ok_or(truncated(HEADER_BYTES))?;
        let [a, b, c, d, e, f, g, h] = *header;
        let (first, count) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let end_page = u64::from(first) + u64::from(count.max(1));
        if end_page > self.pages {
            return Err(PagesError::Outside { end_page, pages: self.pages });
        }
        if count > 0 {
            self.at += HEADER_BYTES;
            return Ok(PageRecord::Zero { first, count });
        }
        let bytes = body.get(..PAGE_BYTES).ok_or(truncated(CONTENT_BYTES))?;
        self.at += CONTENT_BYTES;
        Ok(PageRecord::Content { page: first, bytes })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<PageRecord<'a>, PagesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.at = self.bytes.len();
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMORY_BYTES: u64 = 64 * layout::PAGE_BYTES;

    #[derive(Debug, Clone)]
    enum Draw {
        Content(u32, u8),
        Zero(u32, u32),
    }

    fn draw() -> impl Strategy<Value = Draw> {
        prop_oneof![
            (0_u32..64, any::<u8>()).prop_map(|(page, byte)| Draw::Content(page, byte)),
            (0_u32..64).prop_flat_map(|first| (Just(first), 1..=64 - first)).prop_map(|(a, b)| Draw::Zero(a, b)),
        ]
    }

    fn encode(draws: &[Draw]) -> Vec<u8> {
        let mut out = Vec::new();
        for draw in draws {
            match *draw {
                Draw::Content(page, byte) => {
                    push_content(&mut out, page, |out| out.resize(out.len() + PAGE_BYTES, byte));
                }
                Draw::Zero(first, count) => push_zero(&mut out, first, count),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn round_trip(draws in prop::collection::vec(draw(), 0..8)) {
            let bytes = encode(&draws);
            let mut read = records(&bytes, MEMORY_BYTES);
            for draw in &draws {
                let record = read.next().expect("as many").expect("in order");
                match (draw, record) {
                    (Draw::Content(page, byte), PageRecord::Content { page: got, bytes }) => {
                        prop_assert_eq!(*page, got);
                        prop_assert!(bytes.len() == PAGE_BYTES && bytes.iter().all(|got| got == byte));
                    }
                    (Draw::Zero(first, count), PageRecord::Zero { first: got, count: length }) => {
                        prop_assert_eq!((*first, *count), (got, length));
                    }
                    (draw, record) => prop_assert!(false, "{:?} became {:?}", draw, record),
                }
            }
            prop_assert!(read.next().is_none());
        }

        #[test]
        fn cut_anywhere_but_between_records_is_refused(
            draws in prop::collection::vec(draw(), 1..5),
            at in any::<prop::sample::Index>(),
        ) {
            let bytes = encode(&draws);
            let at = at.index(bytes.len());
            let mut whole = (0..=draws.len()).map(|count| encode(&draws[..count]).len());
            prop_assert_eq!(check(&bytes[..at], MEMORY_BYTES).is_ok(), whole.any(|length| length == at));
        }

        #[test]
        fn arbitrary_bytes_name_no_page_outside(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            for record in records(&bytes, MEMORY_BYTES).flatten() {
                let end = match record {
                    PageRecord::Content { page, .. } => page + 1,
                    PageRecord::Zero { first, count } => first + count,
                };
                prop_assert!(end <= 64);
            }
        }
    }

    #[test]
    fn another_memory_size_is_named() {
        let mut bytes = Vec::new();
        push_zero(&mut bytes, 60, 5);
        assert_eq!(check(&bytes, MEMORY_BYTES), Err(PagesError::Outside { end_page: 65, pages: 64 }));
        bytes.clear();
        push_zero(&mut bytes, u32::MAX, u32::MAX);
        check(&bytes, MEMORY_BYTES).expect_err("no sum wraps around");
    }
}
