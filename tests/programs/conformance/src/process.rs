//! The program itself: its number, its environment, how it ends.

use std::env;
use std::error::Error;
use std::thread;
use std::thread::available_parallelism;

use crate::check;

pub fn run() {
    #[cfg(not(feature = "portable"))]
    check("it has a number", std::process::id() > 0);
    check("a processor at least", available_parallelism().is_ok());
    check("its name", env::args().next().is_some_and(|name| !name.is_empty()));
    // SAFETY: no other thread runs.
    unsafe {
        env::set_var("POLLUX_EMPTY", "");
        env::set_var("POLLUX_TEXT", "ä=ö");
    }
    check("an empty variable", env::var("POLLUX_EMPTY"));
    check("a text in a variable", (env::var_os("POLLUX_TEXT"), env::var("POLLUX_NONE").is_err()));
    check("seen by others", thread::spawn(|| env::var("POLLUX_TEXT")).join().ok());
    let error: Box<dyn Error + Send + Sync> = From::from("an error of text");
    check(
        "errors",
        (error.to_string(), "x".parse::<i32>().map_err(Box::<dyn Error>::from).map_err(|error| error.to_string())),
    );
    let source = std::io::Error::other(error);
    check("errors within errors", (source.get_ref().map(ToString::to_string), source.kind()));
}
