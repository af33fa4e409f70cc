//! The evaluation as a document: Markdown, made of nothing but the measurements.

use super::apart;
use super::exactness::Exactness;
use super::kills::Kills;
use super::limits;
use super::model::FitPoint;
use super::plan::{Configuration, PROMISED_LONG, PROMISED_SHORT, System};
use super::plot::short;
use super::run::computing;
use super::stats::Spread;
use super::table::{Counter, Model, Row};
use super::workload::Workload;
use super::{Failure, PaperReport};
use crate::bench::Promise;
use crate::load::percentile;
use crate::supervise::spec::{EpochSpec, ProtocolName};

/// A residual that is worth a word, as a share of the model.
const NOTEWORTHY: f64 = 0.10;
/// Costs of an epoch that differ by more than this factor are no constant.
const NO_CONSTANT: f64 = 1.5;
/// Epochs of so many instructions have boundaries that are less than a tenth of them.
const LONG: f64 = 1e5;
/// Folder of the pictures, beside the document.
pub const PICTURES: &str = "evaluation";

/// Results that others have published. None of them was measured here.
const PUBLISHED: [(&str, &str); 3] = [
    ("Bressoud and Schneider, 1996", "about a factor of 2 for their workloads"),
    ("VMware FT, 2010", "typically under 10 % on real applications; log traffic under 20 Mbit/s"),
    ("HyCoR", "responses delayed by under 1 ms; recovery in under 1 s"),
];

/// The whole document.
pub fn markdown(report: &PaperReport, pictures: &[String]) -> String {
    let mut out = String::from("# Evaluation\n\n");
    out.push_str(&introduction(report));
    out.push_str("\n## What must be reached\n\n");
    out.push_str(&promises(&report.promises));
    out.push_str(&limits::section(report));
    out.push_str(&apart::section(&report.rows));
    out.push_str("\n## Epochs and protocols\n\n");
    out.push_str(LEGEND);
    out.push_str(&tables(&report.rows));
    for picture in pictures {
        out.push_str(&format!("\n![{picture}]({PICTURES}/{picture})\n"));
    }
    out.push_str("\n## What counting costs\n\n");
    out.push_str(&counting(report));
    out.push_str("\n## The paper's model\n\n");
    out.push_str(&models(report));
    if let Some(exactness) = &report.exactness {
        out.push_str("\n## Exactness\n\n");
        out.push_str(&exact(exactness));
    }
    if let Some(kills) = &report.kills {
        out.push_str("\n## Failover of a guest that computes\n\n");
        out.push_str(&killed(kills));
    }
    out.push_str("\n## Others\n\n");
    out.push_str(&published(report));
    out.push_str("\n## Not measured\n\n");
    out.push_str(&missing(&report.failures));
    out
}

/// What the terminal shows: the tables and the promises.
pub fn describe(report: &PaperReport) -> String {
    let mut out = tables(&report.rows);
    out.push('\n');
    out.push_str(&apart::table(&report.rows));
    out.push('\n');
    out.push_str(&counting(report));
    for model in &report.models {
        out.push_str(&format!(
            "- {}, {}, {}: h_epoch = {} us, worst residual {:.0} %\n",
            model.workload,
            model.counter.source(),
            model.system,
            short(model.fit.cost_us),
            model.fit.worst() * 100.0
        ));
    }
    out.push('\n');
    out.extend(report.promises.iter().map(Promise::describe));
    for failure in &report.failures {
        out.push_str(&format!("  ! {}, round {}: {}\n", failure.configuration, failure.round, failure.text));
    }
    let complaints = report.exactness.iter().flat_map(|exactness| &exactness.complaints);
    for complaint in complaints.chain(report.kills.iter().flat_map(|kills| &kills.complaints)) {
        out.push_str(&format!("  ! {complaint}\n"));
    }
    out
}

fn introduction(report: &PaperReport) -> String {
    let host = &report.host;
    let quick = if report.quick { " **This was a quick look, not a measurement.**" } else { "" };
    format!(
        "Written by `cargo pollux bench paper --write-docs`: the evaluation of Bressoud and Schneider's *Hypervisor-Based \
         Fault-Tolerance*, redone with this project.{quick}\n\n\
         | | |\n|---|---|\n| processor | {} |\n| cores | {} |\n| QEMU | {}, translating (TCG) |\n| kernel | {} |\n\
         | load average before the start | {} |\n| rounds | {} |\n| seed | {} |\n\n\
         Both replicas, the supervisor and the clients share these cores. In each round every system of a comparison has \
         its turn, in an order that alternates; ratios are taken within a round; tables give the median over the rounds \
         and, in brackets, the least and the greatest. Times are the host's, from asking the guest to its answer. The \
         guest's clock is not used: where instructions are counted it only follows the host's.\n",
        host.cpu, host.cores, host.qemu, host.kernel, host.load_before, report.rounds, report.seed
    )
}

/// What the columns mean.
const LEGEND: &str = "\
NP is the normalised performance of the paper: time of a system by time of the baseline. The baseline is the same image \
without epochs (`--bare`), under `-icount` where the epochs are exact, and made to count its ticks where they are counted. \
The length of an exact epoch is in instructions, that of a counted one in ticks: entries of functions that may call \
themselves, jumps backwards, and jumps through a register or a table; there are some ten in 1K instructions of Dhrystone. *solo* has epochs and no peer. *Boundary* is the \
time beyond the baseline's, by the number of epochs. Link figures count both directions, heartbeats included. *Waiting* \
is how long the primary had something to do and waited for its backup, by its machine's clock, which follows the host's, as a share \
of the time: because the protocol said so, or because its guest had finished its work and what has come since is gathered until \
the acknowledgement comes. *Outputs held* is how long those of an epoch waited after its end, nearly always for the acknowledgement, on \
average; the guest goes on meanwhile. \
*Disk, reads* and *disk, writes* are the paper's: one operation of 8 KiB after the other, each at a random place of a \
mirrored disk of 8 MiB, which lies in the host's cache; a write makes up its content, a read checks it. *Shared disk, \
reads* and *writes* are the same on a disk that both replicas reach, as the paper's did. \
*Bare, beside another* is the same as the baseline while a second machine, which has nothing to \
do with it, does the same work: what exceeds 1 there is what two busy processors of this machine cost each other, and no \
pair, whose second replica does the same work, can come below it. A dash stands for too few epochs to tell. Pictures leave out what comes out at zero or below.\n\n";

/// One table for all workloads.
pub(super) fn tables(rows: &[Row]) -> String {
    let mut out = String::from(
        "| workload | epochs | system | time, s | NP | boundary, us | epochs/s | messages/s | messages/epoch | KB/s | \
         bytes/epoch | waiting | outputs held, us |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    out.extend(rows.iter().map(line));
    out
}

fn line(row: &Row) -> String {
    let link = matches!(row.configuration.system, System::Pair(_));
    let linked = |text: String| if link { text } else { String::new() };
    let compared = row.configuration.system != System::Bare;
    let has_epochs = row.configuration.system.has_epochs();
    let epochs = if has_epochs { short(row.epochs_per_s) } else { String::new() };
    let boundary = if has_epochs { row.boundary_us.map_or_else(|| "-".to_owned(), spread) } else { String::new() };
    let per_epoch = |value: f64| if row.boundary_us.is_some() { short(value) } else { "-".to_owned() };
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        row.configuration.workload,
        epochs_name(row.configuration.epoch, row.configuration.system),
        row.configuration.system,
        spread(row.elapsed_s),
        row.np.map_or_else(|| if compared { "-".to_owned() } else { "1".to_owned() }, spread),
        boundary,
        epochs,
        linked(short(row.messages_per_s)),
        linked(per_epoch(row.messages_per_epoch)),
        linked(short(row.bytes_per_s / 1e3)),
        linked(per_epoch(row.bytes_per_epoch)),
        linked(format!("{:.0} %", row.wait_share * 100.0)),
        linked(row.held_us.map_or_else(|| "-".to_owned(), short))
    )
}

/// Without epochs their length only says which comparison the row belongs to.
pub(super) fn epochs_name(epoch: EpochSpec, system: System) -> String {
    match (epoch, system) {
        (EpochSpec::Cooperative, system) if !system.has_epochs() => "none".to_owned(),
        (EpochSpec::Exact(length), system) if !system.has_epochs() => {
            format!("none, icount (for {})", short(length as f64))
        }
        (EpochSpec::Counted(length), system) if !system.has_epochs() => {
            format!("none, ticks (for {})", short(length as f64))
        }
        (EpochSpec::Cooperative, _) => "cooperative".to_owned(),
        (EpochSpec::Counted(length), _) => format!("counted, {}", short(length as f64)),
        (EpochSpec::Exact(length), _) => format!("exact, {}", short(length as f64)),
    }
}

pub(super) fn spread(spread: Spread) -> String {
    let number = |value: f64| if value.abs() >= 100.0 { short(value) } else { format!("{value:.3}") };
    if spread.min == spread.max {
        return number(spread.median);
    }
    format!("{} ({} to {})", number(spread.median), number(spread.min), number(spread.max))
}

pub(super) fn promises(all: &[Promise]) -> String {
    let mut out = String::from("| what | measured | bound | |\n|---|--:|--:|---|\n");
    for promise in all {
        let mark = if promise.kept { "kept" } else { "**MISSED**" };
        out.push_str(&format!(
            "| {} | {:.3} | {} {} | {mark} |\n",
            promise.name, promise.measured, promise.relation, promise.bound
        ));
    }
    out
}

pub(super) fn counting(report: &PaperReport) -> String {
    let line = |counting: &super::table::Counting| {
        format!(
            "- {}: time without epochs {}, by time without epochs and without that: {}\n",
            counting.workload,
            if counting.counter == Counter::Machine { "under `-icount`" } else { "of a program that counts its ticks" },
            spread(counting.np)
        )
    };
    if report.counting.is_empty() {
        "Not measured in this run.\n".to_owned()
    } else {
        report.counting.iter().map(line).collect()
    }
}

fn models(report: &PaperReport) -> String {
    let mut out = String::from(
        "Section 4 of the paper: NP(EL) = 1 + (n_sim h_sim + (VI / EL) h_epoch + C) / RT. No instruction of our guests is \
         simulated, so n_sim = 0, and C, for input and output, is left out: what remains is 1 + (VI / EL) h_epoch / RT. \
         VI / EL is the number of epochs, as the shim has counted them; RT is the baseline's time. \
         h_epoch is fitted by least squares of relative errors. A residual above zero means slower than the model.\n",
    );
    out.extend(report.models.iter().map(|model| one_model(model, &report.rows)));
    if report.models.is_empty() {
        out.push_str("\nNot measured in this run.\n");
    }
    out
}

pub(super) fn one_model(model: &Model, rows: &[Row]) -> String {
    let speed = if model.workload == Workload::COMPUTES {
        format!(", VI / RT = {} {}/s", short(model.fit.instructions_per_s), model.counter.unit())
    } else {
        String::new()
    };
    let mut out = format!(
        "\n### {}, {}, {}: h_epoch = {} us{speed}\n\n\
         | epoch | NP measured | NP modelled | residual | h_epoch of this point alone, us |\n|--:|--:|--:|--:|--:|\n",
        model.workload,
        model.counter.source(),
        model.system,
        short(model.fit.cost_us)
    );
    for point in &model.fit.points {
        out.push_str(&format!(
            "| {} | {:.3} | {:.3} | {:+.1} % | {:.2} |\n",
            short(point.length),
            point.measured,
            point.modelled,
            point.residual * 100.0,
            point.own_cost_us
        ));
    }
    out.push('\n');
    out.extend(remarks(model, rows).into_iter().map(|remark| format!("- {remark}\n")));
    out
}

/// Where the model misses, and what the measurements say about why.
fn remarks(model: &Model, rows: &[Row]) -> Vec<String> {
    let mut remarks = vec![misses(model)];
    let noisy: Vec<f64> = (model.fit.points.iter().map(|point| point.length))
        .filter(|length| within_noise(model, rows, *length))
        .collect();
    if !noisy.is_empty() {
        remarks.push(format!(
            "At {} what the epochs add does not stand out from the differences between measurements of the baseline, or \
             between rounds: such points say little about h_epoch.",
            lengths(&noisy)
        ));
    }
    // Points that are noise have no cost of their own to be compared.
    let clear = model.fit.points.iter().filter(|point| !noisy.contains(&point.length));
    let costs: Vec<(f64, f64)> = clear.map(|point| (point.own_cost_us, point.length)).collect();
    let least = costs.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0));
    let most = costs.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0));
    if let (Some((least, at_least)), Some((most, at_most))) = (least, most)
        && least > 0.0
        && most / least > NO_CONSTANT
    {
        remarks.push(format!(
            "The cost of an epoch is not the constant that the model takes it for: by itself each point gives between \
             {least:.1} us (at {}) and {most:.1} us (at {}).",
            short(at_least),
            short(at_most)
        ));
        remarks.extend(waiting(model, rows));
    }
    remarks.extend(beside_another(model, rows));
    remarks.extend(left_out(model.workload).map(str::to_owned));
    remarks
}

/// Where epochs are long and the model is too optimistic, what it knows nothing of: the second machine.
fn beside_another(model: &Model, rows: &[Row]) -> Option<String> {
    let short_of = |point: &&FitPoint| point.residual > NOTEWORTHY && point.length >= LONG;
    let far: Vec<f64> = model.fit.points.iter().filter(short_of).map(|point| point.length).collect();
    let neighbours = rows.iter().rev().find(|row| {
        let what = row.configuration;
        what.workload == model.workload
            && what.system == System::Neighbours
            && what.epoch.source() == model.counter.source()
    })?;
    let np = limits::normalised(neighbours)?;
    (matches!(model.system, System::Pair(_)) && !far.is_empty()).then(|| {
        format!(
            "At {} there are too few boundaries to make a difference of that size. Without any epochs, beside another machine that is \
             busy, the same takes {} times as long here: a pair is two machines that are busy, and the model knows of one.",
            lengths(&far),
            spread(np)
        )
    })
}

/// What of the model's C a workload has.
fn left_out(workload: Workload) -> Option<&'static str> {
    match workload {
        Workload::Dhrystone { .. } => None,
        Workload::Store => Some(
            "The store's outputs wait for acknowledgements, which is part of the model's C and not of what was fitted.",
        ),
        Workload::DiskRead | Workload::DiskWrite => Some(
            "Each operation waits for the disk and for the end of an epoch, which is part of the model's C and not of what \
             was fitted.",
        ),
        Workload::SharedRead => Some(
            "Each read waits for the disk and for the end of an epoch, and what it has read goes over the link, which is part \
             of the model's C and not of what was fitted.",
        ),
        Workload::SharedWrite => Some(
            "Each write waits for the acknowledgement of its epoch, for the disk and for the end of an epoch, which is part of \
             the model's C and not of what was fitted.",
        ),
    }
}

fn misses(model: &Model) -> String {
    let far: Vec<f64> =
        model.fit.points.iter().filter(|p| p.residual.abs() > NOTEWORTHY).map(|point| point.length).collect();
    let most = NOTEWORTHY * 100.0;
    if far.is_empty() {
        return format!("The model is within {most:.0} % of every point.");
    }
    format!(
        "It misses by more than {most:.0} % at {}; the worst residual is {:.0} %.",
        lengths(&far),
        model.fit.worst() * 100.0
    )
}

/// Whether a row is of a model's workload, under epochs of its source.
fn is_of(model: &Model, row: &Row) -> bool {
    row.configuration.workload == model.workload && row.configuration.epoch.source() == model.counter.source()
}

/// What the primary's waiting does with the length of epochs: shown, not explained.
fn waiting(model: &Model, rows: &[Row]) -> Option<String> {
    let own = |row: &&Row| row.configuration.system == model.system && is_of(model, row);
    let mut shares = rows.iter().filter(own).map(|row| (row.configuration.epoch.length() as f64, row.wait_share));
    let first = shares.next()?;
    let last = shares.next_back()?;
    matches!(model.system, System::Pair(_)).then(|| {
        format!(
            "Over the same lengths the time that the primary waits for its backup goes from {:.0} % (at {}) to {:.0} % (at {}).",
            first.1 * 100.0,
            short(first.0),
            last.1 * 100.0,
            short(last.0)
        )
    })
}

/// Whether a round was as fast as its baseline, or the baseline's own times differ by more than the epochs add.
fn within_noise(model: &Model, rows: &[Row], length: f64) -> bool {
    let row = |system| {
        rows.iter().find(|row| {
            let same = is_of(model, row) && row.configuration.system == system;
            same && row.configuration.epoch.length() as f64 == length
        })
    };
    let Some(np) = row(model.system).and_then(|row| row.np) else { return false };
    let differ = row(System::Bare).map_or(0.0, |bare| bare.elapsed_s.relative());
    np.min <= 1.0 || np.median - 1.0 < differ
}

fn lengths(all: &[f64]) -> String {
    all.iter().map(|length| short(*length)).collect::<Vec<_>>().join(", ")
}

pub(super) fn exact(exactness: &Exactness) -> String {
    let outcome = if exactness.complaints.is_empty() { "No digest differed" } else { "**It went wrong**" };
    format!(
        "A pair of the store ran epochs of at most {} instructions while several connections sent random commands in \
         random batches and random text was typed at its console: {} commands, {} bytes. The backup compared the digest \
         of {} epochs in {:.1} s. At least {} of them were of the full length: those that the guest ended before needed a \
         hypercall each. {outcome}; at least {} epochs of the full length were wanted. A digest is over the registers \
         (where an epoch ends between two hypercalls, vector registers too), the number of instructions, hypercalls and \
         outputs.\n{}",
        exactness.length,
        exactness.commands,
        exactness.typed_bytes,
        exactness.compared,
        exactness.elapsed_s,
        exactness.full,
        exactness.wanted,
        complaints(&exactness.complaints)
    )
}

fn killed(kills: &Kills) -> String {
    let answers: Vec<f64> =
        kills.kills.iter().filter(|kill| kill.right).map(|kill| kill.answer_s / kills.bare_s).collect();
    format!(
        "Dhrystone, {} runs, which take {:.2} s without epochs and make no hypercall; a pair with epochs of 100K \
         instructions; the primary is killed with SIGKILL at a random moment. {} of {} answers came over the same \
         connection and were those of a guest without epochs. From asking to the answer, by the time without epochs: \
         median {:.2}, longest {:.2}.\n{}",
        kills.runs,
        kills.bare_s,
        kills.survived(),
        kills.kills.len(),
        percentile(&answers, 0.5),
        percentile(&answers, 1.0),
        complaints(&kills.complaints)
    )
}

fn complaints(all: &[String]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let lines: String = all.iter().map(|complaint| format!("- {}\n", complaint.replace('\n', " "))).collect();
    format!("\n{lines}")
}

/// Published results, and what of ours stands beside them. They come from other machines with other workloads.
fn published(report: &PaperReport) -> String {
    let revised = System::Pair(ProtocolName::Revised);
    let np = |row: Option<&Row>| {
        row.and_then(limits::normalised).map_or_else(|| "not measured in this run".to_owned(), spread)
    };
    let exact = |length| report.find(computing(EpochSpec::Exact(length), revised));
    let cooperative =
        |workload| report.find(Configuration { workload, epoch: EpochSpec::Cooperative, system: revised });
    let store = cooperative(Workload::Store);
    let link = store.map_or_else(String::new, |row| format!("; link {:.1} Mbit/s", row.bytes_per_s * 8.0 / 1e6));
    let ours = [
        format!(
            "NP of Dhrystone, revised: exact {} {}; exact {} {}. Of a shared disk, cooperative: reads {}; writes {}",
            short(PROMISED_SHORT as f64),
            np(exact(PROMISED_SHORT)),
            short(PROMISED_LONG as f64),
            np(exact(PROMISED_LONG)),
            np(cooperative(Workload::SharedRead)),
            np(cooperative(Workload::SharedWrite)),
        ),
        format!("NP of kv, cooperative, revised: {}{link}", np(store)),
        "not part of this: `bench failover` and `bench throughput` measure outage and added latency, and the README has what they gave"
            .to_owned(),
    ];
    let mut out = String::from("| who | published, not measured here | ours, measured here |\n|---|---|---|\n");
    for ((who, claim), ours) in PUBLISHED.iter().zip(ours) {
        out.push_str(&format!("| {who} | {claim} | {ours} |\n"));
    }
    out
}

pub(super) fn missing(failures: &[Failure]) -> String {
    let mut out = String::new();
    if failures.is_empty() {
        out.push_str("Nothing that was to be measured is missing.\n");
    }
    for failure in failures {
        out.push_str(&format!(
            "- {}, round {}, failed: {}\n",
            failure.configuration,
            failure.round,
            failure.text.replace('\n', " ")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::paper::tests::report;

    #[test]
    fn the_document_has_every_section_and_nothing_of_the_machine_that_wrote_it() {
        let text = markdown(&report(), &["np-dhrystone.svg".to_owned()]);
        for part in [
            "# Evaluation",
            "| processor | Some Processor |",
            "![np-dhrystone.svg](evaluation/np-dhrystone.svg)",
            "| Dhrystone, yield=0 | exact, 10K | pair, revised | 0.600 (0.600 to 1.200) | 3.000 | 40.000 (40.000 to 80.000) |",
            "published, not measured here",
            "about a factor of 2",
            "under `-icount`, by time without epochs and without that: 1.250",
            "### Dhrystone, yield=0, exact, pair, revised: h_epoch = ",
            "2 of 3 answers",
            "- kill 3: no answer",
            "No digest differed",
            "**MISSED**",
            "round 2, failed: it broke in two",
        ] {
            assert!(text.contains(part), "{part:?} is missing from:\n{text}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        // Tables: as many cells in each line as in the heading.
        let (_, table) = text.split_once("## Epochs and protocols").expect("a section");
        let cells: Vec<_> =
            table.lines().filter(|line| line.starts_with("| Dhrystone")).map(|l| l.matches('|').count()).collect();
        assert!(cells.iter().all(|count| *count == 14), "{cells:?}");
    }

    #[test]
    fn a_model_that_misses_says_where() {
        let mut report = report();
        let model = &mut report.models[0];
        let fine = remarks(&Model { fit: fitted(&[30.0, 30.0, 30.0]), ..model.clone() }, &[]);
        assert_eq!(fine, ["The model is within 10 % of every point."]);
        let off = remarks(&Model { fit: fitted(&[30.0, 60.0, 90.0]), ..model.clone() }, &[]);
        assert!(off[0].contains("misses by more than 10 % at"), "{off:?}");
        assert!(off[1].contains("between 30.0 us (at 1K) and 90.0 us (at 100K)"), "{off:?}");
    }

    #[test]
    fn points_within_the_noise_are_named() {
        let report = report();
        let model = report.models.iter().find(|model| model.system == System::Solo).expect("solo");
        // The baselines of the two rounds differ by a factor of two; at 1M the epochs add one in a hundred.
        assert!(
            remarks(model, &report.rows)
                .iter()
                .any(|remark| remark.contains("At 1M what the epochs add does not stand out")),
            "{:?}",
            remarks(model, &report.rows)
        );
    }

    /// A fit of points whose epochs cost so many microseconds, at 1K, 10K, 100K.
    fn fitted(costs_us: &[f64]) -> super::super::model::Fit {
        let at = |(index, cost_us): (usize, &f64)| {
            let length = 1e3 * 10f64.powi(index as i32);
            let np = 1.0 + 5e8 / length * cost_us / 1e6;
            super::super::model::Point { length, np, epochs_per_s: 5e8 / length }
        };
        let points: Vec<_> = costs_us.iter().enumerate().map(at).collect();
        super::super::model::fit(&points).expect("points")
    }

    #[test]
    fn a_run_of_one_part_says_what_it_did_not_measure() {
        let mut report = report();
        (report.rows, report.models, report.counting) = (Vec::new(), Vec::new(), Vec::new());
        let text = markdown(&report, &[]);
        assert!(text.contains("Not measured in this run.") && text.contains("not measured in this run"));
        assert!(describe(&report).contains("MISSED"));
    }
}
