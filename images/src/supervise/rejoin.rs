//! Bringing in a new replica for one that has gone.
//!
//! The new QEMU gets the dead one's end of the link's socket, of which the supervisor holds a copy: the survivor's QEMU
//! notices nothing. What the dead one has left in the socket must not be taken for the newcomer's words, so the survivor
//! is told only when its QEMU has read all of it; and what the survivor had sent for the dead one is thrown away when
//! the survivor has said that nothing more of it will come.

use std::io::Read;

use protocol::control::{ArbiterReply, ArbiterRequest, Copied, ToShim};
use protocol::{Mode, ReplicaId};
use rustix::process::Signal;

use super::replica::Replica;
use super::resync::{Purpose, Standing};
use super::spec::{RejoinName, RunName};
use super::{NS_PER_MS, Phase, Supervisor};
use crate::ctl::{CopyStatus, RejoinStatus};

/// The survivor's socket is looked at this often until it is empty.
const DRAIN_INTERVAL_NS: u64 = NS_PER_MS;
/// A newcomer that has failed, or a member that was lost soon after it was brought in, is not followed by another one at
/// once. The time doubles with each further one.
const RETRY_NS: u64 = 1_000 * NS_PER_MS;
/// Up to this.
const MAX_RETRY_NS: u64 = 60_000 * NS_PER_MS;
/// A survivor that is told of a failure gives up within this time.
const GIVE_UP_NS: u64 = 1_000 * NS_PER_MS;
/// A member that was there for so long was brought in well.
const STEADY_NS: u64 = 10_000 * NS_PER_MS;
/// More make no difference.
const MAX_SETBACKS: u32 = 6;
/// A newcomer that is not a member of the pair after this time is given up. Copying takes a second for 64 MiB.
const TIMEOUT_NS: u64 = 60_000 * NS_PER_MS;

/// How far the bringing in of a new replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is done.
    Idle,
    /// The old replica's process and what it has left in the link must go first, and mirrors must be nearly equal.
    Clearing,
    /// The survivor was told, and has not answered.
    Told,
    /// The new replica boots, or is brought to the survivor's state.
    Joining,
}

/// What the supervisor knows of it.
#[derive(Debug)]
pub struct Rejoin {
    stage: Stage,
    /// It shall be done.
    wanted: bool,
    /// Not before.
    not_before_ns: u64,
    started_ns: u64,
    /// When the survivor was told.
    told_ns: u64,
    link_session: u64,
    /// How many replicas were brought in.
    joined: u64,
    /// How many have failed before they were.
    failed: u64,
    /// How many in a row have failed, or were lost soon afterwards.
    setbacks: u32,
    /// The survivor has yet to say that it has given up an attempt that failed here; what it says until then is not about the
    /// next one. It does so at once, or not at all.
    gives_up_until_ns: u64,
    /// The survivor was told to go on in its peer's place and has yet to say that it does: it runs what is left of the log first, and
    /// takes nobody in before.
    promotion_of: Option<ReplicaId>,
    /// When the newest became a member, as long as that is not judged.
    joined_ns: Option<u64>,
    copy: Option<CopyStatus>,
    protected_ms: f64,
}

impl Rejoin {
    /// Nothing is done; with `wanted`, a replica is brought in as soon as the pair serves.
    pub fn new(session: u64, wanted: bool) -> Self {
        Self {
            stage: Stage::Idle,
            wanted,
            not_before_ns: 0,
            started_ns: 0,
            told_ns: 0,
            link_session: session,
            joined: 0,
            failed: 0,
            setbacks: 0,
            gives_up_until_ns: 0,
            promotion_of: None,
            joined_ns: None,
            copy: None,
            protected_ms: 0.0,
        }
    }

    /// A new replica has failed: how long none is brought in unasked.
    fn back_off(&mut self, now_ns: u64) -> u64 {
        let wait_ns = RETRY_NS.checked_shl(self.setbacks).unwrap_or(u64::MAX).min(MAX_RETRY_NS);
        self.setbacks = (self.setbacks + 1).min(MAX_SETBACKS);
        self.not_before_ns = now_ns + wait_ns;
        wait_ns
    }

    /// A replica is missing. One that was brought in a moment ago and is lost already is a setback.
    fn judge_newest(&mut self, now_ns: u64) {
        match self.joined_ns.take() {
            Some(joined_ns) if now_ns < joined_ns + STEADY_NS => _ = self.back_off(now_ns),
            Some(_) => self.setbacks = 0,
            None => {}
        }
    }

    /// The session of the link.
    pub fn link_session(&self) -> u64 {
        self.link_session
    }

    /// Whether a replica that starts now is a newcomer.
    pub fn is_joining(&self) -> bool {
        self.stage == Stage::Joining
    }
}

impl Supervisor {
    /// Whether nothing is done.
    pub(super) fn rejoin_is_idle(&self) -> bool {
        self.rejoin.stage == Stage::Idle
    }

    /// How many replicas were brought in, and how many have failed before they were.
    pub(super) fn rejoin_counts(&self) -> (u64, u64) {
        (self.rejoin.joined, self.rejoin.failed)
    }

    /// One is brought in as soon as that can be done.
    pub(super) fn want_rejoin(&mut self) {
        self.rejoin.wanted = true;
    }

    /// Somebody asks for a new replica. One that comes already is the one.
    pub(super) fn rejoin_on_request(&mut self) -> Result<(), String> {
        self.rejoin_obstacle().map_or(Ok(()), |obstacle| Err(obstacle.to_owned()))?;
        self.rejoin.wanted = true;
        Ok(())
    }

    /// Why no replica can be brought in.
    fn rejoin_obstacle(&self) -> Option<&'static str> {
        let active = self.arbiter.record().active;
        let reason = if self.spec.run != RunName::Pair {
            "this was not started as a pair"
        } else if self.arbiter.record().mode == Mode::Paired {
            "the pair is complete"
        } else if self.link_cut {
            "the replication link was cut: it can be mended only by a new start of the pair"
        } else if self.guest_stopped.is_some() {
            "the guest has stopped"
        } else if !matches!(self.phase, Phase::Serving) {
            "the pair does not serve"
        } else if self.replicas[active.index()].as_ref().is_none_or(|replica| replica.ending) {
            "no replica is left"
        } else {
            return None;
        };
        Some(reason)
    }

    /// The primary shall hand over to its backup; then a new backup is brought in.
    pub(super) fn switch_over(&mut self) -> Result<(), String> {
        let record = self.arbiter.record();
        let backup = self.replicas[record.active.peer().index()].as_ref();
        if record.mode != Mode::Paired || backup.is_none_or(|replica| replica.ending) {
            return Err("there is no backup to hand over to: `cargo pollux rejoin` brings one in".to_owned());
        }
        self.happened(format!("replica {} is told to hand over, on request", record.active));
        self.rejoin.wanted = true;
        self.say(record.active, &ToShim::HandOver);
        Ok(())
    }

    /// Does what can be done now. Returns when to call again.
    pub(super) fn look_after_rejoin(&mut self, now_ns: u64) -> Option<u64> {
        let wanted = self.rejoin.wanted || self.spec.rejoin == RejoinName::Auto;
        match self.rejoin.stage {
            Stage::Idle if !wanted || self.rejoin_obstacle().is_some() || self.rejoin.promotion_of.is_some() => None,
            Stage::Idle => {
                self.rejoin.judge_newest(now_ns);
                // Whoever asks for one gets it.
                let unasked_ns = if self.rejoin.wanted { 0 } else { self.rejoin.not_before_ns };
                let not_before_ns = unasked_ns.max(self.rejoin.gives_up_until_ns);
                if now_ns < not_before_ns {
                    return Some(not_before_ns);
                }
                self.rejoin.stage = Stage::Clearing;
                self.rejoin.started_ns = now_ns;
                self.clear_the_way(now_ns)
            }
            Stage::Clearing => self.clear_the_way(now_ns),
            Stage::Told | Stage::Joining => {
                let due_ns = self.rejoin.told_ns + TIMEOUT_NS;
                if now_ns >= due_ns {
                    self.happened(format!("a new replica was not brought in within {} s", TIMEOUT_NS / 1_000_000_000));
                    self.rejoin_failed(now_ns);
                }
                Some(due_ns)
            }
        }
    }

    /// Ends what is left of the old replica; when nothing is, the survivor is told to expect a newcomer.
    fn clear_the_way(&mut self, now_ns: u64) -> Option<u64> {
        if self.rejoin_obstacle().is_some() {
            self.rejoin.stage = Stage::Idle;
            self.resync.abandon(Purpose::Newcomer);
            return None;
        }
        let survivor = self.arbiter.record().active;
        if let Some(old) = &mut self.replicas[survivor.peer().index()] {
            // One that came apart from its peer shows its memory first, for as long as it may.
            let shows = self.spec.check_determinism && old.superseded && old.stopped.is_none() && !old.is_frozen();
            if let Some(at_ns) = old.kill_at_ns.filter(|_| shows) {
                return Some(at_ns);
            }
            // Frozen or slow, it has no say any more, and of two newcomers only one may be able to ask for anything.
            if !old.ending {
                old.ending = true;
                let _ = old.vm.signal(Signal::KILL);
            }
            // Its end wakes the loop.
            return None;
        }
        match self.copy_mirrors(survivor, now_ns) {
            Ok(Standing::Close) => {}
            Ok(Standing::Busy(due_ns)) => return due_ns,
            Err(text) => {
                self.happened(format!("the disks cannot be copied: {text}"));
                self.rejoin_failed(now_ns);
                return None;
            }
        }
        let unread = self.link.as_ref().map(|ends| rustix::io::ioctl_fionread(&ends[survivor.index()]));
        match unread {
            Some(Ok(0)) => {
                self.rejoin.stage = Stage::Told;
                self.rejoin.told_ns = now_ns;
                self.rejoin.link_session = self.rejoin.link_session.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
                self.say(survivor, &ToShim::PeerJoins { link_session: self.rejoin.link_session });
                None
            }
            Some(Ok(_)) => Some(now_ns + DRAIN_INTERVAL_NS),
            _ => {
                self.link_cut = true;
                self.rejoin.stage = Stage::Idle;
                self.resync.abandon(Purpose::Newcomer);
                None
            }
        }
    }

    /// Nothing of the survivor's old words is on its way any more: the new replica starts.
    pub(super) fn link_is_fresh(&mut self, id: ReplicaId, link_session: u64, now_ns: u64) {
        let record = self.arbiter.record();
        let expected = self.rejoin.stage == Stage::Told && link_session == self.rejoin.link_session;
        if !expected || id != record.active || self.replicas[id.peer().index()].is_some() {
            return;
        }
        let newcomer = id.peer();
        let started = self.take_link(newcomer).and_then(|link| {
            let (locks, registry) = (self.disks.locks(), self.poll.registry());
            let started = Replica::start(newcomer, &self.spec, &self.dir, Some(link), locks, registry);
            started.map_err(|error| error.to_string())
        });
        match started {
            Ok(replica) => {
                self.happened(format!(
                    "for its predecessor, replica {newcomer} started as process {}",
                    replica.vm.pid()
                ));
                self.replicas[newcomer.index()] = Some(replica);
                self.rejoin.stage = Stage::Joining;
            }
            Err(text) => {
                self.happened(format!("no new replica can be started: {text}"));
                self.rejoin_failed(now_ns);
            }
        }
    }

    /// The newcomer's end of the link, without what was sent to its predecessor.
    fn take_link(&mut self, newcomer: ReplicaId) -> Result<std::os::unix::net::UnixStream, String> {
        let ends = self.link.as_mut().ok_or("there is no replication link")?;
        let end = &mut ends[newcomer.index()];
        let mut bytes = [0; 16 * 1024];
        while rustix::io::ioctl_fionread(&*end).map_err(|error| error.to_string())? > 0 {
            end.read(&mut bytes).map_err(|error| error.to_string())?;
        }
        end.try_clone().map_err(|error| error.to_string())
    }

    /// The active replica asks to be paired with the newcomer.
    pub(super) fn arbitrate_pairing(&mut self, id: ReplicaId, request: ArbiterRequest, now_ns: u64) {
        if self.rejoin.stage == Stage::Joining && self.defers_pairing(id, request) {
            return;
        }
        // A record is not paired with a replica that is known to be gone, or that was denied something and so will stop.
        let newcomer = self.replicas[id.peer().index()].as_ref().is_some_and(|newcomer| {
            let denied = newcomer.asked.is_some_and(|grant| !grant.granted);
            !newcomer.ending && newcomer.stopped.is_none() && !denied && self.rejoin.stage == Stage::Joining
        });
        let before = self.arbiter.record();
        let grant = self.arbiter.ask_pairing(request.expect_generation, id, newcomer);
        if grant.granted && grant.record != before {
            self.wire.switch(grant.record.generation, grant.record.active);
            self.mirrors_are_equal(id.peer());
            self.rejoin.stage = Stage::Idle;
            self.rejoin.wanted = false;
            self.rejoin.joined += 1;
            self.rejoin.joined_ns = Some(now_ns);
            self.rejoin.protected_ms = (now_ns - self.rejoin.started_ns) as f64 / 1e6;
            self.happened(format!(
                "arbiter: replica {id} is paired with replica {} (generation {}), after {:.1} ms",
                id.peer(),
                grant.record.generation,
                self.rejoin.protected_ms
            ));
        }
        self.say(id, &ToShim::ArbiterReply(ArbiterReply::new(request.request_id, grant)));
    }

    /// The newcomer has failed before it was a member of the pair.
    pub(super) fn join_failed(&mut self, id: ReplicaId, now_ns: u64) {
        self.rejoin.gives_up_until_ns = 0;
        if matches!(self.rejoin.stage, Stage::Told | Stage::Joining) && id == self.arbiter.record().active {
            self.give_up(now_ns);
        }
    }

    /// What was begun cannot be done: the survivor is told.
    pub(super) fn rejoin_failed(&mut self, now_ns: u64) {
        let (stage, survivor) = (self.rejoin.stage, self.arbiter.record().active);
        self.give_up(now_ns);
        if !matches!(stage, Stage::Told | Stage::Joining) {
            return;
        }
        self.rejoin.gives_up_until_ns = now_ns + GIVE_UP_NS;
        if self.replicas[survivor.peer().index()].is_none() {
            // It waits for one that was never started. Otherwise it hears of the end of the other one.
            self.say(survivor, &ToShim::PeerDead);
        }
    }

    fn give_up(&mut self, now_ns: u64) {
        if self.rejoin.stage == Stage::Idle {
            return;
        }
        let was_told = self.rejoin.stage != Stage::Clearing;
        self.rejoin.stage = Stage::Idle;
        self.rejoin.wanted = false;
        self.rejoin.failed += 1;
        let wait_ns = self.rejoin.back_off(now_ns);
        self.resync.abandon(Purpose::Newcomer);
        let survivor = self.arbiter.record().active;
        if was_told {
            if let Some(newcomer) = &mut self.replicas[survivor.peer().index()] {
                newcomer.kill_at_ns = Some(now_ns);
            }
            self.deny_deferred(now_ns);
        }
        let next = match self.spec.rejoin {
            RejoinName::Auto => format!("; the next one is started in {} s", wait_ns / 1_000_000_000),
            RejoinName::Manual => String::new(),
        };
        self.happened(format!("no new replica was brought in{next}"));
    }

    /// A replica was granted its peer's place.
    pub(super) fn await_promotion(&mut self, id: ReplicaId) {
        self.rejoin.promotion_of = Some(id);
    }

    /// It has taken it, or is gone.
    pub(super) fn promotion_is_over(&mut self, id: ReplicaId) {
        self.rejoin.promotion_of.take_if(|awaited| *awaited == id);
    }

    /// A replica has gone: with the survivor goes what it was doing for a newcomer.
    pub(super) fn rejoin_lost(&mut self, id: ReplicaId) {
        self.promotion_is_over(id);
        if self.rejoin.stage != Stage::Idle && self.arbiter.record().active == id {
            self.rejoin.stage = Stage::Idle;
            self.rejoin.wanted = false;
            self.resync.abandon(Purpose::Newcomer);
        }
    }

    pub(super) fn note_copied(&mut self, copied: Copied) {
        self.happened(format!(
            "the guest was copied in {:.1} ms: {} pages in {} rounds, {} of them zero; it waited {:.2} ms for the last {}",
            copied.took_ns as f64 / 1e6,
            copied.pages + copied.zero_pages,
            copied.rounds,
            copied.zero_pages,
            copied.pause_ns as f64 / 1e6,
            copied.last_pages
        ));
        let copy = CopyStatus {
            pages: copied.pages,
            zero_pages: copied.zero_pages,
            last_pages: copied.last_pages,
            rounds: copied.rounds,
            pause_us: copied.pause_ns as f64 / 1e3,
            took_ms: copied.took_ns as f64 / 1e6,
        };
        if self.rejoin.stage == Stage::Joining {
            self.rejoin.copy = Some(copy);
        } else {
            self.checkpoints.copy = Some(copy);
        }
    }

    /// What `status` shows of it.
    pub(super) fn rejoin_status(&self) -> RejoinStatus {
        RejoinStatus {
            policy: self.spec.rejoin,
            state: match self.rejoin.stage {
                Stage::Idle => "idle",
                Stage::Clearing if self.resync.is_copying() => "copying disks",
                Stage::Clearing | Stage::Told => "preparing",
                Stage::Joining => "joining",
            }
            .to_owned(),
            joined: self.rejoin.joined,
            failed: self.rejoin.failed,
            protected_ms: self.rejoin.protected_ms,
            copy: self.rejoin.copy.clone(),
            disks: self.resync.status(),
        }
    }
}
