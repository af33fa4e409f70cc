//! How effects are stored: database (1 byte), number of arguments (4 bytes), and each argument with its length before it
//! (4 bytes); numbers are little endian. A record is one effect or several.

use crate::resp::Span;
use alloc::vec::Vec;

/// An effect being put together: the arguments of a command.
#[derive(Default)]
pub(super) struct Effect {
    args: Vec<u8>,
    count: u32,
}

impl Effect {
    /// Forgets all arguments and begins with the command's name.
    pub fn begin(&mut self, name: &str) -> &mut Self {
        self.args.clear();
        self.count = 0;
        self.arg(name.as_bytes())
    }

    pub fn arg(&mut self, arg: &[u8]) -> &mut Self {
        self.args.extend_from_slice(&(arg.len() as u32).to_le_bytes());
        self.args.extend_from_slice(arg);
        self.count += 1;
        self
    }

    pub fn args<'a>(&mut self, args: impl Iterator<Item = &'a [u8]>) -> &mut Self {
        args.for_each(|arg| {
            self.arg(arg);
        });
        self
    }

    /// Arguments so far, the name included.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the arguments so far.
    pub fn bytes(&self) -> usize {
        self.args.len()
    }

    /// Gives the effect in its stored form to `put`, in pieces.
    pub fn encode(&self, db: usize, mut put: impl FnMut(&[u8])) {
        let [a, b, c, d] = self.count.to_le_bytes();
        put(&[db as u8, a, b, c, d]);
        put(&self.args);
    }

    /// Gives back memory that a large effect took.
    pub fn trim(&mut self) {
        const KEEP_BYTES: usize = 64 * 1024;
        if self.args.capacity() > KEEP_BYTES {
            self.args = Vec::new();
        }
    }
}

fn number(record: &[u8], at: usize) -> Option<usize> {
    let word = record.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word) as usize)
}

/// Finds the arguments of the effect that begins at `at` in `record`: its database, and where the next effect begins.
/// Nothing if there is no whole one.
pub(super) fn decode(record: &[u8], at: usize, spans: &mut Vec<Span>) -> Option<(usize, usize)> {
    spans.clear();
    let db = usize::from(*record.get(at)?);
    let count = number(record, at + 1)?;
    let mut at = at + 5;
    for _ in 0..count {
        let start = at + 4;
        let end = start.checked_add(number(record, at)?).filter(|&end| end <= record.len())?;
        spans.push(Span { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? });
        at = end;
    }
    (count > 0).then_some((db, at))
}
