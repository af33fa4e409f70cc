//! What the system knows about a QEMU process: processor time of its vCPU, resident memory.

use std::fs;
use std::path::PathBuf;

use crate::error::{Context, Error, Result};

/// Processor time of the thread that runs the guest, in nanoseconds.
///
/// # Errors
/// The process is gone.
pub fn vcpu_ns(pid: i32) -> Result<u64> {
    let thread = vcpu_thread(pid)?;
    let text = fs::read_to_string(thread.join("schedstat")).context(|| "cannot read a thread's processor time")?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.ok_or_else(|| Error::CheckFailed(format!("{} is not understood: {text:?}", thread.display())))
}

/// QEMU names the thread "CPU 0/TCG" or "CPU 0/KVM" when told to (`debug-threads=on`).
fn vcpu_thread(pid: i32) -> Result<PathBuf> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let tasks = fs::read_dir(&folder).context(|| format!("process {pid} is gone"))?;
    let is_vcpu = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("CPU 0"));
    tasks
        .flatten()
        .map(|task| task.path())
        .find(is_vcpu)
        .ok_or_else(|| Error::CheckFailed(format!("process {pid} has no thread named \"CPU 0\"")))
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
