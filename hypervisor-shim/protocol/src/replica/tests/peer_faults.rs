//! What a peer must not send: refusals with the reason, and links that count as failed.

use super::harness::*;
use crate::link::{Ack, EpochStart, Goodbye, GoodbyeReason, Heartbeat, Identity, IdentityField, Message};
use crate::replica::{Config, LinkFault, Phase, ProtocolFault, StopReason};
use crate::{Clocks, Discipline, ReplicaId, Role};

fn refusal(change: impl FnOnce(&mut Config)) -> (IdentityField, std::string::String) {
    let mut pair = Pair::unpaired(Discipline::Revised);
    let mut other = config(Role::Backup);
    change(&mut other);
    pair.backup = Node::new(other);
    pair.exchange();
    let (Some(StopReason::Refused(ours)), Some(StopReason::Refused(theirs))) = (pair.primary.stop, pair.backup.stop)
    else {
        panic!("both refuse: {:?}, {:?}", pair.primary.stop, pair.backup.stop);
    };
    assert_eq!(ours, theirs.swapped(), "both name the same difference");
    (ours.field, std::format!("{ours}"))
}

fn refused_identity(change: impl FnOnce(&mut Identity)) -> (IdentityField, std::string::String) {
    refusal(|config| change(&mut config.identity))
}

#[test]
fn unequal_replicas_are_refused_on_both_sides_saying_which_differs() {
    let (field, text) = refused_identity(|identity| identity.guest_memory_bytes = 32 << 20);
    assert_eq!(field, IdentityField::GuestMemory);
    assert_eq!(
        text,
        "guest memory differs: 16777216 bytes here, 33554432 bytes at the peer; start both replicas with the same \
         memory size"
    );
    assert_eq!(refused_identity(|identity| identity.image[31] ^= 1).0, IdentityField::Image);
    assert_eq!(refused_identity(|identity| identity.cpu[0] ^= 1).0, IdentityField::Cpu);
    assert_eq!(refused_identity(|identity| identity.guest_config[0] ^= 1).0, IdentityField::GuestConfig);
    assert_eq!(refused_identity(|identity| identity.abi_version += 1).0, IdentityField::AbiVersion);
    assert_eq!(refused_identity(|identity| identity.protocol_version += 1).0, IdentityField::ProtocolVersion);
    assert_eq!(refused_identity(|identity| identity.epoch_source += 1).0, IdentityField::EpochSource);
    let (field, text) = refused_identity(|identity| identity.discipline = Discipline::Original);
    assert_eq!(field, IdentityField::Discipline);
    assert!(text.contains("revised here, original at the peer"), "{text}");
    assert_eq!(refusal(|config| config.role = Role::Primary).0, IdentityField::Role);
    assert_eq!(refusal(|config| config.replica = ReplicaId::ZERO).0, IdentityField::Replica);
    assert_eq!(refusal(|config| config.generation = 7).0, IdentityField::Generation);
}

#[test]
fn a_refusal_that_comes_before_the_hello_was_compared_stops_this_side_too() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    let mismatch = crate::link::Mismatch { field: IdentityField::Image, ours: 1, theirs: 2 };
    pair.backup.take(&[Owned::Small(Message::Refuse(mismatch))]);
    assert_eq!(stops(&pair.backup), [StopReason::Refused(mismatch.swapped())]);
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.backup.take(&[Owned::Small(Message::Refuse(mismatch))]);
    assert_fault(&pair.backup, ProtocolFault::Handshake);
}

fn assert_fault(node: &Node, fault: ProtocolFault) {
    assert!(node.link_closed);
    let status = node.replica.status(node.now_ns);
    assert_eq!(status.link_fault, Some(LinkFault::Protocol(fault)));
    assert!(matches!(node.phase(), Phase::Suspecting | Phase::AwaitingGrant { .. }), "{:?}", node.phase());
    assert_eq!(node.stop, None, "a bad peer costs the link, never this replica");
}

fn backup_given(message: Message<'_>) -> Node {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.backup.step(crate::replica::Input::Message(message));
    pair.backup.flush();
    pair.backup
}

fn primary_given(message: Message<'_>) -> Node {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.step(crate::replica::Input::Message(message));
    pair.primary.flush();
    pair.primary
}

fn start(epoch: u64, released_through: u64, events: &[u8]) -> Message<'_> {
    Message::EpochStart(EpochStart {
        epoch,
        prev_digest: 0,
        clocks: Clocks::default(),
        released_through,
        sent_ns: 0,
        events,
    })
}

#[test]
fn impossible_messages_to_a_backup_fail_the_link() {
    assert_fault(&backup_given(start(1, 0, b"")), ProtocolFault::EpochGap { expected: 2, got: 1 });
    assert_fault(&backup_given(start(3, 0, b"")), ProtocolFault::EpochGap { expected: 2, got: 3 });
    assert_fault(&backup_given(start(u64::MAX, 0, b"")), ProtocolFault::EpochGap { expected: 2, got: u64::MAX });
    assert_fault(&backup_given(start(2, 2, b"")), ProtocolFault::BadRelease { released_through: 2 });
    assert_fault(
        &backup_given(start(2, 1, &[0; 2049])),
        ProtocolFault::Overflow { queued_epochs: 0, queued_bytes: 2049 },
    );
    let ack = Ack { received_through: 0, executed_through: 0, disks_done_below: 0, echo_ns: 0 };
    assert_fault(&backup_given(Message::Ack(ack)), ProtocolFault::WrongRole);
    let heartbeat = Heartbeat { ended_epoch: 2, ended_digest: 0, released_through: 0, sent_ns: 0 };
    assert_fault(&backup_given(Message::Heartbeat(heartbeat)), ProtocolFault::BadHeartbeat { ended_epoch: 2 });
    let goodbye = Goodbye { reason: GoodbyeReason::Superseded, generation: 1 };
    let node = backup_given(Message::Goodbye(goodbye));
    assert_eq!(node.replica.status(node.now_ns).link_fault, Some(LinkFault::Closed));
    assert_eq!(node.phase(), Phase::Suspecting);
}

#[test]
fn impossible_messages_to_a_primary_fail_the_link() {
    for (received_through, executed_through) in [(2, 1), (1, 2), (0, 0), (u64::MAX, u64::MAX), (1, u64::MAX)] {
        let ack = Ack { received_through, executed_through, disks_done_below: 7, echo_ns: u64::MAX };
        let fault = ProtocolFault::BadAck { received_through, executed_through, disks_done_below: 7 };
        assert_fault(&primary_given(Message::Ack(ack)), fault);
    }
    assert_fault(&primary_given(start(2, 0, b"")), ProtocolFault::WrongRole);
    let goodbye = Goodbye { reason: GoodbyeReason::GuestStopped, generation: 1 };
    assert_fault(&primary_given(Message::Goodbye(goodbye)), ProtocolFault::WrongRole);
    let hello = Pair::unpaired(Discipline::Revised).backup.sent[0].clone();
    assert_fault(&primary_given(hello.message()), ProtocolFault::Handshake);
}

#[test]
fn only_an_echo_of_what_was_sent_measures_the_round_trip() {
    for (echo_ns, rtt_ns) in [(START_NS - 7, 7), (START_NS, 0), (START_NS + 1, 99), (u64::MAX, 99), (0, 99)] {
        let mut pair = Pair::revised();
        pair.primary.now_ns = START_NS;
        let ack = |echo_ns| Ack { received_through: 0, executed_through: 0, disks_done_below: 0, echo_ns };
        pair.primary.take(&[Owned::Small(Message::Ack(ack(START_NS - 99)))]);
        pair.primary.take(&[Owned::Small(Message::Ack(ack(echo_ns)))]);
        assert_eq!(pair.primary.replica.status(START_NS).link_rtt_ns, rtt_ns, "echo {echo_ns}");
    }
}

#[test]
fn a_peer_that_sends_more_than_agreed_overflows() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.primary = Node::new(Config { max_outstanding_epochs: 100, ..config(Role::Primary) });
    pair.exchange();
    for _ in 0..9 {
        pair.primary.epoch(b"");
    }
    pair.deliver_to_backup();
    assert_fault(&pair.backup, ProtocolFault::Overflow { queued_epochs: 8, queued_bytes: 0 });
    // What was accepted before is still run, and then the arbiter is asked.
    pair.backup.catch_up();
    pair.backup.idle_ns(HEARTBEAT_NS);
    assert_eq!(pair.backup.ran_through, 8);
    assert_eq!(pair.backup.requests.len(), 1);
}

#[test]
fn anything_but_a_hello_fails_an_unpaired_link() {
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.backup.take(&[Owned::Small(Message::Goodbye(Goodbye { reason: GoodbyeReason::Shutdown, generation: 1 }))]);
    assert_fault(&pair.backup, ProtocolFault::Handshake);
    let mut pair = Pair::unpaired(Discipline::Revised);
    pair.backup = Node::new(config(Role::Backup));
    let Owned::Small(Message::Hello(mut hello)) = pair.primary.sent[0].clone() else { panic!("hello comes first") };
    hello.max_epoch_events_bytes = 1;
    pair.backup.take(&[Owned::Small(Message::Hello(hello))]);
    assert_fault(&pair.backup, ProtocolFault::Handshake);
}

#[test]
fn nothing_is_taken_from_a_link_that_has_failed() {
    let mut pair = Pair::revised();
    pair.epoch(b"");
    pair.primary.epoch(b"");
    pair.deliver_to_backup();
    pair.primary.close_link();
    pair.deliver_to_primary();
    assert_eq!(pair.primary.released, 1, "an acknowledgement after the end of the link does not count");
}

#[test]
fn a_discarded_replica_stops() {
    let goodbye = Goodbye { reason: GoodbyeReason::Discarded, generation: 1 };
    assert_eq!(stops(&backup_given(Message::Goodbye(goodbye))), [StopReason::Discarded]);
}

#[test]
fn faults_and_reasons_read_as_sentences() {
    let fault = LinkFault::Protocol(ProtocolFault::EpochGap { expected: 2, got: 5 });
    assert_eq!(std::format!("{fault}"), "expected the record of epoch 2, got epoch 5");
    let stop = StopReason::Superseded { generation: 3 };
    assert_eq!(std::format!("{stop}"), "the peer is active in generation 3");
}
