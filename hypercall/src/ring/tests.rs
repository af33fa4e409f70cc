extern crate std;

use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::record::KIND_FRAME;

const CAPACITY: u32 = 128 * 1024;

/// Owns the memory of a ring; 8-aligned.
struct Area(Vec<u64>);

impl Area {
    fn new() -> Self {
        let mut words = vec![0u64; (DATA_OFFSET + CAPACITY as usize) / 8];
        // SAFETY: the vector holds exactly the header and the data area.
        unsafe { initialise(words.as_mut_ptr().cast(), CAPACITY) };
        Self(words)
    }

    fn base(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    fn sides(&mut self, position: u32) -> (Producer, Consumer) {
        let base = self.base();
        // SAFETY: the area outlives both sides in each test, and the tests use one side at a time.
        unsafe {
            (*base.cast::<RingHeader>()).head.store(position, Relaxed);
            (*base.cast::<RingHeader>()).tail.store(position, Relaxed);
            (Producer::new(base, CAPACITY, position), Consumer::new(base, CAPACITY, position))
        }
    }
}

/// A small generator: the tests need variety, not quality.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn records_come_out_as_they_went_in_across_every_kind_of_wrap() {
    let mut area = Area::new();
    // Starting near the end of the 32-bit positions makes them wrap as well.
    let (mut producer, mut consumer) = area.sides(u32::MAX - 4 * CAPACITY + 1);
    let mut random = Random(7);
    let mut expected = VecDeque::new();
    let mut refused = 0;
    for step in 0..200_000u32 {
        if random.below(2) == 0 {
            let length = if random.below(50) == 0 { random.below(MAX_PAYLOAD_BYTES + 1) } else { random.below(200) };
            let payload = vec![step as u8; length];
            if producer.push(KIND_FRAME, &payload).unwrap() {
                expected.push_back(payload);
            } else {
                refused += 1;
            }
        } else {
            let got = consumer.pop_with(|record| (record.kind, record.payload.to_vec())).unwrap();
            assert_eq!(got, expected.pop_front().map(|payload| (KIND_FRAME, payload)));
        }
    }
    assert!(refused > 0, "the ring was never full: the test does not show what it claims");
}

#[test]
fn a_full_ring_refuses_and_recovers() {
    let mut area = Area::new();
    let (mut producer, mut consumer) = area.sides(0);
    let mut pushed = 0;
    while producer.push(KIND_FRAME, &[1; 1000]).unwrap() {
        pushed += 1;
    }
    assert_eq!(pushed, CAPACITY as usize / total_bytes(1000));
    assert!(consumer.pop_with(|_| ()).unwrap().is_some());
    assert!(consumer.pop_with(|_| ()).unwrap().is_some());
    assert!(producer.push(KIND_FRAME, &[2; 1000]).unwrap());
}

#[test]
fn whatever_the_other_side_writes_is_an_error_and_never_a_wild_access() {
    let mut area = Area::new();
    let base = area.base();
    for value in [4, CAPACITY + 8, u32::MAX, 0x8000_0000] {
        let (producer, mut consumer) = area.sides(0);
        // SAFETY: the header is valid memory of the test.
        unsafe { (*base.cast::<RingHeader>()).head.store(value, Relaxed) };
        assert_eq!(consumer.pop_with(|_| ()), Err(RingError::Position { ours: 0, theirs: value }));
        // SAFETY: as above.
        unsafe { (*base.cast::<RingHeader>()).tail.store(value, Relaxed) };
        assert_eq!(producer.fits(1), Err(RingError::Position { ours: 0, theirs: value }));
    }
    for (kind, payload_bytes) in [(KIND_FRAME, u32::MAX), (KIND_FRAME, 100), (KIND_SKIP, 0), (KIND_SKIP, u32::MAX)] {
        let (_, mut consumer) = area.sides(0);
        let header = Header::new(kind, payload_bytes);
        // SAFETY: the first record lies in the area of the test.
        unsafe {
            ptr::write(base.add(DATA_OFFSET).cast(), header.encode());
            (*base.cast::<RingHeader>()).head.store(16, Relaxed);
        }
        assert_eq!(consumer.pop_with(|_| ()), Err(RingError::Record { at: 0, payload_bytes }));
    }
}

#[test]
fn padding_is_zero_so_that_no_old_byte_leaks() {
    let mut area = Area::new();
    area.0.iter_mut().skip(DATA_OFFSET / 8).for_each(|word| *word = u64::MAX);
    let (mut producer, _) = area.sides(0);
    assert!(producer.push(KIND_FRAME, &[0xaa; 3]).unwrap());
    let word = area.0[DATA_OFFSET / 8 + 1];
    assert_eq!(word.to_ne_bytes(), [0xaa, 0xaa, 0xaa, 0, 0, 0, 0, 0]);
}

#[test]
fn a_foreign_header_is_refused() {
    let mut area = Area::new();
    let base = area.base();
    // SAFETY: the area holds a header.
    unsafe {
        assert_eq!(check(base, CAPACITY), Ok(()));
        assert_eq!(check(base, CAPACITY * 2), Err(RingError::Header));
        (*base.cast::<RingHeader>()).version += 1;
        assert_eq!(check(base, CAPACITY), Err(RingError::Header));
    }
}
