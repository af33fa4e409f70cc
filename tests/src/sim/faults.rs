//! What goes wrong in a run, drawn from its seed.
//!
//! Faults are budgeted: a run gets so many that a correct pair survives them, or, in a small part of the runs, one more,
//! and then only safety is asked for. The judge of that is the state at the end, not the plan ([`super::world`]).

use protocol::{Discipline, ReplicaId};

use super::disk::Refusal;
use super::rng::Rng;

/// One thing that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The replica's machine is gone.
    Crash,
    /// The replica's process is stopped for this long.
    Pause {
        /// How long.
        for_ns: u64,
    },
    /// The link is cut in both directions, with what was in flight.
    Cut,
    /// What the replica sends is held up for this long.
    Stall {
        /// How long.
        for_ns: u64,
    },
    /// Both directions are held up for this long.
    Partition {
        /// How long.
        for_ns: u64,
    },
    /// Bytes that the replica has sent are changed on their way.
    Garbage,
    /// Bytes that the replica has sent come twice.
    Repeat,
    /// A bit of the replica's guest flips.
    FlipBit,
    /// Both machines are gone at once.
    PowerLoss,
    /// The replica's disk fails to do something from here on.
    DiskRefuses(Refusal),
    /// The replica's disk ends nothing for this long.
    DiskHangs {
        /// How long.
        for_ns: u64,
    },
    /// From here on the replica's disk does nothing when it is told to flush.
    FlushesLost,
    /// A block of the replica's disk holds something else than was written.
    BlockSpoilt,
}

impl Fault {
    const fn concerns_mirrors(self) -> bool {
        matches!(self, Self::DiskRefuses(_) | Self::DiskHangs { .. } | Self::FlushesLost | Self::BlockSpoilt)
    }
}

/// Which replica a fault hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// This one, whatever its role.
    Replica(ReplicaId),
    /// Whoever brings the moment about.
    Actor,
    /// The peer of whoever brings the moment about.
    Peer,
}

/// What a replica does, as far as faults wait for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It sends its hello.
    Hello,
    /// The primary sends a record.
    EpochStart,
    /// The backup sends an acknowledgement.
    Ack,
    /// It begins to run an epoch.
    RunEpoch,
    /// It lets outputs go.
    Release,
    /// The backup forgets outputs.
    Discard,
    /// It asks the arbiter.
    AskArbiter,
    /// It is promoted.
    Promote,
    /// It goes solo.
    GoSolo,
    /// It sends the last message.
    Goodbye,
    /// It closes the link.
    CloseLink,
    /// Its guest has ended.
    GuestStopped,
    /// It sends pages to a newcomer.
    Pages,
    /// It sends the state to a newcomer.
    State,
    /// It asks the arbiter to pair.
    AskPairing,
    /// It knows that it is paired again.
    Joined,
    /// It hands records over to be stored.
    Store,
}

/// When a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// At this step of the simulation.
    Step(u64),
    /// Right after a moment has come for the `count`-th time, counted from 0.
    On {
        /// The moment.
        moment: Moment,
        /// How many times it is let pass.
        count: u64,
    },
    /// So long after the fault before this one.
    AfterPrevious {
        /// How long.
        delay_ns: u64,
    },
}

/// A fault, its victim and its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned {
    /// When.
    pub trigger: Trigger,
    /// To whom.
    pub victim: Victim,
    /// What.
    pub fault: Fault,
}

/// Everything about a run that the seed decides before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which variant of rule P2.
    pub discipline: Discipline,
    /// Outputs spend time in a device's queue, and the replica is told when they have left.
    pub confirms_releases: bool,
    /// Each epoch is compared before the next begins.
    pub compares_first: bool,
    /// What each replica's clock shows at the start.
    pub clock_offset_ns: [u64; 2],
    /// By how much each replica's clock is too fast, in parts per million.
    pub clock_skew_ppm: [i64; 2],
    /// The least and the greatest delay of the link.
    pub link_delay_ns: (u64, u64),
    /// The least and the greatest delay of the control channel.
    pub control_delay_ns: (u64, u64),
    /// The least and the greatest time that an ordinary epoch takes.
    pub epoch_ns: (u64, u64),
    /// How often an epoch takes up to 6 ms instead.
    pub long_epoch_percent: u64,
    /// The slow replica, whose epochs take four times as long, if there is one.
    pub slow: Option<ReplicaId>,
    /// The least and the greatest time between two requests of the client.
    pub request_gap_ns: (u64, u64),
    /// How many requests the client sends.
    pub requests: u64,
    /// The guest exits after so many requests.
    pub exit_after_requests: Option<u64>,
    /// How often the guest wakes by itself.
    pub timer_period_ns: u64,
    /// Bound on the lag.
    pub max_lag_ns: u64,
    /// Bound on epochs outstanding.
    pub max_outstanding_epochs: u32,
    /// The least and the greatest time until the supervisor tells of a death.
    pub death_notice_ns: (u64, u64),
    /// How often an answer of the arbiter comes twice, comes late, and is lost with its request.
    pub answer_repeat_percent: u64,
    /// See above.
    pub answer_late_percent: u64,
    /// See above.
    pub answer_lost_percent: u64,
    /// How often the supervisor tells the loser of a race at once.
    pub tells_loser_percent: u64,
    /// How often a peer notices at once that the other side has closed the link.
    pub close_noticed_percent: u64,
    /// How often messages that come while an epoch runs wait for its end.
    pub lazy_percent: u64,
    /// When the roles are to change as planned.
    pub hand_over_at_ns: Option<u64>,
    /// How many new machines the supervisor starts for those that die.
    pub rejoins: u64,
    /// The least and the greatest time until it does.
    pub rejoin_delay_ns: (u64, u64),
    /// Slices of pages that a copy takes.
    pub copy_slices: u64,
    /// What goes wrong.
    pub faults: Vec<Planned>,
    /// The least and the greatest time that a request to the disk takes, if the guest has one.
    pub disk_delay_ns: Option<(u64, u64)>,
    /// Both replicas reach the same disk.
    pub shared_disk: bool,
    /// A newcomer has a new device for its mirror, not the one of its predecessor with whatever is wrong with that.
    pub replaces_disks: bool,
    /// The least and the greatest time that writing to stable storage takes, if the log is stored.
    pub store_delay_ns: Option<(u64, u64)>,
    /// From when to when it does not work at all.
    pub store_outage_ns: Option<(u64, u64)>,
    /// Bound on what is on its way to it.
    pub max_unstored_bytes: u64,
    /// The guests differ at the end of some epoch; at most one other fault is planned then.
    pub diverges: bool,
}

const MICROSECOND_NS: u64 = 1_000;
const MILLISECOND_NS: u64 = 1_000_000;

/// Replica 0, the primary of a new pair, and 1.
const BOTH: [ReplicaId; 2] = [ReplicaId::ZERO, ReplicaId::ONE];

impl Settings {
    /// Draws the settings of a run.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let discipline = if rng.chance(25) { Discipline::Original } else { Discipline::Revised };
        let link_us = rng.pick(&[(20, 60), (50, 200), (100, 1500)]);
        let epoch_us = rng.pick(&[(10, 60), (30, 300), (100, 1000)]);
        let gap_us = rng.pick(&[(20, 100), (50, 500), (500, 3000)]);
        let faults = draw_faults(rng);
        let mirrors_fail = faults.iter().any(|planned| planned.fault.concerns_mirrors());
        let spoils = faults.iter().any(|planned| planned.fault == Fault::BlockSpoilt);
        let has_disk = rng.chance(50) || mirrors_fail;
        let disk_delay_ns = has_disk.then(|| microseconds(rng.pick(&[(5, 50), (20, 1500), (500, 5000)])));
        let shared_disk = rng.chance(40) && has_disk && !mirrors_fail;
        let diverges = faults.iter().any(|planned| planned.fault == Fault::FlipBit);
        Self {
            discipline,
            confirms_releases: rng.chance(60),
            clock_offset_ns: [rng.below(1 << 50), rng.below(1 << 50)],
            clock_skew_ppm: [rng.below(2001) as i64 - 1000, rng.below(2001) as i64 - 1000],
            link_delay_ns: microseconds(link_us),
            control_delay_ns: (20 * MICROSECOND_NS, rng.pick(&[100, 2000]) * MICROSECOND_NS),
            epoch_ns: microseconds(epoch_us),
            long_epoch_percent: rng.pick(&[0, 0, 1, 5]),
            slow: rng.chance(20).then(|| rng.pick(&BOTH)),
            request_gap_ns: microseconds(gap_us),
            requests: rng.between(10, 60),
            exit_after_requests: rng.chance(20).then(|| rng.between(1, 30)),
            timer_period_ns: rng.between(1, 5) * MILLISECOND_NS,
            max_lag_ns: rng.between(2, 8) * MILLISECOND_NS,
            max_outstanding_epochs: rng.pick(&[2, 8, 64]),
            death_notice_ns: (20 * MICROSECOND_NS, rng.pick(&[100, 1000, 60_000]) * MICROSECOND_NS),
            answer_repeat_percent: rng.pick(&[0, 20]),
            answer_late_percent: rng.pick(&[0, 20]),
            answer_lost_percent: rng.pick(&[0, 0, 30]),
            tells_loser_percent: rng.pick(&[0, 50, 100]),
            close_noticed_percent: rng.pick(&[0, 50, 100]),
            lazy_percent: rng.pick(&[0, 0, 50]),
            faults,
            diverges,
            compares_first: rng.chance(15),
            hand_over_at_ns: (!diverges && rng.chance(20)).then(|| rng.between(500, 30_000) * MICROSECOND_NS),
            // A guest that was tampered with, or that a block may have deceived, is judged between the first two replicas
            // only.
            rejoins: if diverges || spoils { 0 } else { rng.pick(&[0, 1, 1, 2, 3]) },
            rejoin_delay_ns: microseconds(rng.pick(&[(50, 300), (200, 4000)])),
            copy_slices: rng.pick(&[0, 3, 30]),
            disk_delay_ns,
            shared_disk,
            replaces_disks: rng.chance(50),
            store_delay_ns: None,
            store_outage_ns: None,
            max_unstored_bytes: 64 * 1024,
        }
    }

    /// Draws what becomes of the log, of its own, so that runs in which it is not stored are what they were.
    pub fn draw_storage(&mut self, rng: &mut Rng) {
        if rng.chance(50) {
            return;
        }
        self.store_delay_ns = Some(microseconds(rng.pick(&[(5, 50), (50, 800), (500, 6000)])));
        self.max_unstored_bytes = rng.pick(&[400, 2_000, 64 * 1024]);
        let from_ns = rng.between(0, 30_000) * MICROSECOND_NS;
        let for_ns = rng.pick(&[1_000, 8_000, 100_000]) * MICROSECOND_NS;
        self.store_outage_ns = rng.chance(30).then_some((from_ns, from_ns + for_ns));
        // Some faults strike where records are handed over.
        for planned in &mut self.faults {
            if rng.chance(20) {
                planned.trigger = Trigger::On { moment: Moment::Store, count: rng.below(40) };
            }
        }
    }

    /// Whether a disk is to hang.
    #[must_use]
    pub fn disk_hangs(&self) -> bool {
        self.faults.iter().any(|planned| matches!(planned.fault, Fault::DiskHangs { .. }))
    }

    /// Whether disks of both replicas fail, and not from the beginning on in the same way: then both may leave.
    #[must_use]
    pub fn disks_fail_apart(&self) -> bool {
        let failing: Vec<_> = self.faults.iter().filter(|planned| planned.fault.concerns_mirrors()).collect();
        let [first, rest @ ..] = &failing[..] else { return false };
        let fails_alike = |other: &&&Planned| other.trigger == Trigger::Step(0) && other.fault == first.fault;
        !rest.is_empty() && !failing.iter().all(|other| fails_alike(&other))
    }
}

const fn microseconds((low, high): (u64, u64)) -> (u64, u64) {
    (low * MICROSECOND_NS, high * MICROSECOND_NS)
}

fn draw_faults(rng: &mut Rng) -> Vec<Planned> {
    match rng.below(26) {
        20..26 => draw_disk_faults(rng),
        0 => Vec::new(),
        1 => vec![draw_flip(rng)],
        2 => {
            let mut faults = vec![draw_flip(rng), draw_fault(rng)];
            if rng.chance(60) {
                faults[1].trigger = Trigger::AfterPrevious { delay_ns: rng.between(0, 1000) * MICROSECOND_NS };
            }
            faults
        }
        3..13 => vec![draw_fault(rng)],
        13..18 => {
            let first = draw_fault(rng);
            let mut second = draw_fault(rng);
            if rng.chance(60) {
                second.trigger = Trigger::AfterPrevious { delay_ns: rng.between(0, 3000) * MICROSECOND_NS };
            }
            vec![first, second]
        }
        // The first death calls for a newcomer, and the next ones strike while it comes.
        18 => {
            let crash = Planned { fault: Fault::Crash, ..draw_fault(rng) };
            let moments = [Moment::Pages, Moment::State, Moment::AskPairing, Moment::Joined];
            let mut faults = vec![crash];
            for _ in 0..rng.between(1, 3) {
                let trigger = Trigger::On { moment: rng.pick(&moments), count: rng.below(3) };
                faults.push(Planned { trigger, ..draw_fault(rng) });
            }
            faults
        }
        _ => (0..4).map(|_| draw_fault(rng)).collect(),
    }
}

const REFUSALS: [Refusal; 4] = [Refusal::Reads, Refusal::Writes, Refusal::Flushes, Refusal::Everything];

/// A disk that fails, at one replica or at both, from the beginning on, within a round trip, or while a newcomer's is made
/// equal, and sometimes something else besides; or no power.
fn draw_disk_faults(rng: &mut Rng) -> Vec<Planned> {
    let victim = Victim::Replica(rng.pick(&BOTH));
    let trigger = draw_trigger(rng);
    match rng.below(14) {
        8 | 9 => draw_failures_at_both(rng),
        10..14 => draw_failures_in_join(rng),
        0..3 => vec![Planned { trigger, victim, fault: Fault::DiskRefuses(rng.pick(&REFUSALS)) }],
        3 => {
            let fault = Fault::DiskRefuses(rng.pick(&REFUSALS));
            BOTH.map(|id| Planned { trigger: Trigger::Step(0), victim: Victim::Replica(id), fault }).to_vec()
        }
        4 => {
            let for_ns = rng.between(5, 40) * MILLISECOND_NS;
            vec![Planned { trigger, victim, fault: Fault::DiskHangs { for_ns } }]
        }
        5 => {
            let lies = Planned { trigger: Trigger::Step(0), victim, fault: Fault::FlushesLost };
            vec![lies, Planned { fault: Fault::PowerLoss, ..draw_fault(rng) }]
        }
        6 => vec![Planned { trigger, victim, fault: Fault::BlockSpoilt }],
        _ => vec![Planned { trigger, victim, fault: Fault::PowerLoss }],
    }
}

/// Both disks fail, the second one before the first replica's peer can have heard of it.
fn draw_failures_at_both(rng: &mut Rng) -> Vec<Planned> {
    let first = rng.pick(&BOTH);
    let trigger = draw_trigger(rng);
    let greatest_us = rng.pick(&[20, 200, 3000]);
    let delay_ns = rng.between(0, greatest_us) * MICROSECOND_NS;
    [(first, trigger), (first.peer(), Trigger::AfterPrevious { delay_ns })]
        .map(|(id, trigger)| {
            let fault = Fault::DiskRefuses(rng.pick(&REFUSALS));
            Planned { trigger, victim: Victim::Replica(id), fault }
        })
        .to_vec()
}

/// A replica dies, and while another one comes in its place the mirror that is copied fails, or the copy, or both.
fn draw_failures_in_join(rng: &mut Rng) -> Vec<Planned> {
    let moments = [Moment::Pages, Moment::State, Moment::AskPairing, Moment::Joined];
    let mut faults = vec![Planned { fault: Fault::Crash, ..draw_fault(rng) }];
    for _ in 0..rng.pick(&[1, 1, 2]) {
        let fault = match rng.below(8) {
            0 => Fault::DiskHangs { for_ns: rng.between(1, 30) * MILLISECOND_NS },
            1 => Fault::FlushesLost,
            _ => Fault::DiskRefuses(rng.pick(&REFUSALS)),
        };
        let trigger = Trigger::On { moment: rng.pick(&moments), count: rng.below(3) };
        faults.push(Planned { trigger, victim: rng.pick(&[Victim::Actor, Victim::Peer]), fault });
    }
    if rng.chance(30) {
        let trigger = Trigger::On { moment: rng.pick(&moments), count: rng.below(3) };
        faults.push(Planned { trigger, ..draw_fault(rng) });
    }
    faults
}

fn draw_flip(rng: &mut Rng) -> Planned {
    Planned { trigger: draw_trigger(rng), victim: draw_victim(rng), fault: Fault::FlipBit }
}

fn draw_fault(rng: &mut Rng) -> Planned {
    let short_or_long_ns = |rng: &mut Rng| {
        let greatest = rng.pick(&[2_000, 8_000, 40_000]);
        rng.between(100, greatest) * MICROSECOND_NS
    };
    let fault = match rng.below(16) {
        0..6 => Fault::Crash,
        6..9 => Fault::Pause { for_ns: short_or_long_ns(rng) },
        9..11 => Fault::Cut,
        11 => Fault::Stall { for_ns: short_or_long_ns(rng) },
        12 => Fault::Partition { for_ns: short_or_long_ns(rng) },
        13 | 14 => Fault::Garbage,
        _ => Fault::Repeat,
    };
    Planned { trigger: draw_trigger(rng), victim: draw_victim(rng), fault }
}

fn draw_victim(rng: &mut Rng) -> Victim {
    match rng.below(4) {
        0 => Victim::Actor,
        1 => Victim::Peer,
        _ => Victim::Replica(rng.pick(&BOTH)),
    }
}

fn draw_trigger(rng: &mut Rng) -> Trigger {
    const OFTEN: [Moment; 4] = [Moment::EpochStart, Moment::Ack, Moment::RunEpoch, Moment::Release];
    const RARE: [Moment; 12] = [
        Moment::Hello,
        Moment::Discard,
        Moment::AskArbiter,
        Moment::Promote,
        Moment::GoSolo,
        Moment::Goodbye,
        Moment::CloseLink,
        Moment::GuestStopped,
        Moment::Pages,
        Moment::State,
        Moment::AskPairing,
        Moment::Joined,
    ];
    match rng.below(10) {
        0..3 => Trigger::Step(rng.below(30)),
        3..6 => Trigger::Step(rng.below(1500)),
        6..8 => Trigger::On { moment: rng.pick(&OFTEN), count: rng.below(60) },
        _ => Trigger::On { moment: rng.pick(&RARE), count: rng.below(2) },
    }
}
