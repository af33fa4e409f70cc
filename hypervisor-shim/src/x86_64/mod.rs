//! x86-64 on QEMU: PVH boot on microvm, pc and q35; virtio over MMIO or PCI.
//!
//! Physical memory: the shim from 1 MiB, its heap up to 8 MiB, the packed guest from 8 MiB, guest memory from 16 MiB.

// Statics that hardware or assembly also touch are reached by raw pointers, not by references to the statics.
#![allow(clippy::deref_addrof)]

pub mod apic;
pub mod block;
pub mod clock;
pub mod context;
pub mod count;
pub mod discover;
pub mod paging;
pub mod port;
pub mod pvh;
pub mod registers;
pub mod traps;
pub mod virtio;
mod x87;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::{asm, global_asm};
use core::fmt::Write as _;

use hypercall::layout::{GUEST_BASE, PAGE_BYTES};
use sha2::{Digest as _, Sha256};

use self::block::Block;
use self::clock::Clock;
use self::context::{Context, Left, VirtualCpu};
use self::count::{CountError, Counter};
use self::paging::{AddressSpace, DIRECT_BASE};
pub use self::port::DebugConsole;
use self::virtio::{Buffers, QueuePair};
use crate::guest::{GuestMemory, Image, Start};
use crate::heap::ShimHeap;
use crate::machine::{Disk as _, Exit, Machine, MachineCounters, Port, RegistersError};
use crate::vmm;

global_asm!(include_str!("boot.s"), main = sym shim_main);

/// Where the packed guest lies (the build command puts it there).
pub const PAYLOAD_PHYSICAL_BASE: u64 = 0x80_0000;
/// Where guest memory starts; it reaches to the end of memory.
pub const GUEST_PHYSICAL_BASE: u64 = 0x100_0000;
/// Guest memory must fit between its virtual base and the devices at 3 GiB.
const GUEST_MAX_BYTES: u64 = 0x8000_0000;

const VIRTIO_NET_HEADER_BYTES: usize = 12;

/// The shim's heap. [`shim_main`] gives it memory before anything is allocated.
#[global_allocator]
static HEAP: ShimHeap = ShimHeap::empty();

/// Guest memory of this machine, for reading the guest's code: physical base is fixed.
static GUEST_BYTES: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// The first Rust code of the machine.
extern "C" fn shim_main(start_info: u64) -> ! {
    // SAFETY: the loader's structures are where it says, and the first 4 GiB are identity mapped.
    let Some(parameters) = (unsafe { pvh::read(start_info) }) else {
        let _ = writeln!(DebugConsole, "shim: the loader did not pass PVH start information; boot with -kernel");
        stop_machine()
    };
    // SAFETY: this is the first and only call, early, in ring 0, on memory that nobody uses.
    match unsafe { start(parameters) } {
        Ok((machine, image)) => vmm::run(machine, image),
        Err(error) => {
            let _ = writeln!(DebugConsole, "shim: cannot start: {error}");
            stop_machine()
        }
    }
}

/// Why a machine does not start.
#[derive(Debug)]
pub enum StartError {
    /// Not enough memory, or too much.
    Memory {
        /// End of usable memory.
        end: u64,
    },
    /// The image holds no guest.
    Image(crate::guest::ImageError),
    /// A device is missing.
    Missing(discover::Missing),
    /// A device does not work.
    Device(virtio::DeviceError),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Memory { end } => write!(
                f,
                "memory ends at {end:#x}; at least 1 MiB and at most 2 GiB of guest memory from 16 MiB on are needed"
            ),
            Self::Image(error) => error.fmt(f),
            Self::Missing(missing) => missing.fmt(f),
            Self::Device(error) => error.fmt(f),
        }
    }
}

unsafe extern "C" {
    static __shim_end: u8;
}

/// Brings processor, memory and devices up.
///
/// # Safety
/// To be called once, by [`shim_main`].
unsafe fn start(parameters: pvh::BootParameters) -> Result<(X86Machine, Image<'static>), StartError> {
    let pvh::BootParameters { command_line, memory_end } = parameters;
    let guest_bytes = memory_end.saturating_sub(GUEST_PHYSICAL_BASE) & !(PAGE_BYTES - 1);
    if !(1 << 20..=GUEST_MAX_BYTES).contains(&guest_bytes) {
        return Err(StartError::Memory { end: memory_end });
    }
    let heap_start = &raw const __shim_end as u64;
    // SAFETY: memory between the shim's end and the payload is usable and used by nobody; first use of the heap.
    unsafe { HEAP.initialise(heap_start as *mut u8, (PAYLOAD_PHYSICAL_BASE - heap_start) as usize) };
    // SAFETY: called once, early.
    unsafe { traps::initialise() };
    let mut space = AddressSpace::new(memory_end, GUEST_PHYSICAL_BASE);
    // SAFETY: code, stack and heap lie where both sets of tables map them alike.
    unsafe { space.activate() };
    GUEST_BYTES.store(guest_bytes, core::sync::atomic::Ordering::Relaxed);
    // SAFETY: descriptor tables are loaded and the controllers' registers mapped.
    unsafe { apic::initialise() };
    let clock = Clock::calibrate();
    // SAFETY: the only call.
    let mut cpu = unsafe { VirtualCpu::new() };
    // Before there are devices that could interrupt it.
    // SAFETY: descriptor tables, page tables and controllers are set up, and the guest is not loaded.
    let counter = unsafe {
        Counter::calibrate(discover::icount_shift(command_line), &mut cpu, &mut space, &guest_memory(guest_bytes))
    };

    // SAFETY: the loader has put the payload's segment there; it ends below guest memory.
    let payload = unsafe {
        core::slice::from_raw_parts(
            (DIRECT_BASE + PAYLOAD_PHYSICAL_BASE) as *const u8,
            (GUEST_PHYSICAL_BASE - PAYLOAD_PHYSICAL_BASE) as usize,
        )
    };
    let image = Image::parse(payload).map_err(StartError::Image)?;

    let barriers = discover::icount_shift(command_line).is_none();
    let devices = discover::find(command_line).map_err(StartError::Missing)?;
    let console = Buffers { receive_count: 16, receive_bytes: 4096, transmit_count: 8 };
    let wide = Buffers { receive_count: 8, receive_bytes: crate::machine::BUFFER_BYTES, transmit_count: 24 };
    let control = open(devices.control, Buffers { transmit_count: 4, ..console }, barriers)?;
    let link = devices.link.map(|found| open(found, console, barriers)).transpose()?;
    let net = open(devices.net, wide, barriers)?;
    let mut disks = devices
        .disks
        .into_iter()
        .map(|found| {
            let vector = apic::route_pin(found.pin);
            Block::new(found, vector, barriers, || clock.now_ns()).map_err(StartError::Device)
        })
        .collect::<Result<Vec<_>, _>>()?;
    // Not in the order of their slots: both replicas' disks have the same numbers by their names.
    disks.sort_by(|one, other| one.name().cmp(other.name()));
    let machine = X86Machine {
        cpu,
        clock,
        space,
        guest_bytes,
        control,
        link,
        net,
        disks,
        counters: MachineCounters::default(),
        counter,
        budget: u64::MAX,
    };
    Ok((machine, image))
}

/// Guest memory of this size.
///
/// # Safety
/// The direct map is active, and the guest does not run while the value is used.
unsafe fn guest_memory(bytes: u64) -> GuestMemory {
    // SAFETY: guest memory is mapped there for good and holds nothing of the shim's.
    unsafe { GuestMemory::new((DIRECT_BASE + GUEST_PHYSICAL_BASE) as *mut u8, bytes as usize) }
}

fn open<const HEADER: usize>(
    found: discover::Found,
    buffers: Buffers,
    barriers: bool,
) -> Result<QueuePair<HEADER>, StartError> {
    let vector = apic::route_pin(found.pin);
    QueuePair::new(found, vector, buffers, barriers).map_err(StartError::Device)
}

/// Ends the machine: QEMU runs with `-no-reboot`, so a processor that cannot go on ends the process.
pub fn stop_machine() -> ! {
    let nothing = x86_64::structures::DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
    loop {
        // SAFETY: there is nothing left to break.
        unsafe {
            x86_64::instructions::tables::lidt(&nothing);
            asm!("int3", options(nostack));
        }
    }
}

/// Up to three bytes of the guest's code at `address`, for looking at the instruction that trapped.
fn guest_code(address: u64) -> Option<[u8; 3]> {
    let offset = address.checked_sub(GUEST_BASE)?;
    let bytes = GUEST_BYTES.load(core::sync::atomic::Ordering::Relaxed);
    if offset.checked_add(3)? > bytes {
        return None;
    }
    // SAFETY: the range lies in guest memory, which is mapped, and the guest does not run now.
    Some(unsafe { core::ptr::read((DIRECT_BASE + GUEST_PHYSICAL_BASE + offset) as *const [u8; 3]) })
}

/// The machine.
#[derive(Debug)]
pub struct X86Machine {
    cpu: VirtualCpu,
    clock: Clock,
    space: AddressSpace,
    guest_bytes: u64,
    control: QueuePair<0>,
    link: Option<QueuePair<0>>,
    net: QueuePair<VIRTIO_NET_HEADER_BYTES>,
    disks: Vec<Block>,
    counters: MachineCounters,
    counter: Result<Counter, CountError>,
    /// Instructions that the guest may still retire, where they are counted.
    budget: u64,
}

impl Machine for X86Machine {
    type Registers = Context;
    type Control = QueuePair<0>;
    type Link = QueuePair<0>;
    type Net = QueuePair<VIRTIO_NET_HEADER_BYTES>;
    type Disk = Block;

    fn now_ns(&mut self) -> u64 {
        self.clock.now_ns()
    }

    fn follow_clock(&mut self, real_ns: u64) {
        if self.counter.is_ok() {
            self.clock.follow(real_ns);
        }
    }

    fn guest_memory(&mut self) -> GuestMemory {
        // SAFETY: guest memory is mapped, and the guest runs only inside `run_guest`, which needs the machine itself.
        unsafe { guest_memory(self.guest_bytes) }
    }

    fn start_guest(&mut self, start: &Start) {
        for mapping in &start.mappings {
            // SAFETY: the loader checked that every mapping lies in guest memory.
            unsafe { self.space.map_guest(mapping.offset, mapping.bytes, mapping.rights) };
        }
        // SAFETY: as in `start`; this also drops what the translation cache may hold of unmapped guest pages.
        unsafe { self.space.activate() };
        self.cpu.reset(start.entry, start.stack_top, start.boot_info);
    }

    fn reclaim(&mut self, _image: Image<'static>) {
        // SAFETY: the heap ends where the payload begins, the payload's room ends where guest memory begins, and the
        // only reference to it was given up with the image.
        unsafe { HEAP.extend((GUEST_PHYSICAL_BASE - PAYLOAD_PHYSICAL_BASE) as usize) };
    }

    fn can_count(&self) -> Result<(), String> {
        self.counter.map(|_| ()).map_err(|error| format!("{error}"))
    }

    fn set_budget(&mut self, instructions: u64) {
        self.budget = instructions;
        self.cpu.context().retired = 0;
    }

    fn run_guest(&mut self) -> Exit {
        let left = match &self.counter {
            Ok(counter) if self.budget != u64::MAX => {
                if self.budget == 0 {
                    return Exit::Cut;
                }
                // SAFETY: as below.
                let slice = unsafe { counter.run(&mut self.cpu, self.budget) };
                let Some(retired) = slice.retired else { return Exit::Miscounted };
                self.budget -= retired;
                self.cpu.context().retired += retired;
                slice.left
            }
            // SAFETY: `start` and `start_guest` have set everything up; `vmm` calls this only after the latter.
            _ => unsafe { self.cpu.run() },
        };
        if left == Left::Hypercall {
            return Exit::Hypercall;
        }
        let exit = traps::classify(self.cpu.context());
        self.counters.interrupts += u64::from(exit == Exit::Interrupt);
        if exit == Exit::Interrupt && self.budget == 0 { Exit::Cut } else { exit }
    }

    fn touched_pages(&mut self, each: impl FnMut(u64)) {
        // SAFETY: as in `start_guest`; the guest does not run now.
        unsafe { self.space.take_dirty(self.guest_bytes, each) }
    }

    fn registers(&mut self) -> &mut Context {
        self.cpu.context()
    }

    fn set_thread_pointer(&mut self, address: u64) -> bool {
        self.cpu.set_thread_pointer(address);
        true
    }

    fn set_guard(&mut self, offset: u64, guarded: bool) -> bool {
        // SAFETY: the shim runs, with its own stack and heap, none of which lies in guest memory.
        unsafe { self.space.guard_guest(offset, guarded) };
        true
    }

    fn set_time_stamp(&mut self, value: u64) {
        let context = self.cpu.context();
        if let Some(length) = traps::reads_time_stamp(context.rip) {
            context.general[context::register::RAX] = value & 0xffff_ffff;
            context.general[context::register::RDX] = value >> 32;
            if length == 3 {
                context.general[context::register::RCX] = 0;
            }
            context.rip += length;
        }
    }

    fn arm_timer(&mut self, at_ns: u64) {
        let wait_ns = at_ns.saturating_sub(self.clock.now_ns());
        apic::arm_timer(u32::try_from(wait_ns).unwrap_or(u32::MAX));
    }

    fn halt(&mut self) {
        let start_ns = self.clock.now_ns();
        traps::halt();
        self.counters.halts += 1;
        self.counters.interrupts += 1;
        self.counters.halted_ns += self.clock.now_ns() - start_ns;
    }

    fn control(&mut self) -> &mut QueuePair<0> {
        &mut self.control
    }

    fn link(&mut self) -> Option<&mut QueuePair<0>> {
        self.link.as_mut()
    }

    fn net(&mut self) -> &mut QueuePair<VIRTIO_NET_HEADER_BYTES> {
        &mut self.net
    }

    fn disks(&mut self) -> &mut [Block] {
        &mut self.disks
    }

    fn acknowledge_interrupts(&mut self) -> bool {
        let pending = traps::take_pending();
        let raised = |vector: u8| pending[usize::from(vector / 64)] & (1 << (vector % 64)) != 0;
        if raised(self.control.vector()) {
            self.control.acknowledge();
        }
        if let Some(link) = &mut self.link
            && raised(link.vector())
        {
            link.acknowledge();
        }
        if raised(self.net.vector()) {
            self.net.acknowledge();
        }
        for disk in &mut self.disks {
            if raised(disk.vector()) {
                disk.acknowledge();
            }
        }
        raised(apic::VECTOR_TIMER)
    }

    const ARCHITECTURE: u32 = checkpoint::state::X86_64;

    fn save_registers(&mut self, out: &mut Vec<u8>) {
        self.cpu.save(out);
    }

    fn load_registers(&mut self, registers: &[u8]) -> Result<(), RegistersError> {
        let memory = self.guest_memory();
        self.cpu.load(registers, |address| memory.offset_of(address, 1).is_some())
    }

    fn cpu_identity(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for leaf in [0, 1, 7, 0xd, 0x8000_0001, 0x8000_0007, 0x8000_0008] {
            let mut result = core::arch::x86_64::__cpuid_count(leaf, 0);
            if leaf == 1 {
                // The initial APIC identity says nothing about features.
                result.ebx &= 0x00ff_ffff;
            }
            for word in [leaf, result.eax, result.ebx, result.ecx, result.edx] {
                hash.update(word.to_le_bytes());
            }
        }
        hash.finalize().into()
    }

    fn counters(&self) -> MachineCounters {
        self.counters
    }

    fn debug(&mut self, text: core::fmt::Arguments<'_>) {
        let _ = DebugConsole.write_fmt(text);
    }

    fn power_off(&mut self) -> ! {
        stop_machine()
    }
}
