//! P6, P7 and the arbiter: every way to lose the peer.

use super::harness::*;
use crate::arbiter::ArbiterRecord;
use crate::event::{Event, EventReader, Uncertain};
use crate::link::{GoodbyeReason, Message};
use crate::replica::{Blocked, Command, EVERY_DEVICE, Gate, Input, Phase, StopReason};
use crate::{Discipline, Mode, Role};

fn says_superseded(node: &Node) -> bool {
    matches!(node.sent.back(), Some(Owned::Small(Message::Goodbye(goodbye)))
        if goodbye.reason == GoodbyeReason::Superseded && goodbye.generation == 2)
}

#[test]
fn p6_the_backup_consumes_its_log_and_is_promoted_with_the_grant() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    for _ in 0..3 {
        pair.primary.epoch(b"x");
    }
    pair.deliver_to_backup();
    pair.backup.peer_dead();
    assert_eq!(pair.backup.requests, [(1, 1)], "the death is certain: the arbiter is asked at once");
    assert_eq!(pair.backup.phase(), Phase::AwaitingGrant { role: Role::Backup });
    pair.backup.end();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert_eq!(pair.backup.phase(), Phase::Promoting);
    assert_eq!(pair.backup.promotion, None, "the failover epochs come first");
    pair.backup.end();
    pair.backup.end();
    let promotion = pair.backup.promotion.expect("the log is consumed");
    assert_eq!(promotion.generation, 2);
    assert_eq!(promotion.first_own_epoch, 5);
    assert_eq!(promotion.resend_from_epoch, 2, "the primary had told only of epoch 1");
    assert_eq!(promotion.clocks.monotonic_ns, pair.primary.now_ns);
    assert_eq!(pair.backup.released, 4);
    assert_eq!(pair.backup.gate(), Gate::Ready);
    assert_eq!((pair.backup.replica.role(), pair.backup.replica.mode()), (Role::Primary, Mode::Solo));
}

#[test]
fn p6_waits_for_the_grant_when_the_log_is_consumed_first() {
    let mut pair = Pair::revised();
    pair.primary.epoch(b"x");
    pair.deliver_to_backup();
    pair.backup.peer_dead();
    pair.backup.end();
    assert_eq!(pair.backup.promotion, None);
    assert_eq!(pair.backup.gate(), Gate::Blocked(Blocked::Backup));
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert!(pair.backup.promotion.is_some());
    assert_eq!(pair.backup.released, 1);
}

#[test]
fn p7_the_first_own_epoch_begins_with_an_uncertain_event_and_no_other_does() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.backup.peer_dead();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    let mut events = std::vec::Vec::new();
    Event::ConsoleInput(b"hi").append_to(&mut events).expect("short");
    pair.backup.begin(&events);
    let record = pair.backup.replica.record(2).expect("it runs").clone();
    let seen: Result<std::vec::Vec<_>, _> = EventReader::new(&record.events).collect();
    let uncertain = Event::Uncertain(Uncertain { device: EVERY_DEVICE, operation: Uncertain::EVERY_OPERATION });
    assert_eq!(seen, Ok(std::vec![uncertain, Event::ConsoleInput(b"hi")]));
    pair.backup.end();
    pair.backup.begin(&events);
    assert_eq!(pair.backup.replica.record(3).map(|record| record.events.clone()), Some(events));
}

#[test]
fn outputs_held_by_a_primary_without_backup_leave_with_the_grant() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.epoch(b"");
    pair.primary.peer_dead();
    assert_eq!(pair.primary.phase(), Phase::AwaitingGrant { role: Role::Primary });
    assert_eq!(pair.primary.released, 1);
    pair.primary.sent.clear();
    pair.primary.epoch(b"");
    assert!(pair.primary.sent.is_empty(), "nobody is there to send to");
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.released, 3);
    assert!(pair.primary.commands.contains(&Command::GoSolo { generation: 2 }));
    assert_eq!(pair.primary.phase(), Phase::SoloAtBoundary);
}

#[test]
fn a_primary_without_answer_runs_only_to_its_bounds() {
    let mut pair = Pair::revised();
    pair.primary.close_link();
    for _ in 0..8 {
        pair.primary.epoch(b"");
    }
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Arbiter));
    assert_eq!(pair.primary.released, 0);
    let mut pair = Pair::new(Discipline::Original);
    pair.primary.close_link();
    pair.primary.epoch(b"");
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Arbiter));
}

#[test]
fn a_cut_link_prefers_the_primary_and_exactly_one_goes_on() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.epoch(b"");
    pair.primary.close_link();
    pair.backup.close_link();
    assert_eq!(pair.primary.requests.len(), 1);
    assert_eq!(pair.backup.requests.len(), 0, "the backup lets the primary come first");
    assert_eq!(pair.backup.phase(), Phase::Suspecting);
    pair.backup.idle_ns(HEARTBEAT_NS);
    assert_eq!(pair.backup.requests.len(), 1);
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert_eq!(pair.primary.released, 2);
    assert_eq!(stops(&pair.backup), [StopReason::Superseded { generation: 2 }]);
    assert_eq!(pair.backup.promotion, None);
}

#[test]
fn a_cut_link_with_a_slow_primary_goes_to_the_backup() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.epoch(b"");
    pair.primary.close_link();
    pair.backup.close_link();
    pair.backup.idle_ns(HEARTBEAT_NS);
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert!(pair.backup.promotion.is_some());
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(stops(&pair.primary), [StopReason::Superseded { generation: 2 }]);
    assert_eq!(pair.primary.released, 1, "what the backup does not hold never left");
}

#[test]
fn a_backup_with_a_cut_link_consumes_its_log_before_it_asks() {
    let mut pair = Pair::revised();
    pair.primary.epoch(b"");
    pair.primary.epoch(b"");
    pair.deliver_to_backup();
    pair.backup.close_link();
    pair.backup.idle_ns(10 * HEARTBEAT_NS);
    assert_eq!(pair.backup.requests.len(), 0);
    pair.backup.end();
    assert_eq!(pair.backup.requests.len(), 0);
    pair.backup.end();
    assert_eq!(pair.backup.requests.len(), 1);
    // The death, learnt later, changes nothing: it has asked.
    pair.backup.peer_dead();
    assert_eq!(pair.backup.requests.len(), 1);
}

#[test]
fn the_death_of_the_primary_cuts_the_wait_short() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.backup.close_link();
    assert_eq!(pair.backup.requests.len(), 0);
    pair.backup.peer_dead();
    assert_eq!(pair.backup.requests.len(), 1);
}

#[test]
fn silence_of_the_primary_leads_to_the_arbiter() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.begin(b"");
    pair.backup.idle_ns(FAILURE_NS - 1);
    assert_eq!(pair.backup.phase(), Phase::AtBoundary { role: Role::Backup });
    pair.backup.idle_ns(1);
    assert_eq!(pair.backup.phase(), Phase::Suspecting);
    pair.backup.idle_ns(HEARTBEAT_NS);
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert!(pair.backup.promotion.is_some());
    assert!(says_superseded(&pair.backup), "the link is open: a paused primary will find this");
    // The old primary continues: it finds the messages before it may judge by time.
    pair.primary.advance_ns(2 * FAILURE_NS);
    pair.primary.end();
    let released = pair.primary.released;
    pair.deliver_to_primary();
    assert_eq!(stops(&pair.primary), [StopReason::Superseded { generation: 2 }]);
    assert_eq!(pair.primary.released, released);
}

#[test]
fn a_suspicion_by_silence_ends_when_the_peer_is_heard_in_time() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.backup.idle_ns(FAILURE_NS);
    assert_eq!(pair.backup.phase(), Phase::Suspecting);
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.phase(), Phase::AtBoundary { role: Role::Backup });
    pair.backup.idle_ns(HEARTBEAT_NS);
    assert_eq!(pair.backup.requests.len(), 0);
}

#[test]
fn silence_of_the_backup_leads_to_a_solo_primary_and_the_backup_stops() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.epoch(b"");
    pair.primary.idle_ns(FAILURE_NS);
    assert_eq!(pair.primary.phase(), Phase::AwaitingGrant { role: Role::Primary });
    let heartbeats = pair.primary.sent.len();
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.sent.len(), heartbeats + 1);
    assert!(says_superseded(&pair.primary));
    pair.backup.advance_ns(2 * FAILURE_NS);
    pair.deliver_to_backup();
    assert_eq!(stops(&pair.backup), [StopReason::Superseded { generation: 2 }]);
}

#[test]
fn whoever_was_paused_itself_does_not_judge_its_peer_once() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.backup.advance_ns(10 * FAILURE_NS);
    pair.backup.tick();
    assert_eq!(pair.backup.phase(), Phase::AtBoundary { role: Role::Backup });
    // Paused again without a word from the peer in between: now the silence counts.
    pair.backup.advance_ns(10 * FAILURE_NS);
    pair.backup.tick();
    assert_eq!(pair.backup.phase(), Phase::Suspecting);
}

#[test]
fn after_a_pause_a_whole_window_of_silence_still_leads_to_the_arbiter() {
    let mut pair = Pair::revised();
    pair.backup.advance_ns(10 * FAILURE_NS);
    pair.backup.tick();
    pair.backup.idle_ns(FAILURE_NS + HEARTBEAT_NS);
    assert_eq!(pair.backup.requests.len(), 1);
}

#[test]
fn death_during_pairing_lets_either_survivor_start_alone_from_epoch_1() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.backup.peer_dead();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    let promotion = pair.backup.promotion.expect("it is active");
    assert_eq!((promotion.first_own_epoch, promotion.resend_from_epoch), (1, 1));
    pair.backup.epoch(b"");
    assert_eq!(pair.backup.replica.record(1).map(|r| r.events.len()), Some(0), "nothing was outstanding");
    assert_eq!(pair.backup.released, 1);

    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.primary.peer_dead();
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Arbiter));
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    pair.primary.epoch(b"");
    assert_eq!(pair.primary.released, 1);
}

#[test]
fn a_peer_that_never_says_hello_is_given_up() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.primary.idle_ns(PAIRING_NS - 1);
    assert_eq!(pair.primary.phase(), Phase::Pairing);
    pair.primary.idle_ns(1);
    assert_eq!(pair.primary.phase(), Phase::AwaitingGrant { role: Role::Primary });
    pair.backup.idle_ns(PAIRING_NS + HEARTBEAT_NS);
    assert_eq!(pair.backup.requests.len(), 1);
}

#[test]
fn unanswered_requests_are_repeated_ever_more_rarely() {
    let mut pair = Pair::revised();
    pair.primary.close_link();
    pair.primary.idle_ns(1_000 * MS);
    let requests = pair.primary.requests.clone();
    assert!((10..=20).contains(&requests.len()), "{} requests in a second", requests.len());
    assert!(requests.iter().all(|&request| request == (1, 1)), "it is the same question");
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.phase(), Phase::SoloAtBoundary);
    assert_eq!(pair.primary.replica.next_deadline_ns(), u64::MAX);
}

#[test]
fn late_duplicated_and_foreign_answers_are_harmless() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    let grant_to_us = ArbiterRecord { generation: 2, active: PRIMARY, mode: Mode::Solo };
    let reply = |request_id, granted, record| Input::ArbiterReply { request_id, granted, record };
    // Never asked.
    pair.primary.step(reply(1, true, grant_to_us));
    assert_eq!(pair.primary.phase(), Phase::AtBoundary { role: Role::Primary });
    pair.primary.close_link();
    // Another question, another generation, another mode, not granted.
    pair.primary.step(reply(9, true, grant_to_us));
    pair.primary.step(reply(1, true, ArbiterRecord { generation: 3, ..grant_to_us }));
    pair.primary.step(reply(1, true, ArbiterRecord { generation: 0, ..grant_to_us }));
    pair.primary.step(reply(1, true, ArbiterRecord { mode: Mode::Paired, ..grant_to_us }));
    pair.primary.step(reply(1, false, grant_to_us));
    // The arbiter would not decide: the record is as it was, whoever is active in it.
    pair.primary.step(reply(1, false, ArbiterRecord { generation: 1, active: BACKUP, mode: Mode::Paired }));
    assert_eq!(pair.primary.phase(), Phase::AwaitingGrant { role: Role::Primary });
    pair.primary.step(reply(1, true, grant_to_us));
    assert_eq!(pair.primary.phase(), Phase::SoloAtBoundary);
    let commands = pair.primary.commands.len();
    pair.primary.step(reply(1, true, grant_to_us));
    pair.primary.step(reply(1, false, ArbiterRecord { generation: 2, active: BACKUP, mode: Mode::Solo }));
    pair.primary.step(Input::Superseded { generation: 2 });
    assert_eq!(pair.primary.commands.len(), commands);
}

#[test]
fn a_newer_generation_of_the_peer_always_wins() {
    for state in 0..3 {
        let mut pair = Pair::revised();
        if state > 0 {
            pair.primary.epoch(b"");
        }
        if state > 1 {
            pair.primary.close_link();
        }
        pair.primary.step(Input::Superseded { generation: 1 });
        assert_eq!(pair.primary.stop, None, "that is this replica's own generation");
        pair.primary.step(Input::Superseded { generation: 2 });
        assert_eq!(stops(&pair.primary), [StopReason::Superseded { generation: 2 }]);
        assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Stopped));
        assert_eq!(pair.primary.released, 0);
    }
}

#[test]
fn records_that_come_while_the_arbiter_is_asked_are_part_of_the_log() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.backup.peer_dead();
    pair.primary.epoch(b"late");
    pair.deliver_to_backup();
    assert_eq!(pair.backup.running, Some(2));
    assert_eq!(pair.backup.sent_kinds(), ["ack"]);
    pair.deliver_to_primary();
    assert_eq!(pair.primary.released, 2, "acknowledged, so the backup will run it before it is promoted");
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert_eq!(pair.backup.promotion, None);
    // After the grant the log is closed, or a busy old primary would put off the promotion for ever.
    pair.primary.epoch(b"too late");
    pair.deliver_to_backup();
    pair.backup.end();
    assert_eq!(pair.backup.promotion.map(|p| p.first_own_epoch), Some(3));
    assert_eq!(pair.primary.released, 2);
}

#[test]
fn a_shutdown_stops_both() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.step(Input::Shutdown);
    assert_eq!(stops(&pair.primary), [StopReason::Shutdown]);
    pair.deliver_to_backup();
    assert_eq!(stops(&pair.backup), [StopReason::Shutdown]);
}
