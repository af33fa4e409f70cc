//! Planned changes of roles.

use super::harness::*;
use crate::replica::{Blocked, Gate, Input, StopReason};
use crate::{Mode, Role};

#[test]
fn a_primary_hands_over_when_nothing_is_left_to_be_done() {
    let mut pair = Pair::revised();
    pair.epoch(b"one");
    pair.primary.begin(b"two");
    pair.primary.step(Input::HandOver);
    pair.primary.end();
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::HandingOver));
    assert!(!pair.primary.sent_kinds().contains(&"goodbye"), "the backup does not hold the last epoch");
    pair.deliver_to_backup();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.sent_kinds().last(), Some(&"goodbye"));
    pair.deliver_to_backup();
    pair.backup.catch_up();
    assert_eq!(pair.backup.requests, [(1, 1)], "asked when the log is consumed");
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    let promotion = pair.backup.promotion.expect("granted");
    assert_eq!((promotion.first_own_epoch, promotion.resend_from_epoch), (3, 3), "and nothing to send again");
    assert_eq!(pair.backup.replica.role(), Role::Primary);
    pair.primary.step(Input::Superseded { generation: 2 });
    assert_eq!(pair.primary.stop, Some(StopReason::Superseded { generation: 2 }));
}

#[test]
fn a_primary_whose_backup_dies_meanwhile_goes_on() {
    let mut pair = Pair::revised();
    pair.epoch(b"one");
    pair.primary.step(Input::HandOver);
    assert_eq!(pair.primary.sent_kinds().last(), Some(&"goodbye"), "everything is done already");
    pair.primary.peer_dead();
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!((pair.primary.gate(), pair.primary.replica.mode()), (Gate::Ready, Mode::Solo));
    pair.primary.epoch(b"two");
    assert_eq!(pair.primary.released, 2);
}

#[test]
fn a_backup_that_says_nothing_more_does_not_stop_the_service() {
    let mut pair = Pair::revised();
    pair.epoch(b"one");
    pair.primary.step(Input::HandOver);
    pair.primary.idle_ns(2 * FAILURE_NS);
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.gate(), Gate::Ready);
    // It was only slow: there is nothing to take over any more.
    pair.deliver_to_backup();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert_eq!(pair.backup.stop, Some(StopReason::Superseded { generation: 2 }));
}

#[test]
fn a_backup_and_a_solo_primary_have_nobody_to_hand_over_to() {
    let mut pair = Pair::revised();
    pair.epoch(b"one");
    pair.backup.step(Input::HandOver);
    pair.epoch(b"two");
    pair.primary.peer_dead();
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    pair.primary.step(Input::HandOver);
    assert_eq!(pair.primary.gate(), Gate::Ready);
}
