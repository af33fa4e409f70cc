//! The command line: what it accepts and which function does it.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::build::{self, Workspace};
use crate::error::{Error, Result};

/// The exit codes, for `--help`.
const EXIT_CODES: &str = "Exit codes: 0 done · 1 the system refused something · 2 wrong usage · 3 unknown app · \
4 build failed · 5 not an image · 6 port in use · 7 no such pair · 8 name in use · 9 did not start · \
10 something is missing (see `pollux doctor`) · 11 supervisor gone · 12 request refused · 13 a check failed";

/// Turns a Rust program into a bootable image and runs it as a pair of virtual machines in lockstep.
#[derive(Parser)]
#[command(name = "pollux", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the bootable image of an app.
    Build(BuildArgs),
}

#[derive(Args)]
struct BuildArgs {
    /// The app: a package under apps/, or one with [package.metadata.pollux] in its manifest.
    app: String,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command with these arguments (the first is the program's name) and returns its exit code. Errors are
/// printed to stderr.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pollux: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Build(args) => build_command(&args),
    }
}

fn build_command(args: &BuildArgs) -> Result<()> {
    let image = build::build(&Workspace::find()?, &args.app, args.json)?;
    if args.json {
        println!("{}", serde_json::to_string(&image).map_err(|error| Error::Usage(error.to_string()))?);
    } else {
        println!("{}: {} bytes, id {}", image.image.display(), image.image_bytes, &image.image_id[..16]);
    }
    Ok(())
}
