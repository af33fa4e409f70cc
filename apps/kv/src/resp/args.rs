//! The arguments of a command as ranges of the buffer that it arrived in.

/// A range of bytes in a command's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A command's arguments, the name first, none of them copied.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    buffer: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// The arguments that `spans` mark in `buffer`.
    #[inline]
    pub fn new(buffer: &'a [u8], spans: &'a [Span]) -> Self {
        Self { buffer, spans }
    }

    /// How many there are, the name included.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a command always has its name")]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Argument `index`; empty if there is none, which handlers exclude by their arity.
    #[inline]
    pub fn at(&self, index: usize) -> &'a [u8] {
        match self.spans.get(index) {
            Some(span) => self.buffer.get(span.start as usize..span.end as usize).unwrap_or(&[]),
            None => &[],
        }
    }

    /// A name of at most eight bytes as a word, zeros behind it, and its length; without a branch for every length, where
    /// the buffer goes on far enough behind it.
    #[inline]
    pub fn name_word(&self) -> Option<(u64, usize)> {
        let span = self.spans.first()?;
        let len = (span.end - span.start) as usize;
        let rest = self.buffer.get(span.start as usize..)?;
        let word = match (rest.first_chunk::<8>(), rest.first_chunk::<4>()) {
            (Some(word), _) => u64::from_le_bytes(*word),
            (None, Some(word)) if len <= 4 => u64::from(u32::from_le_bytes(*word)),
            _ => return None,
        };
        (1..=8).contains(&len).then(|| (word & (u64::MAX >> (64 - 8 * len)), len))
    }

    /// The arguments from `index` on.
    #[inline]
    pub fn from(&self, index: usize) -> Self {
        Self { buffer: self.buffer, spans: self.spans.get(index..).unwrap_or(&[]) }
    }

    /// The first `count` arguments.
    pub fn take(&self, count: usize) -> Self {
        Self { buffer: self.buffer, spans: self.spans.get(..count).unwrap_or(self.spans) }
    }

    /// All of them in order.
    #[inline]
    pub fn iter(self) -> impl DoubleEndedIterator<Item = &'a [u8]> + Clone {
        let buffer = self.buffer;
        self.spans.iter().map(move |s| buffer.get(s.start as usize..s.end as usize).unwrap_or(&[]))
    }
}
