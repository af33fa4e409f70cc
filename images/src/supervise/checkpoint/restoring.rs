//! A checkpoint that a replica is brought to, with what the guest's disks need for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::file::{FileError, Header};
use checkpoint::pages;
use checkpoint::state::GuestState;
use protocol::control::Ready;

use super::disks::{self, SavedDisk};
use super::{Loaded, identity};
use crate::disk::DiskSpec;
use crate::error::{Error, Result};
use crate::qemu::Machine;
use crate::supervise::spec::Spec;

/// Pages in one message.
const SLICE_PAGES: usize = 7;

/// A checkpoint that a replica is brought to.
#[derive(Debug)]
pub struct Restoring {
    /// What it is of.
    pub header: Header,
    /// The guest's frames and console bytes go on from here.
    pub state: GuestState,
    pub(super) encoded_state: Vec<u8>,
    /// Messages with pages that are to be sent.
    pub(super) slices: Vec<Vec<u8>>,
    pub(super) sent: u64,
    pub(super) held: u64,
    pub(super) done: bool,
    /// Disks that the checkpoint holds, and the folder that they lie in.
    disks: Vec<SavedDisk>,
    /// The names of the guest's disks.
    disk_names: Vec<String>,
    folder: PathBuf,
}

impl Restoring {
    /// Reads a checkpoint and those that it builds upon, and judges all of them.
    ///
    /// # Errors
    /// One of them cannot be read, is none, is damaged, or is not the one that another builds upon.
    pub fn open(path: &Path) -> Result<Self> {
        let loaded = Loaded::open(path)?.all_pages(path)?;
        let state = GuestState::decode(&loaded.state, loaded.header.identity.architecture)
            .map_err(|error| Error::Checkpoint(format!("{}: {error}", path.display())))?;
        let slices = slices(&loaded.pages);
        let disk_names = sorted_names(&loaded.settings.spec.disks);
        let (header, encoded_state, disks) = (loaded.header, loaded.state, loaded.settings.disks);
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { header, state, encoded_state, slices, sent: 0, held: 0, done: false, disks, disk_names, folder })
    }

    /// Whether what the guest's disks hold is left to the log that the checkpoint belongs to.
    pub fn leaves_disks_to_log(&self) -> bool {
        self.disks.is_empty() && !self.disk_names.is_empty()
    }

    /// Whether the guest is given the disks that it had.
    ///
    /// # Errors
    /// It is not.
    pub fn check_disks(&self, spec: &Spec) -> Result<()> {
        let given = sorted_names(&spec.disks);
        if given == self.disk_names {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "the guest has the disks {:?}, and {given:?} are given: leave --disk out, or say where each of them is",
            self.disk_names
        )))
    }

    /// Makes the first replica's mirrors anew, where there are none.
    ///
    /// # Errors
    /// The pair is to have other disks than the checkpoint; or a copy cannot be put there.
    pub fn restore_disks(&self, spec: &Spec) -> Result<()> {
        if self.leaves_disks_to_log() {
            return Err(Error::Checkpoint(
                "the checkpoint holds nothing of its guest's disks, which have gone on since: only the log that it belongs to can \
                 bring both to the same epoch. Restore the folder that it lies in, if that is one of `up --checkpoint-dir --log \
                 durable`; a recording can be replayed"
                    .to_owned(),
            ));
        }
        let mut saved: Vec<_> = self.disks.iter().map(|disk| disk.name.clone()).collect();
        saved.sort_unstable();
        let wanted = sorted_names(&spec.disks);
        if saved != wanted {
            return Err(Error::Usage(format!(
                "the checkpoint holds the disks {saved:?}, and places are given for {wanted:?}: say where each is to be put, \
                 by --disk NAME=FILE"
            )));
        }
        for disk in &self.disks {
            if let Some(place) = spec.disks.iter().find(|place| place.name == disk.name) {
                disks::restore(disk, &self.folder, place, &spec.name)?;
            }
        }
        Ok(())
    }

    /// Whether a replica on `machine` that says this of itself can go on from here.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, ready: &Ready, machine: Machine) -> std::result::Result<(), FileError> {
        self.header.identity.check(&identity(ready, machine))
    }
}

/// Pages as messages.
fn slices(pages: &BTreeMap<u32, Option<Box<[u8]>>>) -> Vec<Vec<u8>> {
    let mut slices = vec![Vec::new()];
    let mut zeros: Option<(u32, u32)> = None;
    for (&page, content) in pages {
        if slices.last().is_none_or(|slice| slice.len() >= SLICE_PAGES * pages::CONTENT_BYTES) {
            slices.push(Vec::new());
        }
        let Some(slice) = slices.last_mut() else { continue };
        match (content, zeros) {
            (None, Some((first, count))) if first + count == page => zeros = Some((first, count + 1)),
            (None, other) => {
                other.into_iter().for_each(|(first, count)| pages::push_zero(slice, first, count));
                zeros = Some((page, 1));
            }
            (Some(bytes), other) => {
                other.into_iter().for_each(|(first, count)| pages::push_zero(slice, first, count));
                zeros = None;
                pages::push_content(slice, page, |out| out.extend_from_slice(bytes));
            }
        }
    }
    if let (Some(slice), Some((first, count))) = (slices.last_mut(), zeros) {
        pages::push_zero(slice, first, count);
    }
    slices
}

fn sorted_names(disks: &[DiskSpec]) -> Vec<String> {
    let mut names: Vec<_> = disks.iter().map(|disk| disk.name.clone()).collect();
    names.sort_unstable();
    names
}
