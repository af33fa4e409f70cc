use mio::{Poll, Token};

use super::*;
use crate::supervise::storage::folder::Folder;

const ONE: ReplicaId = ReplicaId::ONE;
const ZERO: ReplicaId = ReplicaId::ZERO;

struct Fixture {
    folder: PathBuf,
    writer: LogWriter,
    _poll: Poll,
}

fn start(name: &str, durable: bool) -> Fixture {
    let folder = std::env::temp_dir().join(format!("pollux-writer-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("made");
    start_in(folder, durable)
}

fn start_in(folder: PathBuf, durable: bool) -> Fixture {
    let poll = Poll::new().expect("a poll");
    let waker = Arc::new(Waker::new(poll.registry(), Token(1)).expect("a waker"));
    let identity = Identity { architecture: 1, abi_version: 1, image: [1; 32], cpu: [2; 32], memory_bytes: 1 << 20 };
    let begin = Start {
        folder: folder.clone(),
        identity,
        lineage: 5,
        next_sequence: 1,
        segments: Vec::new(),
        points: Vec::new(),
        last_epoch: None,
        durable,
        prunes: true,
    };
    Fixture { writer: LogWriter::start(begin, waker).expect("started"), folder, _poll: poll }
}

impl Fixture {
    fn store(&self, from: ReplicaId, generation: Generation, epochs: std::ops::RangeInclusive<Epoch>, history: u64) {
        for epoch in epochs {
            let mut record = Record { epoch, prev_digest: epoch * 3, ..Record::default() };
            record.clocks.monotonic_ns = epoch + history;
            self.writer.order(Order::Record { from, generation, record });
        }
    }

    /// Waits for something; returns what came before it.
    fn wait(&self, wanted: impl Fn(&Done) -> bool) -> Vec<Done> {
        let mut before = Vec::new();
        loop {
            let done = self.writer.done.recv_timeout(Duration::from_secs(60)).expect("it is told");
            if wanted(&done) {
                return before;
            }
            before.push(done);
        }
    }

    fn wait_stored(&self, from: ReplicaId, through: Epoch) {
        self.wait(|done| *done == Done::Stored { from, through });
    }

    fn publish(&self, number: u64, epoch: Epoch, builds_upon: bool) {
        let from = self.folder.join(format!("{number}.new"));
        fs::write(&from, "a checkpoint").expect("written");
        let point = Point { number, epoch, builds_upon };
        self.writer.order(Order::Publish { from, point });
        self.wait(|done| *done == Done::Published(point));
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.folder)
            .expect("there")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name != "lock")
            .collect();
        names.sort();
        names
    }

    fn end(self) -> PathBuf {
        drop(self.writer);
        self.folder
    }
}

fn history(folder: &Path) -> checkpoint::log::History {
    Folder::open(folder).expect("free").history().expect("one log")
}

#[test]
fn records_are_stored_in_order_and_a_new_active_replica_begins_a_segment() {
    let fixture = start("order", true);
    fixture.store(ZERO, 1, 1..=5, 0);
    fixture.wait_stored(ZERO, 5);
    fixture.store(ONE, 2, 4..=4, 0);
    fixture.store(ONE, 2, 5..=7, 9);
    fixture.writer.order(Order::End { from: ONE, end: LogEnd { epoch: 7, digest: 77 } });
    fixture.wait_stored(ONE, 7);
    let folder = fixture.end();
    let history = history(&folder);
    assert_eq!((history.first_epoch(), history.last_epoch(), history.digest(7)), (Some(1), Some(7), Some(77)));
    let segments: Vec<_> = (1..=7).map(|epoch| history.place(epoch).map_or(0, |place| place.sequence)).collect();
    assert_eq!(segments, [1, 1, 1, 1, 2, 2, 2]);
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn old_files_go_when_nobody_needs_them_and_not_before() {
    let fixture = start("prune", true);
    fixture.store(ZERO, 1, 1..=5, 0);
    fixture.publish(1, 5, false);
    fixture.store(ZERO, 1, 6..=9, 0);
    fixture.publish(2, 9, true);
    fixture.store(ZERO, 1, 10..=12, 0);
    fixture.publish(3, 12, true);
    let checkpoint = |number: u64| format!("checkpoint-{number:010}.ckpt");
    let names = fixture.names();
    assert!(names.contains(&checkpoint(1)), "both points build upon it: {names:?}");
    assert!(!names.contains(&"log-0000000001.log".to_owned()), "{names:?}");
    fixture.store(ZERO, 1, 13..=13, 0);
    fixture.publish(4, 13, false);
    assert!(fixture.names().contains(&checkpoint(1)), "the last but one point builds upon it");
    fixture.store(ZERO, 1, 14..=14, 0);
    fixture.publish(5, 14, false);
    fixture.store(ZERO, 1, 15..=15, 0);
    fixture.wait_stored(ZERO, 15);
    let expected = [checkpoint(4), checkpoint(5), "log-0000000005.log".to_owned(), "log-0000000006.log".to_owned()];
    assert_eq!(fixture.names(), expected);
    // A promoted replica that has lived through epoch 13 only.
    fixture.writer.order(Order::Forget { after: 13 });
    fixture.wait(|done| *done == Done::Forgotten { left: 1 });
    assert!(!fixture.names().contains(&checkpoint(5)));
    fs::remove_dir_all(fixture.end()).expect("removed");
}

#[test]
fn a_folder_that_cannot_be_written_is_told_once_and_nothing_is_lost_when_it_can_again() {
    let fixture = start("failing", true);
    fixture.store(ZERO, 1, 1..=2, 0);
    fixture.wait_stored(ZERO, 2);
    fixture.publish(1, 2, false);
    let aside = fixture.folder.with_extension("aside");
    fs::rename(&fixture.folder, &aside).expect("moved");
    fixture.store(ZERO, 1, 3..=4, 0);
    fixture.wait(|done| matches!(done, Done::Failing(_)));
    fixture.store(ZERO, 1, 5..=6, 0);
    fs::rename(&aside, &fixture.folder).expect("moved back");
    let before = fixture.wait(|done| *done == Done::Stored { from: ZERO, through: 6 });
    assert!(!before.iter().any(|done| matches!(done, Done::Failing(_))), "{before:?}");
    fixture.wait(|done| *done == Done::Recovered);
    let folder = fixture.end();
    assert_eq!(history(&folder).last_epoch(), Some(6));
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn a_gap_is_told_and_nothing_behind_it_counts_as_stored() {
    let fixture = start("gap", false);
    fixture.store(ZERO, 1, 1..=2, 0);
    fixture.store(ZERO, 1, 4..=5, 0);
    fixture.wait(|done| matches!(done, Done::Broken(_)));
    let folder = fixture.folder.clone();
    drop(fixture.writer);
    assert_eq!(history(&folder).last_epoch(), Some(2));
    fs::remove_dir_all(folder).expect("removed");
}

/// A checkpoint that relies on what a disk holds counts only when the disk says that it does.
#[test]
fn disks_are_marked_in_the_order_of_the_log() {
    let fixture = start("marks", true);
    let path = fixture.folder.join("disk");
    let disk = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
    disk.set_len(8192).expect("sized");
    let read = || Mark::read(&disk).expect("read");
    let order = |through| {
        let disks = vec![(disk.try_clone().expect("a copy"), 3)];
        fixture.writer.order(Order::Mark { of: ONE, through, disks });
    };
    fixture.store(ONE, 1, 1..=5, 0);
    order(5);
    let from = fixture.folder.join("1.new");
    fs::write(&from, "a checkpoint").expect("written");
    let point = Point { number: 1, epoch: 5, builds_upon: false };
    fixture.writer.order(Order::Publish { from, point });
    let before = fixture.wait(|done| *done == Done::Published(point));
    assert!(before.ends_with(&[Done::Stored { from: ONE, through: 5 }, Done::Marked(ONE)]), "{before:?}");
    assert_eq!(read(), Some(Mark { lineage: 5, generation: 3, through: 5 }));

    // One that cannot be marked holds up what comes behind it, until it can.
    let closed = File::open(&path).expect("to be read only");
    fixture.writer.order(Order::Mark { of: ONE, through: 6, disks: vec![(closed, 3)] });
    fixture.store(ONE, 1, 6..=6, 0);
    fixture.wait(|done| matches!(done, Done::Failing(_)));
    assert_eq!(read(), Some(Mark { lineage: 5, generation: 3, through: 5 }));
    assert!(fixture.writer.done().next().is_none(), "nothing is stored behind it");
}
