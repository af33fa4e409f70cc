//! Running a stored log again: up to its end, from where the pair goes on; or for itself, up to any epoch, where a debugger
//! may look at the guest.

mod gdb;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::log::History;
use mio::Waker;
use protocol::control::{LogRecord, ReplayEnd, Replayed, StoppedReason, ToShim};
use protocol::link::EpochStart;
use protocol::{Clocks, Epoch, ReplicaId};

use super::checkpoint::Restoring;
use super::report::tell_starter;
use super::spec::{ReplaySpec, Spec};
use super::storage::Storage;
use super::storage::folder::{Folder, Records, leads_on, read_header};
use super::{Outcome, Phase, Supervisor};
use crate::ctl::ReplayStatus;
use crate::error::{Error, Result};

/// Bytes of records on their way to the replica: enough to keep it busy, and the channel to it counts as stuck beyond a
/// mebibyte.
const IN_FLIGHT_BYTES: usize = 192 * 1024;
/// What a record needs on the channel beside its bytes in the log.
const MESSAGE_BYTES: usize = 64;

/// A log that is run again.
#[derive(Debug)]
pub struct Replaying {
    records: Records,
    history: History,
    from_epoch: Epoch,
    /// The epoch of the next record to be sent, and of the last.
    next: Epoch,
    last: Epoch,
    /// Sent and not known to be run, oldest first: epoch and bytes.
    in_flight: VecDeque<(Epoch, usize)>,
    in_flight_bytes: usize,
    /// The replica was told that there is no more.
    ended: bool,
    /// What the replica has said last.
    newest: Option<Replayed>,
    clocks: Clocks,
    divergence: Option<String>,
    /// The log is run for itself.
    only: Option<Only>,
    /// Held against whoever would write to it.
    _folder: Option<Folder>,
}

/// A log that is run for itself.
#[derive(Debug)]
struct Only {
    spec: ReplaySpec,
    /// The starter has been told of a stop.
    stopped: bool,
    /// It has been told of the end.
    told: bool,
    started_ns: Option<u64>,
    gdb: Option<String>,
}

type Opened = (Option<Storage>, Option<Restoring>, Option<Replaying>);

/// Opens what a pair is to go on from, and where it is to store what happens. Everything is judged before anything starts.
///
/// # Errors
/// It cannot be used; the text says why.
pub fn open(spec: &Spec, lineage: u64, waker: &Arc<Waker>) -> Result<Opened> {
    if let Some(replay) = &spec.replay {
        let folder = Folder::open(&replay.folder)?;
        let history = folder.history()?;
        let candidates = match &replay.checkpoint {
            Some(path) => vec![path.clone()],
            None => folder.checkpoints()?.into_iter().map(|file| file.path).collect(),
        };
        let (_, restoring) = choose(&folder.path, candidates, &history)?;
        let only = Only { spec: replay.clone(), stopped: false, told: false, started_ns: None, gdb: None };
        let replaying = Replaying::new(&restoring, history, &folder.path.clone(), Some(only), Some(folder))?;
        return Ok((None, Some(restoring), Some(replaying)));
    }
    let Some(from) = &spec.restore else {
        let open = |storage| Storage::open(storage, false, lineage, Arc::clone(waker));
        return Ok((spec.storage.as_ref().map(open).transpose()?, None, None));
    };
    if !from.is_dir() {
        let restoring = Restoring::open(from)?;
        let open = |storage| Storage::open(storage, false, lineage, Arc::clone(waker));
        return Ok((spec.storage.as_ref().map(open).transpose()?, Some(restoring), None));
    }
    match &spec.storage {
        Some(storage) => {
            let mut storage = Storage::open(storage, true, lineage, Arc::clone(waker))?;
            let (path, restoring) = choose(from, storage.checkpoints().collect(), storage.history())?;
            storage.pass_over_newer_than(&path);
            let replaying = Replaying::if_needed(&restoring, storage.history().clone(), from, None)?;
            Ok((Some(storage), Some(restoring), replaying))
        }
        None => {
            let folder = Folder::open(from)?;
            let history = folder.history()?;
            let newest_first = folder.checkpoints()?.into_iter().rev().map(|file| file.path).collect();
            let (_, restoring) = choose(from, newest_first, &history)?;
            let replaying = Replaying::if_needed(&restoring, history, from, Some(folder))?;
            Ok((None, Some(restoring), replaying))
        }
    }
}

/// The first of these checkpoints that is whole and that the log leads on from.
fn choose(folder: &Path, candidates: Vec<PathBuf>, history: &History) -> Result<(PathBuf, Restoring)> {
    let mut refused = Vec::new();
    for path in candidates {
        let opened = Restoring::open(&path).and_then(|restoring| match leads_on(history, &restoring.header) {
            Ok(()) => Ok(restoring),
            Err(text) => Err(Error::Checkpoint(format!("{}: {text}", path.display()))),
        });
        match opened {
            Ok(restoring) => return Ok((path, restoring)),
            Err(error) => refused.push(error.to_string()),
        }
    }
    if refused.is_empty() {
        return Err(Error::Checkpoint(format!("{} holds no checkpoint", folder.display())));
    }
    Err(Error::Checkpoint(format!("{} holds no checkpoint that can be used: {}", folder.display(), refused.join("; "))))
}

impl Replaying {
    /// As [`Self::new`], for a pair that goes on afterwards; `None` if the log holds nothing that the checkpoint does not.
    fn if_needed(restoring: &Restoring, history: History, path: &Path, folder: Option<Folder>) -> Result<Option<Self>> {
        let last = history.last_epoch().unwrap_or(0);
        if last <= restoring.header.epoch {
            return Ok(None);
        }
        Self::new(restoring, history, path, None, folder).map(Some)
    }

    fn new(
        restoring: &Restoring,
        history: History,
        path: &Path,
        only: Option<Only>,
        folder: Option<Folder>,
    ) -> Result<Self> {
        let from_epoch = restoring.header.epoch;
        let last = history.last_epoch().unwrap_or(0).max(from_epoch);
        if let Some(until) = only.as_ref().and_then(|only| only.spec.until)
            && !(from_epoch..=last).contains(&until)
        {
            return Err(Error::Usage(format!(
                "epoch {until} was not recorded: {} holds epochs {from_epoch} to {last}",
                path.display()
            )));
        }
        Ok(Self {
            records: Records::new(path),
            history,
            from_epoch,
            next: from_epoch + 1,
            last,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            ended: false,
            newest: None,
            clocks: restoring.header.clocks,
            divergence: None,
            only,
            _folder: folder,
        })
    }

    /// The last epoch to be run now.
    fn stop_at(&self) -> Epoch {
        let Some(only) = self.only.as_ref().filter(|only| !only.stopped) else { return self.last };
        // A debugger is to see the last epoch, in which the guest may have come to its end.
        let unless_told = if only.spec.gdb { self.last.saturating_sub(1).max(self.from_epoch) } else { self.last };
        only.spec.until.unwrap_or(unless_told)
    }

    fn is_at_stop(&self) -> bool {
        self.newest.is_some_and(|newest| newest.epoch == self.stop_at())
    }
}

impl Supervisor {
    /// The replica has its state, or has run some of the log: it gets the next records.
    pub(super) fn feed_replay(&mut self, id: ReplicaId) {
        let now_ns = self.now_ns();
        let Some(mut replaying) = self.replaying.take() else { return };
        if let Some(only) = &mut replaying.only {
            only.started_ns.get_or_insert(now_ns);
        }
        let stop_at = replaying.stop_at();
        while replaying.next <= stop_at && replaying.in_flight_bytes < IN_FLIGHT_BYTES {
            if let Err(error) = self.send_next_record(id, &mut replaying) {
                self.refusal = Some(format!("the log cannot be replayed: {error}"));
                break;
            }
        }
        if replaying.only.is_none() && replaying.next > replaying.last && !replaying.ended {
            replaying.ended = true;
            let digest = replaying.history.digest(replaying.last);
            self.say(id, &ToShim::ReplayEnd(ReplayEnd { digest }));
        }
        self.replaying = Some(replaying);
    }

    fn send_next_record(&mut self, id: ReplicaId, replaying: &mut Replaying) -> Result<()> {
        let epoch = replaying.next;
        let missing = || Error::Checkpoint(format!("the record of epoch {epoch} is missing"));
        let place = replaying.history.place(epoch).ok_or_else(missing)?;
        let bytes = place.bytes as usize + MESSAGE_BYTES;
        let record = replaying.records.read(place)?;
        replaying.clocks = record.start.clocks;
        self.say(id, &ToShim::Replay(record));
        replaying.next += 1;
        replaying.in_flight.push_back((epoch, bytes));
        replaying.in_flight_bytes += bytes;
        Ok(())
    }

    pub(super) fn replayed(&mut self, id: ReplicaId, replayed: Replayed, now_ns: u64) {
        self.progress_ns = now_ns;
        let Some(replaying) = &mut self.replaying else { return };
        replaying.newest = Some(replayed);
        while let Some((_, bytes)) = replaying.in_flight.pop_front_if(|(epoch, _)| *epoch <= replayed.epoch) {
            replaying.in_flight_bytes -= bytes;
        }
        if replayed.complete {
            let epochs = replayed.epoch - replaying.from_epoch;
            self.replaying = None;
            self.wire.goes_on(replayed.frames_out);
            self.happened(format!("{epochs} epochs of the log were run again, up to epoch {}", replayed.epoch));
        } else if self.refusal.is_none() {
            self.feed_replay(id);
        }
    }

    /// The replica has stopped in the middle of a replay.
    pub(super) fn replay_failed(&mut self, reason: StoppedReason, text: &str) {
        let Some(replaying) = &mut self.replaying else { return };
        if reason == StoppedReason::Diverged && replaying.only.is_some() {
            replaying.divergence = Some(text.to_owned());
        } else {
            self.refusal = Some(format!("the log cannot be replayed: {text}"));
        }
    }

    /// Of a log that is run for itself: whether it is where it was to stop, or has come to an end.
    pub(super) fn look_after_replay(&mut self, now_ns: u64) {
        let Some(replaying) = &mut self.replaying else { return };
        let over = replaying.divergence.is_some()
            || self.guest_stopped.is_some()
            || replaying.newest.is_some_and(|newest| newest.epoch == replaying.last);
        let at_stop = replaying.is_at_stop();
        let Some(only) = replaying.only.as_mut().filter(|only| !only.told) else { return };
        if !over && (only.stopped || !at_stop) {
            return;
        }
        let first_stop = !std::mem::replace(&mut only.stopped, true);
        if first_stop && only.spec.gdb {
            let entered = if self.guest_stopped.is_none() && replaying.divergence.is_none() {
                self.enter_guest()
            } else {
                Ok(())
            };
            if let Err(text) = entered {
                self.refusal = Some(format!("no debugger can be served: {text}"));
                return;
            }
            let elf = self.spec.guest_elf.as_deref().map_or_else(String::new, |elf| format!("{} ", elf.display()));
            let command = format!("gdb {elf}-ex 'target remote {}'", self.gdb_socket().display());
            if let Some(only) = self.replaying.as_mut().and_then(|replaying| replaying.only.as_mut()) {
                only.gdb = Some(command);
            }
        } else if let Some(only) = self.replaying.as_mut().and_then(|replaying| replaying.only.as_mut()) {
            only.gdb = None;
        }
        let status = self.replay_status(now_ns);
        let Some(only) = self.replaying.as_mut().and_then(|replaying| replaying.only.as_mut()) else { return };
        let stays = only.spec.gdb;
        only.told = !stays || (over && !first_stop);
        if let Some(status) = status {
            tell_starter(&Outcome::Replayed(Box::new(status)));
        }
        if stays {
            self.phase = Phase::Replayed;
            self.feed_replay(ReplicaId::ZERO);
        } else {
            self.begin_end(now_ns);
        }
    }

    fn replay_status(&self, now_ns: u64) -> Option<ReplayStatus> {
        let replaying = self.replaying.as_ref()?;
        let only = replaying.only.as_ref()?;
        let newest = replaying.newest.unwrap_or_default();
        let recorded = replaying.history.digest(newest.epoch);
        let mut divergence = replaying.divergence.clone();
        if let Some(recorded) = recorded.filter(|recorded| *recorded != newest.digest) {
            divergence.get_or_insert_with(|| {
                format!(
                    "the replay differs from the recording in epoch {}: digest {:016x} here, {recorded:016x} recorded",
                    newest.epoch, newest.digest
                )
            });
        }
        Some(ReplayStatus {
            app: self.spec.app.clone(),
            from_epoch: replaying.from_epoch,
            epoch: newest.epoch,
            recorded_through: replaying.last,
            digest: format!("{:016x}", newest.digest),
            recorded_digest: recorded.map(|digest| format!("{digest:016x}")),
            divergence,
            guest_stopped: self.guest_stopped.clone(),
            took_ms: only.started_ns.map_or(0.0, |started_ns| (now_ns - started_ns) as f64 / 1e6),
            gdb: only.gdb.clone(),
        })
    }

    fn gdb_socket(&self) -> PathBuf {
        self.dir.file("gdb")
    }

    /// Runs the machine to the guest's next instruction, which is the first of the next epoch, and leaves it stopped there.
    /// The debugger that connects next finds the guest, not the shim.
    fn enter_guest(&mut self) -> std::result::Result<(), String> {
        let socket = self.gdb_socket();
        let Some(mut replaying) = self.replaying.take() else { return Ok(()) };
        let newest = replaying.newest.unwrap_or_default();
        let sent = gdb::Stub::connect(&socket).map_err(|error| error.to_string()).and_then(|mut stub| {
            stub.break_at(newest.instruction_address)?;
            stub.go_on()?;
            if replaying.next <= replaying.last {
                self.send_next_record(ReplicaId::ZERO, &mut replaying).map_err(|error| error.to_string())?;
            } else {
                // Nothing was recorded of it; it is only entered.
                self.say(ReplicaId::ZERO, &ToShim::Replay(after_the_last(&newest, replaying.clocks)));
            }
            stub.await_stop()?;
            stub.forget(newest.instruction_address)
        });
        self.replaying = Some(replaying);
        sent
    }
}

/// An epoch behind the last one that was recorded.
fn after_the_last(newest: &Replayed, clocks: Clocks) -> LogRecord<'static> {
    let start = EpochStart {
        epoch: newest.epoch + 1,
        prev_digest: newest.digest,
        clocks,
        released_through: 0,
        sent_ns: 0,
        events: &[],
    };
    LogRecord { generation: 1, start }
}

/// How a guest was run whose checkpoints lie in this folder, by the newest that can be read.
///
/// # Errors
/// There is none.
pub fn settings(folder: &Path) -> Result<Spec> {
    let mut files: Vec<_> = super::storage::folder::list_checkpoints(folder)?;
    files.reverse();
    let mut failure = Error::Checkpoint(format!("{} holds no checkpoint", folder.display()));
    for path in files {
        match read_header(&path).and_then(|_| super::checkpoint::settings(&path)) {
            Ok(spec) => return Ok(spec),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
