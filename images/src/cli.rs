//! The command line: what it accepts and which function does it.

mod checkpoint;
mod disk;
mod logs;
mod manage;
mod measure;
mod program;
mod up;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::build::ticks::Coverage;
use crate::build::{self, Workspace};
use crate::ctl::{self, LinkDamage, RoleName, SignalName};
use crate::error::{Context, Result};
use crate::supervise;

/// The exit codes, for `--help`.
const EXIT_CODES: &str = "Exit codes: 0 done · 1 the system refused something · 2 wrong usage · 3 unknown app · \
4 build failed · 5 not an image · 6 port in use · 7 no such pair · 8 name in use · 9 did not start · \
10 something is missing (see `cargo pollux doctor`) · 11 supervisor gone · 12 request refused · 13 a check failed · \
14 no tap · 15 disk cannot be used · 16 not a checkpoint, or not one that fits\n\n\
A pair's files (logs, sockets) lie in $POLLUX_STATE_DIR, else $XDG_RUNTIME_DIR/pollux-UID, else /tmp/pollux-UID.";

/// Turns a Rust program into a bootable image and runs it as a pair of virtual machines in lockstep: when one dies,
/// the other carries on with the same connections and nothing lost.
#[derive(Parser)]
#[command(name = "pollux", bin_name = "cargo pollux", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a project of an ordinary Rust program that serves as a pair.
    New(program::NewArgs),
    /// Build the bootable image of an app, or of any Rust program.
    Build(BuildArgs),
    /// Build and start an app; returns when it serves.
    Up(Box<up::UpArgs>),
    /// Show how a pair is doing.
    Status(QueryArgs),
    /// Send a signal to the QEMU process of a replica.
    Kill(KillArgs),
    /// Take a checkpoint of a pair that goes on meanwhile.
    Checkpoint(checkpoint::CheckpointArgs),
    /// Show what a checkpoint holds.
    Inspect(checkpoint::InspectArgs),
    /// Start a pair that goes on from a checkpoint. Connections of clients do not survive that; ports that the program
    /// listens on do.
    Restore(checkpoint::RestoreArgs),
    /// Record all that happens to a pair's guest, to be run again.
    Record(checkpoint::RecordArgs),
    /// Run a recording again, bit for bit and offline, and compare each epoch with what was recorded.
    Replay(checkpoint::ReplayArgs),
    /// Bring in a new backup for a replica that has gone; returns when the pair is protected again.
    Rejoin(NameArgs),
    /// Let the backup take over as planned, then bring in a new one; returns when the pair is protected again.
    Switchover(NameArgs),
    /// Renew both machines of a pair, one after the other, while it serves: a new backup with these options takes over, then
    /// the old primary is replaced, too.
    Migrate(manage::MigrateArgs),
    /// Show the console of the guest, with functions, files and lines in its backtraces.
    Logs(logs::LogsArgs),
    /// Stop a pair.
    Down(NameArgs),
    /// Look after the files of a disk: inspect, check, resync.
    Disk(disk::DiskArgs),
    /// List the pairs that run.
    List(JsonArgs),
    /// Show it: start a pair of the key-value store, kill its primary under load, check every write.
    Demo(measure::DemoArgs),
    /// Measure on this machine what the project promises.
    Bench(measure::BenchArgs),
    /// Set this machine up and run every test.
    Test(measure::TestArgs),
    /// Say what is missing on this machine, and the command that installs it.
    Doctor(measure::DoctorArgs),
    /// Inject a fault other than a signal, for tests.
    #[command(hide = true)]
    Fault(FaultArgs),
    /// The process that watches a pair; started by `up`.
    #[command(hide = true)]
    Supervise,
}

#[derive(Args)]
struct BuildArgs {
    /// The app: a package under apps/, or one with [package.metadata.pollux] in its manifest.
    #[arg(required_unless_present = "manifest_path")]
    app: Option<String>,
    #[command(flatten)]
    program: program::ProgramArgs,
    /// Make the program count its ticks (function entries and jumps backwards), as `up --epoch counted:N` needs it, and
    /// say which of its functions do not. An app whose manifest wants counted epochs is always built so.
    #[arg(long)]
    counted: bool,
    /// The machine that the image is for.
    #[arg(long, value_enum, default_value_t)]
    target: build::Target,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Which pair.
#[derive(Args)]
struct NameArgs {
    /// Which pair; without it the one named "default", or the only one that runs.
    #[arg(long)]
    name: Option<String>,
}

#[derive(Args)]
struct QueryArgs {
    #[command(flatten)]
    pair: NameArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct JsonArgs {
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct KillArgs {
    /// Which replica, by what it does now.
    role: RoleName,
    /// Which signal.
    #[arg(long, ignore_case = true, default_value = "KILL")]
    signal: SignalName,
    #[command(flatten)]
    pair: NameArgs,
}

#[derive(Args)]
struct FaultArgs {
    #[command(subcommand)]
    fault: Fault,
    #[command(flatten)]
    pair: NameArgs,
}

#[derive(Subcommand)]
enum Fault {
    /// Close the replication link.
    CutLink,
    /// Put bytes that are no message into what a replica reads from the replication link.
    GarbageOnLink {
        /// Which replica reads them.
        role: RoleName,
    },
    /// Send what is on its way to a frozen replica, on the replication link, once more.
    ReplayOnLink {
        /// Which replica reads it.
        role: RoleName,
        /// Damage the first message instead.
        #[arg(long)]
        damage: Option<LinkDamage>,
    },
    /// Type a line at the guest's console.
    ConsoleInput {
        /// The line.
        text: String,
    },
}

/// Runs the command with these arguments (the first is the program's name) and returns its exit code. Errors are
/// printed to stderr.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    let supervises = matches!(cli.command, Command::Supervise);
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !supervises {
                eprintln!("pollux: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::New(args) => program::new(&args),
        Command::Build(args) => build_command(&args),
        Command::Up(args) => up::up(&args),
        Command::Status(args) => manage::status(args.pair.name.as_deref(), args.json),
        Command::Kill(args) => manage::kill(args.pair.name.as_deref(), args.role, args.signal),
        Command::Checkpoint(args) => checkpoint::take(&args),
        Command::Inspect(args) => checkpoint::inspect(&args),
        Command::Restore(args) => checkpoint::restore(&args),
        Command::Migrate(args) => manage::migrate(&args),
        Command::Record(args) => checkpoint::record(&args),
        Command::Replay(args) => checkpoint::replay(&args),
        Command::Rejoin(args) => manage::rejoin(args.name.as_deref(), &ctl::Request::Rejoin),
        Command::Switchover(args) => manage::rejoin(args.name.as_deref(), &ctl::Request::SwitchOver),
        Command::Logs(args) => logs::logs(&args),
        Command::Down(args) => manage::down(args.name.as_deref()),
        Command::Disk(args) => disk::disk(&args),
        Command::List(args) => manage::list(args.json),
        Command::Demo(args) => measure::demo(&args),
        Command::Bench(args) => measure::bench(&args),
        Command::Test(args) => measure::test(&args),
        Command::Doctor(args) => measure::doctor(&args),
        Command::Fault(args) => fault(&args),
        Command::Supervise => supervise::main(),
    }
}

fn build_command(args: &BuildArgs) -> Result<()> {
    let image = match &args.app {
        Some(app) => build_app(app, args)?,
        None => args.program.build(args.target, args.counted, args.json)?,
    };
    if args.json {
        return print_json(&image);
    }
    let coverage = image.coverage.as_ref().map_or_else(String::new, describe_coverage);
    print(&format!("{}: {} bytes, id {}\n{coverage}", image.image.display(), image.image_bytes, &image.image_id[..16]))
}

/// Builds an app of the workspace.
fn build_app(app: &str, args: &BuildArgs) -> Result<build::Image> {
    let workspace = Workspace::find()?;
    match args.target {
        build::Target::X86_64 => build::build(&workspace, app, args.counted.then_some(true), args.json),
        build::Target::Hppa if workspace.has_program(app) => build::build_program(&workspace, app, args.json),
        build::Target::Hppa => build::build_hppa(&workspace, app, args.json),
        build::Target::Hermit => Err(crate::error::Error::Usage(build::NO_APPS_FOR_HERMIT.to_owned())),
    }
}

/// What of a guest counts, for people.
fn describe_coverage(coverage: &Coverage) -> String {
    let sites = &coverage.sites;
    let mut out = format!(
        "  counts ticks in {} functions ({} bytes), at {} jumps backwards, {} entries and {} indirect jumps\n",
        coverage.functions, coverage.bytes, sites.loops, sites.entries, sites.indirect
    );
    out.push_str(&format!(
        "  not counted: {} functions ({} bytes): {}\n",
        coverage.uncounted.len(),
        coverage.uncounted_bytes,
        coverage.uncounted.join(", ")
    ));
    if !coverage.by_hand.is_empty() {
        out.push_str(&format!("  loops written by hand, not counted, in: {}\n", coverage.by_hand.join(", ")));
    }
    out
}

fn fault(args: &FaultArgs) -> Result<()> {
    let request = match &args.fault {
        Fault::CutLink => ctl::Request::CutLink,
        Fault::GarbageOnLink { role } => ctl::Request::GarbageOnLink { role: *role },
        Fault::ReplayOnLink { role, damage } => ctl::Request::ReplayOnLink { role: *role, damage: *damage },
        Fault::ConsoleInput { text } => ctl::Request::ConsoleInput { text: format!("{text}\n") },
    };
    ctl::Client::connect(args.pair.name.as_deref())?.ask(&request).map(drop)
}

/// Prints to stdout. A reader that has gone away (`cargo pollux status | head`) is not an error worth a panic.
fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context(|| "cannot write to stdout")
}

fn print_json(value: &impl Serialize) -> Result<()> {
    print(&ctl::to_line(value)?)
}
