//! Networks and mounts of a test's own.
//!
//! A thread leaves the host's for new namespaces, and everything that it starts from then on (`ip`, `cargo pollux up` and its
//! supervisor, clients' threads) is in there with it. They end with the last of them, so nothing is left behind, whatever
//! becomes of the test. This takes root and `ip`; without them the tests say that they are skipped.

use std::process::{Command, Stdio};
use std::thread;

pub use rustix::thread::UnshareFlags;

use crate::workbench::skip;

/// Why there can be no namespace here, if there cannot.
fn obstacle() -> Option<&'static str> {
    let ip = Command::new("ip").arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).status();
    match ip {
        _ if !rustix::process::geteuid().is_root() => Some("it takes root to make a namespace"),
        Ok(status) if status.success() => None,
        _ => Some("it takes `ip` (Debian: iproute2)"),
    }
}

/// Gives the calling thread new namespaces, of networks and perhaps of mounts.
///
/// # Panics
/// When the system refuses.
pub fn leave_for(new: UnshareFlags) {
    assert!((UnshareFlags::NEWNET | UnshareFlags::NEWNS).contains(new), "{new:?} are not meant");
    // SAFETY: new namespaces of networks and mounts, unlike a new table of descriptors, change nothing that other threads or this
    // one's memory rest on.
    unsafe { rustix::thread::unshare_unsafe(new) }.expect("new namespaces");
}

/// Runs a test on a thread with new namespaces, in which the loopback is up; or says why it is skipped.
pub fn inside(new: UnshareFlags, test: impl FnOnce() + Send + 'static) {
    if let Some(obstacle) = obstacle() {
        skip(obstacle);
        return;
    }
    let inside = thread::spawn(move || {
        leave_for(new);
        run("ip link set lo up");
        test();
    });
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command of words separated by spaces, and returns what it printed.
///
/// # Panics
/// When it fails.
pub fn run(command: &str) -> String {
    let (program, words) = command.split_once(' ').expect("a program and its words");
    let output = Command::new(program).args(words.split(' ')).stdin(Stdio::null()).output().expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}`: {errors}");
    String::from_utf8(output.stdout).expect("it writes UTF-8")
}
