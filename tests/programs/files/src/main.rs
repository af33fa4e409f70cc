//! What an ordinary program may expect of `std::fs`: one line for each check, the same on Linux and in an image.
//!
//! Arguments are an empty folder that can be written to and the folder of packed files. It begins when it is given a line, or
//! the end, of standard input. Nothing that it prints depends on time, chance or place.

use std::env;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

mod bytes;
mod directories;
mod links;
mod locks;
mod packed;
mod plain;
mod times;

/// Prints the result of a check.
pub fn check(name: &str, result: impl Debug) {
    println!("{name}: {result:?}");
}

/// What is the same of an error everywhere.
pub fn why(error: io::Error) -> (io::ErrorKind, Option<i32>) {
    (error.kind(), error.raw_os_error())
}

/// What became of an operation that gives nothing of interest.
pub fn done<T>(result: io::Result<T>) -> Result<(), (io::ErrorKind, Option<i32>)> {
    result.map(drop).map_err(why)
}

fn main() {
    let mut line = String::new();
    io::stdin().read_line(&mut line).expect("a line or the end");
    let mut arguments = env::args().skip(1);
    let folder = PathBuf::from(arguments.next().expect("a folder"));
    let image = PathBuf::from(arguments.next().expect("the packed folder"));
    plain::run(&folder);
    directories::run(&folder);
    links::run(&folder);
    locks::run(&folder);
    times::run(&folder);
    packed::run(&image);
    println!("all done");
}
