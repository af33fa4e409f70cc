//! A pair from the point of view of a program that starts it, uses it and takes it down: `demo`, `bench`, tests.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::build::{Image, Target};
use crate::ctl::{Client, PairStatus, ReplayStatus, Request, Response, RoleName, SignalName, to_line};
use crate::error::{Context, Error, Result};
use crate::qemu::{Accelerator, Machine};
use crate::state::StateDir;
use crate::supervise::Outcome;
use crate::supervise::net::Net;
use crate::supervise::spec::{
    BackupOverrides, HostOptions, PlacementName, ProtocolName, Publish, RejoinName, RunName, Spec, Tuning,
};

/// Names the program that supervises, when it is not the running one.
pub const PROGRAM_VARIABLE: &str = "POLLUX_BIN";
/// Memory of a guest unless told otherwise.
pub const DEFAULT_MEMORY_MIB: u32 = 64;
/// See [`Spec::patient`].
const HPPA_FAILURE_TIMEOUT_MS: u64 = 2_000;
/// How often a condition on the status is looked at. The status itself comes ten times a second.
const STATUS_INTERVAL: Duration = Duration::from_millis(5);

impl Spec {
    /// An image under a name, with every choice as `up` makes it when it is told nothing.
    ///
    /// # Errors
    /// The image's path cannot be made absolute.
    pub fn new(name: impl Into<String>, image: Image) -> Result<Self> {
        let path = std::path::absolute(&image.image);
        let (machine, accelerator) = match image.target {
            Target::X86_64 | Target::Hermit => (Machine::Microvm, Accelerator::Auto.resolve()?),
            Target::Hppa => (Machine::B160l, Accelerator::Tcg),
        };
        Ok(Self {
            name: name.into(),
            app: image.app,
            image: path.context(|| format!("cannot use {}", image.image.display()))?,
            image_id: image.image_id,
            guest_elf: image.guest_elf,
            run: RunName::Pair,
            ends_with_starter: false,
            restore: None,
            rejoin: RejoinName::default(),
            placement: PlacementName::default(),
            protocol: ProtocolName::Revised,
            epoch: image.epoch,
            check_determinism: false,
            memory_mib: DEFAULT_MEMORY_MIB,
            accelerator,
            machine,
            net: Net::Forward,
            publish: Vec::new(),
            allow_host: false,
            arguments: String::new(),
            environment: Vec::new(),
            tuning: Tuning::default(),
            disks: Vec::new(),
            disk_faults: Vec::new(),
            qemu_args: Vec::new(),
            backup: BackupOverrides::default(),
            host: HostOptions::default(),
            storage: None,
            replay: None,
        })
    }

    /// Bears the silence of a replica on PA-RISC longer than others': it is emulated several times as slowly, and on a busy host
    /// must not be taken for dead. One whose process ends is noticed at once all the same.
    #[must_use]
    pub fn patient(mut self) -> Self {
        if self.machine == Machine::B160l {
            self.tuning.failure_timeout_ms = self.tuning.failure_timeout_ms.max(HPPA_FAILURE_TIMEOUT_MS);
        }
        self
    }

    /// Leaves a survivor alone: a machine that boots beside it would take part in what is measured.
    #[must_use]
    pub fn staying_alone(mut self) -> Self {
        self.rejoin = RejoinName::Manual;
        self
    }

    /// Publishes a port of the guest at a port of the loopback that the system chooses.
    #[must_use]
    pub fn publishing(mut self, guest: u16) -> Self {
        self.publish.push(Publish { address: [127, 0, 0, 1].into(), host: 0, guest });
        self
    }
}

/// What a supervisor that ends with its starter watches: it is open for as long as the pair is wanted.
type Tie = BufReader<ChildStdout>;

/// Starts a supervisor, which goes on when we end, and waits until the pair serves.
///
/// # Errors
/// Why it does not; the supervisor has ended then.
pub fn start(spec: &Spec) -> Result<PairStatus> {
    start_tied(&Spec { ends_with_starter: false, ..spec.clone() }).map(|(status, _)| status)
}

fn start_tied(spec: &Spec) -> Result<(PairStatus, Tie)> {
    let dir = StateDir::new(&spec.name)?;
    dir.create()?;
    let mut supervisor = spawn_supervisor(spec, &dir)?;
    let stdout = supervisor.stdout.take().ok_or_else(|| Error::Start("the supervisor has no output".to_owned()))?;
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    let read = stdout.read_line(&mut line);
    match read.ok().and_then(|_| serde_json::from_str(&line).ok()) {
        Some(Outcome::Serving(status)) => Ok((*status, stdout)),
        Some(Outcome::Replayed(_)) => Err(Error::Start("a replay was started as a pair".to_owned())),
        Some(Outcome::Failed { text, code }) => {
            // It ends by itself now; waiting for it leaves no zombie behind.
            let _ = supervisor.wait();
            Err(Error::from_supervisor(&spec.name, text, code))
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

/// Runs a stored log again and hands each stop to `told`. With a debugger there are two, and this returns when the supervisor
/// has ended; it ends with us.
///
/// # Errors
/// Why nothing was run, or what `told` says.
pub fn replay(spec: &Spec, mut told: impl FnMut(&ReplayStatus) -> Result<()>) -> Result<()> {
    let dir = StateDir::new(&spec.name)?;
    dir.create()?;
    let mut supervisor = spawn_supervisor(&Spec { ends_with_starter: true, ..spec.clone() }, &dir)?;
    let stdout = supervisor.stdout.take().ok_or_else(|| Error::Start("the supervisor has no output".to_owned()))?;
    let mut result = Err(Error::Start(format!(
        "the supervisor ended before the log was run; its log is {}",
        dir.supervisor_log().display()
    )));
    for line in BufReader::new(stdout).lines() {
        let line = line.context(|| "cannot hear the supervisor")?;
        result = match serde_json::from_str(&line) {
            Ok(Outcome::Replayed(status)) => told(&status),
            Ok(Outcome::Failed { text, code }) => Err(Error::from_supervisor(&spec.name, text, code)),
            _ => Err(Error::Start(format!("the supervisor said {line:?}"))),
        };
        if result.is_err() {
            break;
        }
    }
    let _ = supervisor.wait();
    if result.is_ok() {
        // It was for this alone; what cannot be removed does no harm.
        let _ = std::fs::remove_dir_all(dir.path());
    }
    result
}

fn spawn_supervisor(spec: &Spec, dir: &StateDir) -> Result<Child> {
    let log = dir.supervisor_log();
    // Appended to, not replaced: were another supervisor alive, it would be its log.
    let log_file = std::fs::File::options().create(true).append(true).open(&log);
    let log_file = log_file.context(|| format!("cannot write {}", log.display()))?;
    let mut supervisor = Command::new(program()?)
        .arg("supervise")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .context(|| "cannot start the supervisor")?;
    let text = to_line(spec)?;
    let sent = supervisor.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    sent.unwrap_or(Ok(())).context(|| "cannot talk to the supervisor")?;
    Ok(supervisor)
}

/// The `pollux` program: the one named by [`PROGRAM_VARIABLE`], the running one, or the one beside a running test.
///
/// # Errors
/// None of these is there.
pub fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        return Ok(named.into());
    }
    let own = std::env::current_exe().context(|| "cannot find the path of this program")?;
    if own.file_stem().is_some_and(|stem| stem == "pollux") {
        return Ok(own);
    }
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("pollux")).find(|path| path.is_file());
    beside.ok_or_else(|| {
        Error::Missing(format!(
            "found no pollux program beside {}: run `cargo build -p pollux` first or name one in {PROGRAM_VARIABLE}",
            own.display()
        ))
    })
}

/// A pair that is taken down when this is dropped, or when this program ends without doing so.
#[derive(Debug)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Its status when it began to serve.
    pub first_status: PairStatus,
    client: Client,
    _tie: Tie,
}

impl Running {
    /// Starts a pair and waits until it serves.
    ///
    /// # Errors
    /// Why it does not.
    pub fn start(spec: &Spec) -> Result<Self> {
        let (first_status, tie) = start_tied(&Spec { ends_with_starter: true, ..spec.clone() })?;
        Ok(Self { name: spec.name.clone(), first_status, client: Client::connect(Some(&spec.name))?, _tie: tie })
    }

    /// Where the host reaches a published port of the guest.
    ///
    /// # Errors
    /// As [`PairStatus::published`].
    pub fn address(&self, guest: u16) -> Result<SocketAddr> {
        self.first_status.published(guest)
    }

    /// The status now.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn status(&mut self) -> Result<PairStatus> {
        self.client.status()
    }

    /// Sends a signal to a replica's QEMU and returns its process id.
    ///
    /// # Errors
    /// There is no such replica any more.
    pub fn kill(&mut self, role: RoleName, signal: SignalName) -> Result<i32> {
        match self.client.ask(&Request::Kill { role, signal })? {
            Response::Killed { pid } => Ok(pid),
            other => Err(Error::Refused(format!("the supervisor answered {other:?}"))),
        }
    }

    /// The connection to its supervisor.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Asks the supervisor for something.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        self.client.ask(request)
    }

    /// Waits until the status is as wanted.
    ///
    /// # Errors
    /// It is not within `limit`; the error shows what happened instead.
    pub fn wait_until(&mut self, limit: Duration, wanted: impl Fn(&PairStatus) -> bool) -> Result<PairStatus> {
        let until = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if wanted(&status) {
                return Ok(status);
            }
            if Instant::now() > until {
                let happened: Vec<_> = status.events.iter().map(|event| event.text.as_str()).collect();
                return Err(Error::CheckFailed(format!(
                    "not within {} ms; what happened: {}",
                    limit.as_millis(),
                    happened.join(" | ")
                )));
            }
            std::thread::sleep(STATUS_INTERVAL);
        }
    }

    /// What the guest has written to its console.
    ///
    /// # Errors
    /// The system's.
    pub fn console(&self) -> Result<String> {
        let path = self.client.dir.console_log();
        let bytes = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Takes it down and waits until it is.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn down(mut self) -> Result<()> {
        self.client.ask(&Request::Down).map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.client.ask(&Request::Down);
    }
}
