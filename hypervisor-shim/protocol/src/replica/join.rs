//! Taking in a newcomer: a solo primary brings a fresh backup to its own state without stopping.
//!
//! 1. The primary is told that a newcomer is there ([`super::Input::PeerJoins`]). They greet each other as a new pair does.
//! 2. The caller copies all pages while the guest runs, and what is written meanwhile again; the newcomer only keeps
//!    them. Nothing of the protocol changes: the primary is solo, and so is the arbiter's record.
//! 3. At a boundary, behind the last pages, the caller sends the state and calls [`Replica::state_sent`]. From here on
//!    the primary behaves as in a pair: outputs wait for acknowledgements, the log goes to the newcomer. The guest waits
//!    until the newcomer has said that it holds the state. Disks stand still meanwhile, and mirrors are equal; requests to
//!    them that were not begun are uncertain (P7) at the start of the next epoch.
//! 4. When it has, and all outputs up to the state have left for certain, the primary asks the arbiter to pair the
//!    record. That is the moment of commitment. Everything that a client has been told by then, or will be told from
//!    then on, follows from what the newcomer holds; so it does not matter when either of them hears of the answer.
//! 5. The newcomer is told. Until then it may ask for the generation after the one that the pairing would make: the
//!    arbiter grants that only if the record was paired, and otherwise the newcomer stops.
//!
//! A newcomer that fails before the arbiter was asked leaves no trace. One that fails afterwards is a backup that has
//! failed: the answer is awaited, because the record may be paired, and then the arbiter is asked to go on alone.

use super::failover::Request;
use super::{Command, Commands, Guest, JoinPhase, Outgoing, Peer, ProtocolFault, Record, Replica, StopReason};
use crate::arbiter::ArbiterRecord;
use crate::event::Uncertain;
use crate::link::JoinState;
use crate::{Epoch, Generation, Mode, Role};

/// How far the taking in of a newcomer is: at the primary, and at the newcomer itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Join {
    /// There is no newcomer, and this is none.
    None,
    /// Primary: the peers have not agreed yet.
    Greeting,
    /// Primary: pages are on their way.
    Copying,
    /// Primary: the state of the end of `epoch` was sent; `held`: the newcomer has said that it has it.
    Settling { epoch: Epoch, held: bool },
    /// Primary: the arbiter was asked to pair the record; `lost`: the newcomer has failed since.
    Asking { request: Request, lost: bool },
    /// Newcomer: the state has not come.
    Empty,
    /// Newcomer: it holds the state; whether the record is paired is not known here.
    Tentative,
}

impl Replica {
    /// How far the taking in of a newcomer is.
    pub fn join_phase(&self) -> JoinPhase {
        match self.join {
            Join::None => JoinPhase::None,
            Join::Greeting => JoinPhase::Greeting,
            Join::Copying => JoinPhase::Copying,
            Join::Settling { .. } | Join::Asking { .. } | Join::Tentative => JoinPhase::Settling,
            Join::Empty => JoinPhase::Empty,
        }
    }

    /// Whether this is a primary whose newcomer can still be given up without a trace.
    pub(super) fn has_newcomer(&self) -> bool {
        matches!(self.join, Join::Greeting | Join::Copying | Join::Settling { .. })
    }

    /// Whether the newcomer has not said that it holds the state: nothing may be added to what is outstanding.
    pub(super) fn awaits_newcomer(&self) -> bool {
        matches!(self.join, Join::Settling { held: false, .. })
    }

    pub(super) fn on_peer_joins(&mut self, now_ns: u64) {
        if self.role != Role::Primary || self.mode != Mode::Solo || self.guest == Guest::Stopped {
            return;
        }
        self.peer = Peer::new(true);
        self.timers.heard(now_ns);
        self.join = Join::Greeting;
    }

    /// Whether the state of the guest may be sent now: the newcomer waits for it, and the guest stands at a boundary.
    pub fn may_send_state(&self) -> bool {
        self.stopped.is_none()
            && self.join == Join::Copying
            && self.guest == Guest::AtBoundary
            && self.ended_through > 0
    }

    /// What the newcomer must know beside the state of the guest, `state`, to go on from here: to be sent as
    /// [`crate::link::Message::State`] before [`Self::state_sent`] is called.
    #[must_use]
    pub fn join_state<'a>(&self, state: &'a [u8]) -> JoinState<'a> {
        JoinState {
            epoch: self.ended_through,
            digest: self.last_digest,
            clocks: self.record.clocks,
            released_through: self.release_claim(),
            state,
        }
    }

    /// A solo primary that has run nothing takes up the state of a checkpoint, which the caller has put in place. Whatever
    /// was outstanding then may or may not have been done; the drivers repeat it (P7).
    ///
    /// # Errors
    /// The state itself, if this is no such replica, or if it is that of no epoch.
    pub fn resume<'a>(&mut self, state: &JoinState<'a>) -> Result<(), JoinState<'a>> {
        let fresh = self.role == Role::Primary && self.mode == Mode::Solo && self.record.epoch == 0;
        if !fresh || self.stopped.is_some() || state.epoch == 0 {
            return Err(*state);
        }
        self.record = Record { epoch: state.epoch, clocks: state.clocks, ..Record::default() };
        self.last_digest = state.digest;
        self.holds_all_through(state.epoch);
        self.active.uncertain_due = Some(Uncertain::EVERYTHING);
        Ok(())
    }

    /// The state was sent: from here on the log goes to the newcomer, and outputs wait for it.
    ///
    /// # Panics
    /// If [`Self::may_send_state`] did not say so in this state: an error of the caller.
    pub fn state_sent(&mut self, now_ns: u64) {
        assert!(self.may_send_state(), "a state was sent that nobody waits for");
        let epoch = self.ended_through;
        self.join = Join::Settling { epoch, held: false };
        self.mode = Mode::Paired;
        self.active.window.clear();
        self.active.received_through = epoch;
        self.active.executed_through = epoch;
        self.active.disks_done_below = 0;
        // What the guest has asked of its disks and nobody has begun, neither of the two will begin.
        self.active.uncertain_due = Some(Uncertain::EVERYTHING);
        self.active.divergence = None;
        self.timers.last_sent_ns = now_ns;
        self.timers.heard(now_ns);
    }

    /// An acknowledgement while a newcomer is taken in. Returns whether there is no more to it.
    pub(super) fn ack_of_newcomer(&mut self, now_ns: u64, received_through: Epoch, out: &mut impl Commands) -> bool {
        match self.join {
            Join::Greeting | Join::Copying if received_through == 0 => {
                self.peer.agreed = true;
                self.join = Join::Copying;
                true
            }
            Join::Greeting | Join::Copying => {
                let executed_through = received_through;
                let fault = ProtocolFault::BadAck { received_through, executed_through, disks_done_below: 0 };
                self.fault(now_ns, fault, out);
                true
            }
            // It was sent before the state came.
            Join::Settling { held: false, .. } if received_through == 0 => true,
            Join::Settling { epoch, .. } => {
                self.join = Join::Settling { epoch, held: true };
                false
            }
            _ => false,
        }
    }

    /// Asks the arbiter to pair the record once the newcomer holds all that clients have been told.
    pub(super) fn pair_if_settled(&mut self, now_ns: u64, out: &mut impl Commands) {
        let Join::Settling { epoch, held: true } = self.join else { return };
        if self.release_claim() < epoch {
            return;
        }
        let request = self.new_request(now_ns);
        self.join = Join::Asking { request, lost: false };
        self.push_pairing(request.id, out);
    }

    fn push_pairing(&self, request_id: u64, out: &mut impl Commands) {
        out.push(Command::AskPairing { request_id, expect_generation: self.generation });
    }

    /// When the arbiter must be asked again.
    pub(super) fn pairing_deadline_ns(&self) -> u64 {
        match self.join {
            Join::Asking { request, .. } => request.retry_at_ns,
            _ => u64::MAX,
        }
    }

    pub(super) fn repeat_pairing(&mut self, now_ns: u64, out: &mut impl Commands) {
        if let Join::Asking { request, .. } = &mut self.join
            && request.repeat_if_due(now_ns, self.config.failure_timeout_ns)
        {
            let request_id = request.id;
            self.push_pairing(request_id, out);
        }
    }

    /// An answer of the arbiter while it was asked to pair. Returns whether there is no more to it.
    pub(super) fn on_pairing_reply(
        &mut self,
        now_ns: u64,
        request_id: u64,
        granted: bool,
        record: ArbiterRecord,
        out: &mut impl Commands,
    ) -> bool {
        let Join::Asking { request, lost } = self.join else { return false };
        if request_id != request.id {
            return true;
        }
        if !granted {
            // The record is as it was: solo, and this replica active.
            self.abandon_newcomer(now_ns, out);
        } else if record.mode == Mode::Paired && record.generation.checked_sub(1) == Some(self.generation) {
            self.generation = record.generation;
            self.join = Join::None;
            out.push(Command::Joined { generation: record.generation });
            if lost {
                self.ask_arbiter(now_ns, out);
            } else {
                self.send(now_ns, Outgoing::Joined { generation: record.generation }, out);
            }
        }
        true
    }

    /// The peer or the link to it is lost. Returns whether the end of a join is all that follows from it.
    pub(super) fn join_lost(&mut self, now_ns: u64, out: &mut impl Commands) -> bool {
        match &mut self.join {
            Join::None | Join::Tentative => false,
            Join::Empty => {
                self.stop(StopReason::Incomplete, out);
                true
            }
            Join::Greeting | Join::Copying | Join::Settling { .. } => {
                self.abandon_newcomer(now_ns, out);
                true
            }
            Join::Asking { lost, .. } => {
                *lost = true;
                self.peer.link_open = false;
                out.push(Command::CloseLink);
                true
            }
        }
    }

    fn abandon_newcomer(&mut self, now_ns: u64, out: &mut impl Commands) {
        self.join = Join::None;
        self.peer.link_open = false;
        self.active.divergence = None;
        out.push(Command::CloseLink);
        out.push(Command::JoinFailed);
        if self.mode == Mode::Paired {
            self.mode = Mode::Solo;
            self.active.window.clear();
            self.release_committed(now_ns, out);
        }
    }

    /// The generation that a request of this replica to go on alone starts from: a newcomer can be granted something
    /// only if the record was paired, which makes a generation that it has not been told of.
    pub(super) fn asking_from(&self) -> Generation {
        self.generation + Generation::from(self.join == Join::Tentative)
    }

    pub(super) fn on_pages(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.join != Join::Empty {
            self.fault(now_ns, ProtocolFault::WrongRole, out);
        }
    }

    pub(super) fn on_pages_held(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.role != Role::Primary {
            self.fault(now_ns, ProtocolFault::WrongRole, out);
        }
    }

    /// Newcomer: the state has come, and the caller has put it in place. The log goes on from here.
    pub(super) fn on_state(&mut self, now_ns: u64, state: &JoinState<'_>, out: &mut impl Commands) {
        if self.join != Join::Empty {
            return self.fault(now_ns, ProtocolFault::WrongRole, out);
        }
        if state.epoch == 0 || state.released_through > state.epoch {
            return self.fault(now_ns, ProtocolFault::BadRelease { released_through: state.released_through }, out);
        }
        self.join = Join::Tentative;
        self.record = Record { epoch: state.epoch, clocks: state.clocks, ..Record::default() };
        self.ended_through = state.epoch;
        self.last_digest = state.digest;
        self.backup.received_through = state.epoch;
        self.backup.record_received_ns = now_ns;
        self.backup.released_claim = state.released_through;
        self.backup.peer_ended = (state.epoch, state.digest);
        self.knows_none_through(state.epoch);
        self.backup.ack_due = true;
    }

    pub(super) fn on_joined(&mut self, now_ns: u64, generation: Generation, out: &mut impl Commands) {
        if self.join != Join::Tentative || generation != self.asking_from() {
            return self.fault(now_ns, ProtocolFault::WrongRole, out);
        }
        self.join = Join::None;
        self.generation = generation;
    }
}
