//! PA-RISC 1.1 on QEMU (HP 9000 B160L): this code is translated to C and compiled by a cross compiler, because rustc knows
//! no such machine. What it cannot say is in `native/`.
//!
//! Physical memory, in MiB: the native image from 1 on, memory for devices from 8, the shim's linear memory from 16 to 48
//! (the packed guest at its address [`PAYLOAD_BASE`]), guest memory from 49 to the end.
//!
//! Linear memory lies in reverse: address A, n bytes wide, is at [`LINEAR_END`]` - A - n`. A guest's linear address A is at
//! the virtual address `0 - A - n`, for which the end of its memory is given: the first page of guest memory is the last one
//! of the physical range. So guest memory appears to the shim as one range of its own linear addresses, in order.

pub mod block;
mod clock;
pub mod context;
pub mod count;
pub mod native;
pub mod pci;
pub mod virtio;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::fmt::Write as _;

use hypercall::layout::{GUEST_BASE, PAGE_BYTES, STACK_BYTES};
use sha2::{Digest as _, Sha256};

use self::block::Block;
use self::clock::{Clock, TICK_NS};
use self::context::{Context, trap};
use self::count::{CountError, CountedTimer, RecoveryCounter as _};
use self::virtio::{Buffers, DeviceError, DeviceMemory, QueuePair};
use crate::guest::{GuestMemory, Image, Rights, Start};
use crate::heap::ShimHeap;
use crate::machine::{Disk as _, Exit, Fault, Machine, MachineCounters, RegistersError};
use crate::vmm;

/// Where the shim's linear memory ends in physical memory.
pub const LINEAR_END: u32 = 0x0300_0000;
/// Where the packed guest lies in linear memory (the build command puts it there), and where its room ends.
pub const PAYLOAD_BASE: usize = 0x80_0000;
const PAYLOAD_END: usize = 0x100_0000;
/// End of the shim's linear memory.
const LINEAR_BYTES: usize = 0x200_0000;
/// Memory for devices, in physical memory.
const DEVICES: (u32, u32) = (0x80_0000, 0x100_0000);
/// Where guest memory starts in physical memory.
const GUEST_PHYSICAL_BASE: u32 = 0x0310_0000;
/// Behind the last virtual address of guest memory, in which the guest's first bytes are.
const GUEST_VIRTUAL_END: u32 = 0u32.wrapping_sub(GUEST_BASE as u32);
/// The most guest memory: its addresses share one space register.
const GUEST_MAX_BYTES: u64 = 0x4000_0000;

const VIRTIO_NET_HEADER_BYTES: usize = 12;
/// An alarm that is nearer might have passed when it is set.
const LEAST_ALARM_TICKS: u64 = 500;
/// The farthest alarm: it comes too early, and is set again.
const MOST_ALARM_TICKS: u64 = 1 << 30;
/// The interval timer's bit among the interrupts.
const TIMER_INTERRUPT: u32 = 1 << 31;
const LONGEST_COMMAND_LINE: usize = 512;

/// Rights of a page (`idtlbp`): type, least privileged reader, least privileged writer. Bit 28, dirty, is set by
/// `first_write` in `start.S`.
mod rights {
    pub const READ: u32 = 3 << 22 | 3 << 20;
    pub const WRITE: u32 = 1 << 24 | READ;
    pub const EXECUTE: u32 = 2 << 24 | READ;
    pub const DIRTY: u32 = 1 << 28;
}

/// The shim's heap. [`shim_main`] gives it memory before anything is allocated.
#[global_allocator]
static HEAP: ShimHeap = ShimHeap::empty();

unsafe extern "C" {
    /// The end of the shim's data, from the linker.
    static __heap_base: u8;
}

/// The first serial port.
#[derive(Debug)]
pub struct DebugConsole;

impl fmt::Write for DebugConsole {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the text is readable.
        unsafe { native::console(text.as_ptr(), text.len()) };
        Ok(())
    }
}

/// Ends the machine.
pub fn stop_machine() -> ! {
    // SAFETY: there is nothing left to lose.
    unsafe { native::power_off() }
}

/// The native address of so many bytes at a guest's linear address.
pub(crate) fn native_address(linear: u64, bytes: u32) -> u32 {
    0u32.wrapping_sub(linear as u32).wrapping_sub(bytes)
}

/// The first Rust code of the machine.
#[unsafe(no_mangle)]
extern "C" fn shim_main() {
    // SAFETY: this is the first and only call, on memory that nobody uses.
    match unsafe { start() } {
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
    /// The command line does not say how much memory the guest has, or too little, or too much.
    Memory,
    /// The image holds no guest.
    Image(crate::guest::ImageError),
    /// A device is missing.
    Missing(pci::Missing),
    /// A device does not work.
    Device(DeviceError),
    /// The machine counts instructions and its timer cannot be set.
    Timer(CountError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("the command line must say memory=MIB, the guest's memory: 1 to 1024"),
            Self::Image(error) => error.fmt(f),
            Self::Missing(missing) => missing.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Timer(error) => error.fmt(f),
        }
    }
}

/// The number that the command line has behind `name`.
fn boot_parameter(name: &str) -> Option<u32> {
    let mut text = [0; LONGEST_COMMAND_LINE];
    // SAFETY: the buffer is writable.
    let length = unsafe { native::command_line(text.as_mut_ptr(), text.len()) };
    let words = str::from_utf8(text.get(..length)?).ok()?;
    words.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok())
}

fn guest_bytes() -> Option<u64> {
    let bytes = u64::from(boot_parameter("memory=")?) << 20;
    Some(bytes).filter(|bytes| (1 << 20..=GUEST_MAX_BYTES).contains(bytes))
}

/// The page of the guest's map, which is in the machine's order, that holds this offset of guest memory.
fn map_index(guest_bytes: u64, offset: u64) -> u32 {
    ((guest_bytes - PAGE_BYTES - offset) / PAGE_BYTES) as u32
}

/// Guest memory of this size.
///
/// # Safety
/// The guest does not run while the value is used.
unsafe fn guest_memory(bytes: u64) -> GuestMemory {
    let base = LINEAR_END.wrapping_sub(GUEST_PHYSICAL_BASE).wrapping_sub(bytes as u32);
    // SAFETY: guest memory appears there, page aligned, below the end of linear addresses.
    unsafe { GuestMemory::new(base as *mut u8, bytes as usize) }
}

/// Brings memory and devices up.
///
/// # Safety
/// To be called once, by [`shim_main`].
unsafe fn start() -> Result<(HppaMachine, Image<'static>), StartError> {
    let heap_start = &raw const __heap_base as usize;
    // SAFETY: linear memory between the shim's data and the payload is used by nobody; first use of the heap.
    unsafe { HEAP.initialise(heap_start as *mut u8, PAYLOAD_BASE - heap_start) };
    let guest_bytes = guest_bytes().ok_or(StartError::Memory)?;
    // SAFETY: the loader has put the payload there; it ends below its room's end.
    let payload = unsafe { core::slice::from_raw_parts(PAYLOAD_BASE as *const u8, PAYLOAD_END - PAYLOAD_BASE) };
    let image = Image::parse(payload).map_err(StartError::Image)?;
    // SAFETY: nothing is mapped yet.
    unsafe {
        let low = GUEST_VIRTUAL_END.wrapping_sub(guest_bytes as u32);
        native::map_guest(low, (guest_bytes / PAGE_BYTES) as u32, low.wrapping_sub(GUEST_PHYSICAL_BASE));
        native::set_interrupt_mask(u32::MAX);
    }
    // Before there are devices that could interrupt it.
    // SAFETY: memory is there, the guest is not loaded, and this is the only place that knows of the device.
    let counter = unsafe {
        count::prepare(boot_parameter("icount="))
            .and_then(|()| CountedTimer::calibrate(&guest_memory(guest_bytes), |offset| map_index(guest_bytes, offset)))
    };
    if let Err(error @ CountError::NoScriptMemory) = counter {
        return Err(StartError::Timer(error));
    }
    let devices = pci::find().map_err(StartError::Missing)?;
    // SAFETY: the range is set aside for it, and this is the only call.
    let mut memory = unsafe { DeviceMemory::new(DEVICES.0, DEVICES.1) };
    let console = Buffers { receive_count: 16, receive_bytes: 4096, transmit_count: 8 };
    let wide = Buffers { receive_count: 8, receive_bytes: crate::machine::BUFFER_BYTES as u32, transmit_count: 24 };
    let mut open = |registers, buffers| QueuePair::new(registers, &mut memory, buffers).map_err(StartError::Device);
    let control = open(devices.control, Buffers { transmit_count: 4, ..console })?;
    let link = devices.link.map(|registers| open(registers, console)).transpose()?;
    let net = QueuePair::new(devices.net, &mut memory, wide).map_err(StartError::Device)?;
    let mut clock = Clock::new();
    let mut disks = Vec::new();
    for registers in devices.disks {
        disks.push(Block::new(registers, &mut memory, || clock.now_ns()).map_err(StartError::Device)?);
    }
    // Not in the order of their slots: both replicas' disks have the same numbers by their names.
    disks.sort_by(|one, other| one.name().cmp(other.name()));
    let machine = HppaMachine {
        context: Context::new(),
        clock,
        guest_bytes,
        counter,
        budget: u64::MAX,
        control,
        link,
        net,
        disks,
        interrupts: 0,
        counters: MachineCounters::default(),
    };
    Ok((machine, image))
}

/// The machine.
#[derive(Debug)]
pub struct HppaMachine {
    context: Context,
    clock: Clock,
    guest_bytes: u64,
    counter: Result<CountedTimer, CountError>,
    /// Instructions that the guest may still retire, where they are counted.
    budget: u64,
    control: QueuePair<0>,
    link: Option<QueuePair<0>>,
    net: QueuePair<VIRTIO_NET_HEADER_BYTES>,
    disks: Vec<Block>,
    /// Interrupts taken since [`Machine::acknowledge_interrupts`].
    interrupts: u32,
    counters: MachineCounters,
}

impl HppaMachine {
    fn map_index(&self, offset: u64) -> u32 {
        map_index(self.guest_bytes, offset)
    }

    /// Runs the guest until a trap, on what is left of its budget; whether the machine still knows how much that is.
    fn enter(&mut self) -> bool {
        match &mut self.counter {
            Ok(counter) if self.budget != u64::MAX => {
                // SAFETY: as below.
                let Some(retired) = (unsafe { counter.run(&mut self.context, self.budget) }) else { return false };
                self.budget -= retired;
                self.context.retired += retired;
            }
            // SAFETY: the context holds what a guest may have (`reset`, `load`, or a guest's own run), and the map gives it
            // no access to anything but guest memory.
            _ => self.context.trap = unsafe { native::run_guest(&raw mut self.context) },
        }
        true
    }

    /// What a trap that is none of ours means.
    fn fault(&self) -> Fault {
        let data = Some(self.context.trap_address);
        let code = Some(self.context.instructions[0] & !3);
        let (name, address) = match self.context.trap {
            trap::CODE_MISS => ("instruction page fault", code),
            trap::CODE_PROTECTION => ("instruction protection fault", code),
            8 => ("illegal instruction", code),
            // A translated program ends so where WebAssembly traps; the number is the reason (native/guest.c).
            trap::BREAK => ("break instruction", None),
            10 => ("privileged operation", code),
            11 => ("privileged register", code),
            12 => ("overflow", None),
            13 => ("conditional trap", None),
            14 => ("floating-point exception", None),
            trap::DATA_MISS => ("page fault", data),
            trap::DATA_PROTECTION | trap::ACCESS_RIGHTS | trap::PROTECTION_ID => ("protection fault", data),
            trap::UNALIGNED => ("unaligned access", data),
            _ => ("unexpected trap", data),
        };
        // As the guest's own linear address, of the byte that lies there.
        let address = address.map(|native| u64::from(native_address(native.into(), 1)));
        let error = if self.context.trap == trap::BREAK { self.context.instruction } else { self.context.trap };
        Fault { name, error: error.into(), address }
    }
}

impl Machine for HppaMachine {
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
        // SAFETY: the guest runs only inside `run_guest`, which needs the machine itself.
        unsafe { guest_memory(self.guest_bytes) }
    }

    fn start_guest(&mut self, start: &Start) {
        for mapping in &start.mappings {
            let rights = if mapping.rights.contains(Rights::WRITE) {
                rights::WRITE
            } else if mapping.rights.contains(Rights::EXECUTE) {
                rights::EXECUTE
            } else {
                rights::READ
            };
            for offset in (mapping.offset..mapping.offset + mapping.bytes).step_by(PAGE_BYTES as usize) {
                // SAFETY: the loader checked that every mapping lies in guest memory.
                unsafe { native::set_rights(self.map_index(offset), rights) };
            }
        }
        // The stack grows upwards in the machine's memory, from where its linear addresses end.
        let stack = native_address((start.stack_top + 8) & !63, 0);
        self.context.reset(native_address(start.entry, 4), stack, start.boot_info as u32);
        debug_assert!(STACK_BYTES > 64);
    }

    fn reclaim(&mut self, _image: Image<'static>) {
        // SAFETY: the heap ends where the payload begins, linear memory ends there, and the only reference to the payload was
        // given up with the image.
        unsafe { HEAP.extend(LINEAR_BYTES - PAYLOAD_BASE) };
    }

    fn can_count(&self) -> Result<(), String> {
        self.counter.map(|_| ()).map_err(|error| format!("{error}"))
    }

    fn set_budget(&mut self, instructions: u64) {
        self.budget = instructions;
        self.context.retired = 0;
    }

    fn run_guest(&mut self) -> Exit {
        if self.budget == 0 {
            return Exit::Cut;
        }
        if !self.enter() {
            return Exit::Miscounted;
        }
        if self.context.is_hypercall() {
            self.context.step_over();
            return Exit::Hypercall;
        }
        if self.context.trap == trap::INTERRUPT {
            self.counters.interrupts += 1;
            // SAFETY: they are noted here.
            self.interrupts |= unsafe { native::take_interrupts() };
            return if self.budget == 0 { Exit::Cut } else { Exit::Interrupt };
        }
        Exit::Fault(self.fault())
    }

    fn touched_pages(&mut self, mut each: impl FnMut(u64)) {
        for offset in (0..self.guest_bytes).step_by(PAGE_BYTES as usize) {
            let index = self.map_index(offset);
            // SAFETY: the page is one of the guest's.
            unsafe {
                let rights = native::rights(index);
                if rights & rights::DIRTY != 0 {
                    native::set_rights(index, rights & !rights::DIRTY);
                    each(offset);
                }
            }
        }
    }

    fn registers(&mut self) -> &mut Context {
        &mut self.context
    }

    fn set_thread_pointer(&mut self, _address: u64) -> bool {
        // Programs with threads, which alone have a use for one, are not translated to this machine.
        false
    }

    fn set_guard(&mut self, _offset: u64, _guarded: bool) -> bool {
        // For the same reason.
        false
    }

    fn set_time_stamp(&mut self, _value: u64) {
        // There is no such trap: see ARCHITECTURE.md on how guests are kept from the timer.
    }

    fn arm_timer(&mut self, at_ns: u64) {
        let wait_ticks = at_ns.saturating_sub(self.clock.now_ns()) / TICK_NS;
        let wait_ticks = wait_ticks.clamp(LEAST_ALARM_TICKS, MOST_ALARM_TICKS) as u32;
        // SAFETY: an interrupt of the timer only wakes the shim.
        unsafe { native::set_alarm(native::ticks().wrapping_add(wait_ticks)) };
    }

    fn halt(&mut self) {
        let start_ns = self.clock.now_ns();
        // SAFETY: they are noted here.
        self.interrupts |= unsafe {
            native::sleep();
            native::take_interrupts()
        };
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
        use crate::machine::Port as _;
        // SAFETY: they are acted upon here.
        let interrupts = core::mem::take(&mut self.interrupts) | unsafe { native::take_interrupts() };
        // The bridge tells of a line only when it rises, and does not say which device pulls it.
        if interrupts & !TIMER_INTERRUPT != 0 {
            self.control.acknowledge();
            if let Some(link) = &mut self.link {
                link.acknowledge();
            }
            self.net.acknowledge();
            for disk in &mut self.disks {
                disk.acknowledge();
            }
        }
        interrupts & TIMER_INTERRUPT != 0
    }

    const ARCHITECTURE: u32 = checkpoint::state::PA_RISC;

    fn save_registers(&mut self, out: &mut Vec<u8>) {
        self.context.save(out);
    }

    fn load_registers(&mut self, registers: &[u8]) -> Result<(), RegistersError> {
        self.context.load(registers)
    }

    fn cpu_identity(&self) -> [u8; 32] {
        // A guest can find out nothing about the processor but what its instructions do.
        Sha256::digest(b"PA-RISC 1.1").into()
    }

    fn counters(&self) -> MachineCounters {
        self.counters
    }

    fn debug(&mut self, text: fmt::Arguments<'_>) {
        let _ = DebugConsole.write_fmt(text);
    }

    fn power_off(&mut self) -> ! {
        stop_machine()
    }
}
