//! The heap.
//!
//! C gives memory back without saying how much it was. So each piece has a header below it: its size, and how far below it
//! the allocation begins.

use core::alloc::Layout;
use core::ffi::{c_int, c_void};
use core::ptr;

use runtime::sys;

use crate::errno::fail;
use crate::names;

/// What lies below each piece.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    /// What was asked for.
    bytes: usize,
    /// Alignment of the allocation; the piece begins that far behind its beginning.
    align_bytes: usize,
}

/// What C promises of any piece.
const ALIGN_BYTES: usize = 16;

const _: () = assert!(size_of::<Header>() <= ALIGN_BYTES);

/// A piece, zeroed if asked; null when there is no memory.
fn allocate(bytes: usize, align_bytes: usize, zeroed: bool) -> *mut c_void {
    let align_bytes = align_bytes.max(ALIGN_BYTES);
    // The header's room is as large as the alignment, so that the piece is aligned, too.
    let whole = bytes.checked_add(align_bytes).and_then(|whole| Layout::from_size_align(whole, align_bytes).ok());
    let Some(whole) = whole else { return ptr::null_mut() };
    let take = if zeroed { sys::sys_alloc_zeroed } else { sys::sys_alloc };
    let base = take(whole.size(), whole.align());
    if base.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: the allocation is longer than its alignment, which is at least the header's size.
    unsafe {
        let piece = base.add(align_bytes);
        piece.cast::<Header>().sub(1).write(Header { bytes, align_bytes });
        piece.cast()
    }
}

/// # Safety
/// `piece` came from `allocate`.
unsafe fn header(piece: *mut c_void) -> Header {
    // SAFETY: the caller's.
    unsafe { piece.cast::<Header>().sub(1).read() }
}

/// Zeroed pages for so many bytes, open.
fn pages(bytes: usize, flags: c_int) -> Result<*mut u8, c_int> {
    if flags & libc::MAP_FIXED != 0 {
        return Err(libc::ENOMEM);
    }
    let mut pages = ptr::null_mut();
    // SAFETY: the place is a variable.
    match unsafe { sys::sys_mmap(bytes, hermit_abi::PROT_READ | hermit_abi::PROT_WRITE, &raw mut pages) } {
        0 => Ok(pages),
        error => Err(-error),
    }
}

c_functions! {
    /// Memory, or null.
    fn malloc(bytes: usize) -> *mut c_void {
        let piece = allocate(bytes, ALIGN_BYTES, false);
        if piece.is_null() {
            fail::<i32>(libc::ENOMEM);
        }
        piece
    }

    /// Zeroed memory, or null.
    fn calloc(count: usize, bytes: usize) -> *mut c_void {
        let piece = count.checked_mul(bytes).map_or(ptr::null_mut(), |bytes| allocate(bytes, ALIGN_BYTES, true));
        if piece.is_null() {
            fail::<i32>(libc::ENOMEM);
        }
        piece
    }

    /// Memory of another size with the same contents, or null and nothing changed.
    fn realloc(piece: *mut c_void, bytes: usize) -> *mut c_void {
        // SAFETY: the caller gives back what one of these functions has given.
        unsafe {
            if piece.is_null() {
                return malloc(bytes);
            }
            let Header { bytes: old, align_bytes } = header(piece);
            let base = piece.byte_sub(align_bytes).cast();
            // What is too much for a number is too much for memory.
            let whole = bytes.saturating_add(align_bytes);
            let base = sys::sys_realloc(base, old + align_bytes, align_bytes, whole);
            if base.is_null() {
                fail::<i32>(libc::ENOMEM);
                return ptr::null_mut();
            }
            let piece = base.add(align_bytes);
            piece.cast::<Header>().sub(1).write(Header { bytes, align_bytes });
            piece.cast()
        }
    }

    /// Gives memory back.
    fn free(piece: *mut c_void) {
        if piece.is_null() {
            return;
        }
        // SAFETY: the caller gives back what one of these functions has given.
        unsafe {
            let Header { bytes, align_bytes } = header(piece);
            sys::sys_dealloc(piece.byte_sub(align_bytes).cast(), bytes + align_bytes, align_bytes);
        }
    }

    /// Aligned memory: 0 and its address at `place`, or `EINVAL` or `ENOMEM`.
    fn posix_memalign(place: *mut *mut c_void, align_bytes: usize, bytes: usize) -> c_int {
        if !align_bytes.is_power_of_two() || !align_bytes.is_multiple_of(size_of::<usize>()) {
            return libc::EINVAL;
        }
        let piece = allocate(bytes, align_bytes, false);
        if piece.is_null() {
            return libc::ENOMEM;
        }
        // SAFETY: the caller's.
        unsafe { place.write(piece) };
        0
    }

    /// Aligned memory, or null.
    fn aligned_alloc(align_bytes: usize, bytes: usize) -> *mut c_void {
        let mut piece = ptr::null_mut();
        // SAFETY: the place is a variable.
        let error = unsafe { posix_memalign(&raw mut piece, align_bytes.max(size_of::<usize>()), bytes) };
        if error != 0 {
            fail::<i32>(error);
        }
        piece
    }

    /// Zeroed pages of memory, open whatever protection was asked for. `ENODEV` for those of a file, unless it is one of the [`names`]
    /// of code and is only read; `ENOMEM` where there are no more, and for a fixed address.
    fn mmap64(
        _address: *mut c_void, bytes: usize, protection: c_int, flags: c_int, file: c_int, offset: i64,
    ) -> *mut c_void {
        let contents = match flags & libc::MAP_ANONYMOUS {
            0 if protection == libc::PROT_READ && offset == 0 => names::of_file(file).map(Some),
            0 => Err(libc::ENODEV),
            _ => Ok(None),
        };
        let mapped = contents.and_then(|contents| {
            let pages = pages(bytes, flags)?;
            if let Some(contents) = contents {
                // SAFETY: they have that length, hold zeros, and are nobody else's.
                contents.copy_to(unsafe { core::slice::from_raw_parts_mut(pages, bytes) });
            }
            Ok(pages.cast())
        });
        mapped.unwrap_or_else(|errno| {
            fail::<c_int>(errno);
            libc::MAP_FAILED
        })
    }

    /// Gives pages of [`mmap64`] back, all or some of one call. `EINVAL` for what does not begin a page or was not given out.
    fn munmap(address: *mut c_void, bytes: usize) -> c_int {
        // SAFETY: the caller's.
        match unsafe { sys::sys_munmap(address.cast(), bytes) } {
            0 => 0,
            _ => fail(libc::EINVAL),
        }
    }

    /// Advice changes nothing. `EINVAL` for what is more than advice: that pages are to be empty, say.
    fn madvise(_address: *mut c_void, _bytes: usize, advice: c_int) -> c_int {
        let is_advice = |advice| matches!(advice, libc::MADV_NORMAL..=libc::MADV_WILLNEED);
        if is_advice(advice) { 0 } else { fail(libc::EINVAL) }
    }

    /// Closes pages of [`mmap64`], or opens them again. `ENOMEM` for other memory, unless it stays readable and writable, and when
    /// there are as many guards as there can be; `ENOSYS` for pages that are only read or are executed.
    fn mprotect(address: *mut c_void, bytes: usize, protection: c_int) -> c_int {
        // SAFETY: the caller's.
        match -unsafe { sys::sys_mprotect(address.cast(), bytes, protection as u32) } {
            0 => 0,
            libc::ENOMEM if protection == libc::PROT_READ | libc::PROT_WRITE => 0,
            libc::ENOMEM if protection == libc::PROT_NONE => fail(libc::ENOMEM),
            libc::EINVAL => fail(libc::EINVAL),
            _ => fail(libc::ENOSYS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_and_keep_their_contents_when_they_grow() {
        // SAFETY: everything is used within its bounds and given back once.
        unsafe {
            for align_bytes in [8, 16, 64, 4096] {
                let mut piece = ptr::null_mut();
                assert_eq!(posix_memalign(&raw mut piece, align_bytes, 100), 0);
                assert!(piece.addr().is_multiple_of(align_bytes));
                piece.cast::<u8>().write_bytes(7, 100);
                let piece = realloc(piece, 10_000);
                assert!(core::slice::from_raw_parts(piece.cast::<u8>(), 100).iter().all(|byte| *byte == 7));
                free(piece);
            }
            let piece = calloc(10, 10);
            assert!(core::slice::from_raw_parts(piece.cast::<u8>(), 100).iter().all(|byte| *byte == 0));
            free(piece);
            free(ptr::null_mut());
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        // SAFETY: nothing is given.
        unsafe {
            assert!(calloc(usize::MAX, 2).is_null());
            assert!(malloc(usize::MAX).is_null());
            let mut piece = ptr::null_mut();
            assert_eq!(posix_memalign(&raw mut piece, 24, 1), libc::EINVAL);
            assert_eq!(posix_memalign(&raw mut piece, 16, usize::MAX), libc::ENOMEM);
            assert_eq!(mmap64(ptr::null_mut(), 10, 3, libc::MAP_PRIVATE, 3, 0), libc::MAP_FAILED);
            let pages = mmap64(ptr::null_mut(), 10_000, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            assert_ne!(pages, libc::MAP_FAILED);
            assert_eq!(mprotect(pages, 10_000, libc::PROT_READ | libc::PROT_WRITE), 0);
            assert_eq!(mprotect(pages, 10_000, libc::PROT_READ | libc::PROT_EXEC), -1);
            assert_eq!((munmap(pages.byte_add(1), 10_000), munmap(pages, 20_000)), (-1, -1));
            assert_eq!((munmap(pages, 10_000), munmap(pages, 10_000)), (0, -1));
        }
    }
}
