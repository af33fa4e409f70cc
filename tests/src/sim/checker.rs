//! The judges of a run. Each looks at what the replicas did, never at what they say of themselves.

use std::collections::BTreeMap;

use protocol::arbiter::ArbiterRecord;
use protocol::{Epoch, Generation, Mode, ReplicaId};

/// A judgement; the text says what was expected and what came.
pub type Verdict = Result<(), String>;

/// Remembers what a run must be consistent with.
#[derive(Debug)]
pub struct Checker {
    /// Who was active in each generation.
    active: BTreeMap<Generation, ReplicaId>,
    /// The digest of each epoch of the one history.
    history: BTreeMap<Epoch, u64>,
    /// The replica whose epochs are no part of the history any more.
    abandoned: Option<ReplicaId>,
    /// The replica whose guest was tampered with.
    tainted: Option<ReplicaId>,
    /// The last epoch that each replica was told to run.
    running: [Epoch; 2],
}

impl Checker {
    /// A judge of a new pair.
    #[must_use]
    pub fn new(record: ArbiterRecord) -> Self {
        Self {
            active: BTreeMap::from([(record.generation, record.active)]),
            history: BTreeMap::new(),
            abandoned: None,
            tainted: None,
            running: [0; 2],
        }
    }

    /// From here on this replica's guest may differ.
    pub fn taint(&mut self, replica: ReplicaId) {
        self.tainted = Some(replica);
    }

    /// Which replica's guest was tampered with.
    #[must_use]
    pub const fn tainted(&self) -> Option<ReplicaId> {
        self.tainted
    }

    /// Epochs are run one after the other.
    pub fn runs(&mut self, replica: ReplicaId, epoch: Epoch) -> Verdict {
        let before = std::mem::replace(&mut self.running[replica.index()], epoch);
        if epoch == before + 1 {
            Ok(())
        } else {
            Err(format!("replica {replica} runs epoch {epoch} after epoch {before}"))
        }
    }

    /// Guest states are equal epoch by epoch, as long as both replicas live the same history.
    pub fn ended(&mut self, replica: ReplicaId, epoch: Epoch, digest: u64) -> Verdict {
        if self.tainted.is_some() || self.abandoned == Some(replica) {
            return Ok(());
        }
        match *self.history.entry(epoch).or_insert(digest) {
            known if known == digest => Ok(()),
            known => Err(format!(
                "epoch {epoch} ended with digest {digest:016x} at replica {replica}, with {known:016x} at its peer"
            )),
        }
    }

    /// Exactly one replica is active in each generation, and it is the one that the arbiter named.
    pub fn became_active(&mut self, replica: ReplicaId, generation: Generation, record: ArbiterRecord) -> Verdict {
        if record != (ArbiterRecord { generation, active: replica, mode: Mode::Solo }) {
            return Err(format!("replica {replica} is active in generation {generation}, the arbiter says {record:?}"));
        }
        match *self.active.entry(generation).or_insert(replica) {
            known if known == replica => Ok(()),
            known => Err(format!("replicas {known} and {replica} are both active in generation {generation}")),
        }
    }

    /// The record was paired: the active replica is the same.
    pub fn paired(&mut self, record: ArbiterRecord) {
        self.active.insert(record.generation, record.active);
    }

    /// A new replica takes this number's place in the one history, after this epoch.
    pub fn goes_on(&mut self, replica: ReplicaId, epoch: Epoch) {
        self.running[replica.index()] = epoch;
        if self.abandoned == Some(replica) {
            self.abandoned = None;
        }
    }

    /// A promoted replica goes on from the end of its log: what its peer did after that is no history.
    pub fn promoted(&mut self, replica: ReplicaId, first_own_epoch: Epoch) -> Verdict {
        drop(self.history.split_off(&first_own_epoch));
        self.abandoned = Some(replica.peer());
        if self.running[replica.index()] + 1 == first_own_epoch {
            Ok(())
        } else {
            let last = self.running[replica.index()];
            Err(format!("replica {replica} is promoted to epoch {first_own_epoch} but has run epochs up to {last}"))
        }
    }

    /// Output commit: an output leaves only when the peer holds what it depends on, or the arbiter has made this
    /// replica the only one.
    pub fn releases(
        replica: ReplicaId,
        epoch: Epoch,
        held_by_peer: Epoch,
        claims_solo: Option<Generation>,
        record: ArbiterRecord,
    ) -> Verdict {
        match claims_solo {
            Some(generation) if record == (ArbiterRecord { generation, active: replica, mode: Mode::Solo }) => Ok(()),
            Some(generation) => Err(format!(
                "replica {replica} releases epoch {epoch} as solo in generation {generation}, the arbiter says {record:?}"
            )),
            None if epoch <= held_by_peer => Ok(()),
            None => Err(format!(
                "replica {replica} releases an output of epoch {epoch}, its peer holds the log up to {held_by_peer}"
            )),
        }
    }

    /// The bound on the lag: the primary begins an epoch only when the backup has truly run all that began longer ago.
    pub fn begins(epoch: Epoch, lag: Option<(Epoch, u64)>, max_lag_ns: u64, max_outstanding_epochs: u32) -> Verdict {
        let Some((oldest, age_ns)) = lag else { return Ok(()) };
        if age_ns > max_lag_ns {
            return Err(format!(
                "epoch {epoch} begins while the backup lacks epoch {oldest} for {age_ns} ns, allowed are {max_lag_ns}"
            ));
        }
        if epoch - oldest >= u64::from(max_outstanding_epochs) {
            return Err(format!(
                "epoch {epoch} begins while the backup lacks epoch {oldest}, allowed are fewer than {max_outstanding_epochs} epochs"
            ));
        }
        Ok(())
    }

    /// The client saw a beginning of the one history's outputs, in order, each once.
    pub fn client_saw(seen: &[Vec<u8>], history: &[(Epoch, Vec<u8>)]) -> Verdict {
        if seen.len() > history.len() {
            return Err(format!(
                "the client saw {} outputs, the history has {}: something was told and then forgotten",
                seen.len(),
                history.len()
            ));
        }
        match seen.iter().zip(history).position(|(seen, (_, output))| seen != output) {
            None => Ok(()),
            Some(number) => Err(format!(
                "the client saw another output {number} than the history has in epoch {}",
                history[number].0
            )),
        }
    }
}
