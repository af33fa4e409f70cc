//! Whether the host's cores are ours alone.
//!
//! A core may have two hardware threads, and on a rented machine the other one may be somebody else's. Who shares a core so
//! gets about half of it, for moments or minutes, and no clock and no count of the system shows it: no time is stolen,
//! there is just less done in it. How much a core can do at once shows: many additions that do not wait for each other take
//! about twice as long on a shared core, while ones that do wait for each other take the same time on any.
//!
//! So where something is measured in short slices, the cores are looked at before and after each, with such additions; and
//! slices during which one of them was shared can be told from those that say something about us.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::median;
use crate::error::Result;
use crate::vcpu;

/// Rounds of additions in a look: some 0.3 ms.
const ADDITIONS: u64 = 400_000;
/// A core that takes longer than the best look did, by this factor, is shared.
const SHARED: f64 = 1.2;
/// On hosts with more processors than this nobody knows which of them a machine will run on: none is looked at.
const MOST_PROCESSORS: usize = 4;
/// How often cores are looked at while they are shared, and how long.
const WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How often, and how long, a system is measured in slices.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Slices that were not disturbed, after which it is enough.
    pub enough: usize,
    /// Slices after which it ends in any case.
    pub most: usize,
    /// The time after which it ends in any case.
    pub longest: Duration,
}

/// One slice of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Slice<T = f64> {
    /// What was measured, in its own unit.
    pub value: T,
    /// What the slowest core needed for a look, before or after it, in nanoseconds; 0 when they were not looked at.
    pub look_ns: u64,
}

/// The cores that this process may use.
#[derive(Debug)]
pub struct Cores {
    processors: Vec<usize>,
    best_ns: u64,
}

impl Cores {
    /// Gets to know them.
    pub fn new() -> Self {
        let mut processors = vcpu::allowed_processors();
        if processors.len() > MOST_PROCESSORS || !cfg!(target_arch = "x86_64") {
            processors.clear();
        }
        let mut cores = Self { processors, best_ns: u64::MAX };
        // The first look has everything to fetch.
        for _ in 0..10 {
            cores.look();
        }
        cores
    }

    /// Looks at all at once: what the slowest needs, in nanoseconds of its own time; 0 when none is looked at.
    fn look(&mut self) -> u64 {
        let looks: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = self.processors.iter().map(|&at| scope.spawn(move || look_at(at))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        self.best_ns = looks.iter().copied().fold(self.best_ns, u64::min);
        looks.into_iter().max().unwrap_or(0)
    }

    /// Waits until no core is shared, but not for ever. Returns the last look.
    fn wait(&mut self) -> u64 {
        let until = Instant::now() + LONGEST_WAIT;
        loop {
            let look_ns = self.look();
            if is_ours(look_ns, self.best_ns) || Instant::now() > until {
                return look_ns;
            }
            std::thread::sleep(WAIT);
        }
    }

    /// Measures in slices, each of which begins when no core is shared if that can be.
    ///
    /// # Errors
    /// The first of `slice`.
    pub fn slices<T>(&mut self, effort: Effort, mut slice: impl FnMut() -> Result<T>) -> Result<Vec<Slice<T>>> {
        let until = Instant::now() + effort.longest;
        let (mut slices, mut ours) = (Vec::new(), 0);
        while ours < effort.enough && slices.len() < effort.most && Instant::now() < until {
            let before_ns = self.wait();
            let value = slice()?;
            let look_ns = self.look().max(before_ns);
            ours += usize::from(is_ours(look_ns, self.best_ns));
            slices.push(Slice { value, look_ns });
        }
        Ok(slices)
    }

    /// The slices of a measurement that count: those on cores of our own, as far as is known by now, or all if there are none.
    pub fn those_that_count<'a, T>(&self, slices: &'a [Slice<T>]) -> Vec<&'a T> {
        let ours = ours(slices, self.best_ns);
        if ours.is_empty() { slices.iter().map(|slice| &slice.value).collect() } else { ours }
    }
}

impl Default for Cores {
    fn default() -> Self {
        Self::new()
    }
}

fn is_ours(look_ns: u64, best_ns: u64) -> bool {
    look_ns as f64 <= best_ns as f64 * SHARED
}

/// The best look of many slices, with which each is compared.
pub fn best<'a, T: 'a>(slices: impl Iterator<Item = &'a Slice<T>>) -> u64 {
    slices.map(|slice| slice.look_ns).min().unwrap_or(0)
}

/// What was measured in those slices at whose beginning and end no core was shared.
fn ours<T>(slices: &[Slice<T>], best_ns: u64) -> Vec<&T> {
    slices.iter().filter(|slice| is_ours(slice.look_ns, best_ns)).map(|slice| &slice.value).collect()
}

/// The middle of a measure of those slices, and how many they are. `None` when there is none.
pub fn undisturbed<T>(slices: &[Slice<T>], best_ns: u64, measure: impl Fn(&T) -> f64) -> Option<(f64, usize)> {
    let values: Vec<f64> = ours(slices, best_ns).into_iter().map(measure).collect();
    (!values.is_empty()).then(|| (median(&values), values.len()))
}

/// What additions that do not wait for each other take on a processor, in nanoseconds of this thread's time, which others that run
/// there now and then do not add to.
fn look_at(processor: usize) -> u64 {
    // Where that is refused, the processor that it runs on is looked at.
    vcpu::run_here_on(&[processor]);
    let now_ns = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    };
    let before_ns = now_ns();
    add(ADDITIONS);
    now_ns() - before_ns
}

/// Adds to ten registers in each round.
#[cfg(target_arch = "x86_64")]
fn add(rounds: u64) {
    // SAFETY: reads and writes registers only, all of which it names; the loop ends when the count, which is not 0, is.
    unsafe {
        core::arch::asm!(
            "2:",
            "add {a}, 1", "add {b}, 1", "add {c}, 1", "add {d}, 1", "add {e}, 1",
            "add {f}, 1", "add {g}, 1", "add {h}, 1", "add {i}, 1", "add {j}, 1",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _, e = out(reg) _,
            f = out(reg) _, g = out(reg) _, h = out(reg) _, i = out(reg) _, j = out(reg) _,
            options(nomem, nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn add(_rounds: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_on_shared_cores_are_left_out() {
        let slices = [(3.0, 100), (9.0, 190), (5.0, 110), (1.0, 121)].map(|(value, look_ns)| Slice { value, look_ns });
        assert_eq!(best(slices.iter()), 100);
        let undisturbed = |slices: &[Slice], best_ns| undisturbed(slices, best_ns, |value| *value);
        assert_eq!(undisturbed(&slices, 100), Some((4.0, 2)));
        // A better look later shows that all of these were disturbed.
        assert_eq!(undisturbed(&slices, 50), None);
        // Nobody has looked: all count.
        let blind = [2.0, 4.0].map(|value| Slice { value, look_ns: 0 });
        assert_eq!(undisturbed(&blind, best(blind.iter())), Some((3.0, 2)));
    }

    #[test]
    fn it_ends_when_there_is_enough_and_in_any_case() {
        let mut cores = Cores::new();
        let mut count = 0.0;
        let mut slice = || {
            count += 1.0;
            Ok(count)
        };
        let effort = Effort { enough: 2, most: 3, longest: Duration::from_secs(60) };
        let slices = cores.slices(effort, &mut slice).expect("no error");
        assert!((2..=3).contains(&slices.len()) && slices[0].value == 1.0, "{slices:?}");
        assert!(slices.iter().all(|slice| (slice.look_ns > 0) != cores.processors.is_empty()));
        let shared = [Slice { value: 1, look_ns: u64::MAX }, Slice { value: 2, look_ns: u64::MAX }];
        assert_eq!(cores.those_that_count(&shared), [&1, &2], "there is nothing better");
        assert_eq!(cores.those_that_count(&[shared[0], Slice { value: 3, look_ns: 0 }]), [&3]);
        assert!(cores.slices(Effort { longest: Duration::ZERO, ..effort }, slice).expect("no error").is_empty());
        let fails = || Err::<f64, _>(crate::error::Error::CheckFailed("no".to_owned()));
        assert!(cores.slices(effort, fails).is_err());
    }
}
