//! Each primitive alone.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use recordstore::model::ModelDevice;

use super::harness::{ODD_BYTES, Program, run};
use crate::{Archive, BLOCK_BYTES, Checkpoints, Error, Kind, MAX_PARTS, Memory, Moment, RegisterError, Target};

fn memory() -> Memory {
    Memory::new(1 << 20)
}

#[test]
fn what_was_saved_comes_back() {
    let (program, memory) = (Program::new(), memory());
    program.change(1);
    let then = program.saved();
    let entry = run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    assert_eq!((entry.kind(), entry.name.as_str(), memory.entries()), (Kind::Full, "a", vec![entry.clone()]));
    program.change(2);
    assert_ne!(program.saved(), then);
    run(program.checkpoints.restore(&memory, "a")).expect("restored");
    assert_eq!(program.saved(), then);
    // By its number, into another instance of the program.
    let other = Program::new();
    run(other.checkpoints.restore(&memory, entry.sequence)).expect("restored");
    assert_eq!(other.saved(), then);
}

#[test]
fn scratch_is_neither_saved_nor_touched() {
    let (program, memory) = (Program::new(), memory());
    program.odd.change_all(|bytes| bytes.fill(7));
    run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    program.odd.change_all(|bytes| bytes.fill(9));
    run(program.checkpoints.restore(&memory, "a")).expect("restored");
    program.odd.with(|bytes| {
        assert_eq!([bytes[99], bytes[100], bytes[199], bytes[200], bytes[10_000]], [7, 9, 9, 7, 9]);
        assert_eq!(bytes[ODD_BYTES - 1], 7);
    });
    // A change of scratch alone is none.
    program.odd.change(100..200, |bytes| bytes.fill(1));
    run(program.checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    let bytes = memory.entries().last().expect("it is there").bytes;
    assert!(bytes < 300, "{bytes} bytes for nothing");
}

#[test]
fn an_incremental_one_holds_what_differs() {
    let (program, memory) = (Program::new(), memory());
    program.table.change_all(|bytes| bytes.fill(3));
    let full = run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    // All marked, one block different.
    program.table.change_all(|bytes| bytes[5 * BLOCK_BYTES] = 4);
    let then = program.saved();
    let entry = run(program.checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    assert_eq!((entry.kind(), entry.base), (Kind::Incremental, Some(full.sequence)));
    assert!((BLOCK_BYTES as u64..BLOCK_BYTES as u64 + 400).contains(&entry.bytes), "{}", entry.bytes);
    program.change(1);
    run(program.checkpoints.restore(&memory, "a")).expect("restored");
    assert_eq!(program.saved(), then);
    // And a chain goes on from what was restored.
    program.table.change(0..1, |bytes| bytes[0] = 8);
    let then = program.saved();
    let entry = run(program.checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    assert!(entry.bytes < BLOCK_BYTES as u64 + 400, "{}", entry.bytes);
    let other = Program::new();
    run(other.checkpoints.restore(&memory, "a")).expect("restored");
    assert_eq!(other.saved(), then);
    // A full one takes the place of them all.
    run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    assert_eq!(memory.entries().len(), 1);
}

#[test]
fn an_incremental_one_needs_its_base() {
    let (program, one, two) = (Program::new(), memory(), memory());
    let refused = |target: &Memory, name: &str| {
        let error = program.checkpoints.incremental(name, target).expect_err("nothing to build upon");
        assert_eq!(error, Error::NoBase { name: name.into() });
    };
    refused(&one, "a");
    run(program.checkpoints.full("a", &one).expect("taken").commit()).expect("committed");
    refused(&one, "b");
    refused(&two, "a");
    run(program.checkpoints.full("a", &two).expect("taken").commit()).expect("committed");
    refused(&one, "a");
    run(program.checkpoints.incremental("a", &two).expect("taken").commit()).expect("committed");
    // A new part is in no base.
    program.checkpoints.value("late", 1, 5_u8).expect("registered");
    refused(&two, "a");
}

#[test]
fn the_program_goes_on_while_it_is_written() {
    let program = Program::new();
    program.change(1);
    let (then, memory) = (program.saved(), Rc::new(memory()));
    let draft = program.checkpoints.full("a", Rc::clone(&memory)).expect("taken");
    program.table.change_all(|bytes| bytes.fill(0xee));
    assert_eq!(program.table.kept_bytes(), program.table.len_bytes(), "each block once");
    program.table.change_all(|bytes| bytes.fill(0xdd));
    assert_eq!(program.table.kept_bytes(), program.table.len_bytes());
    program.odd.change(5000..5001, |bytes| bytes[0] = 3);
    assert_eq!(program.odd.kept_bytes(), BLOCK_BYTES);
    program.ledger.change(|ledger| ledger.transfers = 99);
    let changed = program.saved();
    assert!(matches!(program.checkpoints.full("b", &*memory), Err(Error::Busy)));
    assert!(matches!(run(program.checkpoints.restore(&*memory, "a")), Err(Error::Busy)));
    run(draft.commit()).expect("committed");
    assert_eq!((program.saved(), program.table.kept_bytes()), (changed.clone(), 0));
    // What was changed meanwhile is not lost for the next one.
    run(program.checkpoints.incremental("a", &*memory).expect("taken").commit()).expect("committed");
    let other = Program::new();
    run(other.checkpoints.restore(&*memory, memory.entries()[0].sequence)).expect("restored");
    assert_eq!(other.saved(), then);
    run(other.checkpoints.restore(&*memory, "a")).expect("restored");
    assert_eq!(other.saved(), changed);
}

#[test]
fn what_is_aborted_was_never_taken() {
    let (program, memory) = (Program::new(), memory());
    run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    let before = memory.entries();
    program.change(1);
    program.checkpoints.incremental("a", &memory).expect("taken").abort();
    let mut draft = program.checkpoints.incremental("a", &memory).expect("taken");
    run(draft.write()).expect("written");
    program.change(2);
    drop(draft);
    assert_eq!(memory.entries(), before);
    let then = program.saved();
    run(program.checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    let other = Program::new();
    run(other.checkpoints.restore(&memory, "a")).expect("restored");
    assert_eq!(other.saved(), then, "what the aborted ones held is in this one");
}

#[test]
fn one_part_is_restored_alone() {
    let (program, memory) = (Program::new(), memory());
    program.change(1);
    let then = program.saved();
    run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    program.change(3);
    program.ledger.change(|ledger| ledger.transfers = 1000);
    let now = program.saved();
    run(program.checkpoints.restore_part(&memory, "a", "table")).expect("restored");
    assert_eq!(program.saved(), (then.0.clone(), now.1.clone(), now.2));
    run(program.checkpoints.restore_part(&memory, "a", "ledger")).expect("restored");
    assert_eq!(program.saved(), (then.0, now.1, then.2));
    let missing = run(program.checkpoints.restore_part(&memory, "a", "nothing"));
    assert_eq!(missing, Err(Error::NoPart { part: "nothing".into() }));
    // An incremental one still knows what differs from the base.
    let then = program.saved();
    run(program.checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    let other = Program::new();
    run(other.checkpoints.restore(&memory, "a")).expect("restored");
    assert_eq!(other.saved(), then);
}

#[test]
fn hooks_enclose_each_other() {
    let (program, memory, calls) = (Program::new(), memory(), Rc::new(RefCell::new(Vec::new())));
    for hook in ["first", "second"] {
        let calls = Rc::clone(&calls);
        program.checkpoints.hook(move |moment| calls.borrow_mut().push((hook, moment)));
    }
    // Within a hook there is no other checkpoint.
    let (within, other) = (program.checkpoints.clone(), Memory::new(1 << 20));
    program.checkpoints.hook(move |_| assert!(matches!(within.full("within", &other), Err(Error::Busy))));
    // What a hook writes is in the checkpoint.
    let ledger = program.ledger.clone();
    program.checkpoints.hook(move |moment| {
        if matches!(moment, Moment::BeforeTake(_)) {
            ledger.change(|ledger| ledger.transfers = 42);
        }
    });
    run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    drop(program.checkpoints.incremental("a", &memory).expect("taken"));
    run(program.checkpoints.restore(&memory, "a")).expect("restored");
    let pairs = |before, after| [("first", before), ("second", before), ("second", after), ("first", after)];
    let expected = [
        pairs(Moment::BeforeTake(Kind::Full), Moment::AfterTake { committed: true }),
        pairs(Moment::BeforeTake(Kind::Incremental), Moment::AfterTake { committed: false }),
        pairs(Moment::BeforeRestore, Moment::AfterRestore { done: true }),
    ];
    assert_eq!(*calls.borrow(), expected.concat());
    let other = Program::new();
    run(other.checkpoints.restore(&memory, "a")).expect("restored");
    assert!(other.ledger.with(|ledger| ledger.transfers == 42));
}

#[test]
fn memory_is_bounded() {
    let program = Program::new();
    program.table.change_all(|bytes| bytes.fill(5));
    let memory = Memory::new(60_000);
    run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("it fits");
    let used_bytes = memory.used_bytes();
    let full = run(program.checkpoints.full("b", &memory).expect("taken").commit());
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    assert_eq!((memory.entries().len(), memory.used_bytes()), (1, used_bytes));
    run(program.checkpoints.restore(&memory, "a")).expect("the old one is whole");
}

#[test]
fn what_is_built_upon_is_not_removed() {
    let (program, memory) = (Program::new(), memory());
    let full = run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    let next = run(program.checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    let error = run(memory.remove(&[full.sequence]));
    assert_eq!(error, Err(Error::InUse { sequence: full.sequence, by: next.sequence }));
    run(memory.remove(&[full.sequence, next.sequence])).expect("both at once");
    assert!(memory.entries().is_empty());
    assert!(matches!(run(program.checkpoints.restore(&memory, "a")), Err(Error::NoSuch { .. })));
}

#[test]
fn names_and_numbers_of_parts_are_bounded() {
    let checkpoints = Checkpoints::new("many");
    for name in ["", "name that is very much longer than sixty-four bytes, which no name may be"] {
        assert!(matches!(checkpoints.value(name, 1, 0_u8), Err(RegisterError::Name { .. })));
        assert!(matches!(checkpoints.full(name, &memory()), Err(Error::Name { .. })));
    }
    let excluded = checkpoints.region("region", vec![0; 10], core::slice::from_ref(&(8..11)));
    assert_eq!(excluded.err(), Some(RegisterError::Excluded { end: 11, length_bytes: 10 }));
    for number in 0..MAX_PARTS {
        checkpoints.value(&std::format!("{number:064}"), 1, number as u64).expect("registered");
    }
    assert_eq!(checkpoints.value("more", 1, 0_u8).err(), Some(RegisterError::TooMany));
    assert!(checkpoints.unregister(&std::format!("{:064}", 5)).expect("idle"));
    checkpoints.region("empty", [], &[]).expect("registered");
    let memory = memory();
    run(checkpoints.full("all", &memory).expect("taken").commit()).expect("committed");
    run(checkpoints.restore(&memory, "all")).expect("restored");
}

#[test]
fn a_device_holds_several_names_and_is_full_when_it_is() {
    let (program, device) = (Program::new(), ModelDevice::new(32 + 4 * 104 + 20));
    let archive = run(Archive::open(device.clone())).expect("blank");
    program.table.change_all(|bytes| bytes.fill(5));
    for name in ["a", "b", "c"] {
        run(program.checkpoints.full(name, &archive).expect("taken").commit()).expect("it fits");
    }
    run(program.checkpoints.full("c", &archive).expect("taken").commit()).expect("in the gap");
    run(program.checkpoints.full("c", &archive).expect("taken").commit()).expect("and where it was before");
    let names: Vec<_> = archive.entries().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    run(program.checkpoints.full("d", &archive).expect("taken").commit()).expect("the last room");
    let full = run(program.checkpoints.full("e", &archive).expect("taken").commit());
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    // As another opening finds it.
    let archive = run(Archive::open(device)).expect("an archive");
    for name in ["a", "b", "c", "d"] {
        run(Program::new().checkpoints.restore(&archive, name)).expect("restored");
    }
    let sequence = archive.newest("b").expect("there").sequence;
    run(archive.remove(&[sequence])).expect("removed");
    run(program.checkpoints.full("e", &archive).expect("taken").commit()).expect("in its place");
}

#[test]
fn two_programs_take_turns_at_one_target() {
    let (one, two, memory) = (Program::new(), Program::new(), Rc::new(memory()));
    let mut first = one.checkpoints.full("one", Rc::clone(&memory)).expect("taken");
    run(first.write()).expect("written");
    assert_eq!(run(two.checkpoints.full("two", Rc::clone(&memory)).expect("taken").commit()), Err(Error::Busy));
    run(first.commit()).expect("committed");
    run(two.checkpoints.full("two", Rc::clone(&memory)).expect("taken").commit()).expect("committed");
    assert_eq!(memory.entries().len(), 2);
}

#[test]
fn a_part_encodes_itself() {
    struct Text(Rc<RefCell<std::string::String>>);
    impl crate::Encoded for Text {
        fn encode(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(self.0.borrow().as_bytes());
        }

        fn decode<'a>(&'a self, encoded: &'a [u8]) -> Result<std::boxed::Box<dyn FnOnce() + 'a>, crate::NotDecoded> {
            let text = core::str::from_utf8(encoded).map_err(|_| crate::NotDecoded)?;
            Ok(std::boxed::Box::new(move || *self.0.borrow_mut() = text.into()))
        }
    }
    let (checkpoints, memory) = (Checkpoints::new("text"), memory());
    let text = Rc::new(RefCell::new("long ".repeat(3000)));
    checkpoints.encoded("text", 1, Text(Rc::clone(&text))).expect("registered");
    let then = text.borrow().clone();
    run(checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    let same = run(checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    assert!(same.bytes < 300, "{} bytes for nothing", same.bytes);
    text.borrow_mut().clear();
    run(checkpoints.restore(&memory, "a")).expect("restored");
    assert_eq!(*text.borrow(), then);
    // Nothing at all has an encoding, too.
    text.borrow_mut().clear();
    run(checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    *text.borrow_mut() = "else".into();
    run(checkpoints.restore(&memory, "a")).expect("restored");
    assert!(text.borrow().is_empty());
}

/// Slices of 64 KiB take their turns with a program that changes blocks before, in and behind them.
#[test]
fn what_is_changed_between_slices_is_not_in_the_checkpoint() {
    const REGION_BYTES: usize = 300 * BLOCK_BYTES + 5;
    for (seed, incremental) in (0..40).map(|seed| (seed, seed % 2 == 1)) {
        let checkpoints = Checkpoints::new("slices");
        let region = checkpoints.region("region", vec![0; REGION_BYTES], &[]).expect("registered");
        let memory = Memory::new(16 << 20);
        let mixer = RefCell::new(recordstore::model::Mixer(seed));
        let change = |count: u64| {
            for _ in 0..count {
                let mut mixer = mixer.borrow_mut();
                let at = mixer.below(REGION_BYTES as u64 - 9000) as usize;
                let length = mixer.below(9000) as usize;
                region.change(at..at + length, |bytes| bytes.fill(mixer.next() as u8));
            }
        };
        change(200);
        let mut draft = checkpoints.full("a", &memory).expect("taken");
        if incremental {
            run(draft.commit()).expect("committed");
            change(60);
            draft = checkpoints.incremental("a", &memory).expect("taken");
        }
        let then = region.with(<[u8]>::to_vec);
        let mut slices = 0;
        let entry = recordstore::model::run(draft.commit(), || {
            slices += 1;
            change(10);
        });
        let entry = entry.expect("committed");
        assert!(slices > 2 && region.with(|bytes| bytes != then), "{slices} slices");
        // The next one knows all that was changed meanwhile.
        let now = region.with(<[u8]>::to_vec);
        run(checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
        let other = Checkpoints::new("slices");
        let restored = other.region("region", vec![9; REGION_BYTES], &[]).expect("registered");
        run(other.restore(&memory, entry.sequence)).expect("restored");
        assert!(restored.with(|bytes| bytes == then), "seed {seed}");
        run(other.restore(&memory, "a")).expect("restored");
        assert!(restored.with(|bytes| bytes == now), "seed {seed}");
        // Reads of any length, over the borders of pieces.
        let whole = memory.export(entry.sequence).expect("it is there");
        for _ in 0..20 {
            let at = mixer.borrow_mut().below(whole.len() as u64) as usize;
            let mut part = vec![0; (whole.len() - at).min(mixer.borrow_mut().below(150_000) as usize)];
            run(memory.read(entry.sequence, at as u64, &mut part)).expect("it lies in it");
            assert!(part == whole[at..at + part.len()]);
        }
        let beyond = run(memory.read(entry.sequence, whole.len() as u64, &mut [0]));
        assert!(matches!(beyond, Err(Error::NoSuch { .. })));
    }
}
