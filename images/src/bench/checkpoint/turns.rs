//! Kill the primary, bring a new replica in, kill the one that took over, and so on, all under one and the same load: no
//! client may lose its connection or anything that it was told.

use serde::Serialize;

use super::{PATIENCE, WARM_REPLIES, fill, load};
use crate::bench::Promise;
use crate::ctl::{Request, RoleName, SignalName};
use crate::error::{Error, Result};
use crate::load::Verdict;
use crate::running::Running;
use crate::supervise::spec::Spec;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Turns {
    /// Kills, each followed by a new replica.
    pub rounds: u64,
    /// How often each of the two replicas was killed.
    pub kills: [u64; 2],
    /// Replies that clients had meanwhile.
    pub replies: u64,
    /// Writes that were acknowledged.
    pub acknowledged_writes: u64,
    /// Keys that were compared with what was acknowledged in the end.
    pub checked_keys: u64,
    /// Connections that broke or hung.
    pub broken_connections: u64,
    /// Acknowledged writes that were lost, repeated or invented.
    pub lost_writes: u64,
    /// The longest wait of any client for a reply, in milliseconds.
    pub gap_ms: f64,
}

/// Takes so many turns with a pair that is started like this one and holds so many values.
///
/// # Errors
/// The pair does not start, or a replica cannot be brought in.
pub(super) fn take(
    spec: &Spec,
    values: usize,
    rounds: usize,
    all: &mut Verdict,
    note: &mut impl FnMut(&str),
) -> Result<Turns> {
    let mut pair = Running::start(spec)?;
    fill(&pair, values)?;
    let load = load(&pair)?;
    let mut kills = [0; 2];
    for round in 1..=rounds {
        note(&format!("kill, rejoin, kill the other: {round} of {rounds}"));
        for goes_on in [false, true] {
            let settled = load.replies() + WARM_REPLIES;
            if !load.wait_for(PATIENCE, |load| load.replies() >= settled) {
                return Err(Error::CheckFailed(format!("round {round}: the store does not answer")));
            }
            if goes_on {
                pair.client().rejoin(&Request::Rejoin, |_| ())?;
                continue;
            }
            let status = pair.status()?;
            let primary = status.replicas.iter().find(|replica| replica.role == RoleName::Primary);
            if let Some(killed) = primary.and_then(|primary| kills.get_mut(usize::from(primary.replica))) {
                *killed += 1;
            }
            pair.kill(RoleName::Primary, SignalName::Kill)?;
            pair.wait_until(PATIENCE, |status| status.mode == "solo" && status.serving && status.replicas.len() == 1)?;
        }
    }
    let verdict = load.finish();
    pair.down()?;
    let turns = Turns {
        rounds: rounds as u64,
        kills,
        replies: verdict.replies,
        acknowledged_writes: verdict.acknowledged_writes,
        checked_keys: verdict.checked_keys,
        broken_connections: verdict.broken_connections,
        lost_writes: verdict.lost_writes + verdict.repeated_increments + verdict.skipped_increments,
        gap_ms: verdict.outage_ms(),
    };
    all.add(verdict);
    Ok(turns)
}

/// What must be reached.
pub(super) fn promises(turns: &Turns) -> [Promise; 2] {
    let what = "kill, rejoin, kill the other, under load";
    [
        Promise::at_most(format!("{what}: lost acknowledged writes"), turns.lost_writes as f64, 0.0),
        Promise::at_most(format!("{what}: broken connections"), turns.broken_connections as f64, 0.0),
    ]
}

/// For people.
pub(super) fn describe(turns: &Turns) -> String {
    format!(
        "{} rounds of kill, rejoin, kill the other, under load: replica 0 killed {} times, replica 1 {} times; {} replies, {} \
         writes acknowledged, {} keys compared; {} lost, {} connections broken; longest wait {:.1} ms\n",
        turns.rounds,
        turns.kills[0],
        turns.kills[1],
        turns.replies,
        turns.acknowledged_writes,
        turns.checked_keys,
        turns.lost_writes,
        turns.broken_connections,
        turns.gap_ms
    )
}
