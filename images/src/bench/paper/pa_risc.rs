//! The same on PA-RISC, the paper's machine: the workload that computes and those that use a disk under the paper's epoch
//! lengths, how fast the first is there compared with x86-64, and exact epochs under random traffic. It is a section of its own at the end of the document.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::{Configuration, Group, Plan, System};
use super::run::{Images, Measuring, Sample};
use super::stats::Spread;
use super::workload::Workload;
use super::{Measured, PaperReport, Progress, report};
use crate::bench::Promise;
use crate::ctl::to_line;
use crate::error::{Context, Error, Result};
use crate::supervise::spec::{EpochSpec, ProtocolName};

/// The paper's epoch lengths, in instructions.
const LENGTHS: [u64; 4] = [4_000, 8_000, 32_000, 385_000];
const QUICK_LENGTHS: [u64; 2] = [8_000, 385_000];
/// Instructions of a run of Dhrystone there, roughly: it only decides how many runs are asked for.
const INSTRUCTIONS_A_RUN: u64 = 1_000;
/// The same of a read or a write of 8 KiB, content included.
const INSTRUCTIONS_AN_OPERATION: u64 = 100_000;
const LEAST_OPERATIONS: u64 = 200;
/// Length and number of the exact epochs whose digests are compared under random traffic.
const COMPARED_LENGTH: u64 = 50_000;
const COMPARED: u64 = 10_000;
/// Between these lines of the document the section stands.
const BEGIN: &str = "<!-- PA-RISC: written by `bench paper --target hppa --write-docs` -->\n";
const END: &str = "<!-- end of PA-RISC -->\n";

/// What was measured.
#[derive(Debug, Serialize)]
pub struct PaRiscReport {
    /// As on x86-64.
    pub paper: PaperReport,
    /// The workload on both machines, without epochs and without counting: runs a second by those on x86-64, both translated.
    pub speed: Option<Speed>,
}

/// How fast the workload that computes is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Speed {
    /// Runs a second on PA-RISC.
    pub pa_risc: Spread,
    /// Runs a second on x86-64.
    pub x86_64: Spread,
    /// The latter by the former, within a round.
    pub factor: Spread,
}

/// What is measured there.
pub fn plan(quick: bool, rounds: Option<usize>, seed: u64) -> Plan {
    let (runs, most_epochs) = if quick { (100_000, 10_000) } else { (400_000, 50_000) };
    let systems = vec![System::Bare, System::Pair(ProtocolName::Revised), System::Pair(ProtocolName::Original)];
    let group = |epoch, size| Group { workload: Workload::COMPUTES, epoch, size, systems: systems.clone() };
    let lengths = if quick { &QUICK_LENGTHS[..] } else { &LENGTHS[..] };
    let exact = lengths
        .iter()
        .map(|&length| group(EpochSpec::Exact(length), runs.min(most_epochs * length / INSTRUCTIONS_A_RUN)));
    let operations = if quick { 1_000 } else { 10_000 };
    let of_disk = |workload, epoch, size| Group { workload, epoch, size, systems: systems.clone() };
    let disk = disk_workloads(quick).iter().flat_map(|&workload| {
        let exact = lengths.iter().map(|&length| {
            // Short epochs are many: less of them says as much.
            let most = (most_epochs * length / INSTRUCTIONS_AN_OPERATION).max(LEAST_OPERATIONS);
            of_disk(workload, EpochSpec::Exact(length), operations.min(most))
        });
        let cooperative = of_disk(workload, EpochSpec::Cooperative, operations);
        std::iter::once(cooperative).chain(exact).collect::<Vec<_>>()
    });
    Plan {
        quick,
        rounds: rounds.unwrap_or(if quick { 1 } else { 3 }),
        groups: std::iter::once(group(EpochSpec::Cooperative, runs * 2)).chain(exact).chain(disk).collect(),
        exact_epochs: Some(COMPARED),
        exact_length: COMPARED_LENGTH,
        kills: None,
        seed,
    }
}

/// The paper's workloads that read and write, of a disk that is mirrored and of one that is shared, as the paper's was.
fn disk_workloads(quick: bool) -> &'static [Workload] {
    if quick { &[Workload::DiskRead, Workload::DiskWrite] } else { &Workload::DISK }
}

/// Does what the plan says with the images of PA-RISC, and compares its workload with that of the image for x86-64.
pub fn measure(images: &Images, other: &Images, plan: &Plan, mut note: impl FnMut(Progress<'_>)) -> PaRiscReport {
    let mut paper = super::run(images, plan, &mut note);
    let mut pairs = Vec::new();
    let [mut own, mut other] = [images, other].map(|images| Measuring::new(images, plan.quick));
    for round in 1..=plan.rounds {
        let group = &plan.groups[0];
        note(Progress { done: plan.steps(), text: &format!("round {round} of {}: both machines", plan.rounds) });
        let mut own = || own.measure(group, System::Bare, round);
        let mut other = || other.measure(group, System::Bare, round);
        // What drifts meanwhile does so the other way round in every second round.
        let both = if round.is_multiple_of(2) {
            other().and_then(|other| Ok((own()?, other)))
        } else {
            own().and_then(|own| Ok((own, other()?)))
        };
        match both {
            Ok(both) => pairs.push(both),
            Err(error) => paper.failures.push(super::Failure {
                configuration: Configuration { workload: group.workload, epoch: group.epoch, system: System::Bare },
                round,
                text: error.to_string(),
            }),
        }
    }
    PaRiscReport { paper: judged(paper), speed: speed(&pairs) }
}

fn speed(pairs: &[(Sample, Sample)]) -> Option<Speed> {
    let rate = |sample: &Sample| sample.size as f64 / sample.elapsed_s;
    let over = |of: &dyn Fn(&(Sample, Sample)) -> f64| Spread::of(&pairs.iter().map(of).collect::<Vec<_>>());
    Some(Speed {
        pa_risc: over(&|(own, _)| rate(own))?,
        x86_64: over(&|(_, other)| rate(other))?,
        factor: over(&|(own, other)| rate(other) / rate(own))?,
    })
}

/// With what must be reached here: times are reported, exactness is promised.
fn judged(mut report: PaperReport) -> PaperReport {
    let exactness = report.exactness.iter();
    let mut promises: Vec<_> = exactness
        .flat_map(|exactness| {
            let name = "PA-RISC: epochs of 50K instructions with equal digests";
            let complaints = exactness.complaints.len() as f64;
            [
                Promise::at_least(name, exactness.full as f64, exactness.wanted as f64),
                Promise::at_most("divergences and failures during these", complaints, 0.0),
            ]
        })
        .collect();
    promises.push(Promise::at_most("measurements that failed", report.failures.len() as f64, 0.0));
    report.promises = promises;
    report
}

#[derive(Deserialize)]
struct Written {
    paper: Measured,
    speed: Option<Speed>,
}

/// The report of an earlier run, from its `paper-hppa.json`.
///
/// # Errors
/// The file cannot be read, or is no such report.
pub fn read(path: &Path) -> Result<PaRiscReport> {
    let text = fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
    let written: Written = serde_json::from_str(&text).map_err(|error| {
        Error::Usage(format!("{} is no report of `bench paper --target hppa`: {error}", path.display()))
    })?;
    Ok(PaRiscReport { paper: judged(written.paper.report()), speed: written.speed })
}

/// Writes the section into the folder's `evaluation.md`, in place of the one that is there, and `paper-hppa.json` if it is
/// wanted. Returns the document's path.
///
/// # Errors
/// The system's.
pub fn write(report: &PaRiscReport, folder: &Path, with_json: bool) -> Result<PathBuf> {
    let put = |path: &Path, text: &str| fs::write(path, text).context(|| format!("cannot write {}", path.display()));
    fs::create_dir_all(folder).context(|| format!("cannot make {}", folder.display()))?;
    if with_json {
        put(&folder.join("paper-hppa.json"), &to_line(report)?)?;
    }
    let document = folder.join("evaluation.md");
    let text = fs::read_to_string(&document).unwrap_or_else(|_| "# Evaluation\n".to_owned());
    put(&document, &with_section(&text, &markdown(report)))?;
    Ok(document)
}

/// The document with another section, or one at its end.
fn with_section(document: &str, section: &str) -> String {
    match section_of(document) {
        Some(old) => document.replace(old, section),
        None => format!("{}\n\n{section}", document.trim_end()),
    }
}

/// The section of a document, which whoever writes the rest anew keeps.
pub fn section_of(document: &str) -> Option<&str> {
    let start = document.find(BEGIN)?;
    let end = start + document[start..].find(END)? + END.len();
    Some(&document[start..end])
}

/// What the terminal shows.
pub fn describe(report: &PaRiscReport) -> String {
    format!("{}{}", speed_line(report), report::describe(&report.paper))
}

fn speed_line(report: &PaRiscReport) -> String {
    report.speed.map_or_else(String::new, |speed| {
        format!(
            "Without epochs and without counting, Dhrystone makes {} runs/s on PA-RISC and {} on x86-64, both translated by \
             QEMU: x86-64 is {} times as fast.\n",
            report::spread(speed.pa_risc),
            report::spread(speed.x86_64),
            report::spread(speed.factor)
        )
    })
}

fn markdown(report: &PaRiscReport) -> String {
    let paper = &report.paper;
    let mut out = format!(
        "{BEGIN}\n## PA-RISC, the paper's machine\n\n\
         Written by `cargo pollux bench paper --target hppa --write-docs`: the paper's workloads on an HP 9000 B160L that \
         QEMU emulates, where the paper had two HP 9000/720. The recovery counter, which QEMU lacks, is the interval timer \
         under `-icount shift=2`. Columns are those of the tables above; the paper's headline is in the table before: about \
         a factor of 2. {} rounds, seed {}, load average before the start {}.{}\n\n",
        paper.rounds,
        paper.seed,
        paper.host.load_before,
        if paper.quick { " **This was a quick look, not a measurement.**" } else { "" }
    );
    out.push_str(&report::tables(&paper.rows));
    out.push('\n');
    out.push_str(&report::counting(paper));
    out.push('\n');
    out.push_str(&speed_line(report));
    for model in &paper.models {
        out.push_str(&report::one_model(model, &paper.rows));
    }
    if let Some(exactness) = &paper.exactness {
        out.push('\n');
        out.push_str(&report::exact(exactness));
    }
    out.push('\n');
    out.push_str(&report::promises(&paper.promises));
    out.push('\n');
    out.push_str(&report::missing(&paper.failures));
    out.push_str(END);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::paper::tests::report;

    fn of_both() -> PaRiscReport {
        let spread = |median| Spread { median, min: median, max: median };
        let speed = Speed { pa_risc: spread(200.0), x86_64: spread(1000.0), factor: spread(5.0) };
        PaRiscReport { paper: judged(report()), speed: Some(speed) }
    }

    #[test]
    fn the_plan_has_the_papers_lengths_and_both_protocols_and_no_ticks() {
        for quick in [false, true] {
            let plan = plan(quick, None, 1);
            let computes = plan.groups.iter().filter(|group| group.workload == Workload::COMPUTES);
            let lengths: Vec<_> = computes.map(|group| group.epoch.length()).collect();
            let expected = if quick { vec![0, 8_000, 385_000] } else { vec![0, 4_000, 8_000, 32_000, 385_000] };
            assert_eq!(lengths, expected);
            assert!(plan.groups.iter().all(|group| group.systems.len() == 3 && !group.epoch.needs_ticks()));
            let writes = |group: &&Group| group.workload == Workload::DiskWrite;
            assert_eq!(plan.groups.iter().filter(writes).count(), expected.len());
            assert!(plan.groups.iter().all(|group| group.systems[0] == System::Bare && group.size > 0));
        }
    }

    #[test]
    fn the_section_replaces_itself_and_nothing_else() {
        let section = markdown(&of_both());
        assert!(section.contains("x86-64 is 5.000 times as fast") && !section.contains("NaN"), "{section}");
        let first = with_section("# Evaluation\n\nbefore\n", &section);
        assert_eq!(section_of(&first), Some(section.as_str()));
        assert!(first.starts_with("# Evaluation\n\nbefore\n"));
        let again = with_section(&format!("{first}\nafter\n"), &section.replace("seed 1", "seed 2"));
        assert!(again.contains("seed 2") && !again.contains("seed 1,") && again.ends_with("\nafter\n"), "{again}");
        assert_eq!(section_of("# Evaluation\n"), None);
    }

    #[test]
    fn a_report_is_read_again_and_the_rest_of_the_document_kept() {
        let folder = std::env::temp_dir().join(format!("pollux-pa-risc-test-{}", std::process::id()));
        super::super::write(&report(), &folder, false).expect("written");
        let document = write(&of_both(), &folder, true).expect("written");
        let text = fs::read_to_string(&document).expect("there");
        assert!(text.contains("## The paper's model") && text.contains("## PA-RISC"));
        // Whoever measures the other machine anew leaves this section as it is.
        super::super::write(&report(), &folder, false).expect("written");
        assert_eq!(fs::read_to_string(&document).expect("there"), text);
        let again = read(&folder.join("paper-hppa.json")).expect("its own report");
        assert_eq!(describe(&again), describe(&of_both()));
        fs::remove_dir_all(&folder).expect("removed");
    }
}
