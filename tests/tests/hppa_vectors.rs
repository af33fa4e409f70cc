//! PA-RISC computes what every machine computes: wire formats, ABI structures, simulated pairs, arithmetic.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pollux_tests::workbench;

/// The image takes about a second.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the image writes to its console.
fn printed() -> String {
    let mut machine = Command::new("qemu-system-hppa")
        .args([
            "-accel",
            "tcg",
            "-m",
            "64M",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-kernel",
        ])
        .arg(workbench::image("vectors.hppa"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-system-hppa starts (`pollux doctor` says which package brings it)");
    let mut output = machine.stdout.take().expect("it is piped");
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.read_to_end(&mut bytes);
        // Nobody waits any more when the time is over.
        let _ = sender.send(read.map(|_| bytes));
    });
    let bytes = receiver.recv_timeout(PATIENCE);
    // It has ended already unless it hangs.
    let _ = machine.kill();
    let _ = machine.wait();
    reader.join().expect("reading does not panic");
    let bytes = bytes.expect("the image powers the machine off").expect("its console can be read");
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

#[test]
fn pa_risc_and_this_machine_write_the_same_lines() {
    let mut expected = Vec::new();
    vectors::run(&mut |line| expected.push(line.to_owned()));
    assert!(
        expected.iter().filter(|line| line.starts_with("wire ")).count() > 40,
        "vectors are missing: {expected:#?}"
    );
    assert!(expected.iter().all(|line| !line.contains("Err(")), "a simulated run has failed: {expected:#?}");
    let text = printed();
    // The firmware speaks first.
    let start = text.find(&expected[0]).unwrap_or_else(|| panic!("no line {:?} in {text}", expected[0]));
    let got: Vec<_> = text[start..].lines().collect();
    assert_eq!(got, expected);
}
