//! A machine that has nothing to do with what is measured, and keeps a processor as busy as a backup would.
//!
//! The processors of one host share more than memory: caches, the width of a core, the clock. What a pair costs beyond one
//! machine is partly this, and a neighbour shows how much.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::paper::workload::{Dhrystone, Workload};
use super::process;
use crate::build::Image;
use crate::ctl::RoleName;
use crate::error::{Error, Result};
use crate::running::Running;
use crate::supervise::spec::{RunName, Spec};

/// Runs of the benchmark at a time: a fraction of a millisecond, as long as an epoch under load.
const RUNS: u64 = 500;
/// Runs before anything is counted, so that the translator has seen the code.
const WARM_UP_RUNS: u64 = 100_000;

/// The machine.
pub struct Neighbour {
    pair: Running,
    client: Dhrystone,
    pid: i32,
}

impl Neighbour {
    /// Starts one that runs `dhrystone`, an image of the benchmark that computes.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(dhrystone: &Image) -> Result<Self> {
        let name = format!("bench-{}-neighbour", std::process::id());
        let workload = Workload::COMPUTES;
        let spec = Spec {
            run: RunName::Bare,
            arguments: workload.arguments(),
            memory_mib: workload.memory_mib(),
            ..Spec::new(name, dhrystone.clone())?.staying_alone().publishing(workload.port())
        };
        let pair = Running::start(&spec)?;
        let pid = pair.first_status.replica(RoleName::Primary).map(|replica| replica.pid);
        let pid = pid.ok_or_else(|| Error::Start("the neighbour is not there".to_owned()))?;
        let mut client = Dhrystone::connect(pair.address(workload.port())?)?;
        client.run(WARM_UP_RUNS)?;
        Ok(Self { pair, client, pid })
    }

    /// Does something while the neighbour computes for this share of the time, and stops it. Returns the share that it
    /// reached too.
    ///
    /// # Errors
    /// That of `act`, or the neighbour fails.
    pub fn beside<T>(self, share: f64, act: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let Self { pair, mut client, pid } = self;
        let done = AtomicBool::new(false);
        let begin = std::time::Instant::now();
        let before = process::vcpu_ns(pid)?;
        let result = std::thread::scope(|scope| {
            let neighbour = scope.spawn(|| compute(&mut client, pid, share, &done));
            let result = act();
            done.store(true, Ordering::Relaxed);
            let failed = neighbour.join().map_err(|_| Error::CheckFailed("a thread of ours panicked".to_owned()))?;
            failed.and(result)
        })?;
        let reached = (process::vcpu_ns(pid)? - before) as f64 / begin.elapsed().as_nanos() as f64;
        pair.down()?;
        Ok((result, reached))
    }
}

/// Computes a little and rests in proportion, by the processor time that was taken.
fn compute(client: &mut Dhrystone, pid: i32, share: f64, done: &AtomicBool) -> Result<()> {
    let begin = std::time::Instant::now();
    let before = process::vcpu_ns(pid)?;
    while !done.load(Ordering::Relaxed) {
        client.run(RUNS)?;
        let due = Duration::from_nanos(((process::vcpu_ns(pid)? - before) as f64 / share) as u64);
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
    }
    Ok(())
}
