//! Byte strings that live inline when they are short, and comparisons that do not call out for short keys.

use alloc::boxed::Box;

/// Longest string that [`SmallBytes`] keeps without an allocation, in bytes.
const INLINE_BYTES: usize = 22;

/// What an allocation of `len_bytes` is taken to cost: rounded to the allocator's grain plus a header.
///
/// An estimate that counts, not a measurement: it depends on the length alone, so both replicas agree.
pub const fn alloc_bytes(len_bytes: usize) -> usize {
    if len_bytes == 0 { 0 } else { ((len_bytes + 15) & !15) + 8 }
}

/// Whether two strings are equal. Keys are short, so this compares words in line instead of calling `memcmp`.
#[inline]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    #[inline(always)]
    fn ends<const N: usize>(a: &[u8], b: &[u8]) -> bool {
        a.first_chunk::<N>() == b.first_chunk::<N>() && a.last_chunk::<N>() == b.last_chunk::<N>()
    }
    match a.len() {
        8..=16 => ends::<8>(a, b),
        17..=32 => ends::<16>(a, b),
        4..=7 => ends::<4>(a, b),
        0..=3 => a.iter().zip(b).all(|(x, y)| x == y),
        _ => a == b,
    }
}

/// Copies `from` into `to`, which must be as long. Short strings are copied in line, by words that may overlap, because
/// a call of `memcpy` costs more than they do.
#[inline(always)]
pub fn copy(to: &mut [u8], from: &[u8]) {
    #[inline(always)]
    fn ends<const N: usize>(to: &mut [u8], from: &[u8]) -> bool {
        let (Some(head), Some(tail)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) else { return false };
        let Some(place) = to.first_chunk_mut::<N>() else { return false };
        *place = *head;
        let Some(place) = to.last_chunk_mut::<N>() else { return false };
        *place = *tail;
        true
    }
    let len = from.len();
    if len > 32 || to.len() != len {
        to.copy_from_slice(from);
    } else if len >= 8 {
        let _ = ends::<16>(to, from) || ends::<8>(to, from);
    } else if len >= 4 {
        ends::<4>(to, from);
    } else {
        let _ = ends::<2>(to, from) || ends::<1>(to, from);
    }
}

/// Whether `text` equals `lower`, which must be in lower case, ignoring the case of ASCII letters.
#[inline]
pub fn same_ignoring_case(text: &[u8], lower: &str) -> bool {
    text.len() == lower.len() && text.iter().zip(lower.bytes()).all(|(x, y)| x.to_ascii_lowercase() == y)
}

/// An immutable byte string of 24 bytes: up to 22 bytes inline, longer ones on the heap.
#[derive(Clone)]
pub struct SmallBytes(Repr);

#[derive(Clone)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Heap(Box<[u8]>),
}

impl SmallBytes {
    /// Copies `bytes`.
    #[inline]
    pub fn new(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE_BYTES];
        match inline.get_mut(..bytes.len()) {
            Some(space) => {
                copy(space, bytes);
                Self(Repr::Inline { len: bytes.len() as u8, bytes: inline })
            }
            None => Self(Repr::Heap(bytes.into())),
        }
    }

    /// The string.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Repr::Heap(bytes) => bytes,
        }
    }

    /// Heap memory behind this string by [`alloc_bytes`].
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Repr::Inline { .. } => 0,
            Repr::Heap(bytes) => alloc_bytes(bytes.len()),
        }
    }
}

const _: () = assert!(size_of::<SmallBytes>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn round_trips_every_length_around_the_inline_limit() {
        for len in 0..100u8 {
            let bytes: Vec<u8> = (0..len).collect();
            let small = SmallBytes::new(&bytes);
            assert_eq!(small.as_slice(), &bytes[..]);
            assert_eq!(small.heap_bytes() > 0, usize::from(len) > INLINE_BYTES);
        }
    }

    #[test]
    fn same_agrees_with_slice_equality_at_every_length_and_position() {
        for len in 0..100usize {
            let a: Vec<u8> = (0..len as u8).collect();
            assert!(same(&a, &a.clone()));
            assert!(!same(&a, &[&a[..], b"x"].concat()));
            for flip in 0..len {
                let mut b = a.clone();
                b[flip] ^= 1;
                assert!(!same(&a, &b), "len {len} flip {flip}");
            }
        }
    }

    #[test]
    fn copies_of_every_length_are_whole() {
        for len in 0..100u8 {
            let from: Vec<u8> = (1..=len).collect();
            let mut to = alloc::vec![0; usize::from(len)];
            copy(&mut to, &from);
            assert_eq!(to, from);
        }
    }

    #[test]
    fn ignoring_case_is_for_letters_only() {
        assert!(same_ignoring_case(b"GeT", "get"));
        assert!(!same_ignoring_case(b"GE\x14", "ge4"));
    }
}
