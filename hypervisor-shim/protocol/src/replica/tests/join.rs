//! Taking in a newcomer: each step, and the loss of either side at each.

use std::vec;

use super::harness::*;
use crate::link::{IdentityField, Message, Pages};
use crate::replica::{Blocked, Config, Gate, Input, JoinPhase, Phase, StopReason};
use crate::{Discipline, Generation, Mode, Role};

fn newcomer(generation: Generation, with: impl Fn(Config) -> Config) -> Node {
    Node::new(with(Config { joins: true, generation, ..config(Role::Backup) }))
}

/// A pair whose backup has died after two epochs; the primary has run a third one alone. The backup is a newcomer that
/// has not been heard.
fn bereaved(with: impl Fn(Config) -> Config + Copy) -> Pair {
    let mut pair = Pair::of(with);
    pair.exchange();
    pair.epoch(b"one");
    pair.epoch(b"two");
    pair.primary.peer_dead();
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    pair.primary.epoch(b"three");
    assert_eq!((pair.primary.released, pair.primary.replica.mode()), (3, Mode::Solo));
    pair.primary.sent.clear();
    pair.backup = newcomer(2, with);
    pair
}

fn joining() -> Pair {
    bereaved(|config| config)
}

/// They have greeted each other, and pages may be copied.
fn copying() -> Pair {
    let mut pair = joining();
    pair.primary.step(Input::PeerJoins);
    assert_eq!(pair.primary.replica.join_phase(), JoinPhase::Greeting);
    assert!(pair.primary.sent.is_empty(), "a newcomer speaks first");
    pair.exchange();
    assert_eq!(pair.primary.replica.join_phase(), JoinPhase::Copying);
    assert_eq!(pair.backup.phase(), Phase::Pairing, "it has nothing to run");
    pair
}

/// The primary's state goes over; the newcomer has not answered.
fn send_state(pair: &mut Pair) {
    assert!(pair.primary.replica.may_send_state());
    let state = pair.primary.replica.join_state(b"registers");
    pair.backup.guest = pair.primary.guest;
    pair.backup.ran_through = state.epoch;
    pair.backup.released = state.released_through;
    pair.backup.discarded = state.released_through;
    let now_ns = pair.backup.now_ns;
    let mut out = vec![];
    pair.backup.replica.step(now_ns, Input::Message(Message::State(state)), &mut out);
    pair.backup.carry_out(out);
    pair.primary.replica.state_sent(pair.primary.now_ns);
}

/// The newcomer holds the state, and the arbiter is asked to pair.
fn asking() -> Pair {
    let mut pair = copying();
    send_state(&mut pair);
    pair.backup.flush();
    pair.exchange();
    assert_eq!(pair.primary.pairings, [(2, 2)]);
    pair
}

#[test]
fn a_newcomer_is_brought_in_and_takes_over() {
    let mut pair = copying();
    pair.primary.epoch(b"four");
    assert_eq!(pair.primary.released, 4, "while pages are copied the primary is alone");
    assert!(pair.primary.sent.is_empty());
    send_state(&mut pair);
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Joining));
    pair.backup.flush();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.gate(), Gate::Ready, "the arbiter's answer is not waited for");
    pair.primary.epoch(b"five");
    assert_eq!(pair.primary.released, 4, "but outputs wait for the newcomer from now on");
    pair.deliver_to_backup();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.released, 5);
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    assert!(pair.primary.joined);
    pair.backup.catch_up();
    pair.exchange();
    assert_eq!((pair.primary.replica.generation(), pair.backup.replica.generation()), (3, 3));
    pair.epoch(b"six");
    assert_eq!(pair.backup.digests, pair.primary.digests[4..], "both guests have done the same since");
    pair.backup.peer_dead();
    assert_eq!(pair.backup.requests, [(1, 3)]);
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    let promotion = pair.backup.promotion.expect("granted, and nothing to run");
    assert_eq!((promotion.generation, promotion.first_own_epoch), (4, 7));
}

#[test]
fn a_newcomer_can_take_over_before_its_first_epoch_and_before_it_is_told() {
    let mut pair = asking();
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    // The primary dies with the word that the record is paired.
    pair.backup.peer_dead();
    assert_eq!(pair.backup.requests, [(1, 3)], "the generation that the pairing has made, or nothing");
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    let promotion = pair.backup.promotion.expect("granted");
    assert_eq!((promotion.generation, promotion.first_own_epoch), (4, 4));
    assert_eq!(promotion.clocks.monotonic_ns, pair.primary.now_ns, "the guest's clock goes on from the state");
}

#[test]
fn a_newcomer_that_the_record_does_not_name_stops() {
    let mut pair = asking();
    pair.backup.peer_dead();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert_eq!(pair.backup.stop, Some(StopReason::Superseded { generation: 2 }));
    // The primary lives, and its request was only late.
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    pair.primary.peer_dead();
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!((pair.primary.replica.mode(), pair.primary.replica.generation()), (Mode::Solo, 4));
    pair.primary.epoch(b"");
    assert_eq!(pair.primary.released, 4);
}

#[test]
fn a_newcomer_that_dies_early_leaves_no_trace() {
    let greeting = || {
        let mut pair = joining();
        pair.primary.step(Input::PeerJoins);
        pair
    };
    let settling = || {
        let mut pair = copying();
        send_state(&mut pair);
        pair
    };
    for (name, mut pair) in [("greeting", greeting()), ("copying", copying()), ("settling", settling())] {
        pair.primary.peer_dead();
        assert_eq!(pair.primary.joins_failed, 1, "{name}");
        assert!(pair.primary.link_closed, "{name}");
        assert!(
            pair.primary.pairings.is_empty() && pair.primary.requests.len() == 1,
            "{name}: the arbiter is not asked"
        );
        pair.primary.epoch(b"alone");
        assert_eq!((pair.primary.released, pair.primary.replica.generation()), (4, 2), "{name}");
        // The next one is welcome.
        pair.backup = newcomer(2, |config| config);
        pair.primary.step(Input::PeerJoins);
        pair.exchange();
        send_state(&mut pair);
        pair.backup.flush();
        pair.exchange();
        pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
        assert!(pair.primary.joined, "{name}");
    }
}

#[test]
fn a_newcomer_that_dies_while_the_arbiter_is_asked_is_a_backup_that_has_failed() {
    let mut pair = asking();
    pair.primary.epoch(b"held");
    assert_eq!(pair.primary.released, 3);
    pair.primary.peer_dead();
    assert_eq!(pair.primary.joins_failed, 0, "the record may be paired");
    assert_eq!(pair.primary.requests.len(), 1, "nothing else is asked before that is known");
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.requests.last(), Some(&(3, 3)));
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!((pair.primary.released, pair.primary.replica.mode()), (4, Mode::Solo));
}

#[test]
fn a_pairing_that_is_refused_changes_nothing() {
    let mut pair = asking();
    pair.primary.epoch(b"held");
    let &(request_id, _) = pair.primary.pairings.last().expect("asked");
    pair.primary.step(Input::ArbiterReply { request_id, granted: false, record: pair.arbiter });
    assert_eq!((pair.primary.joins_failed, pair.primary.released), (1, 4));
    assert_eq!((pair.primary.replica.mode(), pair.primary.replica.generation()), (Mode::Solo, 2));
}

#[test]
fn a_request_to_pair_is_repeated_until_it_is_answered() {
    let mut pair = asking();
    pair.primary.idle_ns(FAILURE_NS / 2);
    assert!(pair.primary.pairings.len() > 2);
    assert!(pair.primary.pairings.iter().all(|request| *request == (2, 2)), "{:?}", pair.primary.pairings);
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.replica.generation(), 3);
}

#[test]
fn a_silent_newcomer_is_given_up() {
    let mut pair = copying();
    send_state(&mut pair);
    pair.primary.idle_ns(2 * FAILURE_NS);
    assert_eq!((pair.primary.joins_failed, pair.primary.replica.mode()), (1, Mode::Solo));
    assert_eq!(pair.primary.gate(), Gate::Ready);
}

#[test]
fn the_arbiter_is_not_asked_before_old_outputs_have_left() {
    let mut pair = bereaved(|config| Config { confirms_releases: true, ..config });
    pair.primary.step(Input::PeerJoins);
    pair.exchange();
    send_state(&mut pair);
    pair.backup.flush();
    pair.exchange();
    assert!(pair.primary.pairings.is_empty(), "the newcomer could not send them again");
    let mut out = vec![];
    pair.primary.replica.confirm_released(pair.primary.now_ns, 3, &mut out);
    pair.primary.carry_out(out);
    assert_eq!(pair.primary.pairings, [(2, 2)]);
}

#[test]
fn a_newcomer_without_the_state_stops_when_the_primary_goes() {
    for end in [Input::PeerDead, Input::LinkClosed(crate::replica::LinkFault::Closed)] {
        let mut pair = copying();
        pair.backup.step(end);
        assert_eq!(pair.backup.stop, Some(StopReason::Incomplete));
        assert!(pair.backup.requests.is_empty());
    }
    let mut pair = copying();
    pair.primary.step(Input::Shutdown);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.stop, Some(StopReason::Shutdown));
}

#[test]
fn a_newcomer_waits_for_the_state_however_long_it_takes() {
    let mut pair = copying();
    pair.backup.idle_ns(10 * FAILURE_NS);
    pair.backup.step(Input::Message(Message::Pages(Pages { records: b"" })));
    assert_eq!(pair.backup.stop, None);
    assert!(pair.backup.sent_kinds().contains(&"ack"), "and says that it is there");
}

/// A primary that compares first tells each end at once, and one whose guest ends tells that; not to a newcomer.
#[test]
fn nothing_but_pages_is_sent_to_a_newcomer_that_holds_no_state() {
    let mut pair = bereaved(|config| Config { compares_first: true, ..config });
    pair.primary.step(Input::PeerJoins);
    pair.exchange();
    pair.primary.epoch(b"four");
    assert!(pair.primary.sent.is_empty(), "{:?}", pair.primary.sent_kinds());
    pair.primary.begin(b"five");
    pair.primary.stop_guest();
    assert_eq!(pair.primary.sent_kinds(), ["goodbye"]);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.stop, Some(StopReason::Incomplete));
}

#[test]
fn a_newcomer_that_does_not_fit_does_not_stop_the_primary() {
    let mut pair = joining();
    pair.primary.step(Input::PeerJoins);
    pair.backup = newcomer(2, |config| Config { identity: identity(Discipline::Original), ..config });
    pair.deliver_to_primary();
    assert_eq!((pair.primary.stop, pair.primary.joins_failed), (None, 1));
    assert_eq!(pair.primary.gate(), Gate::Ready);
    pair.deliver_to_backup();
    assert!(
        matches!(pair.backup.stop, Some(StopReason::Refused(mismatch)) if mismatch.field == IdentityField::Discipline),
        "{:?}",
        pair.backup.stop
    );
}

#[test]
fn a_solo_primary_goes_on_from_a_checkpoint() {
    let mut original = joining().primary;
    let state = original.replica.join_state(b"registers");
    let solo = |generation| Node::new(Config { mode: Mode::Solo, generation, ..config(Role::Primary) });
    let mut restored = solo(1);
    restored.replica.resume(&state).expect("it has run nothing");
    restored.guest = original.guest;
    restored.ran_through = 3;
    restored.released = 3;
    assert_eq!(restored.gate(), Gate::Ready);
    restored.epoch(b"four");
    original.epoch(b"four");
    assert_eq!(restored.released, 4, "alone, outputs leave at once");
    assert_ne!(restored.digests.last(), original.digests.last(), "its guest is told that something may be undone");
    restored.replica.resume(&state).expect_err("it runs already");
    let mut backup = Pair::revised().backup;
    backup.replica.resume(&state).expect_err("it is no primary");
}

#[test]
fn a_record_before_the_state_is_a_fault() {
    let mut pair = copying();
    let start = crate::replica::Record { epoch: 1, ..Default::default() };
    pair.backup.step(Input::Message(Message::EpochStart(start.message())));
    assert_eq!(pair.backup.stop, Some(StopReason::Incomplete));
}

#[test]
fn a_pair_takes_no_newcomer_in() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    for node in [&mut pair.primary, &mut pair.backup] {
        node.step(Input::PeerJoins);
        assert_eq!(node.replica.join_phase(), JoinPhase::None);
    }
    pair.epoch(b"");
    assert_eq!(pair.primary.released, 2);
}

#[test]
fn the_first_epoch_of_a_newcomer_is_compared() {
    let mut pair = asking();
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    pair.exchange();
    pair.primary.begin(b"");
    pair.exchange();
    pair.backup.guest.write_u64(13);
    pair.primary.end();
    pair.backup.end();
    pair.primary.idle_ns(2 * HEARTBEAT_NS);
    pair.exchange();
    assert!(matches!(pair.backup.stop, Some(StopReason::Diverged(divergence)) if divergence.epoch == 4));
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.replica.mode(), Mode::Solo);
}

/// Its disk does what the primary's does, but it could not take over.
#[test]
fn a_primary_whose_disk_fails_does_not_leave_the_guest_to_a_newcomer_before_the_record_is_paired() {
    let mut pair = asking();
    pair.primary.epoch(b"four");
    pair.deliver_to_backup();
    pair.backup.catch_up();
    pair.backup.replica.note_disks(9, true);
    pair.backup.flush();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.replica.peer_disks_done_below(), 9);
    assert!(!pair.primary.replica.gives_way(8));
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    assert!(pair.primary.replica.gives_way(8), "now it can");
}
