//! Page tables.
//!
//! | virtual addresses | what | rights |
//! |---|---|---|
//! | 0 | null page | none |
//! | 4 KiB to 4 MiB | shim, 4 KiB pages | ring 0; code r-x, constants r--, data rw-; stack guard none |
//! | 4 MiB to 1 GiB | memory, identity | ring 0, rw- |
//! | 1 GiB on | guest memory | ring 3, by segment; guards none |
//! | 3 GiB to 4 GiB | devices, identity, uncached | ring 0, rw- |
//! | [`DIRECT_BASE`] on | all memory | ring 0, rw- |
//!
//! One set of tables serves both rings: a change of tables empties the translation cache, which an emulator pays
//! dearly, and the supervisor bit keeps the guest out all the same.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use core::arch::asm;

use hypercall::layout::{GUEST_BASE, PAGE_BYTES};
use x86_64::PhysAddr;
use x86_64::structures::paging::{PageTable, PageTableFlags as Flags};

use crate::guest::Rights;

/// All memory is mapped here once more, so that the shim reaches guest memory wherever it lies.
pub const DIRECT_BASE: u64 = 0xffff_8000_0000_0000;

const LARGE_PAGE_BYTES: u64 = 2 * 1024 * 1024;
const GIB: u64 = 1 << 30;
const DEVICES_START: u64 = 3 * GIB;
const DEVICES_END: u64 = 4 * GIB;
/// End of what is mapped with small pages for the shim's own sections.
const SMALL_END: u64 = 4 * 1024 * 1024;

unsafe extern "C" {
    static __shim_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static shim_stack_guard: u8;
}

fn address_of(symbol: &u8) -> u64 {
    core::ptr::from_ref(symbol) as u64
}

/// The page tables that are in use.
#[derive(Debug)]
pub struct AddressSpace {
    root: *mut PageTable,
    guest_physical: u64,
}

impl AddressSpace {
    /// Builds the shim's mappings; the guest's follow by [`AddressSpace::map_guest`].
    ///
    /// # Panics
    /// If the shim's heap is too small for the tables.
    pub fn new(memory_end: u64, guest_physical: u64) -> Self {
        let mut space = Self { root: new_table(), guest_physical };
        let data = Flags::PRESENT | Flags::WRITABLE | Flags::NO_EXECUTE | Flags::GLOBAL;
        space.map_shim();
        for address in (SMALL_END..memory_end.min(GIB)).step_by(LARGE_PAGE_BYTES as usize) {
            space.map_large(address, address, data);
        }
        for address in (0..memory_end).step_by(LARGE_PAGE_BYTES as usize) {
            space.map_large(DIRECT_BASE + address, address, data);
        }
        for address in (DEVICES_START..DEVICES_END).step_by(LARGE_PAGE_BYTES as usize) {
            space.map_large(address, address, data | Flags::NO_CACHE | Flags::WRITE_THROUGH);
        }
        space
    }

    fn map_shim(&mut self) {
        // SAFETY: the linker script defines the symbols; only their addresses are used.
        let (start, text_end, rodata_end, guard) = unsafe {
            (
                address_of(&__shim_start),
                address_of(&__text_end),
                address_of(&__rodata_end),
                address_of(&shim_stack_guard),
            )
        };
        for address in (PAGE_BYTES..SMALL_END).step_by(PAGE_BYTES as usize) {
            let flags = if address == guard {
                continue;
            } else if (start..text_end).contains(&address) {
                Flags::PRESENT | Flags::GLOBAL
            } else if (text_end..rodata_end).contains(&address) {
                Flags::PRESENT | Flags::NO_EXECUTE | Flags::GLOBAL
            } else {
                Flags::PRESENT | Flags::WRITABLE | Flags::NO_EXECUTE | Flags::GLOBAL
            };
            self.map_small(address, address, flags);
        }
    }

    /// Maps `bytes` of guest memory at `offset` with these rights for ring 3.
    ///
    /// # Safety
    /// The range lies in guest memory, which holds nothing of the shim's.
    pub unsafe fn map_guest(&mut self, offset: u64, bytes: u64, rights: Rights) {
        let mut flags = Flags::PRESENT | Flags::USER_ACCESSIBLE;
        if rights.contains(Rights::WRITE) {
            flags |= Flags::WRITABLE;
        }
        if !rights.contains(Rights::EXECUTE) {
            flags |= Flags::NO_EXECUTE;
        }
        for offset in (offset..offset + bytes).step_by(PAGE_BYTES as usize) {
            self.map_small(GUEST_BASE + offset, self.guest_physical + offset, flags);
        }
    }

    /// Takes a mapping of [`Self::map_guest`] away. Takes effect with the next [`Self::activate`].
    pub fn unmap_guest(&mut self, offset: u64, bytes: u64) {
        for offset in (offset..offset + bytes).step_by(PAGE_BYTES as usize) {
            let address = GUEST_BASE + offset;
            self.table(address, 1)[index(address, 0)].set_unused();
        }
    }

    /// Takes a page of guest memory out of ring 3's reach, or puts it back there. Whether it was written to stays noted.
    ///
    /// # Safety
    /// As for [`Self::activate`]; the guest does not run meanwhile, and the page is one that [`Self::map_guest`] has mapped.
    pub unsafe fn guard_guest(&mut self, offset: u64, guarded: bool) {
        let address = GUEST_BASE + offset;
        let entry = &mut self.table(address, 1)[index(address, 0)];
        let mut flags = entry.flags();
        flags.set(Flags::USER_ACCESSIBLE, !guarded);
        entry.set_flags(flags);
        // SAFETY: forgetting a copy of an entry changes nothing but what ring 3 may do.
        unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) }
    }

    /// Calls `each` with the offset of every page among the first `bytes` of guest memory that ring 3 has written to
    /// since the last call, in ascending order, and makes the processor note the next write to it again.
    ///
    /// # Safety
    /// As for [`Self::activate`]; the guest does not run meanwhile.
    pub unsafe fn take_dirty(&mut self, bytes: u64, mut each: impl FnMut(u64)) {
        let mut stale = false;
        for start in (0..bytes).step_by(LARGE_PAGE_BYTES as usize) {
            let address = GUEST_BASE + start;
            let entry = &mut self.table(address, 2)[index(address, 1)];
            // Nothing was looked up in the table below since it was cleared, and no write is noted without a look.
            if !entry.flags().contains(Flags::ACCESSED) {
                continue;
            }
            entry.set_flags(entry.flags() - Flags::ACCESSED);
            stale = true;
            let end = bytes.min(start + LARGE_PAGE_BYTES);
            let table = self.table(address, 1);
            for offset in (start..end).step_by(PAGE_BYTES as usize) {
                let entry = &mut table[index(GUEST_BASE + offset, 0)];
                if entry.flags().contains(Flags::DIRTY) {
                    entry.set_flags(entry.flags() - Flags::DIRTY);
                    each(offset);
                }
            }
        }
        if stale {
            // The processor holds copies of the entries, with their bits as they were; none of them is global.
            // SAFETY: the caller's.
            unsafe { self.activate() };
        }
    }

    /// Makes these tables the processor's.
    ///
    /// # Safety
    /// To be called by the shim, whose code, stack and heap are mapped where they are.
    pub unsafe fn activate(&self) {
        // SAFETY: the root is identity mapped, and the caller runs at addresses that both sets of tables map alike.
        unsafe { asm!("mov cr3, {}", in(reg) self.root, options(nostack, preserves_flags)) }
    }

    fn map_small(&mut self, address: u64, physical: u64, flags: Flags) {
        let table = self.table(address, 1);
        table[index(address, 0)].set_addr(PhysAddr::new(physical), flags);
    }

    fn map_large(&mut self, address: u64, physical: u64, flags: Flags) {
        let table = self.table(address, 2);
        table[index(address, 1)].set_addr(PhysAddr::new(physical), flags | Flags::HUGE_PAGE);
    }

    /// The table of `level` (1: of small pages, 2: of large ones) for `address`; makes what is missing on the way.
    fn table(&mut self, address: u64, level: u32) -> &mut PageTable {
        let mut table = self.root;
        for depth in (level..4).rev() {
            // SAFETY: `table` is the root or was made by `new_table`; tables are never freed and, being identity
            // mapped, reached by their physical addresses. `self` is borrowed mutably, so no other borrow lives.
            let entry = unsafe { &mut (&mut (*table))[index(address, depth)] };
            if entry.is_unused() {
                // Rights are narrowed in the last level only.
                let flags = Flags::PRESENT | Flags::WRITABLE | Flags::USER_ACCESSIBLE;
                entry.set_addr(PhysAddr::new(new_table() as u64), flags);
            }
            table = entry.addr().as_u64() as *mut PageTable;
        }
        // SAFETY: as above.
        unsafe { &mut *table }
    }
}

/// Index into the table of `depth` (0: page table ... 3: root) for an address.
fn index(address: u64, depth: u32) -> usize {
    ((address >> (12 + 9 * depth)) & 511) as usize
}

fn new_table() -> *mut PageTable {
    let layout = Layout::new::<PageTable>();
    // SAFETY: the layout has a size.
    let table = unsafe { alloc_zeroed(layout) };
    if table.is_null() {
        handle_alloc_error(layout);
    }
    table.cast()
}
