//! Without crashes.

use recordstore::model::{Crash, ModelDevice};
use std::vec;
use std::vec::Vec;

use super::{BLOCKS, OPTIONS, mount, mounted, now};
use crate::{FileSystem, FsError, Kind, MAX_FILE_BYTES, MountError, Options, ROOT};

#[test]
fn a_new_device_is_formatted_once() {
    let device = ModelDevice::new(BLOCKS);
    assert!(mount(&device).expect("new").1.formatted);
    assert!(!mount(&device).expect("known").1.formatted);
}

#[test]
fn files_are_read_as_they_were_written_with_holes_and_after_a_mount() {
    let device = ModelDevice::new(BLOCKS);
    let mut fs = mounted(&device);
    let file = fs.create_file(ROOT, b"file", 0o644, 5).expect("made");
    let far = 300 * 4096 + 17;
    assert_eq!(now(fs.write(file, far, b"far", 6)), Ok(3));
    assert_eq!(now(fs.write(file, 4090, b"across blocks", 7)), Ok(13));
    now(fs.sync()).expect("synced");
    let mut fs = mounted(&device.after(Crash::LoseAll));
    let file = fs.lookup(ROOT, b"file").expect("there");
    let attributes = fs.attributes(file).expect("there");
    assert_eq!((attributes.bytes, attributes.stored_bytes), (far + 3, 3 * 4096));
    assert_eq!((attributes.times.modified_ns, attributes.times.born_ns), (7, 5));
    let mut content = vec![1; far as usize + 100];
    assert_eq!(now(fs.read(file, 0, &mut content)), Ok(far as usize + 3));
    assert_eq!(&content[4090..4103], b"across blocks");
    assert_eq!(&content[far as usize..far as usize + 3], b"far");
    assert!(content[4103..far as usize].iter().all(|&byte| byte == 0));
    assert_eq!(now(fs.read(file, far + 3, &mut content)), Ok(0));
    assert_eq!(now(fs.read(file, u64::MAX, &mut content)), Ok(0));
}

#[test]
fn what_is_cut_off_does_not_come_back() {
    let mut fs = mounted(&ModelDevice::new(BLOCKS));
    let file = fs.create_file(ROOT, b"file", 0o644, 1).expect("made");
    now(fs.write(file, 0, &[7; 10_000], 1)).expect("written");
    now(fs.truncate(file, 5000, 1)).expect("shorter");
    now(fs.truncate(file, 12_000, 1)).expect("longer");
    let mut content = [1; 12_000];
    assert_eq!(now(fs.read(file, 0, &mut content)), Ok(12_000));
    assert!(content[..5000].iter().all(|&byte| byte == 7) && content[5000..].iter().all(|&byte| byte == 0));
    assert_eq!(now(fs.truncate(file, MAX_FILE_BYTES + 1, 1)), Err(FsError::TooLarge));
    assert_eq!(now(fs.write(file, MAX_FILE_BYTES, b"x", 1)), Err(FsError::TooLarge));
}

#[test]
fn a_file_without_a_name_lives_as_long_as_it_is_open() {
    let device = ModelDevice::new(BLOCKS);
    let mut fs = mounted(&device);
    let free = fs.room().free_bytes;
    let file = fs.create_file(ROOT, b"file", 0o644, 1).expect("made");
    fs.open(file).expect("open");
    now(fs.write(file, 0, &[7; 10_000], 1)).expect("written");
    fs.unlink(ROOT, b"file", 2).expect("unlinked");
    now(fs.sync()).expect("synced");
    let mut content = [0; 10_000];
    assert_eq!(now(fs.read(file, 0, &mut content)), Ok(10_000));
    // The machine goes: nobody can have it open any more.
    let mut other = mounted(&device.after(Crash::LoseAll));
    assert_eq!(other.attributes(file), Err(FsError::NotFound));
    now(other.sync()).expect("synced");
    assert_eq!(other.room().free_bytes, free);
    fs.close(file);
    assert_eq!(fs.attributes(file), Err(FsError::NotFound));
    now(fs.sync()).expect("synced");
    assert_eq!(fs.room().free_bytes, free);
}

#[test]
fn directories_are_listed_in_order_while_they_change() {
    let mut fs = mounted(&ModelDevice::new(BLOCKS));
    for name in [&b"c"[..], b"a", b"b", b"d"] {
        fs.create_directory(ROOT, name, 0o755, 1).expect("made");
    }
    let mut seen: Vec<Vec<u8>> = Vec::new();
    while let Some((name, _, kind)) = fs.next_entry(ROOT, seen.last().map(|name| &name[..])).expect("listed") {
        assert_eq!(kind, Kind::Directory);
        let name = name.to_vec();
        fs.remove_directory(ROOT, &name, 1).expect("removed");
        seen.push(name);
    }
    assert_eq!(seen, [b"a", b"b", b"c", b"d"]);
    assert_eq!(fs.attributes(ROOT).expect("root").links, 2);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut fs = mounted(&ModelDevice::new(BLOCKS));
    let directory = fs.create_directory(ROOT, b"d", 0o755, 1).expect("made");
    let inner = fs.create_directory(directory, b"inner", 0o755, 1).expect("made");
    let file = fs.create_file(ROOT, b"f", 0o644, 1).expect("made");
    assert_eq!(fs.create_file(ROOT, b"f", 0, 1), Err(FsError::Exists));
    assert_eq!(fs.create_file(file, b"x", 0, 1), Err(FsError::NotDirectory));
    assert_eq!(fs.create_file(ROOT, &[b'x'; 256], 0, 1), Err(FsError::NameTooLong));
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
        assert_eq!(fs.create_file(ROOT, name, 0, 1), Err(FsError::Invalid));
    }
    assert_eq!(fs.link(directory, ROOT, b"e", 1), Err(FsError::NotPermitted));
    assert_eq!(fs.unlink(ROOT, b"d", 1), Err(FsError::IsDirectory));
    assert_eq!(fs.remove_directory(ROOT, b"f", 1), Err(FsError::NotDirectory));
    assert_eq!(fs.remove_directory(ROOT, b"d", 1), Err(FsError::NotEmpty));
    assert_eq!(fs.rename((ROOT, b"d"), (inner, b"x"), true, 1), Err(FsError::Invalid));
    assert_eq!(fs.rename((ROOT, b"d"), (ROOT, b"f"), true, 1), Err(FsError::NotDirectory));
    assert_eq!(fs.rename((ROOT, b"f"), (ROOT, b"d"), true, 1), Err(FsError::IsDirectory));
    assert_eq!(fs.rename((ROOT, b"f"), (ROOT, b"d"), false, 1), Err(FsError::Exists));
    assert_eq!(fs.target(file), Err(FsError::Invalid));
    assert_eq!(now(fs.read(directory, 0, &mut [0; 4])), Err(FsError::IsDirectory));
    assert_eq!(fs.parent(inner), Ok(directory));
    assert_eq!(fs.name_of(inner), Some(&b"inner"[..]));
}

#[test]
fn a_full_device_says_so_and_what_is_there_can_be_changed_and_removed() {
    let device = ModelDevice::new(BLOCKS);
    let mut fs = mounted(&device);
    let file = fs.create_file(ROOT, b"file", 0o644, 1).expect("made");
    let mut written = 0;
    let full = loop {
        match now(fs.write(file, written, &[5; 30_000], 1)) {
            Ok(bytes) => written += bytes as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(full, FsError::NoSpace);
    assert!(written > 3 << 20, "only {written} bytes were taken");
    now(fs.sync()).expect("what was taken can be stored");
    // Every block is changed once more although there is no room for a second copy.
    let mut at = 0;
    while at < written {
        let bytes = now(fs.write(file, at, &vec![6; 30_000.min((written - at) as usize)], 2)).expect("there is room");
        at += bytes as u64;
    }
    now(fs.sync()).expect("synced");
    let mut fs = mounted(&device.after(Crash::LoseAll));
    let mut content = vec![0; written as usize];
    assert_eq!(now(fs.read(file, 0, &mut content)), Ok(written as usize));
    assert!(content.iter().all(|&byte| byte == 6));
    fs.unlink(ROOT, b"file", 3).expect("removed");
    let other = fs.create_file(ROOT, b"other", 0o644, 1).expect("made");
    assert_eq!(now(fs.write(other, 0, &content, 3)), Ok(content.len()), "the room is there again");
}

#[test]
fn names_are_bounded_by_memory_and_by_the_log() {
    let fill = |options: Options, blocks: u64| {
        let device = ModelDevice::new(blocks);
        let (mut fs, _) = now(FileSystem::mount(device.clone(), options)).expect("mounted");
        let mut count = 0_u32;
        let error = loop {
            let name = std::format!("a rather long name, so that it does not take that many, number {count}");
            match fs.create_file(ROOT, name.as_bytes(), 0o644, 1) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, FsError::NoSpace);
        now(fs.sync()).expect("what was taken can be stored");
        for number in 0..count {
            let name = std::format!("a rather long name, so that it does not take that many, number {number}");
            fs.unlink(ROOT, name.as_bytes(), 1).expect("removed");
            if number % 50 == 0 {
                now(fs.sync()).expect("synced");
            }
        }
        now(fs.sync()).expect("synced");
        (count, device)
    };
    let by_log = fill(OPTIONS, 2048).0;
    assert!((100..2000).contains(&by_log), "{by_log}");
    let (by_memory, _) = fill(Options { metadata_bytes: 40_000, ..OPTIONS }, BLOCKS);
    assert!((100..200).contains(&by_memory), "{by_memory}");
}

#[test]
fn a_file_system_that_needs_more_memory_is_refused() {
    let device = ModelDevice::new(BLOCKS);
    let mut fs = mounted(&device);
    for number in 0..1000 {
        fs.create_file(ROOT, std::format!("{number}").as_bytes(), 0o644, 1).expect("made");
    }
    now(fs.sync()).expect("synced");
    let options = Options { metadata_bytes: 50_000, ..OPTIONS };
    let refused = now(FileSystem::mount(device, options)).map(drop);
    assert_eq!(refused, Err(MountError::Memory { limit_bytes: 50_000 }));
}

#[test]
fn a_log_that_has_grown_long_is_replaced() {
    let device = ModelDevice::new(BLOCKS);
    let mut fs = mounted(&device);
    let file = fs.create_file(ROOT, b"file", 0o644, 1).expect("made");
    for round in 0..3000_u64 {
        now(fs.write(file, round % 40 * 4096, &[round as u8; 100], round)).expect("written");
        now(fs.sync()).expect("synced");
    }
    let mut fs = mounted(&device.after(Crash::LoseAll));
    let mut byte = [0];
    now(fs.read(file, 2999 % 40 * 4096, &mut byte)).expect("read");
    assert_eq!(byte, [2999_u64 as u8]);
}

/// What takes as much memory as it may does so at the next mount, too, whatever went and came in one commit.
#[test]
fn what_was_full_of_names_can_be_mounted_again() {
    let options = Options { metadata_bytes: 60_000, ..OPTIONS };
    let device = ModelDevice::new(BLOCKS);
    let mount = || now(FileSystem::mount(device.clone(), options)).expect("mounted").0;
    let name = |round: u32, number: u32| std::format!("round {round}, file {number}");
    let mut fs = mount();
    // Blocks that lie nowhere yet are counted before there is a place for them.
    let file = fs.create_file(ROOT, b"file", 0o644, 1).expect("made");
    for index in 0..20 {
        now(fs.write(file, index * 100 * 4096, b"x", 1)).expect("written");
    }
    let mut count = 0;
    while fs.create_file(ROOT, name(0, count).as_bytes(), 0o644, 1).is_ok() {
        count += 1;
    }
    assert!(count > 100, "{count}");
    now(fs.sync()).expect("synced");
    for round in 0..4 {
        let mut fs = mount();
        for number in 0..count {
            fs.unlink(ROOT, name(round, number).as_bytes(), 1).expect("removed");
        }
        for number in 0..count {
            fs.create_file(ROOT, name(round + 1, number).as_bytes(), 0o644, 1).expect("there is room again");
        }
        assert!(fs.wants_commit(), "the records of all that came and went are many");
        now(fs.sync()).expect("synced");
        assert!(!fs.wants_commit());
    }
    assert_eq!(mount().room().inodes, u64::from(count) + 2);
}

/// Blocks that are read ahead may not take the place of the one that was asked for.
#[test]
fn a_crowded_cache_gives_what_is_stored() {
    const FILE_BLOCKS: u64 = 300;
    let device = ModelDevice::new(BLOCKS);
    let mut fs = mounted(&device);
    let file = fs.create_file(ROOT, b"file", 0o644, 1).expect("made");
    for index in 0..FILE_BLOCKS {
        now(fs.write(file, index * 4096, &[index as u8 | 1; 4096], 1)).expect("written");
    }
    now(fs.sync()).expect("synced");
    let other = fs.create_file(ROOT, b"other", 0o644, 1).expect("made");
    let mut mixer = recordstore::model::Mixer(1);
    for round in 0..2000 {
        // Half of the cache is changed, and the rest goes round.
        now(fs.write(other, round % 40 * 4096, &[7; 100], 1)).expect("written");
        let (index, count) = (mixer.below(FILE_BLOCKS), 1 + mixer.below(3));
        for index in index..FILE_BLOCKS.min(index + count) {
            let mut content = [0; 100];
            assert_eq!(now(fs.read(file, index * 4096 + 50, &mut content)), Ok(100));
            assert_eq!(content, [index as u8 | 1; 100], "block {index} in round {round}");
        }
    }
}
