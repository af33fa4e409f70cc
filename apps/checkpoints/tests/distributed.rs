//! Algorithms 4 and 5 in a simulator: any order of what can happen, crashes at any moment; tokens are neither lost nor made.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;

use checkpoints::{cut, log, node};
use recordstore::model::Mixer;

/// Tokens that each process begins with.
const TOKENS: u64 = 100;

/// Runs of each simulation: `POLLUX_SCHEDULES`, or so many.
fn schedules() -> u64 {
    std::env::var("POLLUX_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(3000)
}

/// Runs all seeds; gives what `run` counted.
fn explore(run: impl Fn(u64) -> Result<u64, String>) -> Result<u64, String> {
    (0..schedules())
        .try_fold(0, |sum, seed| run(seed).map(|n| sum + n).map_err(|error| format!("seed {seed}: {error}")))
}

/// Whether a mistake is found; a process that gives what it has not may also panic for it.
fn finds(run: impl Fn(u64) -> Result<u64, String>) -> bool {
    let caught = |seed| std::panic::catch_unwind(AssertUnwindSafe(|| run(seed)));
    explore(|seed| caught(seed).unwrap_or_else(|_| Err("a panic".to_owned())))
        .inspect_err(|error| println!("found by {error}"))
        .is_err()
}

mod coordinated {
    use super::{BTreeMap, Mixer, TOKENS, VecDeque, cut};
    use cut::{Cut, Message, Process};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Canary {
        None,
        /// What was in flight is not saved.
        ForgetInFlight,
        /// A channel lets a message overtake the one before.
        Reorder,
        /// Cuts that were gone back behind stay in storage.
        KeepStale,
    }

    struct World {
        mixer: Mixer,
        canary: Canary,
        processes: Vec<Process>,
        /// Cuts on their way to storage, lost in a crash.
        saving: Vec<Option<Cut>>,
        stable: Vec<BTreeMap<u64, Cut>>,
        /// By sender and receiver.
        channels: Vec<Vec<VecDeque<Message>>>,
        /// Who has yet to go back to the line.
        behind: Vec<bool>,
        line: u64,
        lines: u64,
        crashes: u64,
    }

    impl World {
        fn new(seed: u64, canary: Canary) -> Self {
            let mut mixer = Mixer(seed);
            let count = 2 + mixer.below(3) as usize;
            let first = Cut { number: 0, tokens: TOKENS, in_flight: Vec::new() };
            Self {
                mixer,
                canary,
                processes: vec![Process::recover(count, &first); count],
                saving: vec![None; count],
                stable: vec![BTreeMap::from([(0, first)]); count],
                channels: vec![vec![VecDeque::new(); count]; count],
                behind: vec![false; count],
                line: 0,
                lines: 0,
                crashes: 0,
            }
        }

        fn pick(&mut self) -> usize {
            self.mixer.below(self.processes.len() as u64) as usize
        }

        fn send_all(&mut self, from: usize, message: Message) {
            for to in (0..self.processes.len()).filter(|&to| to != from) {
                self.channels[from][to].push_back(message);
            }
        }

        fn total(&self, values: impl Iterator<Item = u64>, what: &str) -> Result<(), String> {
            let (sum, expected) = (values.sum::<u64>(), TOKENS * self.processes.len() as u64);
            if sum == expected { Ok(()) } else { Err(format!("{what}: {sum} tokens of {expected}")) }
        }

        /// A process begins or goes on; its own channel to itself counts as closed from the start.
        fn recovered(&self, cut: &Cut) -> Process {
            Process::recover(self.processes.len(), cut)
        }

        /// Somebody fails: everything volatile of his is lost, all channels break, and all have to go back to the newest cut
        /// that all have saved.
        fn crash(&mut self) -> Result<(), String> {
            self.crashes += 1;
            self.saving.fill(None);
            self.channels.iter_mut().flatten().for_each(VecDeque::clear);
            let newest = |stable: &BTreeMap<u64, Cut>| stable.last_key_value().map_or(0, |(&number, _)| number);
            self.line = self.stable.iter().map(newest).min().unwrap_or(0);
            let cuts: Option<Vec<_>> = self.stable.iter().map(|stable| stable.get(&self.line)).collect();
            let cuts = cuts.ok_or_else(|| format!("cut {} is not kept by all", self.line))?;
            let tokens = cuts.iter().map(|cut| cut.tokens + cut.in_flight.iter().sum::<u64>());
            self.total(tokens, "recovery line")?;
            self.behind.fill(true);
            Ok(())
        }

        fn go_back(&mut self, process: usize) {
            if self.canary != Canary::KeepStale {
                self.stable[process].retain(|&number, _| number <= self.line);
            }
            self.processes[process] = self.recovered(&self.stable[process][&self.line]);
            self.behind[process] = false;
        }

        fn deliver(&mut self, from: usize, to: usize) {
            let channel = &mut self.channels[from][to];
            if self.canary == Canary::Reorder && channel.len() > 1 {
                channel.swap(0, 1);
            }
            let Some(message) = channel.pop_front() else { return };
            let (reply, complete) = self.processes[to].receive(from, message);
            if let Some(reply) = reply {
                self.send_all(to, reply);
                self.own_marker(to, reply);
            }
            if complete.is_some() {
                self.saving[to] = complete;
            }
        }

        /// A process is no peer of its own: what it would wait for from itself is there at once.
        fn own_marker(&mut self, process: usize, marker: Message) {
            let (_, complete) = self.processes[process].receive(process, marker);
            if complete.is_some() {
                self.saving[process] = complete;
            }
        }

        fn save(&mut self, process: usize) {
            let Some(mut cut) = self.saving[process].take() else { return };
            if self.canary == Canary::ForgetInFlight {
                cut.in_flight.clear();
            }
            let number = cut.number;
            self.stable[process].insert(number, cut);
            self.stable[process].retain(|&kept, _| kept + 1 >= number);
            let saved = self.processes[process].saved(number);
            self.processes[process].receive(process, saved);
            self.send_all(process, saved);
        }

        fn step(&mut self, crashes: bool) -> Result<(), String> {
            let (one, two) = (self.pick(), self.pick());
            if self.behind[one] {
                self.go_back(one);
            } else {
                match self.mixer.below(if crashes { 60 } else { 59 }) {
                    0..20 if one != two => {
                        let tokens = self.mixer.below(10);
                        if let Some(message) = self.processes[one].spend(tokens) {
                            self.channels[one][two].push_back(message);
                        }
                    }
                    20..50 if !self.behind[two] => self.deliver(one, two),
                    50..53 => {
                        if let Some(marker) = self.processes[0].begin().filter(|_| !self.behind[0]) {
                            self.send_all(0, marker);
                            self.own_marker(0, marker);
                        }
                    }
                    53..59 => self.save(one),
                    59 if self.mixer.below(6) == 0 => self.crash()?,
                    _ => {}
                }
            }
            let numbers = self.stable.iter().map(|stable| stable.last_key_value().map_or(0, |(&number, _)| number));
            self.lines = self.lines.max(numbers.min().unwrap_or(0));
            Ok(())
        }
    }

    /// Returns how many cuts were saved by all.
    pub(super) fn run(seed: u64, canary: Canary) -> Result<u64, String> {
        let mut world = World::new(seed, canary);
        let steps = 200 + world.mixer.below(1500);
        for _ in 0..steps {
            world.step(true)?;
        }
        // And then nothing fails any more: what is on its way arrives.
        while world.behind.contains(&true) {
            world.step(false)?;
        }
        while let Some((from, to)) = (0..world.processes.len())
            .flat_map(|from| (0..world.processes.len()).map(move |to| (from, to)))
            .find(|&(from, to)| !world.channels[from][to].is_empty())
        {
            world.deliver(from, to);
            (0..world.processes.len()).for_each(|process| world.save(process));
        }
        world.total(world.processes.iter().map(|process| process.tokens), "in the end")?;
        world.crash()?;
        Ok(world.lines)
    }
}

#[test]
fn coordinated_cuts_conserve_tokens_whenever_processes_crash() {
    let lines = explore(|seed| coordinated::run(seed, coordinated::Canary::None)).expect("tokens are conserved");
    assert!(lines > 3 * schedules(), "only {lines} cuts in {} runs", schedules());
}

#[test]
fn mistakes_in_coordinated_cuts_are_found() {
    use coordinated::Canary::{ForgetInFlight, KeepStale, Reorder};
    for canary in [ForgetInFlight, Reorder, KeepStale] {
        assert!(finds(|seed| coordinated::run(seed, canary)), "{canary:?} was not noticed");
    }
}

mod logging {
    use super::{Mixer, TOKENS, VecDeque, log, node};
    use log::{Event, Message, Process};
    use node::Node;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Canary {
        None,
        /// On a new channel nothing is sent again.
        SendOnce,
        /// Messages leave before the events that they follow from are logged.
        SendFirst,
        /// After a checkpoint the whole log is replayed again.
        ReplayAll,
    }

    struct Storage {
        checkpoint: Process,
        log: Vec<(u64, Event)>,
    }

    struct World {
        mixer: Mixer,
        canary: Canary,
        nodes: Vec<Node>,
        stable: Vec<Storage>,
        /// By sender and receiver: which channel, and what is on it.
        channels: Vec<Vec<(u64, VecDeque<Message>)>>,
        crashes: u64,
    }

    impl World {
        fn new(seed: u64, canary: Canary) -> Self {
            let mut mixer = Mixer(seed);
            let count = 2 + mixer.below(3) as usize;
            let first = Process::new(TOKENS, count);
            let storage = || Storage { checkpoint: first.clone(), log: Vec::new() };
            let mut world = Self {
                mixer,
                canary,
                nodes: vec![Node::new(first.clone()); count],
                stable: (0..count).map(|_| storage()).collect(),
                channels: vec![vec![(0, VecDeque::new()); count]; count],
                crashes: 0,
            };
            for one in 0..count {
                (0..one).for_each(|two| world.connect(one, two));
            }
            world
        }

        fn pick(&mut self) -> usize {
            self.mixer.below(self.nodes.len() as u64) as usize
        }

        fn connect(&mut self, one: usize, two: usize) {
            for (from, to) in [(one, two), (two, one)] {
                let channel = self.nodes[from].connected(to);
                self.channels[from][to] = (channel, VecDeque::new());
            }
        }

        fn flush(&mut self, process: usize) {
            let (records, outputs) = self.nodes[process].take();
            if self.canary == Canary::SendFirst && self.mixer.below(4) == 0 {
                // A crash between the two: the events are not logged.
                self.send(process, outputs);
                return self.crash(process);
            }
            self.stable[process].log.extend(records);
            self.send(process, outputs);
        }

        fn send(&mut self, from: usize, outputs: Vec<node::Output>) {
            for (to, channel, message) in outputs {
                let (newest, queue) = &mut self.channels[from][to];
                if *newest == channel {
                    queue.push_back(message);
                }
            }
        }

        fn checkpoint(&mut self, process: usize) {
            self.stable[process].checkpoint = self.nodes[process].process().clone();
            // The log is shortened later, or not before a crash.
            if self.mixer.below(2) == 0 {
                let events = self.stable[process].checkpoint.events;
                self.stable[process].log.retain(|&(number, _)| number >= events);
            }
        }

        fn crash(&mut self, process: usize) {
            self.crashes += 1;
            let Storage { checkpoint, log } = &self.stable[process];
            let replayed = match self.canary {
                Canary::ReplayAll => {
                    let mut process = checkpoint.clone();
                    for &(_, event) in log {
                        process.apply(event);
                    }
                    process
                }
                _ => Process::recover(checkpoint.clone(), log.iter().copied()),
            };
            self.nodes[process] = Node::new(replayed);
            for other in (0..self.nodes.len()).filter(|&other| other != process) {
                self.connect(process, other);
            }
        }

        fn deliver(&mut self, from: usize, to: usize) -> bool {
            let Some(message) = self.channels[from][to].1.pop_front() else { return false };
            let again = matches!(message, Message::Logged(_));
            if again && self.canary == Canary::SendOnce {
                self.flush(to);
            }
            self.nodes[to].receive(from, message);
            if again && self.canary == Canary::SendOnce {
                self.nodes[to].take();
            }
            true
        }

        fn step(&mut self) -> Result<(), String> {
            let (one, two) = (self.pick(), self.pick());
            let before: Vec<u64> = self.nodes.iter().map(|node| node.process().events).collect();
            let crashes = self.crashes;
            match self.mixer.below(100) {
                0..30 if one != two => {
                    let tokens = self.mixer.below(10);
                    self.nodes[one].spend(two, tokens);
                }
                30..65 => drop(self.deliver(one, two)),
                65..90 => self.flush(one),
                90..95 => self.checkpoint(one),
                95..97 => self.crash(one),
                // A channel alone breaks.
                97 if one != two => self.connect(one, two),
                _ => {}
            }
            let back: Vec<_> = (0..before.len()).filter(|&p| self.nodes[p].process().events < before[p]).collect();
            let allowed = (self.crashes - crashes) as usize;
            if back.len() > allowed { Err(format!("{back:?} went back for {allowed} crashes")) } else { Ok(()) }
        }
    }

    /// Returns how many crashes there were.
    pub(super) fn run(seed: u64, canary: Canary) -> Result<u64, String> {
        let mut world = World::new(seed, canary);
        let steps = 200 + world.mixer.below(1500);
        for _ in 0..steps {
            world.step()?;
        }
        let crashes = world.crashes;
        let count = world.nodes.len();
        let expected = TOKENS * count as u64;
        for quiet in 0.. {
            (0..count).for_each(|process| world.flush(process));
            let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
            let delivered = pairs.filter(|&(from, to)| world.deliver(from, to)).count();
            if delivered == 0 && quiet > 3 {
                break;
            }
            if quiet > 10_000 {
                return Err("there is always something on its way".to_owned());
            }
        }
        let sum: u64 = world.nodes.iter().map(|node| node.process().tokens).sum();
        if sum != expected {
            return Err(format!("{sum} tokens of {expected} in the end"));
        }
        Ok(crashes)
    }
}

#[test]
fn message_logging_conserves_tokens_and_only_who_crashes_goes_back() {
    let crashes = explore(|seed| logging::run(seed, logging::Canary::None)).expect("tokens are conserved");
    assert!(crashes > 5 * schedules(), "only {crashes} crashes in {} runs", schedules());
}

#[test]
fn mistakes_in_message_logging_are_found() {
    use logging::Canary::{ReplayAll, SendFirst, SendOnce};
    for canary in [SendFirst, ReplayAll, SendOnce] {
        assert!(finds(|seed| logging::run(seed, canary)), "{canary:?} was not noticed");
    }
}

#[test]
fn what_comes_twice_or_after_a_gap_is_no_event() {
    let mut process = log::Process::new(TOKENS, 2);
    let event = process.event_of(1, 0, 5).expect("the first");
    assert_eq!(process.event_of(1, 1, 5), None);
    process.apply(event);
    assert_eq!(process.event_of(1, 0, 5), None);
    assert!(process.event_of(1, 1, 5).is_some() && process.event_of(0, 0, 1).is_some());
}
