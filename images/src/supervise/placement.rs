//! Which processors of the host the replicas' vCPU threads run on.
//!
//! A vCPU thread sleeps and wakes some times in each epoch, and each time the system may find another processor for it, whose
//! caches know nothing of its translated code. So a thread that is busy is held where the host is idlest, never on its twin's
//! processor: one of the two is always waiting for the other. Nobody else is kept away from there; where that makes a thread
//! wait while another processor has time, all are let go, and held anew later.
//!
//! The opposite happens, too. On two processors that are half busy, Linux looks for no idle one any more when it wakes a
//! thread (`SIS_UTIL`), and lets it run where its waker does: both machines of a pair take turns on one processor, and the
//! other one is idle. Where that is seen, each machine with all its threads is kept on a processor of its own.
//!
//! Where machines count instructions, QEMU wakes its main loop whenever a timer ends, which is how an epoch is cut. A main loop that does not
//! preempt runs when the guest's processor rests, or has had its turn, and is woken once in many epochs: so it is a batch job, while
//! nobody speaks with the guest, because turns take milliseconds. On another processor, if that is idle, waking still takes an interrupt between processors,
//! and on a host that is a virtual machine itself a visit to its hypervisor; so a busy machine is faster with all its
//! threads on one processor. That is not done unless it is asked for: threads that may not move had to wait for up to seconds, on Linux 6.18, where
//! groups of processes (autogroups) compete.

use crate::supervise::spec::PlacementName;
use crate::vcpu::{self, Times, Vcpu};

const NS_PER_MS: u64 = 1_000_000;
/// How often it is looked at.
const INTERVAL_NS: u64 = 500 * NS_PER_MS;
/// A thread that has run for less than this share of the time is left alone.
const BUSY: f64 = 0.2;
/// A thread that has waited for more than this share of the time is let go, if another processor was idle for as much.
const STARVED: f64 = 0.25;
/// Threads that were let go stay so for this long at first, and twice as long each time it happens again,
const FIRST_FREE_NS: u64 = 2_000 * NS_PER_MS;
/// up to this,
const LONGEST_FREE_NS: u64 = 60_000 * NS_PER_MS;
/// unless they were held for so long in between.
const LASTING_NS: u64 = 30_000 * NS_PER_MS;
/// Threads of twins that have each waited for more than this share of the time are in each other's way,
const IN_THE_WAY: f64 = 0.08;
/// if meanwhile processors have been idle for this much, the shares of all of them taken together.
const ROOM: f64 = 0.3;
/// Machines that are kept apart are let go when there is less room than this: the system spreads what fills all processors.
const NO_ROOM: f64 = 0.1;

/// Without a frame for so long nobody speaks with the guest.
const QUIET_NS: u64 = 20 * NS_PER_MS;

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
struct Look {
    at_ns: u64,
    /// The processors that may be used, and how long each has been idle since the system's start.
    idle_ns: Vec<(usize, u64)>,
    vcpus: [Option<Times>; 2],
}

impl Look {
    /// For what share of the time since an earlier look the processor was idle.
    fn idle_since(&self, earlier: &Self, processor: usize) -> f64 {
        let at = |look: &Self| look.idle_ns.iter().find(|(other, _)| *other == processor).map_or(0, |(_, idle)| *idle);
        self.share(earlier, at(self).saturating_sub(at(earlier)))
    }

    /// The shares of all processors taken together.
    fn room_since(&self, earlier: &Self) -> f64 {
        self.idle_ns.iter().map(|(processor, _)| self.idle_since(earlier, *processor)).sum()
    }

    fn share(&self, earlier: &Self, part_ns: u64) -> f64 {
        part_ns as f64 / self.at_ns.saturating_sub(earlier.at_ns).max(1) as f64
    }

    /// For what shares of that time a thread has run and waited; `None` when it was not there at both looks.
    fn thread_since(&self, earlier: &Self, index: usize) -> Option<(f64, f64)> {
        let (then, now) = (earlier.vcpus[index]?, self.vcpus[index]?);
        let share = |then: u64, now: u64| self.share(earlier, now.saturating_sub(then));
        Some((share(then.ran_ns, now.ran_ns), share(then.waited_ns, now.waited_ns)))
    }
}

/// Decides, from looks alone.
#[derive(Debug)]
struct Policy {
    conduct: PlacementName,
    last: Look,
    held: [Option<usize>; 2],
    held_since_ns: u64,
    free_until_ns: u64,
    next_free_ns: u64,
}

impl Policy {
    fn new(conduct: PlacementName) -> Self {
        let last = Look::default();
        Self { conduct, last, held: [None, None], held_since_ns: 0, free_until_ns: 0, next_free_ns: FIRST_FREE_NS }
    }

    /// Takes the next look. Says where each thread is held from now on, if that has changed.
    fn look(&mut self, look: Look) -> Option<[Option<usize>; 2]> {
        let before = self.held;
        for (held, times) in self.held.iter_mut().zip(&look.vcpus) {
            *held =
                held.filter(|processor| times.is_some() && look.idle_ns.iter().any(|(other, _)| other == processor));
        }
        if self.starves(&look) {
            let lasted = look.at_ns.saturating_sub(self.held_since_ns) >= LASTING_NS;
            let free_ns = if lasted { FIRST_FREE_NS } else { self.next_free_ns };
            self.next_free_ns = (free_ns * 2).min(LONGEST_FREE_NS);
            self.free_until_ns = look.at_ns + free_ns;
            self.held = [None, None];
        } else if self.is_full(&look) {
            self.held = [None, None];
        } else if look.at_ns >= self.free_until_ns && look.idle_ns.len() > 1 {
            match self.conduct {
                PlacementName::Hold | PlacementName::Together => self.hold(&look, |ran| ran > BUSY),
                PlacementName::Auto => self.keep_apart(&look),
                PlacementName::Free => {}
            }
        }
        self.last = look;
        (self.held != before).then_some(self.held)
    }

    /// Whether a thread waits for its processor while another one has time for it.
    fn starves(&self, look: &Look) -> bool {
        self.held.iter().enumerate().any(|(index, held)| {
            let Some(held) = *held else { return false };
            let (ran, waited) = look.thread_since(&self.last, index).unwrap_or_default();
            // A machine's own threads wait for each other on the one processor that they are kept on.
            let by_its_own = self.conduct == PlacementName::Auto && waited < ran;
            let idlest = look.idle_ns.iter().filter(|(processor, _)| *processor != held);
            let idlest = idlest.map(|(processor, _)| look.idle_since(&self.last, *processor)).fold(0.0, f64::max);
            waited > STARVED && idlest > STARVED && !by_its_own
        })
    }

    /// Whether machines are kept apart that the system had better place.
    fn is_full(&self, look: &Look) -> bool {
        let are_held = self.held.iter().any(Option::is_some);
        self.conduct == PlacementName::Auto && are_held && look.room_since(&self.last) < NO_ROOM
    }

    /// Finds processors for both machines if they are in each other's way. One whose twin is new is let go.
    fn keep_apart(&mut self, look: &Look) {
        if self.held.iter().all(Option::is_some) {
            return;
        }
        self.held = [None, None];
        let waits = |index| look.thread_since(&self.last, index).is_some_and(|(_, waited)| waited > IN_THE_WAY);
        if waits(0) && waits(1) && look.room_since(&self.last) > ROOM {
            self.hold(look, |_| true);
        }
    }

    /// Finds processors for the threads that are not held and busy enough.
    fn hold(&mut self, look: &Look, enough: impl Fn(f64) -> bool) {
        for index in 0..self.held.len() {
            let is_busy = look.thread_since(&self.last, index).is_some_and(|(ran, _)| enough(ran));
            let (None, true, Some(now)) = (self.held[index], is_busy, look.vcpus[index]) else { continue };
            let of_twin = self.held[1 - index];
            // Its own work is no reason to leave; where all are alike it stays.
            let room = |processor: usize| {
                let own = look.thread_since(&self.last, index).filter(|_| now.processor == processor);
                look.idle_since(&self.last, processor) + own.map_or(0.0, |(ran, _)| ran)
            };
            let candidates = look.idle_ns.iter().map(|(processor, _)| *processor);
            self.held[index] = candidates
                .filter(|processor| Some(*processor) != of_twin)
                .max_by(|&left, &right| room(left).total_cmp(&room(right)));
            self.held_since_ns = look.at_ns;
        }
    }
}

/// Whether there is nothing for a main loop to do but what cuts wake it for. A client that waits for its answer would wait for its turn,
/// too.
#[derive(Debug, Default)]
struct Quiet {
    /// Frames that have come and gone; `None` where there is something else to do.
    frames: Option<u64>,
    since_ns: u64,
    /// Main loops wait for their turn.
    lasts: bool,
}

impl Quiet {
    /// Whether main loops wait from now on, if that has changed.
    fn look(&mut self, now_ns: u64, frames: Option<u64>) -> Option<bool> {
        let before = self.lasts;
        if frames.is_none() || frames != self.frames {
            *self = Self { frames, since_ns: now_ns, lasts: false };
        } else {
            self.lasts = now_ns >= self.since_ns + QUIET_NS;
        }
        (self.lasts != before).then_some(self.lasts)
    }

    /// When it will have begun, if nothing happens.
    fn due_ns(&self) -> Option<u64> {
        (self.frames.is_some() && !self.lasts).then_some(self.since_ns + QUIET_NS)
    }
}

/// Looks after the threads of a pair's machines.
#[derive(Debug)]
pub struct Placement {
    policy: Policy,
    /// By process: a replica's successor has threads of its own.
    vcpus: [Option<(i32, Vcpu)>; 2],
    /// Whether the main loops wait for their turn.
    quiet: Quiet,
    due_ns: u64,
}

impl Placement {
    /// Holds nothing yet.
    pub fn new(conduct: PlacementName) -> Self {
        Self { policy: Policy::new(conduct), vcpus: [None, None], quiet: Quiet::default(), due_ns: 0 }
    }

    /// Looks after the replicas' threads if it is time to; returns when it will be again. They run on these processors, if
    /// any are named. `frames`: how many have come and gone, if that is all that the devices have to do but for being woken by cuts.
    pub fn look_after(
        &mut self,
        now_ns: u64,
        processes: [Option<i32>; 2],
        frames: Option<u64>,
        processors: &[usize],
    ) -> u64 {
        if now_ns >= self.due_ns {
            self.due_ns = now_ns + INTERVAL_NS;
            self.look(now_ns, processes, processors);
        }
        let may_wait = self.policy.conduct.is_of_machines();
        if let Some(wait) = self.quiet.look(now_ns, frames.filter(|_| may_wait)) {
            self.let_main_loops_wait(wait);
        }
        self.quiet.due_ns().map_or(self.due_ns, |due_ns| due_ns.min(self.due_ns))
    }

    fn let_main_loops_wait(&self, wait: bool) {
        for (_, vcpu) in self.vcpus.iter().flatten() {
            vcpu.make_main_loop_batch(wait);
        }
    }

    fn look(&mut self, now_ns: u64, processes: [Option<i32>; 2], processors: &[usize]) {
        let mut allowed = vcpu::allowed_processors();
        allowed.retain(|processor| processors.is_empty() || processors.contains(processor));
        for (index, (known, process)) in self.vcpus.iter_mut().zip(processes).enumerate() {
            if known.map(|(process, _)| process) != process {
                *known = process.and_then(|process| Some((process, Vcpu::of(process)?)));
                self.policy.held[index] = None;
                self.policy.last.vcpus[index] = None;
            }
        }
        let mut idle_ns = vcpu::idle_ns();
        idle_ns.retain(|(processor, _)| allowed.contains(processor));
        let vcpus = self.vcpus.map(|known| known.and_then(|(_, vcpu)| vcpu.times()));
        let Some(held) = self.policy.look(Look { at_ns: now_ns, idle_ns, vcpus }) else { return };
        for (known, held) in self.vcpus.iter().zip(held) {
            let Some((_, vcpu)) = known else { continue };
            let processors = held.as_ref().map_or(&allowed[..], std::slice::from_ref);
            if self.policy.conduct.is_of_machines() {
                vcpu.run_all_on(processors);
            } else {
                vcpu.run_on(processors);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of which each processor was idle, and each thread ran and waited, for so many hundredths of every interval.
    struct Host {
        policy: Policy,
        look: Look,
    }

    impl Host {
        fn new(processors: usize) -> Self {
            Self::with(PlacementName::Hold, processors)
        }

        fn with(conduct: PlacementName, processors: usize) -> Self {
            let idle_ns = (0..processors).map(|processor| (processor, 0)).collect();
            let times = Times { ran_ns: 0, waited_ns: 0, processor: 0 };
            let look = Look { at_ns: 0, idle_ns, vcpus: [Some(times); 2] };
            let mut policy = Policy::new(conduct);
            assert_eq!(policy.look(look.clone()), None);
            Self { policy, look }
        }

        fn passes(&mut self, idle: &[u64], threads: [(u64, u64); 2]) -> [Option<usize>; 2] {
            self.look.at_ns += INTERVAL_NS;
            for (all, idle) in self.look.idle_ns.iter_mut().zip(idle) {
                all.1 += idle * INTERVAL_NS / 100;
            }
            for (all, (ran, waited)) in self.look.vcpus.iter_mut().zip(threads) {
                if let Some(all) = all {
                    all.ran_ns += ran * INTERVAL_NS / 100;
                    all.waited_ns += waited * INTERVAL_NS / 100;
                }
            }
            self.policy.look(self.look.clone());
            self.policy.held
        }
    }

    #[test]
    fn busy_twins_are_held_on_different_processors() {
        let mut host = Host::new(2);
        assert_eq!(host.passes(&[90, 90], [(5, 0), (5, 0)]), [None, None], "idle ones are left alone");
        let [Some(one), Some(other)] = host.passes(&[10, 10], [(60, 5), (50, 5)]) else { panic!("both are busy") };
        assert_ne!(one, other);
        assert_eq!(host.passes(&[0, 0], [(60, 35), (50, 35)]), [Some(one), Some(other)], "nobody has time");
    }

    #[test]
    fn the_idlest_processors_are_chosen() {
        let mut host = Host::new(4);
        assert_eq!(host.passes(&[0, 20, 90, 80], [(50, 40), (40, 10)]), [Some(2), Some(3)]);
    }

    #[test]
    fn a_thread_that_starves_is_let_go_and_held_again_ever_later() {
        let mut host = Host::new(2);
        let busy = [(50, 0), (40, 0)];
        let mut free_for = || {
            while host.passes(&[10, 10], busy) == [None, None] {}
            assert_eq!(host.passes(&[0, 60], [(50, 50), (40, 0)]), [None, None]);
            host.policy.free_until_ns - host.look.at_ns
        };
        assert_eq!(free_for(), FIRST_FREE_NS);
        assert_eq!(free_for(), 2 * FIRST_FREE_NS);
        for _ in 0..6 {
            assert!(free_for() <= LONGEST_FREE_NS);
        }
        let mut lasting = 0;
        while lasting < LASTING_NS + INTERVAL_NS {
            if host.passes(&[10, 10], busy) != [None, None] {
                lasting += INTERVAL_NS;
            }
        }
        assert_eq!(host.passes(&[0, 60], [(50, 50), (40, 0)]), [None, None]);
        assert_eq!(host.policy.free_until_ns - host.look.at_ns, FIRST_FREE_NS);
    }

    #[test]
    fn a_newcomer_is_held_away_from_its_twin() {
        let mut host = Host::new(3);
        let [Some(one), Some(_)] = host.passes(&[10, 10, 10], [(60, 5), (50, 5)]) else { panic!("both are busy") };
        host.look.vcpus[1] = None;
        assert_eq!(host.passes(&[10, 60, 60], [(60, 5), (0, 0)]), [Some(one), None]);
        host.look.vcpus[1] = Some(Times { ran_ns: 0, waited_ns: 0, processor: one });
        assert_eq!(host.passes(&[10, 60, 60], [(60, 5), (0, 0)]), [Some(one), None]);
        let [still, Some(new)] = host.passes(&[10, 60, 60], [(60, 5), (50, 0)]) else { panic!("it is busy") };
        assert_eq!(still, Some(one));
        assert_ne!(new, one);
    }

    #[test]
    fn where_there_is_one_processor_nobody_is_held() {
        let mut host = Host::new(1);
        assert_eq!(host.passes(&[0], [(50, 40), (40, 50)]), [None, None]);
        assert_eq!(Host::new(0).passes(&[], [(50, 40), (40, 50)]), [None, None]);
    }

    #[test]
    fn twins_in_each_others_way_are_kept_apart_while_there_is_room() {
        let mut host = Host::with(PlacementName::Auto, 2);
        let stacked = [(30, 17), (30, 16)];
        assert_eq!(host.passes(&[2, 3], stacked), [None, None], "all processors are busy");
        assert_eq!(host.passes(&[60, 70], [(30, 2), (30, 16)]), [None, None], "one of them is never in the way");
        let [Some(one), Some(other)] = host.passes(&[20, 35], stacked) else { panic!("they are in each other's way") };
        assert_ne!(one, other);
        assert_eq!(host.passes(&[100, 100], [(0, 0), (0, 0)]), [Some(one), Some(other)], "nothing is gained by it");
        assert_eq!(host.passes(&[3, 4], [(90, 5), (90, 5)]), [None, None], "the system does better");
        assert!(host.passes(&[20, 35], stacked)[0].is_some(), "there is room again");
        assert!(host.passes(&[20, 60], [(40, 35), (40, 20)])[0].is_some(), "each waits for its own other threads");
        assert_eq!(host.passes(&[5, 60], [(30, 60), (40, 0)]), [None, None], "one starves");
        assert_eq!(host.passes(&[20, 35], stacked), [None, None], "it has not been long");
    }

    #[test]
    fn machines_are_kept_together_while_busy_also_where_all_is_full() {
        let mut host = Host::with(PlacementName::Together, 2);
        assert_eq!(host.passes(&[90, 90], [(5, 0), (5, 0)]), [None, None], "idle ones are left alone");
        let [Some(one), Some(other)] = host.passes(&[5, 5], [(90, 2), (90, 2)]) else { panic!("both are busy") };
        assert_ne!(one, other);
        assert_eq!(
            host.passes(&[0, 0], [(90, 9), (90, 9)]),
            [Some(one), Some(other)],
            "there is no room, nor need of it"
        );
        let mut alone = Host::with(PlacementName::Together, 2);
        alone.look.vcpus[1] = None;
        let [Some(_), None] = alone.passes(&[5, 95], [(90, 2), (0, 0)]) else { panic!("it is busy") };
        assert_eq!(alone.passes(&[0, 95], [(50, 45), (0, 0)]), [None, None], "somebody else is there");
    }

    #[test]
    fn quiet_begins_after_a_while_without_frames_and_ends_with_the_next_one() {
        let mut quiet = Quiet::default();
        assert_eq!((quiet.look(10, Some(5)), quiet.due_ns()), (None, Some(10 + QUIET_NS)));
        assert_eq!((quiet.look(20, Some(7)), quiet.due_ns()), (None, Some(20 + QUIET_NS)), "some came");
        assert_eq!(quiet.look(19 + QUIET_NS, Some(7)), None);
        let begins_ns = 20 + QUIET_NS;
        assert_eq!((quiet.look(begins_ns, Some(7)), quiet.due_ns()), (Some(true), None));
        assert_eq!(quiet.look(begins_ns + 1, Some(7)), None, "it begins once");
        assert_eq!(quiet.look(begins_ns + 2, Some(8)), Some(false), "it ends at once");
        assert_eq!((quiet.look(begins_ns + 3, None), quiet.due_ns()), (None, None));
        assert_eq!(quiet.look(begins_ns + 4 * QUIET_NS, None), None, "there is something else to do");
        assert_eq!(quiet.look(begins_ns + 5 * QUIET_NS, Some(8)), None);
        assert_eq!(quiet.look(begins_ns + 6 * QUIET_NS, Some(8)), Some(true));
        assert_eq!(quiet.look(begins_ns + 7 * QUIET_NS, None), Some(false));
    }

    #[test]
    fn a_survivor_is_let_go_until_its_new_twin_is_in_its_way() {
        let mut host = Host::with(PlacementName::Auto, 2);
        let stacked = [(30, 17), (30, 16)];
        assert!(host.passes(&[20, 35], stacked).iter().all(Option::is_some));
        host.look.vcpus[1] = None;
        assert_eq!(host.passes(&[80, 80], [(30, 1), (0, 0)]), [None, None]);
        host.look.vcpus[1] = Some(Times { ran_ns: 0, waited_ns: 0, processor: 0 });
        assert_eq!(host.passes(&[20, 35], stacked), [None, None], "nothing is known of it");
        assert!(host.passes(&[20, 35], stacked).iter().all(Option::is_some));
    }
}
