//! Names for the addresses of code that a guest writes to its console.
//!
//! A guest has no names of its functions. Where it would write one, in a backtrace say, it writes [`CODE_NAME`]: `<code at 0x40012345>`.
//! Whoever shows the console passes it through a [`Filter`]: the lines of a backtrace become what `std` writes on Linux, with
//! functions, those that were inlined into them, files and lines; elsewhere the name stands where the address stood. What the
//! guest has written stays in the console's log, byte for byte.
//!
//! A program may write anything, in pieces, so nothing here fails: what is not a whole address, or one at which there is no code, is
//! shown as it is.

mod elf;
#[cfg(test)]
mod tests;

use hypercall::layout::CODE_NAME;

pub use elf::{ElfNames, SymbolFile};
pub(crate) use elf::{functions, is_code};

/// Longest line that is kept until it is complete; a longer one is shown in pieces.
const LONGEST_LINE_BYTES: usize = 4096;
/// Longest address with what is around it: what may be kept when the rest of a line is shown.
const LONGEST_NAME_BYTES: usize = 64;
/// What `std` writes for an entry of a backtrace that is shown for developers, around the name.
const ENTRY: [&str; 2] = ["{ fn: \"", "\" }"];
/// What it writes where it finds no name.
const UNKNOWN: &[u8] = b"<unknown>";
/// How `std` indents a file below a name: behind the number of a frame, and more where the frame has an address.
const PLACE_INDENT: usize = 13;
const ADDRESS_INDENT: usize = 18;
/// Where the folder of an ordinary program's sources is said to be; `std` calls it `.` in a short backtrace.
const SOURCES: &str = "/program/";

/// A function at an address, and where in its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// File, line and column (0: not known).
    pub place: Option<(String, u32, u32)>,
}

/// Finds functions.
pub trait Names {
    /// The function at an address of guest code behind all those that were inlined there, the innermost first; empty when
    /// there is none.
    fn at(&mut self, address: u64) -> Vec<Function>;
}

/// Puts names into a console's text.
#[derive(Debug)]
pub struct Filter<N> {
    names: N,
    /// What of a line has come and was not shown.
    line: Vec<u8>,
    /// Its beginning was shown already.
    begun: bool,
}

/// A line of a backtrace.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    /// What stands before the name.
    start: Vec<u8>,
    address: u64,
    /// The frame's own address stands there, too, as in a full backtrace.
    has_address: bool,
}

impl<N: Names> Filter<N> {
    /// One whose names are found there.
    pub fn new(names: N) -> Self {
        Self { names, line: Vec::new(), begun: false }
    }

    /// Takes the next bytes of the console and gives what is to be shown now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end_line(&mut out);
            } else if self.line.len() > LONGEST_LINE_BYTES {
                self.show_piece(&mut out);
            }
        }
        out
    }

    /// Whether something waits for the end of its line.
    pub fn is_waiting(&self) -> bool {
        !self.line.is_empty()
    }

    /// What is to be shown of a line that has not ended for a while: a question to somebody, perhaps. An address that has begun
    /// waits for its end.
    pub fn pause(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.show_piece(&mut out);
        out
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let line = std::mem::take(&mut self.line);
        self.put_inline(&line, &mut out);
        out
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.line);
        let frame = if std::mem::take(&mut self.begun) { None } else { frame(&line) };
        let functions = frame.as_ref().map(|frame| self.names.at(frame.address)).unwrap_or_default();
        match frame {
            Some(frame) if !functions.is_empty() => put_frame(&frame, &functions, out),
            _ => self.put_inline(&line, out),
        }
    }

    /// Shows what there is of a line but for an address at its end that may not be whole.
    fn show_piece(&mut self, out: &mut Vec<u8>) {
        let kept = self.line.len() - unfinished(&self.line).unwrap_or(self.line.len());
        let shown: Vec<u8> = self.line.drain(..self.line.len() - kept).collect();
        self.begun |= !shown.is_empty();
        self.put_inline(&shown, out);
    }

    /// Writes a text with names where addresses stood.
    fn put_inline(&mut self, mut text: &[u8], out: &mut Vec<u8>) {
        while let Some((start, end, address)) = next_name(text) {
            let functions = self.names.at(address);
            let (before, after) = (&text[..start], &text[end..]);
            let [entry_start, entry_end] = ENTRY.map(str::as_bytes);
            let entry = before.strip_suffix(entry_start).zip(after.strip_prefix(entry_end));
            match (entry, functions.first()) {
                (_, None) => out.extend_from_slice(&text[..end]),
                (Some((before, _)), _) => {
                    out.extend_from_slice(before);
                    out.extend_from_slice(functions.iter().map(entry_of).collect::<Vec<_>>().join(", ").as_bytes());
                }
                (None, Some(function)) => {
                    out.extend_from_slice(before);
                    out.extend_from_slice(function.name.as_bytes());
                    if let Some(place) = place_of(function) {
                        out.extend_from_slice(format!(" at {place}").as_bytes());
                    }
                }
            }
            text = match (entry, functions.is_empty()) {
                (Some((_, after)), false) => after,
                _ => after,
            };
        }
        out.extend_from_slice(text);
    }
}

/// File, line and column, as far as they are known.
fn place_of(function: &Function) -> Option<String> {
    let (file, line, column) = function.place.as_ref()?;
    Some(if *column == 0 { format!("{file}:{line}") } else { format!("{file}:{line}:{column}") })
}

/// A path, or what begins with one, as a short backtrace shows it.
fn shortened(path: &str) -> String {
    path.strip_prefix(SOURCES).map_or_else(|| path.to_owned(), |within| format!("./{within}"))
}

/// A function in a backtrace for developers.
fn entry_of(function: &Function) -> String {
    let place = function.place.as_ref();
    let place = place.map(|(file, line, _)| format!(", file: \"{}\", line: {line}", shortened(file)));
    format!("{{ fn: \"{}\"{} }}", function.name, place.unwrap_or_default())
}

/// Writes a frame as `std` does: each function in a line, below it the place.
fn put_frame(frame: &Frame, functions: &[Function], out: &mut Vec<u8>) {
    let indent = PLACE_INDENT + if frame.has_address { ADDRESS_INDENT } else { 0 };
    for (index, function) in functions.iter().enumerate() {
        let blank = vec![b' '; frame.start.len()];
        out.extend_from_slice(if index == 0 { &frame.start } else { &blank });
        out.extend_from_slice(function.name.as_bytes());
        out.push(b'\n');
        if let Some(place) = place_of(function) {
            let place = if frame.has_address { place } else { shortened(&place) };
            out.extend_from_slice(format!("{:indent$}at {place}\n", "").as_bytes());
        }
    }
}

/// What a line of a backtrace says, if it is one: `   7: ` or `   7:         0x40012345 - `, then a name, and nothing else.
fn frame(line: &[u8]) -> Option<Frame> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let number = line.trim_ascii_start();
    let digits = number.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = number[digits..].strip_prefix(b": ").filter(|_| digits > 0)?;
    let own = own_address(rest);
    let name = own.map_or(rest, |(_, name)| name);
    let start = line[..line.len() - name.len()].to_vec();
    let address = match (next_name(name), own) {
        (Some((0, end, address)), _) if end == name.len() => address,
        // It points behind a call.
        (_, Some((address, UNKNOWN))) => address.checked_sub(1)?,
        _ => return None,
    };
    Some(Frame { start, address, has_address: own.is_some() })
}

/// The address at the beginning of what stands behind a frame's number in a full backtrace, and what stands behind that.
fn own_address(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.trim_ascii_start().strip_prefix(b"0x")?;
    let count = digits.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    Some((hexadecimal(&digits[..count])?, digits[count..].strip_prefix(b" - ")?))
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    // The parser of numbers would take a sign.
    let are_digits = digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok().filter(|_| are_digits)
}

/// The first address in a text that stands for a name: where it begins and ends, and the address.
fn next_name(text: &[u8]) -> Option<(usize, usize, u64)> {
    let mut from = 0;
    while let Some(at) = find(&text[from..], CODE_NAME[0].as_bytes()) {
        let start = from + at;
        let digits = start + CODE_NAME[0].len();
        if let Some((bytes, address)) = rest_of_name(&text[digits..]) {
            return Some((start, digits + bytes, address));
        }
        from = digits;
    }
    None
}

/// The digits of an address, what may stand behind them (by which `std` knows a function), and the end: how many bytes, and the address.
fn rest_of_name(text: &[u8]) -> Option<(usize, u64)> {
    let end = find(&text[..text.len().min(LONGEST_NAME_BYTES)], CODE_NAME[1].as_bytes())?;
    let mut words = text[..end].split(|byte| *byte == b' ');
    let address = hexadecimal(words.next()?)?;
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let is_one = words.next().is_none_or(|word| !word.is_empty() && word.iter().all(is_word)) && words.next().is_none();
    is_one.then_some((end + CODE_NAME[1].len(), address))
}

/// Where the last address of a text begins if it has not ended and still can.
fn unfinished(text: &[u8]) -> Option<usize> {
    let tail = text.len().saturating_sub(LONGEST_NAME_BYTES);
    let start = tail + text[tail..].iter().rposition(|byte| *byte == b'<')?;
    let begun = &text[start..];
    let marker = CODE_NAME[0].as_bytes();
    // A lone `<` may be the end of a question.
    let is_one = begun.len() > 1 && (begun.starts_with(marker) || marker.starts_with(begun));
    (is_one && find(begun, CODE_NAME[1].as_bytes()).is_none()).then_some(start)
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
