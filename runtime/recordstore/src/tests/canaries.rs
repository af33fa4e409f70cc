//! Mistakes made on purpose: a test that does not find them is no test.

use super::crashes::{BLOCKS, Seen, crash_everywhere};
use super::harness::{Run, open};
use crate::model::{Crash, Mixer, ModelDevice};
use crate::store::Sabotage;

fn is_found(sabotage: Sabotage) -> bool {
    (0..24).any(|seed| crash_everywhere(seed, 90, sabotage, &mut Seen::default()).is_err())
}

#[test]
fn a_superblock_written_before_its_log_is_stable_is_found() {
    assert!(is_found(Sabotage::SwitchBeforeFlush));
}

#[test]
fn a_log_given_free_before_the_switch_is_found() {
    assert!(is_found(Sabotage::FreeBeforeSwitch));
}

/// Without a number of its own, a life that repeats what the last one did before the crash raises what it did after.
#[test]
fn a_number_for_each_opening_keeps_the_dead_dead() {
    let lives = |sabotage| {
        let device = ModelDevice::new(BLOCKS);
        let mut first = Run::open(&device, sabotage).expect("a blank device");
        first.append(&[std::vec![1; 8]]).expect("a good device");
        let before_second = device.after(Crash::KeepAll);
        first.append(&[std::vec![2; 8]]).expect("a good device");
        // The crash keeps the second record and loses the first.
        let after = device.after(Crash::LoseAll);
        let second_block =
            (0..BLOCKS).find(|&block| device.after(Crash::KeepAll).block(block) != before_second.block(block));
        let second_block = second_block.expect("the second record is somewhere");
        after.set_block(second_block, device.after(Crash::KeepAll).block(second_block));
        let mut second = Run::open(&after, sabotage).expect("a store");
        assert_eq!(second.expected.live.len(), 0);
        second.append(&[std::vec![1; 8]]).expect("a good device");
        second.sync().expect("a good device");
        let (_, _, found) = open(&after, sabotage).expect("a store");
        second.expected.judge(&found)
    };
    assert_eq!(lives(Sabotage::None), Ok(()));
    assert!(lives(Sabotage::SameOpening).is_err());
}

/// With one superblock renewed, a bit that flips in it leads back to a log that is no more.
#[test]
fn either_superblock_will_do() {
    let survives = |sabotage, place| {
        let device = ModelDevice::new(BLOCKS);
        let mut run = Run::open(&device, sabotage).expect("a blank device");
        let mut rng = Mixer(9);
        while run.switches < 3 {
            run.act(&mut rng).expect("a good device");
        }
        let after = device.after(Crash::KeepAll);
        after.flip(place, 300);
        open(&after, sabotage).is_ok_and(|(_, _, found)| run.expected.judge(&found).is_ok())
    };
    for place in crate::layout::SUPERBLOCKS {
        assert!(survives(Sabotage::None, place));
    }
    assert!(crate::layout::SUPERBLOCKS.iter().any(|&place| !survives(Sabotage::OneSuperblock, place)));
}
