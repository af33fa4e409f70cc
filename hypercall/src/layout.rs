//! Addresses, sizes and shared structures.

use crate::ABI_VERSION;

/// Guest memory is one contiguous range of virtual addresses that starts here; guest ELFs are linked to it.
pub const GUEST_BASE: u64 = 0x4000_0000;
/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Stack of the guest, between two unmapped guard pages.
pub const STACK_BYTES: u64 = 256 * 1024;
/// Data area of each of the two rings; a power of two.
pub const RING_BYTES: u32 = 256 * 1024;
/// Data area of the disk ring; a power of two. Requests are short, their data stays where it is.
pub const DISK_RING_BYTES: u32 = 16 * 1024;
/// Console bytes that one epoch may write.
pub const CONSOLE_EPOCH_BYTES: usize = 16 * 1024;
/// Longest report of a guest's panic.
pub const MAX_REPORT_BYTES: usize = 8 * 1024;
/// Most random bytes for one hypercall.
pub const MAX_ENTROPY_BYTES: u64 = 4096;
/// Most pages that can be guards at a time ([`crate::table::Number::Guard`]).
pub const MAX_GUARDS: usize = 2048;
/// Longest text of a guard.
pub const MAX_GUARD_TEXT_BYTES: usize = 256;
/// Longest argument text.
pub const MAX_ARGUMENT_BYTES: usize = 2048;
/// Longest Ethernet frame that crosses the rings, header included, checksum excluded.
pub const MAX_FRAME_BYTES: usize = 9018;

/// The network interface is configured by DHCP; the address fields are zero.
pub const NET_DHCP: u32 = 1;
/// Checksums of IP, TCP and UDP are neither filled in nor checked by the guest: the wire is memory.
pub const NET_CHECKSUM_OFFLOAD: u32 = 2;

/// Where the shim places what follows the image: offsets in guest memory, multiples of the page size. A guard page lies
/// below and above the stack; free memory reaches from `heap` to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regions {
    /// [`BootInfo`] and the argument text.
    pub boot: u64,
    /// The [`SharedPage`].
    pub shared_page: u64,
    /// The ring by which frames, console input and completions of disk requests arrive.
    pub receive_ring: u64,
    /// The ring by which frames leave.
    pub transmit_ring: u64,
    /// The ring by which requests to disks leave.
    pub disk_ring: u64,
    /// The lowest page of the stack.
    pub stack: u64,
    /// Free memory.
    pub heap: u64,
}

impl Regions {
    /// Bytes of a ring, in whole pages.
    pub const RING_BYTES: u64 = Self::ring_bytes(RING_BYTES);
    /// Bytes of the disk ring, in whole pages.
    pub const DISK_RING_BYTES: u64 = Self::ring_bytes(DISK_RING_BYTES);

    const fn ring_bytes(data_bytes: u32) -> u64 {
        (crate::ring::DATA_OFFSET as u64 + data_bytes as u64).next_multiple_of(PAGE_BYTES)
    }

    /// The plan for an image that ends at this offset, a multiple of the page size.
    pub const fn behind(image_end: u64) -> Self {
        let shared_page = image_end + PAGE_BYTES;
        let receive_ring = shared_page + PAGE_BYTES;
        let transmit_ring = receive_ring + Self::RING_BYTES;
        let disk_ring = transmit_ring + Self::RING_BYTES;
        let stack = disk_ring + Self::DISK_RING_BYTES + PAGE_BYTES;
        let heap = stack + STACK_BYTES + PAGE_BYTES;
        Self { boot: image_end, shared_page, receive_ring, transmit_ring, disk_ring, stack, heap }
    }

    /// What lies at an offset, for people.
    pub const fn name(&self, offset: u64) -> &'static str {
        if offset < self.boot {
            "image"
        } else if offset < self.shared_page {
            "boot information"
        } else if offset < self.receive_ring {
            "shared page"
        } else if offset < self.transmit_ring {
            "receive ring"
        } else if offset < self.disk_ring {
            "transmit ring"
        } else if offset < self.stack - PAGE_BYTES {
            "disk ring"
        } else if offset >= self.stack && offset < self.heap - PAGE_BYTES {
            "stack"
        } else if offset >= self.heap {
            "heap"
        } else {
            "guard page"
        }
    }
}

/// What a guest writes to its console in place of the name of code, which it does not have: `<code at 0x40012345>`, with the
/// address of a byte of an instruction. Whoever shows the console to a person finds names for it.
pub const CODE_NAME: [&str; 2] = ["<code at 0x", ">"];

/// The guest's network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct NetConfig {
    /// Ethernet address; the last two bytes are padding.
    pub mac: [u8; 8],
    /// `NET_` bits.
    pub flags: u32,
    /// IPv4 address, most significant byte first in the integer (`10.0.2.15` is `0x0a00_020f`).
    pub address: u32,
    /// Prefix length in bits.
    pub prefix_bits: u32,
    /// Default gateway, or 0.
    pub gateway: u32,
    /// Longest IP packet.
    pub mtu_bytes: u32,
    /// Zero.
    pub reserved: u32,
}

/// What the guest is told at its entry point, in `rdi`: an address of this, read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct BootInfo {
    /// [`ABI_VERSION`] of the shim.
    pub version: u32,
    /// Bytes of this structure.
    pub struct_bytes: u32,
    /// First address of guest memory.
    pub memory_base: u64,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// First address behind the image's last segment, and the end of code for backtraces.
    pub image_end: u64,
    /// Lowest address of the stack (a guard page lies below).
    pub stack_base: u64,
    /// Bytes of the stack.
    pub stack_bytes: u64,
    /// First address of free memory.
    pub heap_base: u64,
    /// Bytes of free memory, zeroed.
    pub heap_bytes: u64,
    /// Address of the [`SharedPage`], read-only.
    pub shared_page: u64,
    /// Address of the ring by which frames, console input and completions arrive: a [`crate::ring::RingHeader`], then data.
    pub receive_ring: u64,
    /// Address of the ring by which frames leave.
    pub transmit_ring: u64,
    /// Address of the ring by which requests to disks leave; its data area has [`DISK_RING_BYTES`].
    pub disk_ring: u64,
    /// Address of the table of disks: [`crate::disk::DiskInfo`]s, sorted by name, read-only.
    pub disks: u64,
    /// How many disks there are, at most [`crate::disk::MAX_DISKS`].
    pub disk_count: u64,
    /// Address of the argument text (UTF-8, read-only).
    pub arguments: u64,
    /// Bytes of the argument text.
    pub arguments_bytes: u64,
    /// The network interface.
    pub net: NetConfig,
}

/// Written by the shim between epochs, constant during one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct SharedPage {
    /// [`ABI_VERSION`] of the shim.
    pub version: u32,
    /// Bytes of this structure.
    pub struct_bytes: u32,
    /// The running epoch.
    pub epoch: u64,
    /// Monotonic clock at the start of the epoch, in nanoseconds since the guest started; survives failovers.
    pub monotonic_ns: u64,
    /// Nanoseconds since 1970-01-01T00:00:00Z at the start of the epoch.
    pub realtime_ns: u64,
}

impl SharedPage {
    /// A page for the time before the first epoch.
    pub const fn new() -> Self {
        Self { version: ABI_VERSION, struct_bytes: size_of::<Self>() as u32, epoch: 0, monotonic_ns: 0, realtime_ns: 0 }
    }
}

impl Default for SharedPage {
    fn default() -> Self {
        Self::new()
    }
}

/// [`Preemption::state`]: nothing that may be interrupted runs.
pub const PREEMPTION_OFF: u64 = 0;
/// [`Preemption::state`]: what runs may be interrupted.
pub const PREEMPTION_ARMED: u64 = 1;
/// [`Preemption::state`]: what runs may be interrupted later, but not now.
pub const PREEMPTION_MASKED: u64 = 2;
/// [`Preemption::state`]: as [`PREEMPTION_MASKED`], and there would have been an upcall since.
pub const PREEMPTION_DUE: u64 = 3;

/// What guest and shim agree on about upcalls, in the guest's own memory; see [`crate::table::Number::Preempt`].
///
/// An upcall is *due* when an epoch begins whose predecessor was cut (the machine has ended it after its number of
/// instructions, or the guest's counter of ticks has run out, see [`TickNote`]; not the guest by `wait`), and its record holds an event or its monotonic clock has reached
/// [`wake_ns`](Self::wake_ns). What the shim then does depends on [`state`](Self::state):
///
/// * [`PREEMPTION_ARMED`]: the upcall. Instruction pointer, stack pointer and flags go to the `saved_` fields, the state
///   becomes [`PREEMPTION_OFF`], and the guest goes on at the registered handler with [`stack`](Self::stack) as its stack
///   pointer, and flags as at its start. All other registers, vector registers included, are left as they are: to keep
///   them is the handler's business, and so is going on later. On x86-64 ring 3 can load all its registers by itself.
/// * [`PREEMPTION_MASKED`]: the state becomes [`PREEMPTION_DUE`].
/// * Anything else: nothing.
///
/// All of that is a function of guest memory and of the epoch's record, so both replicas do it at the same instruction.
/// Where epochs are not cut (cooperative epochs, bare mode) nothing of it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Preemption {
    /// One of the `PREEMPTION_` constants; written by both sides.
    pub state: u64,
    /// The handler's stack pointer.
    pub stack: u64,
    /// Monotonic clock, in nanoseconds, from which an upcall is due although no event has come: 0 for at every cut,
    /// `u64::MAX` for never.
    pub wake_ns: u64,
    /// Where the guest was interrupted; written by the shim.
    pub saved_instruction: u64,
    /// Its stack pointer there; written by the shim.
    pub saved_stack: u64,
    /// Its flags there; written by the shim.
    pub saved_flags: u64,
}

/// The note that every guest ELF carries (section `.note.pollux`, owner "Pollux", type 1): the ABI it was built
/// for. The build command refuses a guest without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct GuestNote {
    /// Bytes of the owner's name with its terminating zero.
    pub name_bytes: u32,
    /// Bytes of the description.
    pub description_bytes: u32,
    /// 1.
    pub kind: u32,
    /// `"Pollux\0\0"`.
    pub name: [u8; 8],
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// Low half of [`crate::ABI_FINGERPRINT`].
    pub fingerprint_low: u32,
    /// High half.
    pub fingerprint_high: u32,
}

impl GuestNote {
    /// The note of a guest built with this crate.
    pub const CURRENT: Self = Self {
        name_bytes: 7,
        description_bytes: 12,
        kind: 1,
        name: *b"Pollux\0\0",
        abi_version: ABI_VERSION,
        fingerprint_low: crate::ABI_FINGERPRINT as u32,
        fingerprint_high: (crate::ABI_FINGERPRINT >> 32) as u32,
    };
}

/// The note of a guest that counts its own ticks, beside [`GuestNote`] in the same section (type 2). Whatever makes the
/// guest count adds it, so a guest that does not count does not carry it.
///
/// Such a guest decrements the counter, a signed 64-bit word of its own writable memory, by one at least once on the way
/// round every loop and every recursion of the code that counts, and calls [`crate::table::Number::Cut`] where it has
/// become negative. At the start of each epoch the shim sets the counter to one less than the ticks that the epoch may
/// last, or to `i64::MAX` where epochs are not to be cut. It trusts nothing of it: a guest that writes to its counter has
/// shorter or longer epochs, and both replicas have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct TickNote {
    /// Bytes of the owner's name with its terminating zero: 7.
    pub name_bytes: u32,
    /// Bytes of the description: 8.
    pub description_bytes: u32,
    /// [`TickNote::KIND`].
    pub kind: u32,
    /// `"Pollux\0\0"`.
    pub name: [u8; 8],
    /// Address of the counter, low half; the counter is aligned to 8.
    pub counter_low: u32,
    /// High half.
    pub counter_high: u32,
}

impl TickNote {
    /// The note's type.
    pub const KIND: u32 = 2;
    /// The owner of all notes of a guest, without its terminating zero.
    pub const OWNER: &'static [u8] = b"Pollux";
    /// Bytes of the description.
    pub const DESCRIPTION_BYTES: usize = 8;
    /// The value of the counter of a guest whose epochs are not cut. No guest lives to count so far.
    pub const NEVER: i64 = i64::MAX;

    /// The counter's value at the start of an epoch that may last `ticks` ticks: the last of them makes it negative.
    pub const fn start(ticks: u64) -> i64 {
        if ticks > Self::NEVER as u64 { Self::NEVER } else { ticks as i64 - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tick_makes_the_counter_negative() {
        for ticks in [1, 2, 1000] {
            let mut counter = TickNote::start(ticks);
            for _ in 1..ticks {
                counter -= 1;
                assert!(counter >= 0);
            }
            assert_eq!(counter - 1, -1);
        }
        assert_eq!(TickNote::start(u64::MAX), TickNote::NEVER);
    }

    #[test]
    fn every_offset_has_its_region() {
        let regions = Regions::behind(0x3000);
        let Regions { boot, shared_page, receive_ring, transmit_ring, disk_ring, stack, heap } = regions;
        let cases = [
            (0, "image"),
            (boot - 1, "image"),
            (boot, "boot information"),
            (shared_page, "shared page"),
            (receive_ring, "receive ring"),
            (transmit_ring - 1, "receive ring"),
            (transmit_ring, "transmit ring"),
            (disk_ring - 1, "transmit ring"),
            (disk_ring, "disk ring"),
            (stack - PAGE_BYTES - 1, "disk ring"),
            (stack - PAGE_BYTES, "guard page"),
            (stack, "stack"),
            (stack + STACK_BYTES - 1, "stack"),
            (stack + STACK_BYTES, "guard page"),
            (heap, "heap"),
            (u64::MAX, "heap"),
        ];
        for (offset, name) in cases {
            assert_eq!(regions.name(offset), name, "{offset:#x}");
        }
        let all = [shared_page, receive_ring, transmit_ring, disk_ring, stack, heap];
        assert!(all.iter().all(|at| at.is_multiple_of(PAGE_BYTES)));
    }
}
