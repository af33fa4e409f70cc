//! What the measurements of all rounds come to.

use protocol::EpochSource;
use serde::Serialize;

use super::apart::Undisturbed;
use super::model::{self, Fit, Point};
use super::plan::{Configuration, System};
use super::run::Sample;
use super::stats::Spread;
use super::workload::Workload;
use crate::bench::cores;
use crate::supervise::spec::ProtocolName;

/// Fewer epochs than these say nothing about the cost of one.
pub(super) const LEAST_EPOCHS: u64 = 100;

/// One configuration, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub configuration: Configuration,
    /// In how many rounds.
    pub rounds: usize,
    /// Seconds of the host's clock.
    pub elapsed_s: Spread,
    /// Normalised performance: time by time of the baseline in the same round. `None` for baselines.
    pub np: Option<Spread>,
    /// Time beyond the baseline's for each epoch, in microseconds. `None` where there are too few epochs.
    pub boundary_us: Option<Spread>,
    /// Epochs a second.
    pub epochs_per_s: f64,
    /// Messages on the link a second, both directions.
    pub messages_per_s: f64,
    /// Messages on the link an epoch.
    pub messages_per_epoch: f64,
    /// Bytes on the link a second, both directions.
    pub bytes_per_s: f64,
    /// Bytes on the link an epoch.
    pub bytes_per_epoch: f64,
    /// How long the primary waited for its backup before it went on, as a share of the time: for its leave, and for an
    /// acknowledgement while it had nothing but what had just come.
    pub wait_share: f64,
    /// How long outputs were kept after the end of their epoch, in microseconds. `None` where there are too few.
    pub held_us: Option<f64>,
    /// What slices say during which no core of the host was shared. `None` where there were none.
    pub undisturbed: Option<Undisturbed>,
}

/// Who counts, for which epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Counter {
    /// The machine its instructions, for exact epochs.
    Machine,
    /// The guest its ticks, for counted epochs.
    Guest,
}

impl Counter {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Machine, Self::Guest];

    /// What ends epochs that are counted so.
    pub fn source(self) -> EpochSource {
        match self {
            Self::Machine => EpochSource::Exact,
            Self::Guest => EpochSource::Counted,
        }
    }

    /// What is counted.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Machine => "instructions",
            Self::Guest => "ticks",
        }
    }
}

/// What counting costs: the baseline that counts by the baseline that does not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counting {
    /// What the guest does.
    pub workload: Workload,
    /// Who counts.
    pub counter: Counter,
    /// Time for the same work, by the time without counting.
    pub np: Spread,
}

/// The paper's model, fitted to one workload under one protocol and one source of epochs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// What the guest does.
    pub workload: Workload,
    /// How it is run.
    pub system: System,
    /// Who counts: in whose unit lengths are.
    pub counter: Counter,
    /// The fit.
    pub fit: Fit,
}

/// Every configuration, in the order in which they were measured first.
pub fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut seen: Vec<Configuration> = Vec::new();
    for sample in samples {
        if !seen.contains(&sample.configuration) {
            seen.push(sample.configuration);
        }
    }
    seen.sort_by_key(|configuration| rank(*configuration));
    let best_ns = cores::best(samples.iter().flat_map(|sample| &sample.slices));
    seen.into_iter().filter_map(|configuration| row(samples, configuration, best_ns)).collect()
}

/// Where a configuration stands in the table.
fn rank(configuration: Configuration) -> (u8, u32, u8, u64, u8) {
    let (workload, yield_after) = match configuration.workload {
        Workload::Dhrystone { yield_after } => (0, yield_after),
        Workload::DiskRead => (1, 0),
        Workload::DiskWrite => (2, 0),
        Workload::SharedRead => (3, 0),
        Workload::SharedWrite => (4, 0),
        Workload::Store => (5, 0),
    };
    let system = match configuration.system {
        System::Bare => 0,
        System::Neighbours => 1,
        System::Cut => 2,
        System::Solo => 3,
        System::Pair(ProtocolName::Revised) => 4,
        System::Pair(ProtocolName::Original) => 5,
    };
    (workload, yield_after, configuration.epoch.source().code(), configuration.epoch.length(), system)
}

/// One of them; slices are compared with the best look.
fn row(samples: &[Sample], configuration: Configuration, best_ns: u64) -> Option<Row> {
    let own: Vec<&Sample> = samples.iter().filter(|sample| sample.configuration == configuration).collect();
    let over = |measure: &dyn Fn(&Sample) -> Option<f64>| -> Option<Spread> {
        Spread::of(&own.iter().filter_map(|sample| measure(sample)).collect::<Vec<f64>>())
    };
    let middle = |measure: &dyn Fn(&Sample) -> f64| over(&|sample| Some(measure(sample))).map_or(0.0, |s| s.median);
    let compared = configuration.system != System::Bare;
    let by_time = |count: fn(&Sample) -> u64| middle(&|sample| count(sample) as f64 / sample.elapsed_s);
    let by_epoch =
        |count: fn(&Sample) -> u64| middle(&|sample| count(sample) as f64 / sample.counts.epochs.max(1) as f64);
    Some(Row {
        configuration,
        rounds: own.len(),
        elapsed_s: over(&|sample| Some(sample.elapsed_s))?,
        np: over(&|sample| Some(sample.elapsed_s / baseline(samples, sample)?.elapsed_s)).filter(|_| compared),
        boundary_us: over(&|sample| boundary_us(samples, sample)).filter(|_| compared),
        epochs_per_s: by_time(|sample| sample.counts.epochs),
        messages_per_s: by_time(|sample| sample.counts.link_messages),
        messages_per_epoch: by_epoch(|sample| sample.counts.link_messages),
        bytes_per_s: by_time(|sample| sample.counts.link_bytes),
        bytes_per_epoch: by_epoch(|sample| sample.counts.link_bytes),
        wait_share: middle(&|sample| {
            (sample.counts.gate_wait_ns + sample.counts.company_wait_ns) as f64 / 1e9 / sample.elapsed_s
        }),
        held_us: over(&held_us).map(|spread| spread.median),
        undisturbed: Undisturbed::of(samples, configuration, best_ns),
    })
}

/// The same without epochs, in the same round.
pub(super) fn baseline<'a>(samples: &'a [Sample], of: &Sample) -> Option<&'a Sample> {
    let configuration = Configuration { system: System::Bare, ..of.configuration };
    samples
        .iter()
        .find(|sample| sample.configuration == configuration && sample.round == of.round && sample.size == of.size)
}

fn boundary_us(samples: &[Sample], sample: &Sample) -> Option<f64> {
    let added_s = sample.elapsed_s - baseline(samples, sample)?.elapsed_s;
    let epochs = sample.counts.epochs;
    (epochs >= LEAST_EPOCHS).then(|| added_s / epochs as f64 * 1e6)
}

fn held_us(sample: &Sample) -> Option<f64> {
    let counts = &sample.counts;
    (counts.output_waits >= LEAST_EPOCHS).then(|| counts.output_wait_ns as f64 / counts.output_waits as f64 / 1e3)
}

/// What counting costs each workload. The longest measurement that counts is compared.
pub fn counting(samples: &[Sample]) -> Vec<Counting> {
    let of = |(workload, counter): (Workload, Counter)| {
        let bare = |source: EpochSource| {
            samples.iter().filter(move |sample| {
                let what = sample.configuration;
                (what.workload, what.system, what.epoch.source()) == (workload, System::Bare, source)
            })
        };
        let source = counter.source();
        let longest = bare(source).map(|sample| sample.size).max()?;
        let ratios = bare(source).filter(|sample| sample.size == longest).filter_map(|counting| {
            let plain = bare(EpochSource::Cooperative).find(|plain| plain.round == counting.round)?;
            Some((counting.elapsed_s / counting.size as f64) / (plain.elapsed_s / plain.size as f64))
        });
        Some(Counting { workload, counter, np: Spread::of(&ratios.collect::<Vec<f64>>())? })
    };
    let workloads = Workload::ALL.into_iter();
    let all = workloads.flat_map(|workload| Counter::ALL.map(|counter| (workload, counter)));
    all.filter_map(of).collect()
}

/// The model for every workload and system that ran under epochs of several lengths which somebody counts.
pub fn models(samples: &[Sample], rows: &[Row]) -> Vec<Model> {
    let systems = [System::Pair(ProtocolName::Revised), System::Pair(ProtocolName::Original), System::Solo];
    let counted = |workload| Counter::ALL.into_iter().flat_map(move |c| systems.map(|system| (workload, c, system)));
    let of = |(workload, counter, system): (Workload, Counter, System)| {
        let own = |row: &&Row| {
            let what = row.configuration;
            (what.workload, what.epoch.source(), what.system) == (workload, counter.source(), system)
        };
        let points: Vec<Point> = rows.iter().filter(own).filter_map(|row| point(samples, row)).collect();
        Some(Model { workload, system, counter, fit: model::fit(&points)? })
    };
    Workload::ALL.into_iter().flat_map(counted).filter_map(of).collect()
}

/// A point of the model. The number of epochs is counted, not reckoned: a guest that waits ends its epoch before.
fn point(samples: &[Sample], row: &Row) -> Option<Point> {
    let length = row.configuration.epoch.length();
    let own = samples.iter().filter(|sample| sample.configuration == row.configuration);
    let epochs: Vec<f64> = own.filter_map(|s| Some(s.counts.epochs as f64 / baseline(samples, s)?.elapsed_s)).collect();
    Some(Point { length: length as f64, np: row.np?.median, epochs_per_s: Spread::of(&epochs)?.median })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::paper::run::{Counts, computing};
    use crate::supervise::spec::EpochSpec;

    /// A sample of the workload that computes a hundred million instructions.
    fn sample(epoch: EpochSpec, system: System, round: usize, elapsed_s: f64) -> Sample {
        let epochs = if let (EpochSpec::Exact(length), true) = (epoch, system != System::Bare) {
            100_000_000 / length
        } else {
            4
        };
        let pair = u64::from(matches!(system, System::Pair(_)));
        Sample {
            configuration: computing(epoch, system),
            round,
            size: 260_000,
            elapsed_s,
            counts: Counts {
                epochs,
                link_messages: pair * epochs * 2,
                link_bytes: pair * epochs * 120,
                gate_waits: pair * epochs / 2,
                gate_wait_ns: pair * (elapsed_s * 6e7) as u64,
                company_wait_ns: pair * (elapsed_s * 4e7) as u64,
                output_waits: pair * epochs,
                output_wait_ns: pair * epochs * 150_000,
            },
            slices: Vec::new(),
        }
    }

    /// Three rounds of everything, on a machine half as fast in the second: an epoch costs 20 us alone, 40 us in a pair, and 80 us under the original protocol.
    pub fn samples() -> Vec<Sample> {
        let mut all = Vec::new();
        let systems = [
            (System::Bare, 0.0),
            (System::Solo, 20e-6),
            (System::Pair(ProtocolName::Revised), 40e-6),
            (System::Pair(ProtocolName::Original), 80e-6),
        ];
        for (round, bare_s) in [(1, 0.2), (2, 0.4), (3, 0.2)] {
            for (system, _) in systems {
                if system != System::Solo {
                    all.push(sample(EpochSpec::Cooperative, system, round, bare_s * 0.8));
                }
            }
            for length in [1_000, 10_000, 1_000_000] {
                for (system, cost_s) in systems {
                    let added_s = bare_s / 0.2 * cost_s * (100_000_000 / length) as f64;
                    all.push(sample(EpochSpec::Exact(length), system, round, bare_s + added_s));
                }
            }
        }
        all
    }

    fn find(rows: &[Row], epoch: EpochSpec, system: System) -> &Row {
        rows.iter().find(|row| row.configuration == computing(epoch, system)).expect("a row")
    }

    #[test]
    fn performance_is_normalised_within_each_round() {
        let rows = rows(&samples());
        assert_eq!(rows.len(), 15);
        let revised = find(&rows, EpochSpec::Exact(10_000), System::Pair(ProtocolName::Revised));
        // The second round took twice as long, the ratio is the same.
        let np = revised.np.expect("a ratio");
        assert!((np.min - 3.0).abs() < 1e-9 && (np.max - 3.0).abs() < 1e-9);
        assert!((revised.boundary_us.expect("epochs").min - 40.0).abs() < 1e-9);
        assert_eq!((revised.rounds, revised.messages_per_epoch, revised.bytes_per_epoch), (3, 2.0, 120.0));
        assert!((revised.wait_share - 0.1).abs() < 1e-6);
        assert!((revised.held_us.expect("outputs") - 150.0).abs() < 1e-9);
        assert_eq!(find(&rows, EpochSpec::Exact(10_000), System::Solo).held_us, None);
        assert_eq!(find(&rows, EpochSpec::Exact(10_000), System::Bare).np, None);
        let cooperative = find(&rows, EpochSpec::Cooperative, System::Pair(ProtocolName::Original));
        assert_eq!(cooperative.boundary_us, None, "four epochs say nothing about the cost of one");
    }

    #[test]
    fn rows_are_in_order_whatever_the_order_of_measurement() {
        let mut backwards = samples();
        backwards.reverse();
        let order = |rows: Vec<Row>| -> Vec<String> { rows.iter().map(|row| row.configuration.to_string()).collect() };
        assert_eq!(order(rows(&backwards)), order(rows(&samples())));
    }

    #[test]
    fn a_round_without_its_baseline_is_left_out() {
        let mut some = samples();
        some.retain(|sample| !(sample.configuration.system == System::Bare && sample.round == 2));
        let rows = rows(&some);
        let row = find(&rows, EpochSpec::Exact(1_000), System::Solo);
        let boundary = row.boundary_us.expect("the other rounds");
        // That round alone cost more.
        assert!(row.rounds == 3 && (boundary.max - 20.0).abs() < 1e-9, "{boundary:?}");
    }

    #[test]
    fn counting_is_compared_for_the_same_work() {
        let mut samples = samples();
        let only = counting(&samples);
        assert_eq!((only.len(), only[0].counter), (1, Counter::Machine));
        assert!((only[0].np.median - 1.25).abs() < 1e-9);
        // Those of a guest that counts are neither the machine's nor a baseline for it.
        for (round, bare_s) in [(1, 0.2), (2, 0.4), (3, 0.2)] {
            samples.insert(0, sample(EpochSpec::Counted(1_000), System::Bare, round, bare_s * 1.6));
        }
        let both = counting(&samples);
        assert_eq!(both.len(), 2);
        assert_eq!((both[0].clone(), both[1].counter), (only[0].clone(), Counter::Guest));
        assert!((both[1].np.median - 2.0).abs() < 1e-9);
    }

    #[test]
    fn each_system_gets_its_model() {
        let samples = samples();
        let models = models(&samples, &rows(&samples));
        let costs: Vec<_> = models.iter().map(|model| (model.system.to_string(), model.fit.points.len())).collect();
        assert_eq!(costs, [("pair, revised".to_owned(), 3), ("pair, original".to_owned(), 3), ("solo".to_owned(), 3)]);
        assert!(models.iter().all(|model| model.workload == Workload::COMPUTES));
        assert!((models[0].fit.cost_us - 40.0).abs() < 1e-6, "{}", models[0].fit.cost_us);
    }

    #[test]
    fn counted_epochs_have_a_model_of_their_own() {
        let mut samples = samples();
        let revised = System::Pair(ProtocolName::Revised);
        for (length, epochs) in [(10, 100_000), (1_000, 1_000)] {
            for (system, elapsed_s) in [(System::Bare, 0.2), (revised, 0.2 + epochs as f64 * 5e-6)] {
                let mut sample = sample(EpochSpec::Counted(length), system, 1, elapsed_s);
                sample.counts.epochs = epochs;
                samples.push(sample);
            }
        }
        let models = models(&samples, &rows(&samples));
        let exact = models.iter().filter(|model| model.counter == Counter::Machine).count();
        let counted = models.iter().find(|model| model.counter == Counter::Guest).expect("a model");
        assert_eq!((exact, models.len(), counted.system, counted.fit.points.len()), (3, 4, revised, 2));
        assert!((counted.fit.cost_us - 5.0).abs() < 1e-6, "{}", counted.fit.cost_us);
    }
}
