//! Files as every system has them: written, read, added to, looked for by names that are none. Another program includes this, too.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::{check, done, why};

/// Leaves the files `plain` and `new` in the folder.
pub fn run(folder: &Path) {
    let path = folder.join("plain");
    check("a file that is not there", File::open(&path).map(drop).map_err(why));
    check("written at once", done(fs::write(&path, b"first line\nsecond\n")));
    check("read at once", fs::read_to_string(&path).map_err(why));
    check("its length", fs::metadata(&path).map(|found| (found.len(), found.is_file(), found.is_dir())).map_err(why));
    check("made new where it is", done(OpenOptions::new().write(true).create_new(true).open(&path)));
    check("made new", done(OpenOptions::new().write(true).create_new(true).open(folder.join("new"))));
    check(
        "truncated when opened",
        File::create(&path).and_then(|file| file.metadata()).map(|it| it.len()).map_err(why),
    );
    positions(&path);
    appending(&path);
    pieces(&path);
    check("a reader that writes", File::open(&path).and_then(|mut file| file.write(b"x")).map_err(why));
    let writer = OpenOptions::new().write(true).open(&path);
    check("a writer that reads", writer.and_then(|mut file| file.read(&mut [0; 4])).map_err(why));
    check("a slash behind a file", File::open(folder.join("plain/")).map(drop).map_err(why));
    check("a name in a file", File::open(folder.join("plain/x")).map(drop).map_err(why));
    check("a name that is too long", File::create(folder.join("x".repeat(256))).map(drop).map_err(why));
    check("a path with a zero", File::open("a\0b").map(drop).map_err(|error| error.kind()));
    unlinked(folder);
}

pub fn open(path: &Path) -> File {
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
}

fn appending(path: &Path) {
    let mut first = OpenOptions::new().append(true).open(path).expect("it is there");
    let mut second = OpenOptions::new().append(true).open(path).expect("it is there");
    let both = first.write_all(b"A").and_then(|()| second.write_all(b"B")).and_then(|()| first.write_all(b"C"));
    check("appended by two", done(both));
    let all = fs::read(path).expect("readable");
    check("in order", all[all.len() - 3..].to_vec());
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

fn unlinked(folder: &Path) {
    let path = folder.join("unlinked");
    fs::write(&path, b"still here").expect("written");
    let mut file = File::open(&path).expect("it is there");
    fs::remove_file(&path).expect("removed");
    let mut text = String::new();
    check("read without a name", file.read_to_string(&mut text).map(|_| text).map_err(why));
    check("not there", fs::exists(&path).map_err(why));
}
