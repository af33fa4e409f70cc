//! Copying the guest while it runs: all pages once, then in rounds those that were written to meanwhile, and at last, while
//! the guest waits at a boundary, the few that are left.
//!
//! Pages go out in small slices, so that an epoch is delayed by one slice at most, and never more of them at once than
//! the other end has room for: the device on the way drops what finds none.

use alloc::vec::Vec;

use checkpoint::pages::{PAGE_BYTES, push_content, push_zero};
use hypercall::layout::GUEST_BASE;
use protocol::control::Copied;

use crate::guest::{GuestMemory, PageSet};

/// Pages with content in one slice: with their headers they fit into 32 KiB, of which [`WINDOW`] fit into the buffers of a
/// socket beside a few small messages (Linux gives 208 KiB unless told otherwise).
const SLICE_PAGES: usize = 7;
/// Pages that are looked at for one slice. Under emulation that takes about a quarter of a millisecond.
const SLICE_LOOKS: usize = 64;
/// Slices on their way.
const WINDOW: u64 = 3;
/// So few pages are sent while the guest waits.
const LAST_PAGES: u32 = 64;
/// A program that writes faster than its pages can be sent is made to wait after so many rounds.
const MAX_ROUNDS: u64 = 12;

/// Where a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To a newcomer, over the link.
    Newcomer,
    /// Into a checkpoint, over the control channel.
    Checkpoint,
}

/// A copy on its way.
#[derive(Debug)]
pub struct Copier {
    target: Target,
    /// Pages to be sent, from `cursor` on in this round.
    pending: PageSet,
    cursor: u32,
    /// Slices sent, and slices that have arrived.
    sent: u64,
    arrived: u64,
    /// How many pages the round before had.
    before: u32,
    /// The guest waits: what is sent now is the last.
    last: bool,
    started_ns: u64,
    paused_ns: u64,
    figures: Copied,
}

impl Copier {
    /// A copy of these pages of a guest, whose dirty pages were just forgotten.
    pub fn new(target: Target, pages: PageSet, now_ns: u64) -> Self {
        Self {
            target,
            pending: pages,
            cursor: 0,
            sent: 0,
            arrived: 0,
            before: u32::MAX,
            last: false,
            started_ns: now_ns,
            paused_ns: now_ns,
            figures: Copied { rounds: 1, ..Copied::default() },
        }
    }

    /// Where it goes.
    pub fn target(&self) -> Target {
        self.target
    }

    /// So many slices have arrived.
    pub fn arrived(&mut self, slices: u64) {
        self.arrived = self.arrived.max(slices.min(self.sent));
    }

    /// Whether a slice may be sent now.
    pub fn has_slice(&self) -> bool {
        !self.pending.is_empty() && self.sent < self.arrived + WINDOW
    }

    /// Whether all pages of this round were sent.
    pub fn is_round_over(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether the guest waits for the end of the copy.
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// Appends the records of the next slice.
    pub fn slice(&mut self, memory: &GuestMemory, out: &mut Vec<u8>) {
        let (mut contents, mut looks) = (0, 0);
        let mut zeros: Option<(u32, u32)> = None;
        while contents < SLICE_PAGES && looks < SLICE_LOOKS {
            let Some(page) = self.pending.take_from(self.cursor) else { break };
            self.cursor = page + 1;
            looks += 1;
            let offset = page as usize * PAGE_BYTES;
            if memory.is_zero(offset, PAGE_BYTES) {
                self.figures.zero_pages += 1;
                zeros = match zeros {
                    Some((first, count)) if first + count == page => Some((first, count + 1)),
                    other => {
                        push_run(out, other);
                        Some((page, 1))
                    }
                };
                continue;
            }
            push_run(out, zeros.take());
            // The page lies in guest memory, of which the set consists.
            push_content(out, page, |out| _ = memory.append_to(GUEST_BASE + offset as u64, PAGE_BYTES, out));
            contents += 1;
        }
        push_run(out, zeros);
        self.sent += 1;
        self.figures.pages += contents as u64;
        if self.last {
            self.figures.last_pages += contents as u64;
        }
    }

    /// The guest stands at a boundary and the round is over: `dirty` are the pages written to since the last time. Either
    /// another round begins or, if there are few or it would be of no use, the last one, for which the guest waits.
    pub fn next_round(&mut self, dirty: PageSet, now_ns: u64) {
        let pages = dirty.len();
        let shrinks = pages < self.before - self.before / 4;
        self.last = pages <= LAST_PAGES || !shrinks || self.figures.rounds >= MAX_ROUNDS;
        if self.last {
            self.paused_ns = now_ns;
        }
        self.before = pages;
        self.pending = dirty;
        self.cursor = 0;
        self.figures.rounds += 1;
    }

    /// What the copy has come to, complete at the end of `epoch` and no longer waited for now.
    pub fn figures(&self, epoch: protocol::Epoch, now_ns: u64) -> Copied {
        Copied {
            epoch,
            pause_ns: now_ns.saturating_sub(self.paused_ns),
            took_ns: now_ns.saturating_sub(self.started_ns),
            ..self.figures
        }
    }
}

fn push_run(out: &mut Vec<u8>, run: Option<(u32, u32)>) {
    if let Some((first, count)) = run {
        push_zero(out, first, count);
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;
    use crate::guest::install_pages;

    const PAGES: usize = 300;

    /// Memory of its own, page aligned.
    struct Memory {
        view: GuestMemory,
        _bytes: Vec<[u64; 512]>,
    }

    impl Memory {
        fn new(fill: u64) -> Self {
            let mut bytes = vec![[fill; 512]; PAGES + 1];
            let raw = bytes.as_mut_ptr().cast::<u8>();
            // SAFETY: there is one page more than needed, so that the base can be aligned within the vector, which lives
            // as long as the view and is touched only through it.
            let view = unsafe { GuestMemory::new(raw.add(raw.align_offset(PAGE_BYTES)), PAGES * PAGE_BYTES) };
            Self { view, _bytes: bytes }
        }

        fn write(&self, page: usize, byte: u8) {
            assert!(self.view.write_offset(page * PAGE_BYTES + 5, &[byte]));
        }

        fn content(&self) -> Vec<u8> {
            self.view.copy_out(GUEST_BASE, PAGES * PAGE_BYTES).expect("all of it")
        }
    }

    fn all() -> PageSet {
        PageSet::all(PAGES * PAGE_BYTES)
    }

    fn dirty(pages: &[u32]) -> PageSet {
        let mut set = PageSet::empty(PAGES * PAGE_BYTES);
        pages.iter().for_each(|page| set.insert(*page));
        set
    }

    /// Sends all of the round; returns how many slices that took.
    fn send_round(copier: &mut Copier, from: &Memory, to: &Memory) -> u64 {
        let mut slices = 0;
        while !copier.is_round_over() {
            assert!(copier.has_slice());
            let mut out = vec![];
            copier.slice(&from.view, &mut out);
            assert!(out.len() <= 32 * 1024, "{} bytes in a slice", out.len());
            install_pages(&to.view, &out).expect("pages of this guest");
            slices += 1;
            copier.arrived(copier.sent);
        }
        slices
    }

    #[test]
    fn what_is_written_meanwhile_is_sent_again_and_the_copy_is_the_same() {
        let (from, to) = (Memory::new(0), Memory::new(0xffff));
        (0..100).for_each(|page| from.write(page * 2, 1));
        let mut copier = Copier::new(Target::Newcomer, all(), 1_000);
        send_round(&mut copier, &from, &to);
        let many: Vec<u32> = (0..200).collect();
        many.iter().for_each(|page| from.write(*page as usize, 2));
        copier.next_round(dirty(&many), 2_000);
        assert!(!copier.is_last());
        send_round(&mut copier, &from, &to);
        from.write(299, 3);
        copier.next_round(dirty(&[299]), 3_000);
        assert!(copier.is_last());
        send_round(&mut copier, &from, &to);
        assert!(from.content() == to.content());
        let figures = copier.figures(7, 3_500);
        assert_eq!((figures.pages, figures.zero_pages, figures.last_pages, figures.rounds), (301, 200, 1, 3));
        assert_eq!((figures.epoch, figures.pause_ns, figures.took_ns), (7, 500, 2_500));
    }

    #[test]
    fn no_more_is_sent_than_there_is_room_for() {
        let memory = Memory::new(1);
        let mut copier = Copier::new(Target::Checkpoint, all(), 0);
        let mut out = vec![];
        while copier.has_slice() {
            copier.slice(&memory.view, &mut out);
        }
        assert_eq!(copier.sent, WINDOW);
        copier.arrived(1);
        assert!(copier.has_slice());
        copier.arrived(u64::MAX);
        assert_eq!(copier.arrived, copier.sent, "no room is believed in that cannot be");
    }

    #[test]
    fn a_guest_that_writes_too_fast_is_made_to_wait() {
        let mut copier = Copier::new(Target::Newcomer, all(), 0);
        let many: Vec<u32> = (0..200).collect();
        copier.next_round(dirty(&many), 0);
        assert!(!copier.is_last(), "fewer than all");
        copier.next_round(dirty(&many), 0);
        assert!(copier.is_last(), "as many as before");
    }
}
