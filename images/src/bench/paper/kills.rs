//! Primaries that are killed while their guest computes and waits for nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::System;
use super::run::{Images, computing};
use super::stats::random;
use super::workload::{Answer, Dhrystone, Workload};
use crate::ctl::{RoleName, SignalName};
use crate::error::{Error, Result};
use crate::running::Running;
use crate::supervise::spec::{EpochSpec, ProtocolName};

/// Epochs of the pairs, in instructions.
const EPOCH: EpochSpec = EpochSpec::Exact(100_000);
/// Runs by which the speed of this machine is found.
const TRIAL_RUNS: u64 = 300_000;
/// How long the guest is to compute without epochs, in seconds.
const COMPUTE_S: f64 = 1.0;
/// The moments of the kills, as shares of that time: well before the pair, which is slower, can have finished.
const EARLIEST: f64 = 0.05;
const LATEST: f64 = 0.90;

/// One kill.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kill {
    /// When, in seconds after the guest was asked.
    pub at_s: f64,
    /// When the answer came, in seconds after the guest was asked; 0 when none did.
    pub answer_s: f64,
    /// Whether the answer was that of a guest without epochs, over the same connection, by the survivor alone.
    pub right: bool,
}

/// What came of all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kills {
    /// Runs that were asked for.
    pub runs: u64,
    /// How long a guest without epochs takes for them, in seconds.
    pub bare_s: f64,
    /// Every kill.
    pub kills: Vec<Kill>,
    /// What went wrong.
    pub complaints: Vec<String>,
}

impl Kills {
    /// They could not begin.
    pub fn failed(kills: usize, error: &Error) -> Self {
        let none = Kill { at_s: 0.0, answer_s: 0.0, right: false };
        Self { runs: 0, bare_s: 0.0, kills: vec![none; kills], complaints: vec![error.to_string()] }
    }

    /// How many were survived.
    pub fn survived(&self) -> usize {
        self.kills.iter().filter(|kill| kill.right).count()
    }
}

/// What a guest without epochs answers, which is what every survivor must answer.
struct Expected {
    runs: u64,
    answer: Answer,
}

/// Kills so many primaries, each of a fresh pair.
///
/// # Errors
/// A pair does not start. What goes wrong later is in the result.
pub fn run(images: &Images, kills: usize, seed: u64, mut note: impl FnMut(&str)) -> Result<Kills> {
    let expected = expect(images)?;
    let mut random = random(seed, u64::MAX);
    let mut result =
        Kills { runs: expected.runs, bare_s: expected.answer.elapsed_s, kills: Vec::new(), complaints: Vec::new() };
    for number in 1..=kills {
        note(&format!("kill {number} of {kills} while the guest computes"));
        let at_s = expected.answer.elapsed_s * (EARLIEST + (LATEST - EARLIEST) * random.f64());
        match kill(images, &expected, at_s) {
            Ok(kill) => result.kills.push(kill),
            Err(error) => {
                result.kills.push(Kill { at_s, answer_s: 0.0, right: false });
                result.complaints.push(format!("kill {number}: {error}"));
            }
        }
    }
    Ok(result)
}

/// Finds how many runs take long enough, and what the answer to them is.
fn expect(images: &Images) -> Result<Expected> {
    let bare = Running::start(&images.spec(computing(EPOCH, System::Bare))?)?;
    let mut client = Dhrystone::connect(bare.address(Workload::COMPUTES.port())?)?;
    client.run(TRIAL_RUNS)?;
    let trial = client.run(TRIAL_RUNS)?;
    let runs = (TRIAL_RUNS as f64 * COMPUTE_S / trial.elapsed_s) as u64;
    let answer = client.run(runs)?;
    bare.down()?;
    Ok(Expected { runs, answer })
}

/// One kill: the guest is asked, its primary dies, the same connection must bring the answer.
fn kill(images: &Images, expected: &Expected, at_s: f64) -> Result<Kill> {
    let system = System::Pair(ProtocolName::Revised);
    let mut pair = Running::start(&images.spec(computing(EPOCH, system))?)?;
    let mut client = Dhrystone::connect(pair.address(Workload::COMPUTES.port())?)?;
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| client.run(expected.runs));
        std::thread::sleep(Duration::from_secs_f64(at_s));
        let early = asked.is_finished();
        // Without the kill the answer comes too, so this thread ends either way.
        let killed = pair.kill(RoleName::Primary, SignalName::Kill);
        let answer = asked.join().map_err(|_| Error::CheckFailed("a thread of ours panicked".to_owned()))??;
        killed?;
        if early { Err(Error::CheckFailed("the answer came before the kill".to_owned())) } else { Ok(answer) }
    })?;
    let status = pair.status()?;
    let alone = status.generation == 2 && status.replicas.len() == 1;
    if !alone {
        return Err(Error::CheckFailed(format!(
            "generation {} with {} replicas after the kill",
            status.generation,
            status.replicas.len()
        )));
    }
    pair.down()?;
    Ok(Kill { at_s, answer_s: answer.elapsed_s, right: answer.verdict == expected.answer.verdict })
}
