//! The commands about a pair that runs: status, kill, down, list.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;

use super::{print, print_json};
use crate::ctl::{Client, PairStatus, ReplicaStatus, Request, Response, RoleName, SignalName};
use crate::disk::Kind;
use crate::error::{Context, Error, Result};
use crate::state;
use crate::supervise::spec::HostOptions;

/// More than any host has.
const MAX_PROCESSORS: usize = 1024;

/// How long a kill waits for the status to tell of it.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn status(name: Option<&str>, json: bool) -> Result<()> {
    let status = Client::connect(name)?.status()?;
    if json { print_json(&status) } else { print(&describe(&status)) }
}

fn describe(status: &PairStatus) -> String {
    let serving = if status.serving { "serving" } else { "NOT serving" };
    let mut out = format!(
        "{} ({}): {}, {}, {} protocol, {} epochs, generation {}, up {:.0} s\n",
        status.name,
        status.app,
        serving,
        status.mode,
        status.protocol,
        status.epochs,
        status.generation,
        status.uptime_s
    );
    for port in &status.publish {
        out.push_str(&format!("  {}:{} -> guest port {}\n", port.address, port.host, port.guest));
    }
    if let (Some(bridge), Some(device)) = (&status.net.bridge, &status.net.device) {
        let address = status.net.address.as_deref().unwrap_or("no address yet");
        out.push_str(&format!("  guest {address} ({}) at tap {device} of bridge {bridge}\n", status.net.mac));
    }
    if let Some(pid) = status.net.pid {
        out.push_str(&format!("  by {}, process {pid}\n", status.net.uplink));
    }
    for disk in &status.disks {
        let stale =
            disk.stale.map_or_else(String::new, |replica| format!("; the mirror of replica {replica} is stale"));
        let shared = if disk.kind == Kind::Shared { ", shared" } else { "" };
        let file = disk.file.display();
        out.push_str(&format!("  disk {} at {file} ({} bytes{shared}){stale}\n", disk.name, disk.size_bytes));
    }
    for replica in &status.replicas {
        out.push_str(&describe_replica(replica));
    }
    for ended in &status.ended {
        out.push_str(&format!("  replica {} (process {}) has ended: {}\n", ended.replica, ended.pid, ended.reason));
    }
    if let Some(storage) = &status.storage {
        out.push_str(&format!("  {}\n", super::up::describe_storage(storage)));
    }
    let rejoin = &status.rejoin;
    if rejoin.state != "idle" {
        out.push_str(&format!("  a new replica is brought in ({})\n", rejoin.state));
    }
    if let (true, Some(disks)) = (rejoin.state == "copying disks", &rejoin.disks) {
        out.push_str(&format!(
            "  disks: looked at {} of {} bytes, {} written, {} rounds\n",
            disks.done_bytes, disks.total_bytes, disks.written_bytes, disks.rounds
        ));
    }
    if status.migration.state != "idle" {
        out.push_str(&format!("  the machines are renewed ({})\n", status.migration.state));
    }
    if rejoin.joined + rejoin.failed > 0 {
        out.push_str(&format!(
            "  new replicas brought in: {}, failed before: {}; the newest took {:.0} ms\n",
            rejoin.joined, rejoin.failed, rejoin.protected_ms
        ));
    }
    if let Some(divergence) = &status.divergence {
        out.push_str(&format!("  {}\n", divergence.report));
    }
    if let Some(stopped) = &status.guest_stopped {
        out.push_str(&format!("  the guest stopped in epoch {}: {} {}\n", stopped.epoch, stopped.kind, stopped.code));
        for line in stopped.report.lines() {
            out.push_str(&format!("    {line}\n"));
        }
    }
    out
}

fn describe_replica(replica: &ReplicaStatus) -> String {
    let role = match replica.role {
        RoleName::Primary => "primary",
        RoleName::Backup => "backup",
    };
    format!(
        "  {role:7} process {:7}  {:12} epoch {:10}  lag {} epochs ({} us)  link {} us  up {:.0} s\n",
        replica.pid,
        replica.state,
        replica.epoch,
        replica.lag_epochs,
        replica.lag_us,
        replica.link_rtt_us,
        replica.uptime_s
    )
}

pub(super) fn kill(name: Option<&str>, role: RoleName, signal: SignalName) -> Result<()> {
    let mut client = Client::connect(name)?;
    let before = client.status()?;
    match client.ask(&Request::Kill { role, signal })? {
        Response::Killed { pid } => {
            if signal == SignalName::Kill {
                wait_until_told(&mut client, &before, pid);
            }
            print(&format!("{}\n", pid))
        }
        other => Err(Error::Refused(format!("the supervisor answered {other:?}"))),
    }
}

/// Waits until the status knows of the death of a replica and of who goes on, so that the next command does, too; not for
/// long, because what goes on may be nobody.
fn wait_until_told(client: &mut Client, before: &PairStatus, pid: i32) {
    let deadline = Instant::now() + TOLD_WITHIN;
    while Instant::now() < deadline {
        let is_told = |status: PairStatus| {
            let is_gone = status.replicas.iter().all(|replica| replica.pid != pid);
            is_gone && (before.mode != "paired" || status.generation > before.generation)
        };
        if client.status().map_or(true, is_told) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks for a new replica, with or without a change of roles before, and waits until it is a member of the pair.
pub(super) fn rejoin(name: Option<&str>, request: &Request) -> Result<()> {
    let bar = CopyBar::default();
    let result = Client::connect(name)?.rejoin(request, |status| bar.show(status));
    bar.0.finish_and_clear();
    print(&format!("paired in generation {}\n", result?.generation))
}

/// How far mirrors are copied; nothing is shown for guests without any, nor where stderr is no terminal.
struct CopyBar(ProgressBar);

impl Default for CopyBar {
    fn default() -> Self {
        Self(super::disk::bar("copying disks"))
    }
}

impl CopyBar {
    fn show(&self, status: &PairStatus) {
        let disks = status.rejoin.disks.as_ref().filter(|_| status.rejoin.state == "copying disks");
        if let Some(disks) = disks {
            super::disk::advance(&self.0, disks.done_bytes, disks.total_bytes);
        }
    }
}

/// What `migrate` accepts.
#[derive(Args)]
pub struct MigrateArgs {
    /// Which pair; without it the one named "default", or the only one that runs.
    #[arg(value_name = "NAME", conflicts_with = "name")]
    pair: Option<String>,
    /// The same, as for other commands.
    #[arg(long, hide = true)]
    name: Option<String>,
    /// The QEMU program that the new machines run, instead of the installed qemu-system-x86_64.
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
    /// A further argument for it; may be repeated.
    #[arg(long, allow_hyphen_values = true, value_name = "ARGUMENT")]
    qemu_arg: Vec<String>,
    /// The processors of this host that they may run on, such as 0-3,8.
    #[arg(long, value_name = "LIST", value_parser = processors)]
    cpu: Option<Processors>,
}

/// Numbers of processors.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Processors(Vec<usize>);

fn processors(text: &str) -> std::result::Result<Processors, String> {
    let wrong = || format!("expected numbers and ranges such as 0-3,8, got {text:?}");
    let mut all = Vec::new();
    for word in text.split(',') {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last): (usize, usize) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        if last < first || last >= MAX_PROCESSORS {
            return Err(wrong());
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Ok(Processors(all))
}

/// Renews both machines of a pair.
pub(super) fn migrate(args: &MigrateArgs) -> Result<()> {
    // The supervisor has another working directory; a bare name is looked for where programs are.
    let absolute = |path: &PathBuf| match path.components().count() {
        1 => Ok(path.clone()),
        _ => std::path::absolute(path).context(|| format!("cannot use {}", path.display())),
    };
    let host = HostOptions {
        qemu: args.qemu.as_ref().map(absolute).transpose()?,
        qemu_args: args.qemu_arg.clone(),
        processors: args.cpu.as_ref().map_or_else(Vec::new, |cpu| cpu.0.clone()),
    };
    let bar = CopyBar::default();
    let result =
        Client::connect(args.pair.as_deref().or(args.name.as_deref()))?.migrate(host, |status| bar.show(status));
    bar.0.finish_and_clear();
    let status = result?;
    let pids: Vec<_> = status.replicas.iter().map(|replica| replica.pid.to_string()).collect();
    print(&format!("renewed, in generation {}: processes {}\n", status.generation, pids.join(" and ")))
}

pub(super) fn down(name: Option<&str>) -> Result<()> {
    match Client::connect(name) {
        Ok(mut client) => client.ask(&Request::Down).map(drop),
        // Nothing runs; what is left of it is removed, and the user is told why it had ended.
        Err(error @ Error::SupervisorGone { .. }) => {
            if let Error::SupervisorGone { name, .. } = &error {
                state::StateDir::new(name)?.clear();
            }
            Err(error)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn list(json: bool) -> Result<()> {
    let names = state::running();
    if json { print_json(&names) } else { print(&names.iter().map(|name| format!("{name}\n")).collect::<String>()) }
}
