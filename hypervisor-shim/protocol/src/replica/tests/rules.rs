//! P1 to P5, output commit, the two disciplines, the bounds and the economy of messages.

use super::harness::*;
use crate::link::{Ack, Heartbeat, Message};
use crate::replica::{Blocked, Command, Config, ConfigError, Gate, Phase, Replica, StopReason};
use crate::{Discipline, Mode, Role};

fn last_ack(node: &Node) -> Ack {
    match node.sent.back() {
        Some(Owned::Small(Message::Ack(ack))) => *ack,
        other => panic!("expected an acknowledgement, got {other:?}"),
    }
}

#[test]
fn epoch_1_starts_only_when_both_agreed() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    assert_eq!(pair.primary.phase(), Phase::Pairing);
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Pairing));
    let hello_of_backup: std::vec::Vec<_> = pair.backup.sent.drain(..).collect();
    pair.primary.take(&hello_of_backup);
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Pairing), "the backup has not seen this side's hello");
    pair.deliver_to_backup();
    assert_eq!(pair.backup.sent_kinds(), ["ack"]);
    pair.deliver_to_primary();
    assert_eq!(pair.primary.gate(), Gate::Ready);
    assert_eq!(pair.backup.gate(), Gate::Blocked(Blocked::Backup));
}

#[test]
fn p1_events_reach_the_backup_as_the_primary_saw_them() {
    let mut pair = Pair::revised();
    pair.primary.begin(b"an event");
    let ours = pair.primary.replica.record(1).cloned();
    pair.deliver_to_backup();
    let theirs = pair.backup.replica.record(1).cloned();
    assert_eq!(ours, theirs);
    assert_eq!(theirs.map(|record| record.events), Some(b"an event".to_vec()));
}

#[test]
fn p2_the_clocks_and_the_end_of_the_epoch_before_travel_with_the_start_of_the_next() {
    let mut pair = Pair::revised();
    pair.epoch(b"one");
    let digest = pair.primary.guest.finish();
    pair.pass_ns(5);
    pair.primary.begin(b"two");
    let Some(Owned::Start(record)) = pair.primary.sent.back() else { panic!("the record is sent") };
    assert_eq!(record.prev_digest, digest);
    assert_eq!(record.clocks.monotonic_ns, pair.primary.now_ns);
    assert_eq!(pair.primary.sent.len(), 1, "one message an epoch");
}

#[test]
fn p2_revised_does_not_wait_for_the_backup() {
    let mut pair = Pair::revised();
    for _ in 0..8 {
        pair.primary.epoch(b"");
    }
    assert_eq!(pair.primary.released, 0, "but its outputs do");
}

#[test]
fn p2_original_waits_for_all_acknowledgements() {
    let mut pair = Pair::new(Discipline::Original);
    pair.primary.epoch(b"");
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Acks));
    pair.deliver_to_backup();
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Acks));
    pair.deliver_to_primary();
    assert_eq!(pair.primary.gate(), Gate::Ready);
    assert_eq!(pair.primary.released, 1);
}

#[test]
fn p3_p4_the_backup_runs_only_what_the_log_says() {
    let mut pair = Pair::revised();
    assert_eq!(pair.backup.gate(), Gate::Blocked(Blocked::Backup));
    pair.backup.idle_ns(FAILURE_NS / 2);
    assert_eq!(pair.backup.running, None);
    pair.primary.begin(b"x");
    pair.deliver_to_backup();
    assert_eq!(pair.backup.running, Some(1));
}

#[test]
fn p5_the_backup_ends_an_epoch_and_waits_for_the_next_record() {
    let mut pair = Pair::revised();
    pair.primary.epoch(b"a");
    pair.primary.begin(b"b");
    pair.deliver_to_backup();
    assert_eq!(pair.backup.running, Some(1));
    pair.backup.end();
    assert_eq!(pair.backup.running, Some(2), "the next epoch follows at once when its record is there");
    pair.backup.end();
    assert_eq!(pair.backup.running, None);
    assert_eq!(pair.backup.phase(), Phase::AtBoundary { role: Role::Backup });
    assert_eq!(pair.backup.released, 0, "a backup releases nothing");
}

#[test]
fn output_commit_needs_the_end_of_the_epoch_and_the_record_that_starts_it() {
    let mut pair = Pair::revised();
    pair.primary.begin(b"");
    pair.deliver_to_backup();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.released, 0, "acknowledged, but still running");
    pair.primary.end();
    assert_eq!(pair.primary.released, 1, "the backup need not have run it");
    assert_eq!(pair.backup.ran_through, 0);
    pair.primary.epoch(b"");
    assert_eq!(pair.primary.released, 1, "ended, but not acknowledged");
    pair.deliver_to_backup();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.released, 2);
}

#[test]
fn epochs_without_outputs_are_released_without_a_command() {
    let mut pair = Pair::revised();
    pair.primary.begin(b"");
    pair.primary.end_quietly();
    pair.exchange();
    assert_eq!(pair.primary.replica.status(pair.primary.now_ns).released_through, 1);
    assert_eq!(pair.primary.released, 0);
    pair.primary.epoch(b"");
    pair.backup.catch_up();
    pair.exchange();
    assert_eq!(pair.primary.released, 2);
}

#[test]
fn the_backup_discards_what_the_primary_says_it_released() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.epoch(b"");
    assert_eq!(pair.primary.released, 2);
    assert_eq!(pair.backup.discarded, 1, "what the record of epoch 2 could tell");
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.discarded, 2);
}

#[test]
fn a_release_is_claimed_only_when_the_devices_have_confirmed_it() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.primary = Node::new(Config { confirms_releases: true, ..config(Role::Primary) });
    pair.exchange();
    pair.epoch(b"");
    pair.epoch(b"");
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert_eq!((pair.primary.released, pair.backup.discarded), (2, 0));
    let mut out = std::vec::Vec::new();
    pair.primary.replica.confirm_released(pair.primary.now_ns, 99, &mut out);
    assert_eq!(out, []);
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.discarded, 2, "no more than was commanded");
}

/// The caller knows of outputs, and not of epochs without: it confirms the last epoch that had some.
#[test]
fn epochs_without_outputs_that_leave_with_others_need_no_confirmation() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.primary = Node::new(Config { confirms_releases: true, ..config(Role::Primary) });
    pair.exchange();
    pair.primary.epoch(b"");
    pair.primary.begin(b"");
    pair.primary.end_quietly();
    pair.exchange();
    pair.backup.catch_up();
    pair.exchange();
    assert_eq!(pair.primary.released, 2, "both at once");
    let mut out = std::vec::Vec::new();
    pair.primary.replica.confirm_released(pair.primary.now_ns, 1, &mut out);
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.discarded, 2);
}

#[test]
fn a_claim_never_falls_back_behind_epochs_that_had_no_outputs() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.primary = Node::new(Config { confirms_releases: true, ..config(Role::Primary) });
    pair.exchange();
    pair.epoch(b"");
    let mut out = std::vec::Vec::new();
    pair.primary.replica.confirm_released(pair.primary.now_ns, 1, &mut out);
    for _ in 0..2 {
        pair.primary.begin(b"");
        pair.primary.end_quietly();
        pair.exchange();
        pair.backup.catch_up();
        pair.exchange();
    }
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.discarded, 3, "nothing of the two quiet epochs is left to confirm");
    // Commanded but not confirmed: the claim stays where it was.
    pair.epoch(b"");
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert!(!pair.backup.link_closed, "{:?}", pair.backup.replica.status(pair.backup.now_ns).link_fault);
    assert_eq!(pair.backup.discarded, 3);
    pair.primary.replica.confirm_released(pair.primary.now_ns, 4, &mut out);
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.discarded, 4);
}

#[test]
fn one_acknowledgement_covers_all_that_came_and_goes_before_the_guest_runs() {
    let mut pair = Pair::revised();
    for _ in 0..3 {
        pair.primary.epoch(b"");
    }
    let before = pair.backup.commands.len();
    pair.deliver_to_backup();
    let round = &pair.backup.commands[before..];
    assert!(matches!(round, [Command::Send(_), Command::RunEpoch { epoch: 1 }]), "{round:?}");
    let ack = last_ack(&pair.backup);
    assert_eq!((ack.received_through, ack.executed_through), (3, 0));
}

#[test]
fn a_steady_pair_sends_one_message_an_epoch_each_way() {
    let mut pair = Pair::revised();
    for round in 0..20 {
        pair.pass_ns(MS / 4);
        pair.primary.epoch(b"frame");
        assert_eq!(pair.primary.sent.len(), 1, "round {round}");
        pair.deliver_to_backup();
        pair.backup.catch_up();
        assert_eq!(pair.backup.sent.len(), 1, "round {round}");
        pair.deliver_to_primary();
    }
    let status = pair.primary.replica.status(pair.primary.now_ns);
    assert_eq!(status.executed_by_backup, 19, "the last one is told with the next record's acknowledgement");
}

#[test]
fn progress_is_told_in_time_for_the_lag_bound_when_no_record_follows() {
    let mut pair = Pair::revised();
    pair.primary.epoch(b"");
    pair.deliver_to_backup();
    pair.backup.catch_up();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.replica.status(pair.primary.now_ns).lag_epochs, 1);
    pair.backup.idle_ns(MAX_LAG_NS / 4);
    assert_eq!(pair.backup.sent_kinds(), ["ack"]);
    pair.deliver_to_primary();
    assert_eq!(pair.primary.replica.status(pair.primary.now_ns).lag_epochs, 0);
    pair.primary.advance_ns(10 * MAX_LAG_NS);
    assert_eq!(pair.primary.gate(), Gate::Ready, "an idle pair does not lag");
}

#[test]
fn a_backup_that_is_behind_tells_so_rarely() {
    let mut pair = Pair::revised();
    for _ in 0..8 {
        pair.primary.epoch(b"");
    }
    pair.deliver_to_backup();
    pair.backup.sent.clear();
    pair.backup.advance_ns(MAX_LAG_NS / 2);
    for _ in 0..8 {
        pair.backup.advance_ns(MAX_LAG_NS / 64);
        pair.backup.end();
    }
    assert_eq!(pair.backup.sent_kinds(), ["ack"], "at most one in an eighth of the bound");
}

#[test]
fn the_primary_slows_down_rather_than_let_the_backup_lag() {
    let mut pair = Pair::revised();
    pair.primary.epoch(b"");
    pair.pass_ns(MAX_LAG_NS / 2);
    pair.primary.epoch(b"");
    pair.deliver_to_backup();
    pair.deliver_to_primary();
    pair.pass_ns(MAX_LAG_NS / 2);
    assert_eq!(pair.primary.gate(), Gate::Ready, "at the bound");
    pair.pass_ns(1);
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Lag));
    assert_eq!(pair.primary.replica.status(pair.primary.now_ns).lag_ns, MAX_LAG_NS + 1);
    pair.backup.end();
    assert_eq!(pair.backup.sent_kinds(), ["ack"], "late as it is, it tells at once");
    pair.deliver_to_primary();
    assert_eq!(pair.primary.gate(), Gate::Ready, "epoch 2 began half the bound ago");
}

#[test]
fn the_number_and_the_bytes_of_outstanding_epochs_are_bounded() {
    let mut pair = Pair::revised();
    for _ in 0..8 {
        pair.primary.epoch(b"");
    }
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Outstanding));
    let mut pair = Pair::revised();
    pair.primary.epoch(&[1; 2048]);
    assert_eq!(pair.primary.gate(), Gate::Ready);
    pair.primary.epoch(&[2; 2048]);
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Outstanding));
    pair.exchange();
    pair.backup.catch_up();
    pair.backup.idle_ns(MAX_LAG_NS);
    pair.deliver_to_primary();
    assert_eq!(pair.primary.gate(), Gate::Ready);
}

#[test]
fn heartbeats_flow_while_the_guest_computes_and_measure_the_round_trip() {
    let mut pair = Pair::revised();
    pair.primary.begin(b"");
    pair.exchange();
    for _ in 0..50 {
        pair.primary.now_ns = pair.primary.replica.next_deadline_ns();
        pair.primary.tick();
        pair.deliver_to_backup();
        pair.primary.advance_ns(300);
        pair.deliver_to_primary();
        pair.backup.idle_ns(HEARTBEAT_NS + 300);
    }
    assert_eq!(pair.primary.running, Some(1));
    assert_eq!(pair.primary.requests.len() + pair.backup.requests.len(), 0);
    let rtt_ns = pair.primary.replica.status(pair.primary.now_ns).link_rtt_ns;
    assert_eq!(rtt_ns, 300);
}

#[test]
fn digests_are_compared_with_the_next_record() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.epoch(b"");
    pair.exchange();
    pair.backup.guest.write_u64(0xbad);
    pair.backup.end();
    assert_eq!(pair.backup.stop, None, "the primary's digest of epoch 2 is not known yet");
    pair.primary.begin(b"");
    pair.deliver_to_backup();
    assert!(matches!(pair.backup.phase(), Phase::Stopped(crate::replica::StopReason::Diverged(d)) if d.epoch == 2));
    assert_eq!(pair.backup.ran_through, 2, "the epoch after the divergence is not run");
}

#[test]
fn digests_are_compared_with_heartbeats_when_no_record_follows() {
    let mut pair = Pair::revised();
    pair.primary.epoch(b"");
    pair.deliver_to_backup();
    pair.backup.guest.write_u64(0xbad);
    pair.backup.end();
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert!(matches!(pair.backup.phase(), Phase::Stopped(crate::replica::StopReason::Diverged(d)) if d.epoch == 1));
    // The heartbeat first, the end of the epoch after it.
    let mut pair = Pair::revised();
    pair.primary.epoch(b"");
    pair.primary.idle_ns(HEARTBEAT_NS);
    pair.deliver_to_backup();
    assert_eq!(pair.backup.running, Some(1));
    pair.backup.guest.write_u64(0xbad);
    pair.backup.end();
    assert!(matches!(pair.backup.phase(), Phase::Stopped(crate::replica::StopReason::Diverged(d)) if d.epoch == 1));
}

/// A pair that has agreed and compares each epoch before the next.
fn comparing(discipline: Discipline) -> Pair {
    let mut pair = Pair::of(|config| Config { identity: identity(discipline), compares_first: true, ..config });
    pair.exchange();
    pair
}

#[test]
fn an_epoch_that_is_compared_first_is_done_only_then() {
    for discipline in [Discipline::Original, Discipline::Revised] {
        let mut pair = comparing(discipline);
        pair.primary.epoch(b"one");
        assert_eq!(pair.primary.sent_kinds(), ["start", "heartbeat"], "the digest does not wait for the next record");
        assert!(!pair.primary.replica.may_delay_records());
        pair.exchange();
        assert_eq!(pair.primary.released, 0, "acknowledged, but not compared");
        assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Acks));
        pair.backup.end();
        assert_eq!(pair.backup.sent_kinds(), ["ack"], "the primary waits for it");
        pair.exchange();
        assert_eq!((pair.primary.released, pair.primary.gate()), (1, Gate::Ready));
        pair.epoch(b"two");
        assert_eq!((pair.primary.released, pair.primary.gate()), (2, Gate::Ready));
    }
}

#[test]
fn a_backup_that_is_faster_than_the_digest_does_not_count_the_epoch_as_compared() {
    let mut pair = comparing(Discipline::Revised);
    pair.primary.begin(b"one");
    pair.exchange();
    pair.backup.end();
    pair.exchange();
    assert_eq!(pair.primary.replica.status(0).executed_by_backup, 0);
    pair.primary.end();
    assert_eq!(pair.primary.released, 0);
    pair.exchange();
    assert_eq!((pair.primary.released, pair.primary.gate()), (1, Gate::Ready));
}

#[test]
fn guests_that_are_compared_first_stand_where_they_came_apart() {
    for backup_is_faster in [false, true] {
        let mut pair = comparing(Discipline::Revised);
        pair.epoch(b"one");
        pair.backup.guest.write_u64(1);
        pair.primary.begin(b"two");
        pair.exchange();
        if backup_is_faster {
            pair.backup.end();
            pair.exchange();
            pair.primary.end();
        } else {
            pair.primary.end();
            pair.exchange();
            pair.backup.end();
        }
        pair.exchange();
        let Some(StopReason::Diverged(divergence)) = pair.backup.stop else { panic!("it is noticed") };
        let primary = &pair.primary;
        assert_eq!((divergence.epoch, primary.ran_through, pair.backup.ran_through), (2, 2, 2));
        assert_eq!(primary.released, 1, "no output of that epoch has left");
        assert_eq!(primary.gate(), Gate::Blocked(Blocked::Arbiter));
    }
}

#[test]
fn a_diverged_pair_releases_nothing_until_the_arbiter_lets_the_primary_go_on() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.epoch(b"");
    pair.primary.epoch(b"");
    pair.primary.begin(b"");
    pair.deliver_to_backup();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.released, 3);
    pair.backup.guest.write_u64(0xbad);
    pair.backup.end();
    assert_eq!(pair.backup.sent_kinds(), ["diverged"]);
    assert!(matches!(pair.backup.phase(), Phase::Stopped(_)));
    pair.deliver_to_primary();
    assert!(pair.primary.link_closed);
    pair.primary.end();
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Arbiter));
    assert_eq!(pair.primary.released, 3, "epoch 4 was acknowledged, but by a backup whose state differs");
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.gate(), Gate::Ready);
    assert_eq!(pair.primary.released, 4);
    let status = pair.primary.replica.status(pair.primary.now_ns);
    assert_eq!(status.divergence.map(|d| d.epoch), Some(2));
    assert_eq!((status.mode, status.generation), (Mode::Solo, 2));
}

#[test]
fn a_solo_replica_sends_nothing_and_releases_at_once() {
    let mut node = Node::new(Config { mode: Mode::Solo, ..config(Role::Primary) });
    for epoch in 1..10 {
        node.epoch(b"x");
        assert_eq!(node.released, epoch);
    }
    assert_eq!(node.replica.next_deadline_ns(), u64::MAX);
    node.close_link();
    node.peer_dead();
    node.tick();
    assert_eq!(node.sent.len() + node.requests.len(), 0);
    assert_eq!(node.phase(), Phase::SoloAtBoundary);
}

#[test]
fn the_guests_monotonic_clock_never_goes_back() {
    let mut node = Node::new(Config { mode: Mode::Solo, ..config(Role::Primary) });
    node.epoch(b"");
    node.now_ns -= 5;
    node.epoch(b"");
    assert_eq!(node.replica.record(2).map(|record| record.clocks.monotonic_ns), Some(START_NS));
}

#[test]
fn buffers_come_back_for_reuse() {
    let mut pair = Pair::revised();
    pair.epoch(&[1; 512]);
    pair.epoch(&[2; 512]);
    assert!(pair.primary.replica.take_buffer().capacity() >= 512);
    assert!(pair.backup.replica.take_buffer().capacity() >= 512);
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let refused = |config| Replica::new(config, 0).err();
    let good = config(Role::Backup);
    assert_eq!(refused(good.clone()), None);
    assert_eq!(refused(Config { mode: Mode::Solo, ..good.clone() }), Some(ConfigError::SoloBackup));
    assert_eq!(refused(Config { max_lag_ns: 0, ..good.clone() }), Some(ConfigError::Zero("max_lag_ns")));
    assert_eq!(
        refused(Config { max_epoch_events_bytes: 100, ..good.clone() }),
        Some(ConfigError::EpochEventsTooShort { max_epoch_events_bytes: 100 })
    );
    assert_eq!(
        refused(Config { failure_timeout_ns: HEARTBEAT_NS, ..good }),
        Some(ConfigError::FailureTimeoutTooShort { failure_timeout_ns: HEARTBEAT_NS, at_least_ns: 4 * HEARTBEAT_NS })
    );
}

#[test]
fn heartbeats_say_what_ended_and_what_was_released() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.idle_ns(HEARTBEAT_NS);
    let expected = Heartbeat {
        ended_epoch: 1,
        ended_digest: pair.primary.guest.finish(),
        released_through: 1,
        sent_ns: pair.primary.now_ns,
    };
    assert_eq!(pair.primary.sent.back(), Some(&Owned::Small(Message::Heartbeat(expected))));
}
