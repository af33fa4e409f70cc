//! The guest's side of the shim against hostile guests: nothing that one does may reach beyond its memory.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use hypercall::disk::DiskInfo;
use hypercall::errno::{E2BIG, EAGAIN, EFAULT, ENOSYS, EPERM};
use hypercall::layout::{BootInfo, CONSOLE_EPOCH_BYTES, GUEST_BASE, MAX_ENTROPY_BYTES, NetConfig, RING_BYTES};
use hypercall::record::{KIND_FRAME, MAX_PAYLOAD_BYTES};
use hypercall::ring::{Consumer, Producer, RingHeader};
use hypercall::table::{FIRST_NUMBER, Number, Outcome};
use hypercall::{ABI_FINGERPRINT, ABI_VERSION};
use protocol::Clocks;
use protocol::event;

use super::*;

mod guards;
mod ticks;
mod upcalls;

use crate::machine::{Diverted, Fault, Registers};

const MEMORY_BYTES: usize = 4 * 1024 * 1024;

/// Registers of a machine without any.
pub(super) struct NoRegisters {
    frame: u64,
}

impl Registers for NoRegisters {
    fn hypercall(&self) -> (u64, [u64; 4]) {
        (0, [0; 4])
    }
    fn set_result(&mut self, _result: i64) {}
    fn digest(&self, digest: &mut Digest64) {
        digest.write_u64(self.frame);
    }
    fn frame_pointer(&self) -> u64 {
        self.frame
    }
    fn instruction_pointer(&self) -> u64 {
        GUEST_BASE
    }
    fn divert(&mut self, instruction: u64, stack: u64) -> Diverted {
        unreachable!("nothing is registered that could lead to {instruction:#x} and {stack:#x}")
    }
    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "(none)")
    }
}

pub(super) const REGISTERS: NoRegisters = NoRegisters { frame: 0 };

/// A guest in memory of the test's own, page aligned.
pub(super) struct Bench {
    pub(super) guest: Guest,
    pub(super) start: Start,
    base: *mut u8,
    _memory: Vec<[u64; 512]>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::of(&Elf::good())
    }

    fn of(elf: &Elf) -> Self {
        let mut memory = vec![[0u64; 512]; MEMORY_BYTES / 4096 + 1];
        let raw = memory.as_mut_ptr().cast::<u8>();
        // SAFETY: the vector has one page more than needed, so that the base can be aligned.
        let base = unsafe { raw.add(raw.align_offset(4096)) };
        // SAFETY: the range lies in the vector, which lives as long as the guest and is used only through it or
        // while it does nothing.
        let view = unsafe { GuestMemory::new(base, MEMORY_BYTES) };
        let config = GuestConfig { arguments: "one two", net: net(), disks: &disks() };
        let start = load(&view, &elf.build(), &config).expect("a good guest loads");
        // SAFETY: `start` is what the loader returned for this memory.
        let guest = unsafe { Guest::new(view, &start, [7; 32]) };
        Self { guest, start, base, _memory: memory }
    }

    fn greeted() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.call(Number::Hello, [ABI_VERSION.into(), ABI_FINGERPRINT, 0, 0]), Outcome::Return(0));
        bench
    }

    fn call(&mut self, number: Number, arguments: [u64; 4]) -> Outcome {
        self.guest.call(number as u64, arguments)
    }

    /// The shim's address of an offset.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: offsets are those that the loader chose, inside the memory.
        unsafe { self.base.add(offset) }
    }

    /// What the guest is told at its start.
    pub(super) fn boot_info(&self) -> BootInfo {
        // SAFETY: the loader put the structure there.
        unsafe { core::ptr::read(self.at((self.start.boot_info - GUEST_BASE) as usize).cast()) }
    }

    /// The guest's ends of its rings.
    pub(super) fn guest_rings(&self) -> (Consumer, Producer) {
        // SAFETY: the rings lie where the loader put them; the test uses one side at a time.
        unsafe {
            (
                Consumer::new(self.base.add(self.start.receive_ring), RING_BYTES, 0),
                Producer::new(self.base.add(self.start.transmit_ring), RING_BYTES, 0),
            )
        }
    }

    fn end_epoch(&mut self, epoch: u64) -> (u64, EpochOutputs) {
        let mut outputs = EpochOutputs::default();
        let end = self.guest.end_epoch(epoch, &REGISTERS, &mut outputs);
        (end.digest, outputs)
    }
}

/// Two disks, of 1000 and 16 blocks.
fn disks() -> [DiskInfo; 2] {
    [DiskInfo::new("data", 1000), DiskInfo::new("log", 16)]
}

fn net() -> NetConfig {
    NetConfig {
        mac: [2, 0, 0, 0, 0, 1, 0, 0],
        flags: 0,
        address: 0x0a00_020f,
        prefix_bits: 24,
        gateway: 0x0a00_0202,
        mtu_bytes: 1500,
        reserved: 0,
    }
}

/// A minimal ELF, to be bent out of shape.
#[derive(Clone)]
struct Elf {
    class: u8,
    machine: u16,
    entry: u64,
    /// Address, file bytes, memory bytes, flags (1: x, 2: w, 4: r).
    segments: Vec<(u64, u64, u64, u32)>,
    /// What the segment of notes holds, if there is one.
    notes: Option<Vec<u8>>,
}

impl Elf {
    fn good() -> Self {
        Self {
            class: 2,
            machine: 62,
            entry: GUEST_BASE + 4,
            segments: vec![(GUEST_BASE, 64, 64, 5), (GUEST_BASE + 0x1000, 16, 0x2010, 6)],
            notes: None,
        }
    }

    fn build(&self) -> Vec<u8> {
        let mut out = vec![0x7f, b'E', b'L', b'F', self.class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out.extend(2u16.to_le_bytes());
        out.extend(self.machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        for word in [self.entry, 64, 0] {
            out.extend(word.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        let headers = self.segments.len() + usize::from(self.notes.is_some());
        for half in [64u16, 56, headers as u16, 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * headers as u64;
        for (address, file, memory, flags) in &self.segments {
            out.extend(1u32.to_le_bytes());
            out.extend(flags.to_le_bytes());
            for word in [offset, *address, *address, *file, *memory, 4096] {
                out.extend(word.to_le_bytes());
            }
            offset += file;
        }
        let notes = self.notes.as_deref().unwrap_or_default();
        if self.notes.is_some() {
            out.extend(4u32.to_le_bytes());
            out.extend(4u32.to_le_bytes());
            for word in [offset, 0, 0, notes.len() as u64, notes.len() as u64, 4] {
                out.extend(word.to_le_bytes());
            }
        }
        out.resize(offset as usize, 0xab);
        out.extend(notes);
        out
    }

    fn load(&self) -> Result<Start, LoadError> {
        load_bytes(&self.build(), MEMORY_BYTES)
    }
}

fn load_bytes(elf: &[u8], bytes: usize) -> Result<Start, LoadError> {
    let mut memory = vec![[0u64; 512]; bytes / 4096 + 1];
    let raw = memory.as_mut_ptr().cast::<u8>();
    // SAFETY: as in `Bench::new`.
    let view = unsafe { GuestMemory::new(raw.add(raw.align_offset(4096)), bytes) };
    load(&view, elf, &GuestConfig { arguments: "", net: net(), disks: &[] })
}

#[test]
fn a_good_guest_finds_everything_where_its_boot_information_says() {
    let bench = Bench::new();
    let offset = (bench.start.boot_info - GUEST_BASE) as usize;
    // SAFETY: the loader put the structure there.
    let info = unsafe { bench.base.add(offset).cast::<BootInfo>().read() };
    assert_eq!(info.version, ABI_VERSION);
    assert_eq!(info.memory_bytes, MEMORY_BYTES as u64);
    assert_eq!(info.heap_base + info.heap_bytes, GUEST_BASE + MEMORY_BYTES as u64);
    let arguments = bench.guest.memory().copy_out(info.arguments, info.arguments_bytes as usize);
    assert_eq!(arguments.as_deref(), Some(&b"one two"[..]));
    // Nothing is writable and executable, mappings are disjoint, and the stack has guards on both sides.
    let mut mappings = bench.start.mappings.clone();
    mappings.sort_by_key(|mapping| mapping.offset);
    for pair in mappings.windows(2) {
        assert!(pair[0].offset + pair[0].bytes <= pair[1].offset);
    }
    assert!(mappings.iter().all(|mapping| mapping.rights != Rights::all()));
    let stack = info.stack_base - GUEST_BASE;
    let covers = |at: u64| mappings.iter().any(|m| (m.offset..m.offset + m.bytes).contains(&at));
    assert!(covers(stack) && covers(stack + info.stack_bytes - 1));
    assert!(!covers(stack - 1) && !covers(stack + info.stack_bytes));
}

#[test]
fn guests_that_cannot_be_loaded_are_refused_by_name() {
    let good = Elf::good();
    let with = |change: fn(&mut Elf)| {
        let mut elf = good.clone();
        change(&mut elf);
        elf.load()
    };
    assert!(good.load().is_ok());
    assert_eq!(with(|elf| elf.machine = 15), Err(LoadError::Kind));
    assert_eq!(with(|elf| elf.entry = GUEST_BASE + 0x1000), Err(LoadError::Entry { address: GUEST_BASE + 0x1000 }));
    assert_eq!(with(|elf| elf.segments[0].3 = 7), Err(LoadError::WritableCode { address: GUEST_BASE }));
    for (address, bytes) in [
        (GUEST_BASE - 4096, 64),
        (GUEST_BASE + 8, 64),
        (0, 64),
        (u64::MAX - 4095, 64),
        (GUEST_BASE, u64::MAX),
        (GUEST_BASE, MEMORY_BYTES as u64 + 1),
        (GUEST_BASE + 0x1000, 64),
    ] {
        let mut elf = good.clone();
        elf.segments[0].0 = address;
        elf.segments[0].2 = bytes;
        elf.segments.rotate_left(1);
        assert!(matches!(elf.load(), Err(LoadError::Segment { .. })), "{address:#x} {bytes:#x}: {:?}", elf.load());
    }
    assert!(matches!(load_bytes(&good.build(), 1024 * 1024), Err(LoadError::Memory { .. })));
}

#[test]
fn a_truncated_guest_is_refused_at_every_length() {
    let whole = Elf::good().build();
    for length in 0..whole.len() {
        assert!(load_bytes(&whole[..length], MEMORY_BYTES).is_err(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn nothing_but_hello_works_before_hello() {
    let mut bench = Bench::new();
    for (number, _) in Number::ALL.iter().filter(|(number, _)| *number != Number::Hello) {
        assert_eq!(bench.call(*number, [0; 4]), Outcome::Return(-EPERM));
    }
    assert!(bench.guest.end().is_none());
}

#[test]
fn another_abi_version_stops_the_guest_with_both_versions_in_the_report() {
    let mut bench = Bench::new();
    assert_eq!(bench.call(Number::Hello, [99, ABI_FINGERPRINT, 0, 0]), Outcome::Stop);
    let report = &bench.guest.end().expect("ended").report;
    assert!(report.contains("99") && report.contains(&ABI_VERSION.to_string()), "{report}");
}

#[test]
fn unknown_hypercalls_are_enosys() {
    let mut bench = Bench::greeted();
    let unknown = FIRST_NUMBER + Number::ALL.len() as u64;
    assert_eq!(bench.guest.call(unknown, [u64::MAX; 4]), Outcome::Return(-ENOSYS));
    for number in [0, 1000, u64::MAX] {
        assert_eq!(bench.guest.call(number, [u64::MAX; 4]), Outcome::SystemCall(number));
    }
}

#[test]
fn a_thread_pointer_is_an_address_of_guest_memory_or_nothing() {
    let mut bench = Bench::greeted();
    let end = GUEST_BASE + MEMORY_BYTES as u64;
    for address in [0, GUEST_BASE, end - 1] {
        assert_eq!(bench.call(Number::ThreadPointer, [address, 0, 0, 0]), Outcome::SetThreadPointer { address });
    }
    // A base that is not canonical would fault in the shim.
    for address in [1, GUEST_BASE - 1, end, 1 << 47, u64::MAX] {
        assert_eq!(bench.call(Number::ThreadPointer, [address, 0, 0, 0]), Outcome::Return(-EFAULT), "{address:#x}");
    }
}

#[test]
fn wild_pointers_are_efault_and_touch_nothing() {
    let end = GUEST_BASE + MEMORY_BYTES as u64;
    let wild = [
        (0, 1),
        (GUEST_BASE - 1, 1),
        (end, 1),
        (end - 1, 2),
        (GUEST_BASE, u64::MAX),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
    ];
    for (address, bytes) in wild {
        let mut bench = Bench::greeted();
        assert_eq!(bench.call(Number::ConsoleWrite, [address, bytes, 0, 0]), Outcome::Return(-EFAULT));
        let expected = if bytes > MAX_ENTROPY_BYTES { -E2BIG } else { -EFAULT };
        assert_eq!(bench.call(Number::Entropy, [address, bytes, 0, 0]), Outcome::Return(expected));
        if bench.guest.memory().offset_of(address, 1).is_some() && bytes > 4096 {
            // A report is cut to a length that lies inside here.
            continue;
        }
        assert_eq!(bench.call(Number::PanicReport, [address, bytes, 0, 0]), Outcome::Stop);
        let report: &String = &bench.guest.end().expect("ended").report;
        assert!(report.contains("outside guest memory"), "{report}");
    }
}

#[test]
fn the_shim_writes_for_a_guest_only_where_the_guest_may_write() {
    let mut bench = Bench::greeted();
    let data = GUEST_BASE + 0x1000;
    assert_eq!(bench.call(Number::Entropy, [data, 0x1000, 0, 0]), Outcome::Return(0));
    // Code, boot information, a range that begins in code, and the guard below the stack.
    let boot = bench.start.boot_info;
    let stack_guard = bench.start.stack_top + 8 - hypercall::layout::STACK_BYTES - 4096;
    for (address, bytes) in [(GUEST_BASE, 8), (boot, 8), (data - 4, 8), (stack_guard, 8)] {
        let before = bench.guest.memory().copy_out(address, bytes as usize);
        assert_eq!(bench.call(Number::Entropy, [address, bytes, 0, 0]), Outcome::Return(-EFAULT), "{address:#x}");
        assert_eq!(bench.guest.memory().copy_out(address, bytes as usize), before);
    }
}

#[test]
fn the_console_takes_what_fits_in_an_epoch_and_the_rest_in_the_next() {
    let mut bench = Bench::greeted();
    let wanted = CONSOLE_EPOCH_BYTES as u64 + 10;
    assert_eq!(
        bench.call(Number::ConsoleWrite, [GUEST_BASE, wanted, 0, 0]),
        Outcome::Return(CONSOLE_EPOCH_BYTES as i64)
    );
    assert_eq!(bench.call(Number::ConsoleWrite, [GUEST_BASE, 10, 0, 0]), Outcome::Return(-EAGAIN));
    let (_, outputs) = bench.end_epoch(1);
    assert_eq!((outputs.console.len(), outputs.console_offset), (CONSOLE_EPOCH_BYTES, 0));
    assert_eq!(bench.call(Number::ConsoleWrite, [GUEST_BASE, 10, 0, 0]), Outcome::Return(10));
    let (_, outputs) = bench.end_epoch(2);
    assert_eq!((outputs.console.len(), outputs.console_offset), (10, CONSOLE_EPOCH_BYTES as u64));
}

#[test]
fn frames_go_in_and_out_with_their_numbers() {
    let mut bench = Bench::greeted();
    let (mut receive, mut transmit) = bench.guest_rings();
    let mut events = Vec::new();
    for length in [60, 61, 1514] {
        event::append_record(&mut events, event::KIND_FRAME, &vec![length as u8; length]).unwrap();
    }
    let clocks = Clocks { monotonic_ns: 5, realtime_ns: 6 };
    bench.guest.begin_epoch(1, clocks, &events).unwrap();
    assert_eq!(bench.guest.frames_in(), 3);
    while let Some(frame) = receive.pop_with(|record| record.payload.to_vec()).unwrap() {
        assert!(transmit.push(KIND_FRAME, &frame).unwrap());
    }
    let (_, outputs) = bench.end_epoch(1);
    assert_eq!(outputs.records, events);
    assert_eq!((outputs.first_frame, outputs.frame_count, bench.guest.frames_out()), (0, 3, 3));
    transmit.push(KIND_FRAME, &[1; 60]).unwrap();
    let (_, outputs) = bench.end_epoch(2);
    assert_eq!((outputs.first_frame, outputs.frame_count), (3, 1));
}

#[test]
fn records_that_are_no_frames_do_not_leave() {
    let mut bench = Bench::greeted();
    let (_, mut transmit) = bench.guest_rings();
    transmit.push(99, &[1; 60]).unwrap();
    transmit.push(KIND_FRAME, &[1; MAX_PAYLOAD_BYTES]).unwrap();
    transmit.push(KIND_FRAME, &[1; 60]).unwrap();
    let (_, outputs) = bench.end_epoch(1);
    assert_eq!(outputs.frame_count, 1);
}

#[test]
fn a_damaged_receive_ring_is_noticed_at_the_end_of_the_epoch() {
    let mut bench = Bench::greeted();
    // SAFETY: the header lies where the loader put it.
    let header = unsafe { &*bench.base.add(bench.start.receive_ring).cast::<RingHeader>() };
    let mut outputs = EpochOutputs::default();
    assert!(bench.guest.end_epoch(1, &REGISTERS, &mut outputs).damaged.is_none());
    header.tail.store(RING_BYTES, core::sync::atomic::Ordering::Relaxed);
    let damaged = bench.guest.end_epoch(2, &REGISTERS, &mut outputs).damaged;
    assert!(matches!(damaged, Some(("receive", RingError::Position { .. }))), "{damaged:?}");
}

#[test]
fn a_damaged_ring_is_an_error_of_the_guest() {
    let mut bench = Bench::greeted();
    // SAFETY: the header lies where the loader put it.
    let header = unsafe { &*bench.base.add(bench.start.transmit_ring).cast::<RingHeader>() };
    header.head.store(RING_BYTES * 2 + 8, core::sync::atomic::Ordering::Relaxed);
    let mut outputs = EpochOutputs::default();
    assert!(bench.guest.end_epoch(1, &REGISTERS, &mut outputs).damaged.is_some());
    // SAFETY: as above.
    let header = unsafe { &*bench.base.add(bench.start.receive_ring).cast::<RingHeader>() };
    header.tail.store(4, core::sync::atomic::Ordering::Relaxed);
    let mut events = Vec::new();
    event::append_record(&mut events, event::KIND_FRAME, &[0; 60]).unwrap();
    let result = bench.guest.begin_epoch(2, Clocks::default(), &events);
    assert!(matches!(result, Err(DeliverError::Ring(_))), "{result:?}");
}

#[test]
fn more_events_than_the_ring_holds_are_refused() {
    let mut bench = Bench::greeted();
    let mut events = Vec::new();
    event::append_record(&mut events, event::KIND_FRAME, &[0; 9000]).unwrap();
    let result = (0..100).find_map(|epoch| bench.guest.begin_epoch(epoch, Clocks::default(), &events).err());
    assert_eq!(result, Some(DeliverError::Full));
}

#[test]
fn two_guests_with_one_history_have_one_digest_and_one_difference_shows() {
    let history = |difference: Option<usize>| {
        let mut bench = Bench::greeted();
        let mut digests = Vec::new();
        for epoch in 0..8u64 {
            let (_, mut transmit) = bench.guest_rings();
            bench.guest.begin_epoch(epoch, Clocks { monotonic_ns: epoch, realtime_ns: 0 }, &[]).unwrap();
            bench.call(Number::Entropy, [GUEST_BASE + 0x1000, 16, 0, 0]);
            let byte = u8::from(difference == Some(epoch as usize));
            if epoch == 0 {
                transmit.push(KIND_FRAME, &[byte; 60]).unwrap();
            }
            bench.call(Number::ConsoleWrite, [GUEST_BASE, u64::from(byte), 0, 0]);
            digests.push(bench.end_epoch(epoch).0);
        }
        let random = bench.guest.memory().copy_out(GUEST_BASE + 0x1000, 16);
        (digests, random)
    };
    assert_eq!(history(None), history(None));
    for epoch in 0..8 {
        let (same, other) = (history(None).0, history(Some(epoch)).0);
        assert_eq!(same[..epoch], other[..epoch]);
        assert_ne!(same[epoch], other[epoch], "a difference in epoch {epoch}");
    }
}

#[test]
fn time_stamps_increase_and_are_the_same_everywhere() {
    let stamps = || {
        let mut bench = Bench::greeted();
        bench.guest.begin_epoch(1, Clocks { monotonic_ns: 1000, realtime_ns: 0 }, &[]).unwrap();
        [bench.guest.time_stamp(), bench.guest.time_stamp()]
    };
    assert_eq!(stamps(), [1001, 1002]);
    assert_eq!(stamps(), stamps());
}

#[test]
fn a_backtrace_of_wild_frame_pointers_ends() {
    let bench = Bench::greeted();
    for frame in [0, 8, GUEST_BASE, GUEST_BASE + MEMORY_BYTES as u64 - 8, u64::MAX, u64::MAX - 7] {
        let mut report = String::new();
        let fault = Cause::Fault(Fault { name: "page fault", error: 4, address: Some(8) });
        write_report(&mut report, &bench.guest, 3, &fault, &NoRegisters { frame }).unwrap();
        assert!(report.contains("page fault") && report.contains("outside guest memory"), "{report}");
    }
}

#[test]
fn a_system_call_is_reported_by_its_number() {
    let bench = Bench::greeted();
    let mut report = String::new();
    write_report(&mut report, &bench.guest, 7, &Cause::SystemCall(39), &NoRegisters { frame: 0 }).unwrap();
    assert!(report.starts_with("system call 39, ") && report.contains(" in epoch 7: "), "{report}");
    assert!(report.contains("backtrace:"), "{report}");
}

#[test]
fn a_payload_that_is_no_image_is_refused() {
    assert_eq!(Image::parse(&[0; 4096]), Err(ImageError::NoPayload));
    assert_eq!(Image::parse(b"PLX"), Err(ImageError::NoPayload));
    let mut payload = vec![0; PAYLOAD_HEADER_BYTES + 8];
    payload[..8].copy_from_slice(b"PLXIMAGE");
    payload[8..12].copy_from_slice(&1u32.to_le_bytes());
    payload[12..16].copy_from_slice(&64u32.to_le_bytes());
    payload[16..24].copy_from_slice(&64u64.to_le_bytes());
    for bytes in [8u64, 9, u64::MAX, u64::MAX - 63] {
        payload[24..32].copy_from_slice(&bytes.to_le_bytes());
        let parsed = Image::parse(&payload);
        assert_eq!(parsed.is_ok(), bytes == 8, "{bytes}: {parsed:?}");
    }
    payload[8] = 2;
    assert_eq!(Image::parse(&payload), Err(ImageError::Version { got: 2 }));
}
