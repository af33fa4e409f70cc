//! Guest memory as the shim sees it.

use alloc::vec::Vec;

use freestanding::{SUMMED_BLOCK_BYTES, copy_and_sum};
use hypercall::layout::{GUEST_BASE, Preemption};
use protocol::digest::{BulkSums, Digest64};

/// The guest's memory, by offset. Every access is checked; an access outside is `None`, never a fault.
#[derive(Debug, Clone, Copy)]
pub struct GuestMemory {
    base: *mut u8,
    bytes: usize,
}

impl GuestMemory {
    /// Guest memory of `bytes` at `base`.
    ///
    /// # Safety
    /// The range is valid for reads and writes as long as the value or a copy of it is used, page aligned, and while
    /// a method runs nobody else touches it, the guest included.
    pub const unsafe fn new(base: *mut u8, bytes: usize) -> Self {
        Self { base, bytes }
    }

    /// Its size in bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset of a range of guest addresses, if it lies in guest memory.
    pub fn offset_of(&self, address: u64, bytes: u64) -> Option<usize> {
        let offset = address.checked_sub(GUEST_BASE)?;
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes as u64).then_some(offset as usize)
    }

    /// The shim's address of an offset.
    ///
    /// # Panics
    /// If the offset lies outside; offsets come from the loader.
    pub(super) fn pointer(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.bytes);
        // SAFETY: the offset lies in the range.
        unsafe { self.base.add(offset) }
    }

    /// A copy of a range of guest addresses, as far as guest memory goes.
    pub fn copy_out(&self, address: u64, bytes: usize) -> Option<Vec<u8>> {
        let mut copy = Vec::with_capacity(bytes);
        self.append_to(address, bytes, &mut copy).then_some(copy)
    }

    /// Appends a range of guest addresses to `out`. Returns whether it lies in guest memory.
    pub fn append_to(&self, address: u64, bytes: usize, out: &mut Vec<u8>) -> bool {
        let Some(offset) = self.offset_of(address, bytes as u64) else { return false };
        // SAFETY: the range lies in guest memory, which nobody else touches now; bytes have no invalid values.
        out.extend_from_slice(unsafe { core::slice::from_raw_parts(self.base.add(offset), bytes) });
        true
    }

    /// Copies a range of guest addresses to `out`, and adds it to a digest if there is one. Returns whether the range lies
    /// in guest memory.
    pub fn copy_to(&self, address: u64, out: &mut [u8], digest: Option<&mut Digest64>) -> bool {
        let Some(offset) = self.offset_of(address, out.len() as u64) else { return false };
        // SAFETY: the range lies in guest memory, which nobody else touches now; bytes have no invalid values.
        let from = unsafe { core::slice::from_raw_parts(self.base.add(offset), out.len()) };
        match digest {
            Some(digest) => copy_summed(from, out, digest),
            None => out.copy_from_slice(from),
        }
        true
    }

    /// Writes at an offset, and adds what is written to a digest if there is one. Returns whether the range lies in guest
    /// memory.
    pub fn copy_from(&self, offset: usize, from: &[u8], digest: Option<&mut Digest64>) -> bool {
        let Some(digest) = digest else { return self.write_offset(offset, from) };
        if offset.checked_add(from.len()).is_none_or(|end| end > self.bytes) {
            return false;
        }
        // SAFETY: the range lies in guest memory, which nobody else touches now; bytes have no invalid values.
        let place = unsafe { core::slice::from_raw_parts_mut(self.base.add(offset), from.len()) };
        copy_summed(from, place, digest);
        true
    }

    /// Adds a range to a digest. Returns whether it lies in guest memory.
    pub fn digest(&self, offset: usize, bytes: usize, digest: &mut Digest64) -> bool {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return false;
        }
        // SAFETY: the range lies in guest memory, which nobody else touches now; bytes have no invalid values.
        digest.write_bytes(unsafe { core::slice::from_raw_parts(self.base.add(offset), bytes) });
        true
    }

    /// Writes at a guest address. Returns whether the range lies in guest memory.
    pub fn write(&self, address: u64, bytes: &[u8]) -> bool {
        let Some(offset) = self.offset_of(address, bytes.len() as u64) else { return false };
        self.write_offset(offset, bytes)
    }

    /// Writes at an offset. Returns whether the range lies in guest memory.
    pub fn write_offset(&self, offset: usize, bytes: &[u8]) -> bool {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.bytes) {
            return false;
        }
        // SAFETY: the range lies in guest memory, which nobody else touches now.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len()) };
        true
    }

    /// Whether a range holds zeros only; `false` if it does not lie in guest memory.
    pub fn is_zero(&self, offset: usize, bytes: usize) -> bool {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return false;
        }
        // SAFETY: the range lies in guest memory, which nobody else touches now; bytes have no invalid values.
        let range = unsafe { core::slice::from_raw_parts(self.base.add(offset), bytes) };
        let (words, rest) = range.as_chunks::<8>();
        words.iter().all(|word| u64::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
    }

    /// Fills a range with zeros. Returns whether it lies in guest memory.
    pub fn zero(&self, offset: usize, bytes: usize) -> bool {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return false;
        }
        // SAFETY: as for `write_offset`.
        unsafe { core::ptr::write_bytes(self.base.add(offset), 0, bytes) };
        true
    }

    /// Puts a structure of the ABI at an offset that the loader chose, or that was checked.
    ///
    /// # Panics
    /// If it does not fit there: an error of the shim.
    pub(super) fn write_struct<T: Copy>(&self, offset: usize, value: &T) {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.bytes);
        // SAFETY: the place is aligned (the base is page aligned) and inside.
        unsafe { core::ptr::write(self.base.add(offset).cast(), *value) }
    }

    /// The block of upcalls at an offset.
    ///
    /// # Panics
    /// If it does not lie there: the offset was checked when the guest named it.
    pub(super) fn read_preemption(&self, offset: usize) -> Preemption {
        assert!(offset.is_multiple_of(align_of::<Preemption>()) && offset + size_of::<Preemption>() <= self.bytes);
        // SAFETY: the place is aligned (the base is page aligned) and inside, nobody else touches it now, and the
        // structure is made of words, which have no invalid values.
        unsafe { core::ptr::read(self.base.add(offset).cast()) }
    }

    /// A 64-bit word at a guest address.
    pub fn read_u64(&self, address: u64) -> Option<u64> {
        let offset = self.offset_of(address, 8)?;
        // SAFETY: the eight bytes lie in guest memory, which nobody else touches now.
        Some(u64::from_le(unsafe { core::ptr::read_unaligned(self.base.add(offset).cast()) }))
    }
}

/// Copies in one pass and adds what is copied to a digest.
///
/// # Panics
/// If the two have different lengths.
fn copy_summed(from: &[u8], to: &mut [u8], digest: &mut Digest64) {
    assert_eq!(from.len(), to.len(), "a copy has the length of what is copied");
    const { assert!(BulkSums::BLOCK_BYTES == SUMMED_BLOCK_BYTES) };
    digest.write_bulk(from, |blocks| {
        let (place, rest) = to.split_at_mut(blocks.len());
        let count = blocks.len() / SUMMED_BLOCK_BYTES;
        // SAFETY: both are slices of this length, one of them ours alone.
        let (sum, sum_of_sums) = unsafe { copy_and_sum(place.as_mut_ptr(), blocks.as_ptr(), count, (0, 0)) };
        rest.copy_from_slice(&from[blocks.len()..]);
        BulkSums { sum, sum_of_sums }
    });
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn copies_in_one_pass_are_digested_like_what_they_copy() {
        let mut words = vec![0_u64; 512];
        // SAFETY: the words outlive the value, are aligned well enough for bytes, and are reached by it alone.
        let memory = unsafe { GuestMemory::new(words.as_mut_ptr().cast(), 4096) };
        for bytes in [0, 1, 8, 63, 64, 65, 512, 700, 4096] {
            let from: Vec<u8> = (0..bytes).map(|index| (index * 31 + bytes) as u8).collect();
            let mut expected = Digest64::new(3);
            expected.write_bulk(&from, |blocks| {
                let mut sums = BulkSums::default();
                sums.add(blocks);
                sums
            });
            let (mut there, mut back) = (Digest64::new(3), Digest64::new(3));
            assert!(memory.copy_from(4096 - bytes, &from, Some(&mut there)));
            let mut to = vec![0xee; bytes];
            assert!(memory.copy_to(GUEST_BASE + (4096 - bytes) as u64, &mut to, Some(&mut back)));
            assert_eq!(to, from);
            assert_eq!((there, back), (expected, expected), "{bytes} bytes");
        }
    }
}
