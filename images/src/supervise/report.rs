//! What the supervisor tells: to the command that waits for the start, to `status`, and about the guest's end.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use protocol::control::{Counter, GuestStopped};
use protocol::{Mode, ReplicaId};

use super::disks::Disks;
use super::replica::Replica;
use super::spec::{ProtocolName, RunName};
use super::storage::Storage;
use super::symbols;
use super::{NS_PER_MS, Outcome, Phase, Supervisor};
use crate::ctl::{GuestStoppedStatus, PairStatus, ReplicaStatus, RoleName, to_line};
use crate::error::{Error, Result};

/// Lines of a log shown when a start fails.
const TAIL_LINES: usize = 12;
/// What was asked to stop is ended after this time.
const END_GRACE_NS: u64 = 700 * NS_PER_MS;

/// Tells the command that started us how it went. It may have gone away.
pub fn tell_starter(outcome: &Outcome) {
    if let Ok(line) = to_line(outcome) {
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    }
}

impl Supervisor {
    /// Goes on from starting to probing to serving, or gives up. Returns whether all is over.
    pub(super) fn advance_phase(&mut self, now_ns: u64) -> Result<bool> {
        match self.phase {
            Phase::Serving => Ok(false),
            Phase::Replayed => Ok(false),
            Phase::Ending { deadline_ns } => {
                if self.all_have_stopped() || now_ns >= deadline_ns {
                    self.finish();
                    return Ok(true);
                }
                Ok(false)
            }
            Phase::Starting | Phase::Probing | Phase::Securing => self.advance_start(now_ns),
        }
    }

    fn advance_start(&mut self, now_ns: u64) -> Result<bool> {
        if let Some(fault) = self.start_fault(now_ns) {
            self.happened(format!("the start has failed: {fault}"));
            self.leave_unused_disks();
            let error = Error::Start(fault);
            self.dir.clear();
            return Err(error);
        }
        if self.phase == Phase::Starting && self.members_run() {
            self.phase = Phase::Probing;
            self.uplink.start_probes();
        }
        if self.phase == Phase::Probing && self.uplink.what_is_missing(self.guest_waits()).is_none() {
            self.phase = Phase::Securing;
        }
        if self.phase == Phase::Securing && self.is_secured() {
            self.phase = Phase::Serving;
            self.start_ms = now_ns / NS_PER_MS;
            self.happened(format!("serving after {} ms", self.start_ms));
            tell_starter(&Outcome::Serving(Box::new(self.status(now_ns))));
            if !self.spec.ends_with_starter {
                self.unwatch_starter();
                detach_stdout();
            }
        }
        Ok(false)
    }

    /// Whether every replica that is left does what it should: the active one runs, and its peer with it.
    fn members_run(&self) -> bool {
        let record = self.arbiter.record();
        let active = self.replicas[record.active.index()].as_ref();
        let passive = self.replicas[record.active.peer().index()].as_ref();
        let runs = active.is_some_and(Replica::is_running);
        match (self.spec.run, record.mode) {
            (RunName::Pair, Mode::Paired) => runs && passive.is_some_and(Replica::is_running),
            _ => runs,
        }
    }

    /// Whether the guest has come to wait for the first time at every replica that counts: that ends its first epoch.
    fn guest_waits(&self) -> bool {
        let epochs =
            |replica: &Replica| replica.status.as_ref().map_or(0, |status| status.counters.get(Counter::Epochs));
        let mut members = self.replicas.iter().flatten().filter(|replica| !replica.superseded);
        members.all(|replica| epochs(replica) > 0)
    }

    /// Why the start cannot succeed any more.
    fn start_fault(&self, now_ns: u64) -> Option<String> {
        if let Some(refusal) = &self.refusal {
            let alone = self.spec.restore.is_some() || self.spec.replay.is_some();
            return Some(match alone {
                true => refusal.clone(),
                false => format!("the two replicas do not match: {refusal}"),
            });
        }
        if let Some(stopped) = self.guest_stopped.as_ref().filter(|_| self.spec.replay.is_none()) {
            return Some(format!("the guest stopped ({} {}):\n{}", stopped.kind, stopped.code, stopped.report));
        }
        if let Some(failure) = self.uplink.failure() {
            return Some(failure);
        }
        if self.replicas.iter().all(Option::is_none) {
            let reasons: Vec<_> =
                self.ended.iter().map(|ended| format!("replica {}: {}", ended.replica, ended.reason)).collect();
            return Some(format!("no virtual machine runs any more: {}{}", reasons.join("; "), self.log_tails()));
        }
        (now_ns >= self.start_deadline_ns()).then(|| {
            format!(
                "after {} ms {}; see {}{}",
                self.spec.tuning.start_timeout_ms,
                self.what_is_missing(),
                self.dir.supervisor_log().display(),
                self.log_tails()
            )
        })
    }

    /// A start takes as long as it may from when it last came on.
    fn start_deadline_ns(&self) -> u64 {
        self.progress_ns + self.spec.tuning.start_timeout_ms * NS_PER_MS
    }

    fn what_is_missing(&self) -> String {
        if self.phase == Phase::Securing {
            let failure = self.storage_status().and_then(|status| status.failure);
            return failure.unwrap_or_else(|| "the first checkpoint is not on the disk".to_owned());
        }
        if let (Phase::Probing, Some(missing)) = (self.phase, self.uplink.what_is_missing(self.guest_waits())) {
            return missing;
        }
        let states: Vec<_> = (self.replicas.iter().flatten())
            .map(|replica| match replica.state_name() {
                "starting" => format!("the shim of replica {} has not said a word", replica.id),
                state => format!("replica {} is still {state}", replica.id),
            })
            .collect();
        states.join(" and ")
    }

    /// The last lines of what QEMU and the shims wrote.
    fn log_tails(&self) -> String {
        let mut out = String::new();
        for replica in 0..self.spec.run.replicas() {
            for path in [self.dir.qemu_log(replica), self.dir.debug_log(replica)] {
                let text = tail(&path, TAIL_LINES);
                if !text.is_empty() {
                    out.push_str(&format!("\n--- end of {}:\n{text}", path.display()));
                }
            }
        }
        out
    }

    /// When [`advance_phase`](Self::advance_phase) has something to do at the latest.
    pub(super) fn phase_due_ns(&self) -> Option<u64> {
        match self.phase {
            Phase::Serving | Phase::Replayed => None,
            Phase::Ending { deadline_ns } => Some(deadline_ns),
            Phase::Starting | Phase::Probing | Phase::Securing => Some(self.start_deadline_ns()),
        }
    }

    /// The command that waits for the start, or wants the pair for itself, has gone away: nobody wants it.
    pub(super) fn starter_left(&mut self, now_ns: u64) {
        if self.starter_waits {
            self.unwatch_starter();
            let when = if self.phase == Phase::Serving { "" } else { " before it served" };
            self.happened(format!("the command that started this pair has gone away{when}"));
            self.begin_end(now_ns);
        }
    }

    /// Asks the shims to stop.
    pub(super) fn begin_end(&mut self, now_ns: u64) {
        let grace_ns = if self.disks.are_none() { END_GRACE_NS } else { super::disks::END_GRACE_NS };
        self.phase = Phase::Ending { deadline_ns: now_ns + grace_ns };
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            self.say(id, &protocol::control::ToShim::Shutdown);
        }
    }

    /// Ends the processes and removes what says that the pair is up.
    fn finish(&mut self) {
        self.replicas = [None, None];
        let logs_disks = self.logs_disks();
        // What was promised is on the disk when the pair is said to be down.
        let log = self.storage.take().map(Storage::finish).filter(|_| logs_disks);
        if let Some(closing) = self.closing.take() {
            let _ = closing.join();
        }
        self.leave_disks(log);
        // Whoever hears that the pair is down may use its disks at once.
        self.resync.end();
        self.disks = Disks::default();
        self.uplink.end();
        self.happened("the pair was taken down".to_owned());
        self.dir.clear();
        self.scribe.finish();
        // Whoever hears that the pair is down may take its name and its ports at once.
        self.lock = None;
        self.requests.farewell();
    }

    /// The guest has ended by itself. Both replicas must say the same.
    pub(super) fn guest_stopped(&mut self, id: ReplicaId, stopped: &GuestStopped<'_>) {
        let report = symbols::annotate(stopped.report, self.symbols.unchanged());
        let told = GuestStoppedStatus {
            kind: stopped.kind.name().to_owned(),
            code: stopped.code,
            epoch: stopped.epoch,
            report,
            replicas: vec![id.get()],
        };
        match &mut self.guest_stopped {
            Some(first) if first.same_end(&told) => {
                first.replicas.push(id.get());
                self.happened(format!("replica {id} reports the same end of the guest"));
            }
            Some(_) => self.happened(format!("replica {id} reports ANOTHER end of the guest:\n{}", told.report)),
            None => {
                let text = format!(
                    "[the guest stopped in epoch {}: {} {}]\n{}",
                    told.epoch,
                    told.kind,
                    told.code,
                    told.report.trim_end()
                );
                self.happened(format!("replica {id}: {text}"));
                self.console.remark(&text);
                self.guest_stopped = Some(told);
            }
        }
    }

    /// What `status` shows.
    pub(super) fn status(&self, now_ns: u64) -> PairStatus {
        let record = self.arbiter.record();
        let order = [record.active, record.active.peer()];
        let replicas = order.iter().filter_map(|id| {
            let replica = self.replicas[id.index()].as_ref()?;
            let role = if *id == record.active { RoleName::Primary } else { RoleName::Backup };
            Some(replica_status(replica, role))
        });
        let mode = if self.spec.run.has_epochs() { record.mode.name() } else { self.spec.run.run_mode().name() };
        PairStatus {
            name: self.spec.name.clone(),
            app: self.spec.app.clone(),
            image_id: self.spec.image_id.clone(),
            generation: record.generation,
            mode: mode.to_owned(),
            epochs: self.spec.epoch.to_string(),
            protocol: match self.spec.protocol {
                ProtocolName::Original => "original",
                ProtocolName::Revised => "revised",
            }
            .to_owned(),
            serving: self.phase == Phase::Serving
                && self.replicas[record.active.index()].is_some()
                && self.uplink.failure().is_none(),
            start_ms: self.start_ms,
            uptime_s: now_ns as f64 / 1e9,
            net: self.uplink.status(),
            publish: self.uplink.published(),
            disks: self.disks.status(),
            replicas: replicas.collect(),
            ended: self.ended.clone(),
            guest_stopped: self.guest_stopped.clone(),
            divergence: self.divergence.clone(),
            rejoin: self.rejoin_status(),
            migration: self.migration_status(),
            checkpoints: self.checkpoint_status(),
            storage: self.storage_status(),
            hub: self.hub_counters(),
            events: self.happenings.iter().cloned().collect(),
            supervisor_pid: rustix::process::getpid().as_raw_nonzero().get(),
        }
    }

    fn hub_counters(&self) -> BTreeMap<String, u64> {
        let wire = &self.wire.counters;
        let named = [
            ("frames_in", wire.frames_in),
            ("batches_in", wire.batches_in),
            ("frames_out", wire.frames_out),
            ("batches_out", wire.batches_out),
            ("duplicates_dropped", wire.duplicates),
            ("frames_out_lost", wire.lost_out),
            ("frames_in_lost", wire.lost_in),
            ("frames_in_resent", wire.resent),
            ("foreign_packets", wire.foreign),
            ("stale_packets", wire.stale),
            ("batches_taken_of_replica_0", wire.taken_of[0]),
            ("batches_taken_of_replica_1", wire.taken_of[1]),
        ];
        let mut counters = named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.uplink.count(&mut counters);
        counters
    }
}

impl GuestStoppedStatus {
    fn same_end(&self, other: &Self) -> bool {
        (&self.kind, self.code, self.epoch, &self.report) == (&other.kind, other.code, other.epoch, &other.report)
    }
}

fn replica_status(replica: &Replica, role: RoleName) -> ReplicaStatus {
    let status = replica.status.as_ref();
    let of = |field: fn(&protocol::control::Status) -> u64| status.map_or(0, field);
    let counters = status.map(|status| status.counters.iter().map(|(name, value)| (name.to_owned(), value)).collect());
    ReplicaStatus {
        role,
        pid: replica.vm.pid(),
        state: replica.state_name().to_owned(),
        epoch: of(|status| status.epoch),
        lag_epochs: of(|status| status.lag_epochs),
        lag_us: of(|status| status.lag_ns / 1000),
        link_rtt_us: of(|status| status.link_rtt_ns / 1000),
        uptime_s: of(|status| status.uptime_ns) as f64 / 1e9,
        replica: replica.id.get(),
        boot_ms: replica.ready.map_or(0.0, |ready| ready.boot_ns as f64 / 1e6),
        counters: counters.unwrap_or_default(),
    }
}

/// The last lines of a text file; empty when it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Lets go of the pipe to the command that started us, so that whoever reads it sees its end.
fn detach_stdout() {
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        // Kept open, the pipe would only delay its reader.
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
