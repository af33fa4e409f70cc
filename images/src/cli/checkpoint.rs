//! The commands about checkpoints: checkpoint, inspect, restore.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{NameArgs, print, print_json, up};
use crate::build;
use crate::ctl::{Client, ReplayStatus};
use crate::disk::DiskSpec;
use crate::error::{Context, Error, Result};
use crate::running;
use crate::state::{DEFAULT_NAME, StateDir};
use crate::supervise::checkpoint::{self, Inspection};
use crate::supervise::net::Net;
use crate::supervise::replaying;
use crate::supervise::spec::{Publish, ReplaySpec, RunName, Spec, StorageSpec};

/// What `checkpoint` accepts.
#[derive(Args)]
pub struct CheckpointArgs {
    /// The file; an older one of that name is replaced when the new one is complete.
    file: PathBuf,
    /// Only the pages written to since this checkpoint, which must be the pair's newest. To restore the new one takes both
    /// files, in one folder.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// All pages that are not zero, which is so without --since, too.
    #[arg(long, conflicts_with = "since")]
    full: bool,
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

/// What `record` accepts.
#[derive(Args)]
pub struct RecordArgs {
    /// The pair.
    name: String,
    /// A folder for the recording: it is made, or must be empty.
    #[arg(value_name = "DIR", required_unless_present = "stop")]
    folder: Option<PathBuf>,
    /// End the recording; `down` and the pair's own end do so, too.
    #[arg(long, conflicts_with = "folder")]
    stop: bool,
}

/// What `replay` accepts.
#[derive(Args)]
pub struct ReplayArgs {
    /// A recording, the folder of `up --checkpoint-dir`, or one checkpoint in either of them, to begin with that.
    #[arg(value_name = "FILE|DIR")]
    from: PathBuf,
    /// Stop at the end of this epoch.
    #[arg(long, value_name = "EPOCH")]
    until: Option<u64>,
    /// Leave the guest there for a debugger, at the first instruction of the next epoch; what follows is run when the
    /// debugger lets it. Unless told otherwise it stops in front of the last epoch, in which the guest may have come to its end.
    #[arg(long)]
    gdb: bool,
    /// The image, if it is not where it was.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Print JSON objects instead of text.
    #[arg(long)]
    json: bool,
}

/// What `restore` accepts. Everything else is as it was when the checkpoint was taken.
#[derive(Args)]
pub struct RestoreArgs {
    /// The checkpoint, or the folder of `up --checkpoint-dir`: then the newest checkpoint that can be used, with all that is
    /// in the log behind it; the pair goes on writing there.
    #[arg(value_name = "FILE|DIR")]
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

/// How the guest of a checkpoint, or of those in a folder, was run, with the image that it needs.
fn settings(from: &Path, image: Option<&PathBuf>) -> Result<Spec> {
    let mut spec: Spec = if from.is_dir() { replaying::settings(from)? } else { checkpoint::settings(from)? };
    if let Some(image) = image {
        spec.image = std::path::absolute(image).context(|| format!("cannot use {}", image.display()))?;
    }
    let image = build::open(&spec.image)?;
    if image.image_id == spec.image_id {
        return Ok(spec);
    }
    if image.target != spec.machine.target() {
        return Err(Error::Checkpoint(format!(
            "{} is of a guest on {}, {} is for {}: registers and machine code of one mean nothing to the other",
            from.display(),
            spec.machine.target(),
            spec.image.display(),
            image.target
        )));
    }
    Err(Error::Checkpoint(format!(
        "{} is of image {}, {} is another ({}); name the right one with --image",
        from.display(),
        &spec.image_id[..16],
        spec.image.display(),
        &image.image_id[..16]
    )))
}

pub(super) fn record(args: &RecordArgs) -> Result<()> {
    let mut client = Client::connect(Some(&args.name))?;
    let Some(folder) = args.folder.as_ref().filter(|_| !args.stop) else {
        client.stop_recording()?;
        return print("the recording is complete\n");
    };
    let path = std::path::absolute(folder).context(|| format!("cannot use {}", folder.display()))?;
    let storage = client.record(path)?;
    let epoch = storage.checkpoint_epoch.unwrap_or(0);
    print(&format!(
        "recording from epoch {epoch} on in {}; `pollux replay {0}` runs it again\n",
        storage.folder.display()
    ))
}

pub(super) fn replay(args: &ReplayArgs) -> Result<()> {
    let absolute = |path: &Path| std::path::absolute(path).context(|| format!("cannot use {}", path.display()));
    let from = absolute(&args.from)?;
    let (folder, checkpoint) = if from.is_dir() {
        (from, None)
    } else {
        (from.parent().map_or_else(PathBuf::new, Path::to_owned), Some(from))
    };
    let mut spec = settings(checkpoint.as_deref().unwrap_or(&folder), args.image.as_ref())?;
    spec.name = format!("replay-{}", std::process::id());
    spec.run = RunName::Solo;
    // Nothing comes from outside, and nothing leaves.
    spec.net = Net::Forward;
    spec.publish.clear();
    spec.storage = None;
    spec.replay = Some(ReplaySpec { folder, checkpoint, until: args.until, gdb: args.gdb });
    running::replay(&spec, |status| {
        if args.json {
            print_json(status)?;
        } else {
            print(&describe_replay(status))?;
        }
        match &status.divergence {
            Some(text) => Err(Error::CheckFailed(text.clone())),
            None => Ok(()),
        }
    })
}

fn describe_replay(status: &ReplayStatus) -> String {
    let known = match &status.recorded_digest {
        Some(recorded) if *recorded == status.digest => "as recorded",
        Some(_) => "NOT as recorded",
        None => "how it ended was not recorded",
    };
    let mut out = format!(
        "{}: epochs {} to {} of {} run again in {:.0} ms, digest {} ({known})\n",
        status.app,
        status.from_epoch + 1,
        status.epoch,
        status.recorded_through,
        status.took_ms,
        status.digest
    );
    if let Some(stopped) = &status.guest_stopped {
        out.push_str(&format!(
            "the guest stopped in epoch {}: {} {}\n{}\n",
            stopped.epoch,
            stopped.kind,
            stopped.code,
            stopped.report.trim_end()
        ));
    }
    if let Some(command) = &status.gdb {
        out.push_str(&format!("the guest stands there; this waits (Ctrl-C ends it) for\n  {command}\n"));
    }
    out
}

pub(super) fn restore(args: &RestoreArgs) -> Result<()> {
    let dir = StateDir::new(&args.name)?;
    if dir.is_live() {
        return Err(Error::NameInUse { name: args.name.clone() });
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).context(|| format!("cannot use {}", path.display()));
    let mut spec = settings(&args.file, args.image.as_ref())?;
    spec.name.clone_from(&args.name);
    let from = absolute(&args.file)?;
    spec.storage = match spec.storage.take() {
        Some(storage) if from.is_dir() => Some(StorageSpec { folder: from.clone(), ..storage }),
        // One file of a folder is a copy of the pair: it does not write where the pair does.
        _ => None,
    };
    spec.restore = Some(from);
    // Of a log the disks are where they were, unless they are said to be elsewhere.
    if !args.disk.is_empty() || spec.storage.is_none() {
        spec.disks = up::absolute_disks(&args.disk)?;
    }
    if !args.publish.is_empty() {
        spec.publish.clone_from(&args.publish);
    }
    if args.solo {
        spec.run = RunName::Solo;
    }
    let status = running::start(&spec)?;
    if args.json { print_json(&status) } else { print(&up::describe(&status)) }
}
