//! The loader: puts the guest's ELF into guest memory and plans everything else there.
//!
//! From low to high: the image's segments, then what [`Regions`] says.

use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;
use hypercall::ABI_VERSION;
use hypercall::disk::{DiskInfo, MAX_DISKS};
use hypercall::layout::{
    BootInfo, DISK_RING_BYTES, GUEST_BASE, MAX_ARGUMENT_BYTES, NetConfig, PAGE_BYTES, RING_BYTES, Regions, STACK_BYTES,
    SharedPage, TickNote,
};
use object::LittleEndian;
use object::elf::{ELFCLASS64, EM_PARISC, EM_X86_64, ET_EXEC, FileHeader64, PF_W, PF_X, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader as _, NoteIterator, ProgramHeader as _};

use super::GuestMemory;

/// A guest that leaves less free memory than this would fail at its first allocation.
const MIN_HEAP_BYTES: u64 = 512 * 1024;

/// The table of disks lies at the end of the page of the boot information.
const DISK_TABLE_OFFSET: u64 = PAGE_BYTES - (MAX_DISKS * size_of::<DiskInfo>()) as u64;

/// What a guest's ELF says it is for. PA-RISC's is an ELF of this machine's linear memory, made by the build command: of
/// 64-bit class and little-endian like any other guest's.
const MACHINE: object::elf::Machine = if cfg!(target_arch = "wasm32") { EM_PARISC } else { EM_X86_64 };

bitflags! {
    /// What a guest may do with a page beside reading it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Rights: u8 {
        /// Write to it.
        const WRITE = 1;
        /// Execute it.
        const EXECUTE = 2;
    }
}

/// What the supervisor decides about a guest; the same for both replicas.
#[derive(Debug, Clone, Copy)]
pub struct GuestConfig<'a> {
    /// Argument text.
    pub arguments: &'a str,
    /// Network interface.
    pub net: NetConfig,
    /// Disks, sorted by name, at most [`hypercall::disk::MAX_DISKS`].
    pub disks: &'a [DiskInfo],
}

/// A range of guest memory with its rights, in whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Offset in guest memory.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
    /// Rights of ring 3.
    pub rights: Rights,
}

/// How a loaded guest starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// First instruction.
    pub entry: u64,
    /// Initial stack pointer.
    pub stack_top: u64,
    /// Address of the [`BootInfo`], the entry point's argument.
    pub boot_info: u64,
    /// Everything that is mapped; the rest of guest memory is not.
    pub mappings: Vec<Mapping>,
    /// Offset of the [`SharedPage`].
    pub shared_page: usize,
    /// Offset of the receive ring.
    pub receive_ring: usize,
    /// Offset of the transmit ring.
    pub transmit_ring: usize,
    /// Offset of the counter of a guest that counts its ticks: aligned, and writable by the guest.
    pub tick_counter: Option<usize>,
    /// Offset of the disk ring.
    pub disk_ring: usize,
    /// The disks.
    pub disks: Vec<DiskInfo>,
}

/// Why a guest cannot be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadError {
    /// Not an ELF file, or a damaged one.
    NotElf,
    /// An ELF file of another kind.
    Kind,
    /// A segment outside guest memory, unaligned, or on top of another.
    Segment {
        /// Its address.
        address: u64,
        /// Its size in memory.
        bytes: u64,
    },
    /// A segment that is writable and executable.
    WritableCode {
        /// Its address.
        address: u64,
    },
    /// The entry point lies in no executable segment.
    Entry {
        /// The entry point.
        address: u64,
    },
    /// A note about ticks that is malformed, or names a counter that is no aligned word of writable memory.
    Ticks,
    /// Guest memory is too small.
    Memory {
        /// What there is.
        bytes: u64,
        /// What is needed at least.
        needed_bytes: u64,
    },
    /// There are more disks than a guest may have.
    Disks {
        /// How many.
        count: usize,
    },
    /// The argument text is too long.
    Arguments {
        /// Its length.
        bytes: usize,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("the guest is not an ELF file, or a damaged one"),
            Self::Kind => f.write_str("the guest is not a static executable for this machine"),
            Self::Segment { address, bytes } => write!(
                f,
                "the guest's segment at {address:#x} of {bytes} bytes does not lie page-aligned in guest memory from {GUEST_BASE:#x} on, or overlaps another"
            ),
            Self::WritableCode { address } => {
                write!(f, "the guest's segment at {address:#x} is both writable and executable")
            }
            Self::Entry { address } => write!(f, "the guest's entry point {address:#x} lies in no executable segment"),
            Self::Ticks => f.write_str(
                "the guest's note about ticks is malformed or names no aligned word of its own writable memory",
            ),
            Self::Memory { bytes, needed_bytes } => {
                write!(f, "the guest has {bytes} bytes of memory and needs at least {needed_bytes}; raise --memory-mib")
            }
            Self::Disks { count } => write!(f, "the machine has {count} disks; at most {MAX_DISKS} are allowed"),
            Self::Arguments { bytes } => {
                write!(f, "the argument text has {bytes} bytes; at most {MAX_ARGUMENT_BYTES} are allowed")
            }
        }
    }
}

/// Loads `elf` into `memory`, which is zero where nothing was loaded yet.
pub fn load(memory: &GuestMemory, elf: &[u8], config: &GuestConfig<'_>) -> Result<Start, LoadError> {
    if config.arguments.len() > MAX_ARGUMENT_BYTES {
        return Err(LoadError::Arguments { bytes: config.arguments.len() });
    }
    if config.disks.len() > MAX_DISKS {
        return Err(LoadError::Disks { count: config.disks.len() });
    }
    let mut plan = Plan { next: 0, mappings: Vec::new() };
    let entry = plan.segments(memory, elf)?;
    let tick_counter = match counter_address(elf)? {
        Some(address) => Some(plan.writable_word(memory, address).ok_or(LoadError::Ticks)?),
        None => None,
    };
    let image_end = plan.next;
    let regions = Regions::behind(image_end);
    let Regions { boot: boot_page, shared_page, receive_ring, transmit_ring, disk_ring, stack, heap } = regions;
    let needed_bytes = heap + MIN_HEAP_BYTES;
    let heap_bytes = match (memory.bytes() as u64).checked_sub(heap) {
        Some(bytes) if bytes >= MIN_HEAP_BYTES => bytes,
        _ => return Err(LoadError::Memory { bytes: memory.bytes() as u64, needed_bytes }),
    };
    plan.map(boot_page, PAGE_BYTES, Rights::empty());
    plan.map(shared_page, PAGE_BYTES, Rights::empty());
    for (offset, bytes) in [
        (receive_ring, Regions::RING_BYTES),
        (transmit_ring, Regions::RING_BYTES),
        (disk_ring, Regions::DISK_RING_BYTES),
        (stack, STACK_BYTES),
        (heap, heap_bytes),
    ] {
        plan.map(offset, bytes, Rights::WRITE);
    }

    let arguments_offset = boot_page + size_of::<BootInfo>() as u64;
    let info = BootInfo {
        version: ABI_VERSION,
        struct_bytes: size_of::<BootInfo>() as u32,
        memory_base: GUEST_BASE,
        memory_bytes: memory.bytes() as u64,
        image_end: GUEST_BASE + image_end,
        stack_base: GUEST_BASE + stack,
        stack_bytes: STACK_BYTES,
        heap_base: GUEST_BASE + heap,
        heap_bytes,
        shared_page: GUEST_BASE + shared_page,
        receive_ring: GUEST_BASE + receive_ring,
        transmit_ring: GUEST_BASE + transmit_ring,
        disk_ring: GUEST_BASE + disk_ring,
        disks: GUEST_BASE + boot_page + DISK_TABLE_OFFSET,
        disk_count: config.disks.len() as u64,
        arguments: GUEST_BASE + arguments_offset,
        arguments_bytes: config.arguments.len() as u64,
        net: config.net,
    };
    memory.write_struct(boot_page as usize, &info);
    memory.write_struct(shared_page as usize, &SharedPage::new());
    // The page holds boot information and the longest argument text.
    const { assert!(size_of::<BootInfo>() + MAX_ARGUMENT_BYTES <= DISK_TABLE_OFFSET as usize) };
    memory.write_offset(arguments_offset as usize, config.arguments.as_bytes());
    for (disk, offset) in config.disks.iter().zip((boot_page + DISK_TABLE_OFFSET..).step_by(size_of::<DiskInfo>())) {
        memory.write_struct(offset as usize, disk);
    }
    for (ring, bytes) in [(receive_ring, RING_BYTES), (transmit_ring, RING_BYTES), (disk_ring, DISK_RING_BYTES)] {
        // SAFETY: the plan gave the ring its own page-aligned range, whose end lies before the heap, inside memory.
        unsafe { hypercall::ring::initialise(memory.pointer(ring as usize), bytes) };
    }
    Ok(Start {
        entry,
        // The ABI wants the stack pointer 8 below a multiple of 16 at a function's first instruction.
        stack_top: GUEST_BASE + stack + STACK_BYTES - 8,
        boot_info: GUEST_BASE + boot_page,
        mappings: plan.mappings,
        shared_page: shared_page as usize,
        receive_ring: receive_ring as usize,
        transmit_ring: transmit_ring as usize,
        tick_counter,
        disk_ring: disk_ring as usize,
        disks: config.disks.to_vec(),
    })
}

/// What the [`TickNote`] of a guest says, if it carries one.
fn counter_address(elf: &[u8]) -> Result<Option<u64>, LoadError> {
    let header = FileHeader64::<LittleEndian>::parse(elf).map_err(|_| LoadError::NotElf)?;
    for segment in header.program_headers(LittleEndian, elf).map_err(|_| LoadError::NotElf)? {
        if segment.p_type(LittleEndian) != PT_NOTE {
            continue;
        }
        let data = segment.data(LittleEndian, elf).map_err(|()| LoadError::NotElf)?;
        // Notes are aligned to four bytes whatever the segment says: linkers raise it to the section's alignment.
        let notes = NoteIterator::<FileHeader64<LittleEndian>>::new(LittleEndian, 4, data);
        let mut notes = notes.map_err(|_| LoadError::NotElf)?;
        while let Some(note) = notes.next().map_err(|_| LoadError::NotElf)? {
            if note.name() == TickNote::OWNER && note.n_type(LittleEndian).0 == TickNote::KIND {
                let address = note.desc().try_into().map_err(|_| LoadError::Ticks)?;
                return Ok(Some(u64::from_le_bytes(address)));
            }
        }
    }
    Ok(None)
}

struct Plan {
    /// The end of the image so far, a multiple of the page size.
    next: u64,
    mappings: Vec<Mapping>,
}

impl Plan {
    fn map(&mut self, offset: u64, bytes: u64, rights: Rights) {
        self.mappings.push(Mapping { offset, bytes, rights });
    }

    /// The offset of an aligned 64-bit word, if ring 3 may write to all of it.
    fn writable_word(&self, memory: &GuestMemory, address: u64) -> Option<usize> {
        let offset = memory.offset_of(address, 8).filter(|offset| offset.is_multiple_of(8))?;
        let (start, end) = (offset as u64, offset as u64 + 8);
        let inside = |mapping: &Mapping| mapping.offset <= start && end <= mapping.offset + mapping.bytes;
        self.mappings.iter().any(|mapping| mapping.rights == Rights::WRITE && inside(mapping)).then_some(offset)
    }

    /// Copies the segments; returns the entry point.
    fn segments(&mut self, memory: &GuestMemory, elf: &[u8]) -> Result<u64, LoadError> {
        let header = FileHeader64::<LittleEndian>::parse(elf).map_err(|_| LoadError::NotElf)?;
        if header.e_ident.class != ELFCLASS64
            || header.e_machine(LittleEndian) != MACHINE
            || header.e_type(LittleEndian) != ET_EXEC
        {
            return Err(LoadError::Kind);
        }
        let entry = header.e_entry(LittleEndian);
        let mut entry_is_code = false;
        for segment in header.program_headers(LittleEndian, elf).map_err(|_| LoadError::NotElf)? {
            if segment.p_type(LittleEndian) != PT_LOAD || segment.p_memsz(LittleEndian) == 0 {
                continue;
            }
            let (address, bytes) = (segment.p_vaddr(LittleEndian), segment.p_memsz(LittleEndian));
            let refused = LoadError::Segment { address, bytes };
            let data = segment.data(LittleEndian, elf).map_err(|()| LoadError::NotElf)?;
            let offset = memory.offset_of(address, bytes).ok_or(refused)? as u64;
            let rounded = bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(refused)?;
            let aligned = offset.is_multiple_of(PAGE_BYTES) && offset >= self.next && data.len() as u64 <= bytes;
            if !aligned || offset + rounded > memory.bytes() as u64 {
                return Err(refused);
            }
            let flags = segment.p_flags(LittleEndian);
            let rights = match (flags.contains(PF_W), flags.contains(PF_X)) {
                (false, false) => Rights::empty(),
                (true, false) => Rights::WRITE,
                (false, true) => Rights::EXECUTE,
                (true, true) => return Err(LoadError::WritableCode { address }),
            };
            entry_is_code |= rights == Rights::EXECUTE && (address..address + bytes).contains(&entry);
            memory.write_offset(offset as usize, data);
            memory.zero(offset as usize + data.len(), rounded as usize - data.len());
            self.map(offset, rounded, rights);
            self.next = offset + rounded;
        }
        if entry_is_code { Ok(entry) } else { Err(LoadError::Entry { address: entry }) }
    }
}
