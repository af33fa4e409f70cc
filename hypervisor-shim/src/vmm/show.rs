//! Digests that cover memory, and what is shown of it when the replicas have come apart.

use alloc::vec::Vec;

use protocol::control::{StoppedReason, TOUCHED_WINDOW_PAGES, ToShim, ToSupervisor, Touched as Page, TouchedEnd};
use protocol::{Epoch, Mode};

use super::{SERVICE_INTERVAL_NS, Vmm, tell};
use crate::guest::page_content;
use crate::machine::{BUFFER_BYTES, Machine, Port};

/// A supervisor that has not taken all pages after this time does not get the rest: clients wait meanwhile.
const SHOW_NS: u64 = 10_000_000_000;

impl<M: Machine> Vmm<M> {
    /// The digest of the epoch that has just ended, with all that the guest has written to in it.
    pub(super) fn cover_memory(&mut self, epoch: Epoch) -> u64 {
        let keeps = self.keeps_dirty();
        let Some(touched) = &mut self.touched else { return 0 };
        touched.begin(epoch);
        // Alone there is nobody to compare with.
        if self.replica.as_ref().is_some_and(|replica| replica.mode() == Mode::Paired) {
            let covered = &mut self.covered;
            self.machine.touched_pages(|offset| {
                touched.note(offset);
                if keeps {
                    covered.insert_range(offset, 1);
                }
            });
        }
        self.guest.cover_memory(touched)
    }

    /// Shows the supervisor all pages that the guest has written to in this epoch, the newest one.
    pub(super) fn show_touched(&mut self, epoch: Epoch) {
        // Taken out, so that the pages can be sent while the list is read.
        let Some(touched) = self.touched.take() else { return };
        let mut end = TouchedEnd { epoch, pages: 0, complete: false };
        if let Some(pages) = touched.of(epoch) {
            end.pages = pages.len() as u64;
            end.complete = self.show_pages(epoch, pages);
        }
        tell(&mut self.control, &ToSupervisor::TouchedEnd(end));
        self.control.flush(self.machine.control());
        self.touched = Some(touched);
    }

    /// Returns whether all were sent.
    fn show_pages(&mut self, epoch: Epoch, pages: impl Iterator<Item = u64>) -> bool {
        let until_ns = self.now_ns() + SHOW_NS;
        let mut content = Vec::new();
        self.shown_pages = 0;
        for (sent, page_offset) in (0..).zip(pages) {
            if !self.wait_for_window(sent, until_ns) {
                return false;
            }
            page_content(self.guest.memory(), page_offset, &mut content);
            tell(&mut self.control, &ToSupervisor::Touched(Page { epoch, page_offset, bytes: &content }));
            if self.control.backlog_bytes() >= BUFFER_BYTES / 2 {
                self.control.flush(self.machine.control());
            }
        }
        true
    }

    /// Waits until the supervisor has so many of the pages sent that one more may follow. Returns whether it may.
    fn wait_for_window(&mut self, sent: u64, until_ns: u64) -> bool {
        while sent >= self.shown_pages.saturating_add(TOUCHED_WINDOW_PAGES) {
            self.control.flush(self.machine.control());
            let now_ns = self.now_ns();
            // What called for the pages may itself have come over the control channel: then no answer can be read.
            if now_ns >= until_ns || !self.control.can_be_read() {
                return false;
            }
            self.machine.control().set_interrupts(true);
            if self.machine.control().peek().is_none() {
                self.machine.arm_timer(now_ns + SERVICE_INTERVAL_NS);
                self.machine.halt();
            }
            self.machine.control().set_interrupts(false);
            self.machine.acknowledge_interrupts();
            self.timer_at_ns = 0;
            self.drain_control(Self::on_control_showing);
        }
        true
    }

    /// Of a replica that stops, or asks to go on alone, nothing else matters: a peer that dies now changes nothing, and
    /// the arbiter knows who is superseded.
    fn on_control_showing(&mut self, message: ToShim<'_>) {
        match message {
            ToShim::Shown { pages } => self.shown_pages = pages,
            // Outputs wait for it, if the arbiter lets this replica go on.
            ToShim::Stored { through } => self.early.push(ToShim::Stored { through }),
            ToShim::StoreLog { on } => self.early.push(ToShim::StoreLog { on }),
            ToShim::ConsoleInput { bytes } => self.note_typed(bytes),
            ToShim::Time { realtime_ns } => self.set_realtime(realtime_ns),
            ToShim::Shutdown => self.stop(StoppedReason::Shutdown, super::ASKED_FOR),
            ToShim::Config(_)
            | ToShim::ArbiterReply(_)
            | ToShim::PeerDead
            | ToShim::LinkCut
            | ToShim::PeerJoins { .. }
            | ToShim::HandOver
            | ToShim::Capture { .. }
            | ToShim::PagesHeld { .. }
            | ToShim::Pages(_)
            | ToShim::State(_)
            | ToShim::WatchDisks
            | ToShim::TellDisks
            | ToShim::DisksCopied
            | ToShim::Replay(_)
            | ToShim::ReplayEnd(_)
            | ToShim::Superseded { .. } => {}
        }
    }
}
