//! Upcalls: refused where they could reach beyond the guest, due when the record says so, and never a panic.

use core::mem::offset_of;

use hypercall::errno::EINVAL;
use hypercall::layout::{PREEMPTION_ARMED, PREEMPTION_DUE, PREEMPTION_MASKED, PREEMPTION_OFF, Preemption};

use super::*;

/// A page that the guest of the bench may write.
const DATA: u64 = GUEST_BASE + 0x1000;
/// Behind it, code that it may not.
const HANDLER: u64 = GUEST_BASE + 4;
const BLOCK_BYTES: u64 = size_of::<Preemption>() as u64;

/// The three registers that an upcall is about.
struct Diverting(Diverted);

impl Default for Diverting {
    fn default() -> Self {
        Self(Diverted { instruction: 11, stack: 22, flags: 33 })
    }
}

impl Registers for Diverting {
    fn hypercall(&self) -> (u64, [u64; 4]) {
        (0, [0; 4])
    }
    fn set_result(&mut self, _result: i64) {}
    fn digest(&self, _digest: &mut Digest64) {}
    fn frame_pointer(&self) -> u64 {
        0
    }
    fn instruction_pointer(&self) -> u64 {
        self.0.instruction
    }
    fn divert(&mut self, instruction: u64, stack: u64) -> Diverted {
        core::mem::replace(&mut self.0, Diverted { instruction, stack, flags: 2 })
    }
    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "(three)")
    }
}

impl Bench {
    fn preempt(&mut self, block: u64, handler: u64) -> Outcome {
        self.call(Number::Preempt, [block, handler, 0, 0])
    }

    fn put(&self, block: &Preemption) {
        self.guest.memory().write_struct((DATA - GUEST_BASE) as usize, block);
    }

    fn block(&self) -> Preemption {
        self.guest.memory().read_preemption((DATA - GUEST_BASE) as usize)
    }

    /// An epoch that begins after a cut, at this time and with or without an event.
    fn after_cut(&mut self, now_ns: u64, has_events: bool) -> Diverting {
        let mut registers = Diverting::default();
        self.guest.note_cut();
        self.guest.begin_epoch(2, Clocks { monotonic_ns: now_ns, realtime_ns: 0 }, &[]).unwrap();
        self.guest.upcall_if_due(has_events, &mut registers);
        registers
    }
}

fn armed(wake_ns: u64) -> Preemption {
    Preemption { state: PREEMPTION_ARMED, stack: 0x1234, wake_ns, ..Preemption::default() }
}

#[test]
fn a_block_that_the_guest_may_not_write_is_refused() {
    let end = GUEST_BASE + MEMORY_BYTES as u64;
    let mut bench = Bench::greeted();
    let boot = bench.start.boot_info & !7;
    for block in [
        8,
        GUEST_BASE - 8,
        GUEST_BASE,
        DATA - 8,
        boot,
        end,
        end - 8,
        end - BLOCK_BYTES + 8,
        u64::MAX - 7,
        0xffff_8000_0000_0000,
    ] {
        assert_eq!(bench.preempt(block, HANDLER), Outcome::Return(-EFAULT), "{block:#x}");
    }
    for block in [DATA + 1, DATA + 4, u64::MAX] {
        assert_eq!(bench.preempt(block, HANDLER), Outcome::Return(-EINVAL), "{block:#x}");
    }
    for handler in [0, GUEST_BASE - 1, end, 0x0000_8000_0000_0000, 0xffff_8000_0010_0000, u64::MAX] {
        assert_eq!(bench.preempt(DATA, handler), Outcome::Return(-EFAULT), "{handler:#x}");
    }
    assert!(bench.guest.end().is_none());
    assert_eq!(bench.preempt(DATA, HANDLER), Outcome::Return(0));
    // The last byte of memory will do for both.
    assert_eq!(bench.preempt(end - BLOCK_BYTES, end - 1), Outcome::Return(0));
}

#[test]
fn an_upcall_swaps_three_registers_and_disarms() {
    for stack in [0, DATA, 0x0000_8000_0000_0000, u64::MAX] {
        let mut bench = Bench::greeted();
        assert_eq!(bench.preempt(DATA, HANDLER), Outcome::Return(0));
        bench.put(&Preemption { stack, ..armed(u64::MAX) });
        let registers = bench.after_cut(1, true);
        assert_eq!(registers.0, Diverted { instruction: HANDLER, stack, flags: 2 });
        let after = Preemption {
            state: PREEMPTION_OFF,
            stack,
            wake_ns: u64::MAX,
            saved_instruction: 11,
            saved_stack: 22,
            saved_flags: 33,
        };
        assert_eq!(bench.block(), after);
        // Disarmed, the next cut changes nothing.
        assert_eq!(bench.after_cut(2, true).0, Diverting::default().0);
        assert_eq!(bench.block(), after);
    }
}

#[test]
fn an_upcall_is_due_at_an_event_or_at_its_time() {
    for (wake_ns, now_ns, has_events, expected) in [
        (u64::MAX, u64::MAX - 1, false, false),
        (u64::MAX, 0, true, true),
        (100, 99, false, false),
        (100, 100, false, true),
        (100, 99, true, true),
        (0, 0, false, true),
    ] {
        let mut bench = Bench::greeted();
        assert_eq!(bench.preempt(DATA, HANDLER), Outcome::Return(0));
        bench.put(&armed(wake_ns));
        let made = bench.after_cut(now_ns, has_events).0.instruction == HANDLER;
        assert_eq!(made, expected, "{wake_ns} {now_ns} {has_events}");
        assert_eq!(bench.block().state, if expected { PREEMPTION_OFF } else { PREEMPTION_ARMED });
    }
}

#[test]
fn without_a_cut_a_registration_or_an_armed_block_nothing_happens() {
    let unchanged = |bench: &Bench, registers: Diverting, before: Preemption| {
        assert_eq!(registers.0, Diverting::default().0);
        assert_eq!(bench.block(), before);
    };
    // Armed, but never registered, or not any more.
    let mut bench = Bench::greeted();
    bench.put(&armed(0));
    let registers = bench.after_cut(1, true);
    unchanged(&bench, registers, armed(0));
    assert_eq!(bench.preempt(DATA, HANDLER), Outcome::Return(0));
    assert_eq!(bench.preempt(0, 0), Outcome::Return(0));
    let registers = bench.after_cut(1, true);
    unchanged(&bench, registers, armed(0));
    // The guest has ended the epoch before by itself, also if one before that was cut.
    assert_eq!(bench.preempt(DATA, HANDLER), Outcome::Return(0));
    bench.put(&Preemption::default());
    bench.after_cut(1, true);
    bench.put(&armed(0));
    let mut registers = Diverting::default();
    bench.guest.upcall_if_due(true, &mut registers);
    unchanged(&bench, registers, armed(0));
    // States that are none.
    for state in [PREEMPTION_OFF, PREEMPTION_DUE, 4, u64::MAX] {
        let before = Preemption { state, ..armed(0) };
        bench.put(&before);
        let registers = bench.after_cut(1, true);
        unchanged(&bench, registers, before);
    }
}

#[test]
fn a_masked_block_is_told_what_it_has_missed() {
    let mut bench = Bench::greeted();
    assert_eq!(bench.preempt(DATA, HANDLER), Outcome::Return(0));
    let masked = Preemption { state: PREEMPTION_MASKED, ..armed(50) };
    bench.put(&masked);
    assert_eq!(bench.after_cut(49, false).0, Diverting::default().0);
    assert_eq!(bench.block(), masked);
    assert_eq!(bench.after_cut(50, false).0, Diverting::default().0);
    assert_eq!(bench.block(), Preemption { state: PREEMPTION_DUE, ..masked });
}

/// The guest may put its rings, or anything else, where the block is; that is its own loss.
#[test]
fn a_block_within_a_ring_harms_only_the_guest() {
    let mut bench = Bench::greeted();
    let ring = GUEST_BASE + bench.start.transmit_ring as u64;
    assert_eq!(bench.preempt(ring + offset_of!(RingHeader, head) as u64 / 8 * 8, HANDLER), Outcome::Return(0));
    bench.guest.memory().write(ring, &[1, 0, 0, 0, 0, 0, 0, 0].repeat(16));
    bench.after_cut(1, true);
    let mut outputs = EpochOutputs::default();
    let _ = bench.guest.end_epoch(2, &REGISTERS, &mut outputs);
}
