//! Files and directories, as far as every system has them. Of an error its number is printed: kinds are fewer elsewhere.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::{bytes, check};

/// What is the same of an error everywhere.
pub fn why(error: io::Error) -> Option<i32> {
    error.raw_os_error()
}

/// What became of an operation that gives nothing of interest.
pub fn done<T>(result: io::Result<T>) -> Result<(), Option<i32>> {
    result.map(drop).map_err(why)
}

pub fn run(folder: &Path, packed: &Path) {
    bytes::run(folder);
    let path = folder.join("plain");
    check("files: a link", fs::metadata(&path).map(|found| found.is_symlink()).map_err(why));
    check(
        "files: whether it may be written to",
        fs::metadata(&path).map(|it| it.permissions().readonly()).map_err(why),
    );
    large(folder);
    from_threads(folder);
    changed(folder);
    directories(folder);
    check("files: removed", done(fs::remove_file(&path)));
    check("files: removed again", done(fs::remove_file(&path)));
    check("files: the other one", done(fs::remove_file(folder.join("new"))));
    from_the_image(packed);
}

/// More than any cache holds, with every block different.
fn large(folder: &Path) {
    let path = folder.join("large");
    let block = |number: u32| -> Vec<u8> { (0..4096_u32).map(|at| (at * 7 + number * 13) as u8).collect() };
    let mut file = File::create(&path).expect("made");
    for number in 0..500 {
        file.write_all(&block(number)).expect("written");
    }
    drop(file);
    let mut file = File::open(&path).expect("it is there");
    let mut found = vec![0; 4096];
    let is_right = |number: u32| {
        file.seek(SeekFrom::Start(u64::from(number) * 4096)).expect("a position");
        file.read_exact(&mut found).expect("read");
        found == block(number)
    };
    check("files: two megabytes", ((0..500).rev().all(is_right), fs::metadata(&path).map(|it| it.len()).map_err(why)));
    check("files: and away with them", done(fs::remove_file(&path)));
}

fn from_threads(folder: &Path) {
    let path = |number: u8| folder.join(format!("thread {number}"));
    thread::scope(|scope| {
        for number in 0..8_u8 {
            scope.spawn(move || {
                let mut file = File::create(path(number)).expect("made");
                for _ in 0..50 {
                    file.write_all(&[number; 100]).expect("written");
                }
            });
        }
    });
    let is_right = |number: u8| fs::read(path(number)).expect("readable") == vec![number; 5000];
    check("files: of eight threads", (0..8).all(is_right));
    check("files: all of them away", (0..8).all(|number| fs::remove_file(path(number)).is_ok()));
}

fn changed(folder: &Path) {
    let path = folder.join("times");
    let before = SystemTime::now() - Duration::from_secs(1);
    let mut file = File::create(&path).expect("made");
    let modified = || fs::metadata(&path).and_then(|found| found.modified()).expect("a time");
    let first = modified();
    check("files: made now", (first > before, first < before + Duration::from_secs(60)));
    thread::sleep(Duration::from_millis(30));
    file.write_all(b"x").expect("written");
    check("files: changed later", modified() > first);
    fs::remove_file(&path).expect("removed");
}

/// The names in a directory, in order, with what they are.
fn listed(path: &Path) -> io::Result<Vec<(String, bool)>> {
    let mut names = fs::read_dir(path)?
        .map(|entry| {
            entry.and_then(|entry| Ok((entry.file_name().into_string().expect("UTF-8"), entry.file_type()?.is_dir())))
        })
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn directories(folder: &Path) {
    let top = folder.join("top");
    check("directories: one", done(fs::create_dir(&top)));
    check("directories: once more", done(fs::create_dir(&top)));
    check("directories: in what is not there", done(fs::create_dir(folder.join("no/sub"))));
    check("directories: all of a path", done(fs::create_dir_all(top.join("a/b/c"))));
    check("directories: all of it again", done(fs::create_dir_all(top.join("a/b/c"))));
    for number in 0..200 {
        File::create(top.join(format!("a/{number}"))).expect("made");
    }
    fs::write(top.join("file"), b"x").expect("written");
    check("directories: one in a file", done(fs::create_dir(top.join("file/sub"))));
    check("directories: listed", listed(&top).map_err(why));
    let many = listed(&top.join("a")).map(|names| (names.len(), names[0].clone(), names[200].clone()));
    check("directories: many are listed", many.map_err(why));
    let lengths =
        fs::read_dir(&top).expect("listed").map(|entry| entry.and_then(|it| it.metadata()).map(|it| it.is_dir()));
    check("directories: what the entries are", lengths.filter(|is_directory| matches!(is_directory, Ok(true))).count());
    check("directories: what is not there is listed", listed(&top.join("z")).map_err(why));
    check("directories: a file is listed", listed(&top.join("file")).map_err(why));
    check("directories: read", File::open(&top).and_then(|mut file| file.read(&mut [0; 4])).map_err(why));
    check("directories: written", File::create(&top).map(drop).map_err(why));
    check("directories: not empty", done(fs::remove_dir(&top)));
    check("directories: a file by the other function", done(fs::remove_dir(top.join("file"))));
    for number in 0..200 {
        fs::remove_file(top.join(format!("a/{number}"))).expect("removed");
    }
    let inside_out = ["a/b/c", "a/b", "a"].map(|name| done(fs::remove_dir(top.join(name))));
    check("directories: removed from within", inside_out);
    check("directories: the rest", (done(fs::remove_file(top.join("file"))), done(fs::remove_dir(&top))));
    check("directories: it is gone", fs::exists(&top).map_err(why));
    check("directories: the root", fs::metadata("/").map(|found| found.is_dir()).map_err(why));
    check("directories: beyond it", fs::metadata("/../../..").map(|found| found.is_dir()).map_err(why));
}

fn from_the_image(folder: &Path) {
    check("packed: a text", fs::read_to_string(folder.join("greeting.txt")).map_err(why));
    check("packed: a deeper one", fs::read_to_string(folder.join("inner/../inner/numbers.txt")).map_err(why));
    check("packed: what is there", listed(folder).map_err(why));
    check("packed: what is not", done(File::open(folder.join("nothing"))));
    let mut file = File::open(folder.join("inner/numbers.txt")).expect("it is there");
    let mut rest = String::new();
    let end = file.seek(SeekFrom::End(-6)).and_then(|_| file.read_to_string(&mut rest));
    check("packed: from the end", end.map(|_| rest).map_err(why));
}
