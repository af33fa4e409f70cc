//! Directories: made, listed, renamed, removed; and where paths lead.

use std::fs::{self, DirBuilder, File};
use std::path::Path;
use std::{env, io};

use crate::{check, done, why};

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

pub fn run(folder: &Path) {
    let top = folder.join("top");
    check("a directory", done(fs::create_dir(&top)));
    check("once more", done(fs::create_dir(&top)));
    check("in what is not there", done(fs::create_dir(folder.join("no/sub"))));
    check("all of a path", done(fs::create_dir_all(top.join("a/b/c"))));
    check("all of it again", done(DirBuilder::new().recursive(true).create(top.join("a/b/c"))));
    check("a directory in a file", {
        fs::write(top.join("file"), b"x").expect("written");
        done(fs::create_dir(top.join("file/sub")))
    });
    for number in 0..200 {
        File::create(top.join(format!("a/{number}"))).expect("made");
    }
    check("listed", listed(&top).map_err(why));
    check(
        "many are listed",
        listed(&top.join("a")).map(|names| (names.len(), names[0].clone(), names[200].clone())).map_err(why),
    );
    check("what is not there is listed", listed(&top.join("z")).map_err(why));
    check("a file is listed", listed(&top.join("file")).map_err(why));
    check("an entry's path", {
        let entries = fs::read_dir(&top).expect("listed").map(|entry| entry.expect("an entry"));
        entries.map(|entry| entry.path().strip_prefix(&top).map(Path::to_path_buf)).filter(Result::is_ok).count()
    });
    check("opened to be read", File::open(&top).and_then(|file| io::Read::read(&mut &file, &mut [0; 4])).map_err(why));
    check("opened to be written", File::create(&top).map(drop).map_err(why));
    check("synced", File::open(&top).and_then(|file| file.sync_all()).map_err(why));
    renames(&top);
    check("not empty", done(fs::remove_dir(&top)));
    check("a directory by the other function", done(fs::remove_file(top.join("a"))).is_err());
    check("a file by the other function", done(fs::remove_dir(top.join("file"))));
    paths(&top);
    check("all of it", done(fs::remove_dir_all(&top)));
    check("it is gone", fs::exists(&top).map_err(why));
    check("all of nothing", done(fs::remove_dir_all(&top)));
}

fn renames(top: &Path) {
    let name = |name: &str| top.join(name);
    fs::write(name("one"), b"1").expect("written");
    fs::write(name("two"), b"2").expect("written");
    check("renamed over another", done(fs::rename(name("one"), name("two"))));
    check("it is the first", fs::read_to_string(name("two")).map_err(why));
    check("whose name is gone", done(fs::rename(name("one"), name("three"))));
    check("to itself", done(fs::rename(name("two"), name("two"))));
    check("a file over a directory", done(fs::rename(name("two"), name("a"))));
    check("a directory over a file", done(fs::rename(name("a"), name("two"))));
    check("into itself", done(fs::rename(name("a"), name("a/b/d"))));
    check("over a full one", {
        fs::create_dir_all(name("full/x")).expect("made");
        done(fs::rename(name("a"), name("full"))).is_err()
    });
    check("over an empty one", {
        fs::create_dir(name("empty")).expect("made");
        done(fs::rename(name("full"), name("empty")))
    });
    check("with what is in it", listed(&name("empty")).map_err(why));
    check("to another directory", done(fs::rename(name("two"), name("empty/x/two"))));
    check("it is there", fs::read_to_string(name("empty/x/two")).map_err(why));
}

fn paths(top: &Path) {
    let inside = |path: std::path::PathBuf| path.strip_prefix(top).map(|path| path.display().to_string()).ok();
    check("the real path", fs::canonicalize(top.join("a/../a/./b/..//file/../b")).map(inside).map_err(why));
    check("really", fs::canonicalize(top.join("a/../a/./b")).map(inside).map_err(why));
    check("of what is not there", fs::canonicalize(top.join("q")).map_err(why));
    check("changed to", done(env::set_current_dir(top.join("a/b"))));
    check("the current one", env::current_dir().map(inside).map_err(why));
    check("a relative path", done(fs::write("../../relative", b"r")));
    check("from there", fs::read_to_string(top.join("relative")).map_err(why));
    check("changed to a file", done(env::set_current_dir("../../relative")));
    check("up", done(env::set_current_dir("../..")));
    check("listed from here", listed(Path::new(".")).map(|names| names.len()).map_err(why));
    check("beyond the root", done(fs::metadata("/../../..")));
    env::set_current_dir("/").expect("the root");
}
