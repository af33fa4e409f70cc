//! What outlives both replicas: checkpoints at an interval, and the log between them.
//!
//! The active replica's records come over the control channel and go to a thread ([`writer`]); when they are on the disk, the
//! replica is told, and lets its outputs go. A promoted replica sends again what may be missing. If the disk fails, outputs
//! wait until it works again, because that is what was asked for; `status` and the events say so.

pub mod folder;
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::checkpoint::file::{Identity, Kind};
use ::checkpoint::log::History;
use mio::Waker;
use protocol::control::{LogEnd, LogRecord, Promoted, Ready, ToShim};
use protocol::replica::Record;
use protocol::{Epoch, ReplicaId};

use self::folder::{Folder, checkpoint_number, checkpoint_path, read_header};
use self::writer::{Done, LogWriter, Order, Point, Start};
use super::spec::{Every, LogName, RunName, StorageSpec};
use super::{NS_PER_MS, Phase, Supervisor, checkpoint};
use crate::ctl::StorageStatus;
use crate::disk::mark::Stretch;
use crate::error::{Error, Result};

/// Bytes of records on their way to the disk. Together with the pages of a checkpoint and the longest record they must fit
/// into the buffers of the control channel's socket: QEMU's virtconsole drops what finds no room. (Linux gives 208 KiB
/// unless told otherwise.)
pub const MAX_UNSTORED_BYTES: u64 = 64 * 1024;
/// Checkpoints that build upon each other, at most; then one that holds everything.
const MAX_CHAIN: u64 = 15;
/// A checkpoint that could not be taken is tried again after this time.
const RETRY_NS: u64 = 1_000 * NS_PER_MS;

/// What the folder is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To go on from when both replicas have died.
    Restart,
    /// To be replayed.
    Recording,
}

/// What a pair that is up has to do with stable storage.
#[derive(Debug)]
pub struct Storage {
    folder: Folder,
    purpose: Purpose,
    every: Option<Every>,
    log: LogName,
    /// What an earlier life has left.
    before: History,
    points: Vec<Point>,
    lineage: u64,
    writer: Option<LogWriter>,
    waker: Arc<Waker>,
    /// The newest epoch that is stored.
    stored_through: Epoch,
    /// The newest record that has come.
    received_through: Epoch,
    /// When the next checkpoint is due, on the supervisor's clock.
    due_ns: u64,
    next_number: u64,
    /// A checkpoint is being taken or waits for its name.
    under_way: bool,
    chain: u64,
    newest: Option<Point>,
    published: u64,
    /// Why nothing can be stored.
    failure: Option<String>,
    /// The recording ends when the active replica has said its last word about it.
    ends: bool,
    /// Of which replica the disks are marked: a log can be run again upon them.
    marked: [bool; 2],
    /// A promoted replica's disks are to be marked when the log holds this epoch, up to which they have everything.
    mark_due: Option<(ReplicaId, Epoch)>,
}

impl Storage {
    /// For a pair that is started with one.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(spec: &StorageSpec, restores: bool, lineage: u64, waker: Arc<Waker>) -> Result<Self> {
        let folder = if restores { Folder::open(&spec.folder)? } else { Folder::create(&spec.folder)? };
        folder.clear_unfinished();
        Self::with(folder, Purpose::Restart, Some(spec.every), spec.log, lineage, waker)
    }

    fn with(
        folder: Folder,
        purpose: Purpose,
        every: Option<Every>,
        log: LogName,
        lineage: u64,
        waker: Arc<Waker>,
    ) -> Result<Self> {
        let before = folder.history()?;
        let mut points = Vec::new();
        for file in folder.checkpoints()? {
            // One that cannot be read is passed over here: it was, too, when the newest one was looked for.
            if let Ok(header) = read_header(&file.path) {
                let builds_upon = header.kind != Kind::Full;
                points.push(Point { number: file.number, epoch: header.epoch, builds_upon });
            }
        }
        let next_number = folder.checkpoints()?.last().map_or(1, |file| file.number + 1);
        let lineage = before.last_segment().map_or(lineage, |(_, lineage)| lineage);
        let stored_through = before.last_epoch().unwrap_or(0);
        Ok(Self {
            folder,
            purpose,
            every,
            log,
            before,
            newest: points.last().copied(),
            points,
            lineage,
            writer: None,
            waker,
            stored_through,
            received_through: stored_through,
            due_ns: 0,
            next_number,
            under_way: false,
            chain: 0,
            published: 0,
            failure: None,
            ends: false,
            marked: [false; 2],
            mark_due: None,
        })
    }

    /// The part of the log that is run again from this checkpoint on.
    pub fn stretch_from(&self, epoch: Epoch) -> Stretch {
        Stretch { lineage: self.lineage, from: epoch, through: self.stored_through.max(epoch) }
    }

    /// The disks of replica 0 are those that the log is run again upon.
    pub fn goes_on_with_disks(&mut self) {
        self.marked[0] = true;
    }

    /// Everything that was ordered is done. Returns the log's name and how far it goes.
    pub fn finish(mut self) -> (u64, Epoch) {
        if let Some(writer) = &mut self.writer {
            writer.finish();
            for done in writer.done() {
                if let Done::Stored { through, .. } = done {
                    self.stored_through = through;
                }
            }
        }
        (self.lineage, self.stored_through)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// What an earlier life has stored.
    pub fn history(&self) -> &History {
        &self.before
    }

    /// Checkpoints that are there, newest first.
    pub fn checkpoints(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.points.iter().rev().map(|point| checkpoint_path(&self.folder.path, point.number))
    }

    /// The pair goes on from this checkpoint: newer ones could not be used, and are put aside.
    pub fn pass_over_newer_than(&mut self, chosen: &Path) {
        let chosen = checkpoint_number(chosen).unwrap_or(u64::MAX);
        self.points.retain(|point| {
            let stays = point.number <= chosen;
            if !stays {
                let path = checkpoint_path(&self.folder.path, point.number);
                // It would be refused the next time, too.
                let _ = std::fs::rename(&path, path.with_extension("refused"));
            }
            stays
        });
        self.newest = self.points.last().copied();
    }

    fn start_writer(&mut self, identity: Identity) -> std::io::Result<()> {
        let segments = self.folder.segments().unwrap_or_default();
        let mut last_epochs: Vec<_> = segments.iter().map(|segment| (segment.number, 0)).collect();
        let epochs = self.before.first_epoch().into_iter().zip(self.before.last_epoch()).flat_map(|(a, b)| a..=b);
        for epoch in epochs {
            let place = self.before.place(epoch).map_or(0, |place| place.sequence);
            if let Some(segment) = last_epochs.iter_mut().find(|(sequence, _)| *sequence == place) {
                segment.1 = epoch;
            }
        }
        let durable = self.purpose == Purpose::Restart;
        let start = Start {
            folder: self.folder.path.clone(),
            identity,
            lineage: self.lineage,
            next_sequence: segments.last().map_or(1, |segment| segment.number + 1),
            segments: last_epochs,
            points: self.points.clone(),
            last_epoch: self.before.last_epoch(),
            durable,
            prunes: self.purpose == Purpose::Restart,
        };
        self.writer = Some(LogWriter::start(start, Arc::clone(&self.waker))?);
        Ok(())
    }

    fn order(&self, order: Order) {
        if let Some(writer) = &self.writer {
            writer.order(order);
        }
    }

    fn status(&self) -> StorageStatus {
        StorageStatus {
            folder: self.folder.path.clone(),
            purpose: if self.purpose == Purpose::Restart { "restart" } else { "recording" }.to_owned(),
            every: self.every.map(|every| every.to_string()),
            log: self.log.name().to_owned(),
            stored_through: self.stored_through,
            waiting_epochs: self.received_through.saturating_sub(self.stored_through),
            checkpoints: self.published,
            checkpoint_epoch: self.newest.map(|point| point.epoch),
            failure: self.failure.clone(),
        }
    }
}

impl Supervisor {
    /// Whether the active replica's records are stored.
    pub(super) fn stores_log(&self) -> bool {
        self.storage.as_ref().is_some_and(|storage| storage.log == LogName::Durable)
    }

    /// The guest of the pair is known: writing can begin.
    pub(super) fn prepare_storage(&mut self, ready: &Ready) {
        let Some(storage) = self.storage.as_mut().filter(|storage| storage.writer.is_none()) else { return };
        if self.spec.replay.is_some() {
            return;
        }
        if let Err(error) = storage.start_writer(checkpoint::identity(ready, self.spec.machine)) {
            self.refusal = Some(format!("the log cannot be written: {error}"));
        }
    }

    /// A record for storage has come.
    pub(super) fn store_record(&mut self, from: ReplicaId, record: &LogRecord<'_>) {
        if from != self.arbiter.record().active {
            return;
        }
        let Some(storage) = self.storage.as_mut().filter(|storage| storage.log == LogName::Durable) else { return };
        let start = &record.start;
        storage.received_through = start.epoch;
        let owned = Record {
            epoch: start.epoch,
            prev_digest: start.prev_digest,
            clocks: start.clocks,
            released_through: start.released_through,
            sent_ns: start.sent_ns,
            events: start.events.to_vec(),
        };
        storage.order(Order::Record { from, generation: record.generation, record: owned });
    }

    pub(super) fn store_end(&mut self, from: ReplicaId, end: LogEnd) {
        let Some(storage) = self.storage.as_ref().filter(|_| from == self.arbiter.record().active) else { return };
        storage.order(Order::End { from, end });
        if storage.ends {
            self.end_recording();
        }
    }

    /// A promoted replica goes on from this epoch: checkpoints of later ones are of epochs that nobody has lived through.
    pub(super) fn storage_promoted(&mut self, id: ReplicaId, promoted: &Promoted) {
        if let Some(storage) = &mut self.storage {
            storage.points.retain(|point| point.epoch <= promoted.epoch);
            storage.chain = 0;
            storage.order(Order::Forget { after: promoted.epoch });
            storage.mark_due = Some((id, promoted.epoch));
            self.mark_if_due();
        }
    }

    /// Whether the guest's disks can be restored by the log that is stored.
    pub(super) fn logs_disks(&self) -> bool {
        let is_for_restart = |storage: &Storage| storage.purpose == Purpose::Restart;
        self.stores_log() && !self.spec.disks.is_empty() && self.storage.as_ref().is_some_and(is_for_restart)
    }

    /// Whether a log that is stored could be run again upon the disks of this replica alone. Until then the other one's may not
    /// be overwritten.
    pub(super) fn disks_suffice(&self, id: ReplicaId) -> bool {
        !self.logs_disks() || self.storage.as_ref().is_some_and(|storage| storage.marked[id.index()])
    }

    /// The disks of this replica are about to be overwritten.
    pub(super) fn disks_are_overwritten(&mut self, id: ReplicaId) {
        if let Some(storage) = &mut self.storage {
            storage.marked[id.index()] = false;
        }
    }

    /// Has a promoted replica's disks marked as soon as the log holds what they do.
    fn mark_if_due(&mut self) {
        let Some(storage) = &mut self.storage else { return };
        let stored_through = storage.stored_through;
        if let Some((id, through)) = storage.mark_due.take_if(|(_, through)| *through <= stored_through) {
            self.mark_disks(id, through);
        }
    }

    /// The disks of this replica hold all that was done up to this epoch.
    fn mark_disks(&mut self, of: ReplicaId, through: Epoch) {
        if !self.logs_disks() {
            return;
        }
        match (self.disks.files_of(of), &self.storage) {
            (Ok(disks), Some(storage)) => storage.order(Order::Mark { of, through, disks }),
            (Err(error), _) => self.happened(format!("a disk cannot be marked: {error}")),
            (Ok(_), None) => {}
        }
    }

    /// Takes note of what the thread has done, and takes checkpoints when they are due. Returns when to call again.
    pub(super) fn look_after_storage(&mut self, now_ns: u64) -> Option<u64> {
        if self.closing.take_if(|closing| closing.is_finished()).is_some() {
            self.happened("the recording is complete".to_owned());
        }
        let done: Vec<_> = self.storage.as_ref()?.writer.as_ref()?.done().collect();
        // Of several, the last one says it all.
        let mut stored = [None, None];
        for done in done {
            match done {
                Done::Stored { from, through } => stored[from.index()] = Some(through),
                other => self.note_done(other, now_ns),
            }
        }
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            if let Some(through) = stored[id.index()] {
                if let Some(storage) = &mut self.storage {
                    storage.stored_through = through;
                }
                self.say(id, &ToShim::Stored { through });
                self.mark_if_due();
            }
        }
        self.checkpoint_if_due(now_ns)
    }

    fn note_done(&mut self, done: Done, now_ns: u64) {
        let Some(storage) = &mut self.storage else { return };
        match done {
            Done::Stored { .. } => {}
            Done::Marked(of) => storage.marked[of.index()] = true,
            Done::Published(point) => {
                storage.under_way = false;
                storage.failure = None;
                storage.newest = Some(point);
                storage.published += 1;
                storage.chain = if point.builds_upon { storage.chain + 1 } else { 0 };
            }
            Done::Failing(text) => {
                let waits = storage.purpose == Purpose::Restart && storage.log == LogName::Durable;
                let text = if waits { format!("{text}; outputs wait until it can be written") } else { text };
                storage.failure = Some(text.clone());
                self.happened(format!("stable storage cannot be written: {text}"));
            }
            Done::Recovered => {
                storage.failure = None;
                self.happened("stable storage can be written again".to_owned());
            }
            Done::Broken(text) => {
                storage.failure = Some(text.clone());
                let is_recording = storage.purpose == Purpose::Recording;
                self.happened(format!("the log is of no more use: {text}"));
                if is_recording {
                    self.end_recording();
                }
            }
            Done::Forgotten { left } => {
                storage.newest = None;
                storage.due_ns = now_ns;
                self.happened(format!(
                    "a checkpoint of the replica that has failed is not true any more; {left} are left"
                ));
            }
        }
    }

    /// Takes a checkpoint if one is due and can be taken. Returns when the next one is.
    fn checkpoint_if_due(&mut self, now_ns: u64) -> Option<u64> {
        let active = self.arbiter.record().active;
        let epoch = self.replicas[active.index()].as_ref().and_then(|replica| replica.status).map_or(0, |s| s.epoch);
        let serves = matches!(self.phase, Phase::Securing | Phase::Serving) && self.guest_stopped.is_none();
        let storage = self.storage.as_mut().filter(|_| serves)?;
        // A recording has one checkpoint, at its beginning.
        if storage.under_way || storage.ends || (storage.every.is_none() && storage.newest.is_some()) {
            return None;
        }
        if now_ns < storage.due_ns {
            return Some(storage.due_ns);
        }
        if let (Some(Every::Epochs(epochs)), Some(newest)) = (storage.every, storage.newest)
            && epoch < newest.epoch + epochs
        {
            // Status messages wake the loop.
            return None;
        }
        let number = storage.next_number;
        let path = checkpoint_path(storage.folder(), number).with_extension("ckpt.new");
        let chains = storage.chain < MAX_CHAIN && storage.purpose == Purpose::Restart;
        let since = storage.newest.filter(|_| chains).map(|newest| checkpoint_path(storage.folder(), newest.number));
        storage.due_ns = now_ns + RETRY_NS;
        let taken = match self.begin_capture(&path, since.as_deref()) {
            Err(_) if since.is_some() => self.begin_capture(&path, None),
            other => other,
        };
        let every_ns = match self.storage.as_ref().and_then(|storage| storage.every) {
            Some(Every::Time(every_ms)) => every_ms * NS_PER_MS,
            _ => 0,
        };
        let storage = self.storage.as_mut()?;
        // One that somebody else has asked for is being taken, or a newcomer is brought in: soon.
        if taken.is_ok() {
            storage.under_way = true;
            storage.next_number += 1;
            storage.due_ns = now_ns + every_ns;
        }
        Some(storage.due_ns)
    }

    /// A checkpoint was written. If it is the storage's, it waits for its name; returns the name.
    pub(super) fn storage_checkpoint(
        &mut self,
        path: &Path,
        of: ReplicaId,
        epoch: Epoch,
        builds_upon: bool,
    ) -> Option<PathBuf> {
        let storage = self.storage.as_ref()?;
        let name = path.with_extension("");
        let number = checkpoint_number(&name).filter(|_| path.parent() == Some(storage.folder()))?;
        // Those of a replica that has failed may be overwritten soon; its successor's are marked for themselves.
        if of == self.arbiter.record().active {
            self.mark_disks(of, epoch);
        }
        let storage = self.storage.as_ref()?;
        storage.order(Order::Publish { from: path.to_owned(), point: Point { number, epoch, builds_upon } });
        Some(name)
    }

    /// A checkpoint was not taken.
    pub(super) fn storage_checkpoint_failed(&mut self, why: &str) {
        let now_ns = self.now_ns();
        if let Some(storage) = self.storage.as_mut().filter(|storage| storage.under_way) {
            storage.under_way = false;
            storage.due_ns = now_ns + RETRY_NS;
            if why.starts_with(checkpoint::CANNOT_WRITE) {
                storage.failure.get_or_insert_with(|| format!("no new checkpoint: {why}"));
            }
        }
    }

    /// Whether what clients are told from now on can be restored.
    pub(super) fn is_secured(&self) -> bool {
        self.storage.as_ref().is_none_or(|storage| storage.newest.is_some() || storage.purpose == Purpose::Recording)
    }

    /// Somebody wants all that happens to the guest from now on to be recorded.
    pub(super) fn begin_recording(&mut self, path: &Path) -> std::result::Result<(), String> {
        if !self.spec.run.has_epochs() {
            return Err("a bare machine has no epochs that could be recorded".to_owned());
        }
        if self.closing.is_some() {
            return Err("the recording before is being completed".to_owned());
        }
        if let Some(storage) = &self.storage {
            return Err(match storage.purpose {
                Purpose::Recording => format!("a recording goes to {} already", storage.folder().display()),
                Purpose::Restart => {
                    format!("the pair writes a log already, which can be replayed: {}", storage.folder().display())
                }
            });
        }
        let active = self.arbiter.record().active;
        let ready = self.replicas[active.index()].as_ref().and_then(|replica| replica.ready);
        let ready = ready.filter(|_| self.phase == Phase::Serving).ok_or("the pair does not serve")?;
        let folder = Folder::create(path).map_err(|error| error.to_string())?;
        let lineage = self.session ^ self.now_ns();
        let waker = Arc::clone(&self.waker);
        let storage = Storage::with(folder, Purpose::Recording, None, LogName::Durable, lineage, waker);
        self.storage = Some(storage.map_err(|error| error.to_string())?);
        self.prepare_storage(&ready);
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            self.say(id, &ToShim::StoreLog { on: true });
        }
        self.happened(format!("all that happens is recorded in {} from now on", path.display()));
        Ok(())
    }

    /// Nobody wants it any more.
    pub(super) fn stop_recording(&mut self) -> std::result::Result<(), String> {
        let recording = self.storage.as_ref().is_some_and(|storage| storage.purpose == Purpose::Recording);
        if !recording {
            return Err("nothing is being recorded".to_owned());
        }
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            self.say(id, &ToShim::StoreLog { on: false });
        }
        // The last word of the active replica is awaited, which says how the last epoch ended.
        if let Some(storage) = &mut self.storage {
            storage.ends = true;
        }
        Ok(())
    }

    /// The recording is complete, or can never be.
    pub(super) fn end_recording(&mut self) {
        if let Some(storage) = self.storage.take_if(|storage| storage.purpose == Purpose::Recording) {
            for id in [ReplicaId::ZERO, ReplicaId::ONE] {
                self.say(id, &ToShim::StoreLog { on: false });
            }
            // Clients need not wait for the disk while what is left is written.
            self.happened(format!("the recording in {} ends", storage.folder().display()));
            self.closing = std::thread::Builder::new().name("close".to_owned()).spawn(move || drop(storage)).ok();
        }
    }

    /// What `status` shows.
    pub(super) fn storage_status(&self) -> Option<StorageStatus> {
        self.storage.as_ref().map(Storage::status)
    }
}

/// What stable storage cannot be had for.
///
/// # Errors
/// The text says why.
pub fn check(run: RunName, has_disks: bool, log: LogName) -> Result<()> {
    let why = match (run, has_disks, log) {
        (RunName::Bare | RunName::Cut, ..) => {
            "a bare machine has no epochs, at whose ends checkpoints are taken: leave --bare out"
        }
        (_, true, LogName::None) => {
            "a disk goes on after the checkpoint, and only the log says how: add --log durable, or leave --disk out"
        }
        _ => return Ok(()),
    };
    Err(Error::Usage(format!("--checkpoint-dir cannot be used: {why}")))
}
