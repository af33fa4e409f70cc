//! Replicas that have come apart, with `--check-determinism`: what each has shown of its memory is compared, and the
//! first difference gets an address and a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use hypercall::layout::{GUEST_BASE, PAGE_BYTES};
use protocol::control::{TOUCHED_WINDOW_PAGES, ToShim, Touched, TouchedEnd};
use protocol::digest::digest_of;
use protocol::{Epoch, ReplicaId};

use super::{Supervisor, symbols};
use crate::ctl::DivergenceStatus;

/// Pages of one replica that are kept as they are; of more only the digest.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;
/// Bytes shown around the first that differs.
const WORD_BYTES: usize = 8;
/// Symbols named of a page whose content is not known on both sides.
const MAX_NAMES: usize = 4;

/// What is known of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Bytes(Box<[u8]>),
    Digest(u64),
}

impl Content {
    fn digest(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => digest_of(0, bytes),
            Self::Digest(digest) => *digest,
        }
    }

    /// Where the first difference lies, if both are known.
    fn first_difference(&self, other: &Self) -> Option<(usize, [[u8; WORD_BYTES]; 2])> {
        let (Self::Bytes(ours), Self::Bytes(theirs)) = (self, other) else { return None };
        let at = ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs)?;
        let word = |bytes: &[u8]| {
            let start = at - at % WORD_BYTES;
            bytes.get(start..start + WORD_BYTES).and_then(|word| word.try_into().ok())
        };
        Some((at, [word(ours)?, word(theirs)?]))
    }
}

/// What one replica has shown of its memory.
#[derive(Debug, Default)]
pub struct Shown {
    epoch: Epoch,
    /// Pages that came.
    came: u64,
    /// By offset in guest memory.
    pages: BTreeMap<u64, Content>,
    kept_bytes: usize,
    end: Option<TouchedEnd>,
}

impl Shown {
    /// Takes a page. One that is none of a guest's with so much memory is passed over.
    pub fn take(&mut self, page: &Touched<'_>, memory_bytes: u64) {
        if page.epoch != self.epoch || self.end.is_some() {
            *self = Self { epoch: page.epoch, ..Self::default() };
        }
        self.came += 1;
        let fits = page.page_offset.is_multiple_of(PAGE_BYTES) && page.page_offset < memory_bytes;
        if !fits || page.bytes.len() as u64 != PAGE_BYTES {
            return;
        }
        let content = if self.kept_bytes + page.bytes.len() <= MAX_KEPT_BYTES {
            self.kept_bytes += page.bytes.len();
            Content::Bytes(page.bytes.into())
        } else {
            Content::Digest(digest_of(0, page.bytes))
        };
        self.pages.insert(page.page_offset, content);
    }

    /// There is no more to come.
    pub fn end(&mut self, end: TouchedEnd) {
        if end.epoch != self.epoch {
            *self = Self { epoch: end.epoch, ..Self::default() };
        }
        self.end = Some(end);
    }

    /// Up to which offset what was not shown was not touched either.
    fn known_to(&self) -> Option<u64> {
        let end = self.end?;
        if end.complete && end.pages == self.pages.len() as u64 {
            return Some(u64::MAX);
        }
        self.pages.last_key_value().map(|(offset, _)| *offset)
    }
}

/// The first difference between two replicas' memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    /// A byte differs.
    Byte {
        /// Where it lies in guest memory.
        offset: u64,
        /// The aligned word that it is part of, at each replica.
        words: [[u8; WORD_BYTES]; 2],
    },
    /// A page differs of which only digests are kept.
    Page {
        /// Where it lies in guest memory.
        offset: u64,
    },
    /// Only one of them has written to a page.
    Alone {
        /// Where it lies in guest memory.
        offset: u64,
        /// Who has.
        replica: ReplicaId,
    },
}

/// Everything that two replicas' memories say about a divergence.
#[derive(Debug, PartialEq, Eq)]
struct Comparison {
    first: Option<Difference>,
    /// Pages that either has touched, and how many of them differ.
    pages: usize,
    differ: usize,
    /// Something was not shown.
    partial: bool,
}

fn compare(shown: [&Shown; 2]) -> Comparison {
    let known_to = shown.map(|shown| shown.known_to());
    let limit = known_to.into_iter().map(|to| to.unwrap_or(0)).min().unwrap_or(0);
    let offsets: BTreeSet<u64> = shown.iter().flat_map(|shown| shown.pages.keys().copied()).collect();
    let mut comparison = Comparison { first: None, pages: offsets.len(), differ: 0, partial: limit != u64::MAX };
    for offset in offsets.into_iter().take_while(|offset| *offset <= limit) {
        let difference = match shown.map(|shown| shown.pages.get(&offset)) {
            [Some(zero), Some(one)] => page_difference(offset, zero, one),
            [Some(_), None] => Some(Difference::Alone { offset, replica: ReplicaId::ZERO }),
            [None, _] => Some(Difference::Alone { offset, replica: ReplicaId::ONE }),
        };
        comparison.differ += usize::from(difference.is_some());
        comparison.first = comparison.first.or(difference);
    }
    comparison
}

fn page_difference(offset: u64, zero: &Content, one: &Content) -> Option<Difference> {
    if zero.digest() == one.digest() {
        return None;
    }
    Some(match zero.first_difference(one) {
        Some((at, words)) => Difference::Byte { offset: offset + at as u64, words },
        None => Difference::Page { offset },
    })
}

/// Puts a comparison into words.
fn describe(epoch: Epoch, comparison: &Comparison, guest_elf: Option<&Path>) -> DivergenceStatus {
    let mut report = format!("the replicas came apart in epoch {epoch}: ");
    let page_of = |offset: u64| GUEST_BASE + offset - offset % PAGE_BYTES;
    let mut status = DivergenceStatus { epoch, address: None, place: None, report: String::new() };
    // Writing to a string cannot fail.
    let _ = match comparison.first {
        Some(Difference::Byte { offset, words: [zero, one] }) => {
            let address = GUEST_BASE + offset;
            let place = symbols::place(address, guest_elf);
            let told = write!(
                report,
                "the first byte that differs is at {address:#x} ({place}) in page {:#x}; the 8 bytes from {:#x} on are \
                 {} at replica 0 and {} at replica 1",
                page_of(offset),
                address - address % WORD_BYTES as u64,
                Hex(zero),
                Hex(one),
            );
            (status.address, status.place) = (Some(address), Some(place));
            told
        }
        Some(Difference::Alone { offset, replica }) => {
            status.address = Some(page_of(offset));
            let names = names(page_of(offset), guest_elf);
            write!(report, "only replica {replica} has written to page {:#x} ({names})", page_of(offset))
        }
        Some(Difference::Page { offset }) => {
            status.address = Some(page_of(offset));
            let names = names(page_of(offset), guest_elf);
            write!(
                report,
                "page {:#x} ({names}) is the first that differs; only its digest was kept, because the epoch has \
                 written to more than {} MiB",
                page_of(offset),
                MAX_KEPT_BYTES >> 20
            )
        }
        None if comparison.partial => write!(report, "as far as memory was shown, it is the same at both"),
        None => write!(
            report,
            "all that it has written to memory is the same at both, so registers, hypercalls or outputs differ"
        ),
    };
    let _ = write!(report, "; {} of {} pages written to differ", comparison.differ, comparison.pages);
    if comparison.partial {
        report.push_str(" (not all were shown)");
    }
    status.report = report;
    status
}

/// What lies in a page.
fn names(page: u64, guest_elf: Option<&Path>) -> String {
    let mut names = symbols::data_between(page, page + PAGE_BYTES, guest_elf);
    if names.is_empty() {
        return symbols::place(page, guest_elf);
    }
    let more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

struct Hex([u8; WORD_BYTES]);

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes: Vec<_> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&bytes.join(" "))
    }
}

impl Supervisor {
    /// A replica shows a page of the epoch in which it came apart from its peer.
    pub(super) fn shows_page(&mut self, id: ReplicaId, page: &Touched<'_>) {
        let ready = self.replicas[id.index()].as_ref().and_then(|replica| replica.ready);
        let memory_bytes = ready.map_or(0, |ready| ready.guest_memory_bytes);
        let shown = &mut self.shown[id.index()];
        shown.take(page, memory_bytes);
        let pages = shown.came;
        if pages.is_multiple_of(TOUCHED_WINDOW_PAGES / 2) {
            self.say(id, &ToShim::Shown { pages });
        }
    }

    /// A replica has shown all that it has. When both have, it is compared.
    pub(super) fn has_shown(&mut self, id: ReplicaId, end: TouchedEnd) {
        self.shown[id.index()].end(end);
        let [zero, one] = &self.shown;
        if self.divergence.is_none() && zero.end.is_some() && one.end.is_some() && zero.epoch == one.epoch {
            let status = describe(end.epoch, &compare([zero, one]), self.symbols.unchanged().ok());
            self.diverged(status);
        }
    }

    /// A replica is gone. If its peer waits to be compared with it, that cannot be done any more.
    pub(super) fn shows_no_more(&mut self, id: ReplicaId) {
        let (gone, peer) = (&self.shown[id.index()], &self.shown[id.peer().index()]);
        if self.divergence.is_none()
            && gone.end.is_none()
            && let Some(end) = peer.end
        {
            let epoch = end.epoch;
            let report = format!(
                "the replicas came apart in epoch {epoch}: replica {id} ended before it had shown its memory, so where \
                 they differ is not known"
            );
            self.diverged(DivergenceStatus { epoch, address: None, place: None, report });
        }
    }

    fn diverged(&mut self, status: DivergenceStatus) {
        self.happened(status.report.clone());
        self.console.remark(&format!("[{}]", status.report));
        self.divergence = Some(status);
        // Both may be large, and a pair comes apart only once.
        self.shown = Default::default();
    }
}

#[cfg(test)]
mod tests;
