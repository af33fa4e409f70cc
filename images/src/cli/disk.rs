//! `cargo pollux disk`: looks at a disk's files, compares mirrors, makes one anew.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use protocol::ReplicaId;
use serde::Serialize;

use super::{print, print_json};
use crate::disk::mirror::{Mirrors, read_identity};
use crate::disk::{DiskError, Identity, Kind, copy, mirror_path};
use crate::error::{Error, Result};

/// What `cargo pollux disk` accepts.
#[derive(Args)]
pub struct DiskArgs {
    #[command(subcommand)]
    command: DiskCommand,
}

#[derive(Subcommand)]
enum DiskCommand {
    /// Show what the two mirrors, or the shared disk, say of themselves.
    Inspect {
        /// What the names of the disk's files begin with: FILE for FILE.0 and FILE.1; or the file of a shared disk.
        file: PathBuf,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Compare the two mirrors, block by block. The pair must be down.
    Check {
        /// What the names of the disk's files begin with.
        file: PathBuf,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Overwrite the mirror that has missed writes with the other one's blocks. The pair must be down.
    Resync {
        /// What the names of the disk's files begin with.
        file: PathBuf,
        /// Take this replica's mirror (0 or 1) for the good one, whatever they say of themselves.
        #[arg(long, value_name = "REPLICA", value_parser = clap::value_parser!(u8).range(0..2))]
        from: Option<u8>,
    },
}

/// A mirror as `inspect` shows it.
#[derive(Clone, Serialize)]
struct Shown {
    path: PathBuf,
    #[serde(flatten)]
    identity: Option<Identity>,
    /// Bytes that the file takes on the host.
    allocated_bytes: Option<u64>,
    error: Option<String>,
}

pub(super) fn disk(args: &DiskArgs) -> Result<()> {
    match &args.command {
        DiskCommand::Inspect { file, json } => inspect(file, *json),
        DiskCommand::Check { file, json } => check(file, *json),
        DiskCommand::Resync { file, from } => resync(file, *from),
    }
}

fn inspect(stem: &Path, json: bool) -> Result<()> {
    let all = if stem.is_file() {
        vec![look(stem)]
    } else {
        [ReplicaId::ZERO, ReplicaId::ONE].map(|replica| look(&mirror_path(stem, replica))).to_vec()
    };
    if json { print_json(&all) } else { print(&all.iter().map(describe).collect::<String>()) }
}

/// Only reads, so a pair may be running.
fn look(path: &Path) -> Shown {
    let file = File::open(path).map_err(DiskError::file(path));
    let allocated_bytes = file.as_ref().ok().and_then(|file| file.metadata().ok()).map(|metadata| {
        use std::os::unix::fs::MetadataExt;
        metadata.blocks() * 512
    });
    match file.and_then(|file| read_identity(&file, path)) {
        Ok(identity) => Shown { path: path.to_owned(), identity: Some(identity), allocated_bytes, error: None },
        Err(error) => Shown { path: path.to_owned(), identity: None, allocated_bytes, error: Some(error.to_string()) },
    }
}

fn describe(shown: &Shown) -> String {
    let path = shown.path.display();
    match (&shown.identity, &shown.error) {
        (Some(identity), _) => format!(
            "{path}: disk {} of pair {}, {}, {} bytes ({} taken), generation {}, last epoch {}, {}\n",
            identity.disk,
            identity.pair,
            match identity.kind {
                Kind::Mirrored => format!("mirror of replica {}", identity.replica),
                Kind::Shared => "shared".to_owned(),
            },
            identity.size_bytes,
            shown.allocated_bytes.unwrap_or(0),
            identity.generation,
            identity.last_epoch,
            if identity.clean { "clean" } else { "in use, or not left in good order" }
        ),
        (None, error) => format!("{}\n", error.as_deref().unwrap_or_default()),
    }
}

fn check(stem: &Path, json: bool) -> Result<()> {
    let mirrors = Mirrors::open(stem)?;
    let bar = bar("comparing");
    let found = copy::compare(&mirrors, |done, of| advance(&bar, done, of))?;
    bar.finish_and_clear();
    if json {
        print_json(&found)?;
    }
    match found.first_difference {
        Some(block) => Err(Error::CheckFailed(format!(
            "the mirrors differ in {} blocks, the first of them {block}; `cargo pollux disk resync {}` makes one anew",
            found.differing_blocks,
            stem.display()
        ))),
        None if json => Ok(()),
        None => print(&format!("the mirrors are equal ({} bytes compared)\n", found.compared_bytes)),
    }
}

fn resync(stem: &Path, from: Option<u8>) -> Result<()> {
    let mut mirrors = Mirrors::open(stem)?;
    let source = match from {
        Some(from) => ReplicaId::new(from),
        None => mirrors.freshest(),
    };
    let Some(source) = source else {
        return Err(Error::Usage(format!("there is neither {0}.0 nor {0}.1", stem.display())));
    };
    let target = source.peer();
    if from.is_none() && mirrors.fault(target, true).is_none() {
        return print("the mirrors are in step: nothing is to be done (--from 0 or 1 copies all the same)\n");
    }
    let bar = bar("copying");
    copy::resync(&mut mirrors, source, |done, of| advance(&bar, done, of))?;
    bar.finish_and_clear();
    let (from, to) = (mirror_path(stem, source), mirror_path(stem, target));
    print(&format!("{} holds what {} holds\n", to.display(), from.display()))
}

/// Shown only to people: indicatif draws nothing where stderr is no terminal.
pub(super) fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(what);
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    // The template is a constant that is tested by being used.
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

pub(super) fn advance(bar: &ProgressBar, done: u64, of: u64) {
    bar.set_length(of);
    bar.set_position(done);
}
