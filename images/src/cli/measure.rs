//! The commands that set up, show, measure and test.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde::Serialize;

use super::{print, print_json};
use crate::bench::paper::pa_risc;
use crate::bench::paper::plan::{Part, Plan};
use crate::bench::paper::run::{Images, ImagesOf};
use crate::build::{self, Image, Target, Workspace};
use crate::error::{Context, Error, Result};
use crate::setup::{self, Need};
use crate::supervise::net::Net;
use crate::{bench, demo, selftest};

/// What `demo` accepts.
#[derive(Args)]
pub struct DemoArgs {
    /// Install what is missing, with sudo if need be. (As root it is installed in any case.)
    #[arg(long)]
    yes: bool,
    /// How many clients write.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    connections: u16,
    /// The machine to show it on.
    #[arg(long, value_enum, default_value_t)]
    target: Target,
    /// How many primaries are killed, all under the same connections: after each a new replica is brought in. 1 unless given,
    /// and 10 on PA-RISC.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    kills: Option<u16>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Kills that `demo` shows on PA-RISC unless told otherwise.
const HPPA_DEMO_KILLS: u16 = 10;

pub(super) fn demo(args: &DemoArgs) -> Result<()> {
    let kills = args.kills.unwrap_or(if args.target == Target::Hppa { HPPA_DEMO_KILLS } else { 1 });
    let wanted = demo::Show { connections: args.connections.into(), target: args.target, kills: kills.into() };
    let result = demo::run(wanted, args.yes)?;
    show(args.json, &result, demo::describe)?;
    demo::judge(&result)
}

/// What `bench` accepts.
#[derive(Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Kill primaries under load; measure the outage that clients see and check every write.
    Failover(MeasureArgs),
    /// Measure throughput, processor time a request, latency, start-up and memory, of the pair against --bare.
    Throughput {
        #[command(flatten)]
        common: MeasureArgs,
        /// Script of the peer (Linux and redis-server in one virtual machine) to be measured in the same rounds.
        #[arg(long, value_name = "SCRIPT")]
        peer: Option<PathBuf>,
        /// The folder in which the peer was prepared; made beside the script's name unless given.
        #[arg(long, value_name = "FOLDER", requires = "peer")]
        peer_folder: Option<PathBuf>,
    },
    /// Take checkpoints of a loaded store, bring in replicas and restore: pauses, gaps that clients see, times, sizes.
    Checkpoint(MeasureArgs),
    /// Measure what mirrored disks cost and keep: streams and commits of a pair against --bare, primaries killed during
    /// writes, a store whose machines are both killed, a large log replaced.
    Disk(DiskBenchArgs),
    /// Measure ordinary programs: the image of a small one, its start, an HTTP server of a pair
    /// against --bare, and the way from a new project to a request that it has answered.
    Std(StdBenchArgs),
    /// Redo the evaluation of Bressoud and Schneider's paper: what epochs cost by length, protocol and source; exactness;
    /// failovers of a guest that computes.
    Paper(PaperArgs),
}

#[derive(Args)]
struct PaperArgs {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// One round, fewer lengths: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Where evaluation.md, its pictures and paper.json go; target/bench unless given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write docs/evaluation.md and its pictures too: of all that is measured, and not of a quick look.
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    write_docs: bool,
    /// Measure this part only; may be repeated.
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Measure dhrystone.img, kv.img and diskload.img of this folder instead of building them.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Measure nothing: write the documents of an earlier run, from its paper.json, anew.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "only", "images", "rounds", "seed"])]
    from: Option<PathBuf>,
    /// Rounds, instead of 5, or 1 with --quick.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// What random traffic and the moments of kills are made from.
    #[arg(long, value_name = "SEED", default_value_t = 1996)]
    seed: u64,
    /// The machine to measure on. With "hppa" the workloads that compute and use a disk are measured, the first is compared with
    /// x86-64, all is written into a section of its own, and exact epochs are compared under random traffic.
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["images", "only"])]
    target: Target,
    /// Install what is missing, with sudo if need be.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct DiskBenchArgs {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// One round: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Measure this image of the probe instead of building one.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Measure this image of the store instead of building one.
    #[arg(long, value_name = "FILE")]
    store_image: Option<PathBuf>,
    /// What the moments of kills and the work of clients are made from.
    #[arg(long, value_name = "SEED", default_value_t = 1996)]
    seed: u64,
    /// Where the disks lie meanwhile; the folder for temporary files unless given. Some 250 MiB are needed.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Install what is missing, with sudo if need be.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct StdBenchArgs {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Fewer rounds: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Install what is missing, with sudo if need be.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct MeasureArgs {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Fewer rounds: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Measure this image of the store instead of building one.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The machine to measure on.
    #[arg(long, value_enum, default_value_t, conflicts_with = "image")]
    target: Target,
    /// The uplink, as for `up`: "forward" or "passt".
    #[arg(long, default_value = "forward", value_name = "NET", value_parser = net_with_ports)]
    net: Net,
    /// Install what is missing, with sudo if need be.
    #[arg(long)]
    yes: bool,
}

/// The clients of a measurement come through a published port.
fn net_with_ports(text: &str) -> Result<Net, String> {
    match text.parse()? {
        Net::Tap(_) => Err("a guest behind a tap has no published port to be measured at".to_owned()),
        net => Ok(net),
    }
}

impl MeasureArgs {
    fn image(&self) -> Result<Image> {
        match &self.image {
            Some(path) => build::open(path),
            None => build::build_for(&Workspace::find()?, "kv", self.target, true),
        }
    }
}

pub(super) fn bench(args: &BenchArgs) -> Result<()> {
    match &args.what {
        Bench::Failover(common) => bench_failover(common),
        Bench::Checkpoint(common) => bench_checkpoint(common),
        Bench::Throughput { common, peer, peer_folder } => {
            let folder = peer.as_ref().map(|script| peer_folder.clone().unwrap_or_else(|| bench::peer_folder(script)));
            bench_throughput(common, peer.as_deref().zip(folder.as_deref()))
        }
        Bench::Disk(args) => bench_disk(args),
        Bench::Std(args) => bench_std(args),
        Bench::Paper(args) => bench_paper(args),
    }
}

/// Measures under a bar that shows how far it is, and is gone when that is done.
fn under_bar<R>(bar: ProgressBar, measure: impl FnOnce(&ProgressBar) -> R) -> R {
    let measured = measure(&bar);
    bar.finish_and_clear();
    measured
}

fn advance(bar: &ProgressBar, progress: &bench::paper::Progress<'_>) {
    bar.set_position(progress.done as u64);
    bar.set_message(progress.text.to_owned());
}

/// Prints a result: one JSON object, or what `describe` makes of it.
fn show<R: Serialize>(json: bool, result: &R, describe: impl FnOnce(&R) -> String) -> Result<()> {
    if json { print_json(result) } else { print(&describe(result)) }
}

fn bench_failover(args: &MeasureArgs) -> Result<()> {
    setup::ensure(Need::Run, args.yes)?;
    let image = args.image()?;
    let report = under_bar(demo::progress(), |bar| {
        bench::failover(&image, &args.net, args.quick, |text| bar.set_message(text.to_owned()))
    })?;
    show(args.json, &report, bench::describe_failover)?;
    bench::judge(&report.promises)
}

fn bench_checkpoint(args: &MeasureArgs) -> Result<()> {
    setup::ensure(Need::Run, args.yes)?;
    let image = args.image()?;
    let report = under_bar(demo::progress(), |bar| {
        bench::checkpoint(&image, &args.net, args.quick, |text| bar.set_message(text.to_owned()))
    })?;
    show(args.json, &report, bench::describe_checkpoint)?;
    bench::judge(&report.promises)
}

fn bench_throughput(args: &MeasureArgs, peer: Option<(&Path, &Path)>) -> Result<()> {
    setup::ensure(Need::Test, args.yes)?;
    let image = args.image()?;
    let neighbour = build::build(&Workspace::find()?, "dhrystone", Some(false), true)?;
    let report = under_bar(demo::progress(), |bar| {
        bench::throughput(&image, &neighbour, &args.net, args.quick, peer, |text| bar.set_message(text.to_owned()))
    })?;
    show(args.json, &report, bench::describe_throughput)?;
    bench::judge(&report.promises)
}

fn bench_std(args: &StdBenchArgs) -> Result<()> {
    setup::ensure(Need::Run, args.yes)?;
    let workspace = Workspace::find()?;
    let image = |name: &str| {
        let manifest = workspace.root.join("tests/programs").join(name).join("Cargo.toml");
        build::build_std(&workspace, &build::Program::find(&manifest, None)?, build::StdLibrary::Linux, true)
    };
    let (hello, server) = (image("hello")?, image("http-async")?);
    let report = under_bar(demo::progress(), |bar| {
        bench::std_programs(&hello, &server, args.quick, |text| bar.set_message(text.to_owned()))
    })?;
    show(args.json, &report, bench::describe_std)?;
    bench::judge(&report.promises)
}

fn bench_disk(args: &DiskBenchArgs) -> Result<()> {
    setup::ensure(Need::Run, args.yes)?;
    let image = |given: &Option<PathBuf>, app: &str| match given {
        Some(path) => build::open(path),
        None => build::build(&Workspace::find()?, app, Some(false), true),
    };
    let images = bench::DiskImages { probe: image(&args.image, "probe")?, store: image(&args.store_image, "kv")? };
    let folder = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = std::path::absolute(&folder).context(|| format!("cannot use {}", folder.display()))?;
    let report = under_bar(demo::progress(), |bar| {
        bench::disk(&images, &folder, args.quick, args.seed, |text| bar.set_message(text.to_owned()))
    })?;
    show(args.json, &report, bench::describe_disk)?;
    bench::judge(&report.promises)
}

fn bench_paper(args: &PaperArgs) -> Result<()> {
    let workspace = Workspace::find()?;
    let (out, docs) = (args.out.clone().unwrap_or_else(|| workspace.bench_dir()), workspace.root.join("docs"));
    if args.target == Target::Hppa {
        return bench_paper_on_hppa(args, &workspace, &out, &docs);
    }
    let report = match &args.from {
        Some(file) => bench::paper::read(file)?,
        None => measure_paper(args, &workspace)?,
    };
    let mut written = vec![bench::paper::write(&report, &out, true)?];
    if args.write_docs {
        written.push(bench::paper::write(&report, &docs, false)?);
    }
    show(args.json, &report, bench::paper::describe)?;
    tell_written(&written);
    bench::judge(&report.promises)
}

fn bench_paper_on_hppa(args: &PaperArgs, workspace: &Workspace, out: &Path, docs: &Path) -> Result<()> {
    let report = match &args.from {
        Some(file) => pa_risc::read(file)?,
        None => measure_paper_on_hppa(args, workspace)?,
    };
    let mut written = vec![pa_risc::write(&report, out, true)?];
    if args.write_docs {
        written.push(pa_risc::write(&report, docs, false)?);
    }
    show(args.json, &report, pa_risc::describe)?;
    tell_written(&written);
    bench::judge(&report.paper.promises)
}

fn tell_written(documents: &[PathBuf]) {
    for document in documents {
        eprintln!("pollux: written: {}", document.display());
    }
}

fn measure_paper(args: &PaperArgs, workspace: &Workspace) -> Result<bench::paper::PaperReport> {
    setup::ensure(Need::Test, args.yes)?;
    let image = |app: &str, counts: bool| match &args.images {
        Some(folder) => build::open(&folder.join(build::image_name(app, counts))),
        None => build::build(workspace, app, Some(counts), true),
    };
    let both = |app| Ok::<_, Error>(ImagesOf { plain: image(app, false)?, counting: Some(image(app, true)?) });
    let images = Images { dhrystone: both("dhrystone")?, store: Some(both("kv")?), disk: Some(both("diskload")?) };
    let plan = Plan::new(args.quick, &args.only, args.rounds.map(usize::from), args.seed);
    Ok(under_bar(demo::progress_of(plan.steps()), |bar| {
        bench::paper::run(&images, &plan, |progress| advance(bar, &progress))
    }))
}

fn measure_paper_on_hppa(args: &PaperArgs, workspace: &Workspace) -> Result<pa_risc::PaRiscReport> {
    setup::ensure(Need::Test, args.yes)?;
    let plain = |app, target| {
        let image = build::build_for(workspace, app, target, true)?;
        Ok::<_, Error>(ImagesOf { plain: image, counting: None })
    };
    let store = Some(plain("kv", Target::Hppa)?);
    let disk = Some(plain("diskload", Target::Hppa)?);
    let images = Images { dhrystone: plain("dhrystone", Target::Hppa)?, store, disk };
    let other = Images { dhrystone: plain("dhrystone", Target::X86_64)?, store: None, disk: None };
    let plan = pa_risc::plan(args.quick, args.rounds.map(usize::from), args.seed);
    Ok(under_bar(demo::progress_of(plan.steps() + plan.rounds), |bar| {
        pa_risc::measure(&images, &other, &plan, |progress| advance(bar, &progress))
    }))
}

/// What `test` accepts.
#[derive(Args)]
pub struct TestArgs {
    /// Install what is missing, with sudo if need be. (As root it is installed in any case.)
    #[arg(long)]
    yes: bool,
    /// Leave out the fuzz targets.
    #[arg(long)]
    no_fuzz: bool,
    /// Leave out the unit tests on an emulated big-endian machine.
    #[arg(long)]
    no_big_endian: bool,
    /// Arguments for `cargo test`.
    #[arg(last = true)]
    cargo: Vec<String>,
}

pub(super) fn test(args: &TestArgs) -> Result<()> {
    let skip = selftest::Skip { fuzz: args.no_fuzz, big_endian: args.no_big_endian };
    selftest::run(args.yes, skip, &args.cargo)
}

/// What `doctor` accepts.
#[derive(Args)]
pub struct DoctorArgs {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Look only at what building and running images for this machine takes; without it, at everything.
    #[arg(long, value_enum)]
    target: Option<Target>,
    /// Install what is missing, with sudo if need be.
    #[arg(long)]
    yes: bool,
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<()> {
    if args.yes {
        setup::ensure_for(args.target, true)?;
    }
    let findings = setup::examine_for(args.target);
    let command = setup::install_command(&findings, Need::Test).and_then(|mut words| words.pop());
    if args.json {
        print_json(&serde_json::json!({ "findings": findings, "install": command }))?;
    } else {
        let lines: String = findings.iter().map(|finding| setup::describe(finding) + "\n").collect();
        print(&lines)?;
        if let Some(command) = &command {
            print(&format!("\nThis installs what is missing:\n  {command}\n"))?;
        }
    }
    match findings.iter().any(|finding| !finding.ok && finding.need < Need::Advice) {
        true => Err(Error::Missing("something is missing: see above".to_owned())),
        false => Ok(()),
    }
}
