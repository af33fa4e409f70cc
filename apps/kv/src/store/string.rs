//! String values: integers as integers, short ones inline, long ones in a buffer that grows by doubling.

use crate::base::{Digits, alloc_bytes, copy, parse_i64, write_i64};
use alloc::boxed::Box;
use alloc::vec;

const INLINE_BYTES: usize = 22;

/// A string value of 24 bytes and what it owns on the heap.
#[derive(Clone)]
pub enum Str {
    /// A text that reads as this integer and is printed back the same.
    Int(i64),
    /// A short text: the first `len` of `bytes`.
    Inline {
        /// Length in bytes.
        len: u8,
        /// The text and padding.
        bytes: [u8; INLINE_BYTES],
    },
    /// A long text: the first `len` bytes of `buffer`.
    Heap {
        /// Length in bytes.
        len: u32,
        /// The text and zeros to grow into.
        buffer: Box<[u8]>,
    },
}

impl Str {
    /// The most compact form of `text`.
    #[inline]
    pub fn new(text: &[u8]) -> Self {
        if let Some(integer) = as_integer(text) {
            return Self::Int(integer);
        }
        Self::plain(text)
    }

    fn plain(text: &[u8]) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        match bytes.get_mut(..text.len()) {
            Some(space) => {
                copy(space, text);
                Self::Inline { len: text.len() as u8, bytes }
            }
            None => Self::Heap { len: text.len() as u32, buffer: text.into() },
        }
    }

    /// Replaces the text if that leaves the heap alone, as it does for short ones; false if it did not.
    #[inline]
    pub fn set_inline(&mut self, text: &[u8]) -> bool {
        if let Self::Inline { len, bytes } = self
            && let Some(space) = bytes.get_mut(..text.len())
            && !matches!(text, [b'0'..=b'9' | b'-', ..])
        {
            copy(space, text);
            *len = text.len() as u8;
            return true;
        }
        false
    }

    /// Replaces the text, in the memory it has where that fits well.
    #[inline]
    pub fn set(&mut self, text: &[u8]) {
        if let Self::Heap { len, buffer } = self
            && text.len() > INLINE_BYTES
            && text.len() <= buffer.len()
            && buffer.len() <= text.len() * 2
            && let Some(space) = buffer.get_mut(..text.len())
        {
            space.copy_from_slice(text);
            *len = text.len() as u32;
            return;
        }
        *self = Self::new(text);
    }

    /// The text; an integer is printed into `digits`.
    #[inline]
    pub fn text<'a>(&'a self, digits: &'a mut Digits) -> &'a [u8] {
        match self {
            Self::Int(value) => write_i64(*value, digits),
            Self::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Self::Heap { len, buffer } => buffer.get(..*len as usize).unwrap_or(buffer),
        }
    }

    /// Length of the text in bytes.
    pub fn len(&self) -> usize {
        self.text(&mut [0; 20]).len()
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The integer that the text spells, if it does.
    #[inline]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => parse_i64(self.text(&mut [0; 20])),
        }
    }

    /// Appends `more`.
    pub fn append(&mut self, more: &[u8]) {
        let old = self.len();
        if let Some(space) = self.grown(old + more.len()).get_mut(old..) {
            space.copy_from_slice(more);
        }
    }

    /// The text as bytes to change, made `len_bytes` long with zeros if it is shorter.
    pub fn grown(&mut self, len_bytes: usize) -> &mut [u8] {
        if let Self::Int(value) = self {
            *self = Self::plain(write_i64(*value, &mut [0; 20]));
        }
        let old = self.len();
        let new = old.max(len_bytes);
        if new > self.capacity() {
            // Doubling keeps a run of appends linear; a single far write gets no more than it needs.
            let mut buffer = vec![0; if new < old * 2 { old * 2 } else { new }].into_boxed_slice();
            buffer[..old].copy_from_slice(self.text(&mut [0; 20]));
            *self = Self::Heap { len: old as u32, buffer };
        }
        match self {
            Self::Heap { len, buffer } => {
                buffer[old..new].fill(0);
                *len = new as u32;
                &mut buffer[..new]
            }
            Self::Inline { len, bytes } => {
                bytes[old..new].fill(0);
                *len = new as u8;
                &mut bytes[..new]
            }
            Self::Int(_) => &mut [],
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Self::Heap { buffer, .. } => buffer.len(),
            _ => INLINE_BYTES,
        }
    }

    /// Heap memory behind the value, in bytes.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Heap { buffer, .. } => alloc_bytes(buffer.len()),
            _ => 0,
        }
    }
}

/// The integer that `text` is the canonical spelling of.
#[inline]
fn as_integer(text: &[u8]) -> Option<i64> {
    match text {
        [b'0'..=b'9' | b'-', ..] if text.len() <= 20 => parse_i64(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn text(value: &Str) -> Vec<u8> {
        value.text(&mut [0; 20]).to_vec()
    }

    #[test]
    fn every_text_comes_back() {
        for source in ["", "0", "-7", "007", "-0", "9223372036854775808", "abc", &"x".repeat(22), &"x".repeat(23)] {
            let mut value = Str::new(b"before that is quite long, longer than inline");
            value.set(source.as_bytes());
            assert_eq!(text(&value), source.as_bytes());
            assert_eq!(value.len(), source.len());
        }
        assert_eq!(Str::new(b"12").integer(), Some(12));
        assert_eq!(Str::new(b"012").integer(), None);
    }

    #[test]
    fn growing_fills_with_zeros_even_where_text_was_before() {
        let mut value = Str::new(&[b'x'; 40]);
        value.set(&[b'y'; 25]);
        assert_eq!(value.grown(30)[25..], [0; 5]);
        let mut value = Str::new(b"12");
        value.append(b"3");
        assert_eq!(text(&value), b"123");
        for n in 0..1000u32 {
            value.append(&[n as u8]);
            assert_eq!(value.len(), 4 + n as usize);
        }
        assert!(value.heap_bytes() < 2100);
    }
}
