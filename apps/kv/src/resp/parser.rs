//! The incremental command parser.
//!
//! It works on a buffer that starts with a command, complete or not, and remembers how far it came: a command that
//! arrives in pieces is scanned once. The same buffer, only longer, must be handed in until the command is complete.

use super::args::Span;
use super::inline::split_words;
use alloc::vec::Vec;

/// What a client may ask for before it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest argument, in bytes (redis: proto-max-bulk-len).
    pub bulk_bytes: usize,
    /// Most arguments of one command.
    pub arguments: usize,
    /// Longest inline command and longest length line, in bytes.
    pub inline_bytes: usize,
}

impl Limits {
    /// What redis allows, with bulks of at most `bulk_bytes`.
    pub const fn with_bulk_bytes(bulk_bytes: usize) -> Self {
        Self { bulk_bytes, arguments: 1024 * 1024, inline_bytes: 64 * 1024 }
    }
}

/// Input that is no RESP. The connection cannot be used after it, because where the next command starts is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// `*` is followed by no number, or one over the limit.
    MultibulkLength,
    /// `$` is followed by no number, or one over the limit.
    BulkLength,
    /// An argument starts with this byte instead of `$`.
    ExpectedBulk(u8),
    /// The line with the number of arguments does not end.
    LongMultibulkLine,
    /// The line with the length of an argument does not end.
    LongBulkLine,
    /// An inline command does not end.
    LongInline,
    /// An inline command with an open quote.
    UnbalancedQuotes,
}

impl ProtocolError {
    /// What redis says to it, without the leading `ERR Protocol error: `.
    pub fn text(&self) -> &'static str {
        match self {
            Self::MultibulkLength => "invalid multibulk length",
            Self::BulkLength => "invalid bulk length",
            Self::ExpectedBulk(_) => "expected '$', got ",
            Self::LongMultibulkLine => "too big mbulk count string",
            Self::LongBulkLine => "too big bulk count string",
            Self::LongInline => "too big inline request",
            Self::UnbalancedQuotes => "unbalanced quotes in request",
        }
    }
}

/// What a call of [`Parser::parse`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A command is complete and takes this many bytes of the buffer; its arguments are in [`Parser::args`].
    Command(usize),
    /// This many bytes hold no command (an empty line or array).
    Nothing(usize),
    /// The command goes on beyond the buffer.
    Partial,
    /// The input is no RESP.
    Error(ProtocolError),
}

/// What must arrive before it makes sense to parse on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The end of a line.
    Line,
    /// The buffer must grow to at least this many bytes.
    Total(usize),
}

/// The state of one connection's parser.
pub struct Parser {
    limits: Limits,
    /// Where parsing goes on.
    at: usize,
    /// Up to where the current line was searched for its end.
    searched: usize,
    /// Arguments still to come; `None` before the first line is complete.
    missing: Option<usize>,
    /// Length of the argument at `at`, when its length line is complete.
    bulk_bytes: Option<usize>,
    spans: Vec<Span>,
    unescaped: Vec<u8>,
    inline: bool,
}

impl Parser {
    /// A parser at the start of a command.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            at: 0,
            searched: 0,
            missing: None,
            bulk_bytes: None,
            spans: Vec::new(),
            unescaped: Vec::new(),
            inline: false,
        }
    }

    /// Changes the limits for what follows.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The arguments of the last complete command and the buffer that they lie in: `buffer` for all but inline
    /// commands.
    #[inline]
    pub fn args<'a>(&'a self, buffer: &'a [u8]) -> super::Args<'a> {
        super::Args::new(if self.inline { &self.unescaped } else { buffer }, &self.spans)
    }

    /// Memory held, in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.unescaped.capacity()
    }

    /// Gives back the memory that an unusually large command took.
    pub fn trim(&mut self) {
        const KEEP_SPANS: usize = 1024;
        if self.spans.capacity() > KEEP_SPANS {
            self.spans = Vec::new();
        }
        self.unescaped = Vec::new();
    }

    /// What a [`Step::Partial`] waits for.
    pub fn need(&self) -> Need {
        match self.bulk_bytes {
            Some(bytes) => Need::Total(self.at + bytes + 2),
            None => Need::Line,
        }
    }

    /// Parses the command at the start of `buffer`. After anything but [`Step::Partial`] the next call starts a new
    /// command.
    #[inline]
    pub fn parse(&mut self, buffer: &[u8]) -> Step {
        if self.missing.is_none()
            && let Some(bytes) = self.whole(buffer)
        {
            // The first pieces of this command may have left their marks.
            self.searched = 0;
            return Step::Command(bytes);
        }
        self.parse_any(buffer)
    }

    /// Parses a command that is complete, has at most nine arguments and none longer than 99 bytes, which most are; gives
    /// its length. Whatever else, this takes no notice of and leaves to [`parse_any`](Self::parse_any).
    #[inline]
    fn whole(&mut self, buffer: &[u8]) -> Option<usize> {
        const ONE_DIGIT: u32 = u32::from_le_bytes(*b"$\0\r\n");
        const TWO_DIGITS: u32 = u32::from_le_bytes(*b"$\0\0\r");
        const COUNT: u32 = u32::from_le_bytes(*b"*\0\r\n");
        let digit = |word: u32, shift: u32| (word >> shift & 0xff).wrapping_sub(u32::from(b'0'));
        let word = u32::from_le_bytes(*buffer.first_chunk()?);
        let count = digit(word, 8);
        if word & 0xffff_00ff != COUNT || count.wrapping_sub(1) > 8 {
            return None;
        }
        self.spans.clear();
        self.inline = false;
        let mut at = 4;
        for _ in 0..count {
            let rest = buffer.get(at..)?;
            let word = u32::from_le_bytes(*rest.first_chunk()?);
            let (bytes, header) = if word & 0xffff_00ff == ONE_DIGIT && digit(word, 8) < 10 {
                (digit(word, 8), 4)
            } else if word & 0xff00_00ff == TWO_DIGITS && digit(word, 8).wrapping_sub(1) < 9 && digit(word, 16) < 10 {
                (digit(word, 8) * 10 + digit(word, 16), 5)
            } else {
                return None;
            };
            let start = at + header;
            let end = start + bytes as usize;
            // A digit that is none is over 99 here; the sum of bounds catches it together with a cut end.
            if end + 2 > buffer.len() {
                return None;
            }
            self.spans.push(Span { start: start as u32, end: end as u32 });
            at = end + 2;
        }
        Some(at)
    }

    fn parse_any(&mut self, buffer: &[u8]) -> Step {
        let step = match self.missing {
            Some(missing) => self.bulks(buffer, missing),
            None => self.start(buffer),
        };
        if step != Step::Partial {
            self.at = 0;
            self.searched = 0;
            self.missing = None;
            self.bulk_bytes = None;
        }
        step
    }

    #[inline]
    fn start(&mut self, buffer: &[u8]) -> Step {
        self.spans.clear();
        match buffer.first() {
            None => return Step::Partial,
            Some(b'*') => self.inline = false,
            Some(_) => return self.inline_command(buffer),
        }
        let (count, next) = match self.number(buffer, 1) {
            Ok(Some(found)) => found,
            Ok(None) => return Step::Partial,
            Err(LineError::TooLong) => return Step::Error(ProtocolError::LongMultibulkLine),
            Err(LineError::NoNumber) => return Step::Error(ProtocolError::MultibulkLength),
        };
        if count > self.limits.arguments as i64 {
            return Step::Error(ProtocolError::MultibulkLength);
        }
        if count <= 0 {
            return Step::Nothing(next);
        }
        self.at = next;
        self.bulks(buffer, count as usize)
    }

    #[inline]
    fn bulks(&mut self, buffer: &[u8], mut missing: usize) -> Step {
        let mut at = self.at;
        let mut known = self.bulk_bytes.take();
        while missing > 0 {
            let bytes = match known.take() {
                Some(bytes) => bytes,
                None => match self.bulk_header(buffer, at) {
                    Ok(Some((bytes, next))) => {
                        at = next;
                        bytes
                    }
                    Ok(None) => return self.pause(at, missing, None),
                    Err(error) => return Step::Error(error),
                },
            };
            let end = at + bytes;
            if buffer.len() < end + 2 {
                return self.pause(at, missing, Some(bytes));
            }
            self.spans.push(Span { start: at as u32, end: end as u32 });
            at = end + 2;
            missing -= 1;
        }
        Step::Command(at)
    }

    fn pause(&mut self, at: usize, missing: usize, bulk_bytes: Option<usize>) -> Step {
        self.at = at;
        self.missing = Some(missing);
        self.bulk_bytes = bulk_bytes;
        Step::Partial
    }

    #[inline]
    fn bulk_header(&mut self, buffer: &[u8], at: usize) -> Result<Option<(usize, usize)>, ProtocolError> {
        // Redis looks for the end of the line first and at its first byte second.
        let kind = buffer.get(at).copied();
        match self.number(buffer, at + 1) {
            Ok(None) => Ok(None),
            Err(LineError::TooLong) => Err(ProtocolError::LongBulkLine),
            Ok(Some(_)) | Err(LineError::NoNumber) if kind != Some(b'$') => {
                Err(ProtocolError::ExpectedBulk(kind.unwrap_or(0)))
            }
            Ok(Some((bytes, next))) if bytes >= 0 && bytes <= self.limits.bulk_bytes as i64 => {
                Ok(Some((bytes as usize, next)))
            }
            Ok(Some(_)) | Err(LineError::NoNumber) => Err(ProtocolError::BulkLength),
        }
    }

    /// The number from `from` to the end of its line and where the next line starts.
    #[inline]
    fn number(&mut self, buffer: &[u8], from: usize) -> Result<Option<(i64, usize)>, LineError> {
        if let Some(&[digit @ b'0'..=b'9', b'\r', _]) = buffer.get(from..from + 3) {
            return Ok(Some((i64::from(digit - b'0'), from + 3)));
        }
        if let Some(&[tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _]) = buffer.get(from..from + 4) {
            return Ok(Some((i64::from(tens - b'0') * 10 + i64::from(ones - b'0'), from + 4)));
        }
        let line = from - 1;
        let search = self.searched.max(line);
        let unseen = buffer.get(search..).unwrap_or(&[]);
        match unseen.iter().position(|&c| c == b'\r') {
            Some(offset) if search + offset + 1 < buffer.len() => {
                let end = search + offset;
                let text = buffer.get(from..end).ok_or(LineError::NoNumber)?;
                let value = crate::base::parse_i64(text).ok_or(LineError::NoNumber)?;
                Ok(Some((value, end + 2)))
            }
            Some(offset) => {
                self.searched = search + offset;
                Ok(None)
            }
            None if buffer.len().saturating_sub(line) > self.limits.inline_bytes => Err(LineError::TooLong),
            None => {
                self.searched = buffer.len();
                Ok(None)
            }
        }
    }

    fn inline_command(&mut self, buffer: &[u8]) -> Step {
        let unseen = buffer.get(self.searched..).unwrap_or(&[]);
        let Some(offset) = unseen.iter().position(|&c| c == b'\n') else {
            self.searched = buffer.len();
            if buffer.len() > self.limits.inline_bytes {
                return Step::Error(ProtocolError::LongInline);
            }
            return Step::Partial;
        };
        let end = self.searched + offset;
        let line = buffer.get(..end).unwrap_or(&[]);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.inline = true;
        if !split_words(line, &mut self.unescaped, &mut self.spans) {
            return Step::Error(ProtocolError::UnbalancedQuotes);
        }
        if self.spans.is_empty() { Step::Nothing(end + 1) } else { Step::Command(end + 1) }
    }
}

enum LineError {
    TooLong,
    NoNumber,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::with_bulk_bytes(1000)
    }

    fn first(input: &[u8]) -> (Step, Vec<Vec<u8>>) {
        let mut parser = Parser::new(limits());
        let step = parser.parse(input);
        let args = if let Step::Command(_) = step {
            parser.args(input).iter().map(<[u8]>::to_vec).collect()
        } else {
            Vec::new()
        };
        (step, args)
    }

    #[test]
    fn commands_parse() {
        assert_eq!(first(b"*1\r\n$4\r\nPING\r\n*1"), (Step::Command(14), [b"PING".to_vec()].into()));
        assert_eq!(first(b"*2\r\n$0\r\n\r\n$3\r\n\r\n\0\r\n").1, [b"".to_vec(), b"\r\n\0".to_vec()]);
        assert_eq!(first(b"set a b\r\nx"), (Step::Command(9), [b"set".to_vec(), b"a".to_vec(), b"b".to_vec()].into()));
        assert_eq!(first(b"*0\r\nPING").0, Step::Nothing(4));
        assert_eq!(first(b"*-5\r\n").0, Step::Nothing(5));
        assert_eq!(first(b"\r\nPING").0, Step::Nothing(2));
    }

    #[test]
    fn bad_input_is_named() {
        let long = b"9".repeat(70_000);
        for (input, error) in [
            (&b"*x\r\n"[..], ProtocolError::MultibulkLength),
            (b"*1048577\r\n", ProtocolError::MultibulkLength),
            (b"*01\r\n", ProtocolError::MultibulkLength),
            (b"*1\r\n:1\r\n", ProtocolError::ExpectedBulk(b':')),
            (b"*1\r\n$-1\r\n", ProtocolError::BulkLength),
            (b"*1\r\n$1001\r\n", ProtocolError::BulkLength),
            (b"*1\r\n$ 1\r\n", ProtocolError::BulkLength),
            (b"get \"a\n", ProtocolError::UnbalancedQuotes),
            (&[b"*", &long[..]].concat(), ProtocolError::LongMultibulkLine),
            (&[b"*1\r\n$", &long[..]].concat(), ProtocolError::LongBulkLine),
            (&long, ProtocolError::LongInline),
        ] {
            assert_eq!(first(input).0, Step::Error(error));
        }
    }

    #[test]
    fn a_command_whose_header_came_in_two_pieces_leaves_nothing_behind_for_the_next() {
        let mut parser = Parser::new(limits());
        assert_eq!(parser.parse(b"*1"), Step::Partial);
        assert_eq!(parser.parse(b"*1\r\n$4\r\nPING\r\n"), Step::Command(14));
        assert_eq!(parser.parse(b"E\n"), Step::Command(2));
    }

    #[test]
    fn any_prefix_is_partial_and_resumes() {
        let input =
            b"*3\r\n$3\r\nSET\r\n$12\r\nabcdefghijkl\r\n$100\r\n".iter().copied().chain([7; 100]).chain(*b"\r\n");
        let input: Vec<u8> = input.collect();
        let mut parser = Parser::new(limits());
        for end in 0..input.len() {
            assert_eq!(parser.parse(&input[..end]), Step::Partial, "{end}");
            if let Need::Total(total) = parser.need() {
                assert!(total > end && total <= input.len());
            }
        }
        assert_eq!(parser.parse(&input), Step::Command(input.len()));
        assert_eq!(parser.args(&input).at(2), [7; 100]);
    }
}
