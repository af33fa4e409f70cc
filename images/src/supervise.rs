//! The supervisor: one process for each pair. It starts the two QEMUs, is the wire between them and the outside,
//! arbitrates, and answers requests.
//!
//! One thread and one event loop do it all, because the processors belong to the replicas. A turn of the loop reads
//! whatever is ready, then sends what that led to: bytes from fifty clients leave as one batch, and so do the replies.
//!
//! When the supervisor dies its QEMUs are killed by the kernel: without it there would be nobody to arbitrate, and no
//! wire. The next `status` says so.

mod arbiter;
pub mod boot_text;
mod channel;
pub mod checkpoint;
mod console;
mod disks;
mod divergence;
pub mod forward;
pub mod hub;
mod link_fault;
mod members;
mod migrate;
pub mod net;
mod pacer;
pub mod passt;
mod placement;
pub mod port;
mod rejoin;
pub mod replaying;
mod replica;
mod report;
mod requests;
mod resync;
mod scribe;
pub mod spec;
pub mod storage;
mod symbols;
pub mod tap;
mod token;
mod uplink;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use protocol::control::ArbiterRequest;
use protocol::{Mode, ReplicaId};
use serde::{Deserialize, Serialize};

use self::arbiter::Arbiter;
use self::checkpoint::{Checkpoints, Restoring};
use self::console::Console;
use self::disks::Disks;
use self::forward::Published;
use self::hub::Wire;
use self::migrate::Migrations;
use self::pacer::Pacer;
use self::placement::Placement;
use self::rejoin::Rejoin;
use self::replaying::Replaying;
use self::replica::Replica;
use self::requests::Requests;
use self::resync::Resync;
use self::scribe::{Pen, Scribe};
use self::spec::{RunName, Spec};
use self::storage::Storage;
use self::token::Source;
use self::uplink::Uplink;
use crate::code_names::SymbolFile;
use crate::ctl::{DivergenceStatus, EventStatus, GuestStoppedStatus, PairStatus, ReplayStatus};
use crate::error::{Context, Error, Result};
use crate::state::{State, StateDir};

/// Events taken from the system at once.
const EVENTS_A_TURN: usize = 1024;
/// Things that happened, kept for `status`.
const MAX_HAPPENINGS: usize = 256;
/// How often one turn tries to send the rest of what did not fit into QEMU's socket.
const SENDS_A_TURN: usize = 8;
const NS_PER_MS: u64 = 1_000_000;

/// What a supervisor tells the command that started it: one line, once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The pair serves.
    Serving(Box<PairStatus>),
    /// A log was run again, to its end or to where it was to be stopped.
    Replayed(Box<ReplayStatus>),
    /// It does not, and the supervisor has ended.
    Failed {
        /// Why.
        text: String,
        /// The exit code for it.
        code: u8,
    },
}

/// Runs a supervisor: the hidden subcommand. The [`Spec`] comes on standard input, the [`Outcome`] goes to standard
/// output, the log to standard error.
///
/// # Errors
/// Why the pair did not start; the outcome has been told then.
pub fn main() -> Result<()> {
    detach();
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context(|| "cannot read what to run")?;
    let spec: Spec =
        serde_json::from_str(&text).map_err(|error| Error::Usage(format!("not a supervisor's input: {error}")))?;
    let result = Supervisor::start(spec).and_then(|mut supervisor| supervisor.run());
    if let Err(error) = &result {
        report::tell_starter(&Outcome::Failed { text: error.to_string(), code: error.exit_code() });
    }
    result
}

/// Lets the supervisor outlive the terminal that it was started from, by a process group of its own, which a terminal's
/// interrupts and hang-ups do not reach.
///
/// Not by a session of its own: to Linux that is a group of processes to be scheduled for itself (autogroup). With
/// several pairs at work on two processors, groups then waited for each other for up to seconds, and replicas took each
/// other for dead (see ARCHITECTURE.md).
fn detach() {
    // Fails for the leader of a session, which needs no group of its own.
    let _ = rustix::process::setpgid(None, None);
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// How far the start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Replicas boot and pair.
    Starting,
    /// The guest's ports are tried.
    Probing,
    /// The guest waits for clients, who wait for the first checkpoint to be on the disk.
    Securing,
    /// Clients are served.
    Serving,
    /// A log was run again, and that was all; a debugger may look at the guest.
    Replayed,
    /// The end was asked for; since when.
    Ending {
        /// When processes are ended that have not stopped by themselves.
        deadline_ns: u64,
    },
}

/// A pair and everything around it.
struct Supervisor {
    spec: Spec,
    dir: StateDir,
    /// Held as long as the pair is up.
    lock: Option<File>,
    poll: Poll,
    started: Instant,
    phase: Phase,
    start_ms: u64,
    replicas: [Option<Replica>; 2],
    /// Both ends of the replication link, duplicated: to cut it, and to hand a dead replica's to the next one.
    link: Option<[StdUnixStream; 2]>,
    /// The link is of no more use.
    link_cut: bool,
    rejoin: Rejoin,
    migrations: Migrations,
    resync: Resync,
    checkpoints: Checkpoints,
    /// What outlives both replicas.
    storage: Option<Storage>,
    /// A recording whose rest is being written.
    closing: Option<JoinHandle<()>>,
    waker: Arc<Waker>,
    /// The log that the restored replica runs before it goes on, or instead of that.
    replaying: Option<Replaying>,
    /// When the start last came on.
    progress_ns: u64,
    /// The checkpoint that the first replica is brought to, until it has all of it.
    restoring: Option<Restoring>,
    wire: Wire,
    pacer: Pacer,
    placement: Placement,
    uplink: Uplink,
    /// That the uplink is of no more use has been told.
    uplink_failed: bool,
    arbiter: Arbiter,
    disks: Disks,
    /// Which of them were blank at the start, as every shim is told.
    blank_disks: u8,
    /// Last epochs of replicas that have ended with nothing under way.
    orderly_ends: [Option<u64>; 2],
    /// Who is ended before the other's request to the arbiter is answered.
    fenced_off: Option<(ReplicaId, ArbiterRequest)>,
    /// A shim was told how to run: its guest may have written to disks.
    configured: bool,
    console: Console,
    /// The guest's symbols, as the guest was started.
    symbols: SymbolFile,
    log: Pen,
    scribe: Scribe,
    requests: Requests,
    session: u64,
    pair_id: u64,
    entropy: [u8; 32],
    happenings: VecDeque<EventStatus>,
    ended: Vec<crate::ctl::EndedStatus>,
    guest_stopped: Option<GuestStoppedStatus>,
    /// What replicas that came apart have shown of their memory, until it is compared.
    shown: [divergence::Shown; 2],
    divergence: Option<DivergenceStatus>,
    /// What two replicas that do not match have said about it.
    refusal: Option<String>,
    /// The command that started us is still there.
    starter_waits: bool,
    /// Next time to tell the shims the wall clock.
    clock_due_ns: u64,
}

impl Supervisor {
    fn start(spec: Spec) -> Result<Self> {
        let dir = StateDir::new(&spec.name)?;
        dir.create()?;
        let lock = dir.lock()?;
        let abandoned = arbiter::read(&dir.file("arbiter"));
        dir.clear();
        // The log is ours from here on; what an earlier pair of this name wrote is of no use. One that is not a file
        // stays as it is.
        let _ = rustix::fs::ftruncate(io::stderr(), 0);
        // Judged as a whole before anything is started.
        let poll = Poll::new().context(|| "cannot make an event loop")?;
        let waker = Waker::new(poll.registry(), Token(token::THREADS)).context(|| "cannot make an event loop")?;
        let waker = Arc::new(waker);
        let [session, pair_id, seed, lineage] = random_words()?;
        let (storage, restoring, replaying) = replaying::open(&spec, lineage, &waker)?;
        let published = bind(&spec)?;
        let mut storage = storage;
        let disks = claim_disks(&spec, restoring.as_ref(), storage.as_mut())?;
        // A guest that goes on was told when it began.
        let blank_disks = if restoring.is_some() { 0 } else { disks.blank()? };
        let device = uplink::open_device(&spec)?;
        let started = Instant::now();
        let registry = || poll.registry().try_clone().context(|| "cannot make an event loop");
        let requests = Requests::listen(&dir, registry()?)?;
        let supervisor_pid = rustix::process::getpid().as_raw_nonzero().get();
        dir.write(&State { supervisor_pid, app: spec.app.clone(), image: spec.image.clone() })?;
        let paired = spec.run == RunName::Pair && restoring.is_none();
        let mode = if paired { Mode::Paired } else { Mode::Solo };
        let scribe = Scribe::start().context(|| "cannot start a thread")?;
        let arbiter = Arbiter::create(&dir.file("arbiter"), mode, &scribe)?;
        let goes_on_as_pair = restoring.is_some() && spec.run == RunName::Pair;
        let goes_on = restoring.as_ref().map_or((0, 0), |from| (from.state.frames_out, from.state.console_offset));
        let symbols = SymbolFile::note(spec.guest_elf.as_deref());
        dir.write_symbols(&symbols)?;
        let console = File::create(dir.console_log()).context(|| "cannot write the console's log")?;
        let console = Console::new(scribe.pen(console), goes_on.1);
        let log = File::from(io::stderr().as_fd().try_clone_to_owned().context(|| "cannot write the log")?);
        let uplink = Uplink::new(&spec, &dir, device, published, registry()?, seed)?;
        let record = arbiter.record();
        let mut supervisor = Self {
            pacer: Pacer::new(poll.registry()).context(|| "cannot make a timer")?,
            placement: Placement::new(spec.placement),
            wire: Wire::new(session, record.generation, record.active, goes_on.0),
            restoring,
            spec,
            dir,
            lock: Some(lock),
            poll,
            started,
            phase: Phase::Starting,
            start_ms: 0,
            replicas: [None, None],
            link: None,
            link_cut: false,
            rejoin: Rejoin::new(session, goes_on_as_pair),
            resync: Resync::new(waker.clone()),
            migrations: Migrations::default(),
            checkpoints: Checkpoints::default(),
            storage,
            closing: None,
            waker,
            replaying,
            progress_ns: 0,
            uplink,
            uplink_failed: false,
            arbiter,
            disks,
            blank_disks,
            orderly_ends: [None, None],
            fenced_off: None,
            configured: false,
            console,
            symbols,
            log: scribe.pen(log),
            scribe,
            requests,
            session,
            pair_id,
            entropy: random_bytes()?,
            happenings: VecDeque::new(),
            ended: Vec::new(),
            guest_stopped: None,
            shown: Default::default(),
            divergence: None,
            refusal: None,
            starter_waits: true,
            clock_due_ns: 0,
        };
        if let Some(record) = abandoned {
            supervisor.happened(format!(
                "an earlier pair of this name was not taken down; it ended in generation {} with its state",
                record.generation
            ));
        }
        supervisor.start_replicas()?;
        supervisor.watch_starter();
        Ok(supervisor)
    }

    fn start_replicas(&mut self) -> Result<()> {
        let mut links = [None, None];
        // The second one of a restored pair is brought in when the first one serves.
        let count = if self.restoring.is_some() { 1 } else { self.spec.run.replicas() };
        if self.spec.run == RunName::Pair {
            let (zero, one) = replica::socket_pair()?;
            let copy = |stream: &StdUnixStream| stream.try_clone().context(|| "cannot copy the link's socket");
            self.link = Some([copy(&zero)?, copy(&one)?]);
            links = [Some(zero), Some(one)];
        }
        for (id, link) in [ReplicaId::ZERO, ReplicaId::ONE].into_iter().zip(links).take(count) {
            let replica = Replica::start(id, &self.spec, &self.dir, link, self.disks.locks(), self.poll.registry())?;
            self.happened(format!("replica {id} started as process {}", replica.vm.pid()));
            self.replicas[id.index()] = Some(replica);
        }
        Ok(())
    }

    /// Notices when the command that waits for us goes away. What cannot be watched (a file) stays.
    fn watch_starter(&mut self) {
        let stdout = std::os::fd::AsRawFd::as_raw_fd(&io::stdout());
        let _ = self.poll.registry().register(&mut SourceFd(&stdout), Token(token::STARTER), Interest::WRITABLE);
    }

    fn unwatch_starter(&mut self) {
        self.starter_waits = false;
        let stdout = std::os::fd::AsRawFd::as_raw_fd(&io::stdout());
        let _ = self.poll.registry().deregister(&mut SourceFd(&stdout));
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS_A_TURN);
        let mut due_ns = Some(0u64);
        loop {
            let timeout = due_ns.map(|due| Duration::from_nanos(due.saturating_sub(self.now_ns())));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(Error::Io { what: "the event loop failed".to_owned(), source: error });
                }
                _ => {}
            }
            let now_ns = self.now_ns();
            for event in &events {
                self.dispatch(event, now_ns);
            }
            let mut data_due_ns = self.move_data(now_ns);
            self.look_after_failures();
            let members_due_ns = self.look_after_members(now_ns);
            let mirrors_due_ns = self.look_after_mirrors(now_ns);
            let rejoin_due_ns = self.look_after_rejoin(now_ns);
            self.look_after_migration();
            self.look_after_checkpoints();
            let storage_due_ns = self.look_after_storage(now_ns);
            self.look_after_replay(now_ns);
            let phase = self.phase;
            if self.advance_phase(now_ns)? {
                return Ok(());
            }
            if self.phase != phase {
                // There is something new to be sent: probes, or clients that waited.
                data_due_ns = self.move_data(now_ns);
            }
            due_ns = [data_due_ns, members_due_ns, mirrors_due_ns, rejoin_due_ns, storage_due_ns, self.phase_due_ns()]
                .into_iter()
                .flatten()
                .min();
        }
    }

    /// Tells of the uplink's end, once, and of files that cannot be written.
    fn look_after_failures(&mut self) {
        if let Some(error) = self.scribe.failure() {
            self.happened(format!("cannot write a file of the pair: {error}"));
        }
        if let (false, Some(failure)) = (self.uplink_failed, self.uplink.failure()) {
            self.uplink_failed = true;
            self.happened(failure);
        }
    }

    fn dispatch(&mut self, event: &mio::event::Event, now_ns: u64) {
        match token::source(event.token().0) {
            Source::Pipe(index) => self.uplink.pipe_ready(index, event),
            Source::Datagram(index) => self.uplink.datagram_ready(index, now_ns),
            Source::Net(id) if event.is_readable() || event.is_read_closed() => self.read_port(id, now_ns),
            Source::Pacer => self.pacer.clear(),
            // Looked after at the end of the turn, as a port that has become writable is.
            Source::Net(_) | Source::Threads | Source::Unknown => {}
            Source::Listener(index) => self.uplink.listener_ready(index),
            Source::Device => self.uplink.device_ready(),
            Source::Control(id) => self.control_ready(id, now_ns),
            Source::Process(id) => self.process_ended(id, now_ns),
            Source::Requests => self.requests.accept(),
            Source::Client(index) => self.serve_client(index, now_ns),
            Source::Starter if event.is_error() || event.is_write_closed() => self.starter_left(now_ns),
            Source::Starter => {}
        }
    }

    /// Takes what a replica's guest has sent.
    fn read_port(&mut self, id: ReplicaId, now_ns: u64) {
        let Some(replica) = &mut self.replicas[id.index()] else {
            return;
        };
        let Some(port) = &mut replica.port else {
            return;
        };
        let (wire, uplink) = (&mut self.wire, &mut self.uplink);
        let result =
            port.read(|packet| wire.take_packet(id, packet, |wire, frame| uplink.receive(now_ns, frame, wire)));
        if let Err(error) = result {
            self.port_failed(id, &error);
        }
    }

    fn port_failed(&mut self, id: ReplicaId, error: &io::Error) {
        let port = self.replicas[id.index()].as_mut().and_then(|replica| replica.port.take());
        if port.is_some() {
            self.socket_failed(id, &format!("network device: {error}"));
        }
    }

    /// Runs the uplink and sends what it has for the guest. Returns when to do so again at the latest.
    fn move_data(&mut self, now_ns: u64) -> Option<u64> {
        let accepting = matches!(self.phase, Phase::Serving);
        for _ in 0..SENDS_A_TURN {
            let due_ns = self.uplink.run(now_ns, &mut self.wire, accepting);
            let had_room = netstack::FrameSink::has_room(&self.wire);
            self.flush_wire(now_ns);
            // Only when frames found no room before and would now is there a reason to go on at once.
            if had_room || !netstack::FrameSink::has_room(&self.wire) {
                return due_ns;
            }
        }
        Some(now_ns)
    }

    fn flush_wire(&mut self, now_ns: u64) {
        let id = self.wire.active();
        let Some(Replica { port: Some(port), .. }) = &mut self.replicas[id.index()] else {
            return;
        };
        match self.wire.flush(port, now_ns) {
            Ok(None) => {}
            Ok(Some(until_ns)) => self.pacer.set(until_ns.saturating_sub(now_ns)),
            Err(error) => self.port_failed(id, &error),
        }
    }

    /// Writes a line to the log and to the list that `status` shows.
    fn happened(&mut self, text: String) {
        let at_ms = self.started.elapsed().as_secs_f64() * 1e3;
        self.log.append(format!("{at_ms:10.3} ms  {text}\n").into_bytes());
        if self.happenings.len() == MAX_HAPPENINGS {
            self.happenings.pop_front();
        }
        self.happenings.push_back(EventStatus { at_ms, text });
    }
}

/// The guest's disks: as they are, or as the checkpoint that it goes on from wants them.
fn claim_disks(spec: &Spec, restoring: Option<&Restoring>, storage: Option<&mut Storage>) -> Result<Disks> {
    if spec.replay.is_some() {
        // A log that is run for itself needs none, and must not touch any.
        return Ok(Disks::default());
    }
    let Some(restoring) = restoring else { return Disks::claim(spec, spec.run.replicas()) };
    // The second replica of a restored pair is a newcomer, and gets its mirrors as one.
    match storage.filter(|_| restoring.leaves_disks_to_log() && spec.restore.as_deref().is_some_and(Path::is_dir)) {
        Some(storage) => {
            restoring.check_disks(spec)?;
            let disks = Disks::claim_for_log(spec, &storage.stretch_from(restoring.header.epoch))?;
            storage.goes_on_with_disks();
            Ok(disks)
        }
        None => {
            restoring.restore_disks(spec)?;
            Disks::claim(spec, 1)
        }
    }
}

/// Listens on the published ports before anything is started: a port in use is the commonest failure.
fn bind(spec: &Spec) -> Result<Vec<Published>> {
    let mut published = Vec::with_capacity(spec.publish.len());
    for port in &spec.publish {
        let address = std::net::SocketAddr::new(port.address, port.host);
        let failed = |source| Error::PortInUse { address: address.to_string(), source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        // Connections may wait in a longer queue than the standard library asks for.
        let _ = rustix::net::listen(&listener, 1024);
        published.push(Published::new(listener, port.guest).map_err(failed)?);
    }
    Ok(published)
}

fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let source = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    source.context(|| "cannot read /dev/urandom")?;
    Ok(bytes)
}

fn random_words<const N: usize>() -> Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        *word = u64::from_le_bytes(random_bytes()?);
    }
    Ok(words)
}
