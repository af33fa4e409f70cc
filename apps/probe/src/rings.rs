//! Damage to the rings that guest and shim share.

use alloc::format;
use alloc::string::String;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use hypercall::layout::BootInfo;
use hypercall::ring::{DATA_OFFSET, RingHeader};

static BOOT: AtomicU64 = AtomicU64::new(0);

/// Remembers where the boot information lies.
pub fn remember(boot: u64) {
    BOOT.store(boot, Relaxed);
}

/// Damages a ring and ends the epoch at once: the runtime, which keeps its own position, would publish it and so mend
/// the ring before the shim could see it.
pub fn damage(what: &str) -> String {
    let boot = BOOT.load(Relaxed) as *const BootInfo;
    if boot.is_null() {
        return "there is no boot information on a host".into();
    }
    // SAFETY: the shim keeps the structure mapped for as long as the guest runs.
    let (receive, transmit) = unsafe { ((*boot).receive_ring, (*boot).transmit_ring) };
    let head = offset_of!(RingHeader, head) as u64;
    let tail = offset_of!(RingHeader, tail) as u64;
    match what {
        "transmit-head" => word(transmit + head).store(0xdead_bee0, Relaxed),
        "transmit-record" => {
            // A record that claims more than was published, in front of whatever this epoch sends.
            let position = word(transmit + head).load(Relaxed);
            let offset = u64::from(position % hypercall::layout::RING_BYTES);
            word(transmit + DATA_OFFSET as u64 + offset).store(u32::MAX, Relaxed);
            word(transmit + head).store(position.wrapping_add(64), Relaxed);
        }
        "receive-tail" => word(receive + tail).store(0x7fff_fff8, Relaxed),
        _ => return format!("unknown ring {what:?}"),
    }
    // SAFETY: no pointer is passed.
    unsafe { hypercall::table::guest::wait(0) };
    format!("nobody minded the damage to {what}")
}

fn word(address: u64) -> &'static AtomicU32 {
    // SAFETY: the address lies in one of the two rings, which are mapped for good and aligned.
    unsafe { &*(address as *const AtomicU32) }
}
