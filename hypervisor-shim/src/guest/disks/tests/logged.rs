//! Disks that a stored log must be able to restore: the active replica, the one that follows it, and those that run the log again.

use hypercall::disk::UNCERTAIN;
use protocol::DiskConduct;
use protocol::event::{Event, EventReader, Uncertain};

use super::super::Room;
use super::*;

/// Room for everything; what was read is recorded.
const AMPLE: Room = Room { ring_bytes: usize::MAX, bytes: usize::MAX, data_bytes: usize::MAX, records_reads: true };

/// A guest, with the events of its epochs as a log has them.
struct Run {
    active: Machine,
    backup: Machine,
    log: Vec<Vec<u8>>,
    /// What the program has asked for in each epoch.
    asked: Vec<Vec<(Operation, u64, u8)>>,
    digests: Vec<u64>,
}

fn machine(conduct: DiskConduct, follows: bool) -> Machine {
    let mut machine = Machine::new();
    machine.guest().disks_mut().conduct(conduct, follows);
    machine
}

/// Asks for a block of disk 0. Each has a place in memory of its own.
fn ask(machine: &mut Machine, (operation, block, byte): (Operation, u64, u8)) {
    let address = machine.heap() + block * 512;
    if operation == Operation::Write {
        machine.put(address, &[byte; 512]);
    }
    let blocks = u64::from(operation != Operation::Flush);
    machine.ask(operation, 0, block * blocks, blocks, address);
}

fn block(machine: &Machine, block: usize) -> u8 {
    let bytes = &machine.disks[0].content[block * 512..][..512];
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn");
    bytes[0]
}

/// The numbers of the completions in a record.
fn completed(events: &[u8]) -> Vec<u64> {
    EventReader::new(events)
        .filter_map(|event| match event.expect("an event") {
            Event::DiskDone(completion) => Some(completion.number),
            _ => None,
        })
        .collect()
}

/// Lets a follower do what a record says, and delivers it.
fn follow(machine: &mut Machine, events: &[u8]) {
    for number in completed(events) {
        machine.guest().disks_mut().release(number);
    }
    machine.serve();
    for number in completed(events) {
        assert!(machine.guest().disks().has_ended(number), "request {number}");
    }
    machine.epoch += 1;
    let epoch = machine.epoch;
    machine.guest().begin_epoch(epoch, Clocks::default(), events).expect("delivered");
}

fn uncertain() -> Vec<u8> {
    let mut events = vec![];
    let event = Event::Uncertain(Uncertain { device: u32::MAX, operation: Uncertain::EVERYTHING });
    event.append_to(&mut events).expect("short");
    events
}

fn told(machine: &mut Machine) -> Vec<(u64, u32)> {
    let (mut receive, _) = machine.bench.guest_rings();
    core::iter::from_fn(|| receive.pop_with(|record| Completion::decode(record.payload)).expect("in order"))
        .flatten()
        .map(|completion| (completion.number, completion.status))
        .collect()
}

impl Run {
    fn new() -> Self {
        Self {
            active: machine(DiskConduct::Logged, false),
            backup: machine(DiskConduct::Logged, true),
            log: vec![],
            asked: vec![],
            digests: vec![],
        }
    }

    /// An epoch that begins with these events and in which this is asked for. Its record is stored when it has ended.
    fn epoch_with(&mut self, events: Vec<u8>, requests: &[(Operation, u64, u8)]) {
        follow(&mut self.backup, &events);
        let active = &mut self.active;
        active.epoch += 1;
        let epoch = active.epoch;
        active.guest().begin_epoch(epoch, Clocks::default(), &events).expect("delivered");
        for request in requests {
            ask(&mut self.active, *request);
            ask(&mut self.backup, *request);
        }
        let digest = self.active.end();
        assert_eq!(digest, self.backup.end(), "the digests");
        self.backup.serve();
        self.log.push(events);
        self.asked.push(requests.to_vec());
        self.digests.push(digest);
        self.active.committed_through = epoch;
        self.active.serve();
    }

    /// The same, with what the active replica has to tell.
    fn epoch(&mut self, requests: &[(Operation, u64, u8)]) {
        let mut events = vec![];
        let commit = Commit::Paired { done_below: u64::MAX };
        self.active.guest().disks_mut().tell(commit, AMPLE, &mut events);
        self.epoch_with(events, requests);
    }

    /// Runs the log again.
    fn again(&self, machine: &mut Machine) {
        for ((events, requests), digest) in self.log.iter().zip(&self.asked).zip(&self.digests) {
            follow(machine, events);
            requests.iter().for_each(|request| ask(machine, *request));
            assert_eq!(machine.end(), *digest, "the digest of epoch {}", machine.epoch);
        }
    }
}

use Operation::{Flush, Read, Write};

#[test]
fn nothing_changes_before_the_log_holds_it_and_at_the_backup_not_before_it_is_told() {
    let mut run = Run::new();
    run.active.committed_through = 0;
    run.active.epoch = 1;
    ask(&mut run.active, (Write, 3, 7));
    run.active.end();
    run.active.serve();
    assert_eq!(block(&run.active, 3), 0, "it is not stored");
    assert!(run.active.guest().disks().holds_changes());
    run.active.committed_through = 1;
    run.active.serve();
    assert_eq!(block(&run.active, 3), 7);

    let mut run = Run::new();
    run.epoch(&[(Write, 3, 7), (Flush, 0, 0)]);
    assert_eq!((block(&run.active, 3), block(&run.backup, 3)), (7, 0), "the backup was told nothing yet");
    assert_eq!(run.backup.guest().disks().oldest_under_way(), None, "and does not count as hanging");
    run.epoch(&[]);
    assert_eq!(block(&run.backup, 3), 7);
    assert_eq!(told(&mut run.backup), [(0, 0), (1, 0)], "a flush waits for the active replica's disk alone");
}

#[test]
fn a_log_runs_again_without_disks_and_ends_in_the_same_memory() {
    let mut run = Run::new();
    run.epoch(&[(Write, 3, 7), (Read, 3, 0), (Write, 5, 8)]);
    run.epoch(&[(Read, 5, 0), (Write, 3, 9)]);
    run.epoch(&[(Read, 3, 0), (Read, 900, 0)]);
    run.epoch(&[(Flush, 0, 0)]);
    run.epoch(&[]);
    let mut again = machine(DiskConduct::Absent, true);
    run.again(&mut again);
    assert!(again.disks.iter().all(|disk| disk.jobs.is_empty() && disk.content.iter().all(|byte| *byte == 0)));
    let heap = again.heap();
    assert_eq!(again.get(heap, 8192), run.active.get(heap, 8192));
    assert_eq!(again.get(heap + 3 * 512, 1), [9]);
}

#[test]
fn a_log_brings_a_disk_of_any_moment_to_its_end() {
    let mut run = Run::new();
    run.epoch(&[(Write, 3, 7), (Write, 4, 1)]);
    run.epoch(&[(Read, 3, 0), (Write, 3, 8)]);
    run.epoch(&[(Write, 4, 2), (Flush, 0, 0)]);
    run.epoch(&[(Write, 3, 9)]);
    run.epoch(&[(Read, 4, 0)]);
    // Both machines die while a write and a read are under way, of which nobody was told.
    run.active.disks[0].held = true;
    run.epoch(&[(Write, 6, 5), (Read, 6, 0)]);
    for (moment, content) in [("empty", vec![0; 1000 * 512]), ("at the end", run.active.disks[0].content.clone())] {
        let mut again = machine(DiskConduct::Logged, true);
        again.disks[0].content = content;
        run.again(&mut again);
        assert_eq!((block(&again, 3), block(&again, 4), block(&again, 6)), (9, 2, 0), "{moment}");
        let before = told(&mut again).len();
        again.guest().disks_mut().stop_following();
        assert_eq!(again.guest().disks().uncertain_count(true), 2);
        follow(&mut again, &uncertain());
        assert_eq!(told(&mut again)[before..], [(8, UNCERTAIN), (9, UNCERTAIN)], "{moment}");
        assert_eq!(again.guest().disks().uncertain_count(true), 0);
        // It goes on by itself, as committed as it is told.
        ask(&mut again, (Write, 6, 5));
        again.committed_through = again.epoch - 1;
        again.end();
        again.serve();
        assert_eq!(block(&again, 6), 0);
        again.committed_through = again.epoch;
        again.serve();
        assert_eq!(block(&again, 6), 5);
    }
}

#[test]
fn a_write_waits_until_what_a_read_before_it_found_is_stored() {
    let mut run = Run::new();
    run.epoch(&[(Write, 3, 7)]);
    run.epoch(&[]);
    run.epoch(&[(Read, 3, 0), (Write, 3, 8)]);
    assert_eq!(block(&run.active, 3), 7, "the log would otherwise end before the read, and the disk behind the write");
    run.epoch(&[]);
    assert_eq!(block(&run.active, 3), 8);
}

#[test]
fn who_takes_over_begins_nothing_of_what_is_uncertain() {
    let mut run = Run::new();
    run.active.disks[0].held = true;
    run.epoch(&[(Write, 3, 7), (Read, 4, 0), (Flush, 0, 0)]);
    let mut backup = run.backup;
    backup.guest().disks_mut().take_over();
    backup.serve();
    follow(&mut backup, &uncertain());
    assert_eq!(told(&mut backup), [(0, UNCERTAIN), (1, UNCERTAIN), (2, UNCERTAIN)]);
    backup.serve();
    assert_eq!((block(&backup, 3), backup.guest().disks().are_idle()), (0, true));
    ask(&mut backup, (Write, 3, 7));
    backup.end();
    backup.serve();
    assert_eq!(backup.ready(Commit::Alone), [(3, 0)]);
    assert_eq!(block(&backup, 3), 7);
}

/// The state of a checkpoint has the numbers of requests that nobody has begun, and the record behind it ends them everywhere.
#[test]
fn a_log_leads_on_from_a_checkpoint_with_requests_outstanding() {
    let mut run = Run::new();
    run.epoch(&[(Write, 3, 7)]);
    run.active.guest().disks_mut().hold(true);
    run.epoch(&[(Write, 4, 1), (Read, 3, 0)]);
    assert!(run.active.guest().can_be_copied());
    let surroundings =
        super::super::super::Surroundings { architecture: 1, registers: vec![], input_skew: 0, deadline_ns: 0 };
    let state = run.active.guest().capture(surroundings);
    let mut again = machine(DiskConduct::Logged, true);
    let bytes = again.bench.guest.memory().bytes();
    again.put(GUEST_BASE, &run.active.get(GUEST_BASE, bytes));
    again.guest().restore(&state).expect("a state of this guest");
    // SAFETY: as in `Machine::new`; the position is that of a ring that the shim has emptied.
    again.ring =
        unsafe { Producer::new(again.bench.at(again.bench.start.disk_ring), DISK_RING_BYTES, state.disk_position) };
    again.epoch = run.active.epoch;
    again.disks[0].content.clone_from(&run.active.disks[0].content);
    run.active.guest().disks_mut().park();
    (run.log, run.asked, run.digests) = (vec![], vec![], vec![]);

    run.epoch_with(uncertain(), &[(Write, 4, 1), (Read, 3, 0)]);
    run.epoch(&[(Flush, 0, 0)]);
    run.epoch(&[]);
    run.again(&mut again);
    assert_eq!((block(&run.active, 4), block(&run.backup, 4), block(&again, 4)), (1, 1, 1));
    let heap = again.heap();
    assert_eq!(again.get(heap, 8192), run.active.get(heap, 8192));
}

#[test]
fn a_backup_that_ends_in_good_order_does_the_rest_untold() {
    let mut run = Run::new();
    run.epoch(&[(Write, 3, 7)]);
    run.epoch(&[(Write, 4, 8), (Read, 5, 0)]);
    let backup = &mut run.backup;
    assert_eq!(backup.guest().disks().done_below(), 1);
    backup.guest().disks_mut().release_through(1);
    backup.serve();
    assert_eq!(block(backup, 4), 0, "its epoch is not known to be stored");
    backup.guest().disks_mut().release_through(2);
    backup.serve();
    assert_eq!(block(backup, 4), 8);
    let disks = backup.guest().disks();
    assert_eq!((disks.done_below(), disks.taken(), disks.are_idle()), (3, 3, true));
}
