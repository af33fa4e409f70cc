//! The little of ELF that images need: what is loaded, the notes, and writing both again without the rest.

use object::LittleEndian;
use object::elf::{EM_PARISC, EM_X86_64, ET_EXEC, FileHeader64, Machine, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};

use super::ImageError;

/// Bytes of a 64-bit ELF file header.
const FILE_HEADER_BYTES: usize = 64;
/// Bytes of one program header.
const PROGRAM_HEADER_BYTES: usize = 56;
/// Segments keep their offset within a page, so that a loader may map them.
const PAGE_BYTES: u64 = 4096;

/// A loadable segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// `PF_` bits.
    pub flags: u32,
    /// Virtual address.
    pub virtual_address: u64,
    /// Physical address.
    pub physical_address: u64,
    /// What the file holds.
    pub data: Vec<u8>,
    /// Bytes in memory; zeros follow the data.
    pub memory_bytes: u64,
}

impl Segment {
    /// Whether the segment may be both written and executed.
    pub fn is_writable_code(&self) -> bool {
        let both = PF_W.0 | PF_X.0;
        self.flags & both == both
    }

    /// First virtual address behind it, or `None` if there is no such address.
    pub fn virtual_end(&self) -> Option<u64> {
        self.virtual_address.checked_add(self.memory_bytes)
    }

    /// First physical address behind it, or `None` if there is no such address.
    pub fn physical_end(&self) -> Option<u64> {
        self.physical_address.checked_add(self.memory_bytes)
    }
}

/// A note: owner (without its terminating zero), type, description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub owner: Vec<u8>,
    pub kind: u32,
    pub description: Vec<u8>,
}

/// A static x86-64 executable, or a guest for PA-RISC in the form in which its shim loads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Executable {
    /// Which of them.
    pub machine: Machine,
    /// Where it starts.
    pub entry: u64,
    /// What is loaded, in the order of the program headers. Empty segments are left out.
    pub segments: Vec<Segment>,
    /// Virtual address and length in bytes of each note segment; they lie within loadable segments.
    note_ranges: Vec<(u64, u64)>,
    /// The notes.
    pub notes: Vec<Note>,
}

impl Executable {
    /// Reads an ELF file. Never panics, whatever the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let malformed = |what: &str| ImageError::NotElf(what.to_owned());
        let header =
            FileHeader64::<LittleEndian>::parse(bytes).map_err(|error| ImageError::NotElf(error.to_string()))?;
        let endian = header.endian().map_err(|error| ImageError::NotElf(error.to_string()))?;
        let machine = header.e_machine(endian);
        if machine != EM_X86_64 && machine != EM_PARISC {
            return Err(malformed("neither for x86-64 nor a guest for PA-RISC"));
        }
        if header.e_type(endian) != ET_EXEC {
            return Err(malformed("not a static executable (is it position-independent or an object file?)"));
        }
        let mut executable = Self::new(machine, header.e_entry(endian));
        let headers =
            header.program_headers(endian, bytes).map_err(|_| ImageError::Truncated("its program headers"))?;
        for program in headers {
            let data = program.data(endian, bytes).map_err(|()| ImageError::Truncated("one of its segments"))?;
            match program.p_type(endian) {
                PT_INTERP => return Err(malformed("dynamically linked")),
                PT_NOTE => executable.add_notes(program.p_vaddr(endian), data)?,
                PT_LOAD if program.p_memsz(endian) > 0 => executable.segments.push(Segment {
                    flags: program.p_flags(endian).0,
                    virtual_address: program.p_vaddr(endian),
                    physical_address: program.p_paddr(endian),
                    data: data.to_owned(),
                    memory_bytes: program.p_memsz(endian),
                }),
                _ => {}
            }
        }
        executable.check()?;
        Ok(executable)
    }

    /// One that has nothing to load yet.
    pub fn new(machine: Machine, entry: u64) -> Self {
        Self { machine, entry, segments: Vec::new(), note_ranges: Vec::new(), notes: Vec::new() }
    }

    fn check(&self) -> Result<(), ImageError> {
        let malformed = |what: String| ImageError::NotElf(what);
        if self.segments.is_empty() {
            return Err(malformed("nothing in it is to be loaded".to_owned()));
        }
        for segment in &self.segments {
            let whole = segment.virtual_end().is_some() && segment.physical_end().is_some();
            if !whole || segment.memory_bytes < segment.data.len() as u64 {
                return Err(malformed(format!("the segment at {:#x} has an impossible size", segment.virtual_address)));
            }
        }
        Ok(())
    }

    fn add_notes(&mut self, address: u64, data: &[u8]) -> Result<(), ImageError> {
        let bad = |_| ImageError::NotElf("its notes are malformed".to_owned());
        // Notes are aligned to four bytes whatever the segment says: linkers raise it to the section's alignment.
        let mut notes = NoteIterator::<FileHeader64<LittleEndian>>::new(LittleEndian, 4, data).map_err(bad)?;
        while let Some(note) = notes.next().map_err(bad)? {
            self.notes.push(Note {
                owner: note.name().to_owned(),
                kind: note.n_type(LittleEndian).0,
                description: note.desc().to_owned(),
            });
        }
        self.note_ranges.push((address, data.len() as u64));
        Ok(())
    }

    /// The note of that owner and type.
    pub fn note(&self, owner: &[u8], kind: u32) -> Option<&Note> {
        self.notes.iter().find(|note| note.owner == owner && note.kind == kind)
    }

    /// Writes an ELF with the same loadable parts and notes and nothing else: no sections, symbols or debug data.
    pub fn write(&self) -> Vec<u8> {
        let offsets = self.segment_offsets();
        let notes: Vec<_> = self.note_ranges.iter().filter_map(|&range| self.note_header(range, &offsets)).collect();
        let count = self.segments.len() + notes.len();
        let mut out = self.file_header(count);
        for (segment, &offset) in self.segments.iter().zip(&offsets) {
            let place = (segment.virtual_address, segment.physical_address);
            let sizes = (segment.data.len() as u64, segment.memory_bytes);
            push_program_header(&mut out, PT_LOAD.0, segment.flags, offset, place, sizes, PAGE_BYTES);
        }
        for note in notes {
            out.extend_from_slice(&note);
        }
        for (segment, &offset) in self.segments.iter().zip(&offsets) {
            out.resize(offset as usize, 0);
            out.extend_from_slice(&segment.data);
        }
        out
    }

    /// Where in the written file the segments lie.
    fn segment_offsets(&self) -> Vec<u64> {
        let headers = FILE_HEADER_BYTES + PROGRAM_HEADER_BYTES * (self.segments.len() + self.note_ranges.len());
        let mut end = headers as u64;
        let mut offsets = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let within = segment.virtual_address % PAGE_BYTES;
            let mut offset = end - end % PAGE_BYTES + within;
            if offset < end {
                offset += PAGE_BYTES;
            }
            // A segment that is all zeros has no bytes to place.
            if segment.data.is_empty() {
                offset = end;
            }
            offsets.push(offset);
            end = offset + segment.data.len() as u64;
        }
        offsets
    }

    fn note_header(&self, (address, bytes): (u64, u64), offsets: &[u64]) -> Option<Vec<u8>> {
        let (segment, offset) = self.segments.iter().zip(offsets).find(|(segment, _)| {
            let inside = address.checked_sub(segment.virtual_address);
            inside.is_some_and(|skip| skip.saturating_add(bytes) <= segment.data.len() as u64)
        })?;
        let skip = address - segment.virtual_address;
        let mut out = Vec::with_capacity(PROGRAM_HEADER_BYTES);
        let place = (address, segment.physical_address.wrapping_add(skip));
        push_program_header(&mut out, PT_NOTE.0, object::elf::PF_R.0, offset + skip, place, (bytes, bytes), 4);
        Some(out)
    }

    fn file_header(&self, program_headers: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_HEADER_BYTES);
        // Magic, 64-bit, little-endian, version 1, System V.
        out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        out.extend_from_slice(&ET_EXEC.0.to_le_bytes());
        out.extend_from_slice(&self.machine.0.to_le_bytes());
        out.extend_from_slice(&1u32.to_le_bytes());
        out.extend_from_slice(&self.entry.to_le_bytes());
        out.extend_from_slice(&(FILE_HEADER_BYTES as u64).to_le_bytes());
        // No section headers, no flags.
        out.extend_from_slice(&[0; 12]);
        let sizes = [FILE_HEADER_BYTES as u16, PROGRAM_HEADER_BYTES as u16, program_headers as u16, 64, 0, 0];
        for half in sizes {
            out.extend_from_slice(&half.to_le_bytes());
        }
        out
    }
}

fn push_program_header(
    out: &mut Vec<u8>,
    kind: u32,
    flags: u32,
    offset: u64,
    (virtual_address, physical_address): (u64, u64),
    (file_bytes, memory_bytes): (u64, u64),
    alignment: u64,
) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    for word in [offset, virtual_address, physical_address, file_bytes, memory_bytes, alignment] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}
