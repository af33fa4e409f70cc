//! What the loader says: PVH's `hvm_start_info` (Xen's `arch-x86/hvm/start_info.h`, version 1).

/// `hvm_start_info.magic`.
const MAGIC: u32 = 0x336e_c578;
/// Memory map entries of this type are usable.
const TYPE_RAM: u32 = 1;

#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

/// What the shim uses of it.
#[derive(Debug, Clone, Copy)]
pub struct BootParameters {
    /// The kernel command line; QEMU's microvm lists virtio devices in it.
    pub command_line: &'static str,
    /// End of the usable memory that contains the address 16 MiB; 0 when there is none.
    pub memory_end: u64,
}

/// Reads the loader's structures.
///
/// # Safety
/// `start_info` is what the loader passed, and all memory below 4 GiB is identity mapped.
pub unsafe fn read(start_info: u64) -> Option<BootParameters> {
    // SAFETY: the loader put the structure there.
    let info = unsafe { &*(start_info as *const StartInfo) };
    if info.magic != MAGIC || info.version == 0 {
        return None;
    }
    let command_line = if info.command_line == 0 {
        ""
    } else {
        // SAFETY: the command line is a zero-terminated string of the loader.
        unsafe { core::ffi::CStr::from_ptr(info.command_line as *const _) }.to_str().unwrap_or("")
    };
    // SAFETY: address and count are the loader's.
    let entries = unsafe {
        core::slice::from_raw_parts(info.memory_map as *const MemoryMapEntry, info.memory_map_entries as usize)
    };
    let memory_end = entries
        .iter()
        .filter(|entry| entry.kind == TYPE_RAM)
        .map(|entry| (entry.address, entry.address.saturating_add(entry.bytes)))
        .find(|(start, end)| (*start..*end).contains(&super::GUEST_PHYSICAL_BASE))
        .map_or(0, |(_, end)| end);
    Some(BootParameters { command_line, memory_end })
}
