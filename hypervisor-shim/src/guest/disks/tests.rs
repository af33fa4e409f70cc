//! Requests of hostile and of ordinary guests, on disks in memory that fail when told to.

use std::string::ToString;
use std::vec;
use std::vec::Vec;

use hypercall::disk::{MAX_NAME_BYTES, REQUEST_BYTES};
use hypercall::errno::EIO;
use hypercall::layout::{DISK_RING_BYTES, GUEST_BASE};
use hypercall::record::{KIND_DISK_DONE, KIND_FRAME};
use hypercall::ring::Producer;
use protocol::Clocks;
use protocol::event;

use super::super::tests::{Bench, REGISTERS};
use super::super::{EpochOutputs, Guest};
use super::*;

/// A disk in memory. Jobs end when they are asked for, newest first, unless they are held back.
struct Memory {
    content: Vec<u8>,
    jobs: Vec<DiskJob>,
    held: bool,
    fails: bool,
}

impl Memory {
    fn new(blocks: u64) -> Self {
        Self { content: vec![0; blocks as usize * BLOCK_BYTES], jobs: vec![], held: false, fails: false }
    }
}

impl Disk for Memory {
    fn name(&self) -> &str {
        "memory"
    }
    fn blocks(&self) -> u64 {
        (self.content.len() / BLOCK_BYTES) as u64
    }
    fn start(&mut self, job: DiskJob) -> Result<(), DiskJob> {
        self.jobs.push(job);
        Ok(())
    }
    fn kick(&mut self) {}
    fn has_done(&self) -> bool {
        !self.jobs.is_empty() && !self.held
    }
    fn take_done(&mut self) -> Option<(DiskJob, bool)> {
        if self.held {
            return None;
        }
        let mut job = self.jobs.pop()?;
        let range = job.first_block as usize * BLOCK_BYTES..(job.first_block + job.blocks) as usize * BLOCK_BYTES;
        match job.operation {
            _ if self.fails => {}
            Operation::Read => job.buffer.copy_from_slice(&self.content[range]),
            Operation::Write => self.content[range].copy_from_slice(&job.buffer),
            Operation::Flush => {}
            _ => self.content[range].fill(0),
        }
        Some((job, !self.fails))
    }
    fn set_interrupts(&mut self, _enabled: bool) {}
    fn acknowledge(&mut self) {}
}

/// A guest with two disks, of 1000 and 16 blocks, and its own ends of the rings.
struct Machine {
    bench: Bench,
    ring: Producer,
    epoch: u64,
    committed_through: u64,
    disks: [Memory; 2],
}

impl Machine {
    fn new() -> Self {
        let bench = Bench::new();
        // SAFETY: the ring lies where the loader put it, and guest and shim take turns in a test.
        let ring = unsafe { Producer::new(bench.at(bench.start.disk_ring), DISK_RING_BYTES, 0) };
        Self { bench, ring, epoch: 0, committed_through: u64::MAX, disks: [Memory::new(1000), Memory::new(16)] }
    }

    fn guest(&mut self) -> &mut Guest {
        &mut self.bench.guest
    }

    /// An address that the guest may write to: its heap is the last of its mappings.
    fn heap(&self) -> u64 {
        GUEST_BASE + self.bench.start.mappings.last().expect("a heap").offset
    }

    fn ask(&mut self, operation: Operation, disk: u32, first_block: u64, blocks: u64, address: u64) {
        let request = Request { operation: operation as u32, disk, first_block, blocks, address };
        assert_eq!(self.ring.push(KIND_DISK_REQUEST, &request.encode()), Ok(true));
    }

    /// Ends the epoch and returns its digest.
    fn end(&mut self) -> u64 {
        let epoch = self.epoch;
        self.guest().end_epoch(epoch, &REGISTERS, &mut EpochOutputs::default()).digest
    }

    fn serve(&mut self) {
        // What ends lets others start.
        for _ in 0..3 {
            self.bench.guest.disks_mut().serve(&mut self.disks, self.committed_through);
        }
    }

    fn ready(&mut self, commit: Commit) -> Vec<(u64, u32)> {
        self.guest().disks().completions(commit).map(|completion| (completion.number, completion.status)).collect()
    }

    /// Begins the next epoch with completions of these requests.
    fn begin(&mut self, completions: &[(u64, u32)]) -> Result<(), DeliverError> {
        let mut events = vec![];
        for &(number, status) in completions {
            let completion = Completion { number, status, reserved: 0 };
            event::append_record(&mut events, KIND_DISK_DONE, &completion.encode()).expect("short");
        }
        self.epoch += 1;
        let epoch = self.epoch;
        self.guest().begin_epoch(epoch, Clocks::default(), &events)
    }

    /// Ends the epoch, lets the disks do everything and begins the next one with all that is ready.
    fn turn(&mut self) -> Vec<(u64, u32)> {
        self.end();
        self.serve();
        let ready = self.ready(Commit::Alone);
        self.begin(&ready).expect("delivered");
        ready
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        assert!(self.bench.guest.memory().write(address, bytes));
    }

    fn get(&self, address: u64, bytes: usize) -> Vec<u8> {
        self.bench.guest.memory().copy_out(address, bytes).expect("inside")
    }
}

const EIO32: u32 = EIO as u32;

#[test]
fn the_table_says_which_disks_there_are() {
    let machine = Machine::new();
    let info = machine.bench.boot_info();
    let at = |index: u64| {
        let bytes = machine.get(info.disks + index * size_of::<DiskInfo>() as u64, size_of::<DiskInfo>());
        let name = core::str::from_utf8(&bytes[..MAX_NAME_BYTES]).expect("UTF-8").trim_end_matches('\0').to_string();
        (name, u64::from_le_bytes(bytes[24..].try_into().expect("eight bytes")))
    };
    assert_eq!(info.disk_count, 2);
    assert_eq!((at(0), at(1)), (("data".to_string(), 1000), ("log".to_string(), 16)));
}

#[test]
fn what_is_written_is_read_and_memory_changes_only_at_a_boundary() {
    let mut machine = Machine::new();
    let (from, to) = (machine.heap(), machine.heap() + 65536);
    machine.put(from, &[7; 1024]);
    machine.ask(Operation::Write, 0, 3, 2, from);
    machine.ask(Operation::Read, 0, 4, 1, to);
    machine.end();
    // What the guest does to its buffer from here on is its own business.
    machine.put(from, &[9; 1024]);
    machine.serve();
    assert_eq!(machine.ready(Commit::Alone), [(0, 0), (1, 0)]);
    assert_eq!(machine.get(to, 512), [0; 512], "not before the event");
    machine.begin(&[(1, 0), (0, 0)]).expect("delivered in any order");
    assert_eq!(machine.get(to, 512), [7; 512]);
    assert_eq!(machine.disks[0].content[3 * 512..5 * 512], [7; 1024]);
    let (mut receive, _) = machine.bench.guest_rings();
    for number in [1, 0] {
        let record = receive.pop_with(|record| (record.kind, Completion::decode(record.payload))).expect("in order");
        assert_eq!(record, Some((KIND_DISK_DONE, Some(Completion { number, status: 0, reserved: 0 }))));
    }
}

#[test]
fn requests_that_make_no_sense_end_with_an_error_and_reach_no_device() {
    let mut machine = Machine::new();
    let heap = machine.heap();
    let code = GUEST_BASE;
    let shared = GUEST_BASE + machine.bench.start.shared_page as u64;
    use Operation::{Discard, Flush, Read, Write, WriteZeroes};
    let cases = [
        (Read, 2, 0, 1, heap, ENOENT),
        (Flush, u32::MAX, 0, 0, 0, ENOENT),
        (Read, 1, 16, 1, heap, ENXIO),
        (Write, 1, 15, 2, heap, ENXIO),
        (Write, 1, u64::MAX, 1, heap, ENXIO),
        (Read, 0, 1, u64::MAX, heap, ENXIO),
        (Discard, 0, 0, 1001, 0, ENXIO),
        (Read, 0, 0, 0, heap, EINVAL),
        (Write, 0, 0, 129, heap, EINVAL),
        (WriteZeroes, 0, 0, 0, 0, EINVAL),
        (Read, 0, 0, 1, 0, EFAULT),
        (Read, 0, 0, 1, heap + (4 << 20), EFAULT),
        (Read, 0, 0, 1, u64::MAX - 100, EFAULT),
        (Write, 0, 0, 1, 0xffff_8000_0010_0000, EFAULT),
        (Write, 0, 0, 1, GUEST_BASE - 1, EFAULT),
        // What the guest may not write to, the shim does not write to for it. Reading it is allowed.
        (Read, 0, 0, 1, code, EFAULT),
        (Read, 0, 0, 1, shared, EFAULT),
    ];
    for (operation, disk, first, blocks, address, _) in cases {
        machine.ask(operation, disk, first, blocks, address);
    }
    // Not even requests: another kind, another length, an unknown operation.
    assert_eq!(machine.ring.push(KIND_FRAME, &[0; REQUEST_BYTES]), Ok(true));
    assert_eq!(machine.ring.push(KIND_DISK_REQUEST, &[0; REQUEST_BYTES - 1]), Ok(true));
    assert_eq!(machine.ring.push(KIND_DISK_REQUEST, &[6; REQUEST_BYTES]), Ok(true));
    let expected = cases.iter().map(|case| case.5).chain([EINVAL; 3]);
    let expected: Vec<_> = (0..).zip(expected.map(|error| error as u32)).collect();
    machine.end();
    machine.disks.iter_mut().for_each(|disk| disk.held = true);
    machine.serve();
    assert!(machine.disks.iter().all(|disk| disk.jobs.is_empty()));
    // Both replicas know it by themselves: what the other one's disks have done is not waited for.
    assert_eq!(machine.ready(Commit::Paired { done_below: 0 }), expected);
    assert_eq!(machine.guest().disks().done_below(), 20);
    machine.begin(&expected).expect("delivered");
    assert_eq!(machine.turn(), []);
}

#[test]
fn more_than_may_be_outstanding_waits_in_the_ring() {
    let mut machine = Machine::new();
    let heap = machine.heap();
    for block in 0..100 {
        machine.ask(Operation::Write, 0, block, 1, heap);
    }
    assert_eq!(machine.turn().len(), MAX_OUTSTANDING);
    assert_eq!(machine.turn().last(), Some(&(99, 0)));
    assert_eq!(machine.turn(), []);
}

#[test]
fn a_flush_waits_for_the_other_replica_and_nothing_else_does() {
    let mut machine = Machine::new();
    let heap = machine.heap();
    machine.ask(Operation::Write, 0, 0, 1, heap);
    machine.ask(Operation::Flush, 0, 0, 0, 0);
    machine.ask(Operation::Read, 0, 9, 1, heap);
    machine.end();
    machine.serve();
    for done_below in [0, 1] {
        assert_eq!(machine.ready(Commit::Paired { done_below }), [(0, 0), (2, 0)]);
    }
    assert_eq!(machine.ready(Commit::Paired { done_below: 2 }), [(0, 0), (1, 0), (2, 0)]);
    assert!(!machine.guest().disks_mut().passes_flush(1));
    assert!(machine.guest().disks_mut().passes_flush(3));
    assert!(!machine.guest().disks_mut().passes_flush(3), "told once");
}

#[test]
fn how_far_the_disks_are_has_no_gaps() {
    let mut machine = Machine::new();
    let heap = machine.heap();
    machine.ask(Operation::Write, 0, 0, 1, heap);
    machine.ask(Operation::Write, 1, 0, 1, heap);
    machine.ask(Operation::Flush, 1, 0, 0, 0);
    machine.end();
    machine.disks[0].held = true;
    machine.serve();
    let disks = machine.guest().disks();
    assert_eq!((disks.done_below(), disks.taken(), disks.are_idle()), (0, 3, false));
    assert_eq!((disks.has_ended(0), disks.has_ended(1), disks.has_ended(77)), (false, true, true));
    machine.disks[0].held = false;
    machine.serve();
    let disks = machine.guest().disks();
    assert_eq!((disks.done_below(), disks.are_idle()), (3, true));
}

#[test]
fn a_failure_is_told_to_a_guest_that_is_alone_and_hidden_from_a_pair() {
    let mut machine = Machine::new();
    let heap = machine.heap();
    machine.disks[1].fails = true;
    machine.ask(Operation::Read, 1, 5, 1, heap);
    machine.put(heap, &[3; 512]);
    machine.end();
    machine.serve();
    assert_eq!(machine.ready(Commit::Paired { done_below: 1 }), []);
    let failure = machine.guest().disks().failure().map(|failure| (failure.disk.to_string(), failure.number));
    assert_eq!(failure, Some(("log".to_string(), 0)));
    assert_eq!(machine.guest().disks().done_below(), 0);
    // A record that says it was done elsewhere cannot be delivered, and nothing is made up for it.
    assert_eq!(machine.begin(&[(0, 0)]), Err(DeliverError::Unfinished { number: 0 }));
    let mut machine = Machine::new();
    machine.disks[1].fails = true;
    machine.ask(Operation::Read, 1, 5, 1, heap);
    machine.put(heap, &[3; 512]);
    assert_eq!(machine.turn(), [(0, EIO32)]);
    assert_eq!(machine.get(heap, 512), [3; 512], "a read that failed leaves the buffer alone");
}

/// The other mirror may hold what was to be written: a pair whose guest were told what lies here would not agree.
#[test]
fn what_a_write_that_failed_has_left_is_read_only_when_the_guest_has_heard_of_it() {
    let mut machine = Machine::new();
    let heap = machine.heap();
    machine.put(heap, &[3; 512]);
    machine.disks[1].fails = true;
    machine.ask(Operation::Write, 1, 5, 1, heap);
    machine.end();
    machine.serve();
    machine.disks[1].fails = false;
    machine.ask(Operation::Read, 1, 5, 1, heap + 512);
    machine.ask(Operation::Read, 1, 6, 1, heap + 1024);
    assert_eq!(machine.begin(&[]), Ok(()));
    machine.end();
    machine.serve();
    assert_eq!(machine.ready(Commit::Paired { done_below: 0 }), [(2, 0)], "another block is none the worse for it");
    assert_eq!(machine.ready(Commit::Alone), [(0, EIO32), (2, 0)]);
    assert_eq!(machine.begin(&[(0, EIO32), (2, 0)]), Ok(()));
    machine.end();
    machine.serve();
    assert_eq!(machine.ready(Commit::Alone), [(1, 0)]);
}

#[test]
fn completions_that_nobody_waits_for_are_refused() {
    let mut machine = Machine::new();
    assert_eq!(machine.begin(&[(0, 0)]), Err(DeliverError::Malformed));
    let heap = machine.heap();
    machine.disks[0].held = true;
    machine.ask(Operation::Read, 0, 0, 1, heap);
    machine.end();
    machine.serve();
    assert_eq!(machine.begin(&[(0, 0)]), Err(DeliverError::Unfinished { number: 0 }), "it runs still");
}

#[test]
fn a_read_that_is_forgotten_writes_nowhere() {
    let mut machine = Machine::new();
    let heap = machine.heap();
    machine.disks[0].content[..512].fill(5);
    machine.ask(Operation::Read, 0, 0, 1, heap);
    machine.ask(Operation::Read, 0, 0, 1, heap + 4096);
    machine.end();
    machine.serve();
    machine.ask(Operation::Forget, 0, 0, 0, 0);
    // Of no meaning: its own number, one that was never given, one that is no read.
    machine.ask(Operation::Forget, 0, 3, 0, 0);
    machine.ask(Operation::Forget, 9, u64::MAX, 0, 0);
    assert_eq!(machine.turn(), [(0, 0), (1, 0)]);
    assert_eq!(machine.get(heap, 512), [0; 512]);
    assert_eq!(machine.get(heap + 4096, 512), [5; 512]);
}

#[test]
fn a_damaged_ring_is_noticed() {
    let mut machine = Machine::new();
    // SAFETY: the ring's header lies where the loader put it.
    unsafe { machine.bench.at(machine.bench.start.disk_ring).cast::<u32>().add(4).write(3) };
    let mut outputs = EpochOutputs::default();
    let end = machine.guest().end_epoch(0, &REGISTERS, &mut outputs);
    assert_eq!(end.damaged.map(|(ring, _)| ring), Some("disk"));
}

#[test]
fn digests_cover_what_is_asked_for_written_and_read() {
    let digests = |block: u64, byte: u8, on_disk: u8| {
        let mut machine = Machine::new();
        let heap = machine.heap();
        machine.put(heap, &[byte; 512]);
        machine.disks[0].content[100 * 512..101 * 512].fill(on_disk);
        machine.ask(Operation::Write, 0, block, 1, heap);
        machine.ask(Operation::Read, 0, 100, 1, heap);
        let first = machine.end();
        machine.serve();
        machine.begin(&[(0, 0), (1, 0)]).expect("delivered");
        (first, machine.end())
    };
    let same = digests(1, 2, 3);
    assert_eq!(digests(1, 2, 3), same);
    assert_ne!(digests(2, 2, 3).0, same.0);
    assert_ne!(digests(1, 3, 3).0, same.0);
    let mirror_differs = digests(1, 2, 4);
    assert_eq!(mirror_differs.0, same.0);
    assert_ne!(mirror_differs.1, same.1, "a block that differs is found out when it is read");
}

mod copied;
mod logged;
mod shared;
