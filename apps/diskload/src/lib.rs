//! The paper's two workloads that use a disk: one reads, one writes, both 8 KiB at a random place, one operation after the other
//! (Bressoud and Schneider 1996, section 4).
//!
//! It listens on port 7000 and answers each line with one line. `disk=NAME` among the arguments names the disk; without that
//! it is `data`.
//!
//! | command | what it does | answer |
//! |---|---|---|
//! | `fill SEED` | writes the whole disk and flushes it: what reads with that seed expect | `filled BLOCKS` |
//! | `read OPERATIONS SEED` | reads, and compares every byte with what must be there | `read OPERATIONS ok` |
//! | `write OPERATIONS SEED` | makes up the content and writes it | `written OPERATIONS ok` |
//!
//! Any other answer begins with `diskload:` and says what is wrong. Which places, and what they hold, follows from the seed, so
//! anybody can do the same work again and check it.
#![no_std]

extern crate alloc;

pub mod command;
pub mod content;
pub mod workload;

use alloc::format;
use alloc::string::String;

use runtime::block::Disk;
use runtime::net::{Error, Lines, TcpListener, TcpStream};
use runtime::{println, spawn};

use command::Command;

/// The port that commands are taken on.
const PORT: u16 = 7000;
/// The disk, if the arguments name no other.
const DISK: &str = "data";
/// Longest command; a peer that sends a longer one is left.
const LINE_BYTES: usize = 64;

/// Takes commands for ever.
///
/// # Errors
/// When the port cannot be listened on.
pub async fn main() -> Result<(), Error> {
    let listener = TcpListener::bind(PORT)?;
    println!("diskload: ready on {}", listener.local_addr());
    loop {
        spawn(converse(listener.accept().await?));
    }
}

/// Takes commands from one connection until its end.
async fn converse(stream: TcpStream) -> Result<(), Error> {
    let mut lines = Lines::<LINE_BYTES>::new(&stream);
    while let Some(line) = lines.next().await? {
        let mut answer = obey(str::from_utf8(line).unwrap_or_default()).await;
        answer.push('\n');
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn obey(line: &str) -> String {
    let command = match line.parse::<Command>() {
        Ok(command) => command,
        Err(error) => return format!("diskload: {error}"),
    };
    let name = runtime::env::value("disk").unwrap_or(DISK);
    let done = match Disk::open(name) {
        Ok(disk) => workload::run(disk, command).await,
        Err(error) => {
            return format!("diskload: there is no disk {name:?} ({error:?}): start it with `--disk {name}=FILE`");
        }
    };
    match done {
        Ok(blocks) => command.answer(blocks),
        Err(error) => format!("diskload: {error}"),
    }
}
