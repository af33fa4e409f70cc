//! A deterministic simulator of a whole pair.
//!
//! One seed decides everything: two replicas with clocks of their own that drift, a toy guest that is a function of its
//! log, a link that delays, loses its tail when it breaks, repeats and corrupts (all bytes go through the real codec), a
//! supervisor with the arbiter whose answers are late, lost and repeated, and who starts new machines for those that died,
//! a hub that hands frames over, and a client that records what it sees. In half of the runs the guest also uses a disk,
//! mirrored at both or shared. Faults strike between any two steps, and between any two commands of one step.
//!
//! | judge | what it asks |
//! |---|---|
//! | output commit | no released output depends on what the survivor lacks |
//! | stable storage | in half of the runs the log is stored: no released output depends on a record that the disk lacks, or ever forgets |
//! | one active replica | each generation has one, and it is the arbiter's |
//! | equal states | the guests' digests are equal epoch by epoch |
//! | one history | the client saw the outputs of one linear history, in order, none missing, and sent no request twice |
//! | disks | a read brings what was written last; a flush is told when both disks, or the only one, keep what it promises; mirrors of a pair at rest are equal; of two replicas whose disks fail alike one is left, and whoever leaves leaves the guest to somebody; a newcomer's mirror holds all that flushes promised of the survivor's; what was promised survives a loss of power |
//! | shared disks | as above; and in the end it holds what the guest of the active replica knows, and nothing that a predecessor wrote late |
//! | lag | the primary never begins an epoch against its bounds, measured by what the backup has truly run |
//! | liveness | when nothing goes wrong any more and a replica is left, every request is answered and the loser stops |
//!
//! A failing seed is replayed, with its trace, by `POLLUX_SEED=… cargo test -p pollux-tests simulation`.

mod checker;
mod disk;
mod epochs;
mod faults;
mod guest;
mod hub;
mod inject;
mod knowledge;
mod log;
mod marks;
mod mirror;
mod node;
mod pipe;
mod rejoin;
mod rng;
mod shared;
mod shim;
mod world;

pub use checker::Verdict;
pub use faults::{Fault, Moment, Planned, Settings, Trigger, Victim};
pub use marks::{Mark, Marks};
pub use rng::{Rng, mix};

/// A bug put in on purpose: a judge that does not catch it judges nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Canary {
    /// The primary's shim lets outputs go at the end of their epoch, without waiting for the acknowledgement.
    ReleaseBeforeAck,
    /// A shim takes every answer of the arbiter for a grant.
    IgnoreDenial,
    /// A promoted shim forgets the outputs that it holds.
    ForgetHeldOutputs,
    /// A newcomer's shim does not put the state that it was sent in place.
    ForgetState,
    /// A newcomer's mirror is copied once, and what was written meanwhile is not.
    ForgetChanges,
    /// A newcomer is let in although its mirror could not be copied.
    KeepBadCopy,
    /// A newcomer is let in before its mirror is stable.
    PairUnstable,
    /// A primary whose disk fails leaves the guest to a newcomer with whom the record is not paired.
    LeaveUnpaired,
    /// A shim reads what a write that has failed has left, before the guest knows.
    PassFault,
    /// A guest is copied while its disk has something under way.
    CopyBusyDisk,
    /// A primary whose disk fails leaves although the backup's may fail the same way.
    LeaveAtOnce,
    /// A write to a shared disk begins at the end of its epoch, without waiting for the acknowledgement.
    WriteBeforeCommit,
    /// A write to a shared disk does not wait for what was read there before it.
    OverwriteRead,
    /// The arbiter does not wait until the process of the loser is gone.
    NoFence,
    /// The primary's shim tells the guest of a flush that only its own disk has done.
    FlushAlone,
    /// The supervisor says that a record is stored when it has come.
    StoredTooSoon,
    /// The backup's shim takes no notice of what its disk has not done yet.
    OvertakeDisk,
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The judgement.
    pub verdict: Verdict,
    /// The rare paths that were taken.
    pub marks: Marks,
    /// How many things happened.
    pub steps: u64,
    /// What the seed decided.
    pub settings: Settings,
    /// The last lines of what happened, if that was asked for.
    pub trace: Vec<String>,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    world::World::new(seed, None, false).run()
}

/// Runs one seed and writes down what happens.
#[must_use]
pub fn run_traced(seed: u64) -> Report {
    world::World::new(seed, None, true).run()
}

/// Runs one seed with a bug.
#[must_use]
pub fn run_with_canary(seed: u64, canary: Canary) -> Report {
    world::World::new(seed, Some(canary), false).run()
}
