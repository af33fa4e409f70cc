//! Arguments, environment, streams; errors of what is not there.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, IsTerminal, Write};
use std::{env, fs};

use crate::check;

pub fn run() {
    check("arguments", env::args().skip(1).collect::<Vec<_>>());
    // SAFETY: no other thread runs.
    unsafe {
        env::set_var("POLLUX_CHECK", "a=b");
        check("a variable that was set", env::var("POLLUX_CHECK"));
        check("is listed", env::vars().any(|(name, value)| (name.as_str(), value.as_str()) == ("POLLUX_CHECK", "a=b")));
        env::remove_var("POLLUX_CHECK");
    }
    check("a variable that was removed", env::var("POLLUX_CHECK"));
    let mut out = io::stdout().lock();
    check_line(&mut out);
    drop(out);
    check("no terminal", (io::stdout().is_terminal(), io::stderr().is_terminal()));
    let (one, two) = (RandomState::new().hash_one(1), RandomState::new().hash_one(1));
    check("hash keys differ", one != two);
    let missing = "/nowhere/at/all";
    let kind = |error: io::Error| (error.kind(), error.to_string());
    check("a file that is not there", fs::read(missing).map_err(kind));
    check("its metadata", fs::metadata(missing).map(drop).map_err(kind));
    check("a folder that is not there", fs::read_dir(missing).map(drop).map_err(kind));
    check("removing it", fs::remove_file(missing).map_err(kind));
    check("whether it is there", (fs::exists(missing).ok(), std::path::Path::new(missing).exists()));
    // Systems have words of their own for them.
    #[cfg(not(feature = "portable"))]
    for number in [2, 9, 11, 13, 22, 38, 98, 104, 110, 111, 5000] {
        check("error", io::Error::from_raw_os_error(number).to_string());
    }
    check("kinds of errors", [11, 98, 104, 111].map(|number| io::Error::from_raw_os_error(number).kind()));
}

fn check_line(out: &mut impl Write) {
    let written = out.write_all(b"pieces ").and_then(|()| out.write_all(b"of a line\n")).and_then(|()| out.flush());
    writeln!(out, "written: {written:?}").expect("standard output takes it");
}
