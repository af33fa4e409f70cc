//! Guests that count their ticks: what a note may name, when the counter is wound, and that a hostile guest only hurts
//! itself.

use hypercall::layout::TickNote;

use super::*;

/// A page that the guest of the bench may write.
const DATA: u64 = GUEST_BASE + 0x1000;

/// A note about ticks, as a guest carries it.
fn note(counter: u64) -> Vec<u8> {
    note_of(&counter.to_le_bytes())
}

fn note_of(description: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [7, description.len() as u32, TickNote::KIND] {
        out.extend(word.to_le_bytes());
    }
    out.extend(b"Pollux\0\0");
    out.extend(description);
    out
}

fn with_notes(notes: Vec<u8>) -> Elf {
    Elf { notes: Some(notes), ..Elf::good() }
}

impl Bench {
    fn counting(ticks: u64) -> Self {
        let mut bench = Self::of(&with_notes(note(DATA + 8)));
        assert!(bench.guest.counts_ticks());
        bench.guest.set_epoch_ticks(ticks);
        assert_eq!(bench.call(Number::Hello, [ABI_VERSION.into(), ABI_FINGERPRINT, 0, 0]), Outcome::Return(0));
        bench
    }

    fn begin(&mut self, epoch: u64) {
        self.guest.begin_epoch(epoch, Clocks::default(), &[]).expect("an empty record");
    }

    fn counter(&self) -> i64 {
        self.guest.memory().read_u64(DATA + 8).expect("inside") as i64
    }

    fn set_counter(&self, value: i64) {
        assert!(self.guest.memory().write(DATA + 8, &value.to_le_bytes()));
    }
}

#[test]
fn a_note_that_names_no_writable_word_is_refused() {
    let end = GUEST_BASE + MEMORY_BYTES as u64;
    // Unaligned; in code; before and behind the data; at the ends of everything.
    for address in [
        DATA + 1,
        DATA + 4,
        GUEST_BASE,
        DATA - 8,
        DATA + 0x3000,
        0,
        8,
        GUEST_BASE - 8,
        end - 8,
        end,
        u64::MAX - 7,
        u64::MAX,
    ] {
        assert_eq!(with_notes(note(address)).load(), Err(LoadError::Ticks), "{address:#x}");
    }
    for length in [0, 4, 7, 9, 16] {
        let description = vec![0; length];
        assert_eq!(with_notes(note_of(&description)).load(), Err(LoadError::Ticks), "{length} bytes");
    }
    // The last word of the segment, zeros behind the file's bytes, will do.
    let last = DATA + 0x3000 - 8;
    assert_eq!(with_notes(note(last)).load().map(|start| start.tick_counter), Ok(Some((last - GUEST_BASE) as usize)));
}

#[test]
fn notes_are_read_without_a_panic_whatever_they_hold() {
    let whole = note(DATA);
    for length in 0..whole.len() {
        let cut = with_notes(whole[..length].to_vec()).load();
        assert!(!cut.is_ok_and(|start| start.tick_counter.is_some()), "{length} of {} bytes", whole.len());
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        let _ = with_notes(damaged).load();
    }
    // Somebody else's notes say nothing about ticks.
    let mut foreign = whole;
    foreign[12..16].copy_from_slice(b"Apol");
    assert_eq!(with_notes(foreign).load().map(|start| start.tick_counter), Ok(None));
    assert!(!Bench::new().guest.counts_ticks());
}

#[test]
fn the_counter_is_wound_at_the_start_of_every_epoch() {
    let mut bench = Bench::counting(500);
    bench.begin(1);
    assert_eq!(bench.counter(), 499);
    // It waited with some left, it ran out, or it wrote nonsense.
    for (epoch, left) in [(2, 17), (3, -1), (4, i64::MIN), (5, i64::MAX)] {
        bench.set_counter(left);
        bench.end_epoch(epoch - 1);
        bench.begin(epoch);
        assert_eq!(bench.counter(), 499);
    }
    let mut never = Bench::counting(u64::MAX);
    never.begin(1);
    assert_eq!(never.counter(), TickNote::NEVER);
}

#[test]
fn what_is_left_of_the_ticks_is_part_of_the_digest() {
    let digest = |left| {
        let mut bench = Bench::counting(500);
        bench.begin(1);
        bench.set_counter(left);
        bench.end_epoch(1).0
    };
    assert_eq!(digest(17), digest(17));
    assert_ne!(digest(17), digest(16));
}

#[test]
fn a_guest_cuts_its_epoch_after_hello_and_not_before() {
    let mut bench = Bench::of(&with_notes(note(DATA + 8)));
    assert_eq!(bench.call(Number::Cut, [1, 2, 3, 4]), Outcome::Return(-EPERM));
    assert_eq!(Bench::counting(500).call(Number::Cut, [1, 2, 3, 4]), Outcome::CutEpoch);
    // Also one that never said that it counts: it ends its own epochs early.
    assert_eq!(Bench::greeted().call(Number::Cut, [0; 4]), Outcome::CutEpoch);
}
