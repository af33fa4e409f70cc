use std::vec;

use proptest::prelude::*;

use super::*;

const MEMORY_BYTES: u64 = 64 * PAGE_BYTES as u64;

fn identity() -> Identity {
    Identity { architecture: 1, abi_version: 2, image: [3; 32], cpu: [4; 32], memory_bytes: MEMORY_BYTES }
}

fn header() -> Header {
    Header {
        kind: Kind::Full,
        identity: identity(),
        epoch: 5,
        generation: 6,
        digest: 7,
        clocks: Clocks { monotonic_ns: 8, realtime_ns: 9 },
    }
}

/// A checkpoint of pages that are each filled with one byte or, for `noise`, with many.
fn file(header: &Header, fills: &[u8], noise: bool) -> (Vec<u8>, Totals) {
    let contents: Vec<Vec<u8>> = fills
        .iter()
        .map(|fill| {
            let noisy = |index: usize| fill.wrapping_mul((index as u32).wrapping_mul(0x9e37_79b9).to_be_bytes()[0] | 1);
            (0..PAGE_BYTES).map(|index| if noise { noisy(index) } else { *fill }).collect()
        })
        .collect();
    let mut out = vec![];
    let mut encoder = Encoder::new(header, &mut out);
    encoder.settings("how it was run", &mut out);
    let pages = (0..).zip(contents.iter().map(Vec::as_slice));
    encode_pages(&mut encoder, MEMORY_BYTES, pages, |bytes| out.extend_from_slice(bytes)).expect("pages of the guest");
    encoder.state(b"registers", &mut out);
    let totals = encoder.finish(&mut out);
    (out, totals)
}

fn small() -> Vec<u8> {
    file(&header(), &[1, 0, 0, 2, 0], false).0
}

fn judge(bytes: &[u8]) -> Result<(Header, Totals), FileError> {
    read_all(bytes, |_| ())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(fills in prop::collection::vec(0_u8..4, 0..64), noise in any::<bool>(), parent in any::<Option<u64>>()) {
        let kind = parent.map_or(Kind::Full, |parent| Kind::Incremental { parent });
        let header = Header { kind, ..header() };
        let (bytes, totals) = file(&header, &fills, noise);
        let mut got = vec![None; fills.len()];
        let mut others = vec![];
        let read = read_all(&bytes, |section| match section {
            Section::Settings(text) => others.push(text.to_vec()),
            Section::State(state) => others.push(state.to_vec()),
            Section::End(_) => {}
            Section::Pages(records) => {
                for record in pages::records(records, MEMORY_BYTES) {
                    match record.expect("checked") {
                        PageRecord::Content { page, bytes } => got[page as usize] = Some(bytes[0]),
                        PageRecord::Zero { first, count } => {
                            (first..first + count).for_each(|page| got[page as usize] = Some(0));
                        }
                    }
                }
            }
        });
        prop_assert_eq!(read, Ok((header, totals)));
        prop_assert_eq!(got, fills.iter().map(|fill| Some(*fill)).collect::<Vec<_>>());
        prop_assert_eq!(others, [b"how it was run".to_vec(), b"registers".to_vec()]);
        let zeros = fills.iter().filter(|fill| **fill == 0).count() as u64;
        prop_assert_eq!((totals.pages, totals.zero_pages), (fills.len() as u64 - zeros, zeros));
    }

    #[test]
    fn a_flipped_byte_is_refused(at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let mut bytes = small();
        let index = at.index(bytes.len());
        bytes[index] ^= 1 << bit;
        prop_assert!(judge(&bytes).is_err(), "byte {} may hold anything", index);
    }

    #[test]
    fn pieces_do_not_matter(step in 1_usize..600) {
        let bytes = small();
        let (mut decoder, _) = Decoder::new(&bytes).expect("a header");
        let (mut at, mut end, mut sections) = (HEADER_BYTES, HEADER_BYTES, 0);
        while !decoder.has_ended() {
            let progress = decoder.read(&bytes[at..end]).expect("a whole checkpoint");
            at += progress.used_bytes;
            sections += usize::from(progress.section.is_some());
            if progress.section.is_none() {
                prop_assert!(end < bytes.len());
                end = (end + step).min(bytes.len());
            }
        }
        prop_assert_eq!((at, sections), (bytes.len(), 4));
    }

    #[test]
    fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..2000), keep in 0_usize..400) {
        let mut bytes = small();
        bytes.truncate(keep);
        bytes.extend_from_slice(&tail);
        let _ = judge(&bytes);
    }
}

#[test]
fn every_byte_flipped_is_refused() {
    let good = small();
    for index in 0..good.len() {
        let mut bytes = good.clone();
        bytes[index] ^= 0x10;
        assert!(judge(&bytes).is_err(), "byte {index} may hold anything");
    }
}

#[test]
fn cut_at_every_length_it_is_refused() {
    let good = small();
    for length in 0..good.len() {
        let error = judge(&good[..length]).expect_err("cut short");
        assert!(matches!(error, FileError::Truncated { .. }), "cut at {length}: {error}");
    }
    let longer = [good.as_slice(), b"x"].concat();
    assert_eq!(judge(&longer), Err(FileError::Trailing));
}

#[test]
fn sections_of_another_checkpoint_are_refused() {
    let (ours, _) = file(&header(), &[1], false);
    let (theirs, _) = file(&Header { epoch: 6, ..header() }, &[1], false);
    assert_eq!(ours.len(), theirs.len());
    let mixed = [&ours[..HEADER_BYTES], &theirs[HEADER_BYTES..]].concat();
    assert_eq!(judge(&mixed), Err(FileError::Checksum { section: Some(0) }));
}

#[test]
fn what_it_is_of_is_compared_field_by_field() {
    let refused = |change: fn(&mut Identity)| {
        let mut other = identity();
        change(&mut other);
        other.check(&identity()).expect_err("another").to_string()
    };
    assert_eq!(identity().check(&identity()), Ok(()));
    for (change, name) in [
        (
            (|id: &mut Identity| id.architecture = 2) as fn(&mut Identity),
            "of a guest on PA-RISC, wanted is one on x86-64",
        ),
        (|id| id.abi_version = 9, "ABI version"),
        (|id| id.image[31] = 9, "image"),
        (|id| id.cpu[0] = 9, "processor"),
        (|id| id.memory_bytes *= 2, "memory size"),
    ] {
        let text = refused(change);
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn versions_and_other_files_are_named() {
    let with = |index: usize, value: u8| {
        let mut bytes = small();
        bytes[index] = value;
        judge(&bytes).map(drop)
    };
    assert_eq!(with(0, b'x'), Err(FileError::Magic));
    assert_eq!(with(8, 2), Err(FileError::Version { got: 2 }));
    assert_eq!(judge(b"\x7fELF"), Err(FileError::Magic));
    assert_eq!(judge(b""), Err(FileError::Truncated { section: None }));
}

use std::string::ToString as _;
