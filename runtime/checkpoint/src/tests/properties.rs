//! Any order of operations, against a model that copies everything.

use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;

use super::harness::{Program, run};
use crate::{Draft, Error, Memory, Target};

#[derive(Clone, Debug)]
enum Step {
    Change(u64),
    Take { incremental: bool, name: usize },
    WriteSome,
    Commit,
    Abort,
    Restore(usize),
    RestoreTable(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u64>().prop_map(Step::Change),
        3 => (any::<bool>(), 0_usize..2).prop_map(|(incremental, name)| Step::Take { incremental, name }),
        1 => Just(Step::WriteSome),
        3 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => (0_usize..8).prop_map(Step::Restore),
        1 => (0_usize..8).prop_map(Step::RestoreTable),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn every_entry_is_what_the_program_was_when_it_was_taken(steps in proptest::collection::vec(step(), 1..60)) {
        let (program, memory) = (Program::new(), Rc::new(Memory::new(16 << 20)));
        let mut entries = BTreeMap::new();
        let mut draft: Option<(Draft<Rc<Memory>>, _)> = None;
        for step in steps {
            match step {
                Step::Change(number) => program.change(number),
                Step::Take { incremental, name } => {
                    let (name, target) = (["a", "b"][name], Rc::clone(&memory));
                    let taken = match incremental {
                        true => program.checkpoints.incremental(name, target),
                        false => program.checkpoints.full(name, target),
                    };
                    match taken {
                        Ok(taken) => {
                            prop_assert!(draft.is_none());
                            draft = Some((taken, program.saved()));
                        }
                        Err(Error::Busy) => prop_assert!(draft.is_some()),
                        Err(error) => prop_assert!(matches!(error, Error::NoBase { .. }), "{error}"),
                    }
                }
                Step::WriteSome => if let Some((draft, _)) = &mut draft {
                    run(draft.write()).expect("memory has room");
                },
                Step::Commit => if let Some((draft, saved)) = draft.take() {
                    let entry = run(draft.commit()).expect("memory has room");
                    entries.insert(entry.sequence, saved);
                    entries.retain(|number, _| memory.entries().iter().any(|entry| entry.sequence == *number));
                },
                Step::Abort => draft = None,
                Step::Restore(at) | Step::RestoreTable(at) => {
                    let Some((&number, saved)) = entries.iter().nth(at % entries.len().max(1)) else { continue };
                    let whole = matches!(step, Step::Restore(_));
                    let before = program.saved();
                    let restored = match whole {
                        true => run(program.checkpoints.restore(&*memory, number)),
                        false => run(program.checkpoints.restore_part(&*memory, number, "table")),
                    };
                    match restored {
                        Ok(_) if whole => prop_assert_eq!(&program.saved(), saved),
                        Ok(_) => prop_assert_eq!(program.saved(), (saved.0.clone(), before.1, before.2)),
                        Err(error) => {
                            prop_assert_eq!(error, Error::Busy);
                            prop_assert!(draft.is_some());
                        }
                    }
                }
            }
        }
        prop_assert_eq!(memory.entries().len(), entries.len());
        for (number, saved) in entries {
            let other = Program::new();
            run(other.checkpoints.restore(&*memory, number)).expect("it is whole");
            prop_assert_eq!(other.saved(), saved);
        }
    }
}
