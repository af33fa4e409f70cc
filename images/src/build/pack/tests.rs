use super::*;

/// An ELF with one segment that begins with the given note.
fn elf(address: u64, flags: u32, note: &[u8], body: &[u8]) -> Vec<u8> {
    let data = [note, body].concat();
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    out.extend_from_slice(&address.to_le_bytes());
    out.extend_from_slice(&64u64.to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    for half in [64u16, 56, 2, 64, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    for (kind, bytes) in [(1u32, data.len()), (4, note.len())] {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        for word in [4096, address, address, bytes as u64, bytes as u64, 4096] {
            out.extend_from_slice(&u64::to_le_bytes(word));
        }
    }
    out.resize(4096, 0);
    out.extend_from_slice(&data);
    // What stands for symbols and debug data.
    out.extend_from_slice(&[0xee; 1000]);
    out
}

fn note(owner: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
    let mut out = (owner.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&(description.len() as u32).to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(owner);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(description);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn pollux_note(version: u32, fingerprint: u64) -> Vec<u8> {
    note(b"Pollux\0", 1, &[&version.to_le_bytes()[..], &fingerprint.to_le_bytes()].concat())
}

fn shim() -> Vec<u8> {
    elf(0x10_0000, 5, &note(b"Xen\0", 18, &0x10_0040u32.to_le_bytes()), b"the shim")
}

fn guest() -> Vec<u8> {
    elf(GUEST_BASE, 5, &pollux_note(ABI_VERSION, ABI_FINGERPRINT), b"the guest")
}

#[test]
fn a_packed_image_is_whole_and_without_symbols() {
    let packed = pack(&shim(), &guest()).expect("they fit");
    let info = inspect(&packed.bytes).expect("it is whole");
    assert_eq!(info.image_id, packed.image_id);
    assert!(!packed.bytes.windows(16).any(|window| window == [0xee; 16]), "symbols were packed");
    let image = Executable::parse(&packed.bytes).expect("an ELF");
    assert_eq!(image.segments.len(), 2);
    assert!(image.note(PVH_OWNER, PVH_KIND).is_some(), "QEMU could not boot it");
    let payload = &image.segments[1];
    assert_eq!(payload.physical_address, PAYLOAD_ADDRESS);
    assert_eq!(payload.data[PAYLOAD_HEADER_BYTES..][..4], *b"\x7fELF");
    assert_eq!(info.guest_bytes as usize, payload.data.len() - PAYLOAD_HEADER_BYTES);
}

#[test]
fn the_id_tells_images_apart() {
    let one = pack(&shim(), &guest()).expect("they fit");
    let again = pack(&shim(), &guest()).expect("they fit");
    assert_eq!(one.bytes, again.bytes);
    let other = elf(GUEST_BASE, 5, &pollux_note(ABI_VERSION, ABI_FINGERPRINT), b"another");
    assert_ne!(pack(&shim(), &other).expect("they fit").image_id, one.image_id);
}

#[test]
fn every_truncation_is_an_error() {
    let packed = pack(&shim(), &guest()).expect("they fit");
    for bytes in 0..packed.bytes.len() {
        assert!(inspect(&packed.bytes[..bytes]).is_err(), "{bytes} of {} bytes pass", packed.bytes.len());
    }
}

#[test]
fn every_flipped_loaded_byte_is_an_error() {
    let packed = pack(&shim(), &guest()).expect("they fit");
    let image = Executable::parse(&packed.bytes).expect("an ELF");
    for segment in &image.segments {
        let start = packed.bytes.windows(segment.data.len()).position(|window| window == segment.data).expect("there");
        for at in start..start + segment.data.len() {
            let mut damaged = packed.bytes.clone();
            damaged[at] ^= 0x10;
            assert!(inspect(&damaged).is_err(), "byte {at} may change unnoticed");
        }
    }
}

#[test]
fn what_is_not_a_guest_is_refused() {
    let refused = |guest: &[u8]| pack(&shim(), guest).expect_err("must be refused");
    assert!(matches!(refused(b"#!/bin/sh\n"), ImageError::NotElf(_)));
    assert!(matches!(refused(&shim()), ImageError::Foreign(_)));
    let other_abi = elf(GUEST_BASE, 5, &pollux_note(ABI_VERSION + 1, ABI_FINGERPRINT), b"");
    assert!(matches!(refused(&other_abi), ImageError::Abi { found_version, .. } if found_version == ABI_VERSION + 1));
    let other_build = elf(GUEST_BASE, 5, &pollux_note(ABI_VERSION, 7), b"");
    assert!(matches!(refused(&other_build), ImageError::Abi { found: 7, .. }));
    let low = elf(0x10_0000, 5, &pollux_note(ABI_VERSION, ABI_FINGERPRINT), b"");
    assert!(matches!(refused(&low), ImageError::Range { what: "the guest", .. }));
    let wild = elf(u64::MAX - 8, 5, &pollux_note(ABI_VERSION, ABI_FINGERPRINT), b"");
    assert!(matches!(refused(&wild), ImageError::NotElf(_)));
    let writable_code = elf(GUEST_BASE, 7, &pollux_note(ABI_VERSION, ABI_FINGERPRINT), b"");
    assert!(matches!(refused(&writable_code), ImageError::WritableCode(GUEST_BASE)));
}

#[test]
fn what_is_not_a_shim_is_refused() {
    let refused = |shim: &[u8]| pack(shim, &guest()).expect_err("must be refused");
    assert!(matches!(refused(&guest()), ImageError::Foreign(_)));
    let high = elf(PAYLOAD_ADDRESS, 5, &note(b"Xen\0", 18, &[0; 4]), b"x");
    assert!(matches!(refused(&high), ImageError::Range { what: "the shim", .. }));
    assert!(matches!(inspect(&shim()).expect_err("no payload"), ImageError::Foreign(_)));
}

#[test]
fn a_large_guest_is_refused() {
    let body = vec![1; PAYLOAD_LIMIT_BYTES as usize];
    let large = elf(GUEST_BASE, 5, &pollux_note(ABI_VERSION, ABI_FINGERPRINT), &body);
    assert!(matches!(pack(&shim(), &large).expect_err("too large"), ImageError::TooLarge { .. }));
}
