//! The command as its users type it: what it prints, and what it exits with.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use pollux_tests::client::Client;
use pollux_tests::guests::ask;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::status::{Role, Status};
use pollux_tests::workbench::{Permit, image, wait_for_end};
use serde_json::Value;

/// Exit code of the command when something is missing on the machine.
const MISSING: i32 = 10;

/// Runs a command that need not concern a pair: its exit code, and what it wrote to stdout and stderr.
fn run(pair: &Pair, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = pair.command(arguments).output().expect("the pollux command starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the command writes UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "one object on one line: {text}");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn the_demonstration_succeeds_and_its_json_says_so() {
    // Built here, so that the demonstration need not.
    image("kv");
    let _all = Permit::take(u32::MAX);
    let pair = Pair::nothing();
    let (code, text, errors) = run(&pair, &["demo", "--json"]);
    assert_eq!(code, Some(0), "{errors}");
    let report = json(&text);
    let verdict = &report["verdict"];
    for nothing in ["broken_connections", "lost_writes", "repeated_increments", "skipped_increments"] {
        assert_eq!(verdict[nothing], 0, "{nothing}: {report:#}");
    }
    for something in ["connections", "replies", "acknowledged_writes", "checked_keys"] {
        assert!(verdict[something].as_u64().is_some_and(|count| count > 0), "{something}: {report:#}");
    }
    let events = report["events"].as_array().expect("what happened").iter().filter_map(|event| event["text"].as_str());
    let granted = |text: &str| text.contains("granted (generation 2, replica 1 active, solo)");
    assert_eq!(events.filter(|text| granted(text)).count(), 1, "{report:#}");
    for pid in report["pids"].as_array().expect("two processes") {
        let pid = i32::try_from(pid.as_i64().expect("a process id")).expect("a process id");
        assert!(wait_for_end(pid, DEADLINE), "QEMU outlived the demonstration");
    }
    let (code, text, _) = run(&pair, &["list", "--json"]);
    assert_eq!((code, text.trim_end()), (Some(0), "[]"), "nothing is left");
}

#[test]
fn an_app_is_started_by_its_name_and_found_by_commands_that_name_none() {
    let mut pair = Pair::nothing();
    let _permit = Permit::take(1);
    let (code, text, errors) = run(&pair, &["up", "echo", "--name", "e2e", "--publish", "0:7"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.starts_with("echo serves as \"e2e\" (paired) after "), "{text}");
    let mut client = Client::connect(pair.address(7)).expect("a published port takes connections");
    assert!(text.contains(&format!("  {} -> guest port 7\n", pair.address(7))), "{text}");
    assert_eq!(ask(&mut client, "hello"), "hello");
    // It is the only one that runs, so it need not be named.
    let (code, text, errors) = run(&pair, &["kill", "primary"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.trim_end().parse::<i32>().is_ok(), "{text}");
    pair.wait_for_solo(2);
    assert_eq!(ask(&mut client, "again"), "again", "the same connection goes on");
    pair.down();
}

/// What the first issue promises, word by word: programs read it.
#[test]
fn status_json_has_every_field_that_was_promised() {
    let mut pair = Pair::up(&Options::new("echo"));
    let host = pair.address(7).port();
    let (code, text, errors) = run(&pair, &["status", "--json"]);
    assert_eq!(code, Some(0), "{errors}");
    let status = json(&text);
    assert_eq!(status["name"], "e2e");
    assert_eq!(status["generation"], 1);
    assert_eq!(status["mode"], "paired");
    let [published] = &status["publish"].as_array().expect("a list")[..] else { panic!("{status:#}") };
    assert_eq!((published["host"].as_u64(), published["guest"].as_u64()), (Some(host.into()), Some(7)));
    let replicas = status["replicas"].as_array().expect("a list");
    assert_eq!(replicas.iter().map(|replica| &replica["role"]).collect::<Vec<_>>(), ["primary", "backup"]);
    for replica in replicas {
        let pid = replica["pid"].as_i64().expect("a process id");
        let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs");
        assert!(program.starts_with("qemu-system"), "`pid` is the QEMU process, not {program:?}");
        assert!(replica["state"].is_string(), "{replica:#}");
        for number in ["epoch", "lag_epochs", "link_rtt_us"] {
            assert!(replica[number].is_u64(), "{number}: {replica:#}");
        }
        assert!(replica["uptime_s"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{replica:#}");
    }
    let text = pair.must(&["status"]);
    assert!(text.starts_with("e2e (echo): serving, paired, revised protocol, "), "{text}");
    pair.down();
}

fn follow(pair: &Pair, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = pair.command(arguments).stdout(Stdio::piped()).spawn().expect("the pollux command starts");
    let lines = BufReader::new(child.stdout.take().expect("piped"));
    (child, lines)
}

/// Reads lines until one contains `text`; how many contained `other` on the way.
fn read_until(lines: &mut impl BufRead, text: &str, other: &str) -> usize {
    let mut seen = 0;
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).expect("UTF-8") > 0, "the log ended without {text:?}");
        seen += usize::from(line.contains(other));
        if line.contains(text) {
            return seen;
        }
    }
}

#[test]
fn logs_are_shown_and_followed_over_a_failover_to_their_end() {
    let mut pair = Pair::up(&Options::new("probe"));
    let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    let (code, text, errors) = run(&pair, &["logs"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.contains("probe: ready on "), "{text}");
    let (mut child, mut lines) = follow(&pair, &["logs", "--follow", "--name", "e2e"]);
    read_until(&mut lines, "probe: ready on ", "probe: ready on ");
    assert_eq!(ask(&mut client, "flood 10"), "printed 10");
    assert_eq!(read_until(&mut lines, "flood 00000009", "flood "), 10, "as it is printed");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    assert_eq!(ask(&mut client, "flood 10"), "printed 10");
    assert_eq!(read_until(&mut lines, "flood 00000009", "flood "), 10, "also by the backup");
    let (_, supervisor, _) = run(&pair, &["logs", "--supervisor"]);
    assert!(supervisor.contains("arbiter: replica 1 asks"), "{supervisor}");
    pair.down();
    lines.read_to_end(&mut Vec::new()).expect("the rest");
    assert!(child.wait().expect("it ends").success(), "it ends with the pair, and that is no error");
}

#[test]
fn the_doctor_says_what_there_is() {
    let pair = Pair::nothing();
    let (code, text, errors) = run(&pair, &["doctor", "--json"]);
    let report = json(&text);
    let findings = report["findings"].as_array().expect("a list");
    let finding = |name: &str| {
        findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"))
    };
    for needed in ["qemu-system-x86_64", "cc"] {
        assert_eq!((&finding(needed)["ok"], &finding(needed)["need"]), (&true.into(), &"run".into()), "pairs run here");
    }
    for tested in ["c++", "ip", "redis-cli", "redis-benchmark", "redis-check-rdb", "passt", "descriptors"] {
        assert_eq!(finding(tested)["need"], "test", "{report:#}");
    }
    let missing: Vec<_> = findings.iter().filter(|f| f["ok"] == false && f["need"] != "advice").collect();
    assert_eq!(code, Some(if missing.is_empty() { 0 } else { MISSING }), "{errors}");
    assert_eq!(report["install"].is_null(), findings.iter().all(|f| f["package"].is_null()), "{report:#}");
    let (again, lines, _) = run(&pair, &["doctor"]);
    assert_eq!(again, code);
    for finding in findings {
        let name = finding["name"].as_str().expect("a name");
        assert!(lines.lines().any(|line| line.split_whitespace().nth(1) == Some(name)), "{name}: {lines}");
    }
}

/// Where a machine has no KVM (the processor shows neither vmx nor svm, whatever /dev/kvm does), nothing is tried.
#[test]
fn kvm_is_refused_where_there_is_none() {
    let pair = Pair::nothing();
    let (_, text, _) = run(&pair, &["doctor", "--json"]);
    let report = json(&text);
    let kvm = report["findings"].as_array().expect("a list").iter().find(|finding| finding["name"] == "kvm");
    let kvm = kvm.expect("it is looked at");
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").expect("Linux");
    let able = cpuinfo.split_whitespace().any(|word| word == "vmx" || word == "svm");
    let fault = kvm["found"].as_str().expect("a text");
    if kvm["ok"] == true {
        assert!(able, "{kvm:#}");
        return;
    }
    assert_eq!(able, !fault.contains("neither vmx nor svm"), "{kvm:#}");
    let failure = Pair::refused(&Options::new("echo").with(&["--accel", "kvm"]));
    assert_eq!(failure.code, MISSING, "{}", failure.text);
    assert!(
        failure.text.contains(&format!("KVM cannot be used: {fault}; use --accel tcg or auto")),
        "{}",
        failure.text
    );
}

/// The app in `tests/fixtures/timed` names exact epochs of 200,000 instructions in its manifest.
#[test]
fn the_manifest_names_the_epoch_source_and_the_command_line_overrides_it() {
    let _permit = Permit::take(1);
    for (arguments, epochs) in [
        (&[][..], "exact:200000"),
        (&["--epoch", "cooperative"], "cooperative"),
        (&["--epoch", "exact:5000"], "exact:5000"),
    ] {
        let pair = Pair::nothing();
        let (code, text, errors) = run(&pair, &[&["up", "timed", "--name", "e2e", "--json"], arguments].concat());
        assert_eq!(code, Some(0), "{errors}");
        assert_eq!(json(&text)["epochs"], epochs);
        let status: Status = serde_json::from_str(&text).expect("a status as promised");
        assert_eq!(status.replicas.len(), 2, "and both replicas can have them: {:#?}", status.events);
        pair.down();
    }
}
