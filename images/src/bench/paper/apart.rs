//! What is measured in slices, and only while the host's cores are ours alone.

use serde::Serialize;

use super::plan::Configuration;
use super::report::{epochs_name, spread};
use super::run::Sample;
use super::stats::Spread;
use super::table::{LEAST_EPOCHS, Row, baseline};
use crate::bench::cores;

/// What the slices of a configuration say at whose beginning and end no core of the host was shared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Undisturbed {
    /// How many slices those are, in all rounds.
    pub slices: usize,
    /// Of so many.
    pub of: usize,
    /// As [`Row::np`]: each round's middle slice by that of the baseline in the same round.
    pub np: Spread,
    /// As [`Row::boundary_us`].
    pub boundary_us: Option<Spread>,
}

impl Undisturbed {
    /// `None` where no round has such slices of both the configuration and its baseline.
    pub fn of(samples: &[Sample], configuration: Configuration, best_ns: u64) -> Option<Self> {
        let middle = |sample: &Sample| cores::undisturbed(&sample.slices, best_ns, |elapsed_s| *elapsed_s);
        let (mut slices, mut of, mut ratios, mut costs_us) = (0, 0, Vec::new(), Vec::new());
        for sample in samples.iter().filter(|sample| sample.configuration == configuration) {
            of += sample.slices.len();
            let Some((own_s, count)) = middle(sample) else { continue };
            slices += count;
            let Some((bare_s, _)) = baseline(samples, sample).and_then(middle) else { continue };
            ratios.push(own_s / bare_s);
            if sample.counts.epochs >= LEAST_EPOCHS {
                costs_us.push((own_s - bare_s) / sample.counts.epochs as f64 * 1e6);
            }
        }
        Some(Self { slices, of, np: Spread::of(&ratios)?, boundary_us: Spread::of(&costs_us) })
    }
}

/// What the section of the document says before its table.
const LEGEND: &str = "\
The other hardware thread of a core may be somebody else's, and then half of what the core can do is. No clock and no count of \
the system shows it. A loop of additions that do not wait for each other does: it takes twice as long. So what is \
promised is measured once more, in slices of some tenths of a second, each of which begins when such a loop finds no core shared; \
and only those count after which it finds none shared either. These are the figures that the table of what must be \
reached has, where there are any. The tables below count everything.\n\n";

/// The section of the document. Empty when nothing was measured so.
pub fn section(rows: &[Row]) -> String {
    let table = table(rows);
    if table.is_empty() { table } else { format!("\n## With the cores to ourselves\n\n{LEGEND}{table}") }
}

/// Its table.
pub fn table(rows: &[Row]) -> String {
    let line = |(row, found): (&Row, &Undisturbed)| {
        let what = row.configuration;
        format!(
            "| {} | {} | {} | {} of {} | {} | {} |\n",
            what.workload,
            epochs_name(what.epoch, what.system),
            what.system,
            found.slices,
            found.of,
            spread(found.np),
            found.boundary_us.filter(|_| what.system.has_epochs()).map_or_else(String::new, spread)
        )
    };
    let lines: String = rows.iter().filter_map(|row| Some((row, row.undisturbed.as_ref()?))).map(line).collect();
    if lines.is_empty() {
        return lines;
    }
    format!(
        "| workload | epochs | system | slices that count | NP | boundary, us |\n|---|---|---|--:|--:|--:|\n{lines}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cores::Slice;
    use crate::bench::paper::plan::System;
    use crate::bench::paper::run::computing;
    use crate::bench::paper::table;
    use crate::supervise::spec::{EpochSpec, ProtocolName};

    const PAIR: System = System::Pair(ProtocolName::Revised);

    /// Three rounds: what was measured on shared cores is twice as much.
    fn samples() -> Vec<Sample> {
        let mut samples = table::tests::samples();
        for sample in &mut samples {
            let value = sample.elapsed_s;
            let shared = Slice { value: value * 2.0, look_ns: 570 };
            let ours = Slice { value, look_ns: 310 };
            // In the last round a core was shared in every slice of the pair.
            let lost = sample.round == 3 && sample.configuration.system == PAIR;
            sample.slices = if lost { vec![shared; 4] } else { vec![shared, ours, shared] };
        }
        samples
    }

    #[test]
    fn only_slices_on_cores_of_our_own_count() {
        let samples = samples();
        let pair = Undisturbed::of(&samples, computing(EpochSpec::Exact(10_000), PAIR), 300).expect("two rounds");
        assert_eq!((pair.slices, pair.of), (2, 10));
        assert!((pair.np.min - 3.0).abs() < 1e-9 && (pair.np.max - 3.0).abs() < 1e-9, "{pair:?}");
        let boundary = pair.boundary_us.expect("many epochs");
        assert!((boundary.min - 40.0).abs() < 1e-9, "{boundary:?}");
        let cooperative = Undisturbed::of(&samples, computing(EpochSpec::Cooperative, PAIR), 300).expect("two rounds");
        assert_eq!(cooperative.boundary_us, None, "four epochs say nothing about the cost of one");
        assert_eq!(Undisturbed::of(&samples, computing(EpochSpec::Cooperative, PAIR), 200), None, "all were shared");
    }

    #[test]
    fn the_section_is_there_when_there_is_something_to_say() {
        assert_eq!(section(&table::rows(&table::tests::samples())), "");
        let text = section(&table::rows(&samples()));
        assert!(
            text.contains(
                "| Dhrystone, yield=0 | exact, 10K | pair, revised | 2 of 10 | 3.000 | 60.000 (40.000 to 80.000) |"
            ),
            "{text}"
        );
    }
}
