//! One bootable ELF from a shim and a guest.
//!
//! The image is the shim's own ELF with one more loadable segment, at the fixed physical address
//! [`PAYLOAD_ADDRESS`]: a header of [`PAYLOAD_HEADER_BYTES`] bytes and, behind it, the guest's ELF. Both ELFs are
//! reduced to what is loaded; symbols stay on the host.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `"PLXIMAGE"` |
//! | 8..12 | version, u32 |
//! | 12..16 | bytes of this header, u32 |
//! | 16..24 | offset of the guest's ELF from the start of this header, u64 |
//! | 24..32 | bytes of the guest's ELF, u64 |
//! | 32..64 | SHA-256 of the shim's ELF followed by the guest's ELF |

use hypercall::layout::{GUEST_BASE, GuestNote, TickNote};
use hypercall::{ABI_FINGERPRINT, ABI_VERSION};
use object::elf::PF_R;
use sha2::{Digest, Sha256};

use super::Target;
use super::elf::{Executable, Note, Segment};
use super::hppa::image::{self as hppa, NativeImage};

/// Where the payload is loaded, in physical memory: behind the part of low memory that the shim keeps for itself.
pub const PAYLOAD_ADDRESS: u64 = 0x0080_0000;
/// Longest payload: what lies between it and guest memory.
pub const PAYLOAD_LIMIT_BYTES: u64 = 0x0080_0000;
/// Bytes of the payload's header.
pub const PAYLOAD_HEADER_BYTES: usize = 64;
/// First bytes of the payload.
pub const PAYLOAD_MAGIC: [u8; 8] = *b"PLXIMAGE";
/// Version of the payload's header.
pub const IMAGE_VERSION: u32 = 1;

/// Below this lies what belongs to the machine's firmware.
const SHIM_LOWEST_ADDRESS: u64 = 0x0010_0000;
/// Guests are linked below this, so that 32-bit displacements reach everything.
const GUEST_LIMIT_ADDRESS: u64 = GUEST_BASE + 0x2000_0000;
/// The note that makes QEMU enter an ELF directly (PVH boot protocol: owner "Xen", `XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH_OWNER: &[u8] = b"Xen";
const PVH_KIND: u32 = 18;

/// Why bytes are not an image, or two ELFs do not make one.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// Not an executable of the right kind.
    #[error("not an image: {0}; build one with `cargo pollux build APP`")]
    NotElf(String),
    /// The file ends too early.
    #[error("truncated: the file ends inside {0}; copy or build it again")]
    Truncated(&'static str),
    /// An executable, but not one of Pollux.
    #[error("a foreign executable: {0}; build an image with `cargo pollux build APP`")]
    Foreign(String),
    /// Made by another version of this command.
    #[error("image format {found}, but this pollux reads format {expected}; build it again with this version")]
    Version {
        /// What this command reads.
        expected: u32,
        /// What the file says.
        found: u32,
    },
    /// The bytes are not those that were packed.
    #[error("damaged: its contents have SHA-256 {found}, its header says {expected}; copy or build it again")]
    Damaged {
        /// What the header says.
        expected: String,
        /// What the contents give.
        found: String,
    },
    /// The guest speaks another ABI.
    #[error(
        "the guest was built for ABI {found_version} (fingerprint {found:#018x}), the shim has ABI {ABI_VERSION} \
         (fingerprint {ABI_FINGERPRINT:#018x}); build both from one checkout"
    )]
    Abi {
        /// The guest's ABI version.
        found_version: u32,
        /// The guest's ABI fingerprint.
        found: u64,
    },
    /// Linked to the wrong place.
    #[error("{what} has a segment at {start:#x}..{end:#x}, outside {low:#x}..{high:#x}; check its linker script")]
    Range {
        /// Guest or shim.
        what: &'static str,
        /// Start of the segment.
        start: u64,
        /// End of the segment.
        end: u64,
        /// Lowest address allowed.
        low: u64,
        /// First address not allowed.
        high: u64,
    },
    /// A guest segment that is both writable and executable.
    #[error("the guest's segment at {0:#x} is writable and executable; check its linker script")]
    WritableCode(u64),
    /// A guest for PA-RISC that could tell time by an instruction.
    #[error("the guest reads the interval timer at {0:#x}: replicas would read different times; use runtime::time")]
    ReadsTimer(u64),
    /// A guest for PA-RISC that would let time pass without instructions.
    #[error(
        "the guest has an instruction at {0:#x} that QEMU halts at (a move of r10 or r31 to itself): use runtime::wait"
    )]
    Halts(u64),
    /// The guest does not fit.
    #[error("the guest takes {bytes} bytes, at most {PAYLOAD_LIMIT_BYTES} fit")]
    TooLarge {
        /// Its size with the header.
        bytes: u64,
    },
}

/// A packed image.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The bootable ELF.
    pub bytes: Vec<u8>,
    /// What identifies it: the pair refuses to form over two different ones.
    pub image_id: [u8; 32],
}

/// What [`inspect`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// SHA-256 over everything that is loaded.
    pub image_id: [u8; 32],
    /// Bytes of the guest's ELF within the image.
    pub guest_bytes: u64,
    /// Whether the guest says that it counts its ticks.
    pub counts_ticks: bool,
    /// The machine that it is for.
    pub target: Target,
}

/// Packs a shim and a guest, both as linked, with or without symbols.
///
/// # Errors
/// [`ImageError`] when one of them is not what it should be.
pub fn pack(shim: &[u8], guest: &[u8]) -> Result<Packed, ImageError> {
    let shim = Executable::parse(shim)?;
    check_shim(&shim)?;
    let guest = Executable::parse(guest)?;
    check_guest(&guest)?;
    join(shim, &guest.write())
}

fn join(mut shim: Executable, guest: &[u8]) -> Result<Packed, ImageError> {
    let image_id = image_id(&shim.write(), guest);
    let payload = payload(guest, image_id);
    if payload.len() as u64 > PAYLOAD_LIMIT_BYTES {
        return Err(ImageError::TooLarge { bytes: payload.len() as u64 });
    }
    shim.segments.push(Segment {
        flags: PF_R.0,
        virtual_address: PAYLOAD_ADDRESS,
        physical_address: PAYLOAD_ADDRESS,
        memory_bytes: payload.len() as u64,
        data: payload,
    });
    Ok(Packed { bytes: shim.write(), image_id })
}

/// Changes the guest's ELF within an image and packs it again, with an id that fits, whatever it has become: for tests of
/// images that are undamaged and wrong.
///
/// # Errors
/// [`ImageError`] when `image` is none.
#[doc(hidden)]
pub fn repack(image: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Result<Packed, ImageError> {
    let (shim, payload) = take_apart(image)?;
    let mut guest = open_payload(&payload, &shim.write())?.1.to_owned();
    change(&mut guest);
    join(shim, &guest)
}

/// The shim without what was packed onto it, and that.
fn take_apart(bytes: &[u8]) -> Result<(Executable, Vec<u8>), ImageError> {
    let mut shim = Executable::parse(bytes)?;
    let at = shim.segments.iter().position(|segment| segment.physical_address == PAYLOAD_ADDRESS);
    let payload = at.map(|at| shim.segments.remove(at).data);
    let payload = payload.ok_or_else(|| ImageError::Foreign("it holds no Pollux payload".to_owned()))?;
    Ok((shim, payload))
}

/// Packs a native shim and a guest in the form in which it is loaded, for PA-RISC.
///
/// # Errors
/// [`ImageError`] when they do not fit.
pub(super) fn pack_hppa(shim: &[u8], guest: &Executable) -> Result<Packed, ImageError> {
    let mut shim = NativeImage::parse(shim)?;
    check_segments(guest)?;
    let guest = guest.write();
    let image_id = image_id(&shim.write(), &guest);
    let payload = payload(&guest, image_id);
    if payload.len() as u64 > PAYLOAD_LIMIT_BYTES {
        return Err(ImageError::TooLarge { bytes: payload.len() as u64 });
    }
    shim.segments.push(hppa::payload_segment(payload));
    Ok(Packed { bytes: shim.write(), image_id })
}

/// Checks that `bytes` are a whole, undamaged image.
///
/// # Errors
/// [`ImageError`] that says what is wrong.
pub fn inspect(bytes: &[u8]) -> Result<ImageInfo, ImageError> {
    if hppa::is_native(bytes) {
        let mut shim = NativeImage::parse(bytes)?;
        let payload = hppa::take_payload(&mut shim);
        let payload = payload.ok_or_else(|| ImageError::Foreign("it holds no Pollux payload".to_owned()))?;
        let (image_id, guest) = open_payload(&payload, &shim.write())?;
        check_segments(&Executable::parse(guest)?)?;
        let guest_bytes = guest.len() as u64;
        return Ok(ImageInfo { image_id, guest_bytes, counts_ticks: false, target: Target::Hppa });
    }
    let (shim, payload) = take_apart(bytes)?;
    let (image_id, guest_elf) = open_payload(&payload, &shim.write())?;
    check_shim(&shim)?;
    let guest = Executable::parse(guest_elf)?;
    check_guest(&guest)?;
    let counts_ticks = guest.note(TickNote::OWNER, TickNote::KIND).is_some();
    Ok(ImageInfo { image_id, guest_bytes: guest_elf.len() as u64, counts_ticks, target: Target::X86_64 })
}

/// The image's identity and the guest's ELF, of a payload that fits this shim.
fn open_payload<'a>(payload: &'a [u8], shim: &[u8]) -> Result<([u8; 32], &'a [u8]), ImageError> {
    let (header, _) =
        payload.split_at_checked(PAYLOAD_HEADER_BYTES).ok_or(ImageError::Truncated("the header of its payload"))?;
    if header[..8] != PAYLOAD_MAGIC {
        return Err(ImageError::Foreign("its payload does not begin with PLXIMAGE".to_owned()));
    }
    let found = u32::from_le_bytes(field(header, 8));
    if found != IMAGE_VERSION || u32::from_le_bytes(field(header, 12)) as usize != PAYLOAD_HEADER_BYTES {
        return Err(ImageError::Version { expected: IMAGE_VERSION, found });
    }
    let guest_offset = u64::from_le_bytes(field(header, 16));
    let guest_bytes = u64::from_le_bytes(field(header, 24));
    let end = guest_offset.checked_add(guest_bytes).and_then(|end| usize::try_from(end).ok());
    let guest = end
        .and_then(|end| payload.get(guest_offset as usize..end))
        .ok_or(ImageError::Truncated("the guest within it"))?;
    let expected: [u8; 32] = field(header, 32);
    let found = image_id(shim, guest);
    if found != expected {
        return Err(ImageError::Damaged { expected: hex(&expected), found: hex(&found) });
    }
    Ok((found, guest))
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn payload(guest: &[u8], image_id: [u8; 32]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(PAYLOAD_HEADER_BYTES + guest.len());
    payload.extend_from_slice(&PAYLOAD_MAGIC);
    payload.extend_from_slice(&IMAGE_VERSION.to_le_bytes());
    payload.extend_from_slice(&(PAYLOAD_HEADER_BYTES as u32).to_le_bytes());
    payload.extend_from_slice(&(PAYLOAD_HEADER_BYTES as u64).to_le_bytes());
    payload.extend_from_slice(&(guest.len() as u64).to_le_bytes());
    payload.extend_from_slice(&image_id);
    payload.extend_from_slice(guest);
    payload
}

fn image_id(shim: &[u8], guest: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(shim).chain_update(guest).finalize().into()
}

fn check_shim(shim: &Executable) -> Result<(), ImageError> {
    if shim.note(PVH_OWNER, PVH_KIND).is_none() {
        return Err(ImageError::Foreign("it has no PVH entry note, so QEMU cannot boot it".to_owned()));
    }
    for segment in &shim.segments {
        let (start, end) = (segment.physical_address, segment.physical_end().unwrap_or(u64::MAX));
        in_range("the shim", (start, end), (SHIM_LOWEST_ADDRESS, PAYLOAD_ADDRESS))?;
    }
    Ok(())
}

fn check_guest(guest: &Executable) -> Result<(), ImageError> {
    check_note(guest.note(b"Pollux", GuestNote::CURRENT.kind))?;
    check_segments(guest)
}

fn check_segments(guest: &Executable) -> Result<(), ImageError> {
    for segment in &guest.segments {
        let (start, end) = (segment.virtual_address, segment.virtual_end().unwrap_or(u64::MAX));
        in_range("the guest", (start, end), (GUEST_BASE, GUEST_LIMIT_ADDRESS))?;
        if segment.is_writable_code() {
            return Err(ImageError::WritableCode(start));
        }
    }
    Ok(())
}

fn check_note(note: Option<&Note>) -> Result<(), ImageError> {
    let note = note.ok_or_else(|| {
        ImageError::Foreign("the guest carries no Pollux note (does its main.rs use runtime::main!?)".to_owned())
    })?;
    if note.description.len() != GuestNote::CURRENT.description_bytes as usize {
        return Err(ImageError::Foreign(format!("its Pollux note has {} bytes", note.description.len())));
    }
    let found_version = u32::from_le_bytes(field(&note.description, 0));
    let found = u64::from_le_bytes(field(&note.description, 4));
    if (found_version, found) == (ABI_VERSION, ABI_FINGERPRINT) {
        Ok(())
    } else {
        Err(ImageError::Abi { found_version, found })
    }
}

fn in_range(what: &'static str, (start, end): (u64, u64), (low, high): (u64, u64)) -> Result<(), ImageError> {
    if start >= low && end <= high { Ok(()) } else { Err(ImageError::Range { what, start, end, low, high }) }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests;
