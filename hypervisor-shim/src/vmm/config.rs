//! The supervisor's configuration: waited for, checked, and turned into a replica.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall::disk::DiskInfo;
use hypercall::layout::{NET_CHECKSUM_OFFLOAD, NET_DHCP, NetConfig};
use protocol::control::{Config, Counters, Network, Ready, StoppedReason, ToShim};
use protocol::frame::direction_session;
use protocol::link::{EPOCH_START_FIXED_BYTES, Identity};
use protocol::replica::{self, Replica};
use protocol::{DiskConduct, EpochSource, Mode, Role, RunMode};
use sha2::{Digest as _, Sha256};

use super::channel::Channel;
use super::disk_copy::DiskCopy;
use super::outputs::Outbound;
use super::replay::Replay;
use super::{ClockOffsets, EpochLimit, Settings, Vmm, farewell};
use crate::guest::{Guest, GuestConfig, Image, OutputLog, PageSet, Touched, load};
use crate::machine::{Disk, Machine, Port};

/// Version of the replication protocol that this shim speaks.
pub const PROTOCOL_VERSION: u32 = 4;
/// Half of the receive ring, so that a record always fits when the guest has read everything.
const MAX_EPOCH_EVENTS_BYTES: u32 = hypercall::layout::RING_BYTES / 2;
/// The supervisor that has heard "ready" answers within this.
const CONFIG_TIMEOUT_NS: u64 = 30_000_000_000;

/// Why a guest is not run.
const NOT_COUNTING: &str =
    "counted epochs cannot be had: the guest does not count its ticks; build it with `pollux build APP --counted`";

/// A machine that will not run, and why.
pub struct Refusal<M: Machine> {
    machine: M,
    control: Channel,
    text: String,
}

impl<M: Machine> Refusal<M> {
    /// Tells the supervisor and ends the machine.
    pub fn farewell(mut self) -> ! {
        farewell(&mut self.machine, &mut self.control, StoppedReason::Failed, &self.text)
    }
}

/// What must outlive the configuration message.
struct Owned {
    config: Config<'static>,
    arguments: String,
    /// What came behind it in the same buffer.
    early: Vec<ToShim<'static>>,
}

/// Waits for the configuration and makes the replica that it describes.
pub fn receive<M: Machine>(
    mut machine: M,
    mut control: Channel,
    image: &Image<'_>,
    ready: &Ready,
) -> Result<Vmm<M>, Box<Refusal<M>>> {
    let owned = match wait_for_config(&mut machine, &mut control) {
        Ok(owned) => owned,
        Err(text) => return Err(Box::new(Refusal { machine, control, text })),
    };
    build(machine, control, image, ready, owned)
}

fn wait_for_config<M: Machine>(machine: &mut M, control: &mut Channel) -> Result<Owned, String> {
    let until_ns = machine.now_ns() + CONFIG_TIMEOUT_NS;
    let mut owned: Option<Owned> = None;
    while owned.is_none() {
        let Some(mut reader) = control.take_reader() else {
            return Err(String::from("the control channel is closed"));
        };
        if let Some(received) = machine.control().take() {
            let result = reader.feed::<protocol::frame::FrameError>(received.payload(), |frame| {
                match (ToShim::decode(frame.kind, frame.payload), &mut owned) {
                    (Ok(ToShim::Config(config)), None) => {
                        let arguments = String::from(config.arguments);
                        owned =
                            Some(Owned { config: Config { arguments: "", ..config }, arguments, early: Vec::new() });
                    }
                    (Ok(message), Some(owned)) => owned.early.extend(lasting(message)),
                    _ => {}
                }
                Ok(())
            });
            machine.control().give_back(received);
            if let Err(error) = result {
                return Err(format!("the control channel carries no frames: {error}"));
            }
        } else {
            sleep_until_interrupt(machine, until_ns)?;
        }
        control.put_reader(reader);
    }
    owned.ok_or_else(String::new)
}

/// A message that must not be lost though it came before anybody could act on it: that the peer died while this machine
/// booted is said once only.
fn lasting(message: ToShim<'_>) -> Option<ToShim<'static>> {
    match message {
        ToShim::PeerDead => Some(ToShim::PeerDead),
        ToShim::LinkCut => Some(ToShim::LinkCut),
        ToShim::Superseded { generation } => Some(ToShim::Superseded { generation }),
        ToShim::Shutdown => Some(ToShim::Shutdown),
        ToShim::StoreLog { on } => Some(ToShim::StoreLog { on }),
        ToShim::Config(_)
        | ToShim::ArbiterReply(_)
        | ToShim::Time { .. }
        | ToShim::ConsoleInput { .. }
        | ToShim::Shown { .. }
        // Of a replica that runs already, or that has said that it is ready for more.
        | ToShim::Capture { .. }
        | ToShim::PagesHeld { .. }
        | ToShim::Pages(_)
        | ToShim::State(_)
        | ToShim::PeerJoins { .. }
        | ToShim::HandOver
        | ToShim::WatchDisks
        | ToShim::TellDisks
        | ToShim::DisksCopied
        | ToShim::Stored { .. }
        | ToShim::Replay(_)
        | ToShim::ReplayEnd(_) => None,
    }
}

fn sleep_until_interrupt<M: Machine>(machine: &mut M, until_ns: u64) -> Result<(), String> {
    let now_ns = machine.now_ns();
    if now_ns >= until_ns {
        return Err(String::from("the supervisor did not send a configuration"));
    }
    machine.control().set_interrupts(true);
    if machine.control().peek().is_none() {
        machine.arm_timer((now_ns + super::SERVICE_INTERVAL_NS).min(until_ns));
        machine.halt();
    }
    machine.control().set_interrupts(false);
    machine.acknowledge_interrupts();
    Ok(())
}

fn build<M: Machine>(
    mut machine: M,
    control: Channel,
    image: &Image<'_>,
    ready: &Ready,
    owned: Owned,
) -> Result<Vmm<M>, Box<Refusal<M>>> {
    let config = &owned.config;
    let refuse = |machine, control, text| Err(Box::new(Refusal { machine, control, text }));
    let limit = match epoch_limit(config, &machine) {
        Ok(limit) => limit,
        Err(text) => return refuse(machine, control, text),
    };
    if config.run_mode == RunMode::Pair && machine.link().is_none() {
        return refuse(machine, control, String::from("a pair needs a second virtio console for the link"));
    }
    let memory = machine.guest_memory();
    let net = net_config(&config.network);
    let disks = match disk_table(machine.disks(), config.blank_disks) {
        Ok(disks) => disks,
        Err(text) => return refuse(machine, control, text),
    };
    let start = match load(&memory, image.elf, &GuestConfig { arguments: &owned.arguments, net, disks: &disks }) {
        Ok(start) => start,
        Err(error) => return refuse(machine, control, format!("{error}")),
    };
    if config.epoch_source == u32::from(EpochSource::Counted.code()) && start.tick_counter.is_none() {
        return refuse(machine, control, String::from(NOT_COUNTING));
    }
    machine.start_guest(&start);
    let covered = PageSet::empty(memory.bytes());
    let touched = config.check_determinism.then(|| Touched::with_room(memory.bytes()));
    // SAFETY: `start` is what the loader returned for this memory.
    let mut guest = unsafe { Guest::new(memory, &start, config.entropy.0) };
    guest.set_epoch_ticks(limit.ticks());
    let is_backup = config.run_mode == RunMode::Pair && config.role == Role::Backup;
    guest.disks_mut().share(config.shared_disks, is_backup);
    guest.disks_mut().conduct(config.disk_conduct, is_backup || config.replays);

    let now_ns = machine.now_ns();
    let replica = match make_replica(config, ready, &owned.arguments, &disks, now_ns) {
        Ok(replica) => replica,
        Err(error) => return refuse(machine, control, format!("{error}")),
    };
    let max_message = config.max_epoch_events_bytes.min(MAX_EPOCH_EVENTS_BYTES) as usize + EPOCH_START_FIXED_BYTES + 64;
    let link = Channel::new(
        direction_session(config.link_session, config.replica),
        direction_session(config.link_session, config.replica.peer()),
        max_message,
    );
    let settings = Settings {
        replica: config.replica,
        run_mode: config.run_mode,
        session: config.session,
        generation: config.generation,
        status_interval_ns: config.status_interval_ns.max(1_000_000),
        mac: config.network.mac,
        limit,
    };
    Ok(Vmm {
        machine,
        settings,
        guest,
        replica,
        control,
        early: owned.early,
        link,
        outputs: OutputLog::new(),
        touched,
        shown_pages: 0,
        outbound: Outbound::default(),
        copier: None,
        disk_copy: DiskCopy::default(),
        slice: Vec::new(),
        fresh_link: None,
        slices_held: 0,
        capture_wanted: None,
        base: None,
        covered,
        restores: config.restores,
        replay: config.replays.then(Replay::default),
        offsets: ClockOffsets {
            monotonic_ns: now_ns.wrapping_neg(),
            realtime_ns: config.realtime_ns.wrapping_sub(now_ns),
        },
        deadline_ns: 0,
        run_next: None,
        input_skew: 0,
        typed: Vec::new(),
        timer_at_ns: 0,
        status_at_ns: 0,
        held_up: None,
        counters: Counters::ZERO,
        end_told: false,
        ends: false,
        asked_for: 0,
        peer_dead: false,
        hang: super::disk_hang::Watch::default(),
        last_heard_ns: now_ns,
        flushed_ns: now_ns,
        is_in_epoch: false,
        log_ends_by_ns: None,
    })
}

/// What ends an epoch besides a guest that waits, or why it cannot be had.
fn epoch_limit<M: Machine>(config: &Config<'_>, machine: &M) -> Result<EpochLimit, String> {
    let source = u8::try_from(config.epoch_source).ok().and_then(EpochSource::from_code).ok_or_else(|| {
        format!(
            "this shim knows no epoch source {}; it has cooperative (0), exact (1) and counted (2)",
            config.epoch_source
        )
    })?;
    if config.run_mode == RunMode::Cut && source != EpochSource::Exact {
        return Err("a guest without epochs can be cut by its machine only: run mode cut needs exact epochs".into());
    }
    // A skew that a test asks for is no part of what replicas compare before they pair: it must be found by the digest.
    let length = config.epoch_length_instructions.saturating_add(config.epoch_skew_instructions);
    let unit = match source {
        EpochSource::Cooperative => return Ok(EpochLimit::None),
        EpochSource::Exact => "instructions",
        EpochSource::Counted => "ticks",
    };
    if !(source.least_length()..u64::MAX).contains(&length) {
        return Err(format!("an epoch has at least {} {unit}, not {length}", source.least_length()));
    }
    if source == EpochSource::Exact {
        machine.can_count().map_err(|error| format!("exact epochs cannot be had: {error}"))?;
    }
    Ok(match (config.run_mode, source) {
        // Bare, machine or guest counts and nothing is cut: the baseline of such epochs.
        (RunMode::Bare, _) => EpochLimit::None,
        (_, EpochSource::Counted) => EpochLimit::Ticks(length),
        _ => EpochLimit::Instructions(length),
    })
}

fn make_replica(
    config: &Config<'_>,
    ready: &Ready,
    arguments: &str,
    disks: &[DiskInfo],
    now_ns: u64,
) -> Result<Option<Replica>, replica::ConfigError> {
    if !config.run_mode.has_epochs() {
        return Ok(None);
    }
    let identity = Identity {
        abi_version: ready.abi_version,
        protocol_version: ready.protocol_version,
        image: ready.image,
        guest_memory_bytes: ready.guest_memory_bytes,
        cpu: ready.cpu,
        guest_config: guest_config_digest(config, arguments, disks),
        epoch_source: config.epoch_source,
        discipline: config.discipline,
    };
    let config = replica::Config {
        replica: config.replica,
        role: config.role,
        generation: config.generation,
        mode: if config.run_mode == RunMode::Solo { Mode::Solo } else { config.mode },
        identity,
        max_lag_ns: config.max_lag_ns,
        heartbeat_interval_ns: config.heartbeat_interval_ns,
        failure_timeout_ns: config.failure_timeout_ns,
        pairing_timeout_ns: config.pairing_timeout_ns,
        max_outstanding_epochs: config.max_outstanding_epochs,
        max_outstanding_bytes: config.max_outstanding_bytes,
        max_epoch_events_bytes: config.max_epoch_events_bytes.min(MAX_EPOCH_EVENTS_BYTES),
        confirms_releases: true,
        compares_first: config.check_determinism,
        joins: config.joins,
        stores_log: config.stores_log,
        logs_disks: config.disk_conduct == DiskConduct::Logged,
        max_unstored_bytes: config.max_unstored_bytes,
    };
    Replica::new(config, now_ns).map(Some)
}

/// Everything that a guest can see of its configuration, the start of its random numbers included; and what digests
/// cover.
fn guest_config_digest(config: &Config<'_>, arguments: &str, disks: &[DiskInfo]) -> [u8; 32] {
    let net = &config.network;
    let mut hash = Sha256::new();
    hash.update(net.mac);
    hash.update(net.address);
    hash.update(net.gateway);
    hash.update([net.prefix_bits, u8::from(net.dhcp), u8::from(net.checksums)]);
    hash.update(net.mtu_bytes.to_le_bytes());
    hash.update(config.entropy.0);
    hash.update(config.epoch_length_instructions.to_le_bytes());
    hash.update([u8::from(config.check_determinism), config.shared_disks, config.disk_conduct.code()]);
    for disk in disks {
        hash.update(disk.name);
        hash.update(disk.flags.to_le_bytes());
        hash.update(disk.blocks.to_le_bytes());
    }
    hash.update(arguments.as_bytes());
    hash.finalize().into()
}

/// The disks as the guest is told of them; `blank` has a bit for each that holds nothing.
fn disk_table(disks: &[impl Disk], blank: u8) -> Result<Vec<DiskInfo>, String> {
    if let Some([one, _]) = disks.array_windows().find(|[one, other]| one.name() == other.name()) {
        return Err(format!("two disks have the name {:?}", one.name()));
    }
    let is_blank = |index: usize| index < 8 && blank >> index & 1 == 1;
    let infos = disks.iter().enumerate();
    Ok(infos.map(|(index, disk)| DiskInfo::new(disk.name(), disk.blocks()).with_blank(is_blank(index))).collect())
}

fn net_config(network: &Network) -> NetConfig {
    let mut mac = [0; 8];
    mac[..6].copy_from_slice(&network.mac);
    let dhcp = if network.dhcp { NET_DHCP } else { 0 };
    let offload = if network.checksums { 0 } else { NET_CHECKSUM_OFFLOAD };
    NetConfig {
        mac,
        flags: dhcp | offload,
        address: u32::from_be_bytes(network.address),
        prefix_bits: u32::from(network.prefix_bits),
        gateway: u32::from_be_bytes(network.gateway),
        mtu_bytes: u32::from(network.mtu_bytes),
        reserved: 0,
    }
}
