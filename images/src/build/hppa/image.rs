//! Executables for PA-RISC: the native ones of its linker, and guests as the shim loads them.
//!
//! Linear memory lies in reverse in the machine's (`hypervisor-shim/src/hppa`). A shim reads and writes linear memory, so
//! what it loads must be turned round by whoever makes it: the payload as a whole in the machine's memory, and a guest's
//! native code within the payload once more.

use object::BigEndian;
use object::elf::{EM_PARISC, ET_EXEC, FileHeader32, PF_R, PF_W, PF_X, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::PRIVILEGED_END;
use crate::build::ImageError;
use crate::build::elf::{Executable, Segment};
use crate::build::pack::PAYLOAD_ADDRESS;

/// Bytes of a 32-bit ELF file header, and of one program header.
const FILE_HEADER_BYTES: usize = 52;
const PROGRAM_HEADER_BYTES: usize = 32;
/// The fifth byte of an ELF of 32-bit class.
const CLASS_32: u8 = 1;
const PAGE_BYTES: u64 = 4096;

/// A static executable of PA-RISC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::build) struct NativeImage {
    /// Where it starts.
    pub entry: u32,
    /// What is loaded.
    pub segments: Vec<Segment>,
}

/// Whether an ELF is of that kind rather than a 64-bit one.
pub(in crate::build) fn is_native(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF") && bytes.get(4) == Some(&CLASS_32)
}

impl NativeImage {
    /// Reads an ELF file. Never panics, whatever the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let wrong = |error: object::read::Error| ImageError::NotElf(error.to_string());
        let header = FileHeader32::<BigEndian>::parse(bytes).map_err(wrong)?;
        let endian = header.endian().map_err(wrong)?;
        if header.e_machine(endian) != EM_PARISC || header.e_type(endian) != ET_EXEC {
            return Err(ImageError::NotElf("a 32-bit executable, but not a static one of PA-RISC".to_owned()));
        }
        let headers =
            header.program_headers(endian, bytes).map_err(|_| ImageError::Truncated("its program headers"))?;
        let mut segments = Vec::new();
        for program in headers.iter().filter(|program| program.p_type(endian) == PT_LOAD) {
            let data = program.data(endian, bytes).map_err(|()| ImageError::Truncated("one of its segments"))?;
            let memory_bytes = u64::from(program.p_memsz(endian));
            if memory_bytes < data.len() as u64 {
                return Err(ImageError::NotElf("a segment has an impossible size".to_owned()));
            }
            segments.push(Segment {
                flags: program.p_flags(endian).0,
                virtual_address: program.p_vaddr(endian).into(),
                physical_address: program.p_paddr(endian).into(),
                data: data.to_owned(),
                memory_bytes,
            });
        }
        segments.retain(|segment| segment.memory_bytes > 0);
        Ok(Self { entry: header.e_entry(endian), segments })
    }

    /// Writes an ELF with the same loadable parts and nothing else.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        // Magic, 32-bit, big-endian, version 1, Linux (as its linker says).
        out.extend_from_slice(b"\x7fELF\x01\x02\x01\x03\0\0\0\0\0\0\0\0");
        out.extend_from_slice(&ET_EXEC.0.to_be_bytes());
        out.extend_from_slice(&EM_PARISC.0.to_be_bytes());
        for word in [1, self.entry, FILE_HEADER_BYTES as u32, 0, 0] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let count = self.segments.len() as u16;
        for half in [FILE_HEADER_BYTES as u16, PROGRAM_HEADER_BYTES as u16, count, 40, 0, 0] {
            out.extend_from_slice(&half.to_be_bytes());
        }
        let mut offset = (FILE_HEADER_BYTES + PROGRAM_HEADER_BYTES * self.segments.len()) as u32;
        for segment in &self.segments {
            let (bytes, place) = (segment.data.len() as u32, segment.physical_address as u32);
            let words = [
                PT_LOAD.0,
                offset,
                segment.virtual_address as u32,
                place,
                bytes,
                segment.memory_bytes as u32,
                segment.flags,
                1,
            ];
            for word in words {
                out.extend_from_slice(&word.to_be_bytes());
            }
            offset += bytes;
        }
        for segment in &self.segments {
            out.extend_from_slice(&segment.data);
        }
        out
    }
}

/// Where linear memory's payload begins, from the other end.
const PAYLOAD_PHYSICAL_END: u64 = PRIVILEGED_END.0 as u64 - PAYLOAD_ADDRESS;

/// The payload as the machine must find it for the shim to read it.
pub(in crate::build) fn payload_segment(mut payload: Vec<u8>) -> Segment {
    payload.reverse();
    let address = PAYLOAD_PHYSICAL_END - payload.len() as u64;
    Segment {
        flags: PF_R.0,
        virtual_address: address,
        physical_address: address,
        memory_bytes: payload.len() as u64,
        data: payload,
    }
}

/// Takes the payload out of an image.
pub(in crate::build) fn take_payload(image: &mut NativeImage) -> Option<Vec<u8>> {
    let at = image.segments.iter().position(|segment| segment.physical_end() == Some(PAYLOAD_PHYSICAL_END))?;
    let mut payload = image.segments.remove(at).data;
    payload.reverse();
    Some(payload)
}

/// The linear address behind a native one of a guest: `0 - native`.
fn linear(native: u64) -> u64 {
    u64::from(0u32.wrapping_sub(native as u32))
}

/// A guest as the shim loads it: its linear data and stack (start and end each), then its native parts, turned round.
pub(in crate::build) fn guest(native: &NativeImage, data: &[(u64, u64)]) -> Executable {
    let mut guest = Executable::new(EM_PARISC, linear(native.entry.into()) - 4);
    for &(start, end) in data {
        guest.segments.push(Segment {
            flags: PF_R.0 | PF_W.0,
            virtual_address: start,
            physical_address: start,
            data: Vec::new(),
            memory_bytes: end - start,
        });
    }
    for segment in native.segments.iter().rev() {
        // Whole pages, because their last bytes come first.
        let bytes = segment.memory_bytes.next_multiple_of(PAGE_BYTES);
        let mut contents = segment.data.clone();
        contents.resize(bytes as usize, 0);
        contents.reverse();
        let address = linear(segment.virtual_address + bytes);
        guest.segments.push(Segment {
            flags: segment.flags,
            virtual_address: address,
            physical_address: address,
            data: contents,
            memory_bytes: bytes,
        });
    }
    guest
}

/// `mfctl` of the interval timer, which QEMU lets every program read.
const READ_TIMER: u32 = 0x0200_08a0 | 16 << 21;
/// All of it but the register that gets the value.
const READ_TIMER_MASK: u32 = 0xffff_ffe0;

/// A guest's code must not read the interval timer, which no record holds.
pub(in crate::build) fn check_code(native: &NativeImage) -> Result<(), ImageError> {
    for segment in native.segments.iter().filter(|segment| segment.flags & PF_X.0 != 0) {
        for (index, word) in segment.data.as_chunks::<4>().0.iter().enumerate() {
            if u32::from_be_bytes(*word) & READ_TIMER_MASK == READ_TIMER {
                return Err(ImageError::ReadsTimer(segment.virtual_address + 4 * index as u64));
            }
        }
    }
    Ok(())
}
