//! Stable storage: outputs wait for it, and whatever becomes of the replicas, it lacks nothing that was let out.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::harness::*;
use crate::Role;
use crate::link::{Divergence, JoinState};
use crate::replica::{Blocked, Config, Gate, Input, Record, ReplayFault};

fn stored(config: Config) -> Config {
    Config { stores_log: true, ..config }
}

fn pair() -> Pair {
    let mut pair = Pair::of(stored);
    pair.exchange();
    pair
}

/// The log as it is read back: a record takes the place of another one of its epoch, and of all behind it.
fn history<'a>(stored: impl IntoIterator<Item = &'a Record>) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    for record in stored {
        let end = all.last().map_or(0, |last| last.epoch);
        assert!(record.epoch <= end + 1, "the log has a gap after epoch {end}");
        let index = record.epoch as usize - 1;
        let same = |known: &Record| (known.clocks, &known.events) == (record.clocks, &record.events);
        if !all.get(index).is_some_and(same) {
            all.truncate(index);
            all.push(record.clone());
        }
    }
    all
}

impl Node {
    fn storage_holds(&mut self, through: u64) {
        self.step(Input::Stored { through });
        self.flush();
    }
}

#[test]
fn outputs_wait_for_storage_and_for_the_backup() {
    let mut pair = pair();
    pair.primary.epoch(b"one");
    assert_eq!(pair.primary.stored.len(), 1, "handed over when the epoch began");
    pair.exchange();
    assert_eq!(pair.primary.released, 0, "the backup holds it, storage does not");
    assert!(pair.primary.replica.awaits_ack());
    pair.primary.storage_holds(1);
    assert_eq!(pair.primary.released, 1);
    pair.primary.epoch(b"two");
    pair.primary.storage_holds(2);
    assert_eq!(pair.primary.released, 1, "storage holds it, the backup does not");
    pair.exchange();
    assert_eq!(pair.primary.released, 2);
}

#[test]
fn outputs_of_a_replica_that_is_alone_wait_for_storage() {
    let mut pair = pair();
    pair.primary.epoch(b"one");
    pair.primary.peer_dead();
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    assert_eq!(pair.primary.released, 0);
    pair.primary.epoch(b"two");
    pair.primary.storage_holds(1);
    assert_eq!(pair.primary.released, 1);
    // What it cannot hold yet counts only as far as it was handed over.
    pair.primary.storage_holds(99);
    assert_eq!(pair.primary.released, 2);
    pair.primary.epoch(b"three");
    assert_eq!(pair.primary.released, 2);
}

#[test]
fn the_guests_end_waits_for_storage() {
    let mut pair = pair();
    pair.primary.begin(b"last");
    pair.primary.stop_guest();
    pair.exchange();
    assert!(pair.primary.stop.is_none());
    pair.primary.storage_holds(1);
    assert!(pair.primary.stop.is_some());
}

#[test]
fn no_epoch_begins_while_too_much_is_on_its_way_to_storage() {
    let mut pair = Pair::of(|config| Config { max_unstored_bytes: 300, ..stored(config) });
    pair.exchange();
    pair.primary.epoch(&[0; 20]);
    pair.primary.epoch(&[0; 20]);
    assert_eq!(pair.primary.gate(), Gate::Ready, "296 bytes");
    pair.primary.epoch(&[]);
    pair.exchange();
    pair.backup.catch_up();
    pair.exchange();
    assert_eq!(pair.primary.gate(), Gate::Blocked(Blocked::Storage));
    pair.primary.storage_holds(1);
    assert_eq!(pair.primary.gate(), Gate::Ready);
}

#[test]
fn a_promoted_replica_stores_again_what_storage_may_lack() {
    let mut pair = pair();
    for number in 1..=4_u8 {
        pair.primary.epoch(&[number]);
        pair.exchange();
        pair.backup.catch_up();
    }
    pair.primary.storage_holds(2);
    // The claim comes with the next record.
    pair.primary.begin(b"five");
    pair.exchange();
    pair.backup.flush();
    pair.backup.catch_up();
    assert_eq!(pair.backup.discarded, 2);
    pair.backup.peer_dead();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    assert!(pair.backup.promotion.is_some());
    let epochs: Vec<_> = pair.backup.stored.iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [3, 4, 5]);
    assert_eq!(pair.backup.released, 0, "and what follows from them waits for that");
    pair.backup.storage_holds(4);
    assert_eq!(pair.backup.released, 4);
    pair.backup.epoch(b"six");
    assert_eq!(pair.backup.released, 4);
    pair.backup.storage_holds(6);
    assert_eq!(pair.backup.released, 6);
    let all = history(pair.primary.stored[..2].iter().chain(&pair.backup.stored));
    assert_eq!(all.len(), 6);
}

#[test]
fn a_newcomer_stores_nothing_from_before_the_state_that_it_was_given() {
    let mut pair = pair();
    pair.primary.epoch(b"one");
    pair.primary.peer_dead();
    pair.primary.answer(&mut pair.arbiter, PRIMARY);
    pair.primary.sent.clear();
    pair.backup = Node::new(stored(Config { joins: true, generation: 2, ..config(Role::Backup) }));
    pair.primary.step(Input::PeerJoins);
    pair.exchange();
    let state = pair.primary.replica.join_state(b"registers");
    pair.backup.guest = pair.primary.guest;
    pair.backup.ran_through = state.epoch;
    let message = crate::link::Message::State(state);
    let mut out = vec![];
    pair.backup.replica.step(pair.backup.now_ns, Input::Message(message), &mut out);
    pair.backup.carry_out(out);
    pair.primary.replica.state_sent(pair.primary.now_ns);
    pair.backup.flush();
    pair.exchange();
    assert!(pair.primary.pairings.is_empty(), "what the newcomer cannot store again must be stored");
    pair.primary.storage_holds(1);
    assert_eq!(pair.primary.pairings.len(), 1);
    pair.primary.answer_pairing(&mut pair.arbiter, PRIMARY);
    pair.exchange();
    pair.primary.epoch(b"two");
    pair.exchange();
    pair.backup.catch_up();
    pair.backup.peer_dead();
    pair.backup.answer(&mut pair.arbiter, BACKUP);
    let epochs: Vec<_> = pair.backup.stored.iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [2]);
    pair.backup.storage_holds(2);
    assert_eq!(pair.backup.released, 2);
}

#[test]
fn storing_begins_and_ends_while_the_pair_runs() {
    let mut pair = Pair::revised();
    pair.epoch(b"one");
    for node in [&mut pair.primary, &mut pair.backup] {
        node.step(Input::StoreLog { on: true });
    }
    pair.primary.epoch(b"two");
    pair.exchange();
    assert_eq!((pair.primary.stored.len(), pair.primary.released), (1, 1));
    pair.primary.step(Input::StoreLog { on: false });
    assert_eq!(pair.primary.released, 2);
    pair.primary.epoch(b"three");
    pair.exchange();
    assert_eq!((pair.primary.stored.len(), pair.primary.released), (1, 3));
}

/// A replica that runs alone and what was stored of it.
fn recorded(epochs: &[&[u8]]) -> Node {
    let mut node = Node::new(stored(Config { mode: crate::Mode::Solo, ..config(Role::Primary) }));
    for events in epochs {
        node.epoch(events);
        node.storage_holds(node.ran_through);
    }
    node
}

/// A replica in the state after the first epoch of another.
fn resumed(of: &Node) -> Node {
    let mut node = Node::new(stored(Config { mode: crate::Mode::Solo, ..config(Role::Primary) }));
    let clocks = of.stored[0].clocks;
    let state = JoinState { epoch: 1, digest: of.digests[0], clocks, released_through: 1, state: b"" };
    node.replica.resume(&state).expect("a fresh replica");
    let record = &of.stored[0];
    node.guest.write_u64(1);
    node.guest.write_u64(record.clocks.monotonic_ns);
    node.guest.write_bytes(&record.events);
    node.ran_through = 1;
    node.released = 1;
    node
}

impl Node {
    fn replay(&mut self, record: &Record) -> Result<(), ReplayFault> {
        self.replica.replay(&record.message())?;
        self.running = Some(record.epoch);
        let digest = self.run();
        self.replica.replayed(digest, false);
        Ok(())
    }
}

#[test]
fn a_log_is_replayed_to_its_end_and_goes_on_with_what_is_uncertain() {
    let old = recorded(&[b"one", b"two", b"three"]);
    let mut new = resumed(&old);
    for record in &old.stored[1..] {
        new.replay(record).expect("the same guest");
    }
    assert_eq!(new.digests, old.digests[1..]);
    assert_eq!(new.replica.compare_replayed(old.digests[2]), Ok(()));
    assert!(new.replica.owes_uncertain());
    new.begin(b"");
    new.end();
    assert!(!new.replica.record(4).expect("runs").events.is_empty(), "the uncertain event");
    assert_eq!(new.stored.len(), 1, "the log goes on");
    assert_eq!(new.released, 1, "nothing of a replay is let out, and what is new waits");
    new.storage_holds(4);
    assert_eq!(new.released, 4);
    let late = new.replica.replay(&old.stored[2].message());
    assert_eq!(late, Err(ReplayFault::NotReplaying));
}

#[test]
fn a_replay_notices_a_gap_and_a_difference() {
    let old = recorded(&[b"one", b"two", b"three"]);
    let mut new = resumed(&old);
    assert_eq!(new.replay(&old.stored[2]), Err(ReplayFault::Gap { expected: 2, got: 3 }));
    let mut other = old.stored[1].clone();
    other.events = b"TWO".to_vec();
    new.replay(&other).expect("nothing to compare with yet");
    let (ours, theirs) = (new.digests[0], old.digests[1]);
    let divergence = Divergence { epoch: 2, ours, theirs };
    assert_eq!(new.replay(&old.stored[2]), Err(ReplayFault::Diverged(divergence)));
    new.step(Input::Tick);
    assert_eq!(new.released, 1);
}

/// What happens next in a random life of a pair.
#[derive(Clone, Copy, Debug)]
enum Act {
    Epoch(u8),
    Deliver,
    Answer,
    Store(u64),
    RunBackup,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => any::<u8>().prop_map(Act::Epoch),
        3 => Just(Act::Deliver),
        3 => Just(Act::Answer),
        3 => (1..4_u64).prop_map(Act::Store),
        2 => Just(Act::RunBackup),
    ]
}

proptest! {
    /// Storage writes late, and the primary dies at any moment. Whatever was let out follows from what storage holds, then
    /// and after the survivor has gone on.
    #[test]
    fn what_is_let_out_is_stored(acts in prop::collection::vec(act(), 0..40), after in prop::collection::vec(act(), 0..12)) {
        let mut pair = pair();
        let mut on_disk = 0;
        for act in acts {
            match act {
                Act::Epoch(event) if pair.primary.gate() == Gate::Ready => pair.primary.epoch(&[event]),
                Act::Epoch(_) => {}
                Act::Deliver => pair.deliver_to_backup(),
                Act::Answer => pair.deliver_to_primary(),
                Act::RunBackup => pair.backup.catch_up(),
                Act::Store(more) => {
                    on_disk = (on_disk + more as usize).min(pair.primary.stored.len());
                    pair.primary.storage_holds(on_disk as u64);
                }
            }
            prop_assert!(pair.primary.released <= on_disk as u64);
        }
        // Only what is on the disk, and what reached the backup, survives.
        let mut log = pair.primary.stored[..on_disk].to_vec();
        pair.backup.peer_dead();
        pair.backup.catch_up();
        pair.backup.answer(&mut pair.arbiter, BACKUP);
        prop_assert!(pair.backup.promotion.is_some());
        let released = pair.primary.released;
        let mut on_disk = 0;
        for act in after {
            match act {
                Act::Epoch(event) if pair.backup.gate() == Gate::Ready => pair.backup.epoch(&[event]),
                Act::Store(more) if on_disk < pair.backup.stored.len() => {
                    on_disk = (on_disk + more as usize).min(pair.backup.stored.len());
                    pair.backup.storage_holds(pair.backup.stored[on_disk - 1].epoch);
                }
                _ => {}
            }
        }
        log.extend_from_slice(&pair.backup.stored[..on_disk]);
        let log = history(&log);
        let released = pair.backup.released.max(released) as usize;
        prop_assert!(log.len() >= released);
        // Those records are the ones that the surviving guest has run; what may follow is of the old primary alone.
        let mut guest = crate::digest::Digest64::new(7);
        for record in &log[..released] {
            guest.write_u64(record.epoch);
            guest.write_u64(record.clocks.monotonic_ns);
            guest.write_bytes(&record.events);
            prop_assert_eq!(guest.finish(), pair.backup.digests[record.epoch as usize - 1]);
        }
    }
}
