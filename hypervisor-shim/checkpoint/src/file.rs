//! A checkpoint as a file.
//!
//! | part | content |
//! |---|---|
//! | header | [`HEADER_BYTES`]: what the checkpoint is of, and where in its life; checksummed |
//! | sections | any number, each with a header of [`SECTION_HEADER_BYTES`], numbered, checksummed with all before it |
//! | end | the last section: how many pages and sections there are; nothing follows |
//!
//! A section's checksum begins with that of the section before (the first with the header's), so sections that are
//! dropped, repeated, exchanged or taken from another file are noticed. Checksums find accidents, not forgeries: whoever
//! can write the file can write any guest.
//!
//! The pages' records are compressed in blocks of LZ4; a block that does not shrink is stored as it is.

mod error;

pub use error::FileError;

use alloc::vec::Vec;

use protocol::digest::Digest64;
use protocol::{Clocks, Epoch, Generation};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::pages::{self, PAGE_BYTES, PageRecord, PagesError};

/// The first bytes of a checkpoint.
pub const MAGIC: [u8; 8] = *b"PLXCKPT\n";
/// Version of the format; it changes with any field.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = size_of::<HeaderBytes>();
/// Bytes before a section's content.
pub const SECTION_HEADER_BYTES: usize = size_of::<SectionBytes>();
/// The longest section, before compression and after.
pub const MAX_SECTION_BYTES: usize = 1024 * 1024;
/// Pages in a section that [`Encoder`] writes.
pub const SECTION_PAGES: usize = 32;

const CHECKSUM_SEED: u64 = u64::from_le_bytes(MAGIC);
const STORED: u32 = 0;
const LZ4: u32 = 1;

/// Whether a checkpoint stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All pages.
    Full,
    /// Pages written to since another checkpoint.
    Incremental {
        /// The checksum of the other one ([`Totals::checksum`]).
        parent: u64,
    },
}

/// What a checkpoint is of. It can be restored only where all of it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// [`crate::state::X86_64`] or another.
    pub architecture: u32,
    /// Version of the ABI between guest and shim.
    pub abi_version: u32,
    /// Digest of the whole image, shim and guest.
    pub image: [u8; 32],
    /// Digest of all CPU features that a guest can see.
    pub cpu: [u8; 32],
    /// Size of the guest's memory.
    pub memory_bytes: u64,
}

/// What stands first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether it stands for itself.
    pub kind: Kind,
    /// What it is of.
    pub identity: Identity,
    /// It is the state at the end of this epoch.
    pub epoch: Epoch,
    /// The generation of the pair then.
    pub generation: Generation,
    /// The digest of that epoch.
    pub digest: u64,
    /// The clocks of that epoch.
    pub clocks: Clocks,
}

/// What stands last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Pages with content.
    pub pages: u64,
    /// Pages that are zero.
    pub zero_pages: u64,
    /// Sections, the last one included.
    pub sections: u64,
    /// The checksum of the last section, and so of everything: the checkpoint's name for those that build upon it.
    pub checksum: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct HeaderBytes {
    magic: [u8; 8],
    version: U32,
    header_bytes: U32,
    incremental: U32,
    architecture: U32,
    abi_version: U32,
    reserved: U32,
    image: [u8; 32],
    cpu: [u8; 32],
    memory_bytes: U64,
    parent: U64,
    epoch: U64,
    generation: U64,
    digest: U64,
    monotonic_ns: U64,
    realtime_ns: U64,
    checksum: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct SectionBytes {
    kind: U32,
    encoding: U32,
    stored_bytes: U32,
    raw_bytes: U32,
    number: U64,
    checksum: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct EndBytes {
    pages: U64,
    zero_pages: U64,
    sections: U64,
}

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum SectionKind {
    Settings = 1,
    Pages = 2,
    State = 3,
    End = 4,
}

impl SectionKind {
    fn from_code(code: u32) -> Option<Self> {
        [Self::Settings, Self::Pages, Self::State, Self::End].into_iter().find(|kind| *kind as u32 == code)
    }
}

impl Identity {
    /// Whether a checkpoint of `self` can be restored where `wanted` is.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, wanted: &Self) -> Result<(), FileError> {
        let same = |field, expected: u64, got: u64| {
            if expected == got { Ok(()) } else { Err(FileError::Identity { field, expected, got }) }
        };
        let head = |digest: &[u8; 32]| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&digest[..8]);
            u64::from_be_bytes(bytes)
        };
        same(error::ARCHITECTURE, wanted.architecture.into(), self.architecture.into())?;
        same("ABI version", wanted.abi_version.into(), self.abi_version.into())?;
        if wanted.image != self.image {
            return Err(FileError::Identity { field: "image", expected: head(&wanted.image), got: head(&self.image) });
        }
        if wanted.cpu != self.cpu {
            return Err(FileError::Identity { field: "processor", expected: head(&wanted.cpu), got: head(&self.cpu) });
        }
        same("memory size", wanted.memory_bytes, self.memory_bytes)
    }
}

impl Header {
    fn encode(&self) -> HeaderBytes {
        let (incremental, parent) = match self.kind {
            Kind::Full => (0, 0),
            Kind::Incremental { parent } => (1, parent),
        };
        let mut bytes = HeaderBytes {
            magic: MAGIC,
            version: U32::new(VERSION),
            header_bytes: U32::new(HEADER_BYTES as u32),
            incremental: U32::new(incremental),
            architecture: U32::new(self.identity.architecture),
            abi_version: U32::new(self.identity.abi_version),
            reserved: U32::ZERO,
            image: self.identity.image,
            cpu: self.identity.cpu,
            memory_bytes: U64::new(self.identity.memory_bytes),
            parent: U64::new(parent),
            epoch: U64::new(self.epoch),
            generation: U64::new(self.generation),
            digest: U64::new(self.digest),
            monotonic_ns: U64::new(self.clocks.monotonic_ns),
            realtime_ns: U64::new(self.clocks.realtime_ns),
            checksum: U64::ZERO,
        };
        bytes.checksum = U64::new(header_checksum(&bytes));
        bytes
    }

    /// Reads the header at the start of a file.
    ///
    /// # Errors
    /// Why it is none of this version.
    pub fn decode(file: &[u8]) -> Result<Self, FileError> {
        if !file.starts_with(&MAGIC[..file.len().min(MAGIC.len())]) {
            return Err(FileError::Magic);
        }
        let (bytes, _) = HeaderBytes::ref_from_prefix(file).map_err(|_| FileError::Truncated { section: None })?;
        if bytes.version.get() != VERSION || bytes.header_bytes.get() as usize != HEADER_BYTES {
            return Err(FileError::Version { got: bytes.version.get() });
        }
        if bytes.checksum.get() != header_checksum(bytes) {
            return Err(FileError::Checksum { section: None });
        }
        let kind = match (bytes.incremental.get(), bytes.parent.get(), bytes.reserved.get()) {
            (0, 0, 0) => Kind::Full,
            (1, parent, 0) => Kind::Incremental { parent },
            // Written so by nobody: the checksum is right.
            _ => return Err(FileError::Checksum { section: None }),
        };
        Ok(Self {
            kind,
            identity: Identity {
                architecture: bytes.architecture.get(),
                abi_version: bytes.abi_version.get(),
                image: bytes.image,
                cpu: bytes.cpu,
                memory_bytes: bytes.memory_bytes.get(),
            },
            epoch: bytes.epoch.get(),
            generation: bytes.generation.get(),
            digest: bytes.digest.get(),
            clocks: Clocks { monotonic_ns: bytes.monotonic_ns.get(), realtime_ns: bytes.realtime_ns.get() },
        })
    }
}

fn header_checksum(bytes: &HeaderBytes) -> u64 {
    let mut digest = Digest64::new(CHECKSUM_SEED);
    digest.write_bytes(&bytes.as_bytes()[..HEADER_BYTES - size_of::<U64>()]);
    digest.finish()
}

fn section_checksum(before: u64, bytes: &SectionBytes, content: &[u8]) -> u64 {
    let mut digest = Digest64::new(before);
    digest.write_bytes(&bytes.as_bytes()[..SECTION_HEADER_BYTES - size_of::<U64>()]);
    digest.write_bytes(content);
    digest.finish()
}

/// Writes a checkpoint piece by piece. What each call appends is to be written to the file in that order.
#[derive(Debug)]
pub struct Encoder {
    totals: Totals,
}

impl Encoder {
    /// Begins a checkpoint.
    pub fn new(header: &Header, out: &mut Vec<u8>) -> Self {
        let bytes = header.encode();
        out.extend_from_slice(bytes.as_bytes());
        Self { totals: Totals { checksum: bytes.checksum.get(), ..Totals::default() } }
    }

    /// Appends how the guest was run: a text of the caller's.
    pub fn settings(&mut self, text: &str, out: &mut Vec<u8>) {
        self.section(SectionKind::Settings, text.as_bytes(), out);
    }

    /// Appends records of pages ([`crate::pages`]), at most [`MAX_SECTION_BYTES`] of them.
    ///
    /// # Errors
    /// The records are not those of a guest with so much memory.
    pub fn pages(&mut self, records: &[u8], memory_bytes: u64, out: &mut Vec<u8>) -> Result<(), PagesError> {
        count(records, memory_bytes, &mut self.totals)?;
        self.section(SectionKind::Pages, records, out);
        Ok(())
    }

    /// Appends registers and the shim's guest-visible state ([`crate::state`]).
    pub fn state(&mut self, state: &[u8], out: &mut Vec<u8>) {
        self.section(SectionKind::State, state, out);
    }

    /// Appends the end.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Totals {
        let end = EndBytes {
            pages: U64::new(self.totals.pages),
            zero_pages: U64::new(self.totals.zero_pages),
            sections: U64::new(self.totals.sections + 1),
        };
        self.section(SectionKind::End, end.as_bytes(), out);
        self.totals
    }

    fn section(&mut self, kind: SectionKind, raw: &[u8], out: &mut Vec<u8>) {
        debug_assert!(raw.len() <= MAX_SECTION_BYTES);
        let packed = (kind == SectionKind::Pages).then(|| lz4_flex::block::compress(raw));
        let packed = packed.filter(|packed| packed.len() < raw.len());
        let (encoding, content) = packed.as_deref().map_or((STORED, raw), |packed| (LZ4, packed));
        let mut bytes = SectionBytes {
            kind: U32::new(kind as u32),
            encoding: U32::new(encoding),
            stored_bytes: U32::new(content.len() as u32),
            raw_bytes: U32::new(raw.len() as u32),
            number: U64::new(self.totals.sections),
            checksum: U64::ZERO,
        };
        self.totals.checksum = section_checksum(self.totals.checksum, &bytes, content);
        bytes.checksum = U64::new(self.totals.checksum);
        self.totals.sections += 1;
        out.extend_from_slice(bytes.as_bytes());
        out.extend_from_slice(content);
    }
}

fn count(records: &[u8], memory_bytes: u64, totals: &mut Totals) -> Result<(), PagesError> {
    for record in pages::records(records, memory_bytes) {
        match record? {
            PageRecord::Content { .. } => totals.pages += 1,
            PageRecord::Zero { count, .. } => totals.zero_pages += u64::from(count),
        }
    }
    Ok(())
}

/// A section that was read: whole, in its place, checksum verified.
#[derive(Debug, PartialEq, Eq)]
pub enum Section<'a> {
    /// What [`Encoder::settings`] was given; UTF-8 as far as its writer kept to it.
    Settings(&'a [u8]),
    /// Records of pages, each of the guest's.
    Pages(&'a [u8]),
    /// What [`Encoder::state`] was given.
    State(&'a [u8]),
    /// The end.
    End(Totals),
}

/// What one call of [`Decoder::read`] achieved.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Bytes of the input that were taken.
    pub used_bytes: usize,
    /// The section, or `None` if more input is needed for one.
    pub section: Option<Section<'a>>,
}

/// Reads the sections of a checkpoint one by one.
#[derive(Debug)]
pub struct Decoder {
    memory_bytes: u64,
    totals: Totals,
    ended: bool,
    raw: Vec<u8>,
}

impl Decoder {
    /// A decoder of what follows the header at the start of `file`; the header comes with it.
    ///
    /// # Errors
    /// As of [`Header::decode`].
    pub fn new(file: &[u8]) -> Result<(Self, Header), FileError> {
        let header = Header::decode(file)?;
        let checksum = header.encode().checksum.get();
        let totals = Totals { checksum, ..Totals::default() };
        Ok((Self { memory_bytes: header.identity.memory_bytes, totals, ended: false, raw: Vec::new() }, header))
    }

    /// Reads the section at the start of `input`, if it is there as a whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read<'d>(&'d mut self, input: &'d [u8]) -> Result<Progress<'d>, FileError> {
        let number = self.totals.sections;
        if self.ended {
            return if input.is_empty() {
                Ok(Progress { used_bytes: 0, section: None })
            } else {
                Err(FileError::Trailing)
            };
        }
        let Ok((bytes, rest)) = SectionBytes::ref_from_prefix(input) else {
            return Ok(Progress { used_bytes: 0, section: None });
        };
        let wrong = |field, got: u64| FileError::Section { section: number, field, got };
        let (stored_bytes, raw_bytes) = (bytes.stored_bytes.get() as usize, bytes.raw_bytes.get() as usize);
        if stored_bytes > MAX_SECTION_BYTES || raw_bytes > MAX_SECTION_BYTES {
            return Err(wrong("length", stored_bytes.max(raw_bytes) as u64));
        }
        let Some(content) = rest.get(..stored_bytes) else {
            return Ok(Progress { used_bytes: 0, section: None });
        };
        if bytes.checksum.get() != section_checksum(self.totals.checksum, bytes, content) {
            return Err(FileError::Checksum { section: Some(number) });
        }
        if bytes.number.get() != number {
            return Err(wrong("number", bytes.number.get()));
        }
        let kind = bytes.kind.get();
        let kind = SectionKind::from_code(kind).ok_or(wrong("kind", kind.into()))?;
        let raw = match bytes.encoding.get() {
            STORED if stored_bytes == raw_bytes => content,
            LZ4 => {
                self.raw.resize(raw_bytes, 0);
                match lz4_flex::block::decompress_into(content, &mut self.raw) {
                    Ok(length) if length == raw_bytes => &self.raw,
                    _ => return Err(FileError::Compression { section: number }),
                }
            }
            encoding => return Err(wrong("encoding", encoding.into())),
        };
        self.totals.checksum = bytes.checksum.get();
        self.totals.sections += 1;
        let section = match kind {
            SectionKind::Settings => Section::Settings(raw),
            SectionKind::State => Section::State(raw),
            SectionKind::Pages => {
                count(raw, self.memory_bytes, &mut self.totals).map_err(FileError::Pages)?;
                Section::Pages(raw)
            }
            SectionKind::End => {
                check_end(raw, &self.totals, number)?;
                self.ended = true;
                Section::End(self.totals)
            }
        };
        Ok(Progress { used_bytes: SECTION_HEADER_BYTES + stored_bytes, section: Some(section) })
    }

    /// Whether the end has come. A file that has no more bytes before that is cut short.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

fn check_end(raw: &[u8], totals: &Totals, number: u64) -> Result<(), FileError> {
    let end = EndBytes::ref_from_bytes(raw).map_err(|_| FileError::Section {
        section: number,
        field: "length",
        got: raw.len() as u64,
    })?;
    for (field, expected, got) in [
        ("pages", end.pages.get(), totals.pages),
        ("zero pages", end.zero_pages.get(), totals.zero_pages),
        ("sections", end.sections.get(), totals.sections),
    ] {
        if expected != got {
            return Err(FileError::Totals { field, expected, got });
        }
    }
    Ok(())
}

/// Reads a whole file from `file` and hands each section to `each`. To judge a checkpoint before anything is touched, read
/// it once with an `each` that does nothing.
///
/// # Errors
/// The first thing wrong with it; sections before that were handed over.
pub fn read_all(file: &[u8], mut each: impl FnMut(Section<'_>)) -> Result<(Header, Totals), FileError> {
    let (mut decoder, header) = Decoder::new(file)?;
    let mut rest = &file[HEADER_BYTES..];
    loop {
        let Progress { used_bytes, section } = decoder.read(rest)?;
        rest = &rest[used_bytes..];
        if let Some(section) = section {
            each(section);
        } else if decoder.has_ended() {
            return Ok((header, decoder.totals));
        } else {
            return Err(FileError::Truncated { section: Some(decoder.totals.sections) });
        }
    }
}

/// Writes a guest's pages from `content` (by page number; `None`: not in this checkpoint) in sections of a fitting size.
///
/// # Errors
/// What [`Encoder::pages`] says; nothing for numbers below the memory's.
pub fn encode_pages<'p>(
    encoder: &mut Encoder,
    memory_bytes: u64,
    content: impl Iterator<Item = (u32, &'p [u8])>,
    mut write: impl FnMut(&[u8]),
) -> Result<(), PagesError> {
    let (mut records, mut out) = (Vec::new(), Vec::new());
    let mut zeros: Option<(u32, u32)> = None;
    let mut flush = |records: &mut Vec<u8>| {
        encoder.pages(records, memory_bytes, &mut out)?;
        write(&out);
        records.clear();
        out.clear();
        Ok(())
    };
    for (page, bytes) in content {
        if bytes.iter().all(|byte| *byte == 0) {
            zeros = match zeros {
                Some((first, count)) if first + count == page => Some((first, count + 1)),
                other => {
                    other.into_iter().for_each(|(first, count)| pages::push_zero(&mut records, first, count));
                    Some((page, 1))
                }
            };
        } else {
            zeros.take().into_iter().for_each(|(first, count)| pages::push_zero(&mut records, first, count));
            pages::push_content(&mut records, page, |out| out.extend_from_slice(&bytes[..PAGE_BYTES]));
        }
        if records.len() >= SECTION_PAGES * pages::CONTENT_BYTES {
            flush(&mut records)?;
        }
    }
    zeros.into_iter().for_each(|(first, count)| pages::push_zero(&mut records, first, count));
    if records.is_empty() { Ok(()) } else { flush(&mut records) }
}

#[cfg(test)]
mod tests;
