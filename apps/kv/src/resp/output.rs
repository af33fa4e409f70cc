//! The reply buffer of a connection and the writers that fill it.

use crate::base::{DecimalBuf, copy, format_f64, write_i64, write_u64};
use alloc::vec::Vec;

/// A buffer larger than this is given back when it has been drained, in bytes.
const KEEP_BYTES: usize = 16 * 1024;

/// Replies not yet taken by the socket.
///
/// Writers append whole RESP values. A reply that would pass the hard limit is cut off and [`overflowed`](Self::overflowed)
/// set; the session then replaces it by an error, so one command cannot take all memory.
pub struct Output {
    /// `sent..filled` is pending; what lies behind is zeros or old replies, so that writing is a copy into a slice.
    buffer: Vec<u8>,
    sent: usize,
    filled: usize,
    hard_limit_bytes: usize,
    overflowed: bool,
}

impl Output {
    /// An empty buffer for replies of at most `hard_limit_bytes`.
    pub const fn new(hard_limit_bytes: usize) -> Self {
        Self { buffer: Vec::new(), sent: 0, filled: 0, hard_limit_bytes, overflowed: false }
    }

    /// What the socket has not taken yet.
    #[inline]
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.sent..self.filled).unwrap_or(&[])
    }

    /// How many bytes that is.
    #[inline]
    pub fn pending_bytes(&self) -> usize {
        self.filled - self.sent
    }

    /// Marks `count` bytes as taken.
    pub fn advance(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.filled);
        if self.sent == self.filled {
            self.sent = 0;
            self.filled = 0;
            if self.buffer.len() > KEEP_BYTES {
                self.buffer = Vec::new();
            }
        } else if self.sent > KEEP_BYTES && self.sent * 2 > self.filled {
            self.buffer.copy_within(self.sent..self.filled, 0);
            self.filled -= self.sent;
            self.sent = 0;
        }
    }

    /// Memory held, in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// A position for [`rewind`](Self::rewind) and [`insert_array`](Self::insert_array).
    #[inline]
    pub fn mark(&self) -> usize {
        self.filled
    }

    /// Forgets everything written since `mark`.
    pub fn rewind(&mut self, mark: usize) {
        self.filled = self.filled.min(mark);
    }

    /// Whether a reply was cut off since [`clear_overflow`](Self::clear_overflow).
    #[inline]
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Lets writing go on after an overflow.
    pub fn clear_overflow(&mut self) {
        self.overflowed = false;
    }

    /// Space for the next `bytes` of output, which count as written; empty if there is none.
    #[inline(always)]
    fn space(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.filled;
        if start + bytes > self.buffer.len() && !self.grow(bytes) {
            return &mut [];
        }
        self.filled = start + bytes;
        self.buffer.get_mut(start..start + bytes).unwrap_or(&mut [])
    }

    /// Makes room for `bytes` more, by doubling; false if that would pass the hard limit or the heap is short.
    #[cold]
    fn grow(&mut self, bytes: usize) -> bool {
        const LEAST_BYTES: usize = 512;
        let needed = self.filled + bytes;
        if needed > self.hard_limit_bytes {
            self.overflowed = true;
            return false;
        }
        let len = needed.max(self.buffer.len() * 2).max(LEAST_BYTES).min(self.hard_limit_bytes);
        if !crate::service::memory::may_grow_to(len) {
            self.overflowed = true;
            return false;
        }
        self.buffer.reserve_exact(len - self.buffer.len());
        self.buffer.resize(len, 0);
        true
    }

    /// Appends bytes that are RESP already.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        let space = self.space(bytes.len());
        if !space.is_empty() {
            copy(space, bytes);
        }
    }

    /// `+OK`
    #[inline]
    pub fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    /// A simple string, which must not hold a line break.
    pub fn simple(&mut self, text: &str) {
        self.raw(b"+");
        self.raw(text.as_bytes());
        self.raw(b"\r\n");
    }

    /// The null bulk string.
    #[inline]
    pub fn null(&mut self) {
        self.raw(b"$-1\r\n");
    }

    /// The null array.
    pub fn null_array(&mut self) {
        self.raw(b"*-1\r\n");
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        if let 0..=9 = value {
            self.raw(&[b':', b'0' + value as u8, b'\r', b'\n']);
        } else {
            self.line(b':', write_i64(value, &mut [0; 20]));
        }
    }

    /// A count as an integer.
    #[inline]
    pub fn count(&mut self, value: usize) {
        self.integer(value as i64);
    }

    fn line(&mut self, kind: u8, digits: &[u8]) {
        if let [first, middle @ .., cr, lf] = self.space(digits.len() + 3) {
            (*first, *cr, *lf) = (kind, b'\r', b'\n');
            copy(middle, digits);
        }
    }

    /// The header of an array of `count` values, which the caller writes next.
    #[inline]
    pub fn array(&mut self, count: usize) {
        if count < 10 {
            self.raw(&[b'*', b'0' + count as u8, b'\r', b'\n']);
        } else {
            self.line(b'*', write_u64(count as u64, &mut [0; 20]));
        }
    }

    /// Puts an array header before what was written since `mark`, for arrays whose length shows only afterwards.
    pub fn insert_array(&mut self, mark: usize, count: usize) {
        let end = self.filled;
        self.array(count);
        self.move_before(mark, end);
    }

    /// Moves what was written since `from` before what was written between `mark` and `from`.
    pub fn move_before(&mut self, mark: usize, from: usize) {
        let end = self.filled;
        if let Some(tail) = self.buffer.get_mut(mark..end) {
            tail.rotate_right(end - from);
        }
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        const ONE_DIGIT: u32 = u32::from_le_bytes(*b"$0\r\n");
        let len = bytes.len();
        if len < 10 {
            let header = (ONE_DIGIT + ((len as u32) << 8)).to_le_bytes();
            if let Some((head, rest)) = self.space(len + 6).split_first_chunk_mut::<4>()
                && let Some((middle, tail)) = rest.split_last_chunk_mut::<2>()
            {
                *head = header;
                copy(middle, bytes);
                *tail = *b"\r\n";
            }
        } else if len < 100 {
            let (tens, ones) = (b'0' + len as u8 / 10, b'0' + len as u8 % 10);
            if let Some((head, rest)) = self.space(len + 7).split_first_chunk_mut::<5>()
                && let Some((middle, tail)) = rest.split_last_chunk_mut::<2>()
            {
                *head = [b'$', tens, ones, b'\r', b'\n'];
                copy(middle, bytes);
                *tail = *b"\r\n";
            }
        } else {
            self.line(b'$', write_u64(len as u64, &mut [0; 20]));
            self.raw(bytes);
            self.raw(b"\r\n");
        }
    }

    /// An integer as a bulk string.
    pub fn bulk_integer(&mut self, value: i64) {
        self.bulk(write_i64(value, &mut [0; 20]));
    }

    /// A double as a bulk string.
    pub fn bulk_double(&mut self, value: f64) {
        let mut text = DecimalBuf::new();
        format_f64(value, &mut text);
        self.bulk(text.as_slice());
    }

    /// An error line; line breaks in it become spaces, at its end nothing.
    pub fn error(&mut self, parts: &[&[u8]]) {
        self.raw(b"-");
        let mut breaks = 0;
        for &byte in parts.iter().copied().flatten() {
            if byte == b'\r' || byte == b'\n' {
                breaks += 1;
                continue;
            }
            (0..breaks).for_each(|_| self.raw(b" "));
            breaks = 0;
            self.raw(&[byte]);
        }
        self.raw(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_resp() {
        let mut out = Output::new(1 << 20);
        out.ok();
        out.bulk(b"ab");
        out.bulk(&[b'x'; 12]);
        out.integer(-12);
        out.integer(7);
        out.null();
        out.error(&[b"ERR a", b"\nb\r\n"]);
        out.bulk_double(1.5);
        assert_eq!(
            out.pending(),
            b"+OK\r\n$2\r\nab\r\n$12\r\nxxxxxxxxxxxx\r\n:-12\r\n:7\r\n$-1\r\n-ERR a b\r\n$3\r\n1.5\r\n"
        );
    }

    #[test]
    fn a_late_array_header_comes_first() {
        let mut out = Output::new(1 << 20);
        out.ok();
        let mark = out.mark();
        (0..120).for_each(|_| out.bulk(b"a"));
        out.insert_array(mark, 120);
        assert!(out.pending().starts_with(b"+OK\r\n*120\r\n$1\r\na\r\n$1"));
        assert!(out.pending().ends_with(b"$1\r\na\r\n"));
    }

    #[test]
    fn overflow_is_noticed_and_can_be_undone() {
        let mut out = Output::new(64);
        out.ok();
        let mark = out.mark();
        out.bulk(&[0; 100]);
        assert!(out.overflowed());
        out.rewind(mark);
        out.clear_overflow();
        out.ok();
        assert_eq!((out.pending(), out.overflowed()), (&b"+OK\r\n+OK\r\n"[..], false));
    }

    #[test]
    fn advancing_drops_what_was_sent() {
        let mut out = Output::new(1 << 20);
        out.raw(&[b'x'; 40_000]);
        out.advance(30_000);
        assert_eq!(out.pending().len(), 10_000);
        out.advance(20_000);
        assert_eq!((out.pending().len(), out.bytes()), (0, 0));
    }
}
