//! Checkpoints of pairs that serve meanwhile, and pairs that go on from them.
//!
//! Run with `cargo test -p pollux-tests --test e2e_checkpoint`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pollux_tests::client::{Client, Reply};
use pollux_tests::disks::Files;
use pollux_tests::load::Load;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::small::Small;
use pollux_tests::status::{Role, Status};
use pollux_tests::workbench::{image, seed};

/// The exit code for what is no checkpoint, or not one that fits.
const NOT_A_CHECKPOINT: i32 = 16;
/// The exit code for a name that a pair has already.
const NAME_IN_USE: i32 = 8;

fn connect(pair: &mut Pair) -> Client {
    Client::connect(pair.address(6379)).expect("a published port takes connections")
}

fn integer(reply: &Reply) -> i64 {
    match reply {
        Reply::Bulk(Some(bytes)) => String::from_utf8_lossy(bytes).parse().expect("a number"),
        other => panic!("{other} is no number"),
    }
}

fn file(pair: &Pair, name: &str) -> PathBuf {
    pair.root().join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Takes the pair down and starts it again from a checkpoint.
fn restore(pair: &mut Pair, from: &Path, arguments: &[&str]) -> Status {
    pair.must(&["down"]);
    pair.restore(from, arguments)
}

fn wait_for_pair(pair: &mut Pair) {
    pair.wait_until("a complete pair", |status| {
        let runs = |role| status.replica(role).is_some_and(|r| r.state == "running" || r.state == "waiting");
        (status.mode == "paired" && runs(Role::Primary) && runs(Role::Backup)).then_some(())
    });
}

#[test]
fn a_pair_goes_on_from_a_checkpoint_and_survives_the_death_of_its_primary() {
    let mut pair = Pair::up(&Options::new("kv"));
    let mut client = connect(&mut pair);
    assert!(client.must("SET answer 41").is_ok());
    let path = file(&pair, "one.ckpt");
    pair.must(&["checkpoint", text(&path)]);
    assert_eq!(client.must("INCR answer"), Reply::Integer(42), "the pair goes on");
    assert_eq!(pair.status().mode, "paired");

    restore(&mut pair, &path, &[]);
    let mut client = connect(&mut pair);
    assert_eq!(client.must("GET answer"), Reply::bulk("41"), "what came after the checkpoint is gone");
    wait_for_pair(&mut pair);
    assert_eq!(client.must("INCR answer"), Reply::Integer(42));
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(3);
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "the same connection goes on");

    // And once more, from a pair that was restored itself.
    let again = file(&pair, "two.ckpt");
    pair.must(&["checkpoint", text(&again)]);
    let status = restore(&mut pair, &again, &["--solo"]);
    assert_eq!((status.mode.as_str(), status.replicas.len()), ("solo", 1));
    assert_eq!(connect(&mut pair).must("GET answer"), Reply::bulk("43"));
    pair.down();
}

/// No replica is to be taken for dead because the machine has other things to do. One that is killed is seen at once.
const PATIENT: [&str; 2] = ["--failure-timeout-ms", "5000"];

/// One client increments two counters in turn; whenever the checkpoint is taken, they differ by one at most.
fn consistent_under_load(arguments: &[&str]) {
    let seed = seed("checkpoint under load");
    let mut pair = Pair::up(&Options::new("kv").with(&PATIENT).with(arguments).alone());
    let load = Load::start(pair.address(6379), 6, seed);
    let (mut client, stop) = (connect(&mut pair), AtomicBool::new(false));
    let path = file(&pair, "load.ckpt");
    thread::scope(|scope| {
        let turns = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for command in ["INCR one", "INCR two"] {
                    assert!(matches!(client.must(command), Reply::Integer(_)));
                }
            }
        });
        for _ in 0..3 {
            load.wait_for_answers(30);
            pair.must(&["checkpoint", text(&path)]);
        }
        load.wait_for_answers(30);
        stop.store(true, Ordering::Relaxed);
        turns.join().expect("the client of two counters");
    });
    load.finish();
    assert_eq!(pair.status().mode, "paired", "nobody has diverged");
    assert_eq!(pair.status().hub["connections_reset"], 0);

    restore(&mut pair, &path, &[]);
    let mut client = connect(&mut pair);
    let [one, two] = ["GET one", "GET two"].map(|command| integer(&client.must(command)));
    println!("the checkpoint has counted to {one} and {two}");
    assert!(one > 0 && (one == two || one == two + 1), "{one} and {two} were never true at once");
    // All of it works, not only those two keys; the clients want to begin with nothing.
    assert!(client.must("FLUSHALL").is_ok());
    let load = Load::start(pair.address(6379), 6, seed ^ 1);
    load.wait_for_answers(50);
    load.finish();
    pair.down();
}

#[test]
fn a_checkpoint_under_load_is_one_moment() {
    consistent_under_load(&[]);
}

#[test]
fn a_checkpoint_takes_no_page_from_the_comparison_of_memory() {
    consistent_under_load(&["--check-determinism"]);
}

#[test]
fn a_checkpoint_is_taken_at_exact_epochs() {
    consistent_under_load(&["--epoch", "exact:50000"]);
}

#[test]
fn what_is_no_checkpoint_or_does_not_fit_is_refused_before_anything_starts() {
    let mut pair = Pair::up(&Options::new("echo"));
    let path = file(&pair, "good.ckpt");
    pair.must(&["checkpoint", text(&path)]);
    let good = fs::read(&path).expect("written");
    let changed = pair.must(&["status"]);
    assert!(changed.contains("serving"), "{changed}");
    pair.must(&["down"]);
    // Each supervisor begins its log anew, but not every refusal needs one.
    fs::write(pair.folder().join("supervisor.log"), "").expect("written");

    let refused = |pair: &Pair, bytes: &[u8], arguments: &[&str]| {
        let bad = file(pair, "bad.ckpt");
        fs::write(&bad, bytes).expect("written");
        let output = pair.run(&[&["restore", text(&bad)], arguments].concat());
        assert_eq!(output.status.code(), Some(NOT_A_CHECKPOINT), "{output:?}");
        assert!(pair.started_pids().is_empty(), "no machine was started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for length in [0, 7, 100, good.len() / 2, good.len() - 1] {
        assert!(refused(&pair, &good[..length], &[]).contains("cut short"), "cut at {length}");
    }
    for place in [40, good.len() / 3, good.len() - 9] {
        let mut bytes = good.clone();
        bytes[place] ^= 1;
        assert!(refused(&pair, &bytes, &[]).contains("damaged"), "flipped at {place}");
    }
    assert!(refused(&pair, b"PNG", &[]).contains("not a checkpoint"));
    let foreign = image("kv");
    assert!(refused(&pair, &good, &["--image", text(&foreign)]).contains("another"));
    assert!(pair.try_status().is_none(), "and nothing runs");
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let mut pair = Pair::up(&Options::new("echo"));
    let folder = file(&pair, "folder");
    fs::create_dir(&folder).expect("made");
    let output = pair.run(&["checkpoint", text(&folder)]);
    assert_eq!(output.status.code(), Some(12), "a folder is no file: {output:?}");
    let missing = file(&pair, "missing").join("file.ckpt");
    let output = pair.run(&["checkpoint", text(&missing)]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write"), "{output:?}");
    let left: Vec<_> = fs::read_dir(pair.root()).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".part")), "{left:?}");
    assert!(pair.status().serving);
    // The next one is none the worse for it.
    let path = file(&pair, "good.ckpt");
    pair.must(&["checkpoint", text(&path)]);
    assert!(pair.run(&["inspect", text(&path)]).status.code().is_some());
    pair.down();
}

/// The older checkpoint of that name is as good as before, and the pair is none the worse.
#[test]
fn a_full_disk_costs_the_new_checkpoint_and_nothing_else() {
    let mut pair = Pair::up(&Options::new("kv"));
    let folder = file(&pair, "small");
    let small = Small::mount(&folder, "8m");
    let path = folder.join("one.ckpt");
    let mut client = connect(&mut pair);
    assert!(client.must("SET answer 41").is_ok());
    pair.must(&["checkpoint", text(&path)]);
    let good = fs::read(&path).expect("written");
    let filler = small.fill();
    assert_eq!(client.must("INCR answer"), Reply::Integer(42));
    let output = pair.run(&["checkpoint", text(&path)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("No space left"), "{output:?}");
    assert!(fs::read(&path).expect("it is there") == good, "the older one was touched");
    let mut left: Vec<_> = fs::read_dir(&folder).expect("there").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["filler", "one.ckpt"]);
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "the pair goes on");
    assert_eq!(pair.status().mode, "paired");
    fs::remove_file(filler).expect("removed");
    pair.must(&["checkpoint", text(&path)]);
    restore(&mut pair, &path, &["--solo"]);
    assert_eq!(connect(&mut pair).must("GET answer"), Reply::bulk("43"));
    pair.must(&["down"]);
    drop(small);
}

#[test]
fn two_checkpoints_are_compared() {
    let mut pair = Pair::up(&Options::new("kv"));
    let mut client = connect(&mut pair);
    let (first, second) = (file(&pair, "first.ckpt"), file(&pair, "second.ckpt"));
    pair.must(&["checkpoint", text(&first)]);
    assert!(client.must("SET key value").is_ok());
    pair.must(&["checkpoint", text(&second)]);
    let inspect = |arguments: &[&str]| {
        let output = pair.command(&["inspect", "--json"]).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let alone = inspect(&[text(&first)]);
    assert_eq!((alone["app"].as_str(), alone["memory_bytes"].as_u64()), (Some("kv"), Some(64 << 20)));
    assert_eq!(alone["pages"].as_u64().zip(alone["zero_pages"].as_u64()).map(|(a, b)| a + b), Some(64 << 8));
    assert_eq!(inspect(&[text(&first), text(&first)])["changed_pages"].as_u64(), Some(0));
    let changed = inspect(&[text(&second), text(&first)])["changed_pages"].as_u64().expect("a number");
    assert!((1..1_000).contains(&changed), "{changed} pages differ");
    pair.down();
}

/// A chain of three files is the guest as it was at the last; without one of them it is refused.
#[test]
fn a_checkpoint_builds_upon_another() {
    let mut pair = Pair::up(&Options::new("kv"));
    let mut client = connect(&mut pair);
    let files: Vec<_> = (0..3).map(|number| file(&pair, &format!("{number}.ckpt"))).collect();
    let mut bytes = Vec::new();
    for (number, path) in files.iter().enumerate() {
        assert!(client.must(&format!("SET key:{number} {number}")).is_ok());
        assert!(client.must(&format!("SET newest {number}")).is_ok());
        let since = number.checked_sub(1).map(|before| text(&files[before]));
        pair.must(&since.map_or(vec!["checkpoint", "--full", text(path)], |since| {
            vec!["checkpoint", text(path), "--since", since]
        }));
        bytes.push(fs::metadata(path).expect("written").len());
    }
    println!("{bytes:?} bytes");
    assert!(bytes[1] < bytes[0] && bytes[2] < bytes[0]);
    let refused = pair.run(&["checkpoint", text(&file(&pair, "x.ckpt")), "--since", text(&files[0])]);
    assert_eq!(refused.status.code(), Some(12), "only the newest can be built upon");
    let both = pair.run(&["checkpoint", "--full", text(&file(&pair, "x.ckpt")), "--since", text(&files[2])]);
    assert_eq!(both.status.code(), Some(2), "{both:?}");
    // A new primary does not know what its predecessor's checkpoint lacks.
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    let refused = pair.run(&["checkpoint", text(&file(&pair, "x.ckpt")), "--since", text(&files[2])]);
    assert_eq!(refused.status.code(), Some(12), "{refused:?}");

    restore(&mut pair, &files[2], &["--solo"]);
    let mut client = connect(&mut pair);
    for number in 0..3 {
        assert_eq!(client.must(&format!("GET key:{number}")), Reply::bulk(number.to_string()));
    }
    assert_eq!(client.must("GET newest"), Reply::bulk("2"));
    restore(&mut pair, &files[1], &["--solo"]);
    assert_eq!(connect(&mut pair).must("GET newest"), Reply::bulk("1"));
    pair.must(&["down"]);
    fs::rename(&files[0], file(&pair, "elsewhere.ckpt")).expect("moved");
    let output = pair.run(&["restore", text(&files[2])]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("0.ckpt"), "{output:?}");
    // Another file in its place is not the one that was built upon.
    fs::copy(file(&pair, "elsewhere.ckpt"), &files[1]).expect("copied");
    let output = pair.run(&["restore", text(&files[2])]);
    assert_eq!(output.status.code(), Some(NOT_A_CHECKPOINT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("builds upon another"), "{output:?}");
}

/// A store whose log is on a disk, under load: memory and disk of a checkpoint are of one epoch, or the store that goes on
/// would append to a log that is another.
#[test]
fn a_checkpoint_holds_what_the_disk_held_then() {
    let seed = seed("checkpoint with a disk");
    let folder = Files::new("checkpoint");
    let place = |name: &str| format!("data={}", folder.folder().join(name).display());
    let persistent = ["--args", "appendonly=yes appendfsync=always"];
    let first = format!("{},size=32M", place("first"));
    let mut pair = Pair::up(&Options::new("kv").with(&PATIENT).with(&["--disk", &first]).with(&persistent).alone());
    let path = file(&pair, "disk.ckpt");
    let load = Load::start(pair.address(6379), 6, seed);
    for _ in 0..3 {
        load.wait_for_answers(50);
        pair.must(&["checkpoint", text(&path)]);
    }
    load.wait_for_answers(50);
    load.finish();
    let mut client = connect(&mut pair);
    assert!(client.must("SET answer 41").is_ok());
    pair.must(&["checkpoint", text(&path)]);
    assert_eq!(client.must("INCR answer"), Reply::Integer(42), "the pair goes on");
    assert_eq!((pair.status().mode.as_str(), pair.status().disks[0].stale), ("paired", None), "nobody has diverged");
    let refused = pair.run(&["checkpoint", text(&file(&pair, "x.ckpt")), "--since", text(&path)]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("leave --since out"), "{refused:?}");
    let kept = |pair: &Pair| {
        let names = fs::read_dir(pair.root()).expect("a folder").map(|entry| entry.expect("one").file_name());
        names.filter(|name| name.to_string_lossy().contains("disk.ckpt.")).collect::<Vec<_>>()
    };
    let disks = kept(&pair);
    assert_eq!(disks.len(), 1, "those of the checkpoints that were replaced are gone: {disks:?}");

    pair.must(&["down"]);
    let nowhere = pair.run(&["restore", text(&path)]);
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("--disk NAME=FILE"), "{nowhere:?}");
    let taken = pair.run(&["restore", text(&path), "--disk", &place("first")]);
    assert!(String::from_utf8_lossy(&taken.stderr).contains("there already"), "{taken:?}");
    let second = place("second");
    pair.must(&["restore", text(&path), "--publish", "0:6379", "--disk", &second]);
    let mut client = connect(&mut pair);
    assert_eq!(client.must("GET answer"), Reply::bulk("41"), "what came after the checkpoint is gone");
    wait_for_pair(&mut pair);
    for number in 1..=100 {
        assert_eq!(client.must("INCR afterwards"), Reply::Integer(number));
    }
    assert_eq!(client.must("INCR answer"), Reply::Integer(42));
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(3);
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "its backup has the same disk");
    pair.must(&["rejoin"]);
    wait_for_pair(&mut pair);
    pair.must(&["down"]);
    let (code, text) = command("check", &folder.folder().join("second"));
    assert_eq!(code, 0, "{text}");
    // A new life reads the log from its beginning: what was written before the checkpoint, and what was after it was restored.
    let kv = image("kv").display().to_string();
    let up = ["up", "--image", &kv, "--publish", "0:6379", "--disk", &second];
    pair.must(&[&up[..], &persistent[..]].concat());
    let mut client = connect(&mut pair);
    assert_eq!(client.must("GET answer"), Reply::bulk("43"));
    assert_eq!(client.must("GET afterwards"), Reply::bulk("100"));
    pair.down();
}

fn command(command: &str, stem: &Path) -> (i32, String) {
    let mut disk = std::process::Command::new(pollux_tests::workbench::command_path());
    let output = disk.args(["disk", command]).arg(stem).output().expect("it starts");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Both are asked for at the same time: one pair comes of it, whole, and the other command says why it has failed.
#[test]
fn of_two_restores_at_once_one_is_done() {
    let mut pair = Pair::up(&Options::new("kv"));
    assert!(connect(&mut pair).must("SET answer 41").is_ok());
    let path = file(&pair, "one.ckpt");
    pair.must(&["checkpoint", text(&path)]);
    for round in 0..3 {
        pair.must(&["down"]);
        let restores = [0, 1].map(|_| {
            let mut restore = pair.command(&["restore", text(&path), "--publish", "0:6379", "--name", "e2e"]);
            restore.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
        });
        let ended = restores.map(|restore| restore.wait_with_output().expect("it ends"));
        let codes = ended.each_ref().map(|output| output.status.code());
        assert!(codes == [Some(0), Some(NAME_IN_USE)] || codes == [Some(NAME_IN_USE), Some(0)], "{round}: {ended:?}");
        wait_for_pair(&mut pair);
        let mut client = connect(&mut pair);
        assert_eq!(client.must("GET answer"), Reply::bulk("41"));
        assert_eq!(client.must("INCR answer"), Reply::Integer(42));
    }
    pair.down();
}

#[test]
fn a_name_in_use_is_not_restored_to() {
    let mut pair = Pair::up(&Options::new("echo"));
    let path = file(&pair, "one.ckpt");
    pair.must(&["checkpoint", text(&path)]);
    assert_eq!(pair.run(&["restore", text(&path)]).status.code(), Some(NAME_IN_USE));
    assert!(pair.status().serving);
    pair.down();
}
