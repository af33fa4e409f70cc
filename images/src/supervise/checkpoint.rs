//! Checkpoints: what the active replica sends of its guest becomes a file, and a file becomes a replica's guest.
//!
//! Pages come while the guest runs, and come again when it has written to them since; only the newest count. They are
//! kept here until the state has come that belongs to all of them, and a thread of its own then writes the file: clients
//! would wait for the disk otherwise. The file gets its name when it is whole and on the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use checkpoint::file::{self, Decoder, Encoder, FileError, Header, Identity, Kind, Section, Totals};
use checkpoint::pages::{self, PAGE_BYTES, PageRecord};
use protocol::control::{Ready, ToShim};
use protocol::link::{JoinState, Pages};
use protocol::{Epoch, ReplicaId};

use super::Supervisor;
use super::resync::Purpose;
use super::spec::Spec;
use crate::ctl::{CheckpointStatus, CopyStatus, TakenStatus};
use crate::error::{Error, Result};
use crate::qemu::Machine;

mod disks;
mod inspect;
mod restoring;

pub use disks::{DiskCopy, SavedDisk};
pub use inspect::{Inspection, inspect};
pub use restoring::Restoring;

/// Messages with pages on their way to a replica that is restored: half a megabyte keeps it busy, and the channel to it
/// counts as stuck beyond one.
const WINDOW: u64 = 16;
/// How the text begins that says that a file cannot be written.
pub const CANNOT_WRITE: &str = "cannot write";
/// What is wrong with a checkpoint of somebody else's making.
const SILENT: &str = "it does not say how its guest was run";

/// A checkpoint on its way from the active replica.
#[derive(Debug)]
struct Capture {
    path: PathBuf,
    /// What it builds upon.
    base: Option<Base>,
    from: ReplicaId,
    messages: u64,
    /// By number; a page without content is zero.
    pages: BTreeMap<u32, Option<Box<[u8]>>>,
    /// Copies of its mirrors.
    disks: Vec<DiskCopy>,
}

/// The newest checkpoint, as the next one may build upon it.
#[derive(Debug, Clone)]
struct Base {
    path: PathBuf,
    epoch: Epoch,
    checksum: u64,
    /// The process that knows what has changed since.
    pid: i32,
}

/// A file that was written.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    /// Whose guest it is of.
    of: ReplicaId,
    since: Option<PathBuf>,
    pid: i32,
    epoch: Epoch,
    totals: Totals,
    bytes: u64,
}

/// What the supervisor knows of checkpoints.
#[derive(Debug, Default)]
pub struct Checkpoints {
    capture: Option<Capture>,
    writer: Option<JoinHandle<std::result::Result<Written, String>>>,
    taken: u64,
    failed: u64,
    newest: Option<TakenStatus>,
    base: Option<Base>,
    /// How the newest one's guest was copied.
    pub copy: Option<CopyStatus>,
}

/// How a checkpoint's guest was run, and which file it builds upon.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Settings {
    spec: Spec,
    /// The name of a file in the same folder.
    parent: Option<String>,
    /// What its mirrored disks held.
    #[serde(default)]
    disks: Vec<SavedDisk>,
}

/// A file that was read and judged as a whole.
struct Loaded {
    header: Header,
    totals: Totals,
    settings: Settings,
    state: Vec<u8>,
    /// By number; a page without content is zero.
    pages: BTreeMap<u32, Option<Box<[u8]>>>,
}

impl Loaded {
    fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)
            .map_err(|source| Error::Io { what: format!("cannot read {}", path.display()), source })?;
        let bad = |text: String| Error::Checkpoint(format!("{}: {text}", path.display()));
        let memory_bytes = Header::decode(&bytes).map_err(|error| bad(error.to_string()))?.identity.memory_bytes;
        let (mut pages, mut settings, mut state) = (BTreeMap::new(), None, None);
        let (header, totals) = file::read_all(&bytes, |section| match section {
            Section::Pages(records) => add_pages(&mut pages, records, memory_bytes),
            Section::State(bytes) => state = Some(bytes.to_vec()),
            Section::Settings(text) => settings = serde_json::from_slice(text).ok(),
            Section::End(_) => {}
        })
        .map_err(|error| bad(error.to_string()))?;
        let settings = settings.ok_or_else(|| bad(SILENT.to_owned()))?;
        let state = state.ok_or_else(|| bad("it holds no registers".to_owned()))?;
        Ok(Self { header, totals, settings, state, pages })
    }

    /// The file that this one builds upon.
    fn parent(&self, path: &Path) -> Result<Option<(PathBuf, Self)>> {
        let Kind::Incremental { parent } = self.header.kind else { return Ok(None) };
        let bad = |text: String| Error::Checkpoint(format!("{}: {text}", path.display()));
        let name =
            self.settings.parent.as_deref().ok_or_else(|| bad("it does not say what it builds upon".to_owned()))?;
        let file_name = Path::new(name).file_name().ok_or_else(|| bad(format!("{name:?} names no file")))?;
        let parent_path = path.with_file_name(file_name);
        let loaded = Self::open(&parent_path)?;
        if loaded.totals.checksum != parent {
            return Err(bad(format!("it builds upon another {} than the one that is there", parent_path.display())));
        }
        loaded.header.identity.check(&self.header.identity).map_err(|error| bad(error.to_string()))?;
        Ok(Some((parent_path, loaded)))
    }

    /// All pages, those of the files that this one builds upon included.
    fn all_pages(mut self, path: &Path) -> Result<Self> {
        let (mut path, mut parent) = (path.to_owned(), self.parent(path)?);
        // A file names the checksum of its parent, so no chain is a circle.
        while let Some((parent_path, loaded)) = parent {
            for (page, content) in &loaded.pages {
                self.pages.entry(*page).or_insert_with(|| content.clone());
            }
            path.clone_from(&parent_path);
            parent = loaded.parent(&path)?;
        }
        let whole = self.pages.len() as u64 * PAGE_BYTES as u64;
        if whole != self.header.identity.memory_bytes {
            return Err(Error::Checkpoint(format!("{}: it holds {whole} bytes of memory only", path.display())));
        }
        Ok(self)
    }
}

fn add_pages(pages: &mut BTreeMap<u32, Option<Box<[u8]>>>, records: &[u8], memory_bytes: u64) {
    for record in pages::records(records, memory_bytes).flatten() {
        match record {
            PageRecord::Content { page, bytes } => drop(pages.insert(page, Some(bytes.into()))),
            PageRecord::Zero { first, count } => pages.extend((first..first + count).map(|page| (page, None))),
        }
    }
}

/// What a checkpoint of the guest of this replica, which runs on `machine`, is of.
pub fn identity(ready: &Ready, machine: Machine) -> Identity {
    Identity {
        architecture: machine.architecture(),
        abi_version: ready.abi_version,
        image: ready.image,
        cpu: ready.cpu,
        memory_bytes: ready.guest_memory_bytes,
    }
}

/// How a checkpoint's guest was run.
///
/// # Errors
/// It cannot be read, or is no checkpoint.
pub fn settings(path: &Path) -> Result<Spec> {
    let bad = |text: String| Error::Checkpoint(format!("{}: {text}", path.display()));
    // They come first. The rest is judged by whoever restores it.
    let most_bytes = file::HEADER_BYTES + file::SECTION_HEADER_BYTES + file::MAX_SECTION_BYTES;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most_bytes as u64).read_to_end(&mut bytes));
    read.map_err(|source| Error::Io { what: format!("cannot read {}", path.display()), source })?;
    let (mut decoder, _) = Decoder::new(&bytes).map_err(|error| bad(error.to_string()))?;
    let progress = decoder.read(&bytes[file::HEADER_BYTES..]).map_err(|error| bad(error.to_string()))?;
    let settings = match progress.section {
        Some(Section::Settings(text)) => serde_json::from_slice::<Settings>(text).ok(),
        Some(_) => None,
        None => return Err(bad(FileError::Truncated { section: Some(0) }.to_string())),
    };
    settings.map(|settings| settings.spec).ok_or_else(|| bad(SILENT.to_owned()))
}

impl Supervisor {
    /// Somebody asks for a checkpoint.
    pub(super) fn take_checkpoint(&mut self, path: &Path, since: Option<&Path>) -> std::result::Result<(), String> {
        if !self.spec.run.has_epochs() {
            return Err("a bare machine has no epochs, at whose ends checkpoints are taken".to_owned());
        }
        if self.disks.are_shared() {
            return Err("the guest has a shared disk, of which there is one, and it goes on".to_owned());
        }
        if self.disks.are_mirrored() && since.is_some() {
            return Err("of a guest with disks everything is taken: leave --since out".to_owned());
        }
        if self.disks.are_mirrored() && !self.rejoin_is_idle() {
            return Err("a new replica is being brought in, whose mirrors are copied just now".to_owned());
        }
        let copies = self.disks.are_mirrored();
        self.capture(path, since, copies)
    }

    /// A checkpoint of the storage is due. What disks hold is not part of it: the log that it belongs to says that.
    pub(super) fn begin_capture(&mut self, path: &Path, since: Option<&Path>) -> std::result::Result<(), String> {
        // Towards the end the shim would take this for the end of that.
        if self.copies_disks() {
            return Err("the disks are being copied".to_owned());
        }
        self.capture(path, since, false)
    }

    fn capture(&mut self, path: &Path, since: Option<&Path>, copies_disks: bool) -> std::result::Result<(), String> {
        let active = self.arbiter.record().active;
        let replica = self.replicas[active.index()].as_ref();
        if replica.is_none_or(|replica| replica.ending || !replica.is_running()) {
            return Err("no replica runs".to_owned());
        }
        if self.checkpoints.capture.is_some() || self.checkpoints.writer.is_some() {
            return Err("a checkpoint is being taken already".to_owned());
        }
        let pid = replica.map(|replica| replica.vm.pid());
        let base = self.checkpoints.base.as_ref().filter(|base| Some(base.pid) == pid && Some(&*base.path) == since);
        if since.is_some() && (base.is_none() || since == Some(path)) {
            return Err(
                "only the newest checkpoint can be built upon, as long as the primary that it is of lives, and by \
                        another file: leave --since out"
                    .to_owned(),
            );
        }
        let since_epoch = base.map_or(0, |base| base.epoch);
        let (path, base) = (path.to_owned(), base.cloned());
        let (disks, routes) = if copies_disks {
            self.disks.begin_checkpoint(active, &path).map_err(|error| error.to_string())?
        } else {
            (Vec::new(), Vec::new())
        };
        if disks.is_empty() {
            self.say(active, &ToShim::Capture { since_epoch });
        } else {
            self.copy_for_checkpoint(active, routes)?;
        }
        self.checkpoints.capture =
            Some(Capture { path, base, from: active, messages: 0, pages: BTreeMap::new(), disks });
        Ok(())
    }

    /// Whether a checkpoint is on its way from the guest.
    pub(super) fn is_capturing(&self) -> bool {
        self.checkpoints.capture.is_some()
    }

    pub(super) fn captured_pages(&mut self, id: ReplicaId, pages: &Pages<'_>) {
        let memory_bytes = self.memory_bytes(id);
        let Some(capture) = self.checkpoints.capture.as_mut().filter(|capture| capture.from == id) else { return };
        capture.messages += 1;
        add_pages(&mut capture.pages, pages.records, memory_bytes);
        let messages = capture.messages;
        self.say(id, &ToShim::PagesHeld { messages });
    }

    fn memory_bytes(&self, id: ReplicaId) -> u64 {
        let ready = self.replicas[id.index()].as_ref().and_then(|replica| replica.ready);
        ready.map_or(0, |ready| ready.guest_memory_bytes)
    }

    /// The state has come: the file can be written.
    pub(super) fn captured_state(&mut self, id: ReplicaId, state: &JoinState<'_>) {
        let ready = self.replicas[id.index()].as_ref().and_then(|replica| replica.ready);
        let (Some(capture), Some(ready)) = (self.checkpoints.capture.take(), ready) else { return };
        let whole = u64::from(u32::try_from(capture.pages.len()).unwrap_or(u32::MAX)) * PAGE_BYTES as u64;
        if capture.from != id || (whole != ready.guest_memory_bytes && capture.base.is_none()) {
            return self.checkpoint_failed(&format!("{whole} bytes of the guest's memory came"));
        }
        let header = Header {
            kind: capture.base.as_ref().map_or(Kind::Full, |base| Kind::Incremental { parent: base.checksum }),
            identity: identity(&ready, self.spec.machine),
            epoch: state.epoch,
            generation: self.arbiter.record().generation,
            digest: state.digest,
            clocks: state.clocks,
        };
        // Without what belongs to this pair's own life.
        let disks = self.disks.sized(&self.spec.disks);
        let spec = Spec { restore: None, replay: None, ends_with_starter: false, disks, ..self.spec.clone() };
        let parent = capture.base.as_ref().and_then(|base| base.path.file_name());
        let parent = parent.map(|name| name.to_string_lossy().into_owned());
        let (settings, state) = (Settings { spec, parent, disks: Vec::new() }, state.state.to_vec());
        let mut capture = capture;
        self.resync.abandon(Purpose::Checkpoint);
        let pid = self.replicas[id.index()].as_ref().map_or(0, |replica| replica.vm.pid());
        // Whatever comes of this one, the replica no longer knows what has changed since the one before.
        self.checkpoints.base = None;
        let write = move || write(&mut capture, &header, settings, &state, pid);
        match std::thread::Builder::new().name("checkpoint".to_owned()).spawn(write) {
            Ok(writer) => self.checkpoints.writer = Some(writer),
            Err(error) => self.checkpoint_failed(&error.to_string()),
        }
    }

    pub(super) fn capture_failed(&mut self, id: ReplicaId) {
        if self.checkpoints.capture.as_ref().is_some_and(|capture| capture.from == id) {
            self.checkpoints.capture = None;
            self.resync.abandon(Purpose::Checkpoint);
            self.checkpoint_failed("the guest has stopped, or is being copied already, or its disks cannot be");
        }
    }

    fn checkpoint_failed(&mut self, why: &str) {
        self.checkpoints.failed += 1;
        self.storage_checkpoint_failed(why);
        self.happened(format!("no checkpoint was taken: {why}"));
    }

    /// Notices that a file is written, or that its replica is gone. The status messages of the shims wake the loop often
    /// enough.
    pub(super) fn look_after_checkpoints(&mut self) {
        if let Some(capture) = &self.checkpoints.capture
            && self.replicas[capture.from.index()].as_ref().is_none_or(|replica| replica.ending)
        {
            self.checkpoints.capture = None;
            self.resync.abandon(Purpose::Checkpoint);
            self.checkpoint_failed("its replica has gone");
        }
        let Some(writer) = self.checkpoints.writer.take_if(|writer| writer.is_finished()) else { return };
        match writer.join() {
            Ok(Ok(mut written)) => {
                let builds_upon = written.since.is_some();
                if let Some(name) = self.storage_checkpoint(&written.path, written.of, written.epoch, builds_upon) {
                    written.path = name;
                }
                self.happened(format!(
                    "checkpoint of epoch {} in {}: {} bytes, {} pages and {} zero ones",
                    written.epoch,
                    written.path.display(),
                    written.bytes,
                    written.totals.pages,
                    written.totals.zero_pages
                ));
                self.checkpoints.taken += 1;
                self.checkpoints.base = Some(Base {
                    path: written.path.clone(),
                    epoch: written.epoch,
                    checksum: written.totals.checksum,
                    pid: written.pid,
                });
                self.checkpoints.newest = Some(TakenStatus {
                    path: written.path,
                    since: written.since,
                    epoch: written.epoch,
                    bytes: written.bytes,
                    pages: written.totals.pages,
                    zero_pages: written.totals.zero_pages,
                });
            }
            Ok(Err(text)) => self.checkpoint_failed(&text),
            Err(_) => self.checkpoint_failed("its writer has failed"),
        }
    }

    pub(super) fn checkpoint_status(&self) -> CheckpointStatus {
        CheckpointStatus {
            taken: self.checkpoints.taken,
            failed: self.checkpoints.failed,
            newest: self.checkpoints.newest.clone(),
            copy: self.checkpoints.copy.clone(),
        }
    }

    /// The replica that is restored takes so many messages, or has just begun to.
    pub(super) fn feed_checkpoint(&mut self, id: ReplicaId, held: u64) {
        let Some(mut restoring) = self.restoring.take() else { return };
        restoring.held = restoring.held.max(held);
        while restoring.sent < restoring.held + WINDOW
            && let Some(records) = restoring.slices.get(restoring.sent as usize)
        {
            restoring.sent += 1;
            self.say(id, &ToShim::Pages(Pages { records }));
        }
        if restoring.sent == restoring.slices.len() as u64 && !restoring.done {
            restoring.done = true;
            let Header { epoch, digest, clocks, .. } = restoring.header;
            let state = &restoring.encoded_state;
            self.say(id, &ToShim::State(JoinState { epoch, digest, clocks, released_through: epoch, state }));
            self.happened(format!("the checkpoint of epoch {epoch} was sent to replica {id}"));
            self.feed_replay(id);
        }
        // Nothing of a done one is needed any more.
        self.restoring = (!restoring.done).then_some(restoring);
    }
}

/// Writes a checkpoint to a temporary name and, when it is on the disk, gives it its own.
fn write(
    capture: &mut Capture,
    header: &Header,
    mut settings: Settings,
    state: &[u8],
    pid: i32,
) -> std::result::Result<Written, String> {
    let older = Loaded::open(&capture.path).map_or_else(|_| Vec::new(), |older| older.settings.disks);
    for disk in &mut capture.disks {
        let kept = disk.keep(&capture.path, header.epoch);
        settings
            .disks
            .push(kept.map_err(|error| format!("cannot write a disk of {}: {error}", capture.path.display()))?);
    }
    let text = serde_json::to_string(&settings).unwrap_or_default();
    let written = write_named(capture, header, &text, state, pid)?;
    capture.disks.iter_mut().for_each(DiskCopy::is_named);
    // Those of the checkpoint that is replaced belong to nothing any more.
    for disk in older.iter().filter(|disk| settings.disks.iter().all(|other| other.file != disk.file)) {
        let file = Path::new(&disk.file).file_name().unwrap_or_default();
        let _ = std::fs::remove_file(capture.path.with_file_name(file));
    }
    Ok(written)
}

fn write_named(
    capture: &Capture,
    header: &Header,
    settings: &str,
    state: &[u8],
    pid: i32,
) -> std::result::Result<Written, String> {
    let name = capture.path.file_name().ok_or("the path names no file")?.to_string_lossy();
    let temporary = capture.path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let result = write_new(&temporary, capture, header, settings, state, pid)
        .and_then(|written| std::fs::rename(&temporary, &capture.path).map(|()| written))
        .and_then(|written| {
            // The name, too, must outlive the host.
            let folder = capture.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all().map(|()| written)
        });
    result.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        format!("{CANNOT_WRITE} {}: {error}", capture.path.display())
    })
}

fn write_new(
    path: &Path,
    capture: &Capture,
    header: &Header,
    settings: &str,
    state: &[u8],
    pid: i32,
) -> io::Result<Written> {
    // It holds all that the program knows, secrets included.
    let mut output = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let mut bytes = 0;
    let mut put = |piece: &[u8]| {
        bytes += piece.len() as u64;
        output.write_all(piece)
    };
    let mut out = Vec::new();
    let mut encoder = Encoder::new(header, &mut out);
    encoder.settings(settings, &mut out);
    put(&out)?;
    let zero = [0; PAGE_BYTES];
    let contents = capture.pages.iter().map(|(page, content)| (*page, content.as_deref().unwrap_or(&zero)));
    let mut result = Ok(());
    file::encode_pages(&mut encoder, header.identity.memory_bytes, contents, |piece| {
        if result.is_ok() {
            result = put(piece);
        }
    })
    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    result?;
    out.clear();
    encoder.state(state, &mut out);
    let totals = encoder.finish(&mut out);
    put(&out)?;
    output.sync_all()?;
    let since = capture.base.as_ref().map(|base| base.path.clone());
    Ok(Written { path: capture.path.clone(), of: capture.from, since, pid, epoch: header.epoch, totals, bytes })
}
