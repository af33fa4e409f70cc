//! One measurement: a pair that is started, warmed up, asked, counted and taken down.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::plan::{Configuration, Group, System};
use super::workload::{Client, DISK_BYTES, Workload};
use crate::bench::cores::{Cores, Effort, Slice};
use crate::bench::scratch::ScratchDisk;
use crate::build::Image;
use crate::ctl::{PairStatus, ReplicaStatus, RoleName};
use crate::disk::Kind;
use crate::error::{Error, Result};
use crate::qemu::Accelerator;
use crate::running::Running;
use crate::supervise::spec::{EpochSpec, Spec};

/// The part of a workload that is done before anything is counted, so that the translator has seen the code.
const WARM_UP_SHARE: u64 = 4;
/// The part of a workload that is done in a slice, where there are slices,
const SLICE_SHARE: u64 = 10;
/// and how many of them, for how long, in a measurement and in a quick look.
const EFFORT: Effort = Effort { enough: 5, most: 16, longest: Duration::from_secs(10) };
const QUICK_EFFORT: Effort = Effort { enough: 1, most: 3, longest: Duration::from_secs(1) };
/// How often a status is looked at that should change.
const STATUS_INTERVAL: Duration = Duration::from_millis(5);
/// Statuses come ten times a second of the machine's clock.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// The images of a program.
#[derive(Debug, Clone)]
pub struct ImagesOf {
    /// As it is.
    pub plain: Image,
    /// Made to count its ticks, where there is such an image.
    pub counting: Option<Image>,
}

/// The images that are measured. Those of workloads that are not can be left out.
#[derive(Debug, Clone)]
pub struct Images {
    /// Of the benchmark that computes.
    pub dhrystone: ImagesOf,
    /// Of the store.
    pub store: Option<ImagesOf>,
    /// Of the program that reads and writes a disk.
    pub disk: Option<ImagesOf>,
}

impl Images {
    fn of<'a>(&'a self, workload: Workload, epoch: EpochSpec) -> Result<&'a Image> {
        let images = match workload {
            Workload::Dhrystone { .. } => Some(&self.dhrystone),
            Workload::Store => self.store.as_ref(),
            Workload::DiskRead | Workload::DiskWrite | Workload::SharedRead | Workload::SharedWrite => {
                self.disk.as_ref()
            }
        };
        let counts = if epoch.needs_ticks() { " that counts its ticks" } else { "" };
        let image = |images: &'a ImagesOf| {
            if epoch.needs_ticks() { images.counting.as_ref() } else { Some(&images.plain) }
        };
        images.and_then(image).ok_or_else(|| Error::Usage(format!("there is no image of {workload}{counts}")))
    }

    /// How a configuration is started. Always translated: only then can all of them be compared.
    ///
    /// # Errors
    /// As [`Spec::new`].
    pub fn spec(&self, configuration: Configuration) -> Result<Spec> {
        let Configuration { workload, epoch, system } = configuration;
        let name = format!("bench-{}", std::process::id());
        let image = self.of(workload, epoch)?;
        Ok(Spec {
            run: system.run_name(),
            protocol: system.protocol(),
            epoch,
            memory_mib: workload.memory_mib(),
            accelerator: Accelerator::Tcg,
            arguments: workload.arguments(),
            ..Spec::new(name, image.clone())?.staying_alone().patient().publishing(workload.port())
        })
    }
}

/// What the shims have counted between two statuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Epochs that the active replica has ended.
    pub epochs: u64,
    /// Messages on the link, both directions.
    pub link_messages: u64,
    /// Bytes on the link, both directions.
    pub link_bytes: u64,
    /// Times the primary had to wait for its backup.
    pub gate_waits: u64,
    /// Time it waited so, in nanoseconds of its machine's clock, which follows the host's.
    pub gate_wait_ns: u64,
    /// The same of the time that it waited for the acknowledgement of its last epoch, and for more to come meanwhile.
    #[serde(default)]
    pub company_wait_ns: u64,
    /// Epochs whose outputs have left.
    #[serde(default)]
    pub output_waits: u64,
    /// Time from the ends of these epochs until their outputs left, in nanoseconds of the same clock.
    #[serde(default)]
    pub output_wait_ns: u64,
}

impl Counts {
    fn read(status: &PairStatus) -> Self {
        let counter = |role, name| {
            let counters = status.replica(role).map(|replica: &ReplicaStatus| &replica.counters);
            counters.and_then(|counters| counters.get(name)).copied().unwrap_or(0)
        };
        let primary = |name| counter(RoleName::Primary, name);
        let backup = |name| counter(RoleName::Backup, name);
        Self {
            epochs: primary("epochs"),
            link_messages: primary("link_messages_sent") + backup("link_messages_sent"),
            link_bytes: primary("link_bytes_sent") + backup("link_bytes_sent"),
            gate_waits: primary("gate_waits"),
            gate_wait_ns: primary("gate_wait_ns"),
            company_wait_ns: primary("company_wait_ns"),
            output_waits: primary("output_waits"),
            output_wait_ns: primary("output_wait_ns"),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            epochs: self.epochs - before.epochs,
            link_messages: self.link_messages - before.link_messages,
            link_bytes: self.link_bytes - before.link_bytes,
            gate_waits: self.gate_waits - before.gate_waits,
            gate_wait_ns: self.gate_wait_ns - before.gate_wait_ns,
            company_wait_ns: self.company_wait_ns - before.company_wait_ns,
            output_waits: self.output_waits - before.output_waits,
            output_wait_ns: self.output_wait_ns - before.output_wait_ns,
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was measured.
    pub configuration: Configuration,
    /// In which round, from 1.
    pub round: usize,
    /// How much was done, in the workload's unit.
    pub size: u64,
    /// Seconds of the host's clock.
    pub elapsed_s: f64,
    /// What the shims counted meanwhile, and a moment before and after.
    pub counts: Counts,
    /// The same once more in slices, in seconds that the whole would have taken. Empty where nothing is promised.
    #[serde(default)]
    pub slices: Vec<Slice>,
}

/// What measures, one system after the other.
#[derive(Debug)]
pub struct Measuring<'a> {
    images: &'a Images,
    cores: Cores,
    effort: Effort,
}

impl<'a> Measuring<'a> {
    /// With these images; quickly or with patience.
    pub fn new(images: &'a Images, quick: bool) -> Self {
        Self { images, cores: Cores::new(), effort: if quick { QUICK_EFFORT } else { EFFORT } }
    }

    /// Measures one system of a group.
    ///
    /// # Errors
    /// It does not start, answers wrongly, or a replica fails meanwhile.
    pub fn measure(&mut self, group: &Group, system: System, round: usize) -> Result<Sample> {
        let configuration = Configuration { workload: group.workload, epoch: group.epoch, system };
        let mut spec = self.images.spec(configuration)?;
        // Kept until the pair is down; the files are new each time.
        let kind = if group.workload.shares_disk() { Kind::Shared } else { Kind::Mirrored };
        let disk = ScratchDisk::new(&std::env::temp_dir(), "paper", DISK_BYTES).of_kind(kind);
        if group.workload.has_disk() {
            spec.disks = vec![disk.spec()];
        }
        if system == System::Neighbours {
            let (elapsed_s, slices) = self.beside_another(&spec, group)?;
            return Ok(Sample { configuration, round, size: group.size, elapsed_s, counts: Counts::default(), slices });
        }
        let mut pair = Running::start(&spec)?;
        let mut client = warmed_up(&pair, group)?;
        let before = Counts::read(&settled(&mut pair)?);
        let elapsed_s = client.exchange(group.size)?;
        let counts = Counts::read(&settled(&mut pair)?).since(before);
        let slices = self.slices(group, |size| client.exchange(size))?;
        undisturbed(&pair.status()?)?;
        pair.down()?;
        Ok(Sample { configuration, round, size: group.size, elapsed_s, counts, slices })
    }

    /// Measures a group's workload in slices, if it is to be.
    fn slices(&mut self, group: &Group, mut exchange: impl FnMut(u64) -> Result<f64>) -> Result<Vec<Slice>> {
        if !group.is_sliced() {
            return Ok(Vec::new());
        }
        let size = (group.size / SLICE_SHARE).max(1);
        self.cores.slices(self.effort, || Ok(exchange(size)? * group.size as f64 / size as f64))
    }

    /// How long a machine without epochs takes while another one, which knows nothing of it, does the same. The longer of
    /// their two times: so long, on the whole, both were at work.
    fn beside_another(&mut self, spec: &Spec, group: &Group) -> Result<(f64, Vec<Slice>)> {
        let other = Spec { name: format!("{}-other", spec.name), ..spec.clone() };
        let pairs = [Running::start(spec)?, Running::start(&other)?];
        let [mut one, mut another] = [warmed_up(&pairs[0], group)?, warmed_up(&pairs[1], group)?];
        let mut both = |size| {
            std::thread::scope(|scope| {
                let another = scope.spawn(|| another.exchange(size));
                let one = one.exchange(size);
                let another = another.join().map_err(|_| Error::CheckFailed("a thread of ours panicked".to_owned()))?;
                Ok::<_, Error>(one?.max(another?))
            })
        };
        let elapsed_s = both(group.size)?;
        let slices = self.slices(group, both)?;
        for pair in pairs {
            pair.down()?;
        }
        Ok((elapsed_s, slices))
    }
}

fn warmed_up(pair: &Running, group: &Group) -> Result<Client> {
    let mut client = group.workload.connect(pair.address(group.workload.port())?)?;
    client.exchange((group.size / WARM_UP_SHARE).max(1))?;
    Ok(client)
}

/// An error if the virtual machines are not those that were started, doing what they did.
///
/// # Errors
/// [`Error::CheckFailed`] with the newest events.
pub fn undisturbed(status: &PairStatus) -> Result<()> {
    if status.generation == 1 && status.ended.is_empty() && status.guest_stopped.is_none() {
        return Ok(());
    }
    let newest: Vec<_> = status.events.iter().rev().take(4).map(|event| event.text.as_str()).collect();
    Err(Error::CheckFailed(format!("a failure disturbed the measurement; newest first: {}", newest.join(" | "))))
}

/// A status with counters that every replica has told since this was called. The first new one may have been on its way
/// already; the second was not.
fn settled(pair: &mut Running) -> Result<PairStatus> {
    let told_at = |status: &PairStatus| -> Vec<f64> { status.replicas.iter().map(|r| r.uptime_s).collect() };
    let until = Instant::now() + STATUS_PATIENCE;
    let mut status = pair.status()?;
    for _ in 0..2 {
        let old = told_at(&status);
        while told_at(&status).iter().zip(&old).any(|(new, old)| new == old) {
            if Instant::now() > until {
                return Err(Error::CheckFailed("a replica has stopped telling its status".to_owned()));
            }
            std::thread::sleep(STATUS_INTERVAL);
            status = pair.status()?;
        }
    }
    Ok(status)
}

/// How a configuration of the workload that computes is named in short.
pub fn computing(epoch: EpochSpec, system: System) -> Configuration {
    Configuration { workload: Workload::COMPUTES, epoch, system }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_differences() {
        let before = Counts { epochs: 3, link_messages: 5, ..Counts::default() };
        let after = Counts { epochs: 13, link_messages: 25, ..Counts::default() };
        let counts = after.since(before);
        assert_eq!(counts, Counts { epochs: 10, link_messages: 20, ..Counts::default() });
    }
}
