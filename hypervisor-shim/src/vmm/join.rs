//! Taking in a newcomer, and being one.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use checkpoint::state::GuestState;
use protocol::control::{ArbiterRequest, Level, ToSupervisor};
use protocol::frame::direction_session;
use protocol::link::{JoinState, Message, Pages};
use protocol::replica::{Input, JoinPhase};
use protocol::{Epoch, Role};

use super::copy::{Copier, Target};
use super::disk_copy::DiskCopy;
use super::{Vmm, tell};
use crate::guest::{PageSet, Surroundings, install_pages};
use crate::machine::{Machine, Port};

/// The newest checkpoint, for the next one to build upon.
#[derive(Debug)]
pub(super) struct Base {
    epoch: Epoch,
    /// Pages written to since.
    changed: PageSet,
}

impl<M: Machine> Vmm<M> {
    /// A newcomer will be at the other end of the link. What was sent for an earlier one must leave first.
    pub(super) fn expect_newcomer(&mut self, link_session: u64) {
        self.fresh_link = Some(link_session);
        self.renew_link();
    }

    /// Begins the link anew once nothing of the old session is on its way out. What has come of it is thrown away: the
    /// supervisor says that a newcomer is expected only when nothing more can come.
    pub(super) fn renew_link(&mut self) {
        let Some(link_session) = self.fresh_link else { return };
        let Some(port) = self.machine.link() else { return };
        while let Some(received) = port.take() {
            port.give_back(received);
        }
        if port.completed() != port.sent() {
            return;
        }
        self.fresh_link = None;
        let me = self.settings.replica;
        self.link.renew(direction_session(link_session, me), direction_session(link_session, me.peer()));
        if self.guest.disks().has_mirrors() && self.disk_copy != DiskCopy::Watching {
            self.log(Level::Warn, format_args!("no newcomer can be taken in: nobody copies the mirrors of the disks"));
        } else {
            self.step(Input::PeerJoins);
        }
        if self.join_phase() == JoinPhase::Greeting {
            tell(&mut self.control, &ToSupervisor::LinkFresh { link_session });
        } else {
            self.link.close();
            self.log(Level::Warn, format_args!("no newcomer can be taken in: this replica is not a solo primary"));
            tell(&mut self.control, &ToSupervisor::JoinFailed);
        }
    }

    fn join_phase(&self) -> JoinPhase {
        self.replica.as_ref().map_or(JoinPhase::None, |replica| replica.join_phase())
    }

    /// Sends pages of a copy, if one is made: a slice at most. May be called while the guest is interrupted.
    pub(super) fn send_pages(&mut self) {
        if self.copier.is_none() && self.join_phase() == JoinPhase::Copying {
            self.begin_copy(Target::Newcomer, false);
        }
        let Some(copier) = &mut self.copier else { return };
        if !copier.has_slice() {
            return;
        }
        self.slice.clear();
        copier.slice(self.guest.memory(), &mut self.slice);
        let pages = Pages { records: &self.slice };
        match copier.target() {
            Target::Newcomer => self.link.encode(|writer, out| {
                // A slice is far shorter than a frame may be.
                let _ = Message::Pages(pages).encode_into(writer, out);
            }),
            Target::Checkpoint => tell(&mut self.control, &ToSupervisor::Pages(pages)),
        }
    }

    /// Starts a copy of all pages, or of those written to since the newest checkpoint. What is written from now on is part
    /// of the next round.
    fn begin_copy(&mut self, target: Target, since_checkpoint: bool) {
        let now_ns = self.now_ns();
        self.guest.note_writes(true);
        let dirty = self.take_dirty();
        let pages = match self.base.take_if(|_| target == Target::Checkpoint) {
            Some(base) if since_checkpoint => {
                let mut pages = base.changed;
                pages.unite(&dirty);
                pages
            }
            _ => PageSet::all(self.guest.memory().bytes()),
        };
        self.copier = Some(Copier::new(target, pages, now_ns));
    }

    /// The pages that guest and shim have written to since the last call. If there is a checkpoint to build upon, it keeps
    /// them in mind.
    fn take_dirty(&mut self) -> PageSet {
        let mut dirty = PageSet::empty(self.guest.memory().bytes());
        self.machine.touched_pages(|offset| dirty.insert_range(offset, 1));
        dirty.absorb(&mut self.covered);
        self.guest.take_written(&mut dirty);
        if let Some(base) = &mut self.base {
            base.changed.unite(&dirty);
        }
        dirty
    }

    /// Notes nothing any more, unless the next checkpoint may build upon the last.
    fn end_copy(&mut self) {
        self.copier = None;
        self.end_disk_copy();
        self.guest.note_writes(self.base.is_some());
    }

    /// Whether pages must be kept in mind that a digest is about to make the machine forget.
    pub(super) fn keeps_dirty(&self) -> bool {
        self.copier.is_some() || self.base.is_some()
    }

    /// The supervisor wants a checkpoint. It begins at the next boundary.
    pub(super) fn capture_wanted(&mut self, since_epoch: Epoch) {
        let joins = self.join_phase() != JoinPhase::None;
        let busy = self.copier.is_some() || joins || self.lacks_mirrors() || !self.can_be_captured();
        let known = since_epoch == 0 || self.base.as_ref().is_some_and(|base| base.epoch == since_epoch);
        if busy || !known {
            tell(&mut self.control, &ToSupervisor::CaptureFailed);
        } else {
            self.capture_wanted = Some(since_epoch);
        }
    }

    fn can_be_captured(&self) -> bool {
        let active = self.replica.as_ref().is_some_and(|replica| replica.role() == Role::Primary);
        active && self.guest.end().is_none()
    }

    /// Looks after a copy while the guest stands at a boundary. Returns whether the guest must wait for it.
    pub(super) fn copy_at_boundary(&mut self, now_ns: u64) -> bool {
        let epoch = self.replica.as_ref().map_or(0, |replica| replica.epoch());
        if epoch > 0
            && let Some(since_epoch) = self.capture_wanted.take()
        {
            self.begin_copy(Target::Checkpoint, since_epoch != 0);
        }
        let Some(target) = self.copier.as_ref().map(Copier::target) else { return false };
        let may_end = match target {
            Target::Newcomer => self.replica.as_ref().is_some_and(|replica| replica.may_send_state()),
            Target::Checkpoint if !self.can_be_captured() || self.lacks_mirrors() => {
                self.capture_failed();
                return false;
            }
            Target::Checkpoint => true,
        };
        let over = self.copier.as_ref().is_some_and(|copier| copier.is_round_over() && !copier.is_last());
        if may_end && over && !self.ends && !self.needs_quiet_disks() {
            // What the guest asks of its disks from here on waits, so that soon nothing of it is half done.
            self.guest.disks_mut().hold(true);
        }
        let may_end = may_end && self.guest.can_be_copied();
        let begins_round = may_end && over;
        let dirty = begins_round.then(|| self.take_dirty());
        let Some(copier) = self.copier.as_mut().filter(|_| may_end) else { return false };
        if let Some(dirty) = dirty {
            copier.next_round(dirty, now_ns);
            if !copier.is_last() {
                self.guest.disks_mut().hold(false);
                return false;
            }
            self.tell_last_changes();
        }
        let Some(copier) = &self.copier else { return false };
        if copier.is_round_over() && copier.is_last() && self.disks_are_equal() {
            match copier.target() {
                Target::Newcomer => self.send_state(now_ns),
                Target::Checkpoint => self.capture_state(now_ns),
            }
        }
        self.copier.as_ref().is_some_and(Copier::is_last)
    }

    fn capture_failed(&mut self) {
        self.end_copy();
        tell(&mut self.control, &ToSupervisor::CaptureFailed);
    }

    /// Whether a copy could go on at once.
    pub(super) fn has_pages_to_send(&self) -> bool {
        let Some(copier) = &self.copier else {
            return self.join_phase() == JoinPhase::Copying || self.capture_wanted.is_some();
        };
        // Disks and those who copy them are waited for in a halt.
        let waits = self.guest.disks().is_draining()
            || (self.needs_quiet_disks() && !self.guest.can_be_copied())
            || (copier.is_last() && !self.disks_are_equal());
        let goes_on = copier.has_slice() || (copier.is_round_over() && !waits);
        goes_on && (copier.target() == Target::Checkpoint || self.join_phase() == JoinPhase::Copying)
    }

    /// The pages are with the newcomer or on their way: the rest follows, and the log behind it.
    fn send_state(&mut self, now_ns: u64) {
        let mut state = Vec::new();
        self.capture().encode_into(&mut state);
        let Some(replica) = &mut self.replica else { return };
        let message = Message::State(replica.join_state(&state));
        self.link.encode(|writer, out| {
            // A few hundred bytes.
            let _ = message.encode_into(writer, out);
        });
        replica.state_sent(now_ns);
        self.end_disk_copy();
        self.guest.disks_mut().park();
        self.guest.note_writes(self.base.is_some());
        self.flush_link();
    }

    /// The pages of a checkpoint are sent: with the rest it is complete, and the guest goes on.
    fn capture_state(&mut self, now_ns: u64) {
        let mut state = Vec::new();
        self.capture().encode_into(&mut state);
        let Some(replica) = &self.replica else { return };
        tell(&mut self.control, &ToSupervisor::State(replica.join_state(&state)));
        let epoch = replica.epoch();
        if let Some(copier) = self.copier.take() {
            tell(&mut self.control, &ToSupervisor::Copied(copier.figures(epoch, now_ns)));
        }
        if self.leaves_disks_to_log() && self.guest.disks().uncertain_count(true) > 0 {
            // The log goes on from the state, which has the numbers of requests and not what they would write.
            self.guest.disks_mut().park();
            if let Some(replica) = &mut self.replica {
                replica.give_up_outstanding();
            }
        }
        self.end_disk_copy();
        // From here on it is noted what the next one would have to hold.
        self.base = Some(Base { epoch, changed: PageSet::empty(self.guest.memory().bytes()) });
        self.control.flush(self.machine.control());
    }

    /// Registers and the shim's guest-visible state, at an epoch boundary.
    pub(super) fn capture(&mut self) -> GuestState {
        let mut registers = Vec::new();
        self.machine.save_registers(&mut registers);
        self.guest.capture(Surroundings {
            architecture: M::ARCHITECTURE,
            registers,
            input_skew: self.input_skew,
            deadline_ns: self.deadline_ns,
        })
    }

    /// The newcomer holds everything: the arbiter is asked to pair.
    pub(super) fn ask_pairing(&mut self, request_id: u64, expect_generation: u64) {
        if let Some(copier) = self.copier.take() {
            let now_ns = self.now_ns();
            let epoch = self.replica.as_ref().map_or(0, |replica| replica.epoch());
            tell(&mut self.control, &ToSupervisor::Copied(copier.figures(epoch, now_ns)));
        }
        let request = ArbiterRequest { request_id, expect_generation, proposer: self.settings.replica };
        tell(&mut self.control, &ToSupervisor::PairingRequest(request));
        self.control.flush(self.machine.control());
    }

    pub(super) fn joined(&mut self, generation: u64) {
        self.status_at_ns = 0;
        self.peer_dead = false;
        self.log(Level::Info, format_args!("paired again in generation {generation}"));
    }

    pub(super) fn join_failed(&mut self) {
        if self.copier.as_ref().is_some_and(|copier| copier.target() == Target::Newcomer) {
            self.end_copy();
        }
        self.status_at_ns = 0;
        self.log(Level::Warn, format_args!("the newcomer has failed; going on alone"));
        tell(&mut self.control, &ToSupervisor::JoinFailed);
    }

    /// So many slices of a copy have arrived.
    pub(super) fn slices_arrived(&mut self, target: Target, slices: u64) {
        if let Some(copier) = self.copier.as_mut().filter(|copier| copier.target() == target) {
            copier.arrived(slices);
        }
    }

    /// A message of the link. What is wrong with it makes the link fail.
    pub(super) fn on_link(&mut self, now_ns: u64, message: Message<'_>) -> Result<(), String> {
        match message {
            Message::Pages(pages) if self.join_phase() == JoinPhase::Empty => {
                install_pages(self.guest.memory(), pages.records).map_err(|error| format!("{error}"))?;
                self.slices_held += 1;
                let held = Message::PagesHeld { messages: self.slices_held };
                self.link.encode(|writer, out| {
                    // A few bytes.
                    let _ = held.encode_into(writer, out);
                });
            }
            Message::PagesHeld { messages } => self.slices_arrived(Target::Newcomer, messages),
            Message::State(state) if self.join_phase() == JoinPhase::Empty => self.install(&state)?,
            _ => {}
        }
        self.step_at(now_ns, Input::Message(message));
        Ok(())
    }

    /// Puts the state of another replica in place of the freshly loaded guest's. Its pages are there already.
    pub(super) fn install(&mut self, state: &JoinState<'_>) -> Result<(), String> {
        let state = GuestState::decode(state.state, M::ARCHITECTURE).map_err(|error| format!("{error}"))?;
        self.guest.restore(&state)?;
        self.machine.load_registers(&state.registers).map_err(|error| format!("{error}"))?;
        for offset in self.guest.guards() {
            if !self.machine.set_guard(offset, true) {
                return Err(String::from("it has guards of pages, which this machine has not"));
            }
        }
        self.input_skew = state.input_skew;
        self.deadline_ns = state.deadline_ns;
        // From here on only what the guest writes counts, as at the primary.
        self.machine.touched_pages(|_| ());
        Ok(())
    }
}
