use std::vec;

use super::*;
use crate::guest::EpochOutputs;
use crate::guest::tests::{Bench, REGISTERS};

const PAGE: u64 = PAGE_BYTES;

fn digest(bench: &mut Bench, pages: &[u64]) -> u64 {
    let mut touched = Touched::with_room(bench.guest.memory().bytes());
    touched.begin(1);
    for page in pages {
        touched.note(page * PAGE);
    }
    // Each epoch's digest begins anew.
    bench.guest.begin_epoch(1, protocol::Clocks::default(), &[]).expect("a ring as it was made");
    bench.guest.end_epoch(1, &REGISTERS, &mut EpochOutputs::default());
    bench.guest.cover_memory(&touched)
}

#[test]
fn only_the_newest_epoch_is_remembered() {
    let mut touched = Touched::with_room(16 * PAGE as usize);
    assert_eq!(touched.of(0).map(|pages| pages.len()), Some(0));
    touched.begin(7);
    for page in [0, 3, 15] {
        touched.note(page * PAGE);
    }
    assert!(touched.of(6).is_none() && touched.of(8).is_none());
    assert_eq!(touched.of(7).map(Iterator::collect), Some(vec![0, 3 * PAGE, 15 * PAGE]));
    let room = touched.pages.capacity();
    touched.begin(8);
    assert!(touched.of(7).is_none());
    assert_eq!(touched.of(8).map(|pages| pages.len()), Some(0));
    (0..16).for_each(|page| touched.note(page * PAGE));
    assert_eq!(touched.pages.capacity(), room, "nothing is allocated at the end of an epoch");
}

#[test]
fn the_digest_covers_place_and_content_of_the_pages_and_nothing_else() {
    let mut bench = Bench::new();
    let heap = bench.start.stack_top / PAGE + 16 - GUEST_BASE / PAGE;
    let none = digest(&mut bench, &[]);
    let one = digest(&mut bench, &[heap]);
    let both = digest(&mut bench, &[heap, heap + 1]);
    assert!(none != one && one != both && none != both);
    assert_ne!(one, digest(&mut bench, &[heap + 1]), "two pages with the same content are not the same");
    assert_eq!(both, digest(&mut bench, &[heap, heap + 1]), "what is the same has the same digest");

    bench.guest.memory().write_offset((heap * PAGE + 4095) as usize, &[1]);
    assert_ne!(one, digest(&mut bench, &[heap]), "the last byte counts");
    assert_eq!(none, digest(&mut bench, &[]), "a page that was not touched does not");
    bench.guest.memory().write_offset((heap * PAGE + 4095) as usize, &[0]);
    assert_eq!(one, digest(&mut bench, &[heap]));
}

#[test]
fn pages_outside_memory_do_no_harm() {
    let mut bench = Bench::new();
    let beyond = bench.guest.memory().bytes() as u64;
    digest(&mut bench, &[beyond / PAGE, u64::from(u32::MAX)]);
    let mut content = vec![1];
    page_content(bench.guest.memory(), beyond, &mut content);
    assert!(content.is_empty());
    page_content(bench.guest.memory(), u64::MAX, &mut content);
    assert!(content.is_empty());
    page_content(bench.guest.memory(), beyond - PAGE, &mut content);
    assert_eq!(content.len(), PAGE as usize);
}
