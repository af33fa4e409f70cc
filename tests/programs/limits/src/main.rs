//! Goes to a limit of the machine, or over it, as its first argument says. It begins when it is given a line of standard
//! input, or its end.

use std::env;
use std::io::stdin;

mod backtraces;
mod busy;
mod chance;
mod refused;
mod room;

fn main() {
    let mut line = String::new();
    stdin().read_line(&mut line).expect("a line or the end");
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(0);
    match arguments.first().map(String::as_str) {
        Some("busy") => busy::run(number(1), number(2)),
        Some("overflow") => room::overflow_of_a_thread(),
        Some("overflow-main") => println!("{}", room::dive(0)),
        Some("closed") => room::look_behind(),
        Some("memory") => room::memory(),
        Some("threads") => room::threads(number(1) as usize),
        Some("refused") => refused::run(),
        Some("chance") => chance::run(),
        Some("system-call") => refused::system_call(number(1)),
        Some("backtraces") => backtraces::run(),
        _ => tell(&arguments),
    }
    println!("all done");
}

/// Says what it was told at its start.
fn tell(arguments: &[String]) {
    println!("arguments: {arguments:?}");
    let mut variables: Vec<_> = env::vars().filter(|(name, _)| name != "RUST_MIN_STACK").collect();
    variables.sort();
    for (name, value) in variables {
        println!("variable {name}: {value:?}");
    }
}
