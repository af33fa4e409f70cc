//! The commands about checkpoints: checkpoint, inspect, restore.

use std::path::PathBuf;

use clap::Args;

use super::{NameArgs, print, print_json, up};
use crate::build;
use crate::ctl::Client;
use crate::disk::DiskSpec;
use crate::error::{Context, Error, Result};
use crate::running;
use crate::state::{DEFAULT_NAME, StateDir};
use crate::supervise::checkpoint::{self, Inspection};
use crate::supervise::spec::{Publish, RunName, Spec};

/// What `checkpoint` accepts.
#[derive(Args)]
pub struct CheckpointArgs {
    /// The file; an older one of that name is replaced when the new one is complete.
    file: PathBuf,
    /// Only the pages written to since this checkpoint, which must be the pair's newest. To restore the new one takes both
    /// files, in one folder.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    #[command(flatten)]
    pair: NameArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What `inspect` accepts.
#[derive(Args)]
pub struct InspectArgs {
    /// The checkpoint.
    file: PathBuf,
    /// Another one of the same guest: tells how many pages differ.
    other: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What `restore` accepts. Everything else is as it was when the checkpoint was taken.
#[derive(Args)]
pub struct RestoreArgs {
    /// The checkpoint.
    file: PathBuf,
    /// Name of the pair.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// The image, if it is not where it was.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Lead a port of this host to a port of the guest, as with `up`; instead of those of the pair before.
    #[arg(long, value_name = "HOSTPORT:GUESTPORT")]
    publish: Vec<Publish>,
    /// Where a disk that the checkpoint holds is to be put: NAME=FILE, for each of them; there must be none yet.
    #[arg(long, value_name = "NAME=FILE")]
    disk: Vec<DiskSpec>,
    /// One virtual machine without a peer.
    #[arg(long)]
    solo: bool,
    /// Print the status as one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn take(args: &CheckpointArgs) -> Result<()> {
    let absolute = |path: &PathBuf| std::path::absolute(path).context(|| format!("cannot use {}", path.display()));
    let (path, since) = (absolute(&args.file)?, args.since.as_ref().map(absolute).transpose()?);
    let taken = Client::connect(args.pair.name.as_deref())?.checkpoint(path, since)?;
    if args.json {
        return print_json(&taken);
    }
    print(&format!(
        "epoch {}: {} bytes, {} pages and {} zero ones\n",
        taken.epoch, taken.bytes, taken.pages, taken.zero_pages
    ))
}

pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    let inspection = checkpoint::inspect(&args.file, args.other.as_deref())?;
    if args.json { print_json(&inspection) } else { print(&describe(&inspection)) }
}

fn describe(inspection: &Inspection) -> String {
    let mut out = format!(
        "{} (image {}), epoch {} of generation {}, {:.1} s of the guest's own time\n\
         {} MiB of memory: {} pages, {} zero ones; {} bytes in the file\n",
        inspection.app,
        &inspection.image_id[..16],
        inspection.epoch,
        inspection.generation,
        inspection.monotonic_ns as f64 / 1e9,
        inspection.memory_bytes >> 20,
        inspection.pages,
        inspection.zero_pages,
        inspection.file_bytes
    );
    if let Some(since) = &inspection.since {
        out.push_str(&format!("builds upon {}\n", since.display()));
    }
    for disk in &inspection.disks {
        out.push_str(&format!("disk {}: {} bytes, in {}\n", disk.name, disk.size_bytes, disk.file));
    }
    if let Some(changed) = inspection.changed_pages {
        out.push_str(&format!("{changed} pages differ from the other checkpoint's\n"));
    }
    out
}

pub(super) fn restore(args: &RestoreArgs) -> Result<()> {
    let dir = StateDir::new(&args.name)?;
    if dir.is_live() {
        return Err(Error::NameInUse { name: args.name.clone() });
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).context(|| format!("cannot use {}", path.display()));
    let mut spec: Spec = checkpoint::settings(&args.file)?;
    if let Some(image) = &args.image {
        spec.image = absolute(image)?;
    }
    let image = build::open(&spec.image)?;
    if image.image_id != spec.image_id {
        return Err(Error::Checkpoint(format!(
            "{} is of image {}, {} is another ({}); name the right one with --image",
            args.file.display(),
            &spec.image_id[..16],
            spec.image.display(),
            &image.image_id[..16]
        )));
    }
    spec.name.clone_from(&args.name);
    spec.restore = Some(absolute(&args.file)?);
    spec.disks = up::absolute_disks(&args.disk)?;
    if !args.publish.is_empty() {
        spec.publish.clone_from(&args.publish);
    }
    if args.solo {
        spec.run = RunName::Solo;
    }
    let status = running::start(&spec)?;
    if args.json { print_json(&status) } else { print(&up::describe(&status)) }
}
