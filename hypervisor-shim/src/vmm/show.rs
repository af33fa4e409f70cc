//! Digests that cover memory, and what is shown of it when the replicas have come apart.

use alloc::vec::Vec;

use protocol::control::{ToSupervisor, Touched as Page, TouchedEnd};
use protocol::{Epoch, Mode};

use super::{Vmm, tell};
use crate::guest::page_content;
use crate::machine::Machine;

/// Pages are collected up to so many bytes before they are sent.
const CHUNK_BYTES: usize = 32 * 1024;
/// A supervisor that has not taken all pages after this time does not get the rest: clients wait meanwhile.
const SHOW_NS: u64 = 10_000_000_000;
/// How often is looked whether there is room for more.
const LOOK_NS: u64 = 200_000;

impl<M: Machine> Vmm<M> {
    /// The digest of the epoch that has just ended, with all that the guest has written to in it.
    pub(super) fn cover_memory(&mut self, epoch: Epoch) -> u64 {
        let Some(touched) = &mut self.touched else { return 0 };
        touched.begin(epoch);
        // Alone there is nobody to compare with.
        if self.replica.as_ref().is_some_and(|replica| replica.mode() == Mode::Paired) {
            self.machine.touched_pages(|offset| touched.note(offset));
        }
        self.guest.cover_memory(touched)
    }

    /// Shows the supervisor all pages that the guest has written to in this epoch, the newest one.
    pub(super) fn show_touched(&mut self, epoch: Epoch) {
        // Taken out, so that the pages can be sent while the list is read.
        let Some(touched) = self.touched.take() else { return };
        let until_ns = self.now_ns() + SHOW_NS;
        let mut end = TouchedEnd { epoch, pages: 0, complete: false };
        if let Some(pages) = touched.of(epoch) {
            end.pages = pages.len() as u64;
            end.complete = self.show_pages(epoch, pages, until_ns);
        }
        tell(&mut self.control, &ToSupervisor::TouchedEnd(end));
        self.flush_control(0, until_ns);
        self.touched = Some(touched);
    }

    /// Returns whether all were sent.
    fn show_pages(&mut self, epoch: Epoch, pages: impl Iterator<Item = u64>, until_ns: u64) -> bool {
        let mut content = Vec::new();
        for page_offset in pages {
            page_content(self.guest.memory(), page_offset, &mut content);
            tell(&mut self.control, &ToSupervisor::Touched(Page { epoch, page_offset, bytes: &content }));
            if !self.flush_control(CHUNK_BYTES, until_ns) {
                return false;
            }
        }
        true
    }

    /// Waits until at most `bytes` wait for the supervisor. Returns whether they do.
    fn flush_control(&mut self, bytes: usize, until_ns: u64) -> bool {
        while self.control.backlog_bytes() > bytes {
            self.control.flush(self.machine.control());
            if self.control.backlog_bytes() <= bytes {
                break;
            }
            let now_ns = self.now_ns();
            if now_ns >= until_ns {
                return false;
            }
            // A device does not interrupt when it has taken something.
            self.timer_at_ns = 0;
            self.machine.arm_timer(now_ns + LOOK_NS);
            self.machine.halt();
            self.machine.acknowledge_interrupts();
        }
        true
    }
}
