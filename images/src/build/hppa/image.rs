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
/// All of it but the register that gets the value, and three bits that the processor ignores.
const READ_TIMER_MASK: u32 = 0xffff_1fe0;

/// `or %r10,%r10,%r10` and `or %r31,%r31,%r31`: moves of no effect that QEMU takes for a halt, at any privilege. Time passes
/// without instructions then.
const HALTS: [u32; 2] = [0x094a_024a, 0x0bff_025f];

/// A guest's code must not read the interval timer, which no record holds, nor wait for interrupts, which nobody counts.
pub(in crate::build) fn check_code(native: &NativeImage) -> Result<(), ImageError> {
    for segment in native.segments.iter().filter(|segment| segment.flags & PF_X.0 != 0) {
        for (index, word) in segment.data.as_chunks::<4>().0.iter().enumerate() {
            let (word, address) = (u32::from_be_bytes(*word), segment.virtual_address + 4 * index as u64);
            if word & READ_TIMER_MASK == READ_TIMER {
                return Err(ImageError::ReadsTimer(address));
            }
            if HALTS.contains(&word) {
                return Err(ImageError::Halts(address));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native() -> NativeImage {
        let segment = |flags, address: u64, data: &[u8], memory_bytes| Segment {
            flags,
            virtual_address: address,
            physical_address: address,
            data: data.to_vec(),
            memory_bytes,
        };
        let segments = vec![
            segment(PF_R.0 | PF_X.0, 0xbfff_0000, &[1, 2, 3, 4, 5, 6, 7, 8], 8),
            segment(PF_R.0 | PF_W.0, 0xbfff_1000, &[9, 10, 11, 12], 0x1800),
        ];
        NativeImage { entry: 0xbfff_0004, segments }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = native().write();
        assert!(is_native(&bytes));
        assert_eq!(NativeImage::parse(&bytes).expect("as written"), native());
        for end in [0, 10, 60, bytes.len() - 1] {
            assert!(NativeImage::parse(&bytes[..end]).is_err(), "{end} bytes are no image");
        }
    }

    #[test]
    fn payloads_are_found_and_turned_round() {
        let mut image = native();
        image.segments.push(payload_segment(vec![1, 2, 3]));
        assert_eq!(image.segments[2].data, [3, 2, 1], "the shim reads it in reverse");
        assert_eq!(take_payload(&mut image), Some(vec![1, 2, 3]));
        assert_eq!((take_payload(&mut image), image), (None, native()));
    }

    #[test]
    fn a_guest_is_turned_round_page_by_page() {
        let guest = guest(&native(), &[(0x4000_0000, 0x4000_2000), (0x4000_3000, 0x4000_4000)]);
        let places: Vec<_> = guest.segments.iter().map(|s| (s.virtual_address, s.memory_bytes, s.flags)).collect();
        let (write, execute) = (PF_R.0 | PF_W.0, PF_R.0 | PF_X.0);
        assert_eq!(
            places,
            [
                (0x4000_0000, 0x2000, write),
                (0x4000_3000, 0x1000, write),
                (0x4000_d000, 0x2000, write),
                (0x4000_f000, 0x1000, execute),
            ]
        );
        // The native byte at address N is the linear byte at -N - 1.
        assert_eq!(guest.segments[3].data[0x1000 - 8..], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(guest.segments[2].data[0x2000 - 4..], [12, 11, 10, 9]);
        assert_eq!(guest.entry, 0x4000_fff8, "the first instruction's four bytes end where native ones begin");
    }

    #[test]
    fn a_guest_that_reads_the_timer_is_refused() {
        let mut image = native();
        assert!(check_code(&image).is_ok());
        // mfctl %cr16,%r28 as the cross compiler assembles it, and mfctl %cr11,%r28, which is harmless.
        image.segments[0].data = vec![0x01, 0x60, 0x08, 0xbc, 0x02, 0x00, 0x08, 0xbc];
        let refused = check_code(&image).expect_err("it reads the timer").to_string();
        assert!(refused.contains("0xbfff0004"), "{refused}");
        // Where it is data it does no harm.
        image.segments[0].flags = PF_R.0;
        assert!(check_code(&image).is_ok());
    }

    #[test]
    fn a_guest_that_halts_is_refused() {
        let mut image = native();
        // A move that is none, and the two that QEMU takes for more.
        for (code, refused) in [(0x08aa_024a_u32, false), (0x094a_024a, true), (0x0bff_025f, true)] {
            image.segments[0].data = code.to_be_bytes().to_vec();
            assert_eq!(check_code(&image).is_err(), refused, "{code:#x}");
        }
    }
}
