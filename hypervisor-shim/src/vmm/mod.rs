//! The loop that ties a machine, a guest and the replica state machine together.
//!
//! One thread, one rule of cost: whoever waits, halts; everything that waits at a boundary goes in one batch. Devices
//! may interrupt only while the shim halts; while the guest runs, a timer looks after them every few milliseconds.

mod bare;
mod channel;
mod config;
mod copy;
mod disk_copy;
mod disk_hang;
mod disks;
mod epoch;
mod input;
mod join;
mod outputs;
mod pair;
mod replay;
mod restore;
mod show;
mod status;
mod waits;

use alloc::format;
use core::fmt;

use protocol::control::{
    Counters, GuestStopped, Level, Log, Ready, StopKind, Stopped, StoppedReason, ToShim, ToSupervisor,
};
use protocol::replica::Replica;
use protocol::{Clocks, Epoch, ReplicaId, RunMode, control};

use self::channel::Channel;
use self::copy::Copier;
use self::disk_copy::DiskCopy;
use self::outputs::Outbound;
use crate::guest::{End, EndKind, Guest, Image, OutputLog, PageSet, Touched};
use crate::machine::{Machine, Port};

/// While the guest runs, devices are looked after this often.
const SERVICE_INTERVAL_NS: u64 = 5_000_000;
/// A shim that has said its last word waits this long for it to be taken, then ends.
const FAREWELL_NS: u64 = 1_000_000_000;
/// Why a replica stops that was told to.
const ASKED_FOR: &str = "the supervisor asked for it";
/// Status messages are left out while more than this waits for the supervisor.
const CONTROL_BACKLOG_BYTES: usize = 64 * 1024;

/// What the supervisor said, as far as it outlives the message.
#[derive(Debug, Clone, Copy)]
struct Settings {
    replica: ReplicaId,
    run_mode: RunMode,
    session: u64,
    generation: u64,
    status_interval_ns: u64,
    mac: [u8; 6],
    limit: EpochLimit,
}

/// What ends an epoch besides a guest that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EpochLimit {
    /// Nothing.
    None,
    /// The machine, after so many instructions.
    Instructions(u64),
    /// The guest itself, after so many of its ticks.
    Ticks(u64),
}

impl EpochLimit {
    /// Instructions that the machine lets an epoch have; `u64::MAX`: it does not count them.
    fn instructions(self) -> u64 {
        if let Self::Instructions(instructions) = self { instructions } else { u64::MAX }
    }

    /// Ticks that the guest lets an epoch have; `u64::MAX`: it goes on for ever.
    fn ticks(self) -> u64 {
        if let Self::Ticks(ticks) = self { ticks } else { u64::MAX }
    }
}

/// How the guest's clocks follow from the machine's.
#[derive(Debug, Clone, Copy, Default)]
struct ClockOffsets {
    /// Added to the machine's clock, it gives the guest's monotonic clock (wrapping).
    monotonic_ns: u64,
    /// Added to the machine's clock, it gives the wall clock (wrapping).
    realtime_ns: u64,
}

impl ClockOffsets {
    fn clocks(&self, now_ns: u64) -> Clocks {
        Clocks {
            monotonic_ns: now_ns.wrapping_add(self.monotonic_ns),
            realtime_ns: now_ns.wrapping_add(self.realtime_ns),
        }
    }
}

/// Everything of a running replica.
struct Vmm<M: Machine> {
    machine: M,
    settings: Settings,
    guest: Guest,
    /// `None` without epochs.
    replica: Option<Replica>,
    control: Channel,
    /// What the supervisor said while nobody could act upon it: right behind the configuration, or while pages were shown.
    early: alloc::vec::Vec<ToShim<'static>>,
    link: Channel,
    outputs: OutputLog,
    /// What the guest has written to in the newest epoch; only if digests cover memory.
    touched: Option<Touched>,
    /// Pages that the supervisor has, of those that are being shown.
    shown_pages: u64,
    outbound: Outbound,
    /// The guest is being copied to a newcomer.
    copier: Option<Copier>,
    /// How far the supervisor is with the mirrors that belong to the copy.
    disk_copy: DiskCopy,
    /// The records of the slice that is being sent; kept for its room.
    slice: alloc::vec::Vec<u8>,
    /// The session with which the link begins anew when nothing of the old one is on its way.
    fresh_link: Option<u64>,
    /// Slices of pages that this newcomer, or this restored replica, has put into its memory.
    slices_held: u64,
    /// A checkpoint is wanted: since which epoch, 0 for all.
    capture_wanted: Option<Epoch>,
    /// The newest checkpoint.
    base: Option<join::Base>,
    /// Pages that digests have covered since the copy began: the machine has forgotten that they were written to.
    covered: PageSet,
    /// The guest's state comes from a checkpoint and is not complete.
    restores: bool,
    /// Records of a log are run before the guest goes on by itself.
    replay: Option<replay::Replay>,
    offsets: ClockOffsets,
    /// The guest's own monotonic time at which it wants to run again; 0: at once.
    deadline_ns: u64,
    /// The epoch that the state machine has told to run.
    run_next: Option<Epoch>,
    /// Number that the hub gives the next input frame, less the number of frames that the guest has received.
    input_skew: u64,
    /// Console input not yet delivered, as event records.
    typed: alloc::vec::Vec<u8>,
    /// When the timer fires, on the machine's clock; 0: it does not.
    timer_at_ns: u64,
    status_at_ns: u64,
    /// What a guest that wants to run is kept waiting for.
    held_up: Option<waits::HeldUp>,
    counters: Counters,
    end_told: bool,
    /// The end was asked for; what is under way is finished first.
    ends: bool,
    /// The newest request to the arbiter whose reason was logged.
    asked_for: u64,
    /// The supervisor has said that the peer's machine is gone.
    peer_dead: bool,
    /// Whether a disk hangs.
    hang: disk_hang::Watch,
    /// When the link last brought something.
    last_heard_ns: u64,
    /// When link and control channel were last given everything there was.
    flushed_ns: u64,
    /// The guest runs, or was interrupted.
    is_in_epoch: bool,
    /// Nothing is to be stored any more, once it is known how the epoch ends, or at this time.
    log_ends_by_ns: Option<u64>,
}

/// Runs a replica for ever.
pub fn run<M: Machine>(mut machine: M, image: Image<'static>) -> ! {
    let boot_ns = machine.now_ns();
    let mut control =
        Channel::new(control::SESSION_TO_SUPERVISOR, control::SESSION_TO_SHIM, control::MAX_PAYLOAD_BYTES);
    let ready = Ready {
        abi_version: hypercall::ABI_VERSION,
        protocol_version: config::PROTOCOL_VERSION,
        image: image.id,
        cpu: machine.cpu_identity(),
        guest_memory_bytes: machine.guest_memory().bytes() as u64,
        boot_ns,
    };
    tell(&mut control, &ToSupervisor::Ready(ready));
    control.flush(machine.control());
    let mut vmm = match config::receive(machine, control, &image, &ready) {
        Ok(vmm) => vmm,
        Err(refusal) => refusal.farewell(),
    };
    vmm.machine.reclaim(image);
    match vmm.settings.run_mode {
        RunMode::Bare | RunMode::Cut => vmm.run_bare(),
        RunMode::Solo | RunMode::Pair => vmm.run_replica(),
    }
}

/// Encodes a message to the supervisor.
fn tell(control: &mut Channel, message: &ToSupervisor<'_>) {
    control.encode(|writer, out| {
        // Only a payload beyond the channel's limit can be refused, and texts are cut before they come here.
        let _ = message.encode_into(writer, out);
    });
}

/// The longest prefix of `text` of at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Says goodbye to the supervisor and ends the machine when the message was taken.
fn farewell<M: Machine>(machine: &mut M, control: &mut Channel, reason: StoppedReason, text: &str) -> ! {
    machine.debug(format_args!("shim: stopped: {reason}: {text}\n"));
    tell(control, &ToSupervisor::Stopped(Stopped { reason, text: cut(text, 4096) }));
    let until_ns = machine.now_ns() + FAREWELL_NS;
    loop {
        control.flush(machine.control());
        let port = machine.control();
        let taken = control.backlog_bytes() == 0 && port.completed() == port.sent();
        let now_ns = machine.now_ns();
        if taken || now_ns >= until_ns {
            machine.power_off();
        }
        machine.arm_timer(now_ns + 1_000_000);
        machine.halt();
        machine.acknowledge_interrupts();
    }
}

impl<M: Machine> Vmm<M> {
    fn now_ns(&mut self) -> u64 {
        self.machine.now_ns()
    }

    fn log(&mut self, level: Level, text: fmt::Arguments<'_>) {
        self.machine.debug(format_args!("shim: {text}\n"));
        let text = format!("{text}");
        tell(&mut self.control, &ToSupervisor::Log(Log { level, text: cut(&text, 4096) }));
    }

    fn stop(&mut self, reason: StoppedReason, text: &str) -> ! {
        farewell(&mut self.machine, &mut self.control, reason, text)
    }

    /// Tells the supervisor how the guest ended, once.
    fn tell_end(&mut self, epoch: Epoch, end: &End) {
        if self.end_told {
            return;
        }
        self.end_told = true;
        let kind = match end.kind {
            EndKind::Exit => StopKind::Exit,
            EndKind::Panic => StopKind::Panic,
            EndKind::Fault => StopKind::Fault,
        };
        let stopped =
            GuestStopped { kind, code: i64::from(end.code as i32), epoch, report: cut(&end.report, 16 * 1024) };
        tell(&mut self.control, &ToSupervisor::GuestStopped(stopped));
    }
}
