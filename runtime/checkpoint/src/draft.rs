//! A checkpoint that was taken and is not committed yet.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::mem;
use core::task::Poll;

use crate::checkpoints::{Base, Inner, Moment, is_name};
use crate::error::Error;
use crate::format::{
    Described, HEADER_BYTES, Header, Kind, PIECE_BYTES, chain_start, encode_table, put_end, put_piece,
};
use crate::part::Parts;
use crate::target::{Entry, Target};

/// Bytes that are put together and handed to the target at once; other tasks run in between.
const BUFFER_BYTES: usize = 64 * 1024;

/// A checkpoint that was taken. Nobody finds it before it is [committed](Self::commit); dropped, it was never taken.
///
/// While it is there the program goes on. A block that it changes and that was not written yet is copied first, so the
/// memory that this takes is at most that of the regions, and as a rule that of what is changed meanwhile.
#[must_use = "a draft is no checkpoint before it is committed"]
pub struct Draft<T: Target> {
    inner: Rc<Inner>,
    target: T,
    name: String,
    header: Header,
    base_sequence: Option<u64>,
    replaced: Vec<u64>,
    /// Those that have something in it, with their numbers.
    parts: Parts,
    numbers: Vec<u32>,
    /// The part that is written next.
    at: usize,
    buffer: Vec<u8>,
    chain: u64,
    pieces: u64,
    bytes: u64,
    most_bytes: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Taken; the target does not know of it.
    Taken,
    Writing,
    Written,
    Committed,
}

impl<T: Target> fmt::Debug for Draft<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, stage) = (&self.name, self.stage);
        f.debug_struct("Draft").field("name", name).field("stage", &stage).finish_non_exhaustive()
    }
}

impl<T: Target> Draft<T> {
    pub(crate) fn take(inner: &Rc<Inner>, name: &str, target: T, kind: Kind) -> Result<Self, Error<T::Error>> {
        if !is_name(name) {
            return Err(Error::Name { name: name.into() });
        }
        if inner.busy.get() {
            return Err(Error::Busy);
        }
        let entries = target.entries();
        let newest = entries.iter().rfind(|entry| entry.name == name);
        let base = match kind {
            Kind::Full => None,
            Kind::Incremental => {
                let ours = inner.base.borrow();
                let base = newest.filter(|entry| ours.as_ref().is_some_and(|b| b.name == name && b.id == entry.id));
                Some(base.ok_or_else(|| Error::NoBase { name: name.into() })?)
            }
        };
        let highest = entries.iter().map(|entry| entry.sequence).max().unwrap_or(0);
        let sequence = highest.max(inner.last_sequence.get()) + 1;
        let base_id = base.map_or(0, |base| base.id);
        let header = Header { program: inner.program, sequence, base: base_id, kind, parts: 0, table_bytes: 0 };
        let replaced = match kind {
            Kind::Full => entries.iter().filter(|entry| entry.name == name).map(|entry| entry.sequence).collect(),
            Kind::Incremental => Vec::new(),
        };
        let base_sequence = base.map(|base| base.sequence);
        inner.busy.set(true);
        inner.last_sequence.set(sequence);
        inner.call_hooks(Moment::BeforeTake(kind));
        // From here on dropping it undoes everything.
        let mut draft = Self {
            inner: Rc::clone(inner),
            target,
            name: name.into(),
            header,
            base_sequence,
            replaced,
            parts: Vec::new(),
            numbers: Vec::new(),
            at: 0,
            buffer: Vec::new(),
            chain: 0,
            pieces: 0,
            bytes: 0,
            most_bytes: 0,
            stage: Stage::Taken,
        };
        draft.freeze()?;
        Ok(draft)
    }

    /// Fixes all parts as they are, and writes header and table into the buffer.
    fn freeze(&mut self) -> Result<(), Error<T::Error>> {
        let parts = self.inner.parts.borrow();
        let mut described = Vec::with_capacity(parts.len());
        for (number, part) in (0..).zip(parts.iter()) {
            let changed_only = self.header.kind == Kind::Incremental;
            let frozen = part.freeze(changed_only).map_err(|_| Error::Encode { part: part.name().into() })?;
            // Also those without content have something to thaw.
            self.parts.push(Rc::clone(part));
            self.numbers.push(number);
            self.most_bytes += frozen.most_pieces * PIECE_BYTES as u64 + frozen.most_bytes;
            described.push(Described {
                name: part.name().into(),
                shape: part.shape(),
                present: frozen.present,
                content_bytes: frozen.length_bytes,
            });
        }
        let table = encode_table(&described);
        self.header.parts = described.len() as u32;
        self.header.table_bytes = table.len() as u32;
        let header = self.header.encode();
        let sum = |bytes: &[u8]| bytes.last_chunk().map_or(0, |sum| u64::from_le_bytes(*sum));
        self.chain = chain_start(sum(&header), sum(&table));
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(&table);
        self.most_bytes += (HEADER_BYTES + table.len() + PIECE_BYTES) as u64;
        Ok(())
    }

    /// Its number.
    pub fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// Bytes that it will have at most.
    pub fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// Writes it to the target, without committing it: for who has to wait for others before (a distributed checkpoint).
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Full`], [`Error::Device`]. It can only be dropped then.
    pub async fn write(&mut self) -> Result<(), Error<T::Error>> {
        if self.stage == Stage::Taken {
            self.target.begin(self.most_bytes).await?;
            self.stage = Stage::Writing;
        }
        while self.stage == Stage::Writing {
            self.fill();
            if self.stage == Stage::Writing {
                self.target.append(&self.buffer[..BUFFER_BYTES]).await?;
                self.bytes += BUFFER_BYTES as u64;
                self.buffer.drain(..BUFFER_BYTES);
                give_way().await;
            }
        }
        let last = mem::take(&mut self.buffer);
        if !last.is_empty() {
            self.target.append(&last).await?;
            self.bytes += last.len() as u64;
        }
        Ok(())
    }

    /// Fills the buffer, or comes to the end.
    fn fill(&mut self) {
        while self.buffer.len() < BUFFER_BYTES {
            let (Some(part), Some(&number)) = (self.parts.get(self.at), self.numbers.get(self.at)) else {
                self.chain = put_end(&mut self.buffer, self.chain, self.pieces);
                self.stage = Stage::Written;
                return;
            };
            let (buffer, chain, pieces) = (&mut self.buffer, &mut self.chain, &mut self.pieces);
            let more = part.emit(&mut |offset, content| {
                *chain = put_piece(buffer, *chain, number, offset, content);
                *pieces += 1;
            });
            self.at += usize::from(!more);
        }
    }

    /// Writes what is not written yet and makes it one of the target's checkpoints: it is there wholly or not at all.
    ///
    /// # Errors
    /// Those of [`write`](Self::write), and [`Error::TooMany`].
    pub async fn commit(mut self) -> Result<Entry, Error<T::Error>> {
        self.write().await?;
        let entry = Entry {
            name: self.name.clone(),
            sequence: self.header.sequence,
            id: self.chain,
            base: self.base_sequence,
            bytes: self.bytes,
        };
        self.target.commit(entry.clone(), &self.replaced).await?;
        self.stage = Stage::Committed;
        *self.inner.base.borrow_mut() = Some(Base { name: self.name.clone(), id: self.chain });
        Ok(entry)
    }

    /// Gives it up: the same as dropping it. What was changed since the checkpoint before it is still known.
    pub fn abort(self) {}
}

impl<T: Target> Drop for Draft<T> {
    fn drop(&mut self) {
        let committed = self.stage == Stage::Committed;
        self.parts.iter().for_each(|part| part.thaw(committed));
        if matches!(self.stage, Stage::Writing | Stage::Written) {
            self.target.abort();
        }
        // A hook that took another would call itself.
        self.inner.call_hooks(Moment::AfterTake { committed });
        self.inner.busy.set(false);
    }
}

/// Lets other tasks run once.
pub(crate) async fn give_way() {
    let mut first = true;
    poll_fn(|context| {
        if mem::take(&mut first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}
