//! The mirrors of a newcomer, made equal to the survivor's while its guest writes to them.
//!
//! 1. The newcomer's mirrors say that they are stale, whatever they were before, and stay so until the pair is complete.
//! 2. The survivor's shim notes from now on what changes, and everything is copied.
//! 3. What has changed is asked for and copied, in rounds, until little is left. Then the newcomer is started, and the rounds
//!    go on while its memory is filled.
//! 4. At the epoch of the state guest and disks stand still, and the last changes are copied.
//! 5. The copy is made stable. Only then is the pair complete: a flush that clients were told of before is on both disks.
//!
//! Whoever dies meanwhile leaves one good mirror, the survivor's, and one that says that it is none.

use std::sync::Arc;
use std::thread::JoinHandle;

use mio::Waker;
use protocol::ReplicaId;
use protocol::control::{ArbiterRequest, DisksChanged, ToShim};
use protocol::resync::{ChangedBlocks, Rounds};

use super::{NS_PER_MS, Supervisor};
use crate::ctl::DiskCopyStatus;
use crate::disk::follow::{Follower, Job, Route};

/// Between two rounds when nothing but the newcomer's memory is waited for.
const REST_NS: u64 = 10 * NS_PER_MS;
/// A thread that gave up is looked for this often.
const RETIRE_NS: u64 = 10 * NS_PER_MS;

/// What the copy waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The survivor's shim is to note changes.
    Watching,
    /// Everything, or a round, is being copied.
    Copying,
    /// The survivor was asked what has changed.
    Asked,
    /// It is asked again then.
    Resting { until_ns: u64 },
    /// The last changes are being copied; there may be `more`.
    Last { more: bool },
    /// The copy is being made stable.
    Stabilising,
    /// It is.
    Stable,
}

/// What a copy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A newcomer's mirrors.
    Newcomer,
    /// A checkpoint.
    Checkpoint,
}

#[derive(Debug)]
struct Copying {
    purpose: Purpose,
    /// Whose mirrors are copied.
    survivor: ReplicaId,
    follower: Follower,
    step: Step,
    /// Jobs on their way.
    jobs: u64,
    whole: bool,
    rounds: Rounds,
    round_bytes: u64,
    more: bool,
    /// So little is left that the newcomer may be started.
    is_close: bool,
}

/// What the supervisor knows of it.
pub struct Resync {
    waker: Arc<Waker>,
    copy: Option<Copying>,
    /// Threads that gave up and may not have noticed.
    retired: Vec<JoinHandle<()>>,
    /// Pairing was asked for, and waits for the copy to be stable.
    deferred: Option<(ReplicaId, ArbiterRequest)>,
    /// Figures of the newest.
    status: Option<DiskCopyStatus>,
}

/// How the copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The newcomer may be started; or there is nothing to copy.
    Close,
    /// Not yet. When to look again, if nothing happens before.
    Busy(Option<u64>),
}

impl Resync {
    /// Nothing is copied.
    pub fn new(waker: Arc<Waker>) -> Self {
        Self { waker, copy: None, retired: Vec::new(), deferred: None, status: None }
    }

    /// Whether the copy is equal and stable, or nothing is copied.
    fn is_stable(&self) -> bool {
        self.newcomer_copy().is_none_or(|copy| copy.step == Step::Stable)
    }

    fn newcomer_copy(&self) -> Option<&Copying> {
        self.copy.as_ref().filter(|copy| copy.purpose == Purpose::Newcomer)
    }

    /// Whether a newcomer's mirrors are being copied.
    pub(super) fn is_copying(&self) -> bool {
        self.newcomer_copy().is_some()
    }

    /// Gives up, or is done with, what is being copied for this.
    pub(super) fn abandon(&mut self, purpose: Purpose) {
        if let Some(copy) = self.copy.take_if(|copy| copy.purpose == purpose) {
            if purpose == Purpose::Newcomer {
                self.status = Some(copy.status());
            }
            self.retired.push(copy.follower.give_up());
        }
    }

    /// Nothing is copied any more, and no thread has a file open.
    pub(super) fn end(&mut self) {
        self.abandon(Purpose::Newcomer);
        self.abandon(Purpose::Checkpoint);
        for thread in self.retired.drain(..) {
            // One that has failed has closed its files, too.
            let _ = thread.join();
        }
    }

    /// What `status` shows of a newcomer's mirrors.
    pub(super) fn status(&self) -> Option<DiskCopyStatus> {
        self.newcomer_copy().map(Copying::status).or_else(|| self.status.clone())
    }
}

impl Copying {
    fn push(&mut self, job: Job) {
        self.jobs += 1;
        self.follower.push(job);
    }

    fn status(&self) -> DiskCopyStatus {
        let (done_bytes, total_bytes, written_bytes) = self.follower.progress();
        DiskCopyStatus { done_bytes, total_bytes, written_bytes, rounds: u64::from(self.rounds.count()) }
    }
}

impl Supervisor {
    /// Begins to make the newcomer's mirrors equal to the survivor's, or says how far that is.
    pub(super) fn copy_mirrors(&mut self, survivor: ReplicaId, now_ns: u64) -> Result<Standing, String> {
        if let Some(copy) = self.resync.newcomer_copy() {
            return Ok(if copy.is_close { Standing::Close } else { Standing::Busy(None) });
        }
        if !self.disks.are_mirrored() {
            return Ok(Standing::Close);
        }
        self.resync.retired.retain(|thread| !thread.is_finished());
        if !self.resync.retired.is_empty() || self.resync.copy.is_some() || self.is_capturing() {
            return Ok(Standing::Busy(Some(now_ns + RETIRE_NS)));
        }
        // Everything could die in the middle of the copy.
        if !self.disks_suffice(survivor) {
            return Ok(Standing::Busy(Some(now_ns + RETIRE_NS)));
        }
        self.disks_are_overwritten(survivor.peer());
        let routes = self.disks.prepare_mirrors(survivor.peer()).map_err(|error| error.to_string())?;
        self.resync.deferred = None;
        self.begin_copy(Purpose::Newcomer, survivor, routes)?;
        self.happened(format!("the disks of replica {} are copied from replica {survivor}'s", survivor.peer()));
        Ok(Standing::Busy(None))
    }

    /// Whether mirrors are being copied, for whatever.
    pub(super) fn copies_disks(&self) -> bool {
        self.resync.copy.is_some()
    }

    /// Begins to copy what is on the active replica's mirrors. When little is left the checkpoint itself is asked for.
    pub(super) fn copy_for_checkpoint(&mut self, active: ReplicaId, routes: Vec<Route>) -> Result<(), String> {
        if self.resync.copy.is_some() {
            return Err("the disks are being copied already".to_owned());
        }
        self.begin_copy(Purpose::Checkpoint, active, routes)
    }

    fn begin_copy(&mut self, purpose: Purpose, survivor: ReplicaId, routes: Vec<Route>) -> Result<(), String> {
        let follower = self.follow(routes)?;
        self.resync.copy = Some(Copying {
            purpose,
            survivor,
            follower,
            step: Step::Watching,
            jobs: 0,
            whole: false,
            rounds: Rounds::default(),
            round_bytes: 0,
            more: false,
            is_close: false,
        });
        self.say(survivor, &ToShim::WatchDisks);
        Ok(())
    }

    fn follow(&self, routes: Vec<Route>) -> Result<Follower, String> {
        let waker = self.resync.waker.clone();
        // A loop that cannot be woken looks when something else happens: status messages come often enough.
        let wake = move || drop(waker.wake());
        Follower::start(routes, Arc::new(wake)).map_err(|error| format!("no thread to copy disks: {error}"))
    }

    /// The survivor says what has changed.
    pub(super) fn disks_changed(&mut self, id: ReplicaId, changed: &DisksChanged<'_>) {
        let Some(copy) = self.resync.copy.as_mut().filter(|copy| copy.survivor == id) else { return };
        let Some(ranges) = ChangedBlocks::decode_all(changed.ranges) else {
            return self.mirrors_failed("the survivor's shim has said what makes no sense");
        };
        match copy.step {
            Step::Watching if !changed.last => {
                copy.step = Step::Copying;
                return copy.push(Job::Whole);
            }
            Step::Watching | Step::Stabilising | Step::Stable => return,
            _ if changed.last => copy.step = Step::Last { more: changed.more },
            Step::Asked => copy.step = Step::Copying,
            // Nobody has asked.
            _ => return,
        }
        copy.more = changed.more;
        copy.round_bytes +=
            ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.blocks.saturating_mul(512)));
        copy.push(Job::Ranges(ranges));
    }

    /// Goes on with the copy. Returns when to call again.
    pub(super) fn look_after_mirrors(&mut self, now_ns: u64) -> Option<u64> {
        loop {
            let copy = self.resync.copy.as_mut()?;
            match copy.follower.take_done() {
                Ok(true) => self.mirror_job_done(now_ns),
                Ok(false) => break,
                Err(text) => {
                    self.mirrors_failed(&text);
                    return None;
                }
            }
        }
        let copy = self.resync.copy.as_mut()?;
        let Step::Resting { until_ns } = copy.step else { return None };
        if now_ns < until_ns {
            return Some(until_ns);
        }
        copy.step = Step::Asked;
        let survivor = copy.survivor;
        self.say(survivor, &ToShim::TellDisks);
        None
    }

    fn mirror_job_done(&mut self, now_ns: u64) {
        let Some(copy) = &mut self.resync.copy else { return };
        copy.jobs = copy.jobs.saturating_sub(1);
        if copy.jobs > 0 {
            return;
        }
        let mut captures = None;
        match copy.step {
            Step::Copying => {
                if !copy.whole {
                    copy.whole = true;
                } else if !copy.more {
                    let bytes = std::mem::take(&mut copy.round_bytes);
                    let is_close = copy.rounds.copied(bytes);
                    if is_close && !copy.is_close && copy.purpose == Purpose::Checkpoint {
                        captures = Some(copy.survivor);
                    }
                    copy.is_close |= is_close;
                }
                // What is left is asked for at once as long as somebody waits for that.
                let until_ns = if copy.is_close && !copy.more { now_ns + REST_NS } else { now_ns };
                copy.step = Step::Resting { until_ns };
                if let Some(active) = captures {
                    self.say(active, &ToShim::Capture { since_epoch: 0 });
                }
            }
            Step::Last { more } => {
                let survivor = copy.survivor;
                match (more, copy.purpose) {
                    (true, _) => {}
                    (false, Purpose::Newcomer) => {
                        copy.step = Step::Stabilising;
                        copy.push(Job::Stable);
                    }
                    // Whoever writes the checkpoint does that.
                    (false, Purpose::Checkpoint) => copy.step = Step::Stable,
                }
                self.say(survivor, &ToShim::DisksCopied);
            }
            Step::Stabilising => {
                copy.step = Step::Stable;
                if let Some((id, request)) = self.resync.deferred.take() {
                    self.arbitrate_pairing(id, request, now_ns);
                }
            }
            Step::Watching | Step::Asked | Step::Resting { .. } | Step::Stable => {}
        }
    }

    /// The blocks cannot be had, or not be written: there is no newcomer, or no checkpoint.
    fn mirrors_failed(&mut self, text: &str) {
        let now_ns = self.now_ns();
        let Some(Copying { purpose, survivor, .. }) = self.resync.copy else { return };
        self.resync.abandon(purpose);
        self.happened(format!("the disks cannot be copied: {text}"));
        match purpose {
            Purpose::Newcomer => self.rejoin_failed(now_ns),
            Purpose::Checkpoint => self.capture_failed(survivor),
        }
    }

    /// Whether a request to pair has to wait for the newcomer's mirrors; it is answered when they are stable.
    pub(super) fn defers_pairing(&mut self, id: ReplicaId, request: ArbiterRequest) -> bool {
        let waits = !self.resync.is_stable();
        if waits {
            self.resync.deferred = Some((id, request));
        }
        waits
    }

    /// The pair is complete: the newcomer's mirrors are as good as the survivor's.
    pub(super) fn mirrors_are_equal(&mut self, newcomer: ReplicaId) {
        if self.resync.is_copying() {
            self.resync.abandon(Purpose::Newcomer);
            if let Err(error) = self.disks.adopt(newcomer) {
                self.happened(format!("a disk cannot be marked: {error}"));
            }
        }
    }

    /// Answers what was asked for before the copy failed.
    pub(super) fn deny_deferred(&mut self, now_ns: u64) {
        if let Some((id, request)) = self.resync.deferred.take() {
            self.arbitrate_pairing(id, request, now_ns);
        }
    }
}
