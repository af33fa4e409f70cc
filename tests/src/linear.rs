//! A second opinion on disks: whether what clients saw of a block is what a single block, which does one thing at a time, would
//! have shown them (linearizability; Herlihy and Wing, TOPLAS 12(3), 1990).
//!
//! Every write has a value of its own, which makes that easy to judge (Gibbons and Korach, SIAM Journal on Computing 26(4),
//! 1997, section 4): a value's *zone* lies between the first end and the last begin of the operations that wrote or read it.
//! If it ends before it begins, the block held the value all that time, and no other value may claim a part of it; if not,
//! it held the value at some moment of the zone, which must not lie within the time of another.

use std::collections::BTreeMap;

/// What a client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It wrote this; no other write did, and it is not 0.
    Write(u64),
    /// It read this; 0: nobody had written.
    Read(u64),
}

/// One operation on one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it was.
    pub action: Action,
    /// When it was asked for.
    pub begin_ns: u64,
    /// When the answer came, if it did.
    pub end_ns: Option<u64>,
}

/// All that wrote or read one value.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    first_end_ns: u64,
    last_begin_ns: u64,
    write_begin_ns: Option<u64>,
}

impl Cluster {
    const NONE: Self = Self { first_end_ns: u64::MAX, last_begin_ns: 0, write_begin_ns: None };

    fn add(&mut self, operation: &Operation) {
        self.first_end_ns = self.first_end_ns.min(operation.end_ns.unwrap_or(u64::MAX));
        self.last_begin_ns = self.last_begin_ns.max(operation.begin_ns);
        if let Action::Write(_) = operation.action {
            self.write_begin_ns = Some(operation.begin_ns);
        }
    }

    /// The block held the value from the first of these times to the second.
    fn is_forward(&self) -> bool {
        self.first_end_ns < self.last_begin_ns
    }
}

/// Judges the operations on one block, given in any order. It held 0 before all of them.
///
/// # Errors
/// A text that names the values that cannot both have been there.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    // The first value was written before anything began.
    let initial = Cluster { first_end_ns: 0, last_begin_ns: 0, write_begin_ns: Some(0) };
    let mut clusters = BTreeMap::from([(0, initial)]);
    let read: Vec<u64> = operations
        .iter()
        .filter_map(|operation| match operation.action {
            Action::Read(value) if operation.end_ns.is_some() => Some(value),
            _ => None,
        })
        .collect();
    for operation in operations {
        let value = match (operation.action, operation.end_ns) {
            (Action::Read(_), None) => continue,
            // One that nobody was told of and nobody has seen may never have happened.
            (Action::Write(value), None) if !read.contains(&value) => continue,
            (Action::Read(value) | Action::Write(value), _) => value,
        };
        clusters.entry(value).or_insert(Cluster::NONE).add(operation);
    }
    for (value, cluster) in &clusters {
        match cluster.write_begin_ns {
            None => return Err(format!("{value} was read, and nobody had written it")),
            Some(begin_ns) if cluster.first_end_ns < begin_ns => {
                return Err(format!("{value} was read before it was written"));
            }
            Some(_) => {}
        }
    }
    check_zones(&clusters)
}

fn check_zones(clusters: &BTreeMap<u64, Cluster>) -> Result<(), String> {
    let mut forward: Vec<_> = clusters.iter().filter(|(_, cluster)| cluster.is_forward()).collect();
    forward.sort_by_key(|(_, cluster)| cluster.first_end_ns);
    for pair in forward.windows(2) {
        let [(earlier, one), (later, other)] = [pair[0], pair[1]];
        if other.first_end_ns < one.last_begin_ns {
            return Err(format!("{earlier} was there until {} ns, and {later} before that", one.last_begin_ns));
        }
    }
    for (value, cluster) in clusters.iter().filter(|(_, cluster)| !cluster.is_forward()) {
        let covers =
            |zone: &Cluster| zone.first_end_ns < cluster.last_begin_ns && cluster.first_end_ns < zone.last_begin_ns;
        if let Some((other, _)) = forward.iter().find(|(_, zone)| covers(zone)) {
            return Err(format!("{value} came and went while {other} was there"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Rng;

    /// Tries every order: the definition.
    fn by_definition(left: &[Operation], value: u64) -> bool {
        if left.iter().all(|operation| operation.end_ns.is_none()) {
            return true;
        }
        left.iter().enumerate().any(|(index, operation)| {
            let must_follow = left.iter().any(|other| other.end_ns.is_some_and(|end_ns| end_ns < operation.begin_ns));
            let mut rest = left.to_vec();
            rest.remove(index);
            match operation.action {
                _ if must_follow => false,
                Action::Write(written) => by_definition(&rest, written),
                // Nobody was told what one without an end has read.
                Action::Read(found) => (operation.end_ns.is_none() || found == value) && by_definition(&rest, value),
            }
        })
    }

    #[test]
    fn it_says_what_the_definition_says() {
        let (mut good, mut bad) = (0, 0);
        for seed in 0..20_000 {
            let mut rng = Rng::new(seed);
            let count = rng.between(1, 6);
            let mut times: Vec<u64> = (1..=2 * count).collect();
            for index in (1..times.len()).rev() {
                times.swap(index, rng.below(index as u64 + 1) as usize);
            }
            let operations: Vec<_> = (0..count as usize)
                .map(|index| {
                    let (one, other) = (times[2 * index], times[2 * index + 1]);
                    let is_write = rng.chance(50);
                    let value = rng.below(count + 1);
                    Operation {
                        action: if is_write { Action::Write(index as u64 + 1) } else { Action::Read(value) },
                        begin_ns: one.min(other),
                        end_ns: (!rng.chance(10)).then_some(one.max(other)),
                    }
                })
                .collect();
            let expected = by_definition(&operations, 0);
            assert_eq!(check(&operations).is_ok(), expected, "seed {seed}: {operations:?}: {:?}", check(&operations));
            *if expected { &mut good } else { &mut bad } += 1;
        }
        assert!(good > 2_000 && bad > 2_000, "{good} good, {bad} bad");
    }

    #[test]
    fn a_write_that_was_forgotten_is_found() {
        let done = |action, begin_ns, end_ns| Operation { action, begin_ns, end_ns: Some(end_ns) };
        let mut history = vec![
            done(Action::Write(1), 1, 2),
            done(Action::Write(2), 3, 4),
            done(Action::Read(2), 5, 6),
            done(Action::Read(1), 7, 8),
        ];
        assert!(check(&history).is_err());
        history[3].action = Action::Read(2);
        assert_eq!(check(&history), Ok(()));
    }
}
