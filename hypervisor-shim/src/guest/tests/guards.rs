//! Guards against guests that ask for nonsense, and what is said of them.

use hypercall::errno::{EINVAL, ENOENT};
use hypercall::layout::{MAX_GUARD_TEXT_BYTES, MAX_GUARDS, PAGE_BYTES};

use super::*;

/// The first page of the heap, which the guest may write to.
fn heap(bench: &Bench) -> u64 {
    let heap = bench.start.mappings.last().expect("the heap");
    GUEST_BASE + heap.offset
}

fn report_of_fault_at(bench: &Bench, address: u64) -> String {
    let fault = Cause::Fault(Fault { name: "page fault", error: 7, address: Some(address) });
    let mut report = String::new();
    write_report(&mut report, &bench.guest, 3, &fault, &REGISTERS).expect("a string takes it");
    report
}

#[test]
fn a_fault_in_a_guard_is_reported_with_the_newest_text_there() {
    let mut bench = Bench::greeted();
    let (guard, text) = (heap(&bench), heap(&bench) + 2 * PAGE_BYTES);
    let offset = guard - GUEST_BASE;
    let guarded = Outcome::SetGuard { offset, guarded: true };
    assert_eq!(bench.call(Number::Guard, [guard, 0, 0, 0]), guarded, "an empty text lies nowhere");
    assert!(report_of_fault_at(&bench, guard + 5).contains("the page is a guard"));
    bench.guest.memory().write(text, b"stack of nobody");
    assert_eq!(bench.call(Number::Guard, [guard, text, 15, 0]), guarded);
    assert!(report_of_fault_at(&bench, guard + PAGE_BYTES - 1).contains("\nstack of nobody\n"));
    assert!(!report_of_fault_at(&bench, guard + PAGE_BYTES).contains("nobody"));
    assert_eq!(bench.guest.guards().collect::<Vec<_>>(), [offset]);
    assert_eq!(bench.call(Number::Unguard, [guard, 0, 0, 0]), Outcome::SetGuard { offset, guarded: false });
    assert!(!report_of_fault_at(&bench, guard).contains("nobody"));
    assert_eq!(bench.call(Number::Unguard, [guard, 0, 0, 0]), Outcome::Return(-ENOENT));
}

#[test]
fn what_cannot_be_a_guard_is_refused() {
    let mut bench = Bench::greeted();
    let (guard, code, end) = (heap(&bench), GUEST_BASE, GUEST_BASE + MEMORY_BYTES as u64);
    let long = MAX_GUARD_TEXT_BYTES as u64;
    for (arguments, error) in [
        ([guard + 8, 0, 0, 0], EINVAL),
        ([code, 0, 0, 0], EFAULT),
        ([end, 0, 0, 0], EFAULT),
        ([0, 0, 0, 0], EFAULT),
        ([u64::MAX - PAGE_BYTES + 1, 0, 0, 0], EFAULT),
        ([guard, guard, long + 1, 0], E2BIG),
        ([guard, end - 1, 2, 0], EFAULT),
        ([guard, u64::MAX, long, 0], EFAULT),
    ] {
        assert_eq!(bench.call(Number::Guard, arguments), Outcome::Return(-error), "{arguments:x?}");
    }
    for address in [guard, guard + 8, 0, end, u64::MAX] {
        assert_eq!(bench.call(Number::Unguard, [address, 0, 0, 0]), Outcome::Return(-ENOENT), "{address:#x}");
    }
    assert_eq!(bench.guest.guards().count(), 0);
    // The longest text still has its end.
    assert!(matches!(bench.call(Number::Guard, [guard, guard + PAGE_BYTES, long, 0]), Outcome::SetGuard { .. }));
}

#[test]
fn there_is_a_limit_and_a_state_beyond_it_is_refused() {
    let bench = Bench::greeted();
    let mut state =
        bench.guest.capture(Surroundings { architecture: 1, registers: vec![], input_skew: 0, deadline_ns: 0 });
    let first = ((heap(&bench) - GUEST_BASE) / PAGE_BYTES) as u32;
    state.guards = vec![first, first + 2];
    let mut other = Bench::greeted();
    other.guest.restore(&state).expect("pages of the heap");
    assert_eq!(other.guest.guards().count(), 2);
    state.guards = vec![0];
    assert!(other.guest.restore(&state).expect_err("code").contains("page 0"));
    state.guards = (0..=MAX_GUARDS as u32).collect();
    assert!(other.guest.restore(&state).expect_err("too many").contains("2049 guards"));
    assert_eq!(other.guest.guards().count(), 2, "nothing has changed");
}
