//! The guest's end is deterministic: both reach it, its last outputs leave, and nobody takes it for a failure.

use super::harness::*;
use crate::replica::{Blocked, Config, Gate, Phase, StopReason};
use crate::{Discipline, Mode, Role};

#[test]
fn the_last_outputs_leave_before_the_primary_says_goodbye() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.begin(b"");
    pair.primary.stop_guest();
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::GuestStopped));
    assert_eq!((pair.primary.released, pair.primary.stop), (1, None), "not acknowledged yet");
    assert_eq!(pair.primary.sent_kinds(), ["start", "heartbeat"], "the last digest has no record to travel with");
    pair.deliver_to_backup();
    pair.backup.stop_guest();
    assert_eq!(pair.backup.stop, None, "the primary may die before it has released the last outputs");
    pair.deliver_to_primary();
    assert_eq!(pair.primary.released, 2);
    assert_eq!(stops(&pair.primary), [StopReason::GuestStopped]);
    pair.deliver_to_backup();
    assert_eq!(stops(&pair.backup), [StopReason::GuestStopped]);
    assert_eq!(pair.backup.discarded, 2);
}

#[test]
fn a_backup_that_is_behind_runs_to_the_same_end_after_the_goodbye() {
    let mut pair = Pair::revised();
    pair.primary.epoch(b"");
    pair.primary.begin(b"");
    pair.primary.stop_guest();
    pair.exchange();
    assert_eq!(stops(&pair.primary), [StopReason::GuestStopped]);
    pair.backup.close_link();
    pair.backup.peer_dead();
    assert_eq!(pair.backup.requests.len(), 0, "a peer that has finished did not fail");
    pair.backup.end();
    assert_eq!(pair.backup.stop, None);
    pair.backup.stop_guest();
    assert_eq!(stops(&pair.backup), [StopReason::GuestStopped]);
}

#[test]
fn a_primary_that_dies_before_it_released_the_last_outputs_is_replaced() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.begin(b"");
    pair.primary.stop_guest();
    pair.deliver_to_backup();
    pair.backup.stop_guest();
    pair.backup.peer_dead();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert!(pair.backup.promotion.is_some());
    assert_eq!(pair.backup.released, 2);
    assert_eq!(stops(&pair.backup), [StopReason::GuestStopped]);
}

#[test]
fn a_primary_that_dies_after_it_said_that_all_is_out_needs_no_replacement() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.primary = Node::new(Config { confirms_releases: true, ..config(Role::Primary) });
    pair.exchange();
    pair.primary.begin(b"");
    pair.primary.stop_guest();
    pair.exchange();
    pair.backup.stop_guest();
    assert_eq!((pair.primary.released, pair.primary.stop), (1, None), "its devices still hold the outputs");
    pair.primary.peer_dead();
    assert_eq!(pair.primary.requests.len(), 0, "the backup's death is no failure any more");
    let mut out = std::vec::Vec::new();
    pair.primary.replica.confirm_released(pair.primary.now_ns, 1, &mut out);
    assert_eq!(pair.primary.phase(), Phase::Stopped(StopReason::GuestStopped));
}

#[test]
fn a_backup_told_by_heartbeat_that_all_is_out_just_stops_when_the_link_closes() {
    let mut pair = Pair::revised();
    pair.primary.begin(b"");
    pair.primary.stop_guest();
    pair.deliver_to_backup();
    pair.backup.stop_guest();
    pair.primary.sent.clear();
    pair.deliver_to_primary();
    // The goodbye is lost, but a heartbeat claims the release.
    let claim = crate::link::Heartbeat {
        ended_epoch: 1,
        ended_digest: pair.primary.guest.finish(),
        released_through: 1,
        sent_ns: pair.primary.now_ns,
    };
    pair.backup.take(&[Owned::Small(crate::link::Message::Heartbeat(claim))]);
    pair.backup.close_link();
    assert_eq!(stops(&pair.backup), [StopReason::GuestStopped]);
    assert_eq!(pair.backup.requests.len(), 0);
}

#[test]
fn a_primary_whose_backup_dies_before_the_last_acknowledgement_asks_and_then_finishes() {
    let mut pair = Pair::revised();
    pair.primary.begin(b"");
    pair.primary.stop_guest();
    pair.primary.peer_dead();
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.released, 1);
    assert_eq!(stops(&pair.primary), [StopReason::GuestStopped]);
}

#[test]
fn one_guest_that_ends_and_one_that_goes_on_is_a_divergence() {
    // The primary's guest ended, the backup's did not.
    let mut pair = Pair::revised();
    pair.primary.begin(b"");
    pair.primary.stop_guest();
    pair.exchange();
    pair.backup.end();
    assert!(matches!(pair.backup.stop, Some(StopReason::Diverged(d)) if d.epoch == 1));
    // The backup's guest ended, the primary's did not; the record of the next epoch comes after or before that.
    let mut pair = Pair::revised();
    pair.primary.epoch(b"");
    pair.deliver_to_backup();
    pair.backup.stop_guest();
    pair.primary.begin(b"");
    pair.deliver_to_backup();
    assert!(matches!(pair.backup.stop, Some(StopReason::Diverged(d)) if d.epoch == 1));
    let mut pair = Pair::revised();
    pair.primary.epoch(b"");
    pair.primary.begin(b"");
    pair.deliver_to_backup();
    pair.backup.stop_guest();
    assert!(matches!(pair.backup.stop, Some(StopReason::Diverged(d)) if d.epoch == 1));
}

#[test]
fn a_solo_guest_that_ends_stops_its_replica() {
    let mut node = Node::new(Config { mode: Mode::Solo, ..config(Role::Primary) });
    node.begin(b"");
    node.stop_guest();
    assert_eq!(node.released, 1);
    assert_eq!(stops(&node), [StopReason::GuestStopped]);
}
