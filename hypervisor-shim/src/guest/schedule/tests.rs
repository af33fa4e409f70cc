use std::vec;
use std::vec::Vec;

use super::*;

/// A device with room for so many jobs, which ends them when told to.
struct Bench {
    room: usize,
    at_work: Vec<DiskJob>,
    started: Vec<u64>,
    kicks: usize,
}

impl Disk for Bench {
    fn name(&self) -> &str {
        "bench"
    }
    fn blocks(&self) -> u64 {
        1000
    }
    fn start(&mut self, job: DiskJob) -> Result<(), DiskJob> {
        if self.at_work.len() == self.room {
            return Err(job);
        }
        self.started.push(job.number);
        self.at_work.push(job);
        Ok(())
    }
    fn kick(&mut self) {
        self.kicks += 1;
    }
    fn has_done(&self) -> bool {
        false
    }
    fn take_done(&mut self) -> Option<(DiskJob, bool)> {
        None
    }
    fn set_interrupts(&mut self, _enabled: bool) {}
    fn acknowledge(&mut self) {}
}

fn job(number: u64, operation: Operation, first_block: u64, blocks: u64) -> DiskJob {
    DiskJob { number, epoch: 1, operation, first_block, blocks, buffer: vec![] }
}

/// Which jobs start at once, and which when the first of all has ended.
fn run(room: usize, jobs: Vec<DiskJob>) -> (Vec<u64>, Vec<u64>) {
    let mut bench = Bench { room, at_work: vec![], started: vec![], kicks: 0 };
    let mut schedule = Schedule::default();
    let first = jobs[0].number;
    jobs.into_iter().for_each(|job| schedule.push(job));
    schedule.start(&mut bench, 1);
    let at_once = std::mem::take(&mut bench.started);
    assert_eq!(bench.kicks, 1, "one kick for all");
    bench.at_work.retain(|job| job.number != first);
    schedule.finish(first);
    schedule.start(&mut bench, 1);
    assert!(!schedule.is_idle());
    (at_once, bench.started)
}

#[test]
fn only_what_overlaps_and_changes_waits() {
    use Operation::{Discard, Flush, Read, Write, WriteZeroes};
    let (at_once, later) = run(
        64,
        vec![
            job(0, Write, 10, 5),
            job(1, Read, 14, 1),
            job(2, Read, 15, 1),
            job(3, Flush, 12, 1),
            job(4, WriteZeroes, 0, 11),
            job(5, Discard, 15, 1),
            job(6, Read, 20, 5),
            job(7, Read, 20, 5),
            job(8, Write, 24, 1),
        ],
    );
    assert_eq!(at_once, [0, 2, 3, 6, 7]);
    assert_eq!(later, [1, 4], "the others wait for reads that have not ended");
}

#[test]
fn a_job_waits_for_one_that_itself_waits() {
    use Operation::{Read, Write};
    let jobs = vec![job(0, Write, 0, 4), job(1, Write, 3, 4), job(2, Read, 6, 1), job(3, Read, 7, 1)];
    assert_eq!(run(64, jobs), (vec![0, 3], vec![1]), "2 does not overtake 1");
}

#[test]
fn what_the_device_has_no_room_for_waits_and_keeps_its_place() {
    let jobs = (0..4).map(|number| job(number, Operation::Write, number * 10, 10)).collect();
    assert_eq!(run(2, jobs), (vec![0, 1], vec![2]));
}

#[test]
fn ends_of_the_number_line_do_not_wrap() {
    let jobs = vec![job(0, Operation::Write, u64::MAX, u64::MAX), job(1, Operation::Write, 0, 1)];
    assert_eq!(run(2, jobs).0, [0, 1]);
}

/// Starts what may start and returns the numbers.
fn start(schedule: &mut Schedule, bench: &mut Bench, committed_through: u64) -> Vec<u64> {
    schedule.start(bench, committed_through);
    std::mem::take(&mut bench.started)
}

#[test]
fn what_changes_blocks_waits_for_its_epoch_and_holds_back_what_overlaps_it() {
    use Operation::{Discard, Flush, Read, Write};
    let mut bench = Bench { room: 64, at_work: vec![], started: vec![], kicks: 0 };
    let mut schedule = Schedule::default();
    for (number, operation, first) in [(0, Write, 0), (1, Read, 0), (2, Read, 9), (3, Flush, 0), (4, Discard, 20)] {
        schedule.push(DiskJob { epoch: 5 + number / 4, ..job(number, operation, first, 1) });
    }
    assert_eq!(start(&mut schedule, &mut bench, 4), [2, 3], "neither the write nor the read of what it writes");
    assert_eq!(start(&mut schedule, &mut bench, 5), [0]);
    schedule.finish_unsettled(0);
    assert_eq!(start(&mut schedule, &mut bench, 5), [1], "a write that is done holds nothing back");
    assert_eq!(start(&mut schedule, &mut bench, 6), [4]);
    assert!(!schedule.has_waiting() && !schedule.is_device_idle());
}

#[test]
fn a_read_that_may_be_repeated_keeps_what_it_has_read_from_changing() {
    use Operation::{Read, Write};
    let mut bench = Bench { room: 64, at_work: vec![], started: vec![], kicks: 0 };
    let mut schedule = Schedule::default();
    for job in [job(0, Read, 0, 4), job(1, Write, 3, 1), job(2, Write, 4, 1), job(3, Read, 0, 1)] {
        schedule.push(job);
    }
    assert_eq!(start(&mut schedule, &mut bench, 1), [0, 2, 3]);
    schedule.finish_unsettled(0);
    assert_eq!(start(&mut schedule, &mut bench, 1), [0; 0]);
    assert!(schedule.has_waiting());
    schedule.settle(0);
    assert_eq!(start(&mut schedule, &mut bench, 1), [1]);
}

#[test]
fn what_overlaps_a_job_that_has_failed_waits_until_the_guest_has_heard_of_it() {
    use Operation::{Flush, Read, Write};
    let mut bench = Bench { room: 64, at_work: vec![], started: vec![], kicks: 0 };
    let mut schedule = Schedule::default();
    for (number, operation, first) in [(0, Write, 10), (1, Read, 10), (2, Read, 11), (3, Flush, 0)] {
        schedule.push(job(number, operation, first, 1));
    }
    assert_eq!(start(&mut schedule, &mut bench, 1), [0, 2, 3]);
    schedule.fail(0);
    schedule.finish(2);
    schedule.finish(3);
    schedule.push(job(4, Read, 10, 1));
    assert_eq!(start(&mut schedule, &mut bench, 1), [], "the block holds what it held before");
    assert!(schedule.is_device_idle() && !schedule.is_idle());
    schedule.tell(0);
    assert_eq!(start(&mut schedule, &mut bench, 1), [1, 4]);
}
