//! `cargo pollux bench paper`: the evaluation of Bressoud and Schneider's paper, redone on the machine at hand.
//!
//! [`plan`] says what is measured, [`mod@run`] measures once, [`table`] brings the rounds together, [`model`] is the
//! paper's, `report` and `plot` write it down. [`exactness`] and [`kills`] check rather than measure.

pub mod apart;
pub mod exactness;
pub mod host;
pub mod kills;
mod limits;
pub mod model;
pub mod pa_risc;
pub mod plan;
mod plot;
mod report;
pub mod run;
pub mod stats;
pub mod table;
pub mod workload;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Promise;
use crate::ctl::to_line;
use crate::error::{Context, Error, Result};
use crate::supervise::spec::{EpochSpec, ProtocolName};
use exactness::Exactness;
use host::Host;
use kills::Kills;
use plan::{Configuration, Group, PROMISED_LONG, PROMISED_SHORT, Plan, System, YIELD_AFTER};
pub use report::describe;
use run::{Images, Measuring, Sample, computing};
use table::{Counting, Model, Row};
use workload::Workload;

/// A measurement that could not be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// Of what.
    pub configuration: Configuration,
    /// In which round.
    pub round: usize,
    /// Why.
    pub text: String,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct PaperReport {
    /// Whether it was a look and no measurement.
    pub quick: bool,
    /// Rounds.
    pub rounds: usize,
    /// What random choices started from.
    pub seed: u64,
    /// Where.
    pub host: Host,
    /// What must be reached.
    pub promises: Vec<Promise>,
    /// Every configuration.
    pub rows: Vec<Row>,
    /// What counting instructions costs.
    pub counting: Vec<Counting>,
    /// The paper's model.
    pub models: Vec<Model>,
    /// The comparison of very many digests.
    pub exactness: Option<Exactness>,
    /// Primaries killed while their guest computes.
    pub kills: Option<Kills>,
    /// Measurements that could not be made.
    pub failures: Vec<Failure>,
    /// Every measurement of every round.
    pub samples: Vec<Sample>,
}

impl PaperReport {
    /// The row of a configuration.
    pub fn find(&self, configuration: Configuration) -> Option<&Row> {
        self.rows.iter().find(|row| row.configuration == configuration)
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Steps done.
    pub done: usize,
    /// What is done now.
    pub text: &'a str,
}

/// Does what the plan says. What fails is in the report: the rest of a long run is not thrown away for it.
pub fn run(images: &Images, plan: &Plan, mut note: impl FnMut(Progress<'_>)) -> PaperReport {
    let host = Host::look();
    let (mut samples, mut failures, mut done) = (Vec::new(), Vec::new(), 0);
    let mut measuring = Measuring::new(images, plan.quick);
    for round in 1..=plan.rounds {
        for (group, system) in turns(&plan.groups, round) {
            let configuration = Configuration { workload: group.workload, epoch: group.epoch, system };
            note(Progress { done, text: &format!("round {round} of {}: {configuration}", plan.rounds) });
            match measuring.measure(group, system, round) {
                Ok(sample) => samples.push(sample),
                Err(error) => failures.push(Failure { configuration, round, text: error.to_string() }),
            }
            done += 1;
        }
    }
    let exactness = plan.exact_epochs.map(|epochs| {
        note(Progress { done, text: &format!("exactness: {epochs} epochs under random traffic") });
        done += 1;
        let length = plan.exact_length;
        exactness::run(images, (epochs, length), plan.seed)
            .unwrap_or_else(|error| Exactness::failed((epochs, length), &error))
    });
    let kills = plan.kills.map(|kills| {
        let note = |text: &str| {
            note(Progress { done, text });
            done += 1;
        };
        kills::run(images, kills, plan.seed, note).unwrap_or_else(|error| Kills::failed(kills, &error))
    });
    let (quick, rounds, seed) = (plan.quick, plan.rounds, plan.seed);
    Measured { quick, rounds, seed, host, exactness, kills, failures, samples }.report()
}

/// What of a report is measured. The rest follows from it.
#[derive(Deserialize)]
struct Measured {
    quick: bool,
    rounds: usize,
    seed: u64,
    host: Host,
    exactness: Option<Exactness>,
    kills: Option<Kills>,
    failures: Vec<Failure>,
    samples: Vec<Sample>,
}

/// The report of an earlier run, from its `paper.json`. What follows from the measurements is reckoned anew.
///
/// # Errors
/// The file cannot be read, or is no such report.
pub fn read(path: &Path) -> Result<PaperReport> {
    let text = fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
    let measured: Measured = serde_json::from_str(&text)
        .map_err(|error| Error::Usage(format!("{} is no report of `bench paper`: {error}", path.display())))?;
    Ok(measured.report())
}

impl Measured {
    fn report(self) -> PaperReport {
        let Self { quick, rounds, seed, host, exactness, kills, failures, samples } = self;
        let rows = table::rows(&samples);
        let mut report = PaperReport {
            quick,
            rounds,
            seed,
            host,
            promises: Vec::new(),
            counting: table::counting(&samples),
            models: table::models(&samples, &rows),
            rows,
            exactness,
            kills,
            failures,
            samples,
        };
        report.promises = promises(&report);
        report
    }
}

/// Who has a turn in a round, one after the other. What drifts within a comparison does so the other way round in every
/// second round.
fn turns(groups: &[Group], round: usize) -> impl Iterator<Item = (&Group, System)> {
    groups.iter().flat_map(move |group| {
        let mut systems = group.systems.clone();
        if round.is_multiple_of(2) {
            systems.reverse();
        }
        systems.into_iter().map(move |system| (group, system))
    })
}

/// What must be reached, as far as it was measured.
fn promises(report: &PaperReport) -> Vec<Promise> {
    let revised = System::Pair(ProtocolName::Revised);
    // Where cores were shared with somebody else in every slice, what was measured on such has to do.
    let np = |name: &str, configuration, bound| {
        let np = report.find(configuration).and_then(limits::normalised)?;
        Some(Promise::at_most(name, np.median, bound))
    };
    let yields = Workload::Dhrystone { yield_after: YIELD_AFTER };
    let solo = computing(EpochSpec::Exact(PROMISED_SHORT), System::Solo);
    let boundary_us = report.find(solo).and_then(limits::boundary_us).map(|boundary| boundary.median);
    let kills = report.kills.as_ref();
    let all = [
        np("NP Dhrystone, cooperative", computing(EpochSpec::Cooperative, revised), 1.03),
        np(
            "NP Dhrystone, cooperative, yield=1000",
            Configuration { workload: yields, epoch: EpochSpec::Cooperative, system: revised },
            1.03,
        ),
        np("NP Dhrystone, exact 1M, revised", computing(EpochSpec::Exact(PROMISED_LONG), revised), 1.05),
        np("NP Dhrystone, exact 10K, revised", computing(EpochSpec::Exact(PROMISED_SHORT), revised), 2.0),
        boundary_us.map(|us| Promise::at_most("epoch boundary without outputs, solo, exact 10K, us", us, 12.0)),
        report.exactness.as_ref().map(|exactness| {
            let name = "epochs of 10K instructions with equal digests";
            Promise::at_least(name, exactness.full as f64, exactness.wanted as f64)
        }),
        report.exactness.as_ref().map(|exactness| {
            Promise::at_most("divergences and failures during these", exactness.complaints.len() as f64, 0.0)
        }),
        kills.map(|kills| {
            let name = "killed while computing: answers equal to bare";
            Promise::at_least(name, kills.survived() as f64, kills.kills.len() as f64)
        }),
        Some(Promise::at_most("measurements that failed", report.failures.len() as f64, 0.0)),
    ];
    all.into_iter().flatten().collect()
}

/// Writes `evaluation.md` and its pictures into a folder, and `paper.json` if it is wanted. The section about PA-RISC that is
/// there is kept. Returns the document's path.
///
/// # Errors
/// The system's.
pub fn write(report: &PaperReport, folder: &Path, with_json: bool) -> Result<PathBuf> {
    let put = |path: &Path, text: &str| fs::write(path, text).context(|| format!("cannot write {}", path.display()));
    let pictures = folder.join(report::PICTURES);
    fs::create_dir_all(&pictures).context(|| format!("cannot make {}", pictures.display()))?;
    let mut drawn = Vec::new();
    for (name, svg) in draw(report)? {
        put(&pictures.join(&name), &svg)?;
        drawn.push(name);
    }
    if with_json {
        put(&folder.join("paper.json"), &to_line(report)?)?;
    }
    let document = folder.join("evaluation.md");
    let mut text = report::markdown(report, &drawn);
    if let Ok(old) = fs::read_to_string(&document)
        && let Some(section) = pa_risc::section_of(&old)
    {
        text.push('\n');
        text.push_str(section);
    }
    put(&document, &text)?;
    Ok(document)
}

/// The pictures and their names.
fn draw(report: &PaperReport) -> Result<Vec<(String, String)>> {
    let drawn = |subject: plot::Subject| {
        let svg = plot::draw(&report.rows, &report.models, subject).transpose()?;
        Some(svg.map(|svg| (subject.file_name(), svg)))
    };
    plot::Subject::all().filter_map(drawn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kills::Kill;

    /// A report with something of everything.
    pub fn report() -> PaperReport {
        let samples = table::tests::samples();
        let rows = table::rows(&samples);
        let kill = |right| Kill { at_s: 0.5, answer_s: 1.2, right };
        let mut report = PaperReport {
            quick: true,
            rounds: 2,
            seed: 1,
            host: Host {
                cpu: "Some Processor".to_owned(),
                cores: 2,
                qemu: "QEMU emulator version 7.2".to_owned(),
                kernel: "6.1".to_owned(),
                load_before: 0.1,
            },
            promises: Vec::new(),
            counting: table::counting(&samples),
            models: table::models(&samples, &rows),
            rows,
            exactness: Some(Exactness {
                wanted: 100,
                compared: 150,
                full: 120,
                length: PROMISED_SHORT,
                elapsed_s: 1.0,
                commands: 50,
                typed_bytes: 10,
                complaints: Vec::new(),
            }),
            kills: Some(Kills {
                runs: 1_000,
                bare_s: 1.0,
                kills: vec![kill(true), kill(true), kill(false)],
                complaints: vec!["kill 3: no answer".to_owned()],
            }),
            failures: vec![Failure {
                configuration: samples[0].configuration,
                round: 2,
                text: "it broke\nin two".to_owned(),
            }],
            samples,
        };
        report.promises = promises(&report);
        report
    }

    #[test]
    fn promises_are_judged_by_medians() {
        let kept: Vec<_> = report().promises.iter().map(|promise| (promise.measured, promise.kept)).collect();
        let near = |expected: &[(f64, bool)]| {
            kept.len() == expected.len()
                && kept.iter().zip(expected).all(|(got, want)| (got.0 - want.0).abs() < 1e-6 && got.1 == want.1)
        };
        let expected = [
            (1.0, true),
            (1.02, true),
            (3.0, false),
            (20.0, false),
            (120.0, true),
            (0.0, true),
            (2.0, false),
            (1.0, false),
        ];
        assert!(near(&expected), "{kept:?}");
    }

    #[test]
    fn every_second_round_goes_the_other_way() {
        let plan = Plan::new(true, &[plan::Part::Dhrystone], None, 1);
        let order = |round| turns(&plan.groups[..1], round).map(|(_, system)| system).collect::<Vec<_>>();
        let mut back = order(2);
        back.reverse();
        assert_eq!((order(1)[0], back), (System::Bare, order(1)));
    }

    #[test]
    fn a_report_is_written_with_its_pictures() {
        let folder = std::env::temp_dir().join(format!("pollux-paper-test-{}", std::process::id()));
        let document = write(&report(), &folder, true).expect("written");
        let text = fs::read_to_string(&document).expect("there");
        for picture in ["np-dhrystone.svg", "boundary-dhrystone.svg"] {
            assert!(text.contains(picture) && folder.join("evaluation").join(picture).is_file(), "{picture}");
        }
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("paper.json")).expect("there")).expect("JSON");
        assert_eq!(json["rows"][0]["configuration"]["epoch"], "cooperative");
        let again = read(&folder.join("paper.json")).expect("its own report");
        assert_eq!(describe(&again), describe(&report()));
        assert!(read(&document).is_err(), "a document is no report");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
