//! Names of one file, and symbolic links.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::{check, done, why};

pub fn run(folder: &Path) {
    let name = |name: &str| folder.join(name);
    fs::write(name("file"), b"content").expect("written");
    check("a second name", done(fs::hard_link(name("file"), name("second"))));
    check("that is taken", done(fs::hard_link(name("file"), name("second"))));
    check("of a directory", done(fs::hard_link(folder, name("third"))));
    let number = |path: &str| fs::metadata(name(path)).map(|found| found.ino());
    check(
        "the same file",
        (number("file").ok() == number("second").ok(), fs::metadata(name("file")).map(|it| it.nlink()).map_err(why)),
    );
    check("one fewer", (done(fs::remove_file(name("file"))), fs::read_to_string(name("second")).map_err(why)));
    check("a link", done(symlink("second", name("link"))));
    check("its target", fs::read_link(name("link")).map_err(why));
    check("through it", fs::read_to_string(name("link")).map_err(why));
    check("it is one", fs::symlink_metadata(name("link")).map(|found| (found.is_symlink(), found.len())).map_err(why));
    check("followed", fs::metadata(name("link")).map(|found| (found.is_symlink(), found.len())).map_err(why));
    check("no link", fs::read_link(name("second")).map_err(why));
    check(
        "written through it",
        (done(fs::write(name("link"), b"new")), fs::read_to_string(name("second")).map_err(why)),
    );
    check("to nothing", (done(symlink("nothing", name("dangling"))), done(File::open(name("dangling")))));
    check(
        "made through it",
        (done(fs::write(name("dangling"), b"made")), fs::read_to_string(name("nothing")).map_err(why)),
    );
    check("made new through it", done(OpenOptions::new().write(true).create_new(true).open(name("dangling"))));
    check(
        "to itself",
        (done(symlink("loop", name("loop"))), File::open(name("loop")).map(drop).map_err(|error| error.raw_os_error())),
    );
    check("to a directory", {
        fs::create_dir(name("directory")).expect("made");
        fs::write(name("directory/inside"), b"inside").expect("written");
        (done(symlink("directory", name("way"))), fs::read_to_string(name("way/inside")).map_err(why))
    });
    check("up from there", fs::read_to_string(name("way/../second")).map_err(why));
    check(
        "to a whole path",
        (done(symlink(name("directory"), name("whole"))), fs::read_to_string(name("whole/inside")).map_err(why)),
    );
    check(
        "really",
        fs::canonicalize(name("way/inside"))
            .map(|path| path == fs::canonicalize(name("directory")).expect("real").join("inside"))
            .map_err(why),
    );
    check(
        "a link removed and not what it leads to",
        (done(fs::remove_file(name("way"))), fs::exists(name("directory/inside")).map_err(why)),
    );
    check("renamed", (done(fs::rename(name("link"), name("moved"))), fs::read_link(name("moved")).map_err(why)));
    check("all but what links lead to", {
        fs::create_dir(name("tree")).expect("made");
        symlink("../directory", name("tree/out")).expect("linked");
        (done(fs::remove_dir_all(name("tree"))), fs::exists(name("directory/inside")).map_err(why))
    });
    for path in ["second", "moved", "dangling", "nothing", "loop", "whole"] {
        fs::remove_file(name(path)).expect("removed");
    }
    check("cleaned up", done(fs::remove_dir_all(name("directory"))));
}
