//! The arbiter: one record a pair that says who is active, changed only by compare-and-set.
//!
//! Two nodes cannot elect by timeout. Whoever loses its peer asks to move the record from generation g to g+1 with
//! itself active and solo; one of the two requests finds the expected generation and wins, the other one does not
//! and its sender stops. The functions here are the whole decision; where the record is kept (a file of the
//! supervisor, etcd) is the caller's part. Before it answers, a change must be kept so that it outlives whatever a
//! replica can outlive.

use core::fmt;

use crate::{Generation, Mode, ReplicaId};

/// The record of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArbiterRecord {
    /// Grows by one with each change.
    pub generation: Generation,
    /// The one replica that may release outputs which its peer has not acknowledged.
    pub active: ReplicaId,
    /// Whether the active replica has a peer.
    pub mode: Mode,
}

/// The arbiter's answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The proposer is the active solo replica of `record`.
    pub granted: bool,
    /// The record after the request.
    pub record: ArbiterRecord,
}

/// Why a change of mode was refused; the record is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransitionError {
    /// The record has moved on.
    WrongGeneration {
        /// What the request named.
        expected: Generation,
        /// What the record holds.
        found: Generation,
    },
    /// Only the active replica may take in a peer.
    NotActive {
        /// Who asked.
        proposer: ReplicaId,
        /// Who is active.
        active: ReplicaId,
    },
    /// The pair is not solo: there is nobody to take in.
    NotSolo,
}

impl fmt::Display for TransitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongGeneration { expected, found } => write!(
                f,
                "the request expects generation {expected}, but the arbiter's record is at {found}: read it again"
            ),
            Self::NotActive { proposer, active } => write!(
                f,
                "replica {proposer} asked to pair, but replica {active} is active: only the active one takes in a peer"
            ),
            Self::NotSolo => f.write_str("the pair is already paired: no replica can be taken in"),
        }
    }
}

impl core::error::Error for TransitionError {}

impl ArbiterRecord {
    /// The record of a new pair: generation 1, paired, `active` is the primary.
    pub const fn new_pair(active: ReplicaId) -> Self {
        Self { generation: 1, active, mode: Mode::Paired }
    }

    /// The record of a replica that starts without a peer.
    pub const fn new_solo(active: ReplicaId) -> Self {
        Self { generation: 1, active, mode: Mode::Solo }
    }

    /// `proposer` asks to become the active solo replica in the generation after `expect_generation`.
    ///
    /// Granted if the record is paired and at the expected generation. The winner's request, repeated or delivered
    /// again, is granted again without a change, so that a lost answer costs nothing; the loser's never is, because
    /// the record is solo from then on.
    pub fn compare_and_set(&mut self, expect_generation: Generation, proposer: ReplicaId) -> Grant {
        if self.mode == Mode::Paired && self.generation == expect_generation {
            self.generation += 1;
            self.active = proposer;
            self.mode = Mode::Solo;
        }
        Grant {
            granted: self.mode == Mode::Solo
                && self.active == proposer
                && self.generation.checked_sub(1) == Some(expect_generation),
            record: *self,
        }
    }

    /// [`Self::pair`] as a request that may be repeated: the winner's request, delivered again, is granted again without a
    /// change, so that a lost answer costs nothing. Granted means that the record is paired, with the proposer active, in
    /// the generation after the expected one.
    ///
    /// The caller makes certain that of several newcomers that a replica has taken in one after the other only the last
    /// one can still ask for anything: an earlier one could hold less than it believes.
    pub fn pair_request(&mut self, expect_generation: Generation, proposer: ReplicaId) -> Grant {
        // A refusal leaves the record as it was, and the grant below says so.
        let _ = self.pair(expect_generation, proposer);
        Grant {
            granted: self.mode == Mode::Paired
                && self.active == proposer
                && self.generation.checked_sub(1) == Some(expect_generation),
            record: *self,
        }
    }

    /// The active solo replica `proposer` has brought a new backup up to date and asks to be paired with it in the
    /// generation after `expect_generation`; from then on its outputs wait for acknowledgements.
    pub fn pair(&mut self, expect_generation: Generation, proposer: ReplicaId) -> Result<Self, TransitionError> {
        if self.generation != expect_generation {
            return Err(TransitionError::WrongGeneration { expected: expect_generation, found: self.generation });
        }
        if self.active != proposer {
            return Err(TransitionError::NotActive { proposer, active: self.active });
        }
        if self.mode != Mode::Solo {
            return Err(TransitionError::NotSolo);
        }
        self.generation += 1;
        self.mode = Mode::Paired;
        Ok(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId::ZERO;
    const B: ReplicaId = ReplicaId::ONE;

    #[test]
    fn exactly_one_of_two_racing_requests_wins() {
        for (first, second) in [(A, B), (B, A)] {
            let mut record = ArbiterRecord::new_pair(A);
            let won = record.compare_and_set(1, first);
            let lost = record.compare_and_set(1, second);
            assert!(won.granted && !lost.granted);
            assert_eq!(lost.record, won.record);
            assert_eq!(record.active, first);
            assert_eq!(record.generation, 2);
            assert_eq!(record.mode, Mode::Solo);
        }
    }

    #[test]
    fn repeated_and_late_requests_change_nothing() {
        let mut record = ArbiterRecord::new_pair(A);
        assert!(record.compare_and_set(1, B).granted);
        assert!(record.compare_and_set(1, B).granted);
        assert!(!record.compare_and_set(2, A).granted);
        assert!(!record.compare_and_set(2, B).granted);
        assert!(!record.compare_and_set(0, B).granted);
        assert_eq!(record.generation, 2);
    }

    #[test]
    fn a_solo_record_is_paired_only_by_the_active_replica_and_then_raced_for_again() {
        let mut record = ArbiterRecord::new_pair(A);
        assert_eq!(record.pair(1, A), Err(TransitionError::NotSolo));
        record.compare_and_set(1, B);
        assert_eq!(record.pair(2, A), Err(TransitionError::NotActive { proposer: A, active: B }));
        assert_eq!(record.pair(1, B), Err(TransitionError::WrongGeneration { expected: 1, found: 2 }));
        assert_eq!(record.pair(2, B).map(|r| r.generation), Ok(3));
        // The request that had won generation 2 is stale now: it must not be granted again.
        assert!(!record.compare_and_set(1, B).granted);
        assert!(record.compare_and_set(3, A).granted);
        assert_eq!(record.active, A);
    }

    #[test]
    fn a_repeated_request_to_pair_is_granted_again_and_a_late_one_is_not() {
        let mut record = ArbiterRecord { generation: 2, active: B, mode: Mode::Solo };
        assert!(!record.pair_request(2, A).granted);
        assert!(!record.pair_request(1, B).granted);
        assert!(record.pair_request(2, B).granted);
        assert!(record.pair_request(2, B).granted, "the answer may have been lost");
        assert_eq!(record.generation, 3);
        // The newcomer has taken over since.
        assert!(record.compare_and_set(3, A).granted);
        assert!(!record.pair_request(2, B).granted);
        assert_eq!(record, ArbiterRecord { generation: 4, active: A, mode: Mode::Solo });
    }

    #[test]
    fn a_newcomer_that_asks_before_the_record_is_paired_is_denied() {
        let mut record = ArbiterRecord { generation: 2, active: A, mode: Mode::Solo };
        // It expects the generation that the pairing would make.
        assert!(!record.compare_and_set(3, B).granted);
        assert!(record.pair_request(2, A).granted);
        assert!(record.compare_and_set(3, B).granted);
    }

    #[test]
    fn the_last_generation_does_not_wrap_into_a_grant() {
        let mut record = ArbiterRecord { generation: 0, active: A, mode: Mode::Solo };
        assert!(!record.compare_and_set(u64::MAX, A).granted);
    }
}
