//! Devices that fail, change what they hold, or hold something else.

use recordstore::model::{Crash, Faults, Mixer, ModelDevice};
use std::string::ToString;
use std::vec;

use super::damage::{BEGIN, FORMAT, batch, inode, logged};
use super::{OPTIONS, mount, mounted, now};
use crate::fs::Sabotage;
use crate::inode::Kind;
use crate::record::Record;
use crate::{FileSystem, FsError, MountError, Options, ROOT};

const FILE_BYTES: usize = 40_000;
/// 1 MiB.
const BLOCKS: u64 = 2048;

/// A device with a file of sevens.
fn with_file() -> ModelDevice {
    let device = ModelDevice::new(BLOCKS);
    let mut fs = mounted(&device);
    let file = fs.create_file(ROOT, b"file", 0o644, 1).expect("made");
    assert_eq!(now(fs.write(file, 0, &[7; FILE_BYTES], 1)), Ok(FILE_BYTES));
    now(fs.sync()).expect("synced");
    device.after(Crash::LoseAll)
}

/// Flips a bit of each block that is not zero: how many flips were errors, and how many were read as data.
fn flip_everywhere(sabotage: Sabotage) -> (usize, usize) {
    let device = with_file();
    let (mut errors, mut believed) = (0, 0);
    for block in 0..BLOCKS {
        if device.block(block).iter().all(|&byte| byte == 0) {
            continue;
        }
        let bit = (block * 7919) as usize;
        device.flip(block, bit);
        let read = mount(&device.after(Crash::LoseAll)).map_err(|error| error.to_string()).and_then(|(mut fs, _)| {
            fs.sabotage = sabotage;
            let file = fs.lookup(ROOT, b"file").map_err(|error| error.to_string())?;
            let mut content = vec![0; FILE_BYTES];
            let mut done = 0;
            while done < FILE_BYTES {
                done += now(fs.read(file, done as u64, &mut content[done..])).map_err(|error| error.to_string())?;
            }
            Ok(content)
        });
        match read {
            Ok(content) => believed += usize::from(content.iter().any(|&byte| byte != 7)),
            Err(_) => errors += 1,
        }
        device.flip(block, bit);
    }
    (errors, believed)
}

#[test]
fn a_changed_bit_is_an_error_and_never_data() {
    let (errors, believed) = flip_everywhere(Sabotage::None);
    assert_eq!(believed, 0);
    assert!(errors >= FILE_BYTES / 512, "only {errors} changes were noticed");
    let (_, believed) = flip_everywhere(Sabotage::BelieveData);
    assert!(believed > 0, "the test would not notice");
}

#[test]
fn an_error_of_the_device_is_told_and_what_was_not_stored_is_stored_later() {
    let counted = with_file();
    let run = |device: &ModelDevice, fail_at: Option<u64>| {
        let mut fs = mounted(device);
        let fail_at = fail_at.map(|at| device.changes() + at);
        let before = device.changes();
        device.set_faults(Faults { fail_at, ..Faults::default() });
        let file = fs.lookup(ROOT, b"file").expect("there");
        assert_eq!(now(fs.write(file, 1000, &[8; 20_000], 2)), Ok(20_000));
        let synced = now(fs.sync());
        (fs, synced, device.changes() - before)
    };
    let changes = run(&counted, None).2;
    assert!(changes >= 3, "data, a flush, a record, a flush: {changes}");
    for at in 0..changes {
        let device = with_file();
        let (mut fs, synced, _) = run(&device, Some(at));
        assert_eq!(synced, Err(FsError::Io), "change {at}");
        now(fs.sync()).expect("the device is well again");
        assert_eq!(now(fs.sync()), Ok(()));
        let mut fs = mounted(&device.after(Crash::LoseAll));
        let file = fs.lookup(ROOT, b"file").expect("there");
        let mut content = vec![0; FILE_BYTES];
        assert_eq!(now(fs.read(file, 0, &mut content)), Ok(FILE_BYTES));
        assert!(content[1000..21_000].iter().all(|&byte| byte == 8), "change {at}");
    }
}

#[test]
fn a_read_that_fails_is_an_error_of_that_read_alone() {
    let mut failed = 0;
    let mut content = vec![0; FILE_BYTES];
    for number in 0..200 {
        let device = with_file();
        let mut fs = mounted(&device);
        let file = fs.lookup(ROOT, b"file").expect("there");
        device.set_faults(Faults { fail_read_at: Some(number), ..Faults::default() });
        failed += u32::from(now(fs.read(file, 0, &mut content)) == Err(FsError::Io));
        assert_eq!(now(fs.read(file, 0, &mut content)), Ok(FILE_BYTES), "the next one is another");
    }
    assert_eq!(failed, 1, "ten blocks behind each other are read at once");
}

#[test]
fn what_is_foreign_is_refused_and_left_alone() {
    for block in [0, 1, 2, 8, 40, 2000, 2048, 4097, 6143, 6145, 8191] {
        let device = ModelDevice::new(8192);
        let mut content = [0; 512];
        content[block as usize % 512] = 0x5a;
        device.set_block(block, content);
        let refused = mount(&device).map(drop);
        assert_eq!(refused, Err(MountError::Foreign), "block {block}");
        assert_eq!((device.block(block), device.changes()), (content, 0));
    }
}

/// What the host says of a device is believed: it is not read.
#[test]
fn a_device_is_taken_for_blank_or_not_as_its_host_says() {
    let told = |device: &ModelDevice, blank| {
        device.set_faults(Faults { fail_read_at: Some(device.reads() + 2), ..Faults::default() });
        now(FileSystem::mount(device.clone(), Options { blank: Some(blank), ..OPTIONS })).map(|(_, mounted)| mounted)
    };
    let device = ModelDevice::new(8192);
    assert_eq!(told(&device, false), Err(MountError::Foreign));
    assert_eq!(device.changes(), 0);
    device.set_faults(Faults::default());
    let mounted = now(FileSystem::mount(device.clone(), Options { blank: Some(true), ..OPTIONS })).expect("blank").1;
    assert!(mounted.formatted);
    // One that has a file system was blank only before that.
    let mounted = now(FileSystem::mount(device, Options { blank: Some(false), ..OPTIONS })).expect("known").1;
    assert!(!mounted.formatted);
}

/// The power goes in the middle of the very first block: that is no reason to refuse the device, unless there is more on it.
#[test]
fn a_torn_beginning_is_begun_again() {
    let torn = || {
        let device = ModelDevice::new(8192);
        device.set_faults(Faults { power_off_after: Some(1), ..Faults::default() });
        assert!(mount(&device).is_err());
        let mut block = device.after(Crash::KeepAll).block(8);
        block[20..].fill(0);
        let device = ModelDevice::new(8192);
        device.set_block(8, block);
        device
    };
    for blank in [None, Some(false)] {
        let options = Options { blank, ..OPTIONS };
        assert!(now(FileSystem::mount(torn(), options)).expect("it is made").1.formatted);
        let used = torn();
        used.set_block(4097, [1; 512]);
        assert_eq!(now(FileSystem::mount(used.clone(), options)).map(drop), Err(MountError::Foreign));
        assert_eq!(used.changes(), 0);
    }
}

#[test]
fn another_programs_record_store_is_refused() {
    let device = ModelDevice::new(BLOCKS);
    let options = recordstore::Options::default();
    let (mut store, _) = now(recordstore::Store::open(device.clone(), options, |_| ())).expect("a store");
    let mut batch = recordstore::Batch::new();
    batch.push(b"record");
    now(store.append(&batch)).expect("appended");
    now(store.sync()).expect("synced");
    assert_eq!(mount(&device).map(drop), Err(MountError::Resized));
}

#[test]
fn a_device_that_is_too_small_is_refused() {
    let refused = mount(&ModelDevice::new(2047)).map(drop);
    assert_eq!(refused, Err(MountError::TooSmall { bytes: 2047 * 512, needed_bytes: 1 << 20 }));
    mount(&ModelDevice::new(2048)).expect("the smallest");
}

#[test]
fn a_device_that_does_not_write_is_no_end_of_reading() {
    let device = with_file();
    let mut fs = mounted(&device);
    device.set_faults(Faults { fail_all: true, ..Faults::default() });
    let file = fs.lookup(ROOT, b"file").expect("there");
    now(fs.write(file, 0, b"x", 2)).expect("gathered");
    assert_eq!(now(fs.sync()), Err(FsError::Io));
    assert_eq!(now(fs.sync()), Err(FsError::Io));
    let mut content = [0; 2];
    assert_eq!((now(fs.read(file, 0, &mut content)), content), (Ok(2), *b"x\x07"));
    drop(fs);
    assert!(matches!(now(FileSystem::mount(device, OPTIONS)).map(drop), Err(MountError::Device(_))));
}

/// Records that no file system has written, in a log that is sound: they are refused, or taken and worked with.
#[test]
fn records_that_nobody_has_written_do_no_harm() {
    let (mut refused, mut taken) = (0, 0);
    for seed in 0..3000 {
        let mut mixer = Mixer(seed);
        let mut batch = batch(&[FORMAT, BEGIN, inode(ROOT, Kind::Directory, 1, 0, ROOT)]);
        let sums = [7_u64.to_le_bytes(); 3].concat();
        for _ in 0..mixer.below(6) {
            let mut small = || mixer.below(5);
            let (ino, other, third) = (small(), small(), small());
            let kind = [Kind::File, Kind::Directory, Kind::Link][third as usize % 3];
            match mixer.below(7) {
                0 => Record::Gone { ino }.put(&mut batch),
                1 => Record::Cut { ino, index: other }.put(&mut batch),
                2 => Record::Run { ino, index: other << (third * 15), block: third as u32 * 64, sums: &sums }
                    .put(&mut batch),
                3 | 4 => Record::Entry { directory: ino, ino: other, name: &[b'a' + third as u8] }.put(&mut batch),
                _ => inode(ino, kind, other as u32, other << (third * 15), third).put(&mut batch),
            }
        }
        if mixer.below(4) == 0 {
            batch.push(&mixer.next().to_le_bytes()[..1 + mixer.below(7) as usize]);
        }
        Record::End { next_ino: mixer.below(9) }.put(&mut batch);
        let device = logged(&[batch]);
        match mount(&device) {
            Err(MountError::Damaged(_)) => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
            Ok((mut fs, _)) => {
                taken += 1;
                // Blocks that were never written have other checksums: reading them fails, and nothing else.
                let _ = super::reference::view(&mut fs);
                let file = fs.create_file(ROOT, b"new", 0o644, 1).expect("made");
                assert_eq!(now(fs.write(file, 5, &[9; 9000], 1)), Ok(9000), "seed {seed}");
                now(fs.sync()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                mounted(&device.after(Crash::LoseAll));
            }
        }
    }
    assert!(refused > 300 && taken > 300, "{refused} refused, {taken} taken");
}
