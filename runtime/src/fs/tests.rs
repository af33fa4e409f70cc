//! Files on the fake shim's disks: what threads do with them, and what disks do to them.

use std::cell::RefCell;
use std::rc::Rc;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use filesystem::bundle::{Item, encode};
use hermit_abi::{
    EACCES, EBADF, EBUSY, EEXIST, EIO, EISDIR, ENOENT, ENOSPC, ENOTDIR, EROFS, EXDEV, O_APPEND, O_CREAT, O_DIRECTORY,
    O_EXCL, O_RDONLY, O_RDWR, O_WRONLY,
};

use super::*;
use crate::host::disk::HostDisk;
use crate::host::{Boundary, End, Setup, World, run};
use crate::sync::oneshot;
use crate::sys::descriptors::{close, get};
use crate::{thread, time};

/// Time passes, and nothing else happens.
struct Nobody;

impl World for Nobody {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        boundary.set_now_ns(boundary.deadline_ns());
    }
}

const STACK_BYTES: usize = 256 * 1024;

/// 2 MiB.
fn disk(name: &str) -> HostDisk {
    HostDisk::new(name, 4096)
}

fn bundle() -> Vec<u8> {
    let entries = [
        ("/data", Item::Mount("data")),
        ("/other", Item::Mount("other")),
        ("/share", Item::Directory),
        ("/share/text", Item::File(b"packed")),
    ];
    encode(entries.into_iter())
}

/// Mounts what the bundle says and runs `main` as the first thread, on these disks.
fn on<T: 'static>(disks: &[&HostDisk], main: impl FnOnce() -> T + 'static) -> core::result::Result<T, String> {
    let setup = Setup { disks: disks.iter().map(|disk| (*disk).clone()).collect(), ..Setup::default() };
    let outcome = run(&setup, &Rc::new(RefCell::new(Nobody)), || async {
        mount(bundle().leak()).await.map_err(|error| error.to_string())?;
        let (result, done) = oneshot::channel();
        thread::spawn(STACK_BYTES, move || drop(result.send(main()))).expect("a thread");
        Ok(done.await.expect("the thread has ended"))
    });
    match outcome.end {
        End::Returned(result) => result,
        _ => panic!("expected a result, the program ended otherwise"),
    }
}

fn both<T: 'static>(data: &HostDisk, main: impl FnOnce() -> T + 'static) -> T {
    on(&[data, &disk("other")], main).expect("mounted")
}

fn write(path: &str, content: &[u8]) -> Result<usize> {
    let file = open(None, path.as_bytes(), O_WRONLY | O_CREAT, 0o644)?;
    let written = get(file).and_then(|file| file.write(content));
    close(file)?;
    written
}

fn read(path: &str) -> Result<Vec<u8>> {
    let file = open(None, path.as_bytes(), O_RDONLY, 0)?;
    let mut content = vec![0; 100];
    let bytes = read_at(file, &mut content, 0);
    close(file)?;
    content.truncate(bytes?);
    Ok(content)
}

#[test]
fn what_was_synced_is_there_for_the_next_program_and_what_was_not_is_not() {
    let data = disk("data");
    both(&data, || {
        assert_eq!(write("/data/stable", b"yes"), Ok(3));
        let file = open(None, b"/data/stable", O_RDONLY, 0).expect("open");
        assert_eq!(sync_all(file), Ok(()));
        assert_eq!(write("/data/lost", b"no"), Ok(2));
    });
    both(&data, || {
        assert_eq!((read("/data/stable"), read("/data/lost")), (Ok(b"yes".to_vec()), Err(ENOENT)));
        assert_eq!(write("/data/late", b"in time"), Ok(7));
        thread::block_on(time::sleep(COMMIT_AFTER));
        // Here time flies to the next timer while the disk works: some epochs more are needed.
        (0..20).for_each(|_| thread::block_on(time::sleep(Duration::from_millis(1))));
    });
    both(&data, || {
        assert_eq!(read("/data/late"), Ok(b"in time".to_vec()), "nobody had to ask");
        assert_eq!(write("/data/last", b"at the end"), Ok(10));
        finish();
    });
    both(&data, || assert_eq!(read("/data/last"), Ok(b"at the end".to_vec())));
}

#[test]
fn the_image_and_disks_are_one_tree_that_ends_where_they_do() {
    both(&disk("data"), || {
        assert_eq!(read("/share/text"), Ok(b"packed".to_vec()));
        assert_eq!(read("/data/../share/./text"), Ok(b"packed".to_vec()));
        assert_eq!(write("/share/new", b"x"), Err(EROFS));
        assert_eq!(write("/share/text", b"x"), Err(EROFS));
        assert_eq!(make_directory(None, b"/new", 0o755), Err(EROFS));
        assert_eq!(make_directory(None, b"/data", 0o755), Err(EEXIST));
        assert_eq!(remove(None, b"/data", true), Err(EBUSY));
        assert_eq!(remove(None, b"/share/text", false), Err(EROFS));
        assert_eq!(rename(None, b"/data", None, b"/elsewhere", true), Err(EBUSY));
        assert_eq!(write("/data/file", b"x"), Ok(1));
        assert_eq!(rename(None, b"/data/file", None, b"/other/file", true), Err(EXDEV));
        assert_eq!(link(None, b"/data/file", None, b"/other/file", false), Err(EXDEV));
        assert_eq!(open(None, b"/data", O_RDWR, 0), Err(EISDIR));
        assert_eq!(open(None, b"/data/file", O_RDONLY | O_DIRECTORY, 0), Err(ENOTDIR));
        assert_eq!(open(None, b"/data/file", O_WRONLY | O_CREAT | O_EXCL, 0), Err(EEXIST));
        assert_eq!(symlink(b"../share/text", None, b"/data/way"), Ok(()));
        assert_eq!((read("/data/way"), real_path(b"/data/way")), (Ok(b"packed".to_vec()), Ok(b"/share/text".to_vec())));
        assert_eq!((change_directory(b"/data"), current_directory()), (Ok(()), Ok(b"/data".to_vec())));
        let root = open(None, b"..", O_RDONLY | O_DIRECTORY, 0).expect("the root");
        let listing = get(root).expect("open");
        drop(listing);
        let listed = crate::sys::descriptors::get_as::<File>(root, EBADF).expect("a directory");
        let mut names = Vec::new();
        while let Some(entry) = listed.next_entry().expect("listed") {
            names.push(String::from_utf8(entry.name).expect("UTF-8"));
        }
        assert_eq!(names, [".", "..", "data", "other", "share"]);
        assert_eq!(open(Some(root), b"share/text", O_RDONLY, 0).map(|file| file > root), Ok(true));
    });
}

#[test]
fn a_full_disk_is_an_error_of_the_write() {
    let data = disk("data");
    both(&data, || {
        let file = open(None, b"/data/file", O_RDWR | O_CREAT | O_APPEND, 0o644).expect("made");
        let object = get(file).expect("open");
        let error = loop {
            if let Err(error) = object.write(&[7; 50_000]) {
                break error;
            }
        };
        assert_eq!(error, ENOSPC);
        assert_eq!(sync_all(file), Ok(()), "what was taken has its room");
        assert_eq!(truncate(file, 1000), Ok(()));
        assert!(object.write(&[8; 50_000]).is_ok(), "there is room again");
    });
}

#[test]
fn a_disk_that_fails_is_an_error_of_the_call_and_other_files_go_on() {
    let data = disk("data");
    both(&data, || {
        assert_eq!(write("/data/file", &[7; 50]), Ok(50));
        let file = open(None, b"/data/file", O_RDONLY, 0).expect("open");
        assert_eq!(sync_all(file), Ok(()));
    });
    // The data of the only file: the first block behind the log that is used.
    let content = data.content().clone();
    let at = content.windows(50).position(|bytes| bytes == [7; 50]).expect("stored") / 512;
    let changed = disk("data");
    changed.content_mut().copy_from_slice(&content);
    changed.content_mut()[at * 512 + 60] = 1;
    data.fail_at(at as u64);
    for data in [data, changed] {
        both(&data, || {
            assert_eq!(read("/data/file"), Err(EIO));
            assert_eq!(write("/data/other", b"fine"), Ok(4));
            assert_eq!(read("/data/other"), Ok(b"fine".to_vec()));
            assert_eq!(metadata(None, b"/data/file", true).map(|found| found.attributes.bytes), Ok(50));
        });
    }
}

#[test]
fn threads_write_and_sync_the_same_file_and_the_machine_ends_in_peace() {
    let data = disk("data");
    let threads = 6;
    both(&data, move || {
        let file = open(None, b"/data/file", O_RDWR | O_CREAT, 0o644).expect("made");
        let ids: Vec<_> = (0..threads)
            .map(|number| {
                let body = move || {
                    for turn in 0..20 {
                        let offset = (turn * threads + number) * 1000;
                        assert_eq!(write_at(file, &[number as u8 + 1; 1000], offset), Ok(1000));
                        assert_eq!(sync_all(file), Ok(()));
                        assert_eq!(lock(file, Some(true), true), Ok(()));
                    }
                };
                thread::spawn(STACK_BYTES, body).expect("a thread")
            })
            .collect();
        ids.into_iter().for_each(|id| thread::join(id).expect("joined"));
    });
    both(&data, move || {
        let file = open(None, b"/data/file", O_RDONLY, 0).expect("it is there");
        let mut content = vec![0; threads as usize * 20_000];
        assert_eq!(read_at(file, &mut content, 0), Ok(content.len()));
        let expected = |at: usize| (at / 1000 % threads as usize) as u8 + 1;
        assert!(content.iter().enumerate().all(|(at, &byte)| byte == expected(at)));
    });
}

#[test]
fn what_cannot_be_mounted_is_named() {
    let (data, other) = (disk("data"), disk("other"));
    let refused = |disks: &[&HostDisk]| on(disks, || ()).expect_err("it is not to be mounted");
    assert!(refused(&[&data]).contains("there is no disk other, which is to be mounted at /other"));
    other.content_mut()[700] = 1;
    assert!(refused(&[&data, &other]).contains("disk other cannot be mounted at /other: it holds something"));
    assert_eq!(other.content()[700], 1);
    let small = HostDisk::new("other", 100);
    assert!(refused(&[&data, &small]).contains("a file system needs 1048576"));
    // Without a bundle there is an empty root that cannot be written to.
    let outcome = run(&Setup::default(), &Rc::new(RefCell::new(Nobody)), || async {
        (read("/x"), write("/x", b"x"), change_directory(b"/"), metadata(None, b"/", true).map(|found| found.mode()))
    });
    assert_eq!(outcome.end, End::Returned((Err(ENOENT), Err(EROFS), Ok(()), Ok(0o40_555))));
    assert_ne!(EACCES, EROFS);
}

/// The names that `sys_getdents64` gives, with so much room, or the error number.
fn named(descriptor: i32, room_bytes: usize) -> core::result::Result<Vec<String>, i64> {
    use core::mem::offset_of;
    use hermit_abi::dirent64;

    let mut room = vec![0_u64; room_bytes / 8];
    // SAFETY: there is room for as many bytes.
    let used = unsafe { crate::sys::sys_getdents64(descriptor, room.as_mut_ptr().cast(), room_bytes) };
    let used = usize::try_from(used).map_err(|_| -used)?;
    let bytes: Vec<u8> = room.iter().flat_map(|word| word.to_ne_bytes()).take(used).collect();
    let (mut names, mut at) = (Vec::new(), 0);
    while at < used {
        let length = at + offset_of!(dirent64, d_reclen);
        let name = bytes[at + offset_of!(dirent64, d_name)..].split(|byte| *byte == 0).next().expect("a name");
        names.push(String::from_utf8(name.to_vec()).expect("UTF-8"));
        at += usize::from(u16::from_ne_bytes([bytes[length], bytes[length + 1]]));
    }
    Ok(names)
}

#[test]
fn a_directory_is_listed_by_hermits_name_as_a_whole_or_not_at_all() {
    let names = both(&disk("data"), || {
        make_directory(None, b"/data/full", 0o755).expect("made");
        for number in 0..30 {
            let path = std::format!("/data/full/{number}");
            close(open(None, path.as_bytes(), O_CREAT | O_WRONLY, 0o644).expect("made")).expect("closed");
        }
        let full = open(None, b"/data/full", O_RDONLY | O_DIRECTORY, 0).expect("it is there");
        let too_small = [named(full, 64), named(full, 512)];
        let (all, rest) = (named(full, 4096), named(full, 64));
        make_directory(None, b"/data/empty", 0o755).expect("made");
        let empty = open(None, b"/data/empty", O_RDONLY | O_DIRECTORY, 0).expect("it is there");
        (too_small, all, rest, named(empty, 64))
    });
    let mut all: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    all.sort();
    let refused = || Err(i64::from(hermit_abi::EINVAL));
    assert_eq!(names, ([refused(), refused()], Ok(all), Ok(Vec::new()), Ok(Vec::new())));
}
