//! A guest that misbehaves on request, so that tests can see what the shim makes of it.
//!
//! It listens on port 7000 and takes one command a line; most answer with one line. The argument text `do=COMMAND`
//! (words joined by `,`) runs a command at the start, before anything is listened to.
//!
//! | command | what happens |
//! |---|---|
//! | `hello` | answers `hello` |
//! | `exit N` | the program ends with code N |
//! | `panic` | panics three calls deep |
//! | `fault KIND` | does what a guest may not: see the module `faults` |
//! | `wild` | makes hypercalls with unknown numbers and wild pointers, answers how many were refused as they should |
//! | `ring transmit-head\|transmit-record\|receive-tail` | damages a ring |
//! | `tsc N` | reads the time stamp N times, answers whether it only ever grew |
//! | `rdrand` | answers a number of the processor's own random generator: a divergence |
//! | `plant N` | writes to N MiB, stores such a number in a static and tells nobody: a divergence that only memory shows; answers `planted in FIRST to LAST`, the epochs between which that was |
//! | `plant-processor` | the same with part of the processor's name, which `cpuid` tells |
//! | `planted` | answers that number |
//! | `compute N` | N rounds of arithmetic within one epoch, answers the result |
//! | `epochs N` | the same, answers `in FIRST to LAST`, the epochs in which it began and ended |
//! | `background N` | the same beside the other tasks, see [`runtime::compute`] |
//! | `background WHAT` | `registers`, `allocate`, `panic`, `spawn`, `overflow`: tries that in a computation |
//! | `background floats N` | N rounds of arithmetic with twelve floating-point numbers at once |
//! | `background loop KIND` | goes round for ever in a computation: see the module `loops` |
//! | `typed` | waits for a line that is typed at the console, answers it |
//! | `connect ADDRESS:PORT` | connects there, answers `connected`; sends the lines that follow there, each answered with the line that comes back |
//! | `datagrams ADDRESS:PORT` | the same with datagrams, answers `bound` first |
//! | `flood N` | prints N lines of 64 bytes |
//! | `entropy N` | answers N random bytes in hexadecimal |
//! | `disk NAME size` | answers `blocks N` |
//! | `disk NAME write FIRST BLOCKS SEED VERSION` | writes blocks whose content follows from the last two numbers, answers `done` |
//! | `disk NAME verify FIRST BLOCKS SEED VERSION` | answers `same`, or where something else is found |
//! | `disk NAME version BLOCK` | answers `version N`, as the block's first word says |
//! | `disk NAME zero\|discard FIRST BLOCKS`, `disk NAME flush` | does that, answers `done` |
//! | `disk NAME overlap FIRST ROUNDS` | writes and reads a few blocks, all at once, answers how many reads saw the write before them |
//! | `disk NAME stream 0\|1 BYTES QUEUE` | reads or writes so much, answers how long it took |
//! | `disk NAME commit ROUNDS` | writes 4 KiB and flushes, answers how long each round took |
//! | `alloc N` | asks for N MiB, writes to all of it, answers `got` or `refused` |
#![no_std]

extern crate alloc;

mod background;
mod calls;
mod disk;
mod faults;
mod loops;
mod measure;
mod peers;
mod processor;
pub mod rings;
mod typed;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use runtime::net::{Error, Lines, TcpListener, TcpStream};
use runtime::{println, spawn};

/// The port that commands are taken on.
const PORT: u16 = 7000;
/// Longest command.
const LINE_BYTES: usize = 256;

/// Runs the command of the argument text, then takes commands for ever.
///
/// # Errors
/// When the port cannot be listened on.
pub async fn main() -> Result<(), Error> {
    if let Some(command) = runtime::env::value("do") {
        let answer = obey(&command.replace(',', " "));
        println!("probe: {answer}");
    }
    let listener = TcpListener::bind(PORT)?;
    println!("probe: ready on {}", listener.local_addr());
    loop {
        spawn(serve(listener.accept().await?));
    }
}

/// Takes commands from one connection until its end.
async fn serve(stream: TcpStream) -> Result<(), Error> {
    let mut lines = Lines::<LINE_BYTES>::new(&stream);
    while let Some(line) = lines.next().await? {
        let command = str::from_utf8(line).unwrap_or_default();
        let mut answer = match command.split_once(' ') {
            Some(("background", what)) => background::run(what).await,
            Some(("disk", what)) => disk::run(&what.split_ascii_whitespace().collect::<Vec<_>>()).await,
            Some(("connect", place)) => {
                let place = place.parse();
                return peers::connect(place, &stream, &mut lines).await;
            }
            Some(("datagrams", place)) => {
                let place = place.parse();
                return peers::datagrams(place, &stream, &mut lines).await;
            }
            None if command == "typed" => typed::line().await,
            _ => obey(command),
        };
        answer.push('\n');
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// Carries out one command.
fn obey(command: &str) -> String {
    let mut words = command.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    let word = words.next().unwrap_or_default();
    let number: u64 = word.parse().unwrap_or_default();
    match name {
        "hello" => "hello".into(),
        "exit" => runtime::exit::exit(number as i32),
        "panic" => outer_caller(number),
        "fault" => faults::commit(word),
        "wild" => calls::wild(),
        "ring" => rings::damage(word),
        "tsc" => measure::time_stamps(number),
        "rdrand" => measure::processor_random(),
        "plant" => measure::plant(number as usize),
        "plant-processor" => measure::plant_processor(),
        "planted" => measure::planted(),
        "compute" => format!("computed {:x}", measure::compute(number)),
        "epochs" => measure::epochs(number),
        "flood" => measure::flood(number),
        "entropy" => measure::entropy(number as usize),
        "alloc" => measure::allocate(number as usize),
        _ => format!("unknown command {command:?}"),
    }
}

#[inline(never)]
fn outer_caller(number: u64) -> String {
    let mut text = middle_caller(number);
    text.push('!');
    text
}

#[inline(never)]
fn middle_caller(number: u64) -> String {
    let mut text = innermost_culprit(number + 1);
    text.push('?');
    text
}

#[inline(never)]
fn innermost_culprit(number: u64) -> String {
    assert!(core::hint::black_box(number) == 0, "the probe was told to panic ({number})");
    String::new()
}
