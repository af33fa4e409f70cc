//! What the system knows about a QEMU process: processor time of its vCPU, resident memory; and its end.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::error::{Context, Error, Result};
use crate::vcpu::Vcpu;

/// Processor time of the thread that runs the guest, in nanoseconds.
///
/// # Errors
/// The process is gone, or is no QEMU.
pub fn vcpu_ns(pid: i32) -> Result<u64> {
    let times = Vcpu::of(pid).and_then(Vcpu::times);
    let missing = || Error::CheckFailed(format!("process {pid} has no thread that runs a guest's processor"));
    times.map(|times| times.ran_ns).ok_or_else(missing)
}

/// Processor time of all threads, in nanoseconds.
///
/// # Errors
/// The process is gone.
pub fn total_ns(pid: i32) -> Result<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context(|| format!("process {pid} is gone"))?;
    let of = |path: PathBuf| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    Ok(tasks.flatten().filter_map(|task| of(task.path())).sum())
}

/// Resident memory, in bytes.
///
/// # Errors
/// The process is gone.
pub fn resident_bytes(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context(|| format!("process {pid} is gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| Error::CheckFailed(format!("process {pid} does not tell its memory")))
}

/// Kills a process of ours.
///
/// # Errors
/// It is gone.
pub fn kill(pid: i32) -> Result<()> {
    let process = Pid::from_raw(pid).ok_or_else(|| Error::CheckFailed(format!("{pid} is no process")))?;
    kill_process(process, Signal::KILL).map_err(std::io::Error::from).context(|| format!("cannot kill process {pid}"))
}

/// Waits until a process has ended; it need not be a child.
///
/// # Errors
/// It has not within `patience`.
pub fn wait_for_end(pid: i32, patience: Duration) -> Result<()> {
    let Some(Ok(process)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
        // No such process any more.
        return Ok(());
    };
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) {
        Ok(1..) => Ok(()),
        _ => Err(Error::CheckFailed(format!("process {pid} has not ended within {} s", patience.as_secs()))),
    }
}
