//! Disks of pairs: mirrors stay equal, nothing that was promised is lost, and a disk that fails takes its replica with it
//! and nothing else.
//!
//! Run with `cargo test -p pollux-tests --test e2e_disk`. `POLLUX_E2E_MOMENTS=50` tries that many moments of each kind of
//! kill, `POLLUX_SEED` repeats a run.

use std::path::Path;

use pollux_tests::blocks::Mirror;
use pollux_tests::disks::{
    DISK_CODE, Files, assert_equal, assert_stale, connect, kill_both_in_each_life, kill_one_under_writes,
    one_disk_fails, reason_of_end, works_on_every_machine,
};
use pollux_tests::guests::ask;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::Role;
use pollux_tests::workbench::{moments, seed};

#[test]
fn a_disk_works_on_every_machine_and_its_mirrors_are_equal_in_the_end() {
    works_on_every_machine("works", ",size=1M", "", |files, pair, arguments| {
        pair.down();
        if !arguments.contains(&"--bare") && !arguments.contains(&"--solo") {
            assert_equal(files);
        }
    });
}

#[test]
fn four_disks_are_told_apart_by_their_names() {
    let files = Files::new("four");
    let mut options = Options::new("probe");
    for (index, name) in ["zeta", "data", "alpha", "mid_1"].into_iter().enumerate() {
        let disk = format!("{name}={}/{name},size={}K", files.folder().display(), 64 * (index + 1));
        options = options.with(&["--disk", &disk]);
    }
    let mut pair = Pair::up(&options);
    let mut client = connect(&mut pair);
    for (name, blocks) in [("zeta", 128), ("data", 256), ("alpha", 384), ("mid_1", 512)] {
        assert_eq!(ask(&mut client, &format!("disk {name} size")), format!("blocks {blocks}"));
        assert_eq!(ask(&mut client, &format!("disk {name} write 3 1 {blocks} {blocks}")), "done");
    }
    pair.down();
    for (name, blocks) in [("zeta", 128), ("data", 256), ("alpha", 384), ("mid_1", 512)] {
        for replica in 0..2 {
            let mirror = Mirror::open(&files.folder().join(name), replica).expect("it is there");
            assert_eq!(mirror.version(blocks, 3), Ok(blocks), "{name}.{replica}");
        }
    }
    let fifth = options.with(&["--disk", "five=/nowhere/five,size=64K"]);
    assert_eq!(Pair::refused(&fifth).code, 2);
}

#[test]
fn the_primary_is_killed_while_clients_write() {
    let first = seed("primary killed under writes");
    for seed in first..first + moments(6) {
        kill_one_under_writes(&Files::new("kill-primary"), Role::Primary, seed);
    }
}

#[test]
fn the_backup_is_killed_while_clients_write() {
    let first = seed("backup killed under writes");
    for seed in first..first + moments(3) {
        kill_one_under_writes(&Files::new("kill-backup"), Role::Backup, seed);
    }
}

#[test]
fn both_are_killed_while_clients_write_and_what_was_flushed_is_there() {
    let first = seed("both killed under writes");
    kill_both_in_each_life(&Files::new("both"), first..first + moments(4));
}

#[test]
fn a_backup_whose_disk_fails_leaves() {
    for kind in ["write", "read", "flush"] {
        one_disk_fails(&Files::new(&format!("fails-1-{kind}")), 1, kind);
    }
}

#[test]
fn a_primary_whose_disk_fails_leaves_and_the_backup_takes_over() {
    for kind in ["write", "read", "flush"] {
        one_disk_fails(&Files::new(&format!("fails-0-{kind}")), 0, kind);
    }
}

#[test]
fn a_slow_disk_is_waited_for_but_only_so_long() {
    // So many writes of 64 KiB at once, at one a second; QEMU lets them through and makes what comes next wait for them. A
    // replica is waited for five seconds, for what the other one's disk has done.
    for (replica, rounds, leaves) in [(0, 3, false), (0, 14, true), (1, 3, false), (1, 14, true)] {
        println!("replica {replica}, {rounds} rounds");
        let files = Files::new(&format!("slow-{replica}-{rounds}"));
        let fault = format!("{replica}:data:slow:64");
        let mut pair = Pair::up(&files.options(",size=1M", &["--disk-fault", &fault]));
        let mut client = connect(&mut pair);
        let answer = ask(&mut client, &format!("disk data stream 1 {} {rounds}", rounds * 65536));
        assert!(answer.starts_with("took"), "{answer}");
        assert!(ask(&mut client, "disk data version 1").starts_with("version"));
        if leaves {
            let status = pair.wait_for_solo(2);
            assert_eq!(status.replicas[0].replica, 1 - replica);
            let reason = reason_of_end(&mut pair, replica);
            assert!(reason.starts_with("disk-failed: disk data "), "{reason}");
        }
        assert_eq!(ask(&mut client, "disk data flush"), "done");
        assert_eq!(pair.status().mode, if leaves { "solo" } else { "paired" });
        pair.down();
        if !leaves {
            assert_equal(&files);
        }
    }
}

#[test]
fn a_fault_that_both_disks_have_is_told_to_the_guest_by_the_one_that_is_left() {
    let files = Files::new("both-fail");
    // 28: the host's file system is full.
    let faults = ["--disk-fault", "0:data:write:100:28", "--disk-fault", "1:data:write:100:28"];
    let mut pair = Pair::up(&files.options(",size=1M", &faults));
    let mut client = connect(&mut pair);
    assert_eq!(ask(&mut client, "disk data write 96 8 1 2"), "EIO");
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas.len(), 1, "one is left");
    assert_eq!(ask(&mut client, "disk data write 0 8 1 2"), "done", "and its guest goes on");
    pair.down();
}

#[test]
fn a_fault_is_told_to_a_guest_without_a_pair() {
    for run in ["--bare", "--solo"] {
        let files = Files::new(&format!("alone{run}"));
        let arguments = [run, "--disk-fault", "0:data:write:100", "--disk-fault", "0:data:flush:0"];
        let mut pair = Pair::up(&files.options(",size=1M", &arguments));
        let mut client = connect(&mut pair);
        assert_eq!(ask(&mut client, "disk data write 96 8 1 2"), "EIO", "{run}");
        assert_eq!(ask(&mut client, "disk data flush"), "EIO", "{run}");
        assert_eq!(ask(&mut client, "disk data write 104 8 1 2"), "done", "{run}");
        pair.down();
    }
}

/// Changes one byte of a block in a mirror's file.
fn corrupt(files: &Files, replica: u8, block: u64) {
    use std::os::unix::fs::FileExt;
    let mut path = files.stem().into_os_string();
    path.push(format!(".{replica}"));
    let file = std::fs::File::options().write(true).open(Path::new(&path)).expect("it is there");
    file.write_all_at(&[0xff], 4096 + block * 512 + 77).expect("written");
}

#[test]
fn a_block_that_one_mirror_holds_wrongly_is_found_out_when_it_is_read() {
    let files = Files::new("corrupt");
    let mut pair = files.up(",size=1M");
    assert_eq!(ask(&mut connect(&mut pair), "disk data write 0 64 1 1"), "done");
    pair.down();
    corrupt(&files, 1, 7);
    let (code, text) = files.command("check", &[]);
    assert_eq!(code, 13, "{text}");
    assert!(text.contains("in 1 blocks, the first of them 7"), "{text}");
    let mut pair = files.up("");
    let mut client = connect(&mut pair);
    assert_eq!(ask(&mut client, "disk data verify 0 7 1 1"), "same");
    // The primary's block is good, so its answer stays; the backup has read something else and leaves.
    assert_eq!(ask(&mut client, "disk data verify 0 64 1 1"), "same");
    pair.wait_for_solo(2);
    let reason = reason_of_end(&mut pair, 1);
    assert!(reason.starts_with("diverged"), "{reason}");
    pair.down();
    assert_stale(&files, 1);
}

#[test]
fn disks_that_do_not_belong_are_refused_by_the_command_that_starts_the_pair() {
    let files = Files::new("refused");
    let refused = |options: &str, code: i32, text: &str| {
        let failure = Pair::refused(&files.options(options, &[]));
        assert_eq!(failure.code, code, "{}", failure.text);
        assert!(failure.text.contains(text), "{options:?}: {}", failure.text);
    };
    refused("", DISK_CODE, "add size=64M");
    refused(",size=1", 2, "a size is a multiple of 512");
    refused(",shred", 2, "is not known");
    let pair = files.up(",size=1M");
    refused("", DISK_CODE, "in use");
    pair.down();
    refused(",size=2M", DISK_CODE, "not of 2097152");
    let path = |end: &str| files.folder().join(format!("disk.{end}"));
    let rename = |from: &str, to: &str| std::fs::rename(path(from), path(to)).expect("renamed");
    rename("0", "x");
    rename("1", "0");
    rename("x", "1");
    refused("", DISK_CODE, "swapped");
    std::fs::write(path("0"), "precious").expect("written");
    refused(",size=1M", DISK_CODE, "somebody else's file");
    assert_eq!(std::fs::read(path("0")).expect("it is there"), b"precious");
}
