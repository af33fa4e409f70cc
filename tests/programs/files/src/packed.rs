//! Files that came with the program.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::{check, done, why};

pub fn run(folder: &Path) {
    check("a packed text", fs::read_to_string(folder.join("greeting.txt")).map_err(why));
    check("a deeper one", fs::read_to_string(folder.join("inner/../inner/numbers.txt")).map_err(why));
    let mut names: Vec<_> =
        fs::read_dir(folder).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    check("what is there", names);
    check("what is not", done(File::open(folder.join("nothing"))));
    let mut file = File::open(folder.join("inner/numbers.txt")).expect("it is there");
    let mut rest = String::new();
    check(
        "from the end",
        file.seek(SeekFrom::End(-6)).and_then(|_| file.read_to_string(&mut rest)).map(|_| rest).map_err(why),
    );
    check("its length", file.metadata().map(|found| (found.len(), found.is_file())).map_err(why));
    check("a directory", fs::metadata(folder.join("inner")).map(|found| found.is_dir()).map_err(why));
}
