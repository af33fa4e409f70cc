//! Guests with disks that are copied while they run.

use hypercall::disk::UNCERTAIN;
use protocol::event::{Event, Uncertain};
use protocol::resync::ChangedBlocks;

use super::super::super::Surroundings;
use super::*;

fn surroundings() -> Surroundings {
    Surroundings { architecture: 1, registers: vec![], input_skew: 0, deadline_ns: 0 }
}

/// The event that starts the first epoch after a copy.
fn uncertain(machine: &mut Machine) -> Vec<(u64, u32)> {
    let mut events = vec![];
    Event::Uncertain(Uncertain { device: u32::MAX, operation: Uncertain::EVERY_OPERATION })
        .append_to(&mut events)
        .expect("short");
    machine.epoch += 1;
    let (epoch, (mut receive, _)) = (machine.epoch, machine.bench.guest_rings());
    while receive.pop_with(|_| ()).expect("in order").is_some() {}
    machine.guest().begin_epoch(epoch, Clocks::default(), &events).expect("delivered");
    core::iter::from_fn(|| receive.pop_with(|record| Completion::decode(record.payload)).expect("in order"))
        .flatten()
        .map(|completion| (completion.number, completion.status))
        .collect()
}

/// The same memory and disks, and the state.
fn copy_of(machine: &mut Machine) -> Machine {
    let mut copy = Machine::new();
    let bytes = machine.bench.guest.memory().bytes();
    copy.put(GUEST_BASE, &machine.get(GUEST_BASE, bytes));
    for (to, from) in copy.disks.iter_mut().zip(&machine.disks) {
        to.content.clone_from(&from.content);
    }
    let state = machine.guest().capture(surroundings());
    copy.guest().restore(&state).expect("a state of this guest");
    // SAFETY: as in `Machine::new`; the position is that of a ring that the shim has emptied.
    copy.ring =
        unsafe { Producer::new(copy.bench.at(copy.bench.start.disk_ring), DISK_RING_BYTES, state.disk_position) };
    copy.epoch = machine.epoch;
    copy
}

#[test]
fn what_was_not_begun_is_asked_for_again_at_both() {
    let mut machine = Machine::new();
    let from = machine.heap();
    machine.put(from, &[1; 512]);
    machine.ask(Operation::Write, 0, 5, 1, from);
    machine.disks[0].held = true;
    machine.end();
    machine.serve();
    machine.guest().disks_mut().hold(true);
    machine.begin(&[]).expect("delivered");
    machine.put(from, &[2; 512]);
    machine.ask(Operation::Write, 0, 5, 1, from);
    machine.ask(Operation::Flush, 1, 0, 0, 0);
    machine.end();
    machine.serve();
    assert!(machine.guest().disks().is_draining(), "the first one is under way");
    machine.disks[0].held = false;
    machine.serve();
    assert!(machine.guest().disks().is_draining(), "it is done, and the guest does not know");
    let ready = machine.ready(Commit::Alone);
    assert_eq!(ready, [(0, 0)]);
    machine.begin(&ready).expect("delivered");
    machine.end();
    assert!(machine.guest().can_be_copied() && !machine.guest().disks().is_draining());

    let mut copy = copy_of(&mut machine);
    machine.guest().disks_mut().park();
    for replica in [&mut machine, &mut copy] {
        replica.serve();
        assert_eq!(replica.disks[0].content[5 * 512], 1, "nobody begins it");
        let disks = replica.guest().disks();
        assert_eq!(
            (disks.done_below(), disks.taken(), disks.uncertain_count(false)),
            (3, 3, 2),
            "nothing is waited for"
        );
        assert!(disks.are_idle() && disks.has_ended(0));
        assert_eq!(uncertain(replica), [(1, UNCERTAIN), (2, UNCERTAIN)]);
    }
    for replica in [&mut machine, &mut copy] {
        replica.ask(Operation::Write, 0, 5, 1, from);
        replica.end();
        replica.serve();
        assert_eq!(replica.disks[0].content[5 * 512..6 * 512], [2; 512]);
        assert_eq!(replica.ready(Commit::Alone), [(3, 0)], "numbers go on");
    }
}

#[test]
fn a_guest_whose_disks_are_held_no_more_goes_on() {
    let mut machine = Machine::new();
    let from = machine.heap();
    machine.guest().disks_mut().hold(true);
    machine.ask(Operation::Write, 0, 5, 1, from);
    machine.end();
    machine.serve();
    assert!(machine.ready(Commit::Alone).is_empty() && machine.guest().can_be_copied());
    machine.guest().disks_mut().hold(false);
    assert!(!machine.guest().can_be_copied());
    machine.serve();
    assert_eq!(machine.ready(Commit::Alone), [(0, 0)]);
}

#[test]
fn changes_are_noted_when_they_are_done_or_have_failed() {
    let mut machine = Machine::new();
    let from = machine.heap();
    machine.guest().disks_mut().share(0b10, false);
    machine.guest().disks_mut().note_changes();
    machine.disks[0].held = true;
    machine.ask(Operation::Write, 0, 17, 1, from);
    machine.ask(Operation::Read, 0, 100, 1, from);
    machine.ask(Operation::Write, 1, 3, 1, from);
    machine.turn();
    assert!(!machine.guest().disks().has_changes(), "it may yet be written to, and a shared disk is not copied");
    machine.disks[0].held = false;
    machine.turn();
    let changed = |first_block, blocks| ChangedBlocks { disk: 0, first_block, blocks };
    assert_eq!(machine.guest().disks_mut().take_changes(9), [changed(16, 8)]);
    machine.disks[0].fails = true;
    machine.ask(Operation::Write, 0, 0, 1, from);
    machine.ask(Operation::WriteZeroes, 0, 64, 900, 0);
    machine.turn();
    assert_eq!(machine.guest().disks_mut().take_changes(1), [changed(0, 8)]);
    assert!(machine.guest().disks().has_changes(), "the rest is there the next time");
    assert_eq!(machine.guest().disks_mut().take_changes(1), [changed(64, 904)]);
    machine.guest().disks_mut().forget_changes();
    assert!(!machine.guest().disks().has_changes());
}

#[test]
fn a_state_with_impossible_requests_is_refused() {
    let mut machine = Machine::new();
    let mut state = machine.guest().capture(surroundings());
    state.disk_requests = 5;
    state.disk_parked = vec![5];
    assert!(machine.guest().restore(&state).is_err(), "it was never made");
    state.disk_requests = 1000;
    state.disk_parked = (0..=MAX_OUTSTANDING as u64).collect();
    assert!(machine.guest().restore(&state).is_err(), "more than there may be");
}
