//! `cargo pollux up`: builds, starts a supervisor, waits until the pair serves.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use hypercall::disk::MAX_DISKS;

use super::{print, print_json};
use crate::build::{self, DiskNeed, Image, Target, Workspace};
use crate::ctl::{PairStatus, RoleName, StorageStatus};
use crate::disk::{DiskFault, DiskSpec};
use crate::error::{Context, Error, Result};
use crate::qemu::{Accelerator, MAX_GUEST_MEMORY_MIB, MIN_GUEST_MEMORY_MIB, Machine};
use crate::running;
use crate::state::{DEFAULT_NAME, StateDir};
use crate::supervise::boot_text::{self, Variable};
use crate::supervise::net::Net;
use crate::supervise::spec::{
    BackupOverrides, EpochSpec, Every, LogName, PlacementName, ProtocolName, Publish, RejoinName, RunName, Spec,
    StorageSpec, Tuning,
};
use crate::supervise::storage;

/// What `up` accepts.
#[derive(Args, Debug, Clone)]
pub struct UpArgs {
    /// The app to build and run.
    #[arg(required_unless_present_any = ["image", "manifest_path"])]
    app: Option<String>,
    #[command(flatten)]
    program: super::program::ProgramArgs,
    /// Run this image instead of building one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["app", "manifest_path"])]
    image: Option<PathBuf>,
    /// Name of the pair; several run side by side under different names.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// Lead a port of this host to a port of the guest: [ADDRESS:]HOSTPORT:GUESTPORT. The address is 127.0.0.1 unless
    /// given; host port 0 lets the system choose (`status` shows it).
    #[arg(long, value_name = "HOSTPORT:GUESTPORT")]
    publish: Vec<Publish>,
    /// Memory of the guest in MiB.
    #[arg(long, value_name = "M", default_value_t = running::DEFAULT_MEMORY_MIB,
          value_parser = clap::value_parser!(u32).range(MIN_GUEST_MEMORY_MIB as i64..=MAX_GUEST_MEMORY_MIB as i64))]
    memory_mib: u32,
    /// How primary and backup work together.
    #[arg(long, value_enum, default_value = "revised")]
    protocol: ProtocolName,
    /// What ends an epoch besides a guest that waits: nothing ("cooperative"), the machine after so many instructions
    /// ("exact:50000"), which needs --accel tcg, or the program itself after so many of its ticks ("counted:10000"), which
    /// needs an image built with --counted. Unless given, the manifest of an app that is built decides.
    #[arg(long, value_name = "SOURCE")]
    epoch: Option<EpochSpec>,
    /// What is done when a replica is lost: a new one is brought in at once ("auto"), and later and later if that fails
    /// again and again; or the survivor stays alone until `cargo pollux rejoin` ("manual").
    #[arg(long, value_enum, default_value_t)]
    rejoin: RejoinName,
    /// Where the machines' threads run: wherever the system puts them ("free"); there unless twins wait for each other while
    /// one of the host's processors is idle, then each machine on one of its own ("auto"); there whenever it is busy ("together"); or those that run guests' processors,
    /// while busy, each on one of the host's processors, another than its twin's ("hold").
    #[arg(long, value_enum, default_value_t)]
    placement: PlacementName,
    /// Compare all memory that the guest writes to, after every epoch, and name the first byte that differs, with its
    /// symbol: finds what in a program is not deterministic. The next epoch waits until the last one is compared, and
    /// every page written to is read once more by both: a busy pair is up to twice as slow, and ten times with short
    /// exact epochs.
    #[arg(long, conflicts_with_all = ["bare", "solo"])]
    check_determinism: bool,
    /// One virtual machine without epochs and log: the baseline of every comparison.
    #[arg(long, group = "run")]
    bare: bool,
    /// One virtual machine with epochs but without a peer.
    #[arg(long, group = "run")]
    solo: bool,
    /// One virtual machine without epochs, cut as often as an exact epoch is long: what the machine takes for that.
    #[arg(long, hide = true, conflicts_with_all = ["bare", "solo"])]
    cut: bool,
    /// Two virtual machines in lockstep (the default).
    #[arg(long, group = "run")]
    pair: bool,
    /// What executes the guest's instructions.
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accelerator,
    /// The emulated machine.
    #[arg(long, value_enum, default_value = "microvm")]
    machine: Machine,
    /// The machine to build for: "hppa" runs on a PA-RISC workstation that QEMU emulates. An --image says itself.
    #[arg(long, value_enum, default_value_t, conflicts_with = "image")]
    target: Target,
    /// Where the guest's network leads: "forward" (published ports; needs no privilege), "passt" (the same, by the
    /// program of that name), or "tap,bridge=BR[,address=A.B.C.D/P[,gateway=G]][,mac=M]": a port of a bridge of this
    /// host, where the guest has an address of its own, by DHCP unless it is given. A tap needs CAP_NET_ADMIN.
    #[arg(long, default_value = "forward", value_name = "NET")]
    net: Net,
    /// Give the guest a disk: NAME=FILE[,mirrored|shared][,size=64M][,resync]. Each replica has a mirror of it, FILE.0 and
    /// FILE.1, or both share FILE; made when there is none and a size is given. A mirror that has missed writes is refused;
    /// with "resync" it is overwritten with the other one's blocks first. May be repeated.
    #[arg(long, value_name = "NAME=FILE")]
    disk: Vec<DiskSpec>,
    /// Survive the death of both machines: write checkpoints to this folder, for `pollux restore DIR`. It is made, or must be
    /// empty. Not for guests with disks.
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    /// How often: "10s", "500ms" or "20000-epochs".
    #[arg(long, value_name = "INTERVAL", default_value = "10s", requires = "checkpoint_dir")]
    checkpoint_every: Every,
    /// What happens between two checkpoints: "durable" stores all of it before what follows from it leaves, so that nothing
    /// is lost that a client was told; with "none" up to an interval is lost when both machines die.
    #[arg(long, value_enum, default_value_t, requires = "checkpoint_dir")]
    log: LogName,
    /// Let the guest reach services of this host's loopback at 10.0.2.2.
    #[arg(long)]
    allow_host: bool,
    /// Arguments of the program, as one text of words. Unless given, the manifest's.
    #[arg(long, value_name = "TEXT")]
    args: Option<String>,
    /// An environment variable of the program; may be repeated. The manifest's are there too, unless of the same name.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<Variable>,
    /// Arguments of the program, one by one: each may hold spaces.
    #[arg(last = true, value_name = "ARGS", conflicts_with = "args")]
    words: Vec<String>,
    /// The primary slows down rather than let the backup fall further behind than this. After a failure the backup has as much to catch
    /// up with.
    #[arg(long, value_name = "MS", default_value_t = Tuning::default().max_lag_ms)]
    max_lag_ms: u64,
    /// Silence of a replica for so long counts as its failure. (A dead process is noticed at once.)
    #[arg(long, value_name = "MS", default_value_t = Tuning::default().failure_timeout_ms)]
    failure_timeout_ms: u64,
    /// Print the status as one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// A start that takes longer has failed.
    #[arg(long, hide = true, default_value_t = Tuning::default().start_timeout_ms)]
    start_timeout_ms: u64,
    /// A further argument for QEMU; may be repeated.
    #[arg(long, hide = true, allow_hyphen_values = true)]
    qemu_arg: Vec<String>,
    /// Let a replica's disk fail: REPLICA:NAME:read|write|flush:BLOCK[:ERRNO], or REPLICA:NAME:slow:KIB-A-SECOND.
    #[arg(long, hide = true)]
    disk_fault: Vec<DiskFault>,
    /// Another image for the second replica: it must be refused.
    #[arg(long, hide = true)]
    backup_image: Option<PathBuf>,
    /// Another size of memory for the second replica: it must be refused.
    #[arg(long, hide = true)]
    backup_memory_mib: Option<u32>,
    /// A further argument for the second replica's QEMU.
    #[arg(long, hide = true, allow_hyphen_values = true)]
    backup_qemu_arg: Vec<String>,
    /// Another environment for the second replica: it must be refused.
    #[arg(long, hide = true)]
    backup_env: Vec<Variable>,
    /// End each of the second replica's epochs so many instructions or ticks late: the first must be found to differ.
    #[arg(long, hide = true, default_value_t = 0)]
    backup_epoch_skew: u64,
}

impl UpArgs {
    fn run_name(&self) -> RunName {
        match (self.bare, self.solo, self.cut) {
            (true, ..) => RunName::Bare,
            (_, true, _) => RunName::Solo,
            (.., true) => RunName::Cut,
            _ => RunName::Pair,
        }
    }

    /// What an uplink cannot do is refused, rather than ignored.
    fn check_net(&self) -> Result<()> {
        if let (Net::Passt, Some(port)) = (&self.net, self.publish.iter().find(|port| port.address.is_ipv6())) {
            return Err(Error::Usage(format!(
                "--net passt cannot publish a port of {}: passt does not lead IPv6 to a guest that speaks IPv4; use \
                 --net forward",
                port.address
            )));
        }
        let option = match &self.net {
            Net::Tap(_) if !self.publish.is_empty() => "--publish",
            Net::Tap(_) if self.allow_host => "--allow-host",
            _ => return Ok(()),
        };
        Err(Error::Usage(format!(
            "{option} goes with --net forward or passt: a guest behind a tap has an address of its own, which clients \
             connect to; leave {option} out"
        )))
    }

    /// Names are given once, there are not too many, and every disk that the app cannot do without is there.
    fn check_disks(&self, needs: &[DiskNeed]) -> Result<()> {
        if self.disk.len() > MAX_DISKS {
            return Err(Error::Usage(format!("a guest has at most {MAX_DISKS} disks, not {}", self.disk.len())));
        }
        for (index, disk) in self.disk.iter().enumerate() {
            if self.disk[..index].iter().any(|other| other.name == disk.name || other.stem == disk.stem) {
                return Err(Error::Usage(format!("--disk {disk} shares its name or its file with another --disk")));
            }
        }
        match needs.iter().find(|need| !need.optional && self.disk.iter().all(|disk| disk.name != need.name)) {
            Some(need) => Err(Error::Usage(format!(
                "the app needs a disk named {0}: add --disk {0}=FILE,size=64M, which makes FILE.0 and FILE.1, one for each replica",
                need.name
            ))),
            None => Ok(()),
        }
    }

    fn storage(&self) -> Result<Option<StorageSpec>> {
        let Some(folder) = &self.checkpoint_dir else { return Ok(None) };
        storage::check(self.run_name(), !self.disk.is_empty(), self.log)?;
        let folder = std::path::absolute(folder).context(|| format!("cannot use {}", folder.display()))?;
        Ok(Some(StorageSpec { folder, every: self.checkpoint_every, log: self.log }))
    }

    /// Only the translator counts instructions.
    fn accelerator(&self, epoch: EpochSpec, machine: Machine) -> Result<Accelerator> {
        match (epoch, self.accel) {
            (_, Accelerator::Kvm) if machine == Machine::B160l => {
                Err(Error::Usage("PA-RISC is emulated: leave --accel kvm out".to_owned()))
            }
            _ if machine == Machine::B160l => Ok(Accelerator::Tcg),
            (EpochSpec::Cooperative | EpochSpec::Counted(_), accel) => accel.resolve(),
            (EpochSpec::Exact(_), Accelerator::Kvm) => Err(Error::Usage(format!(
                "epochs by {epoch} need --accel tcg: KVM cannot stop a guest after an exact number of instructions"
            ))),
            (EpochSpec::Exact(_), _) => Ok(Accelerator::Tcg),
        }
    }

    /// Both replicas are of one architecture: registers and machine code of one mean nothing to the other.
    fn check_twin(&self, image: &Image) -> Result<()> {
        let Some(twin) = &self.backup_image else { return Ok(()) };
        match build::open(twin) {
            Ok(twin) if twin.target != image.target => Err(Error::Usage(format!(
                "a pair needs two machines of one architecture, but {} is for {} and {} for {}",
                image.image.display(),
                image.target,
                twin.image.display(),
                twin.target
            ))),
            // Whatever else is wrong with it, the replicas find out.
            _ => Ok(()),
        }
    }

    /// The machine that an image is for, and what it cannot do.
    fn machine_of(&self, image: &Image, epoch: EpochSpec) -> Result<Machine> {
        if image.target == Target::X86_64 {
            return match self.machine {
                Machine::B160l => Err(Error::Usage(format!(
                    "{} is for x86-64; build one with --target hppa for --machine b160l",
                    image.image.display()
                ))),
                machine => Ok(machine),
            };
        }
        if epoch.needs_ticks() {
            return Err(Error::Usage(format!(
                "epochs by {epoch} cannot be had on PA-RISC, whose programs do not count ticks; use exact epochs or --epoch \
                 cooperative"
            )));
        }
        Ok(Machine::B160l)
    }

    /// A guest counts its ticks only if it was built to.
    fn check_ticks(image: &Image, epoch: EpochSpec) -> Result<()> {
        if image.counts_ticks || !epoch.needs_ticks() {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "epochs by {epoch} need a program that counts its ticks, and the one in {} does not; build it with `cargo pollux \
             build APP --counted` (or name the app instead of an image), or use exact epochs, which cut any program",
            image.image.display()
        )))
    }

    /// The program's arguments: the command line's, or else the manifest's.
    fn arguments(&self, image: &Image) -> Result<String> {
        let given = match (&self.args, self.words.as_slice()) {
            (None, []) => None,
            (Some(text), _) => Some(text.clone()),
            (None, words) => Some(boot_text::one_by_one(words).map_err(Error::Usage)?),
        };
        let arguments = given.or_else(|| image.defaults.arguments.clone()).unwrap_or_default();
        boot_text::compose(&arguments, &boot_text::merge(&image.defaults.environment, &self.env))
            .map_err(Error::Usage)?;
        Ok(arguments)
    }

    fn spec(&self, image: Image) -> Result<Spec> {
        let absolute = |path: &PathBuf| std::path::absolute(path).context(|| format!("cannot use {}", path.display()));
        let epoch = self.epoch.unwrap_or(image.epoch);
        Self::check_ticks(&image, epoch)?;
        let machine = self.machine_of(&image, epoch)?;
        self.check_twin(&image)?;
        Ok(Spec {
            run: self.run_name(),
            rejoin: self.rejoin,
            placement: self.placement,
            protocol: self.protocol,
            epoch,
            check_determinism: self.check_determinism,
            memory_mib: self.memory_mib,
            accelerator: self.accelerator(epoch, machine)?,
            machine,
            net: self.net.clone(),
            publish: self.publish.clone(),
            allow_host: self.allow_host,
            arguments: self.arguments(&image)?,
            environment: boot_text::merge(&image.defaults.environment, &self.env),
            tuning: Tuning {
                max_lag_ms: self.max_lag_ms,
                failure_timeout_ms: self.failure_timeout_ms,
                start_timeout_ms: self.start_timeout_ms,
                ..Tuning::default()
            }
            .with_patience(self.check_determinism),
            disks: absolute_disks(&self.disk)?,
            storage: self.storage()?,
            disk_faults: self.disk_fault.clone(),
            qemu_args: self.qemu_arg.clone(),
            backup: BackupOverrides {
                image: self.backup_image.as_ref().map(absolute).transpose()?,
                memory_mib: self.backup_memory_mib,
                qemu_args: self.backup_qemu_arg.clone(),
                epoch_skew: self.backup_epoch_skew,
                environment: (!self.backup_env.is_empty()).then(|| self.backup_env.clone()),
            },
            ..Spec::new(&self.name, image)?
        })
    }
}

/// Disks whose files the supervisor, which works in another folder, finds.
pub(super) fn absolute_disks(disks: &[DiskSpec]) -> Result<Vec<DiskSpec>> {
    let absolute = |disk: &DiskSpec| {
        let stem = std::path::absolute(&disk.stem).context(|| format!("cannot use {}", disk.stem.display()))?;
        Ok(DiskSpec { stem, ..disk.clone() })
    };
    disks.iter().map(absolute).collect()
}

pub(super) fn up(args: &UpArgs) -> Result<()> {
    // What can be judged without a build is judged before it.
    let dir = StateDir::new(&args.name)?;
    if dir.is_live() {
        return Err(Error::NameInUse { name: args.name.clone() });
    }
    args.check_net()?;
    args.check_disks(&[])?;
    args.storage()?;
    let image = match (&args.image, &args.app) {
        (Some(path), _) => build::open(path)?,
        _ if args.program.is_given() => {
            args.program.build(args.target, args.epoch.is_some_and(EpochSpec::needs_ticks), true)?
        }
        (None, Some(_)) if args.target == Target::Hermit => {
            return Err(Error::Usage(build::NO_APPS_FOR_HERMIT.to_owned()));
        }
        (None, Some(app)) if args.target == Target::Hppa => build::build_hppa(&Workspace::find()?, app, true)?,
        (None, Some(app)) => build::build(&Workspace::find()?, app, args.epoch.map(EpochSpec::needs_ticks), true)?,
        (None, None) => return Err(Error::Usage("name an app or an --image".to_owned())),
    };
    args.check_disks(&image.disks)?;
    let status = running::start(&args.spec(image)?)?;
    if args.json { print_json(&status) } else { print(&describe(&status)) }
}

/// What is lost when both machines die, and where the rest is.
pub(super) fn describe_storage(storage: &StorageStatus) -> String {
    let folder = storage.folder.display();
    let mut out = match (storage.purpose.as_str(), &storage.every) {
        ("recording", _) => format!("recorded in {folder}"),
        (_, every) => {
            let every = every.as_deref().unwrap_or("-");
            let lost = match storage.log.as_str() {
                "durable" => "nothing that a client was told is lost when both machines die".to_owned(),
                _ => format!(
                    "when both machines die, what happened since the newest one is lost (up to {every} and a bit)"
                ),
            };
            format!("checkpoints every {every} in {folder}, log {}: {lost}", storage.log)
        }
    };
    if let Some(failure) = &storage.failure {
        out.push_str(&format!("; NOT WRITTEN: {failure}"));
    }
    out
}

/// What `up` prints.
pub(super) fn describe(status: &PairStatus) -> String {
    let mut out =
        format!("{} serves as {:?} ({}) after {} ms\n", status.app, status.name, status.mode, status.start_ms);
    for port in &status.publish {
        let address = port.address.parse().map(|ip| SocketAddr::new(ip, port.host).to_string());
        out.push_str(&format!("  {} -> guest port {}\n", address.unwrap_or_default(), port.guest));
    }
    if let Some(bridge) = &status.net.bridge {
        out.push_str(&format!("  {} on bridge {bridge}\n", status.net.address.as_deref().unwrap_or("no address yet")));
    }
    if let Some(storage) = &status.storage {
        out.push_str(&format!("  {}\n", describe_storage(storage)));
    }
    for replica in &status.replicas {
        let role = if replica.role == RoleName::Primary { "primary" } else { "backup" };
        out.push_str(&format!("  {role}: QEMU process {}\n", replica.pid));
    }
    for ended in &status.ended {
        out.push_str(&format!("  WARNING: replica {} has ended already: {}\n", ended.replica, ended.reason));
    }
    out
}
