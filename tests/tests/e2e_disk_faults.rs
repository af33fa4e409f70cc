//! What can go wrong with the disks of a pair beneath QEMU: one hangs, is pulled out, is cut short by somebody, is full, loses
//! its power, or says of a flush that it is done when it is not.
//!
//! Run with `cargo test -p pollux-tests --test e2e_disk_faults`. `POLLUX_E2E_MOMENTS=50` tries that many losses of power,
//! `POLLUX_SEED` repeats a run.

use std::fs::File;
use std::path::PathBuf;

use pollux_tests::blocks::{Ledger, Mirror, Promise};
use pollux_tests::disks::{
    BLOCKS, DISK_CODE, Files, check_through_guest, connect, kill_both_under_writes, reason_of_end,
};
use pollux_tests::guests::{ask, send};
use pollux_tests::pair::Pair;
use pollux_tests::sim::Rng;
use pollux_tests::workbench::{moments, seed};
use pollux_tests::writelog::{log_of, lose_power};

fn mirror(files: &Files, replica: u8) -> PathBuf {
    files.folder().join(format!("disk.{replica}"))
}

fn is_stale(files: &Files, replica: u8) {
    let failure = Pair::refused(&files.options("", &[]));
    assert_eq!(failure.code, DISK_CODE, "{}", failure.text);
    assert!(failure.text.contains(&format!("disk.{replica} is stale")), "{}", failure.text);
}

/// The replica has left because of its disk, the other one goes on with the same connection, and the mirror that was left
/// behind is not read again.
fn has_left(files: &Files, mut pair: Pair, replica: u8, why: &str) {
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 1 - replica, "the other one goes on");
    let reason = reason_of_end(&mut pair, replica);
    assert!(reason.starts_with("disk-failed: disk data ") && reason.contains(why), "{reason}");
    pair.down();
    is_stale(files, replica);
}

#[test]
fn a_primary_whose_disk_hangs_leaves_when_the_backup_has_done_what_it_has_not() {
    let files = Files::new("hangs");
    // QEMU makes one of these, lets it through, and makes what comes next wait for minutes.
    let mut pair = Pair::up(&files.options(",size=1M", &["--disk-fault", "0:data:slow:1"]));
    let mut client = connect(&mut pair);
    let answer = ask(&mut client, "disk data stream 1 524288 8");
    assert!(answer.starts_with("took"), "{answer}");
    assert!(ask(&mut client, "disk data version 1").starts_with("version"), "the same connection goes on");
    has_left(&files, pair, 0, "and the other replica's has");
}

#[test]
fn nobody_leaves_for_disks_that_both_hang_and_the_supervisor_is_told() {
    let files = Files::new("both-hang");
    let faults = ["--disk-fault", "0:data:slow:1", "--disk-fault", "1:data:slow:1"];
    let mut pair = Pair::up(&files.options(",size=1M", &faults));
    let mut client = connect(&mut pair);
    // QEMU makes one of these, lets it through, and makes what comes next wait for minutes.
    assert!(ask(&mut client, "disk data stream 1 524288 8").starts_with("took"));
    send(&mut client, "disk data version 1");
    pair.wait_until("the word of a disk that hangs", |status| (status.count("; the guest waits") > 0).then_some(()));
    assert_eq!(pair.status().mode, "paired");
    assert_eq!(ask(&mut connect(&mut pair), "hello"), "hello", "what needs no disk goes on");
}

#[test]
fn a_disk_that_is_pulled_out_takes_its_replica_with_it_and_nothing_else() {
    for replica in [0, 1] {
        println!("replica {replica}");
        let files = Files::new(&format!("gone-{replica}"));
        // 19: there is no such device.
        let fault = format!("{replica}:data:gone:3:19");
        let mut pair = Pair::up(&files.options(",size=1M", &["--disk-fault", &fault]));
        let mut client = connect(&mut pair);
        for round in 0..6 {
            let first = 100 * round;
            assert_eq!(ask(&mut client, &format!("disk data write {first} 8 1 {}", round + 1)), "done");
            assert_eq!(ask(&mut client, &format!("disk data verify {first} 8 1 {}", round + 1)), "same");
            assert_eq!(ask(&mut client, "disk data flush"), "done");
        }
        has_left(&files, pair, replica, "failed: ");
    }
}

#[test]
fn a_disk_that_is_full_at_one_replica_is_no_concern_of_the_guest() {
    for replica in [0, 1] {
        let files = Files::new(&format!("full-{replica}"));
        // 28: no space is left on the device.
        let fault = format!("{replica}:data:write:100:28");
        let mut pair = Pair::up(&files.options(",size=1M", &["--disk-fault", &fault]));
        let mut client = connect(&mut pair);
        assert_eq!(ask(&mut client, "disk data write 96 8 1 2"), "done");
        assert_eq!(ask(&mut client, "disk data verify 96 8 1 2"), "same");
        has_left(&files, pair, replica, "failed: Write at block 96");
    }
}

/// Both disks fail at once, each at a block of its own. Either one replica is left, which tells its guest of the one fault that
/// it has, or both have left, and each says why. What was acknowledged before lies on both mirrors.
#[test]
fn two_disks_that_fail_at_once_lose_nothing_and_say_so() {
    let mut ends = [0, 0];
    for round in 0..moments(4) {
        let files = Files::new(&format!("apart-{round}"));
        let faults = ["--disk-fault", "0:data:write:100", "--disk-fault", "1:data:write:200"];
        let mut pair = Pair::up(&files.options(",size=1M", &faults));
        let mut clients = [connect(&mut pair), connect(&mut pair)];
        assert_eq!(ask(&mut clients[0], "disk data write 0 64 1 1"), "done");
        assert_eq!(ask(&mut clients[0], "disk data flush"), "done");
        let writes = ["disk data write 96 8 1 2", "disk data write 196 8 1 2"];
        for index in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            send(&mut clients[index], writes[index]);
        }
        let reasons = pair.wait_until("the end of one replica at least", |status| {
            let reasons: Vec<_> = status.ended.iter().map(|ended| ended.reason.clone()).collect();
            let settled = status.mode == "solo" && ["running", "waiting"].contains(&status.replicas[0].state.as_str());
            (!reasons.is_empty() && (settled || status.replicas.is_empty())).then_some(reasons)
        });
        assert!(reasons.iter().all(|reason| reason.starts_with("disk-failed: disk data ")), "{reasons:?}");
        ends[reasons.len() - 1] += 1;
        let status = pair.status();
        if let Some(left) = status.replicas.first() {
            let faulty = usize::from(left.replica);
            assert_eq!(clients[faulty].line().expect("the connection stands"), "EIO");
            assert_eq!(clients[1 - faulty].line().expect("the connection stands"), "done");
            assert_eq!(ask(&mut clients[0], "disk data verify 0 64 1 1"), "same");
        }
        pair.down();
        for replica in 0..2 {
            let mirror = Mirror::open(&files.stem(), replica).expect("it is there");
            (0..64).for_each(|block| assert_eq!(mirror.version(1, block), Ok(1), "replica {replica}"));
        }
    }
    println!("one has left {} times, both {} times", ends[0], ends[1]);
}

#[test]
fn a_mirror_that_somebody_cuts_short_is_found_out_when_it_is_read() {
    for replica in [0, 1] {
        let files = Files::new(&format!("cut-{replica}"));
        let mut pair = files.up(",size=1M");
        let mut client = connect(&mut pair);
        assert_eq!(ask(&mut client, "disk data write 0 64 1 1"), "done");
        // Then the backup has written it, too.
        assert_eq!(ask(&mut client, "disk data flush"), "done");
        File::options().write(true).open(mirror(&files, replica)).expect("it is there").set_len(4096).expect("cut");
        // QEMU reads zeros beyond a file's end, and says nothing. The replicas have read different things; nobody can tell
        // by that which one is right, so the primary's word counts.
        let answer = ask(&mut client, "disk data verify 0 64 1 1");
        assert_eq!(answer, if replica == 0 { "differs at block 0" } else { "same" });
        pair.wait_for_solo(2);
        let reason = reason_of_end(&mut pair, 1);
        assert!(reason.starts_with("diverged"), "{reason}");
        pair.down();
    }
}

/// Options of a pair whose disks note what reaches them.
const LOGGED: [&str; 4] = ["--disk-fault", "0:data:logged:0", "--disk-fault", "1:data:logged:0"];

/// An empty disk for each replica, with room for what each of them notes.
fn with_logs(name: &str) -> Files {
    let files = Files::new(name);
    for replica in 0..2 {
        File::create(log_of(&mirror(&files, replica))).expect("created");
    }
    files
}

/// Both hosts lose their power. Returns how many written sectors were lost at each.
fn both_lose_power(files: &Files, rng: &mut Rng) -> [usize; 2] {
    [0, 1].map(|replica| lose_power(&mirror(files, replica), rng))
}

fn check_file(files: &Files, replica: u8, ledger: &Ledger) -> Result<(), String> {
    let mirror = Mirror::open(&files.stem(), replica).expect("it is there");
    ledger.clone().check(Promise::Stable, |seed, block| mirror.version(seed, block))
}

#[test]
fn what_was_flushed_survives_the_loss_of_power_on_both_mirrors() {
    let first = seed("power is lost under writes");
    let mut lost = 0;
    for seed in first..first + moments(4) {
        let files = with_logs("power");
        let pair = Pair::up(&files.options(",size=1M", &LOGGED));
        let mut ledger = kill_both_under_writes(pair, seed, Ledger::new(seed, BLOCKS));
        lost += both_lose_power(&files, &mut Rng::new(seed)).iter().sum::<usize>();
        for replica in 0..2 {
            check_file(&files, replica, &ledger).unwrap_or_else(|text| panic!("replica {replica}: {text}"));
        }
        let mut pair = files.up(",resync");
        check_through_guest(&mut pair, &mut ledger, Promise::Stable);
        pair.down();
        let (code, text) = files.command("check", &[]);
        assert_eq!(code, 0, "{text}");
    }
    assert!(lost > 0, "not one loss of power cost anything: nothing was tried");
}

#[test]
fn a_disk_that_lies_about_flushes_loses_what_it_lies_about_and_the_other_mirror_has_it() {
    let seed = seed("a lost flush");
    for liar in [0, 1] {
        let files = with_logs(&format!("lies-{liar}"));
        let lie = format!("{liar}:data:lies:0");
        let pair = Pair::up(&files.options(",size=1M", &[&LOGGED[..], &["--disk-fault", &lie]].concat()));
        let mut ledger = kill_both_under_writes(pair, seed, Ledger::new(seed, BLOCKS));
        let lost = both_lose_power(&files, &mut Rng::new(seed));
        assert!(lost[usize::from(liar)] > 0);
        check_file(&files, 1 - liar, &ledger).expect("an honest disk keeps what was flushed");
        // Who would not notice this would notice nothing above.
        let told = check_file(&files, liar, &ledger).expect_err("what never reached the disk is lost");
        assert!(told.contains("holds version"), "{told}");
        // The two differ, and whoever knows which disk lies says so.
        let (code, text) = files.command("resync", &["--from", &(1 - liar).to_string()]);
        assert_eq!(code, 0, "{text}");
        let mut pair = files.up("");
        check_through_guest(&mut pair, &mut ledger, Promise::Stable);
        pair.down();
    }
}
