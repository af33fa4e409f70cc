//! The ABI between a Pollux guest and the shim beneath it, from one table.
//!
//! A guest is a static ELF that runs in ring 3 on one virtual CPU without interrupts and without devices. It
//! meets its shim in three places only, and all three are declared in this crate:
//!
//! 1. **Hypercalls** ([`table`]): numbers, guest stubs and the shim's dispatch come from one macro table, so the
//!    two sides cannot drift apart.
//! 2. **Shared structures** ([`layout`]): versioned, sized, fixed-width little-endian.
//! 3. **Rings** ([`ring`]): frames cross in two record rings in guest memory, requests to [`disk`]s in a third; their record format
//!    ([`record`]) is also the format of events inside an epoch record and of frames on the wire to the hub.
//!
//! Goals: one page to read, no hidden nondeterminism, nothing that the shim has to trust. Non-goals: several
//! virtual CPUs, interrupts at moments of their own, device passthrough.
//!
//! Determinism is part of the ABI: every hypercall is a function of guest memory, guest registers and the shim's
//! guest-visible state. After a hypercall the general registers are as before, except `rax` (result), `rcx` and
//! `r11` (clobbered by the instruction itself); the vector registers `xmm0` to `xmm15` are zero.
//!
//! One thing may happen to a guest between two of its instructions, and only if it has asked for it: the upcall at the
//! start of an epoch ([`layout::Preemption`]). Whether there is one follows from guest memory and the epoch's record.
#![no_std]

pub mod disk;
pub mod errno;
pub mod layout;
pub mod record;
pub mod ring;
pub mod table;

/// Version of everything in this crate. A guest passes it to [`table::Number::Hello`]; a shim refuses any other.
pub const ABI_VERSION: u32 = 6;

/// A fingerprint of numbers, sizes and constants, computed at compile time. Two builds with one
/// [`ABI_VERSION`] that still differ in a size or a number are told apart by it.
pub const ABI_FINGERPRINT: u64 = {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    hash = mix(hash, ABI_VERSION as u64);
    hash = mix(hash, table::TABLE_FINGERPRINT);
    hash = mix(hash, size_of::<layout::BootInfo>() as u64);
    hash = mix(hash, size_of::<layout::SharedPage>() as u64);
    hash = mix(hash, size_of::<layout::Preemption>() as u64);
    hash = mix(hash, size_of::<layout::TickNote>() as u64);
    hash = mix(hash, size_of::<ring::RingHeader>() as u64);
    hash = mix(hash, size_of::<disk::DiskInfo>() as u64);
    hash = mix(hash, disk::FLAG_BLANK as u64);
    hash = mix(hash, size_of::<disk::Request>() as u64);
    hash = mix(hash, size_of::<disk::Completion>() as u64);
    hash = mix(hash, record::HEADER_BYTES as u64);
    mix(hash, layout::GUEST_BASE)
};

/// One FNV-1a step over a 64-bit word, usable in constants.
pub(crate) const fn mix(hash: u64, word: u64) -> u64 {
    let mut hash = hash;
    let mut index = 0;
    while index < 8 {
        hash = (hash ^ ((word >> (8 * index)) & 0xff)).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    hash
}
