//! The memory that shim and guest share, on a host: one set a thread, set up anew for every run.

use std::boxed::Box;
use std::cell::UnsafeCell;
use std::vec;

use hypercall::ABI_VERSION;
use hypercall::disk::{DiskInfo, MAX_DISKS, MAX_NAME_BYTES};
use hypercall::layout::{BootInfo, DISK_RING_BYTES, GUEST_BASE, MAX_ARGUMENT_BYTES, RING_BYTES, SharedPage};
use hypercall::ring::{self, DATA_OFFSET};

use super::Setup;

/// Words, because rings are 8-aligned.
type Ring = Box<[UnsafeCell<u64>]>;

fn new_ring(data_bytes: u32) -> Ring {
    let words = (DATA_OFFSET + data_bytes as usize) / 8;
    vec![0u64; words].into_iter().map(UnsafeCell::new).collect()
}

pub(super) struct Memory {
    shared: UnsafeCell<SharedPage>,
    boot: UnsafeCell<BootInfo>,
    arguments: UnsafeCell<[u8; MAX_ARGUMENT_BYTES]>,
    receive: Ring,
    transmit: Ring,
    requests: Ring,
    disks: UnsafeCell<[DiskInfo; MAX_DISKS]>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            shared: UnsafeCell::new(SharedPage::new()),
            // SAFETY: the structure consists of integers, for which zero is a value.
            boot: UnsafeCell::new(unsafe { std::mem::zeroed() }),
            arguments: UnsafeCell::new([0; MAX_ARGUMENT_BYTES]),
            receive: new_ring(RING_BYTES),
            transmit: new_ring(RING_BYTES),
            requests: new_ring(DISK_RING_BYTES),
            disks: UnsafeCell::new([DiskInfo { name: [0; MAX_NAME_BYTES], flags: 0, blocks: 0 }; MAX_DISKS]),
        }
    }

    pub(super) fn receive_ring(&self) -> *mut u8 {
        self.receive.as_ptr().cast_mut().cast()
    }

    pub(super) fn transmit_ring(&self) -> *mut u8 {
        self.transmit.as_ptr().cast_mut().cast()
    }

    pub(super) fn disk_ring(&self) -> *mut u8 {
        self.requests.as_ptr().cast_mut().cast()
    }

    /// Writes the clock of the next epoch.
    pub(super) fn set_clock(&self, epoch: u64, monotonic_ns: u64, realtime_ns: u64) {
        // SAFETY: the guest is not running, so nobody holds a borrow of the page: it reads it by volatile loads.
        unsafe { self.shared.get().write(SharedPage { epoch, monotonic_ns, realtime_ns, ..SharedPage::new() }) };
    }

    /// Puts everything into the state of a fresh boot. The caller has made sure that no machine runs on this thread.
    pub(super) fn initialise(&'static self, setup: &Setup) -> &'static BootInfo {
        assert!(setup.arguments.len() <= MAX_ARGUMENT_BYTES, "the argument text is too long");
        assert!(setup.disks.len() <= MAX_DISKS, "a guest has at most {MAX_DISKS} disks");
        self.set_clock(0, 0, setup.realtime_ns);
        let boot = BootInfo {
            version: ABI_VERSION,
            struct_bytes: size_of::<BootInfo>() as u32,
            memory_base: GUEST_BASE,
            memory_bytes: setup.heap_bytes + (4 << 20),
            image_end: GUEST_BASE,
            stack_base: 0,
            stack_bytes: 0,
            heap_base: 0,
            heap_bytes: setup.heap_bytes,
            shared_page: self.shared.get() as u64,
            receive_ring: self.receive_ring() as u64,
            transmit_ring: self.transmit_ring() as u64,
            disk_ring: self.disk_ring() as u64,
            disks: self.disks.get() as u64,
            disk_count: setup.disks.len() as u64,
            arguments: self.arguments.get() as u64,
            arguments_bytes: setup.arguments.len() as u64,
            net: setup.net,
        };
        // SAFETY: the rings have the stated sizes; no machine runs, so nobody accesses any of this; references that
        // an earlier run took are of that run's program, which has ended.
        unsafe {
            ring::initialise(self.receive_ring(), RING_BYTES);
            ring::initialise(self.transmit_ring(), RING_BYTES);
            ring::initialise(self.disk_ring(), DISK_RING_BYTES);
            for (place, disk) in (&mut *self.disks.get()).iter_mut().zip(&setup.disks) {
                *place = disk.info();
            }
            (&mut *self.arguments.get())[..setup.arguments.len()].copy_from_slice(setup.arguments.as_bytes());
            self.boot.get().write(boot);
            &*self.boot.get()
        }
    }
}
