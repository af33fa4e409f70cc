//! Disks that two replicas share: one uses them, the other hears of it, and takes over.

use hypercall::disk::UNCERTAIN;
use protocol::event::{Event, EventReader, Uncertain};

use super::super::Room;
use super::*;

/// Both disks of the machine are shared.
const BOTH: u8 = 0b11;
/// Room for everything.
const AMPLE: Room = Room { ring_bytes: usize::MAX, bytes: usize::MAX, data_bytes: usize::MAX, records_reads: false };
const PAIRED: Commit = Commit::Paired { done_below: 0 };

/// The active replica and the other one. Their guests do the same.
struct Replicas {
    active: Machine,
    backup: Machine,
}

impl Replicas {
    fn new() -> Self {
        let (mut active, mut backup) = (Machine::new(), Machine::new());
        active.guest().disks_mut().share(BOTH, false);
        backup.guest().disks_mut().share(BOTH, true);
        Self { active, backup }
    }

    fn ask(&mut self, operation: Operation, disk: u32, first_block: u64, blocks: u64, address: u64) {
        self.active.ask(operation, disk, first_block, blocks, address);
        self.backup.ask(operation, disk, first_block, blocks, address);
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        self.active.put(address, bytes);
        self.backup.put(address, bytes);
    }

    /// Ends the epoch at both, and lets the disks do everything.
    fn end(&mut self) {
        assert_eq!(self.active.end(), self.backup.end(), "the digests");
        self.active.serve();
        self.backup.serve();
        assert!(self.backup.disks.iter().all(|disk| disk.jobs.is_empty()), "a backup uses no shared disk");
    }

    /// Begins the next epoch at both with what the active replica has to tell, and returns that.
    fn begin(&mut self, room: Room) -> Vec<u8> {
        let mut events = vec![];
        self.active.guest().disks_mut().tell(PAIRED, room, &mut events);
        for machine in [&mut self.active, &mut self.backup] {
            machine.epoch += 1;
            let epoch = machine.epoch;
            machine.guest().begin_epoch(epoch, Clocks::default(), &events).expect("delivered");
        }
        events
    }

    /// What the guest of the backup has been told since its start.
    fn told(&mut self) -> Vec<(u64, u32)> {
        told(&mut self.backup)
    }
}

fn told(machine: &mut Machine) -> Vec<(u64, u32)> {
    let (mut receive, _) = machine.bench.guest_rings();
    let mut told = vec![];
    while let Some(completion) = receive.pop_with(|record| Completion::decode(record.payload)).expect("in order") {
        let completion = completion.expect("a completion");
        told.push((completion.number, completion.status));
    }
    told
}

fn take_over(machine: &mut Machine) -> Vec<(u64, u32)> {
    machine.guest().disks_mut().take_over();
    let mut events = vec![];
    Event::Uncertain(Uncertain { device: u32::MAX, operation: u64::MAX }).append_to(&mut events).expect("short");
    machine.epoch += 1;
    let epoch = machine.epoch;
    machine.guest().begin_epoch(epoch, Clocks::default(), &events).expect("delivered");
    told(machine)
}

#[test]
fn what_one_has_read_the_other_has_from_the_record() {
    let mut replicas = Replicas::new();
    let heap = replicas.active.heap();
    replicas.put(heap, &[7; 1024]);
    replicas.ask(Operation::Write, 0, 3, 2, heap);
    replicas.ask(Operation::Read, 0, 4, 1, heap + 65536);
    replicas.ask(Operation::Flush, 0, 0, 0, 0);
    replicas.ask(Operation::Read, 1, 99, 1, heap);
    replicas.end();
    assert!(replicas.backup.disks[0].content.iter().all(|&byte| byte == 0));
    let done = replicas.backup.guest().disks().done_below();
    assert_eq!(done, 4, "nobody waits for a backup's shared disks");
    assert!(replicas.backup.guest().disks().has_ended(0));
    replicas.begin(AMPLE);
    assert_eq!(replicas.told(), [(0, 0), (1, 0), (2, 0), (3, ENXIO as u32)]);
    assert_eq!(replicas.backup.get(heap + 65536, 512), [7; 512]);
    replicas.end();
}

#[test]
fn a_long_read_goes_in_pieces_and_the_completion_behind_the_last() {
    let mut replicas = Replicas::new();
    let heap = replicas.active.heap();
    for (index, byte) in replicas.active.disks[0].content.iter_mut().enumerate() {
        *byte = (index / 7) as u8;
    }
    let expected = replicas.active.disks[0].content[..65536].to_vec();
    replicas.ask(Operation::Read, 0, 0, 128, heap);
    replicas.ask(Operation::Flush, 0, 0, 0, 0);
    replicas.end();
    // Too little for anything, then for a few bytes, then for much.
    let mut epochs = 0;
    for data_bytes in [0, 24, 32, 1000, 40_000].into_iter().chain(core::iter::repeat(60_000)) {
        let events = replicas.begin(Room { data_bytes, ..AMPLE });
        let data = |event: &Event<'_>| matches!(event, Event::DiskData(_));
        let used = EventReader::new(&events).flatten().filter(data).map(|data| data.encoded_bytes()).sum::<usize>();
        assert!(used <= data_bytes, "{used} of {data_bytes}");
        assert!(EventReader::validate(&events).is_ok());
        replicas.end();
        epochs += 1;
        let told = replicas.told();
        if !told.is_empty() {
            assert_eq!(told, [(0, 0), (1, 0)], "nothing overtakes");
            break;
        }
        assert_eq!(replicas.backup.get(heap, 65536), vec![0; 65536], "not before the completion");
        assert_eq!(replicas.active.get(heap, 65536), vec![0; 65536]);
    }
    assert_eq!(epochs, 6);
    assert_eq!(replicas.backup.get(heap, 65536), expected);
    assert_eq!(replicas.active.get(heap, 65536), expected);
}

#[test]
fn changes_begin_when_they_are_committed_and_reads_at_once() {
    let mut replicas = Replicas::new();
    let heap = replicas.active.heap();
    replicas.put(heap, &[5; 512]);
    replicas.active.committed_through = 0;
    replicas.begin(AMPLE);
    replicas.ask(Operation::Write, 0, 1, 1, heap);
    replicas.ask(Operation::Read, 0, 2, 1, heap + 4096);
    replicas.ask(Operation::Read, 0, 1, 1, heap + 8192);
    replicas.ask(Operation::WriteZeroes, 0, 7, 1, 0);
    replicas.end();
    assert_eq!(replicas.active.ready(PAIRED), [(1, 0)]);
    assert!(replicas.active.guest().disks().holds_changes());
    assert!(!replicas.backup.guest().disks().holds_changes());
    assert!(replicas.active.guest().disks().are_idle(), "nothing was begun that could end half done");
    replicas.active.committed_through = 1;
    replicas.active.serve();
    assert_eq!(replicas.active.ready(PAIRED), [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert!(!replicas.active.guest().disks().holds_changes());
}

#[test]
fn what_was_read_changes_only_when_the_other_replica_holds_it() {
    let mut replicas = Replicas::new();
    let heap = replicas.active.heap();
    replicas.put(heap, &[5; 512]);
    replicas.active.committed_through = 1;
    replicas.ask(Operation::Read, 0, 1, 1, heap + 4096);
    replicas.ask(Operation::Write, 0, 1, 1, heap);
    replicas.end();
    assert_eq!(replicas.active.ready(PAIRED), [(0, 0)], "the write waits although it is committed");
    replicas.begin(AMPLE);
    replicas.begin(AMPLE);
    replicas.active.serve();
    assert_eq!(replicas.active.ready(PAIRED), [(1, 0)], "told in epoch 1");
    let mut replicas = Replicas::new();
    replicas.active.committed_through = 0;
    replicas.ask(Operation::Read, 0, 1, 1, heap + 4096);
    replicas.ask(Operation::Write, 0, 1, 1, heap);
    replicas.end();
    replicas.begin(AMPLE);
    replicas.active.serve();
    assert_eq!(replicas.active.ready(PAIRED), [], "the record that tells of the read is not committed");
    assert_eq!(take_over(&mut replicas.backup), [(0, 0), (1, UNCERTAIN)]);
}

#[test]
fn who_takes_over_tells_that_everything_outstanding_is_uncertain_and_goes_on() {
    let mut replicas = Replicas::new();
    let heap = replicas.active.heap();
    replicas.active.disks[1].held = true;
    replicas.put(heap, &[5; 512]);
    replicas.ask(Operation::Write, 0, 1, 1, heap);
    replicas.ask(Operation::Write, 1, 1, 1, heap);
    replicas.ask(Operation::Write, 1, 16, 1, heap);
    replicas.ask(Operation::Read, 0, 0, 128, heap + 4096);
    replicas.end();
    // Half of the read has come.
    replicas.begin(Room { data_bytes: 30_000, ..AMPLE });
    replicas.end();
    assert_eq!(replicas.told(), [(0, 0), (2, ENXIO as u32)]);
    replicas.ask(Operation::Write, 1, 16, 1, heap);
    replicas.end();
    let mut backup = replicas.backup;
    assert_eq!(backup.guest().disks().uncertain_count(false), 2);
    assert_eq!(take_over(&mut backup)[2..], [(1, UNCERTAIN), (3, UNCERTAIN)]);
    assert_eq!(backup.guest().disks().uncertain_count(false), 0);
    assert_eq!(backup.get(heap + 4096, 512), [0; 512], "a read that is uncertain leaves the buffer alone");
    assert_eq!(backup.turn(), [(4, ENXIO as u32)], "what makes no sense is certain");
    // The guest asks again.
    backup.ask(Operation::Write, 1, 1, 1, heap);
    backup.ask(Operation::Read, 1, 1, 1, heap + 4096);
    assert_eq!(backup.turn(), [(5, 0), (6, 0)]);
    assert_eq!(backup.disks[1].content[512..1024], [5; 512]);
    assert_eq!(backup.get(heap + 4096, 512), [5; 512]);
}

#[test]
fn mirrored_disks_beside_shared_ones_are_what_they_were() {
    let mut machine = Machine::new();
    machine.guest().disks_mut().share(0b10, true);
    let heap = machine.heap();
    machine.put(heap, &[5; 512]);
    machine.ask(Operation::Write, 1, 0, 1, heap);
    machine.ask(Operation::Write, 0, 0, 1, heap);
    machine.committed_through = 0;
    machine.end();
    machine.serve();
    assert_eq!(machine.ready(Commit::Alone), [(1, 0)]);
    assert_eq!(machine.guest().disks().done_below(), 2);
    assert_eq!(machine.guest().disks().uncertain_count(false), 1);
    assert_eq!(take_over(&mut machine), [(0, UNCERTAIN)]);
    assert_eq!(machine.turn(), [(1, 0)], "this replica's own disk has done it for certain");
}

#[test]
fn a_shared_disk_that_fails_is_told_to_both_guests_and_ends_no_replica() {
    let mut replicas = Replicas::new();
    let heap = replicas.active.heap();
    replicas.active.disks[1].fails = true;
    replicas.ask(Operation::Read, 1, 5, 1, heap);
    replicas.ask(Operation::Flush, 1, 0, 0, 0);
    replicas.end();
    assert_eq!(replicas.active.guest().disks().failure(), None);
    replicas.begin(AMPLE);
    assert_eq!(replicas.told(), [(0, EIO32), (1, EIO32)]);
}

#[test]
fn a_read_that_is_forgotten_is_not_sent() {
    let mut replicas = Replicas::new();
    let heap = replicas.active.heap();
    replicas.ask(Operation::Read, 0, 0, 128, heap);
    replicas.end();
    replicas.begin(Room { data_bytes: 1000, ..AMPLE });
    replicas.ask(Operation::Forget, 0, 0, 0, 0);
    replicas.end();
    let events = replicas.begin(AMPLE);
    assert_eq!(events.len(), 24, "the completion alone");
    assert_eq!(replicas.told(), [(0, 0)]);
}

#[test]
fn data_that_nobody_can_have_read_is_refused() {
    let piece = |number: u64, offset: u32, bytes: usize| {
        let mut payload = number.to_le_bytes().to_vec();
        payload.extend_from_slice(&offset.to_le_bytes());
        payload.extend_from_slice(&[0; 4]);
        payload.resize(16 + bytes, 1);
        payload
    };
    let refused = |payloads: &[Vec<u8>]| {
        let mut replicas = Replicas::new();
        let heap = replicas.active.heap();
        replicas.ask(Operation::Read, 0, 0, 2, heap);
        replicas.ask(Operation::Flush, 0, 0, 0, 0);
        replicas.end();
        let mut events = vec![];
        for payload in payloads {
            event::append_record(&mut events, hypercall::record::KIND_DISK_DATA, payload).expect("short");
        }
        let completion = Completion { number: 0, status: 0, reserved: 0 };
        event::append_record(&mut events, KIND_DISK_DONE, &completion.encode()).expect("short");
        replicas.backup.guest().begin_epoch(1, Clocks::default(), &events)
    };
    assert_eq!(refused(&[piece(0, 0, 1000), piece(0, 1000, 24)]), Ok(()));
    for wrong in [
        &[][..],
        &[piece(0, 0, 1023)],
        &[piece(0, 0, 1025)],
        &[piece(0, 1, 1024)],
        &[piece(0, 0, 512), piece(0, 0, 512)],
        &[piece(1, 0, 512)],
        &[piece(9, 0, 512)],
        &[vec![0; 16]],
    ] {
        assert_eq!(refused(wrong), Err(DeliverError::Malformed), "{wrong:?}");
    }
}
