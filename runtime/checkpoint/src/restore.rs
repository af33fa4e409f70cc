//! Finding a checkpoint whole and fitting, and putting it into place.
//!
//! Everything is read twice. The first time it is checked, and values are decoded; nothing has been changed then, and
//! whatever is wrong is refused. The second time regions are written to. So memory is bounded by the values' encodings and
//! a buffer, however large the regions are.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::BLOCK_BYTES;
use crate::checkpoints::{Base, Checkpoints, Inner, Moment, find};
use crate::draft::give_way;
use crate::error::Error;
use crate::format::{
    Bad, Described, HEADER_BYTES, Header, Next, PIECE_BYTES, VERSION, chain_start, decode_table, next_piece,
};
use crate::part::{PartKind, Parts};
use crate::target::{Entry, Target};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 64 * 1024;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Which checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// The newest of this name.
    Newest(&'a str),
    /// The one with this number.
    Number(u64),
}

impl<'a> From<&'a str> for Which<'a> {
    fn from(name: &'a str) -> Self {
        Self::Newest(name)
    }
}

impl From<u64> for Which<'_> {
    fn from(sequence: u64) -> Self {
        Self::Number(sequence)
    }
}

/// No other checkpoint is taken meanwhile; a restore that ends half way leaves every block to be looked at again.
struct Restoring {
    inner: Rc<Inner>,
    /// Parts are being written to.
    applying: Parts,
}

impl Restoring {
    fn new<E>(inner: &Rc<Inner>) -> Result<Self, Error<E>> {
        if inner.busy.replace(true) {
            return Err(Error::Busy);
        }
        Ok(Self { inner: Rc::clone(inner), applying: Vec::new() })
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        self.inner.busy.set(false);
        if !self.applying.is_empty() {
            self.applying.iter().for_each(|part| part.restored(false));
            self.inner.call_hooks(Moment::AfterRestore { done: false });
        }
    }
}

impl Checkpoints {
    /// Puts all parts back to where they were at a checkpoint. The program should do nothing with its regions meanwhile.
    /// Afterwards an incremental checkpoint may build upon it, if it is the newest of its name.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::NoSuch`], [`Error::Device`], [`Error::Damaged`], [`Error::Version`], [`Error::Foreign`],
    /// [`Error::Shape`], [`Error::Parts`], [`Error::Decode`]: nothing was changed then. [`Error::HalfRestored`].
    pub async fn restore<T: Target>(&self, target: &T, which: impl Into<Which<'_>>) -> Result<Entry, Error<T::Error>> {
        let parts = self.0.parts.borrow().clone();
        let entry = self.restore_parts(target, which.into(), &parts, true).await?;
        *self.0.base.borrow_mut() = Some(Base { name: entry.name.clone(), id: entry.id });
        Ok(entry)
    }

    /// Puts one part back, and leaves the others as they are.
    ///
    /// # Errors
    /// [`Error::NoPart`], and those of [`restore`](Self::restore), as far as they concern that part.
    pub async fn restore_part<T: Target>(
        &self,
        target: &T,
        which: impl Into<Which<'_>>,
        part: &str,
    ) -> Result<Entry, Error<T::Error>> {
        let found = find(&self.0.parts.borrow(), part).cloned();
        let part = found.ok_or_else(|| Error::NoPart { part: part.into() })?;
        self.restore_parts(target, which.into(), &vec![part], false).await
    }

    /// Reads a checkpoint and all that it builds upon, and checks it as a restore would. Changes nothing.
    ///
    /// # Errors
    /// Those of [`restore`](Self::restore).
    pub async fn verify<T: Target>(&self, target: &T, which: impl Into<Which<'_>>) -> Result<Entry, Error<T::Error>> {
        let parts = self.0.parts.borrow().clone();
        let chain = chain_of(&target.entries(), which.into())?;
        self.check(target, &chain, &parts, true).await?;
        last(chain)
    }

    async fn restore_parts<T: Target>(
        &self,
        target: &T,
        which: Which<'_>,
        parts: &Parts,
        all: bool,
    ) -> Result<Entry, Error<T::Error>> {
        let mut restoring = Restoring::new(&self.0)?;
        let chain = chain_of(&target.entries(), which)?;
        let encoded = self.check(target, &chain, parts, all).await?;
        let mut puts = Vec::new();
        for part in parts {
            if let Some(encoded) = encoded.get(part.name()) {
                puts.push(part.stage(encoded).map_err(|_| Error::Decode { part: part.name().into() })?);
            }
        }
        self.0.call_hooks(Moment::BeforeRestore);
        restoring.applying.clone_from(parts);
        for entry in &chain {
            let applied = read(target, entry, |part, offset, content| {
                if let Some(part) = find(parts, &part.name) {
                    part.apply(offset, content);
                }
            });
            applied.await.map_err(|_| Error::HalfRestored { sequence: entry.sequence })?;
        }
        puts.into_iter().for_each(|put| put());
        parts.iter().for_each(|part| part.restored(all));
        restoring.applying.clear();
        let entry = last(chain)?;
        self.0.last_sequence.set(self.0.last_sequence.get().max(entry.sequence));
        self.0.call_hooks(Moment::AfterRestore { done: true });
        Ok(entry)
    }

    /// Reads all of a chain and looks whether it is whole and fits; gives the values' encodings by the parts' names.
    async fn check<T: Target>(
        &self,
        target: &T,
        chain: &[Entry],
        parts: &Parts,
        all: bool,
    ) -> Result<BTreeMap<String, Vec<u8>>, Error<T::Error>> {
        let mut encoded: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut base = 0;
        for entry in chain {
            let damaged = |what| Error::Damaged { sequence: entry.sequence, what };
            let mut fits = true;
            let read = read(target, entry, |part, offset, content| {
                if part.shape.kind == PartKind::Region || find(parts, &part.name).is_none() {
                    return;
                }
                let whole = encoded.entry(part.name.clone()).or_default();
                if offset == 0 {
                    whole.clear();
                }
                fits &= whole.len() as u64 == offset;
                whole.extend_from_slice(content);
            });
            let (header, table) = read.await?;
            if header.program != self.0.program {
                return Err(Error::Foreign { expected: self.0.program, found: header.program });
            }
            if header.base != base || header.sequence != entry.sequence {
                return Err(damaged("it is not the one that was asked for, or its base is not"));
            }
            base = entry.id;
            check_table(&table, parts, all)?;
            for part in table.iter().filter(|part| part.present && part.shape.kind == PartKind::Value) {
                if part.content_bytes == 0 && find(parts, &part.name).is_some() {
                    encoded.insert(part.name.clone(), Vec::new());
                }
                let length = encoded.get(&part.name).map(|encoded| encoded.len() as u64);
                fits &= length.is_none_or(|length| length == part.content_bytes);
            }
            if !fits {
                return Err(damaged("a value is not whole"));
            }
        }
        Ok(encoded)
    }
}

fn last<E>(mut chain: Vec<Entry>) -> Result<Entry, Error<E>> {
    chain.pop().ok_or_else(|| Error::NoSuch { asked: String::new() })
}

/// The checkpoint and all that it builds upon, the full one first.
fn chain_of<E>(entries: &[Entry], which: Which<'_>) -> Result<Vec<Entry>, Error<E>> {
    let (found, asked) = match which {
        Which::Newest(name) => (entries.iter().rfind(|entry| entry.name == name), name.into()),
        Which::Number(number) => (entries.iter().find(|entry| entry.sequence == number), number.to_string()),
    };
    let mut chain = vec![found.ok_or(Error::NoSuch { asked })?.clone()];
    while let Some(base) = chain.last().and_then(|entry| entry.base) {
        let sequence = chain.last().map_or(0, |entry| entry.sequence);
        // Numbers fall, so this ends.
        let found = entries.iter().find(|entry| entry.sequence == base && base < sequence);
        chain.push(found.ok_or(Error::Damaged { sequence, what: "what it builds upon is not there" })?.clone());
    }
    chain.reverse();
    Ok(chain)
}

/// Compares what a checkpoint has with what is registered.
fn check_table<E>(table: &[Described], parts: &Parts, all: bool) -> Result<(), Error<E>> {
    for part in parts {
        let Some(found) = table.iter().find(|found| found.name == part.name()) else {
            return Err(Error::Parts { part: part.name().into(), in_checkpoint: false });
        };
        let expected = part.shape();
        if found.shape != expected {
            return Err(Error::Shape { part: part.name().into(), expected, found: found.shape });
        }
    }
    let unknown = table.iter().find(|found| find(parts, &found.name).is_none());
    match unknown.filter(|_| all) {
        Some(found) => Err(Error::Parts { part: found.name.clone(), in_checkpoint: true }),
        None => Ok(()),
    }
}

/// Reads the bytes of an entry in order.
struct Reader<'a, T> {
    target: &'a T,
    entry: &'a Entry,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were taken.
    taken: usize,
    /// Bytes of the entry that were read.
    read: u64,
}

impl<T: Target> Reader<'_, T> {
    async fn take(&mut self, into: &mut [u8]) -> Result<(), Error<T::Error>> {
        if self.buffer.len() - self.taken < into.len() {
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let old = self.buffer.len();
            let more = (self.entry.bytes - self.read).min(BUFFER_BYTES as u64) as usize;
            self.buffer.resize(old + more, 0);
            self.target.read(self.entry.sequence, self.read, &mut self.buffer[old..]).await?;
            self.read += more as u64;
            give_way().await;
        }
        let cut = Error::Damaged { sequence: self.entry.sequence, what: "it is cut short" };
        into.copy_from_slice(self.buffer.get(self.taken..self.taken + into.len()).ok_or(cut)?);
        self.taken += into.len();
        Ok(())
    }

    fn is_at_end(&self) -> bool {
        self.read == self.entry.bytes && self.taken == self.buffer.len()
    }
}

/// Reads and checks one checkpoint; `visit` gets each piece: part, offset in it in bytes, content.
async fn read<T: Target>(
    target: &T,
    entry: &Entry,
    mut visit: impl FnMut(&Described, u64, &[u8]),
) -> Result<(Header, Vec<Described>), Error<T::Error>> {
    let bad = |bad| match bad {
        Bad::Damaged(what) => Error::Damaged { sequence: entry.sequence, what },
        Bad::Version(found) => Error::Version { found, expected: VERSION },
    };
    let mut reader = Reader { target, entry, buffer: Vec::new(), taken: 0, read: 0 };
    let mut fixed = [0; HEADER_BYTES];
    reader.take(&mut fixed).await?;
    let (header, header_sum) = Header::decode(&fixed).map_err(bad)?;
    let mut table = vec![0; header.table_bytes as usize];
    reader.take(&mut table).await?;
    let (table, table_sum) = decode_table(&table, header.parts).map_err(bad)?;
    let (mut chain, mut pieces) = (chain_start(header_sum, table_sum), 0);
    let mut content = [0; BLOCK_BYTES];
    loop {
        let mut fixed = [0; PIECE_BYTES];
        reader.take(&mut fixed).await?;
        let piece = match next_piece(&fixed, chain).map_err(bad)? {
            Next::Piece(piece) => piece,
            Next::End { pieces: expected, id } if expected == pieces && id == entry.id && reader.is_at_end() => {
                return Ok((header, table));
            }
            Next::End { .. } => return Err(bad(Bad::Damaged("it does not end where it should"))),
        };
        let stored = &mut content[..piece.stored_bytes()];
        reader.take(stored).await?;
        chain = piece.check(&fixed, stored, chain).map_err(bad)?;
        pieces += 1;
        let part = table.get(piece.part as usize).filter(|part| part.present);
        let end = piece.offset.checked_add(piece.length as u64);
        let fits = |part: &&Described| end.is_some_and(|end| end <= part.content_bytes);
        let part = part.filter(fits).ok_or_else(|| bad(Bad::Damaged("a piece lies outside of its part")))?;
        let shown = if piece.zeros { &ZEROS[..piece.length] } else { &content[..piece.length] };
        visit(part, piece.offset, shown);
    }
}
