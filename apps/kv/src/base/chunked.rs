//! A dense vector in chunks: growing never copies more than one chunk, so a large table grows without a pause and
//! without needing twice its memory.

use alloc::vec::Vec;

const CHUNK_BITS: u32 = 8;
const CHUNK_ITEMS: usize = 1 << CHUNK_BITS;

/// Items `0..len` in chunks of 256; the first chunk grows as a plain vector, so a small one stays small.
pub struct Chunked<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Chunked<T> {
    /// An empty vector; it allocates nothing.
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    /// Number of items.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "the table above has it")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Item `index`, if there is one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index >> CHUNK_BITS)?.get(index & (CHUNK_ITEMS - 1))
    }

    /// Item `index`, if there is one.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index >> CHUNK_BITS)?.get_mut(index & (CHUNK_ITEMS - 1))
    }

    /// Appends an item.
    pub fn push(&mut self, item: T) {
        let chunk = self.len >> CHUNK_BITS;
        if chunk >= self.chunks.len() {
            self.chunks.push(if chunk == 0 { Vec::new() } else { Vec::with_capacity(CHUNK_ITEMS) });
        }
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            chunk.push(item);
            self.len += 1;
        }
    }

    /// Takes the last item.
    pub fn pop(&mut self) -> Option<T> {
        let item = self.chunks.get_mut(self.len.checked_sub(1)? >> CHUNK_BITS)?.pop()?;
        self.len -= 1;
        self.shrink();
        Some(item)
    }

    /// Takes item `index`; the last item moves into its place.
    pub fn swap_remove(&mut self, index: usize) -> Option<T> {
        if index >= self.len {
            return None;
        }
        let last = self.pop()?;
        Some(match self.get_mut(index) {
            Some(place) => core::mem::replace(place, last),
            None => last,
        })
    }

    /// Keeps at most one spare chunk, so that a length swinging around a boundary does not allocate every time.
    fn shrink(&mut self) {
        if self.chunks.len() > (self.len >> CHUNK_BITS) + 2 {
            self.chunks.pop();
        }
        if self.len == 0 {
            self.chunks = Vec::new();
        } else if let [only] = &mut self.chunks[..]
            && only.len() * 4 < only.capacity()
        {
            only.shrink_to(only.len() * 2);
        }
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    /// Memory of the chunks themselves, in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        match &self.chunks[..] {
            [] => 0,
            [only] => only.capacity() * size_of::<T>(),
            many => many.len() * (CHUNK_ITEMS * size_of::<T>() + size_of::<Vec<T>>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_a_vector_through_growth_and_shrinkage() {
        let mut chunked = Chunked::new();
        let mut model = Vec::new();
        for i in 0..2000 {
            chunked.push(i);
            model.push(i);
        }
        let full = chunked.bytes();
        for step in 0..2000usize {
            let at = (step * 7919) % model.len();
            assert_eq!(chunked.swap_remove(at), Some(model.swap_remove(at)));
            assert!(chunked.iter().eq(model.iter()));
        }
        assert_eq!((chunked.pop(), chunked.swap_remove(0), chunked.len()), (None, None, 0));
        assert!(full > 0 && chunked.bytes() == 0);
    }
}
