//! One replica as its supervisor sees it.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use protocol::ReplicaId;
use protocol::arbiter::Grant;
use protocol::control::{Ready, State, Status};

use super::channel::{Channel, Inbox};
use super::port::Port;
use super::spec::Spec;
use super::token;
use crate::disk::{DiskSpec, Kind};
use crate::error::{Context, Result};
use crate::qemu::{Drive, NetBackend, Vm, VmConfig};
use crate::state::StateDir;

/// Wanted size of a socket's buffer. The system caps it; a small one costs a wake-up for every few packets.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A replica whose QEMU runs.
pub struct Replica {
    /// Which one.
    pub id: ReplicaId,
    /// Its process.
    pub vm: Vm,
    /// The control channel; `None` once it has failed.
    pub channel: Option<Channel>,
    /// What has come over it.
    pub inbox: Option<Inbox>,
    /// The network device; `None` once it has failed.
    pub port: Option<Port>,
    /// What the shim said first.
    pub ready: Option<Ready>,
    /// What it said last.
    pub status: Option<Status>,
    /// What the arbiter answered it last.
    pub asked: Option<Grant>,
    /// It was told that its peer is active.
    pub superseded: bool,
    /// Why it has stopped, once it has said so.
    pub stopped: Option<String>,
    /// Its process ends: it was killed, and its peer was told.
    pub ending: bool,
    /// When its process is ended, whether or not it has stopped by itself.
    pub kill_at_ns: Option<u64>,
}

impl Replica {
    /// Starts a replica and registers its sockets. It keeps the locks of these files as long as its process lives.
    ///
    /// # Errors
    /// QEMU cannot be started, or the system is short of something.
    pub fn start(
        id: ReplicaId,
        spec: &Spec,
        dir: &StateDir,
        link: Option<StdUnixStream>,
        locks: Vec<BorrowedFd<'_>>,
        registry: &Registry,
    ) -> Result<Self> {
        let (control, control_qemu) = socket_pair()?;
        let (net, net_qemu) = socket_pair()?;
        let differs = (id == ReplicaId::ONE).then_some(&spec.backup);
        let memory_mib = differs.and_then(|backup| backup.memory_mib).unwrap_or(spec.memory_mib);
        let image = differs.and_then(|backup| backup.image.as_deref()).unwrap_or(&spec.image);
        let mut extra = spec.qemu_args.clone();
        extra.extend(spec.host.qemu_args.iter().cloned());
        extra.extend(differs.into_iter().flat_map(|backup| backup.qemu_args.iter().cloned()));
        if spec.replay.as_ref().is_some_and(|replay| replay.gdb) {
            extra.extend(["-gdb".to_owned(), format!("unix:{},server=on,wait=off", dir.file("gdb").display())]);
        }
        let vm = VmConfig {
            name: format!("pollux-{}-{id}", spec.name),
            image,
            machine: spec.machine,
            accelerator: spec.accelerator,
            icount_shift: spec.epoch.needs_icount().then(|| spec.machine.icount_shift()),
            guest_memory_mib: memory_mib,
            mac: [0x52, 0x54, 0, 0, 1, id.get()],
            control: control_qemu,
            link,
            net: NetBackend::Hub(net_qemu),
            debug_log: dir.debug_log(id.index()),
            qemu_log: dir.qemu_log(id.index()),
            disks: drives(spec, id),
            locks,
            extra: &extra,
            program: spec.host.qemu.as_deref(),
            processors: &spec.host.processors,
        }
        .spawn()?;
        let mut channel = Channel::new(nonblocking(control)?);
        let mut port = Port::new(nonblocking(net)?);
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = registry
            .register(channel.stream(), Token(token::control(id)), both)
            .and_then(|()| registry.register(port.stream(), Token(token::net(id)), both))
            .and_then(|()| {
                let pidfd = vm.pidfd().as_raw_fd();
                registry.register(&mut SourceFd(&pidfd), Token(token::process(id)), Interest::READABLE)
            });
        registered.context(|| "cannot watch a replica")?;
        Ok(Self {
            id,
            vm,
            channel: Some(channel),
            inbox: Some(Inbox::default()),
            port: Some(port),
            ready: None,
            status: None,
            asked: None,
            superseded: false,
            stopped: None,
            ending: false,
            kill_at_ns: None,
        })
    }

    /// Where it stands, in one word.
    pub fn state_name(&self) -> &'static str {
        match (&self.stopped, self.superseded, &self.status, &self.ready) {
            (Some(_), ..) => State::Stopped.name(),
            (None, true, ..) => "superseded",
            (None, false, Some(status), _) => status.state.name(),
            (None, false, None, Some(_)) => State::Booting.name(),
            (None, false, None, None) => "starting",
        }
    }

    /// Whether its guest runs or is about to.
    pub fn is_running(&self) -> bool {
        let running = |status: &Status| matches!(status.state, State::Running | State::Waiting);
        self.stopped.is_none() && self.status.as_ref().is_some_and(running)
    }

    /// Whether the process is frozen by a signal.
    pub fn is_frozen(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.vm.pid())).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold anything.
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    }
}

/// The disks of a replica.
fn drives(spec: &Spec, id: ReplicaId) -> Vec<Drive> {
    let faults = |name: &str| {
        let faults = spec.disk_faults.iter().filter(|fault| fault.replica == id.get() && fault.name == name);
        faults.cloned().collect()
    };
    let drive = |disk: &DiskSpec| Drive {
        name: disk.name.clone(),
        path: disk.path(id),
        // The log that is run says what the disk did.
        blank_bytes: disk.size_bytes.filter(|_| spec.replay.is_some()),
        shared: disk.kind == Kind::Shared,
        faults: faults(&disk.name),
    };
    spec.disks.iter().map(drive).collect()
}

/// A connected pair of sockets with large buffers.
///
/// # Errors
/// The system's.
pub fn socket_pair() -> Result<(StdUnixStream, StdUnixStream)> {
    let (ours, theirs) = StdUnixStream::pair().context(|| "cannot make a socket pair")?;
    for stream in [&ours, &theirs] {
        // The system's own size also works.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SOCKET_BUFFER_BYTES);
    }
    Ok((ours, theirs))
}

/// A stream for the event loop.
///
/// # Errors
/// The system's.
pub fn nonblocking(stream: StdUnixStream) -> Result<UnixStream> {
    stream.set_nonblocking(true).context(|| "cannot make a socket non-blocking")?;
    Ok(UnixStream::from_std(stream))
}
