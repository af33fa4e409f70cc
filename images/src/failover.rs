//! Failovers under load, from start to verdict: one, as `demo` shows it and `bench failover` repeats it, or several of the same
//! pair, with a new replica after each.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::ctl::{EventStatus, Request, RoleName, SignalName};
use crate::error::{Error, Result};
use crate::load::{Load, Verdict, percentile};
use crate::running::Running;
use crate::supervise::spec::Spec;

/// The store's port in the guest.
pub const STORE_PORT: u16 = 6379;
/// What the outage of a client is at most, 99 times of 100, on every machine.
pub const PROMISED_P99_MS: f64 = 1_000.0;
/// Something is wrong when it takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a failover is done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Clients.
    pub connections: usize,
    /// Replies before the fault.
    pub replies_before: u64,
    /// Replies to requests sent after the fault.
    pub replies_after: u64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Failover {
    /// From the start of the pair to its serving, in milliseconds.
    pub start_ms: u64,
    /// QEMU's process ids: primary and backup.
    pub pids: [i32; 2],
    /// When load began, in milliseconds since the pair's start.
    pub load_at_ms: f64,
    /// When the signal was sent, in milliseconds since the pair's start.
    pub kill_at_ms: f64,
    /// Replies until then.
    pub replies_before: u64,
    /// When the clients had stopped and checked everything, in milliseconds since the pair's start.
    pub end_at_ms: f64,
    /// What the supervisor saw from the signal on.
    pub events: Vec<EventStatus>,
    /// Frames that the survivor was given again.
    pub frames_resent: u64,
    /// Frames of the survivor that the dead primary had let out already.
    pub duplicates_dropped: u64,
    /// What the clients saw.
    pub verdict: Verdict,
}

/// Starts a pair of the store, whose port is published here, loads it, kills the primary with SIGKILL, and checks every
/// write.
///
/// # Errors
/// The pair does not start, or has no primary to be killed. What clients suffer is no error but in the verdict.
pub fn run(spec: Spec, plan: Plan, mut note: impl FnMut(&str)) -> Result<Failover> {
    let spec = spec.publishing(STORE_PORT);
    note("starting two virtual machines");
    let mut pair = Running::start(&spec)?;
    let address = pair.address(STORE_PORT)?;
    let status = pair.status()?;
    // The supervisor's clock, as ours: the time between its answer and our reading of it is microseconds.
    let began = Instant::now() - Duration::from_secs_f64(status.uptime_s);
    let since = |instant: Instant| instant.duration_since(began).as_secs_f64() * 1e3;
    let pid = |role| status.replica(role).map(|replica| replica.pid);
    let pids = pid(RoleName::Primary).zip(pid(RoleName::Backup));
    let Some((primary, backup)) = pids else {
        return Err(Error::Start("the pair serves with one replica only".to_owned()));
    };
    note("writing from several connections");
    let load_at_ms = since(Instant::now());
    let load = start_load(address, plan)?;
    let replies_before = load.replies();
    note("killing the primary");
    load.mark_fault();
    let kill_at_ms = since(Instant::now());
    pair.kill(RoleName::Primary, SignalName::Kill)?;
    load.wait_for(PATIENCE, |load| load.replies_after_fault() >= plan.replies_after);
    note("checking every write");
    let verdict = load.finish();
    let end_at_ms = since(Instant::now());
    let after = pair.status()?;
    let counter = |name: &str| after.hub.get(name).copied().unwrap_or(0);
    Ok(Failover {
        start_ms: status.start_ms,
        pids: [primary, backup],
        load_at_ms,
        kill_at_ms,
        replies_before,
        end_at_ms,
        frames_resent: counter("frames_in_resent"),
        duplicates_dropped: counter("duplicates_dropped"),
        // The request to kill is noted before the signal is sent, a little after we said so.
        events: after.events.into_iter().filter(|event| event.at_ms >= kill_at_ms).collect(),
        verdict,
    })
}

/// A replica that was killed, and the one that came for it.
#[derive(Debug, Clone, Serialize)]
pub struct Kill {
    /// When the signal was sent, in milliseconds since the pair's start.
    pub at_ms: f64,
    /// QEMU's process id.
    pub pid: i32,
    /// The longest wait of a client for a reply because of it, in milliseconds.
    pub outage_ms: f64,
    /// From the signal to a complete pair again, in milliseconds.
    pub protected_ms: f64,
}

/// What came of several failovers of one pair, under one load.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// From the start of the pair to its serving, in milliseconds.
    pub start_ms: u64,
    /// Each primary that was killed.
    pub kills: Vec<Kill>,
    /// Outages over all connections and kills, in milliseconds: the median, the 99th percentile, the longest.
    pub outage_p50_ms: f64,
    /// See above.
    pub outage_p99_ms: f64,
    /// See above.
    pub outage_max_ms: f64,
    /// What the clients saw.
    pub verdict: Verdict,
}

/// Starts a pair of the store and kills its primary again and again, under the same clients on the same connections; each time
/// a new replica is brought in before the next kill. Then every write is checked.
///
/// # Errors
/// The pair does not start, has no primary to be killed, or does not become complete again. What clients suffer is no error but
/// in the verdict.
pub fn run_series(spec: Spec, plan: Plan, kills: usize, mut note: impl FnMut(&str)) -> Result<Series> {
    let spec = spec.staying_alone().publishing(STORE_PORT);
    note("starting two virtual machines");
    let mut pair = Running::start(&spec)?;
    let address = pair.address(STORE_PORT)?;
    let start_ms = pair.status()?.start_ms;
    note("writing from several connections");
    let load = start_load(address, plan)?;
    let mut done = Vec::new();
    for kill in 1..=kills {
        note(&format!("kill {kill} of {kills}"));
        done.push(one_of_series(&mut pair, &load, plan)?);
    }
    note("checking every write");
    let verdict = load.finish();
    pair.down()?;
    // The clients tell one after the other, each of all kills.
    for (index, kill) in done.iter_mut().enumerate() {
        let of_this = verdict.outages_ms.iter().skip(index).step_by(kills);
        kill.outage_ms = of_this.copied().fold(0.0, f64::max);
    }
    let share = |share| percentile(&verdict.outages_ms, share);
    Ok(Series {
        start_ms,
        kills: done,
        outage_p50_ms: share(0.50),
        outage_p99_ms: share(0.99),
        outage_max_ms: verdict.outage_ms(),
        verdict,
    })
}

fn one_of_series(pair: &mut Running, load: &Load, plan: Plan) -> Result<Kill> {
    let replies = load.replies();
    load.wait_for(PATIENCE, |load| load.replies() >= replies + plan.replies_before);
    load.mark_fault();
    let at = Instant::now();
    let pid = pair.kill(RoleName::Primary, SignalName::Kill)?;
    load.wait_for(PATIENCE, |load| load.replies_after_fault() >= plan.replies_after);
    load.mark_over();
    // Asked for: by themselves new ones come later and later where one after the other is lost.
    let after = pair.client().rejoin(&Request::Rejoin, |_| ())?;
    let protected_ms = at.elapsed().as_secs_f64() * 1e3;
    Ok(Kill { at_ms: after.uptime_s * 1e3 - protected_ms, pid, outage_ms: 0.0, protected_ms })
}

fn start_load(address: SocketAddr, plan: Plan) -> Result<Load> {
    let load = Load::start(address, plan.connections);
    if load.wait_for(PATIENCE, |load| load.replies() >= plan.replies_before) {
        return Ok(load);
    }
    let verdict = load.finish();
    Err(Error::CheckFailed(format!(
        "the store did not answer {} requests before any fault: {}",
        plan.replies_before,
        verdict.complaints.join("; ")
    )))
}
