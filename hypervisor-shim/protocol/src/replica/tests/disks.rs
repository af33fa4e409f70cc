//! What the replicas say of their disks.

use super::harness::*;
use crate::event::{Event, EventReader, Uncertain};
use crate::link::{Ack, Message};
use crate::replica::{Config, ProtocolFault};

fn ack(disks_done_below: u64) -> Owned {
    Owned::Small(Message::Ack(Ack { received_through: 0, executed_through: 0, disks_done_below, echo_ns: 0 }))
}

#[test]
fn a_flush_is_told_at_once_and_everything_else_with_the_next_acknowledgement() {
    let mut pair = Pair::revised();
    pair.backup.replica.note_disks(5, false);
    pair.backup.flush();
    assert_eq!(pair.backup.sent.len(), 0);
    pair.backup.replica.note_disks(6, true);
    pair.backup.flush();
    pair.backup.flush();
    assert_eq!(pair.backup.sent_kinds(), ["ack"], "once");
    pair.deliver_to_primary();
    assert_eq!(pair.primary.replica.peer_disks_done_below(), 6);
    pair.backup.replica.note_disks(9, false);
    pair.epoch(b"");
    pair.exchange();
    assert_eq!(pair.primary.replica.peer_disks_done_below(), 9);
}

#[test]
fn a_primary_tells_nobody() {
    let mut pair = Pair::revised();
    pair.primary.replica.note_disks(5, true);
    pair.primary.flush();
    assert_eq!(pair.primary.sent.len(), 0);
    assert_eq!(pair.backup.replica.peer_disks_done_below(), 0);
}

#[test]
fn disks_that_undo_what_they_have_done_fail_the_link() {
    let mut pair = Pair::revised();
    pair.primary.take(&[ack(7), ack(7)]);
    assert_eq!(pair.primary.replica.status(pair.primary.now_ns).link_fault, None);
    pair.primary.take(&[ack(6)]);
    let fault = ProtocolFault::BadAck { received_through: 0, executed_through: 0, disks_done_below: 6 };
    let status = pair.primary.replica.status(pair.primary.now_ns);
    assert_eq!(status.link_fault, Some(crate::replica::LinkFault::Protocol(fault)));
}

#[test]
fn a_backup_is_not_missed_as_long_as_its_primary_goes_on() {
    let mut pair = Pair::revised();
    assert!(pair.backup.replica.follows_peer());
    assert!(!pair.primary.replica.follows_peer());
    pair.backup.peer_dead();
    assert!(!pair.backup.replica.follows_peer());
    let mut pair = Pair::revised();
    pair.backup.close_link();
    assert!(!pair.backup.replica.follows_peer(), "it may have to take over");
}

#[test]
fn the_primary_knows_when_the_backup_has_run_everything() {
    let mut pair = Pair::revised();
    assert!(pair.primary.replica.peer_has_run_everything());
    pair.primary.begin(b"");
    assert!(!pair.primary.replica.peer_has_run_everything());
    pair.primary.end();
    assert!(!pair.primary.replica.peer_has_run_everything());
    pair.deliver_to_backup();
    pair.backup.catch_up();
    pair.backup.idle_ns(FAILURE_NS / 2);
    pair.deliver_to_primary();
    assert!(pair.primary.replica.peer_has_run_everything());
}

#[test]
fn what_changes_a_shared_disk_begins_when_the_backup_holds_its_epoch() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.exchange();
    assert_eq!(pair.primary.replica.committed_through(), 1, "also without outputs");
    pair.primary.epoch(b"");
    assert_eq!(pair.primary.replica.committed_through(), 1, "nobody else holds the record of epoch 2");
    pair.deliver_to_backup();
    pair.backup.flush();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.replica.committed_through(), 2);
    assert_eq!(pair.backup.replica.committed_through(), 0, "a backup begins nothing");
    pair.primary.epoch(b"");
    pair.primary.peer_dead();
    pair.primary.epoch(b"");
    assert_eq!(pair.primary.replica.committed_through(), 2, "not while the arbiter is asked");
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.replica.committed_through(), 4, "alone there is nobody to wait for");
}

#[test]
fn a_promoted_replica_owes_the_guest_an_uncertain_event_until_its_first_epoch() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    assert!(!pair.primary.replica.owes_uncertain());
    pair.backup.peer_dead();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert!(pair.backup.replica.owes_uncertain());
    assert_eq!(pair.backup.replica.committed_through(), 1);
    pair.backup.begin(b"");
    assert!(!pair.backup.replica.owes_uncertain());
}

/// The operations that the uncertain event of the record that runs is about; `None`: it has none.
fn uncertain_of(node: &Node) -> Option<u64> {
    let record = node.replica.record(node.replica.epoch()).expect("an epoch runs");
    EventReader::new(&record.events).find_map(|event| match event.expect("an event") {
        Event::Uncertain(uncertain) => Some(uncertain.operation),
        _ => None,
    })
}

#[test]
fn where_the_log_restores_disks_a_promotion_is_about_everything_outstanding() {
    for (logs_disks, operation) in [(false, Uncertain::EVERY_OPERATION), (true, Uncertain::EVERYTHING)] {
        let mut pair = Pair::of(|config| Config { stores_log: logs_disks, logs_disks, ..config });
        pair.exchange();
        pair.epoch(b"");
        pair.backup.peer_dead();
        pair.backup.answer(&mut pair.arbiter, BACKUP);
        assert_eq!(pair.backup.replica.owes_everything(), logs_disks);
        pair.backup.begin(b"");
        assert_eq!(uncertain_of(&pair.backup), Some(operation));
    }
}

#[test]
fn what_a_copy_has_left_outstanding_is_given_up_by_the_next_record_and_by_no_other() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.exchange();
    pair.backup.replica.give_up_outstanding();
    assert!(!pair.backup.replica.owes_uncertain(), "a backup is told");
    pair.primary.begin(b"");
    pair.primary.replica.give_up_outstanding();
    assert!(!pair.primary.replica.owes_uncertain(), "not in the middle of an epoch");
    pair.primary.end();
    pair.primary.replica.give_up_outstanding();
    assert!(pair.primary.replica.owes_everything());
    pair.primary.begin(b"");
    assert_eq!(uncertain_of(&pair.primary), Some(Uncertain::EVERYTHING));
    pair.primary.end();
    pair.primary.begin(b"");
    assert_eq!(uncertain_of(&pair.primary), None);
}

#[test]
fn a_primary_gives_way_only_to_a_backup_that_is_well_and_has_done_the_same() {
    let mut pair = Pair::revised();
    pair.primary.take(&[ack(7)]);
    assert!(pair.primary.replica.gives_way(6));
    assert!(!pair.primary.replica.gives_way(7), "the backup may fail in the same way");
    assert!(!pair.backup.replica.gives_way(0), "a backup is no primary");
    pair.primary.peer_dead();
    assert!(!pair.primary.replica.gives_way(6), "the arbiter is asked: it may be the only one");
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert!(!pair.primary.replica.gives_way(6));
}
