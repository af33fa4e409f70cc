//! What the measurements themselves say about what a pair cannot go below on this machine.

use super::PaperReport;
use super::plan::{Configuration, PROMISED_LONG, PROMISED_SHORT, System, YIELD_AFTER};
use super::report::epochs_name;
use super::stats::Spread;
use super::table::Row;
use super::workload::Workload;
use crate::supervise::spec::{EpochSpec, ProtocolName};

/// What the section says before its table.
const LEGEND: &str = "\
A pair does what one machine with epochs does, and its second replica does it once more beside it. So it cannot be faster than one \
machine with the same epochs and no twin (*solo*), nor than two machines without epochs that have nothing to do with each other but \
the processors of the host (*beside another*); a pair that looks faster says how far such measurements are apart. *Cut alone* is one \
machine without epochs that is cut as often, and goes on at once: registers are saved and loaded and the timer is started anew, so it is \
what QEMU and this host take for a boundary at which nothing is done. *Own time* is what the \
instructions of an epoch take without its boundary, reckoned from the pair's. What a boundary consists of is in \
docs/boundary.md.\n\n";

/// The section of the document. Empty when nothing that is promised was measured.
pub(super) fn section(report: &PaperReport) -> String {
    let lines: String = promised().into_iter().filter_map(|(workload, epoch)| line(report, workload, epoch)).collect();
    if lines.is_empty() {
        return lines;
    }
    format!(
        "\n## What cannot be gone below\n\n{LEGEND}| workload | epochs | NP, pair | NP, cut alone | NP, solo | NP, beside another | own time, us | \
         cut alone, us | boundary solo, us | boundary of the pair, us |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n{lines}"
    )
}

/// What is promised of the workload that computes.
fn promised() -> [(Workload, EpochSpec); 4] {
    [
        (Workload::COMPUTES, EpochSpec::Cooperative),
        (Workload::Dhrystone { yield_after: YIELD_AFTER }, EpochSpec::Cooperative),
        (Workload::COMPUTES, EpochSpec::Exact(PROMISED_LONG)),
        (Workload::COMPUTES, EpochSpec::Exact(PROMISED_SHORT)),
    ]
}

fn line(report: &PaperReport, workload: Workload, epoch: EpochSpec) -> Option<String> {
    let row = |system| report.find(Configuration { workload, epoch, system });
    let pair = System::Pair(ProtocolName::Revised);
    let np = |system| row(system).and_then(normalised);
    let boundary = |system| row(system).and_then(boundary_us);
    // The time beyond the instructions' own is (NP - 1) times that.
    let own_us = np(pair).zip(boundary(pair)).map(|(np, boundary)| boundary.median / (np.median - 1.0));
    let cell = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
    let middle = |spread: Option<Spread>| cell(spread.map(|spread| spread.median));
    Some(format!(
        "| {workload} | {} | {:.3} | {} | {} | {} | {} | {} | {} | {} |\n",
        epochs_name(epoch, pair),
        np(pair)?.median,
        middle(np(System::Cut)),
        middle(np(System::Solo)),
        middle(np(System::Neighbours)),
        cell(own_us.filter(|own_us| own_us.is_finite() && *own_us > 0.0)),
        middle(boundary(System::Cut)),
        middle(boundary(System::Solo)),
        middle(boundary(pair)),
    ))
}

/// NP on cores of our own, where there were any.
pub(super) fn normalised(row: &Row) -> Option<Spread> {
    row.undisturbed.as_ref().map(|undisturbed| undisturbed.np).or(row.np)
}

/// Likewise the cost of a boundary.
pub(super) fn boundary_us(row: &Row) -> Option<Spread> {
    row.undisturbed.as_ref().and_then(|undisturbed| undisturbed.boundary_us).or(row.boundary_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::paper::tests::report;

    #[test]
    fn what_is_promised_stands_beside_what_it_cannot_go_below() {
        let mut report = report();
        let text = section(&report);
        // Of the two rounds the middle ones; 20 us of the instructions' own, 40 at the boundary.
        assert!(text.contains("| Dhrystone, yield=0 | exact, 10K | 3.000 |"), "{text}");
        let cells: Vec<_> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert!(cells.len() > 2 && cells.iter().all(|count| *count == 11), "{text}");
        report.rows.clear();
        assert_eq!(section(&report), "");
    }
}
