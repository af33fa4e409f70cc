//! Files: written, read, cut, appended to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::thread;

use crate::{check, done, why};

pub fn run(folder: &Path) {
    let path = folder.join("plain");
    check("a file that is not there", File::open(&path).map(drop).map_err(why));
    check("written at once", done(fs::write(&path, b"first line\nsecond\n")));
    check("read at once", fs::read_to_string(&path).map_err(why));
    check("its length", fs::metadata(&path).map(|found| (found.len(), found.is_file(), found.is_dir())).map_err(why));
    let mode = |path: &Path| fs::metadata(path).map(|found| format!("{:o}", found.permissions().mode())).map_err(why);
    check("its mode", mode(&path));
    check("made new where it is", done(OpenOptions::new().write(true).create_new(true).open(&path)));
    check("made new", done(OpenOptions::new().write(true).create_new(true).open(folder.join("new"))));
    check("neither read nor write", done(OpenOptions::new().open(&path)));
    check(
        "truncated when opened",
        File::create(&path).and_then(|file| file.metadata()).map(|it| it.len()).map_err(why),
    );
    positions(&path);
    offsets(&path);
    appending(&path);
    lengths(&path);
    pieces(&path);
    access(&path);
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
    check("a slash behind a file", File::open(folder.join("plain/")).map(drop).map_err(why));
    check("a name in a file", File::open(folder.join("plain/x")).map(drop).map_err(why));
    check("a name that is too long", File::create(folder.join("x".repeat(256))).map(drop).map_err(why));
    check("a path with a zero", File::open("a\0b").map(drop).map_err(|error| error.kind()));
    unlinked(folder);
    for name in ["plain", "new", "private"] {
        check("cleaned up", done(fs::remove_file(folder.join(name))));
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("it is there")
}

fn positions(path: &Path) {
    let mut file = open(path);
    check("written", file.write(b"0123456789").map_err(why));
    check("position", file.stream_position().map_err(why));
    check("back by three", file.seek(SeekFrom::Current(-3)).map_err(why));
    let mut rest = String::new();
    check("the rest", file.read_to_string(&mut rest).map(|bytes| (bytes, rest)).map_err(why));
    check("from the end", file.seek(SeekFrom::End(-1)).map_err(why));
    check("before the beginning", file.seek(SeekFrom::Current(-100)).map_err(why));
    check("beyond the end", file.seek(SeekFrom::Start(20)).map_err(why));
    check("nothing there", file.read(&mut [0; 4]).map_err(why));
    check("written beyond the end", file.write(b"x").map_err(why));
    file.rewind().expect("a position");
    let mut all = Vec::new();
    check("with a hole", file.read_to_end(&mut all).map(|_| all).map_err(why));
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

fn appending(path: &Path) {
    let mut first = OpenOptions::new().append(true).open(path).expect("it is there");
    let mut second = OpenOptions::new().append(true).open(path).expect("it is there");
    let both = first.write_all(b"A").and_then(|()| second.write_all(b"B")).and_then(|()| first.write_all(b"C"));
    check("appended by two", done(both));
    let all = fs::read(path).expect("readable");
    check("in order", all[all.len() - 3..].to_vec());
}

fn lengths(path: &Path) {
    let file = open(path);
    check("cut", done(file.set_len(3)));
    check("longer by zeros", file.set_len(6).and_then(|()| fs::read(path)).map_err(why));
    check("synced", (done(file.sync_all()), done(file.sync_data())));
    check("longer than any file", file.set_len(1 << 62).map_err(|error| error.kind() == io::ErrorKind::FileTooLarge));
}

fn pieces(path: &Path) {
    let mut file = open(path);
    check("pieces", file.write_vectored(&[IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two")]).map_err(why));
    file.rewind().expect("a position");
    let (mut one, mut two) = ([0; 2], [0; 4]);
    let read = file.read_vectored(&mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)]);
    check("into pieces", read.map(|bytes| (bytes, one, two)).map_err(why));
    let mut writer = BufWriter::new(File::create(path).expect("it is there"));
    for number in 0..1000 {
        writeln!(writer, "line {number}").expect("written");
    }
    check("flushed", done(writer.flush()));
    let lines = BufReader::new(File::open(path).expect("it is there")).lines();
    let last = lines.map(|line| line.expect("UTF-8")).last();
    check("the last of many lines", last);
}

fn access(path: &Path) {
    check("a reader that writes", File::open(path).and_then(|mut file| file.write(b"x")).map_err(why));
    let writer = OpenOptions::new().write(true).open(path);
    check("a writer that reads", writer.and_then(|mut file| file.read(&mut [0; 4])).map_err(why));
    check("a reader that cuts", File::open(path).and_then(|file| file.set_len(1)).map_err(why));
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
    fs::write(&path, b"still here").expect("written");
    let mut file = File::open(&path).expect("it is there");
    fs::remove_file(&path).expect("removed");
    let mut text = String::new();
    check("read without a name", file.read_to_string(&mut text).map(|_| text).map_err(why));
    check("names left", file.metadata().map(|found| found.nlink()).map_err(why));
    check("not there", fs::exists(&path).map_err(why));
}
