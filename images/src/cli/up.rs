//! `pollux up`: builds, starts a supervisor, waits until the pair serves.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use clap::Args;

use super::{own_program, print, print_json};
use crate::build::{self, Image, Workspace};
use crate::ctl::{PairStatus, RoleName};
use crate::error::{Context, Error, Result};
use crate::qemu::{Accelerator, MAX_GUEST_MEMORY_MIB, MIN_GUEST_MEMORY_MIB, Machine};
use crate::state::{DEFAULT_NAME, StateDir};
use crate::supervise::Outcome;
use crate::supervise::spec::{BackupOverrides, ProtocolName, Publish, RunName, Spec, Tuning};

/// What `up` accepts.
#[derive(Args, Debug, Clone)]
pub struct UpArgs {
    /// The app to build and run.
    #[arg(required_unless_present = "image")]
    app: Option<String>,
    /// Run this image instead of building one.
    #[arg(long, value_name = "FILE", conflicts_with = "app")]
    image: Option<PathBuf>,
    /// Name of the pair; several run side by side under different names.
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// Lead a port of this host to a port of the guest: [ADDRESS:]HOSTPORT:GUESTPORT. The address is 127.0.0.1 unless
    /// given; host port 0 lets the system choose (`status` shows it).
    #[arg(long, value_name = "HOSTPORT:GUESTPORT")]
    publish: Vec<Publish>,
    /// Memory of the guest in MiB.
    #[arg(long, value_name = "M", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(MIN_GUEST_MEMORY_MIB as i64..=MAX_GUEST_MEMORY_MIB as i64))]
    memory_mib: u32,
    /// How primary and backup work together.
    #[arg(long, value_enum, default_value = "revised")]
    protocol: ProtocolName,
    /// One virtual machine without epochs and log: the baseline of every comparison.
    #[arg(long, group = "run")]
    bare: bool,
    /// One virtual machine with epochs but without a peer.
    #[arg(long, group = "run")]
    solo: bool,
    /// Two virtual machines in lockstep (the default).
    #[arg(long, group = "run")]
    pair: bool,
    /// What executes the guest's instructions.
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accelerator,
    /// The emulated machine.
    #[arg(long, value_enum, default_value = "microvm")]
    machine: Machine,
    /// Let the guest reach services of this host's loopback at 10.0.2.2.
    #[arg(long)]
    allow_host: bool,
    /// Arguments of the program, as one text.
    #[arg(long, default_value = "", value_name = "TEXT")]
    args: String,
    /// The primary slows down rather than let the backup fall further behind than this.
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
    /// Another image for the second replica: it must be refused.
    #[arg(long, hide = true)]
    backup_image: Option<PathBuf>,
    /// Another size of memory for the second replica: it must be refused.
    #[arg(long, hide = true)]
    backup_memory_mib: Option<u32>,
    /// A further argument for the second replica's QEMU.
    #[arg(long, hide = true, allow_hyphen_values = true)]
    backup_qemu_arg: Vec<String>,
}

impl UpArgs {
    fn run_name(&self) -> RunName {
        match (self.bare, self.solo) {
            (true, _) => RunName::Bare,
            (_, true) => RunName::Solo,
            _ => RunName::Pair,
        }
    }

    fn spec(&self, image: Image) -> Result<Spec> {
        let absolute = |path: &PathBuf| std::path::absolute(path).context(|| format!("cannot use {}", path.display()));
        Ok(Spec {
            name: self.name.clone(),
            app: image.app,
            image: absolute(&image.image)?,
            image_id: image.image_id,
            guest_elf: image.guest_elf,
            run: self.run_name(),
            protocol: self.protocol,
            memory_mib: self.memory_mib,
            accelerator: self.accel.resolve()?,
            machine: self.machine,
            publish: self.publish.clone(),
            allow_host: self.allow_host,
            arguments: self.args.clone(),
            tuning: Tuning {
                max_lag_ms: self.max_lag_ms,
                failure_timeout_ms: self.failure_timeout_ms,
                start_timeout_ms: self.start_timeout_ms,
                ..Tuning::default()
            },
            qemu_args: self.qemu_arg.clone(),
            backup: BackupOverrides {
                image: self.backup_image.as_ref().map(absolute).transpose()?,
                memory_mib: self.backup_memory_mib,
                qemu_args: self.backup_qemu_arg.clone(),
            },
        })
    }
}

pub(super) fn up(args: &UpArgs) -> Result<()> {
    // What can be judged without a build is judged before it.
    let dir = StateDir::new(&args.name)?;
    if dir.is_live() {
        return Err(Error::NameInUse { name: args.name.clone() });
    }
    let image = match (&args.image, &args.app) {
        (Some(path), _) => build::open(path)?,
        (None, Some(app)) => build::build(&Workspace::find()?, app, true)?,
        (None, None) => return Err(Error::Usage("name an app or an --image".to_owned())),
    };
    let status = start(&args.spec(image)?)?;
    if args.json { print_json(&status) } else { print(&describe(&status)) }
}

/// Starts a supervisor and waits until the pair serves.
///
/// # Errors
/// Why it does not; the supervisor has ended then.
pub fn start(spec: &Spec) -> Result<PairStatus> {
    let dir = StateDir::new(&spec.name)?;
    dir.create()?;
    let mut supervisor = spawn_supervisor(spec, &dir)?;
    let stdout = supervisor.stdout.take();
    let mut line = String::new();
    let read = stdout.map(|stdout| BufReader::new(stdout).read_line(&mut line));
    match read.and_then(Result::ok).and_then(|_| serde_json::from_str(&line).ok()) {
        Some(Outcome::Serving(status)) => Ok(*status),
        Some(Outcome::Failed { text, code }) => {
            // It ends by itself now; waiting for it leaves no zombie behind.
            let _ = supervisor.wait();
            Err(failed(spec, text, code))
        }
        None => {
            let ended = supervisor.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(Error::Start(format!(
                "the supervisor ended ({ended}) before the pair served; its log is {}",
                dir.supervisor_log().display()
            )))
        }
    }
}

/// The supervisor's failure as if it had happened here: same text, same exit code.
fn failed(spec: &Spec, text: String, code: u8) -> Error {
    match code {
        6 => Error::PortTaken(text),
        8 => Error::NameInUse { name: spec.name.clone() },
        10 => Error::Missing(text),
        _ => Error::Start(text),
    }
}

fn spawn_supervisor(spec: &Spec, dir: &StateDir) -> Result<Child> {
    let log = dir.supervisor_log();
    // Appended to, not replaced: were another supervisor alive, it would be its log.
    let log_file = File::options().create(true).append(true).open(&log);
    let log_file = log_file.context(|| format!("cannot write {}", log.display()))?;
    let mut supervisor = Command::new(own_program()?)
        .arg("supervise")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .context(|| "cannot start the supervisor")?;
    let text = crate::ctl::to_line(spec)?;
    let sent = supervisor.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    sent.unwrap_or(Ok(())).context(|| "cannot talk to the supervisor")?;
    Ok(supervisor)
}

/// What `up` prints.
fn describe(status: &PairStatus) -> String {
    let mut out =
        format!("{} serves as {:?} ({}) after {} ms\n", status.app, status.name, status.mode, status.start_ms);
    for port in &status.publish {
        let address = port.address.parse().map(|ip| SocketAddr::new(ip, port.host).to_string());
        out.push_str(&format!("  {} -> guest port {}\n", address.unwrap_or_default(), port.guest));
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
