//! Files: written, read, cut, appended to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;

use crate::bytes::{self, open};
use crate::{check, done, why};

pub fn run(folder: &Path) {
    bytes::run(folder);
    let path = folder.join("plain");
    let mode = |path: &Path| fs::metadata(path).map(|found| format!("{:o}", found.permissions().mode())).map_err(why);
    check("its mode", mode(&path));
    check("neither read nor write", done(OpenOptions::new().open(&path)));
    clones(&path);
    offsets(&path);
    lengths(&path);
    check("a reader that cuts", File::open(&path).and_then(|file| file.set_len(1)).map_err(why));
    check("a mode that was asked for", {
        let made = OpenOptions::new().write(true).create(true).mode(0o600).open(folder.join("private"));
        made.map(|file| file.metadata().map(|found| format!("{:o}", found.permissions().mode())).map_err(why))
            .map_err(why)
    });
    check("permissions that were set", {
        let set = fs::set_permissions(&path, fs::Permissions::from_mode(0o640));
        (done(set), mode(&path), fs::metadata(&path).map(|found| found.permissions().readonly()).map_err(why))
    });
    large(folder);
    from_threads(folder);
    check("copied", {
        let copied = fs::copy(&path, folder.join("copy")).map_err(why);
        (copied, fs::read(folder.join("copy")).ok() == fs::read(&path).ok(), mode(&folder.join("copy")))
    });
    check("removed", done(fs::remove_file(folder.join("copy"))));
    check("removed again", done(fs::remove_file(folder.join("copy"))));
    unlinked(folder);
    for name in ["plain", "new", "private"] {
        check("cleaned up", done(fs::remove_file(folder.join(name))));
    }
}

fn clones(path: &Path) {
    let mut file = open(path);
    let mut clone = file.try_clone().expect("another of it");
    check(
        "a clone has the same position",
        clone.seek(SeekFrom::Start(4)).and_then(|_| file.stream_position()).map_err(why),
    );
}

fn offsets(path: &Path) {
    let file = open(path);
    check("written at an offset", file.write_at(b"ab", 5).map_err(why));
    let mut two = [0; 4];
    check("read at an offset", file.read_at(&mut two, 4).map(|bytes| (bytes, two)).map_err(why));
    check("more than there is", done(file.read_exact_at(&mut [0; 4], 20)));
    check("at no offset", file.read_at(&mut two, 1 << 60).map_err(why));
}

fn lengths(path: &Path) {
    let file = open(path);
    check("cut", done(file.set_len(3)));
    check("longer by zeros", file.set_len(6).and_then(|()| fs::read(path)).map_err(why));
    check("synced", (done(file.sync_all()), done(file.sync_data())));
    check("longer than any file", file.set_len(1 << 62).map_err(|error| error.kind() == io::ErrorKind::FileTooLarge));
}

/// More than any cache holds, with every block different.
fn large(folder: &Path) {
    let path = folder.join("large");
    let block = |number: u32| -> Vec<u8> { (0..4096_u32).map(|at| (at * 7 + number * 13) as u8).collect() };
    let mut file = File::create(&path).expect("made");
    for number in 0..1500 {
        file.write_all(&block(number)).expect("written");
    }
    drop(file);
    let file = File::open(&path).expect("it is there");
    let mut found = vec![0; 4096];
    let is_right = |number: u32| {
        file.read_exact_at(&mut found, u64::from(number) * 4096).expect("read");
        found == block(number)
    };
    check("six megabytes", ((0..1500).rev().all(is_right), fs::metadata(&path).map(|found| found.len()).map_err(why)));
    check("removed large", done(fs::remove_file(&path)));
    let sparse = File::create(&path).expect("made");
    sparse.write_all_at(b"end", 1 << 30).expect("written");
    let found = sparse.metadata().expect("there");
    check("a gigabyte of nothing", (found.len(), found.blocks() < 1000));
    check("removed sparse", done(fs::remove_file(&path)));
}

fn from_threads(folder: &Path) {
    let path = folder.join("threads");
    let file = File::create(&path).expect("made");
    thread::scope(|scope| {
        for number in 0..8_u8 {
            let file = &file;
            scope.spawn(move || {
                for turn in 0..50 {
                    file.write_all_at(&[number; 100], (turn * 8 + u64::from(number)) * 100).expect("written");
                    if turn % 10 == 0 {
                        file.sync_data().expect("synced");
                    }
                }
            });
        }
    });
    let all = fs::read(&path).expect("readable");
    let is_right = all.chunks(100).enumerate().all(|(at, bytes)| bytes.iter().all(|&byte| byte as usize == at % 8));
    check("written by eight threads", (all.len(), is_right));
    check("removed", done(fs::remove_file(&path)));
}

fn unlinked(folder: &Path) {
    let path = folder.join("unlinked");
    let file = File::create(&path).expect("made");
    fs::remove_file(&path).expect("removed");
    check("names left", file.metadata().map(|found| found.nlink()).map_err(why));
}
