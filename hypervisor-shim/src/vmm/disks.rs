//! Disks: carried out here by each replica on its own, told to the guest by the active one's records.
//!
//! The active replica puts completions into the record of an epoch when its own disk has done the request, and for a flush
//! when the backup has said that its own has too. The backup delivers them from the record, with the data that its own disk
//! has read, and waits for its disk where that is behind.
//!
//! A disk that fails ends its replica, as a machine that fails would, so that a pair hides it: a backup leaves at once, the
//! active replica as soon as the backup has done the same request without fault. So both do not leave for a fault that both
//! have, a full file system say: then the backup leaves, and the guest of the other is told the error, as it is where there is no
//! other.
//!
//! Where a stored log is to be enough to restore the disks, the backup's disks follow the log, and the active replica leaves at once
//! when its own fails.
//!
//! A shared disk is the active replica's alone, and its failures are the guest's, the same at both. The backup waits for no disk
//! then, but for a record; what was outstanding when it takes over is uncertain.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall::disk::{COMPLETION_BYTES, Completion};
use hypercall::record::{KIND_DISK_DONE, total_bytes};
use protocol::control::StoppedReason;
use protocol::event::RecordReader;
use protocol::{Mode, Role};

use super::Vmm;
use crate::guest::{Commit, Room};
use crate::machine::{Disk, Machine};

/// A replica whose disk has not done so long what the other one's has done leaves the pair. Meanwhile clients wait: the
/// active replica does not run further ahead than its bound.
pub(super) const PATIENCE_NS: u64 = 5_000_000_000;
/// A replica that ends waits so long for its disks.
const DRAIN_NS: u64 = 2_000_000_000;

impl<M: Machine> Vmm<M> {
    /// Lets the disks go on, and tells and does what follows from that.
    pub(super) fn serve_disks(&mut self) {
        if self.guest.disks().are_none() {
            return;
        }
        if self.ends && !self.is_active() {
            self.release_rest();
        }
        let committed_through = self.committed_through();
        self.guest.disks_mut().serve(self.machine.disks(), committed_through);
        let Some(replica) = &mut self.replica else { return };
        let done_below = self.guest.disks().done_below();
        let passes_flush = self.guest.disks_mut().passes_flush(done_below);
        replica.note_disks(done_below, passes_flush);
        if self.guest.disks().failure().is_some() {
            self.judge_failure();
        }
    }

    /// The pair ends in good order: its active replica begins no more epochs and so tells no more completions, and the mirrors
    /// are to be equal. What follows from the log as it is stored is carried out by a backup without being told.
    fn release_rest(&mut self) {
        let now_ns = self.now_ns();
        let Some(replica) = &self.replica else { return };
        let stored_through = replica.status(now_ns).released_through;
        self.guest.disks_mut().release_through(stored_through);
    }

    /// What the guest has asked of shared or logged disks in epochs up to this one may be begun.
    fn committed_through(&self) -> u64 {
        self.replica.as_ref().map_or(u64::MAX, |replica| replica.committed_through())
    }

    /// Whether the guest is to hear that requests are uncertain.
    pub(super) fn owes_uncertain(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.owes_uncertain()) && self.uncertain_count() > 0
    }

    /// How many, if the guest is to hear that.
    fn uncertain_count(&self) -> usize {
        let everything = self.replica.as_ref().is_some_and(|replica| replica.owes_everything());
        self.guest.disks().uncertain_count(everything)
    }

    /// What the active replica must know before it tells the guest of a completion.
    fn commit(&self) -> Commit {
        match &self.replica {
            Some(replica) if replica.mode() == Mode::Paired => {
                // Where the log restores the disks, a flush needs no second one: a backup does it when it hears of it.
                let is_logged = self.guest.disks().are_logged();
                Commit::Paired { done_below: if is_logged { u64::MAX } else { replica.peer_disks_done_below() } }
            }
            _ => Commit::Alone,
        }
    }

    /// Whether a completion waits to be told to the guest.
    pub(super) fn has_completions(&self) -> bool {
        self.guest.disks().completions(self.commit()).next().is_some()
    }

    /// Appends completions to the events of an epoch, as many as have room in the guest's ring and in the record. Returns how
    /// many bytes of it go to no ring. Those leave the other half of the record to the network.
    pub(super) fn gather_completions(&mut self, ring_bytes: usize, limit: usize, events: &mut Vec<u8>) -> usize {
        if self.guest.disks().are_none() {
            return 0;
        }
        let commit = self.commit();
        let records_reads = self.replica.as_ref().is_some_and(|replica| replica.stores_log());
        let room = Room { ring_bytes, bytes: limit, data_bytes: limit / 2, records_reads };
        self.guest.disks_mut().tell(commit, room, events)
    }

    /// Bytes of the guest's ring that an uncertain event will take.
    pub(super) fn uncertain_bytes(&self) -> usize {
        if self.owes_uncertain() { self.uncertain_count() * total_bytes(COMPLETION_BYTES) } else { 0 }
    }

    /// A disk has failed: this replica leaves if the other can go on.
    fn judge_failure(&mut self) {
        let Some(replica) = &self.replica else { return };
        let Some(failure) = self.guest.disks().failure() else { return };
        let leaves = match replica.role() {
            // The other one's disk has not been asked yet: it will be when the other one has taken over.
            Role::Primary if self.guest.disks().are_logged() => replica.may_leave(),
            Role::Primary => replica.gives_way(failure.number),
            // One that may have to take over keeps its fault for the guest.
            Role::Backup => replica.follows_peer(),
        };
        if leaves {
            let text = self.describe_failure();
            self.stop(StoppedReason::DiskFailed, &text);
        }
    }

    fn describe_failure(&self) -> String {
        match self.guest.disks().failure() {
            Some(failure) => {
                format!("disk {} failed: {:?} at block {}", failure.disk, failure.operation, failure.first_block)
            }
            None => String::from("a disk failed"),
        }
    }

    /// Waits until this replica's disks have done all that the record of the next epoch says is done. Returns the time.
    pub(super) fn await_completions(&mut self, mut now_ns: u64, epoch: u64) -> u64 {
        if self.guest.disks().are_none() {
            return now_ns;
        }
        self.release_recorded(epoch);
        let until_ns = now_ns + PATIENCE_NS;
        loop {
            // What the old primary told its guest was let out: a replica that cannot tell its own the same cannot go on, not
            // even as the last one. What waits for what has failed would wait for ever.
            if self.contradicted(epoch).is_some() {
                let text = self.describe_failure();
                self.stop(StoppedReason::DiskFailed, &text);
            }
            let Some(number) = self.unfinished(epoch) else { return now_ns };
            let follows = self.replica.as_ref().is_some_and(|replica| replica.follows_peer());
            if now_ns >= until_ns && follows {
                let text = format!(
                    "disk {} failed: request {number} is done at the other replica, and here not after {} s",
                    self.guest.disks().name_of(number),
                    PATIENCE_NS / 1_000_000_000
                );
                self.stop(StoppedReason::DiskFailed, &text);
            }
            let tick_ns = self.replica.as_ref().map_or(u64::MAX, |replica| replica.next_deadline_ns());
            self.sleep(now_ns, Some(tick_ns.min(now_ns + super::SERVICE_INTERVAL_NS)));
            now_ns = self.now_ns();
            now_ns = self.round(now_ns);
        }
    }

    /// Lets a replica that follows the log do what the record of this epoch says is done.
    fn release_recorded(&mut self, epoch: u64) {
        if !self.guest.disks().follow_log() {
            return;
        }
        let numbers: Vec<_> = self.recorded(epoch).map(|completion| completion.number).collect();
        if !numbers.is_empty() {
            numbers.iter().for_each(|number| self.guest.disks_mut().release(*number));
            self.serve_disks();
        }
    }

    /// The same in a replay: waits until the disks have done what the record of the next epoch says is done. Stops the replica if
    /// they cannot.
    pub(super) fn await_redone(&mut self, epoch: u64) {
        if self.guest.disks().are_none() {
            return;
        }
        self.release_recorded(epoch);
        loop {
            if let Some(number) = self.contradicted(epoch) {
                let name = String::from(self.guest.disks().name_of(number));
                let text = format!(
                    "disk {name} cannot be brought to epoch {epoch}: request {number}, which was done then, fails"
                );
                self.stop(StoppedReason::Failed, &text);
            }
            if self.unfinished(epoch).is_none() {
                return;
            }
            self.set_disk_interrupts(true);
            if !self.disks_have_done() {
                let now_ns = self.now_ns();
                self.machine.arm_timer(now_ns + super::SERVICE_INTERVAL_NS);
                self.machine.halt();
            }
            self.set_disk_interrupts(false);
            self.machine.acknowledge_interrupts();
            self.hear_supervisor();
            self.serve_disks();
        }
    }

    /// The completions of an epoch's record.
    fn recorded(&self, epoch: u64) -> impl Iterator<Item = Completion> + '_ {
        let events = self.replica.as_ref().and_then(|replica| replica.record(epoch)).map_or(&[][..], |r| &r.events);
        RecordReader::new(events)
            .filter_map(Result::ok)
            .filter(|record| record.kind == KIND_DISK_DONE)
            .filter_map(|record| Completion::decode(record.payload))
    }

    fn unfinished(&self, epoch: u64) -> Option<u64> {
        let disks = self.guest.disks();
        self.recorded(epoch).map(|completion| completion.number).find(|&number| !disks.has_ended(number))
    }

    /// What the record says was done and has failed here.
    fn contradicted(&self, epoch: u64) -> Option<u64> {
        let disks = self.guest.disks();
        let is_contradicted = |completion: &Completion| completion.status == 0 && disks.has_failed(completion.number);
        self.recorded(epoch).find(is_contradicted).map(|completion| completion.number)
    }

    /// Whether a shutdown may go on to its end: nothing is under way at any disk of the pair. Mirrors are equal then.
    pub(super) fn is_quiet(&self) -> bool {
        let disks = self.guest.disks();
        let same_past = self.replica.as_ref().is_none_or(|replica| {
            replica.mode() == Mode::Solo
                || (replica.peer_has_run_everything()
                    && replica.peer_disks_done_below() == disks.taken()
                    && disks.done_below() == disks.taken())
        });
        disks.are_idle() && same_past
    }

    /// Waits for this replica's own disks before it ends in good order. One whose disks have not done everything ends as
    /// failed: its mirror may differ from the other one's.
    pub(super) fn drain_disks(&mut self) {
        let until_ns = self.now_ns() + DRAIN_NS;
        self.guest.disks_mut().hold(false);
        // The guest's last outputs are released, or everything is done already: what it has asked of mirrored disks is committed.
        let are_logged = self.guest.disks().are_logged();
        if are_logged {
            self.guest.disks_mut().release_through(u64::MAX);
        }
        loop {
            let committed_through = if are_logged { u64::MAX } else { self.committed_through() };
            self.guest.disks_mut().serve(self.machine.disks(), committed_through);
            let now_ns = self.now_ns();
            if self.guest.disks().are_idle() && self.guest.disks().failure().is_none() {
                return;
            }
            if now_ns >= until_ns || self.guest.disks().are_idle() {
                self.stop(StoppedReason::DiskFailed, "the disks have not done all that was asked of them");
            }
            self.sleep(now_ns, Some(now_ns + super::SERVICE_INTERVAL_NS));
        }
    }

    /// Whether a disk has something to be looked at.
    pub(super) fn disks_have_done(&mut self) -> bool {
        self.machine.disks().iter().any(Disk::has_done)
    }

    /// Whether disks shall interrupt.
    pub(super) fn set_disk_interrupts(&mut self, enabled: bool) {
        for disk in self.machine.disks() {
            disk.set_interrupts(enabled);
        }
    }
}
