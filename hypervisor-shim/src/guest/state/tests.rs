use std::vec;

use super::*;
use crate::guest::tests::{Bench, REGISTERS};
use crate::guest::{EpochOutputs, page_content};
use hypercall::layout::GUEST_BASE;
use hypercall::table::Number;
use hypercall::{ABI_FINGERPRINT, ABI_VERSION};
use protocol::Clocks;
use protocol::event::Event;

const CLOCKS: Clocks = Clocks { monotonic_ns: 7_000, realtime_ns: 9_000 };

fn surroundings() -> Surroundings {
    Surroundings { architecture: 1, registers: vec![1, 2, 3], input_skew: 4, deadline_ns: 5 }
}

/// Where the guest of the bench may write.
fn heap(bench: &Bench) -> u64 {
    GUEST_BASE + bench.start.mappings.last().expect("the heap").offset
}

fn call(bench: &mut Bench, number: Number, arguments: [u64; 4]) {
    bench.guest.call(number as u64, arguments);
}

/// An epoch in which the guest receives, asks for random bytes, writes to the console and sends.
fn epoch(bench: &mut Bench, epoch: u64) -> (u64, EpochOutputs) {
    let mut events = vec![];
    Event::Frame(b"a frame for the guest").append_to(&mut events).expect("short");
    bench.guest.begin_epoch(epoch, CLOCKS, &events).expect("room");
    let heap = heap(bench);
    call(bench, Number::Entropy, [heap, 48, 0, 0]);
    call(bench, Number::ConsoleWrite, [heap, 16, 0, 0]);
    let mut outputs = EpochOutputs::default();
    let end = bench.guest.end_epoch(epoch, &REGISTERS, &mut outputs);
    (end.digest, outputs)
}

fn greeted() -> Bench {
    let mut bench = Bench::new();
    call(&mut bench, Number::Hello, [ABI_VERSION.into(), ABI_FINGERPRINT, 0, 0]);
    bench
}

fn copy_memory(from: &Bench, to: &Bench) {
    let mut content = vec![];
    for offset in (0..from.guest.memory().bytes()).step_by(PAGE_BYTES) {
        page_content(from.guest.memory(), offset as u64, &mut content);
        assert!(to.guest.memory().write_offset(offset, &content));
    }
}

#[test]
fn a_restored_guest_goes_on_as_the_captured_one_does() {
    let mut original = greeted();
    for number in 1..=20 {
        epoch(&mut original, number);
    }
    let state = original.guest.capture(surroundings());
    let mut copy = Bench::new();
    copy_memory(&original, &copy);
    copy.guest.restore(&state).expect("a state of the same image");
    assert_eq!(copy.guest.capture(surroundings()), state);
    for number in 21..=40 {
        let (ours, theirs) = (epoch(&mut original, number), epoch(&mut copy, number));
        assert_eq!(ours, theirs, "epoch {number}");
    }
    assert_eq!(copy.guest.frames_in(), 40);
}

#[test]
fn every_page_that_the_shim_writes_to_is_noted() {
    let mut original = greeted();
    let copy = Bench::new();
    original.guest.note_writes(true);
    // So long that the receive ring wraps around: the guest reads what it got.
    let (mut receive, _) = original.guest_rings();
    let mut wrapped = false;
    for number in 1..=8_400 {
        copy_memory_of(&original, &copy, &mut PageSet::all(original.guest.memory().bytes()), number == 1);
        let before = original.guest.receive.position();
        epoch(&mut original, number);
        wrapped |= original.guest.receive.position() % RING_BYTES < before % RING_BYTES;
        while receive.pop_with(|_| ()).expect("an intact ring").is_some() {}
        let mut noted = PageSet::empty(original.guest.memory().bytes());
        original.guest.take_written(&mut noted);
        // What the guest itself has written: its position in the header of the ring.
        noted.insert_range(original.start.receive_ring as u64, 8);
        copy_memory_of(&original, &copy, &mut noted, true);
        if number % 1_000 == 0 {
            assert_same(&original, &copy);
        }
    }
    assert!(wrapped, "the ring's end was passed");
    assert_same(&original, &copy);
}

fn copy_memory_of(from: &Bench, to: &Bench, pages: &mut PageSet, wanted: bool) {
    let mut content = vec![];
    while wanted && let Some(page) = pages.take_from(0) {
        let offset = page as usize * PAGE_BYTES;
        page_content(from.guest.memory(), offset as u64, &mut content);
        assert!(to.guest.memory().write_offset(offset, &content));
    }
}

fn assert_same(ours: &Bench, theirs: &Bench) {
    let (mut a, mut b) = (vec![], vec![]);
    for offset in (0..ours.guest.memory().bytes() as u64).step_by(PAGE_BYTES) {
        page_content(ours.guest.memory(), offset, &mut a);
        page_content(theirs.guest.memory(), offset, &mut b);
        assert!(a == b, "the page at {offset:#x} was written to and not noted");
    }
}

#[test]
fn what_no_guest_could_have_is_refused_and_changes_nothing() {
    let mut bench = greeted();
    epoch(&mut bench, 1);
    let good = bench.guest.capture(surroundings());
    let mut refused = |change: fn(&mut GuestState)| {
        let mut state = good.clone();
        change(&mut state);
        let text = bench.guest.restore(&state).expect_err("refused");
        assert_eq!(bench.guest.capture(surroundings()), good, "{text}");
        text
    };
    assert!(refused(|state| state.receive_position += 1).contains("receive ring"));
    assert!(refused(|state| state.disk_position += 1).contains("disk ring"));
    assert!(refused(|state| state.transmit_position += 4).contains("transmit ring"));
    assert!(refused(|state| state.preemption = Some((GUEST_BASE, GUEST_BASE))).contains("upcalls"));
    assert!(refused(|state| state.preemption = Some((u64::MAX - 7, GUEST_BASE))).contains("upcalls"));
}

#[test]
fn pages_are_installed_all_or_none() {
    let bench = Bench::new();
    let memory = bench.guest.memory();
    let mut bytes = vec![];
    checkpoint::pages::push_content(&mut bytes, 3, |out| out.resize(out.len() + PAGE_BYTES, 7));
    let good = bytes.clone();
    checkpoint::pages::push_zero(&mut bytes, 3, u32::MAX);
    let mut content = vec![];
    install_pages(memory, &bytes).expect_err("a page outside");
    page_content(memory, 3 * PAGE_BYTES as u64, &mut content);
    assert!(content.iter().all(|byte| *byte != 7), "nothing was touched");
    install_pages(memory, &good).expect("pages of this guest");
    page_content(memory, 3 * PAGE_BYTES as u64, &mut content);
    assert!(content.iter().all(|byte| *byte == 7));
    bytes.clear();
    checkpoint::pages::push_zero(&mut bytes, 2, 2);
    install_pages(memory, &bytes).expect("pages of this guest");
    page_content(memory, 3 * PAGE_BYTES as u64, &mut content);
    assert!(content.iter().all(|byte| *byte == 0));
}
