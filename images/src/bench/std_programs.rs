//! Ordinary programs: how large a small one is, how soon it says something, how long it takes from a new project to a
//! request that it has answered, and what a server costs in a pair.

mod project;
mod server;
mod start;

use serde::Serialize;

use super::{Promise, median};
use crate::build::Image;
use crate::error::Result;
use server::{Compared, ServerRound, Servers};

/// Starts in a full run and in a quick one.
const ROUNDS: usize = 9;
const QUICK_ROUNDS: usize = 3;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct StdReport {
    /// Starts of the small program.
    pub rounds: usize,
    /// Bytes of its image.
    pub image_bytes: u64,
    /// From the start of its supervisor to its first line, bare, in milliseconds: each start.
    pub first_line_ms: Vec<f64>,
    /// From `cargo pollux new` to a request that the new program, as a pair, has answered, in seconds. Building counts.
    pub project_s: f64,
    /// A server under load, each round.
    pub server: Vec<ServerRound>,
    /// What that comes to.
    pub compared: Compared,
    /// What must be reached.
    pub promises: Vec<Promise>,
}

/// Rounds of the server in a full run; one in a quick one.
const SERVER_ROUNDS: usize = 5;

/// Measures. `hello` is the image of a program that prints a line, `server` that of one that says hello over HTTP.
///
/// # Errors
/// Something does not start, or says nothing.
pub fn run(hello: &Image, server: &Image, quick: bool, mut note: impl FnMut(&str)) -> Result<StdReport> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let mut first_line_ms = Vec::new();
    for round in 1..=rounds {
        note(&format!("start {round} of {rounds}"));
        first_line_ms.push(start::first_line_ms(hello)?);
    }
    let mut served = Vec::new();
    note("two servers");
    let mut servers = Servers::start(server)?;
    let server_rounds = if quick { 1 } else { SERVER_ROUNDS };
    for round in 1..=server_rounds {
        note(&format!("server, round {round} of {server_rounds}"));
        served.push(servers.round()?);
    }
    servers.down()?;
    note("a new project");
    let project_s = project::new_to_answer_s()?;
    let compared = Compared::of(&served);
    let promises = vec![
        Promise::at_most("image of a program that prints a line, MiB", hello.image_bytes as f64 / 1_048_576.0, 1.5),
        Promise::at_most("start to its first line, bare, median, ms", median(&first_line_ms), 150.0),
        Promise::at_most("`new` to a request that the pair has answered, s", project_s, 30.0),
        Promise::at_least("HTTP server, throughput, pair / bare", compared.rps_ratio, 0.6),
        Promise::at_most("HTTP server, vCPU time a request, pair / bare", compared.vcpu_ratio, 1.2),
    ];
    Ok(StdReport {
        rounds,
        image_bytes: hello.image_bytes,
        first_line_ms,
        project_s,
        server: served,
        compared,
        promises,
    })
}

/// What people read.
pub fn describe(report: &StdReport) -> String {
    let mut out = format!("ordinary programs, {} starts:\n", report.rounds);
    let Compared { slices, of, shared, rps, vcpu_us, .. } = report.compared;
    let which = if shared { ", none on cores of our own" } else { "" };
    out.push_str(&format!(
        "  HTTP server: bare {:.0} requests a second at {:.1} us of the vCPU each, pair {:.0} at {:.1} us ({slices} of {of} slices{which})\n",
        rps[0], vcpu_us[0], rps[1], vcpu_us[1],
    ));
    report.promises.iter().for_each(|promise| out.push_str(&promise.describe()));
    out
}
