//! What the shim needs of a machine. One small trait set; everything above it is the same on every platform.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use hypercall::disk::Operation;
use protocol::digest::Digest64;

use crate::guest::{GuestMemory, Image, Start};

/// Largest buffer that crosses a [`Port`] at once.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// A guest's registers, as far as the portable part of the shim looks at them.
pub trait Registers {
    /// Number and arguments of the hypercall that the guest has just made.
    fn hypercall(&self) -> (u64, [u64; hypercall::table::MAX_ARGUMENTS]);
    /// Sets the result of that hypercall.
    fn set_result(&mut self, result: i64);
    /// Adds every register that a guest can see to a digest.
    fn digest(&self, digest: &mut Digest64);
    /// Start of the chain of frame pointers.
    fn frame_pointer(&self) -> u64;
    /// Where the guest stands.
    fn instruction_pointer(&self) -> u64;
    /// Diverts the guest: it will go on at `instruction` with the stack pointer `stack` and the flags that a fresh guest
    /// has; every other register stays as it is. `instruction` lies in guest memory, `stack` is any number at all.
    fn divert(&mut self, instruction: u64, stack: u64) -> Diverted;
    /// Writes the registers for a report.
    fn describe(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result;
}

/// What [`Registers::divert`] has replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diverted {
    /// Where the guest would have gone on.
    pub instruction: u64,
    /// With which stack pointer.
    pub stack: u64,
    /// With which flags.
    pub flags: u64,
}

/// Why [`Machine::run_guest`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest made a hypercall.
    Hypercall,
    /// An interrupt of the shim's own; the guest must not notice it.
    Interrupt,
    /// The guest asked for the time stamp counter by an instruction; the machine has stepped over it when
    /// [`Machine::set_time_stamp`] is called.
    TimeStamp,
    /// The guest has retired exactly as many instructions as [`Machine::set_budget`] allows.
    Cut,
    /// The machine counts instructions and has lost count.
    Miscounted,
    /// The guest did what it may not: it cannot go on.
    Fault(Fault),
}

/// A guest's fault. It is deterministic: both replicas reach it at the same instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What the processor calls it.
    pub name: &'static str,
    /// The processor's error code, or 0.
    pub error: u64,
    /// The address concerned, where there is one.
    pub address: Option<u64>,
}

/// A buffer as a device has filled it.
#[derive(Debug)]
pub struct Received {
    /// The whole buffer, of the size that it was posted with.
    pub buffer: Box<[u8]>,
    /// Where the payload starts.
    pub start: usize,
    /// Where the payload ends.
    pub end: usize,
}

impl Received {
    /// What was received, without the device's header.
    pub fn payload(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

/// A way for buffers in and out: a virtio device with one receive and one transmit queue.
pub trait Port {
    /// Bytes that precede the payload in every buffer, in both directions, and belong to the device.
    const HEADER_BYTES: usize;

    /// The oldest buffer received, without its device header; it stays at the head of the queue.
    fn peek(&mut self) -> Option<&[u8]>;
    /// Takes the oldest buffer received off the queue. It must come back by [`Port::give_back`].
    fn take(&mut self) -> Option<Received>;
    /// Gives a received buffer back to the device, to be filled again.
    fn give_back(&mut self, received: Received);
    /// An empty buffer of capacity [`BUFFER_BYTES`] for [`Port::send`], with the device's header already in place.
    /// `None` while all are on their way.
    fn buffer(&mut self) -> Option<Vec<u8>>;
    /// Puts a buffer that was not sent back.
    fn put_back(&mut self, buffer: Vec<u8>);
    /// Sends a buffer that came from [`Port::buffer`]; it comes back by itself when the device has taken it.
    fn send(&mut self, buffer: Vec<u8>);
    /// How many buffers were sent in all.
    fn sent(&self) -> u64;
    /// How many of them the device has taken over: the death of this machine no longer loses them. Buffers are taken
    /// over in their order.
    fn completed(&mut self) -> u64;
    /// Whether the device shall interrupt when something was received.
    fn set_interrupts(&mut self, enabled: bool);
    /// Forgets the interrupt that the device has raised, so that it can raise the next one.
    fn acknowledge(&mut self);
}

/// Something for a disk to do.
#[derive(Debug, PartialEq, Eq)]
pub struct DiskJob {
    /// Names it.
    pub number: u64,
    /// The epoch in which the guest asked for it.
    pub epoch: u64,
    /// What; never [`Operation::Forget`].
    pub operation: Operation,
    /// From this block on.
    pub first_block: u64,
    /// So many blocks, on the disk as a whole.
    pub blocks: u64,
    /// What a write writes, or the place for what a read reads; of the length of `blocks`. Otherwise empty.
    pub buffer: Vec<u8>,
}

/// A disk: does several jobs at once, in no order.
pub trait Disk {
    /// Its name.
    fn name(&self) -> &str;
    /// Its size in blocks of [`hypercall::disk::BLOCK_BYTES`].
    fn blocks(&self) -> u64;
    /// Takes a job, or gives it back while it has as many as it can have.
    ///
    /// # Errors
    /// The job.
    fn start(&mut self, job: DiskJob) -> Result<(), DiskJob>;
    /// Lets the device know of the jobs taken since the last call.
    fn kick(&mut self);
    /// Whether [`Disk::take_done`] has something to give.
    fn has_done(&self) -> bool;
    /// Gives a job back that has ended, and whether it was done rather than failed.
    fn take_done(&mut self) -> Option<(DiskJob, bool)>;
    /// Whether the device shall interrupt when a job has ended.
    fn set_interrupts(&mut self, enabled: bool);
    /// Forgets the interrupt that the device has raised, so that it can raise the next one.
    fn acknowledge(&mut self);
}

/// A machine with one virtual CPU, a clock, three ports and disks.
pub trait Machine {
    /// Its registers.
    type Registers: Registers;
    /// Its way to the supervisor.
    type Control: Port;
    /// Its way to the peer.
    type Link: Port;
    /// Its network interface.
    type Net: Port;
    /// Its disks.
    type Disk: Disk;

    /// The monotonic clock, in nanoseconds since an arbitrary start.
    fn now_ns(&mut self) -> u64;
    /// The supervisor's clock says `real_ns`. A machine whose time is not everybody's lets [`Machine::now_ns`] follow.
    fn follow_clock(&mut self, real_ns: u64);
    /// The guest's memory.
    fn guest_memory(&mut self) -> GuestMemory;
    /// Maps the guest's memory as the loader has planned and puts the registers where a fresh guest finds them.
    fn start_guest(&mut self, start: &Start);
    /// Takes the memory of an image whose guest was loaded for the shim's own use.
    fn reclaim(&mut self, image: Image<'static>);
    /// Whether [`Machine::set_budget`] can be used, or why not.
    fn can_count(&self) -> Result<(), String>;
    /// From now on the guest may retire so many instructions; then, and not an instruction earlier or later,
    /// [`Machine::run_guest`] comes back with [`Exit::Cut`]. `u64::MAX`: they are not counted.
    fn set_budget(&mut self, instructions: u64);
    /// Runs the guest until something happens. To be called after [`Machine::start_guest`].
    fn run_guest(&mut self) -> Exit;
    /// Calls `each` with the offset of every page that the guest has written to since the last call or, the first time,
    /// since [`Machine::start_guest`]: in ascending order, and the same pages on every machine that ran the same
    /// instructions. What the shim itself writes does not count.
    fn touched_pages(&mut self, each: impl FnMut(u64));
    /// The guest's registers.
    fn registers(&mut self) -> &mut Self::Registers;
    /// Gives the guest's thread pointer this value: an address of guest memory, or 0. Returns whether the machine has one.
    fn set_thread_pointer(&mut self, address: u64) -> bool;
    /// From now on ring 3 can neither read nor write to the page at this offset of guest memory, one that it could write to,
    /// or it can again. Returns whether the machine can do that.
    fn set_guard(&mut self, offset: u64, guarded: bool) -> bool;
    /// Completes a trapped read of the time stamp counter.
    fn set_time_stamp(&mut self, value: u64);
    /// Sees to it that [`Machine::run_guest`] or [`Machine::halt`] comes back with an interrupt at `at_ns` or soon after.
    fn arm_timer(&mut self, at_ns: u64);
    /// Sleeps until an interrupt comes. Interrupts that came since the last call of it or of `run_guest` count: it
    /// then returns at once.
    fn halt(&mut self);
    /// Access to the control channel.
    fn control(&mut self) -> &mut Self::Control;
    /// Access to the replication link; `None` when the machine was built without one.
    fn link(&mut self) -> Option<&mut Self::Link>;
    /// Access to the network.
    fn net(&mut self) -> &mut Self::Net;
    /// Access to the disks, sorted by name.
    fn disks(&mut self) -> &mut [Self::Disk];
    /// Acknowledges the interrupts of all devices that have raised one since the last call. Returns whether the timer has
    /// fired since then: it does not run any more.
    fn acknowledge_interrupts(&mut self) -> bool;
    /// Which architecture's registers [`Machine::save_registers`] writes ([`checkpoint::state`] has the numbers).
    const ARCHITECTURE: u32;
    /// Appends everything of the processor that a guest at an epoch boundary goes on with.
    fn save_registers(&mut self, out: &mut Vec<u8>);
    /// Takes registers that another machine of this architecture has saved. They are not trusted: what could harm the
    /// shim is refused.
    fn load_registers(&mut self, registers: &[u8]) -> Result<(), RegistersError>;
    /// A digest of all processor features that a guest can see.
    fn cpu_identity(&self) -> [u8; 32];
    /// Counters for the status.
    fn counters(&self) -> MachineCounters;
    /// Writes to the debug console, at once and unconditionally.
    fn debug(&mut self, text: core::fmt::Arguments<'_>);
    /// Ends the machine.
    fn power_off(&mut self) -> !;
}

/// Why registers cannot be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistersError {
    /// They are not as many bytes as this architecture's.
    Length {
        /// What they need.
        expected_bytes: usize,
        /// What came.
        got_bytes: usize,
    },
    /// A register holds what no guest could have put there.
    Value {
        /// Its name.
        register: &'static str,
        /// What it holds.
        got: u64,
    },
}

impl fmt::Display for RegistersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected_bytes, got_bytes } => {
                write!(f, "the registers should have {expected_bytes} bytes, got {got_bytes}")
            }
            Self::Value { register, got } => {
                write!(f, "register {register} holds {got:#x}, which no guest could have put there")
            }
        }
    }
}

/// What a machine counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MachineCounters {
    /// Interrupts taken.
    pub interrupts: u64,
    /// Times halted.
    pub halts: u64,
    /// Nanoseconds spent halted.
    pub halted_ns: u64,
}
