//! Logs that are sound and say what no file system has written: refused by name.

use recordstore::model::{Crash, ModelDevice};
use std::string::{String, ToString};
use std::vec;

use super::{OPTIONS, mount, now};
use crate::inode::{Ino, Kind, Times};
use crate::record::{InodeRecord, Record, VERSION};
use crate::{FileSystem, MAX_FILE_BYTES, MountError, Options, ROOT};

/// 1 MiB.
const BLOCKS: u64 = 2048;

/// A device with a log of these batches.
pub(super) fn logged(batches: &[recordstore::Batch]) -> ModelDevice {
    let device = ModelDevice::new(BLOCKS);
    let log = crate::part::Part { device: device.clone(), first: 0, blocks: 512 };
    let (mut store, _) = now(recordstore::Store::open(log, recordstore::Options::default(), |_| ())).expect("a log");
    for batch in batches {
        now(store.append(batch)).expect("appended");
    }
    now(store.sync()).expect("synced");
    device.after(Crash::LoseAll)
}

pub(super) fn batch(records: &[Record<'_>]) -> recordstore::Batch {
    let mut batch = recordstore::Batch::new();
    records.iter().for_each(|record| record.put(&mut batch));
    batch
}

pub(super) const FORMAT: Record<'_> = Record::Format { version: VERSION, block_bytes: 4096, data_blocks: 192 };
pub(super) const BEGIN: Record<'_> = Record::Begin { whole: true };
const END: Record<'_> = Record::End { next_ino: 9 };

pub(super) fn inode(ino: Ino, kind: Kind, links: u32, bytes: u64, parent: Ino) -> Record<'static> {
    Record::Inode(InodeRecord {
        ino,
        kind,
        mode: 0o644,
        links,
        bytes,
        times: Times::default(),
        parent,
        target: b"target",
    })
}

/// What is said of a device with this log.
fn said_of(records: &[Record<'_>]) -> String {
    match mount(&logged(&[batch(records)])) {
        Ok(_) => "nothing".to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let root = inode(ROOT, Kind::Directory, 1, 0, ROOT);
    let file = |bytes| inode(2, Kind::File, 1, bytes, 0);
    let entry = |directory, ino, name| Record::Entry { directory, ino, name };
    let run = |ino, index, block| Record::Run { ino, index, block, sums: &[7; 16] };
    let target = |target| match inode(2, Kind::Link, 1, 0, 0) {
        Record::Inode(inode) => Record::Inode(InodeRecord { target, ..inode }),
        other => other,
    };
    let long = [b'x'; 5000];
    let cases: [(&str, &[Record<'_>]); 21] = [
        ("nothing", &[root, file(8192), entry(ROOT, 2, b"f"), run(2, 0, 1)]),
        ("no root directory", &[file(0)]),
        ("no root directory", &[inode(ROOT, Kind::File, 1, 0, 0)]),
        ("leads nowhere", &[root, entry(ROOT, 5, b"f")]),
        ("a name in directory 1 that none can have", &[root, file(0), entry(ROOT, 2, b"")]),
        ("a name in directory 1 that none can have", &[root, file(0), entry(ROOT, 2, b"..")]),
        ("a name in directory 1 that none can have", &[root, file(0), entry(ROOT, 2, b"a/b")]),
        ("a name in directory 1 that none can have", &[root, file(0), entry(ROOT, 2, &long[..256])]),
        ("inode 2 has 0 names", &[root, file(0)]),
        ("inode 2 has 2 names", &[root, file(0), entry(ROOT, 2, b"f"), entry(ROOT, 2, b"g")]),
        ("inode 1 has 2 names", &[root, entry(ROOT, ROOT, b"f")]),
        ("more than any can", &[root, file(MAX_FILE_BYTES + 1), entry(ROOT, 2, b"f")]),
        ("a block 1 behind them", &[root, file(4096), entry(ROOT, 2, b"f"), run(2, 0, 1)]),
        ("no file is that long", &[root, file(0), entry(ROOT, 2, b"f"), run(2, u64::MAX - 1, 1)]),
        ("lies where it cannot (192)", &[root, file(8192), entry(ROOT, 2, b"f"), run(2, 0, 191)]),
        ("lies where it cannot (4)", &[root, file(16384), entry(ROOT, 2, b"f"), run(2, 0, 4), run(2, 2, 4)]),
        ("the target of link 2 has 5000 bytes", &[root, target(&long), entry(ROOT, 2, b"f")]),
        ("the target of link 2 has 0 bytes", &[root, target(&[]), entry(ROOT, 2, b"f")]),
        ("inode 9 should not be there yet", &[root, inode(9, Kind::File, 1, 0, 0), entry(ROOT, 9, b"f")]),
        (
            "3 directories have names, and 1 are to be found from the root",
            &[
                root,
                inode(2, Kind::Directory, 1, 0, 3),
                inode(3, Kind::Directory, 1, 0, 2),
                entry(2, 3, b"in"),
                entry(3, 2, b"in"),
            ],
        ),
        (
            "directory 2 has no name and is not empty",
            &[root, inode(2, Kind::Directory, 0, 0, ROOT), inode(3, Kind::File, 1, 0, 0), entry(2, 3, b"in")],
        ),
    ];
    for (expected, records) in cases {
        let said = said_of(&[&[FORMAT, BEGIN], records, &[END]].concat());
        assert!(said.contains(expected), "expected {expected:?}, got {said:?} of {records:?}");
    }
    let said = said_of(&[FORMAT, BEGIN, root, Record::End { next_ino: u64::MAX }]);
    assert!(said.contains("the next inode would be"), "{said}");
    let said = said_of(&[FORMAT, BEGIN, root]);
    assert!(said.contains("does not begin with all there is"), "{said}");
    assert_eq!(said_of(&[BEGIN, root, END]), MountError::Foreign.to_string());
}

/// A commit is read into memory before it is believed; one that nobody can have made with so much of it is refused, and so is
/// a record longer than any.
#[test]
fn what_would_take_more_memory_than_there_may_be_is_refused() {
    let root = [FORMAT, BEGIN, inode(ROOT, Kind::Directory, 1, 0, ROOT), END];
    // Each batch takes 3 KB.
    let gone = [Record::Gone { ino: 5 }; 200];
    let mut batches = vec![batch(&root), batch(&[Record::Begin { whole: false }])];
    batches.extend((0..12).map(|_| batch(&gone)));
    let limit_bytes = 10_000;
    let refused = |device| now(FileSystem::mount(device, Options { metadata_bytes: limit_bytes, ..OPTIONS })).map(drop);
    assert_eq!(refused(logged(&batches)), Err(MountError::Memory { limit_bytes }));
    batches.truncate(6);
    assert_eq!(refused(logged(&batches)), Ok(()), "half of a commit is not believed");

    let mut long = batch(&root);
    long.push(&vec![9; 66_000]);
    let said = refused(logged(&[long])).expect_err("it is too long").to_string();
    assert!(said.contains("has more than 65536 bytes"), "{said}");
}
