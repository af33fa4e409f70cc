//! Pages of memory by hermit's names: given out, closed and opened again, given back.
//!
//! They come from the heap, so all of them are there from the start, and what is given back in part is used by others when the
//! whole is. A page is open, to be read and written, or closed: then it is a guard of the shim's, and a thread that touches it
//! ends the program with a report, on both replicas. There is nothing in between, and no page is ever executed.

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use core::alloc::Layout;
use core::cell::RefCell;
use core::ops::Range;
use core::ptr;

use hermit_abi::{EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE};
use hypercall::layout::PAGE_BYTES;

use super::descriptors::Result;
use super::io::returned;
use crate::platform;
use crate::thread::Masked;

const PAGE: usize = PAGE_BYTES as usize;
/// What the report of a fault says of a closed page.
const TEXT: &[u8] = b"the program has touched a page that it has closed itself (PROT_NONE)";

/// What can be done with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    Open,
    Closed,
}

/// What flags ask for. `EINVAL` for unknown ones, `EOPNOTSUPP` for what no page can be here: executed, or only read.
fn protection(flags: u32) -> Result<Protection> {
    match flags {
        PROT_NONE => Ok(Protection::Closed),
        _ if flags & !(PROT_READ | PROT_WRITE | PROT_EXEC) != 0 => Err(EINVAL),
        // Who may write may read: the processor knows nothing else.
        _ if flags & PROT_EXEC == 0 && flags & PROT_WRITE != 0 => Ok(Protection::Open),
        _ => Err(EOPNOTSUPP),
    }
}

/// What a closed page holds: zeros if there is none. The shim's text takes its place.
type Kept = Option<Box<[u8; PAGE]>>;

/// Pages that were given out together.
struct Mapping {
    layout: Layout,
    /// The closed ones, by number.
    closed: BTreeMap<usize, Kept>,
    /// Those that were given back.
    gone: BTreeSet<usize>,
}

local! {
    /// By address.
    static MAPPINGS: RefCell<BTreeMap<usize, Mapping>> = RefCell::new(BTreeMap::new());
}

fn address_of(base: usize, page: usize) -> u64 {
    (base + page * PAGE) as u64
}

/// What a page holds.
fn contents(base: usize, page: usize) -> Kept {
    // SAFETY: the page is one of a mapping's, which was zeroed when it was given out, and open; threads take turns.
    let bytes = unsafe { ptr::with_exposed_provenance::<[u8; PAGE]>(base + page * PAGE).read() };
    bytes.iter().any(|byte| *byte != 0).then(|| Box::new(bytes))
}

impl Mapping {
    fn pages(&self) -> usize {
        self.layout.size() / PAGE
    }

    /// Closes an open page. `ENOMEM` when there are as many guards as there can be.
    fn close(&mut self, base: usize, page: usize) -> Result<()> {
        let kept = contents(base, page);
        match platform::guard(address_of(base, page), TEXT) {
            0 => {
                self.closed.insert(page, kept);
                Ok(())
            }
            refused => Err(refused.unsigned_abs() as i32),
        }
    }

    /// Opens a page, unless it is open: with what it held, if that is `wanted`.
    fn open(&mut self, base: usize, page: usize, wanted: bool) {
        let Some(kept) = self.closed.remove(&page) else { return };
        let opened = platform::unguard(address_of(base, page));
        assert_eq!(opened, 0, "the shim gives back the guard of a page");
        if wanted {
            let place: *mut [u8; PAGE] = ptr::with_exposed_provenance_mut(base + page * PAGE);
            // SAFETY: the page is one of the mapping's own and open again.
            unsafe { kept.map_or_else(|| place.write_bytes(0, 1), |kept| place.write(*kept)) };
        }
    }

    /// Closes pages, or opens them: all of them, or none and an error.
    fn protect(&mut self, base: usize, pages: Range<usize>, protection: Protection) -> Result<()> {
        if pages.clone().any(|page| self.gone.contains(&page)) {
            return Err(ENOMEM);
        }
        if protection == Protection::Open {
            pages.for_each(|page| self.open(base, page, true));
            return Ok(());
        }
        let mut fresh = alloc::vec::Vec::new();
        for page in pages {
            if self.closed.contains_key(&page) {
                continue;
            }
            if let Err(errno) = self.close(base, page) {
                fresh.into_iter().for_each(|page| self.open(base, page, true));
                return Err(errno);
            }
            fresh.push(page);
        }
        Ok(())
    }
}

/// Gives pages out, zeroed. `EINVAL` for none, `ENOMEM`.
fn map(bytes: usize, protection: Protection) -> Result<*mut u8> {
    let whole = bytes.checked_next_multiple_of(PAGE).filter(|whole| *whole > 0).ok_or(EINVAL)?;
    let layout = Layout::from_size_align(whole, PAGE).map_err(|_| ENOMEM)?;
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(ENOMEM);
    }
    let base = memory.expose_provenance();
    let mut mapping = Mapping { layout, closed: BTreeMap::new(), gone: BTreeSet::new() };
    if protection == Protection::Closed
        && let Err(errno) = mapping.protect(base, 0..mapping.pages(), protection)
    {
        // SAFETY: it was allocated with this layout, and nobody knows of it.
        unsafe { dealloc(memory, layout) };
        return Err(errno);
    }
    MAPPINGS.with(|all| all.borrow_mut().insert(base, mapping));
    Ok(memory)
}

/// Calls `f` with the pages of a range of addresses, and the mapping that they are of. `EINVAL` for what does not begin a page
/// or has no pages, `ENOMEM` for what was not given out by one call.
fn with_pages<R>(
    address: usize,
    bytes: usize,
    f: impl FnOnce(&mut BTreeMap<usize, Mapping>, usize, Range<usize>) -> Result<R>,
) -> Result<R> {
    let whole = bytes.checked_next_multiple_of(PAGE).filter(|whole| *whole > 0).ok_or(EINVAL)?;
    if !address.is_multiple_of(PAGE) {
        return Err(EINVAL);
    }
    MAPPINGS.with(|all| {
        let mut all = all.borrow_mut();
        let (base, mapping) = all.range(..=address).next_back().ok_or(ENOMEM)?;
        let base = *base;
        let first = (address - base) / PAGE;
        let end = first.checked_add(whole / PAGE).filter(|end| *end <= mapping.pages()).ok_or(ENOMEM)?;
        f(&mut all, base, first..end)
    })
}

/// Gives pages out, zeroed, and leaves their address at `ret`. `-EINVAL` for none and for unknown flags, `-EOPNOTSUPP` for pages
/// that are only read or are executed, `-ENOMEM` when there is no memory, or more pages are closed than there can be guards
/// ([`hypercall::layout::MAX_GUARDS`], of which each thread takes one), `-EFAULT` for a null pointer.
///
/// # Safety
/// `ret` is null or writable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_mmap(size: usize, prot_flags: u32, ret: *mut *mut u8) -> i32 {
    let _masked = Masked::new();
    if ret.is_null() {
        return returned(Err(EFAULT));
    }
    returned(protection(prot_flags).and_then(|protection| map(size, protection)).map(|memory| {
        // SAFETY: the caller's.
        unsafe { ret.write(memory) };
        0
    }))
}

/// Gives back pages that one call has given out, all or some of them. Others use the memory when all are back. `-EINVAL` for what
/// does not begin a page, `-ENOMEM` for what was not given out.
///
/// # Safety
/// Nobody uses the pages any more.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_munmap(ptr: *mut u8, size: usize) -> i32 {
    let _masked = Masked::new();
    returned(with_pages(ptr.addr(), size, |all, base, pages| {
        let Some(mapping) = all.get_mut(&base) else { return Err(ENOMEM) };
        for page in pages {
            mapping.open(base, page, false);
            mapping.gone.insert(page);
        }
        if mapping.gone.len() == mapping.pages() {
            let layout = mapping.layout;
            all.remove(&base);
            // SAFETY: it was allocated with this layout, and the caller vouches that nobody uses any of it.
            unsafe { dealloc(ptr::with_exposed_provenance_mut(base), layout) };
        }
        Ok(0)
    }))
}

/// Closes pages that were given out (`PROT_NONE`), or opens them again, with what they held. All of them, or none: errors as for
/// [`sys_mmap`] and [`sys_munmap`].
///
/// # Safety
/// Nobody uses pages that are closed.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_mprotect(ptr: *mut u8, size: usize, prot_flags: u32) -> i32 {
    let _masked = Masked::new();
    returned(protection(prot_flags).and_then(|protection| {
        with_pages(ptr.addr(), size, |all, base, pages| {
            let mapping = all.get_mut(&base).ok_or(ENOMEM)?;
            mapping.protect(base, pages, protection).map(|()| 0)
        })
    }))
}

#[cfg(test)]
mod tests {
    use hermit_abi::ENOSYS;

    use super::*;

    const BOTH: u32 = PROT_READ | PROT_WRITE;

    fn mapped(bytes: usize, flags: u32) -> Result<*mut u8> {
        let mut place = ptr::null_mut();
        // SAFETY: the place is a variable.
        match unsafe { sys_mmap(bytes, flags, &raw mut place) } {
            0 => Ok(place),
            error => Err(-error),
        }
    }

    #[test]
    fn pages_are_given_out_zeroed_and_given_back_in_parts() {
        let memory = mapped(3 * PAGE - 5, BOTH).expect("memory");
        assert!(memory.addr().is_multiple_of(PAGE));
        // SAFETY: all three pages are ours until they are given back.
        unsafe {
            assert!(core::slice::from_raw_parts(memory, 3 * PAGE).iter().all(|byte| *byte == 0));
            assert_eq!(sys_munmap(memory.add(1), PAGE), -EINVAL);
            assert_eq!(sys_munmap(memory, 4 * PAGE), -ENOMEM);
            assert_eq!(sys_munmap(memory, 0), -EINVAL);
            assert_eq!(sys_munmap(memory.add(PAGE), PAGE), 0);
            assert_eq!(sys_mprotect(memory, 3 * PAGE, BOTH), -ENOMEM, "one of them is not there any more");
            assert_eq!(sys_mprotect(memory, PAGE, BOTH), 0);
            assert_eq!(sys_munmap(memory, 3 * PAGE), 0);
            assert_eq!(sys_munmap(memory, PAGE), -ENOMEM);
        }
    }

    #[test]
    fn what_no_page_can_be_is_refused() {
        assert_eq!(mapped(0, BOTH), Err(EINVAL));
        assert_eq!(mapped(PAGE, 8), Err(EINVAL));
        assert_eq!(mapped(PAGE, PROT_READ), Err(EOPNOTSUPP));
        assert_eq!(mapped(PAGE, BOTH | PROT_EXEC), Err(EOPNOTSUPP));
        assert_eq!(mapped(usize::MAX / 4, BOTH), Err(ENOMEM));
        // There are no guards on a host; so nothing is closed, and nothing is left behind.
        assert_eq!(mapped(PAGE, PROT_NONE), Err(ENOSYS));
        let memory = mapped(2 * PAGE, BOTH).expect("memory");
        // SAFETY: both pages are ours until they are given back.
        unsafe {
            assert_eq!(sys_mprotect(memory, PAGE, PROT_NONE), -ENOSYS);
            memory.write(1);
            assert_eq!(sys_munmap(memory, 2 * PAGE), 0);
        }
        // SAFETY: nothing is written.
        assert_eq!(unsafe { sys_mmap(PAGE, BOTH, ptr::null_mut()) }, -EFAULT);
    }
}
