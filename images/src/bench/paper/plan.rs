//! What is measured: which workload under which epochs, how much of it, how often.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::workload::Workload;
use crate::supervise::spec::{EpochSpec, ProtocolName, RunName};

/// Lengths of exact epochs, in instructions, evenly spread over their logarithms; among them those of the paper, and those
/// that something is promised for.
const LENGTHS: [u64; 8] = [1_000, 4_000, 8_000, PROMISED_SHORT, 32_000, 100_000, 385_000, PROMISED_LONG];
const QUICK_LENGTHS: [u64; 4] = [4_000, PROMISED_SHORT, 100_000, PROMISED_LONG];
const QUICK_STORE_LENGTHS: [u64; 2] = [PROMISED_SHORT, PROMISED_LONG];
/// Lengths of exact epochs that promises name.
pub const PROMISED_SHORT: u64 = 10_000;
/// The long one.
pub const PROMISED_LONG: u64 = 1_000_000;
/// Lengths of counted epochs, in ticks: from a thousand instructions of Dhrystone to a million.
const COUNTED_LENGTHS: [u64; 6] = [10, 40, 100, 300, COUNTED_MIDDLE, 10_000];
/// The same where the guest mostly waits.
const WAITING_COUNTED_LENGTHS: [u64; 4] = [10, 100, COUNTED_MIDDLE, 10_000];
const QUICK_COUNTED_LENGTHS: [u64; 1] = [COUNTED_MIDDLE];
/// One that both plans have.
const COUNTED_MIDDLE: u64 = 1_000;
/// Lengths that are also run with epochs but without a peer.
const SOLO_LENGTHS: [u64; 3] = [4_000, PROMISED_SHORT, 100_000];
/// Runs of Dhrystone after which it gives way, where it does.
pub const YIELD_AFTER: u32 = 1_000;
/// Instructions of a run of Dhrystone, roughly: it only decides how many runs are asked for.
const INSTRUCTIONS_A_RUN: u64 = 384;
/// Ticks of a run of Dhrystone, roughly.
const TICKS_A_RUN: u64 = 4;
/// Instructions of a tick, by that.
const INSTRUCTIONS_A_TICK: u64 = INSTRUCTIONS_A_RUN / TICKS_A_RUN;

/// How the machine runs the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// Without epochs.
    Bare,
    /// Without epochs, beside another one that does the same and knows nothing of it: what two busy processors of this
    /// machine cost each other, which no pair can do without.
    Neighbours,
    /// Without epochs, but the machine is cut as often as with them and goes on at once: what nothing that is done at a boundary can
    /// go below.
    Cut,
    /// With epochs, without a peer.
    Solo,
    /// Two replicas and a protocol.
    Pair(ProtocolName),
}

impl System {
    /// As the supervisor is told.
    pub fn run_name(self) -> RunName {
        match self {
            Self::Bare | Self::Neighbours => RunName::Bare,
            Self::Cut => RunName::Cut,
            Self::Solo => RunName::Solo,
            Self::Pair(_) => RunName::Pair,
        }
    }

    /// Whether it has epochs, or is cut as though it had.
    pub fn has_epochs(self) -> bool {
        !matches!(self, Self::Bare | Self::Neighbours)
    }

    /// The protocol, where there is one.
    pub fn protocol(self) -> ProtocolName {
        if let Self::Pair(protocol) = self { protocol } else { ProtocolName::Revised }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "bare",
            Self::Neighbours => "bare, beside another",
            Self::Cut => "cut and nothing else",
            Self::Solo => "solo",
            Self::Pair(ProtocolName::Original) => "pair, original",
            Self::Pair(ProtocolName::Revised) => "pair, revised",
        })
    }
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// What the guest does.
    pub workload: Workload,
    /// What ends its epochs. Without epochs: whether instructions are counted, as they are with such epochs.
    pub epoch: EpochSpec,
    /// How it is run.
    pub system: System,
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.workload, self.epoch, self.system)
    }
}

/// Systems that are compared: each does the same in the same round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What the guest does.
    pub workload: Workload,
    /// What ends its epochs.
    pub epoch: EpochSpec,
    /// How much of it, in the workload's unit.
    pub size: u64,
    /// The systems, the baseline first.
    pub systems: Vec<System>,
}

impl Group {
    /// Whether something is promised of it: then it is also measured in slices, and those count during which the host's cores were ours
    /// alone.
    pub fn is_sliced(&self) -> bool {
        self.systems.contains(&System::Neighbours)
    }
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The workload that computes.
    Dhrystone,
    /// The network server.
    Kv,
    /// Reads and writes of a mirrored disk, and of a shared one.
    Disk,
    /// The comparison of very many digests.
    Exactness,
    /// Primaries that are killed while they compute.
    Failover,
}

/// All that is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whether this is a look and no measurement.
    pub quick: bool,
    /// Rounds; in each every group has its turn.
    pub rounds: usize,
    /// What is compared.
    pub groups: Vec<Group>,
    /// Epochs whose digests are compared.
    pub exact_epochs: Option<u64>,
    /// How long these are, in instructions.
    pub exact_length: u64,
    /// Primaries that are killed.
    pub kills: Option<usize>,
    /// What random choices start from.
    pub seed: u64,
}

impl Plan {
    /// A full plan or a quick one, of these parts; of all, if none is named.
    pub fn new(quick: bool, parts: &[Part], rounds: Option<usize>, seed: u64) -> Self {
        let wanted = |part| parts.is_empty() || parts.contains(&part);
        let mut groups = Vec::new();
        if wanted(Part::Dhrystone) {
            groups.extend(dhrystone(quick));
        }
        if wanted(Part::Kv) {
            groups.extend(store(quick));
        }
        if wanted(Part::Disk) {
            groups.extend(Workload::DISK.into_iter().flat_map(|what| disk(quick, what)));
        }
        Self {
            quick,
            rounds: rounds.unwrap_or(if quick { 1 } else { 5 }),
            groups,
            exact_epochs: wanted(Part::Exactness).then_some(if quick { 10_000 } else { 100_000 }),
            exact_length: PROMISED_SHORT,
            kills: wanted(Part::Failover).then_some(if quick { 3 } else { 30 }),
            seed,
        }
    }

    /// How many measurements, checks and kills it takes.
    pub fn steps(&self) -> usize {
        let a_round: usize = self.groups.iter().map(|group| group.systems.len()).sum();
        a_round * self.rounds + usize::from(self.exact_epochs.is_some()) + self.kills.unwrap_or(0)
    }
}

fn systems(more: &[System]) -> Vec<System> {
    let mut systems = vec![System::Bare, System::Pair(ProtocolName::Revised), System::Pair(ProtocolName::Original)];
    systems.extend(more);
    systems
}

fn dhrystone(quick: bool) -> Vec<Group> {
    let (runs, most_epochs) = if quick { (300_000, 10_000) } else { (3_000_000, 100_000) };
    let cooperative = [0, YIELD_AFTER].map(|yield_after| Group {
        workload: Workload::Dhrystone { yield_after },
        epoch: EpochSpec::Cooperative,
        // Without counting it is faster; and there are no epochs to be paid for.
        size: runs * 2,
        systems: systems(&[System::Neighbours]),
    });
    let lengths = if quick { &QUICK_LENGTHS[..] } else { &LENGTHS[..] };
    let exact = lengths.iter().map(|&length| Group {
        workload: Workload::COMPUTES,
        epoch: EpochSpec::Exact(length),
        // Short epochs are many: less of them says as much.
        size: runs.min(most_epochs * length / INSTRUCTIONS_A_RUN),
        systems: systems(match length {
            PROMISED_LONG | PROMISED_SHORT => &[System::Cut, System::Solo, System::Neighbours],
            _ if SOLO_LENGTHS.contains(&length) => &[System::Solo],
            _ => &[],
        }),
    });
    let lengths = if quick { &QUICK_COUNTED_LENGTHS[..] } else { &COUNTED_LENGTHS[..] };
    let counted = lengths.iter().map(|&length| Group {
        workload: Workload::COMPUTES,
        epoch: EpochSpec::Counted(length),
        size: (runs * 2).min(most_epochs * length / TICKS_A_RUN),
        systems: systems(if length == COUNTED_MIDDLE { &[System::Solo] } else { &[] }),
    });
    cooperative.into_iter().chain(exact).chain(counted).collect()
}

fn store(quick: bool) -> Vec<Group> {
    let requests = if quick { 3_000 } else { 20_000 };
    waiting(quick, Workload::Store, [requests, requests * 2], |instructions| (instructions * 2).max(3_000))
}

fn disk(quick: bool, workload: Workload) -> Vec<Group> {
    let (operations, least) = if quick { (3_000, 500) } else { (20_000, 2_000) };
    waiting(quick, workload, [operations; 2], |instructions| (instructions / 2).max(least))
}

/// A guest that mostly waits, under epochs of every source. `size` follows from the instructions of an epoch, because short ones are
/// many; at most so much where the machine counts, and where it does not.
fn waiting(quick: bool, workload: Workload, most: [u64; 2], size: impl Fn(u64) -> u64) -> Vec<Group> {
    let [most_counting, most] = most;
    let group = |epoch, size| Group { workload, epoch, size, systems: systems(&[]) };
    let (exact, counted) = if quick {
        (&QUICK_STORE_LENGTHS[..], &QUICK_COUNTED_LENGTHS[..])
    } else {
        (&LENGTHS[..], &WAITING_COUNTED_LENGTHS[..])
    };
    let exact = exact.iter().map(|&length| group(EpochSpec::Exact(length), size(length).min(most_counting)));
    let counted =
        counted.iter().map(|&length| group(EpochSpec::Counted(length), size(length * INSTRUCTIONS_A_TICK).min(most)));
    std::iter::once(group(EpochSpec::Cooperative, most)).chain(exact).chain(counted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::EpochSource;

    #[test]
    fn every_group_has_its_baseline_first_and_both_protocols() {
        for quick in [false, true] {
            let plan = Plan::new(quick, &[], None, 1);
            for group in &plan.groups {
                assert_eq!(group.systems[0], System::Bare);
                for protocol in [ProtocolName::Original, ProtocolName::Revised] {
                    assert!(group.systems.contains(&System::Pair(protocol)));
                }
                assert!(group.size > 0);
            }
            let solo = |group: &Group| group.systems.contains(&System::Solo);
            for length in [PROMISED_SHORT, PROMISED_LONG] {
                assert!(plan.groups.iter().any(|group| group.epoch == EpochSpec::Exact(length)));
            }
            assert!(plan.groups.iter().any(|group| solo(group) && group.epoch == EpochSpec::Exact(PROMISED_SHORT)));
            for workload in Workload::ALL {
                let counted = |group: &Group| group.workload == workload && group.epoch.needs_ticks();
                assert!(plan.groups.iter().any(counted));
            }
        }
    }

    #[test]
    fn parts_can_be_left_out() {
        let plan = Plan::new(true, &[Part::Failover], None, 1);
        assert!(plan.groups.is_empty() && plan.exact_epochs.is_none());
        assert_eq!(plan.steps(), plan.kills.expect("wanted"));
        let plan = Plan::new(true, &[Part::Kv], Some(2), 1);
        assert!(plan.groups.iter().all(|group| group.workload == Workload::Store));
        assert_eq!(plan.steps(), plan.groups.len() * 3 * 2);
        let plan = Plan::new(true, &[Part::Disk], None, 1);
        assert!(plan.groups.iter().all(|group| group.workload.has_disk()));
        for source in [EpochSource::Cooperative, EpochSource::Exact, EpochSource::Counted] {
            for workload in Workload::DISK {
                let measured = |group: &Group| group.workload == workload && group.epoch.source() == source;
                assert!(plan.groups.iter().any(measured), "{workload}, {source:?}");
            }
        }
    }

    #[test]
    fn what_is_promised_of_a_pair_is_measured_of_neighbours_too() {
        let plan = Plan::new(false, &[], None, 1);
        let with_neighbours = |group: &&Group| group.systems.contains(&System::Neighbours);
        let epochs: Vec<_> = plan.groups.iter().filter(with_neighbours).map(|group| group.epoch).collect();
        let exact = [PROMISED_SHORT, PROMISED_LONG].map(EpochSpec::Exact);
        assert_eq!(epochs, [EpochSpec::Cooperative, EpochSpec::Cooperative, exact[0], exact[1]]);
    }
}
