//! The `pollux` command. Everything is in the library, so that tests and benchmarks can use it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    pollux::run(std::env::args_os())
}
