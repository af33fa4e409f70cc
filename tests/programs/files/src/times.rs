//! When files were changed.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{check, done, why};

pub fn run(folder: &Path) {
    let path = folder.join("times");
    let before = SystemTime::now() - Duration::from_secs(1);
    let file = File::create(&path).expect("made");
    let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).expect("a time");
    let first = modified(&path);
    check("made now", (first > before, first < before + Duration::from_secs(60)));
    check(
        "when it was made",
        fs::metadata(&path).and_then(|found| found.created()).map(|time| time > before).map_err(why),
    );
    sleep(Duration::from_millis(30));
    (&file).write_all(b"x").expect("written");
    check("changed later", modified(&path) > first);
    let then = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    check("set", (done(file.set_modified(then)), modified(&path) == then));
    let times = FileTimes::new().set_accessed(then + Duration::from_secs(5));
    let set = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_times(times));
    let accessed = fs::metadata(&path).and_then(|found| found.accessed()).expect("a time");
    check("one of them", (done(set), accessed == then + Duration::from_secs(5), modified(&path) == then));
    let folder_before = modified(folder);
    sleep(Duration::from_millis(30));
    check("the directory's", (done(fs::remove_file(&path)), modified(folder) > folder_before));
}
