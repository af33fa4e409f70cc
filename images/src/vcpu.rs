//! The threads of a QEMU process that run its guest's processor: what the system knows of them, and where they may run.

use std::fs;
use std::path::PathBuf;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A thread that runs a guest's processor. The process should be a child that has not been waited for, or its numbers may
/// come to be another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpu {
    process: i32,
    thread: i32,
}

/// What the system's scheduler has counted of a thread since it was started, and where it ran last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Time on a processor, in nanoseconds.
    pub ran_ns: u64,
    /// Time that it could have run and waited for a processor, in nanoseconds.
    pub waited_ns: u64,
    /// The processor that it ran on last.
    pub processor: usize,
}

impl Vcpu {
    /// The thread of a QEMU process; `None` when there is none, or no process. QEMU names it "CPU 0/TCG" or "CPU 0/KVM" when
    /// told to (`debug-threads=on`), and "ALL CPUs/TCG" where it counts instructions.
    pub fn of(process: i32) -> Option<Self> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
        let is_vcpu = |name: String| name.starts_with("CPU 0") || name.starts_with("ALL CPUs");
        let vcpu = tasks.flatten().find(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(is_vcpu))?;
        Some(Self { process, thread: vcpu.file_name().to_str()?.parse().ok()? })
    }

    /// What has been counted so far; `None` when the thread has ended.
    pub fn times(self) -> Option<Times> {
        let read = |name| fs::read_to_string(self.folder().join(name)).ok();
        times(&read("schedstat")?, &read("stat")?)
    }

    /// Makes it a batch job: it no longer preempts whoever is at work when it wakes. Where that is refused nothing is lost but
    /// speed.
    pub fn make_batch(self) {
        set_policy(self.thread, libc::SCHED_BATCH);
    }

    /// Makes QEMU's first thread, which looks after the devices, one as well, or a usual one again.
    pub fn make_main_loop_batch(self, batch: bool) {
        set_policy(self.process, if batch { libc::SCHED_BATCH } else { libc::SCHED_OTHER });
    }

    /// Lets it run on these processors only. Where that is refused nothing is lost but speed.
    pub fn run_on(self, processors: &[usize]) {
        let _ = sched_setaffinity(rustix::thread::Pid::from_raw(self.thread), &set_of(processors));
    }

    /// The same for all threads of its process. Those that these start later take after them.
    pub fn run_all_on(self, processors: &[usize]) {
        let set = set_of(processors);
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process)).into_iter().flatten().flatten();
        for thread in tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()) {
            let _ = sched_setaffinity(rustix::thread::Pid::from_raw(thread), &set);
        }
    }

    fn folder(self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/task/{}", self.process, self.thread))
    }
}

fn set_policy(thread: i32, policy: i32) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads the structure and changes nothing of this process's memory.
    unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) };
}

/// Lets the thread that calls it run on these processors only. Where that is refused nothing changes.
pub fn run_here_on(processors: &[usize]) {
    let _ = sched_setaffinity(None, &set_of(processors));
}

fn set_of(processors: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &processor in processors {
        set.set(processor);
    }
    set
}

/// Reads the contents of a task's `schedstat` and `stat` (proc(5)).
fn times(schedstat: &str, stat: &str) -> Option<Times> {
    let mut counts = schedstat.split_whitespace().map(str::parse);
    let mut next = || counts.next()?.ok();
    let (ran_ns, waited_ns) = (next()?, next()?);
    // The name, in parentheses, may hold anything; the processor is the 37th word behind it.
    let processor = stat.rsplit_once(')')?.1.split_whitespace().nth(36)?.parse().ok()?;
    Some(Times { ran_ns, waited_ns, processor })
}

/// The processors that this process may run on, in their order; empty when the system does not say.
pub fn allowed_processors() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&processor| set.is_set(processor)).collect()
}

/// How long each processor has been idle since the system was started, in nanoseconds, to ten milliseconds; empty when the
/// system does not say.
pub fn idle_ns() -> Vec<(usize, u64)> {
    fs::read_to_string("/proc/stat").map(|text| idle(&text)).unwrap_or_default()
}

/// Reads lines such as `cpu1 USER NICE SYSTEM IDLE IOWAIT …` (proc(5)), in hundredths of a second.
fn idle(text: &str) -> Vec<(usize, u64)> {
    const NS_PER_TICK: u64 = 10_000_000;
    let line = |line: &str| {
        let mut words = line.strip_prefix("cpu")?.split_whitespace();
        let processor = words.next()?.parse().ok()?;
        let ticks: u64 = words.skip(3).take(2).map_while(|word| word.parse::<u64>().ok()).sum();
        Some((processor, ticks * NS_PER_TICK))
    };
    // The first line is the sum of all.
    text.lines().skip(1).map_while(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_writes_is_read() {
        let stat =
            "7 (CPU 0/TCG) (x) S 1 2 3 0 -1 0 0 0 0 0 11 12 0 0 20 0 1 0 100 9 9 9 1 2 3 4 5 6 7 8 9 0 0 0 -1 5 0 3 0";
        let read = times("12 34 56\n", stat);
        assert_eq!(read, Some(Times { ran_ns: 12, waited_ns: 34, processor: 5 }));
        assert_eq!(times("12", stat), None);
        assert_eq!(times("12 34 56", "7 (cut short"), None);
        let lines = "cpu  9 9 9 9 9\ncpu0 1 2 3 40 5 6 7\ncpu2 1 2 3 7 0 6 7\nintr 1 2\n";
        assert_eq!(idle(lines), [(0, 450_000_000), (2, 70_000_000)]);
        assert_eq!(idle(""), []);
    }

    #[test]
    fn the_system_says_where_this_thread_may_run() {
        let allowed = allowed_processors();
        let idle = idle_ns();
        assert!(!allowed.is_empty());
        assert!(allowed.iter().all(|processor| idle.iter().any(|(other, _)| other == processor)));
    }
}
