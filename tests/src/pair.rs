//! A pair that a test has started with the real command.
//!
//! Every pair has a state folder of its own and lets the system choose its ports, so that tests do not meet. A pair is
//! taken down when it is dropped, also by a test that panics, which then prints the logs; and every QEMU that it ever
//! had must be gone then. Should the test process itself be killed, a watchman (a shell that waits for the end of a
//! pipe) takes the pair down.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::status::{Role, Status};
use crate::workbench::{COUNTED, HPPA, Permit, Watch, command_line, command_path, image, send_signal, wait_for_end};

/// What takes longer never happens: generous, because the machine may be busy. No test passes sooner or later for it.
pub const DEADLINE: Duration = Duration::from_secs(40);
/// A shim tells its state this often; what is not an event shows within it.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
/// The option that says what is done when a replica is lost.
const REJOIN: &str = "--rejoin";
/// The name of every pair within its own folder.
const NAME: &str = "e2e";

/// How a pair is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The app, built if need be, unless `image` is given; see [`image`] for what may stand behind its name.
    pub app: String,
    /// Another image than the app's.
    pub image: Option<PathBuf>,
    /// The manifest of an ordinary program, which `up` itself builds, instead of an app or an image.
    pub manifest: Option<PathBuf>,
    /// Guest ports to publish.
    pub ports: Vec<u16>,
    /// Further arguments of `up`.
    pub arguments: Vec<String>,
    /// How many of the permits to run pairs it takes; 0 when the test holds one already.
    pub weight: u32,
    /// Started from a terminal, which is gone when `up` has ended.
    pub terminal: bool,
}

impl Options {
    /// The app with the port that it listens on.
    pub fn new(app: &str) -> Self {
        let ports = match app.trim_end_matches(COUNTED).trim_end_matches(HPPA) {
            "kv" => vec![6379],
            "echo" => vec![7],
            "probe" | "dhrystone" | "diskload" | "checkpoints" => vec![7000],
            _ => Vec::new(),
        };
        Self {
            app: app.to_owned(),
            image: None,
            manifest: None,
            ports,
            arguments: Vec::new(),
            weight: 1,
            terminal: false,
        }
    }

    /// With further arguments of `up`.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Without published ports.
    #[must_use]
    pub fn unpublished(mut self) -> Self {
        self.ports.clear();
        self
    }

    /// Alone on the machine, for tests under load.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.weight = u32::MAX;
        self
    }

    /// Under a permit that the test holds.
    #[must_use]
    pub fn under_permit(mut self) -> Self {
        self.weight = 0;
        self
    }
}

/// How a command failed.
#[derive(Debug)]
pub struct Failure {
    /// Its exit code.
    pub code: i32,
    /// What it wrote to stderr.
    pub text: String,
}

/// A state folder and everything that runs out of it.
#[derive(Debug)]
pub struct Pair {
    root: PathBuf,
    watchman: Child,
    /// QEMU processes that were ever seen.
    pids: BTreeSet<i32>,
    supervisor_pid: Option<i32>,
    _permit: Permit,
}

impl Pair {
    /// Starts an app and waits until it serves.
    ///
    /// # Panics
    /// When it does not; the logs are printed.
    pub fn up(options: &Options) -> Self {
        let mut pair = Self::prepare(options);
        let mut starting = pair.spawn_up(options);
        if let Err(failure) = pair.finish_up(&mut starting) {
            panic!("`cargo pollux up` failed ({}): {}", failure.code, failure.text);
        }
        pair
    }

    /// Starts an app that must not come up, and returns what the command said.
    ///
    /// # Panics
    /// When it does come up, or leaves a process behind.
    pub fn refused(options: &Options) -> Failure {
        let mut pair = Self::prepare(options);
        let mut starting = pair.spawn_up(options);
        match pair.finish_up(&mut starting) {
            Ok(status) => panic!("`cargo pollux up` should have failed: {status:#?}"),
            Err(failure) => failure,
        }
    }

    /// Begins to start an app; the test goes on while it does. [`finish_up`](Self::finish_up) ends it.
    pub fn begin(options: &Options) -> (Self, Child) {
        let pair = Self::prepare(options);
        let starting = pair.spawn_up(options);
        (pair, starting)
    }

    /// A state folder in which nothing has been started.
    pub fn nothing() -> Self {
        Self::prepare(&Options { image: Some(PathBuf::new()), weight: 0, ..Options::new("") })
    }

    fn prepare(options: &Options) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Built before the permit is taken: a build is not a pair.
        if options.image.is_none() && options.manifest.is_none() {
            image(&options.app);
        }
        let permit = Permit::take(options.weight);
        let folder = format!("pollux-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(folder);
        fs::create_dir_all(root.join(NAME)).expect("a state folder");
        // Written by the supervisor; made here so that it can be watched from the start.
        fs::write(root.join(NAME).join("supervisor.log"), "").expect("a file in it");
        let watchman = Command::new("sh")
            .args(["-c", r#"cat; "$0" down --name "$1"; rm -rf "$POLLUX_STATE_DIR""#])
            .arg(command_path())
            .arg(NAME)
            .env("POLLUX_STATE_DIR", &root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell starts");
        Self { root, watchman, pids: BTreeSet::new(), supervisor_pid: None, _permit: permit }
    }

    fn spawn_up(&self, options: &Options) -> Child {
        let mut command = self.command(&["up", "--name", NAME, "--json"]);
        match &options.manifest {
            Some(manifest) => command.arg("--manifest-path").arg(manifest),
            None => command.arg("--image").arg(options.image.clone().unwrap_or_else(|| image(&options.app))),
        };
        for port in &options.ports {
            command.args(["--publish", &format!("0:{port}")]);
        }
        // What is left after a failure is looked at, unless a test is about what comes next.
        if !options.arguments.iter().any(|argument| argument == REJOIN) {
            command.args([REJOIN, "manual"]);
        }
        // Last, because they may end in the program's own.
        command.args(&options.arguments);
        if options.terminal {
            command = in_terminal(&command);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the pollux command starts")
    }

    /// Waits for the end of `up`.
    ///
    /// # Errors
    /// What it said when it failed.
    ///
    /// # Panics
    /// When it prints something other than a status.
    pub fn finish_up(&mut self, starting: &mut Child) -> Result<Status, Failure> {
        let mut text = String::new();
        let mut errors = String::new();
        let streams = (starting.stdout.take().expect("piped"), starting.stderr.take().expect("piped"));
        // Short texts: neither fills its pipe while the other is read.
        let (mut out, mut err) = streams;
        out.read_to_string(&mut text).expect("`up` writes UTF-8");
        err.read_to_string(&mut errors).expect("`up` writes UTF-8");
        let ended = starting.wait().expect("`up` ends");
        if !ended.success() {
            return Err(Failure { code: ended.code().unwrap_or(-1), text: errors });
        }
        let status: Status = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
        self.remember(&status);
        Ok(status)
    }

    fn remember(&mut self, status: &Status) {
        self.pids.extend(status.replicas.iter().map(|replica| replica.pid));
        self.pids.extend(status.ended.iter().map(|ended| ended.pid));
        self.supervisor_pid = Some(status.supervisor_pid);
    }

    /// The state folder, in which every pair has a folder of its own.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The pair's folder.
    pub fn folder(&self) -> PathBuf {
        self.root.join(NAME)
    }

    /// A `pollux` command about this pair's folder; the name is not added.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(command_path());
        command.args(arguments).env("POLLUX_STATE_DIR", &self.root).stdin(Stdio::null());
        command
    }

    /// Runs a `pollux` command about this pair.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).args(["--name", NAME]).output().expect("the pollux command starts")
    }

    /// Runs a command that must succeed, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`pollux {}` failed: {errors}", arguments.join(" "));
        String::from_utf8(output.stdout).expect("the command writes UTF-8")
    }

    /// Injects a fault, such as `cut-link`.
    ///
    /// # Panics
    /// When the command fails.
    pub fn fault(&self, fault: &[&str]) {
        let output = self.command(&["fault", "--name", NAME]).args(fault).output().expect("the pollux command starts");
        assert!(output.status.success(), "`cargo pollux fault {fault:?}`: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// How the pair is doing, asked of the supervisor itself; `None` when there is none.
    pub fn try_status(&mut self) -> Option<Status> {
        let mut stream = BufReader::new(UnixStream::connect(self.folder().join("ctl.sock")).ok()?);
        stream.get_ref().set_read_timeout(Some(DEADLINE)).ok()?;
        stream.get_mut().write_all(b"{\"request\":\"status\"}\n").ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let answer: serde_json::Value = serde_json::from_str(&line).ok()?;
        let status: Status = serde_json::from_value(answer.get("status")?.clone()).expect("a status as promised");
        self.remember(&status);
        Some(status)
    }

    /// How the pair is doing.
    ///
    /// # Panics
    /// When there is no supervisor.
    pub fn status(&mut self) -> Status {
        self.try_status().expect("the supervisor answers")
    }

    /// Waits until `find` finds something in the status. Looks whenever the supervisor logs something, and as often as
    /// the shims tell their state.
    ///
    /// # Panics
    /// When it does not within [`DEADLINE`], or when there is no supervisor.
    pub fn wait_until<T>(&mut self, what: &str, mut find: impl FnMut(&Status) -> Option<T>) -> T {
        let watch = Watch::new(&self.folder().join("supervisor.log"));
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.status();
            if let Some(found) = find(&status) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what} did not happen within {DEADLINE:?}: {status:#?}");
            watch.wait(STATUS_INTERVAL);
        }
    }

    /// Waits until something was logged, and returns its line.
    ///
    /// # Panics
    /// When it was not within [`DEADLINE`].
    pub fn wait_for_event(&self, text: &str) -> String {
        wait_for_line(&self.folder().join("supervisor.log"), text)
    }

    /// Waits until the guest has printed something, and returns its line.
    ///
    /// # Panics
    /// When it has not within [`DEADLINE`].
    pub fn wait_for_console(&self, text: &str) -> String {
        wait_for_line(&self.folder().join("console.log"), text)
    }

    /// Waits until the pair has gone on with one replica in this generation; returns its status then.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_solo(&mut self, generation: u64) -> Status {
        self.wait_until(&format!("going on alone in generation {generation}"), |status| {
            let alone = status.mode == "solo" && status.generation == generation;
            let runs = |role| status.replica(role).is_some_and(|r| r.state == "running" || r.state == "waiting");
            (alone && runs(Role::Primary)).then(|| status.clone())
        })
    }

    /// As [`wait_for_solo`](Self::wait_for_solo), and until the other replica's process is known to have ended: its
    /// connections may break before.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_survivor(&mut self, generation: u64) -> Status {
        self.wait_for_solo(generation);
        self.wait_until("the end of the other replica", |status| (status.replicas.len() == 1).then(|| status.clone()))
    }

    /// Waits until the pair is complete in this generation and both replicas run; returns its status then.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_pair(&mut self, generation: u64) -> Status {
        self.wait_until(&format!("a pair in generation {generation}"), |status| {
            let runs = |role| status.replica(role).is_some_and(|r| r.state == "running" || r.state == "waiting");
            let both = runs(Role::Primary) && runs(Role::Backup);
            (status.mode == "paired" && status.generation == generation && both).then(|| status.clone())
        })
    }

    /// Sends a signal (`KILL`, `STOP`, `CONT`) through the command; returns the process that got it.
    ///
    /// # Panics
    /// When the command fails.
    pub fn kill(&self, role: Role, signal: &str) -> i32 {
        let text = self.must(&["kill", role.name(), "--signal", signal]);
        text.trim().parse().unwrap_or_else(|_| panic!("`cargo pollux kill` printed {text:?}, not a process id"))
    }

    /// Kills every QEMU at once, without the supervisor's help, and waits for their ends.
    ///
    /// # Panics
    /// When there is none, or one does not end.
    pub fn kill_machines(&mut self) {
        let pids: Vec<i32> = self.status().replicas.iter().map(|replica| replica.pid).collect();
        assert!(!pids.is_empty(), "nothing left to kill");
        pids.iter().for_each(|&pid| send_signal(pid, Signal::KILL));
        pids.iter().for_each(|&pid| assert!(wait_for_end(pid, DEADLINE), "process {pid} is gone"));
    }

    /// Starts a store again from a checkpoint, or from a folder with checkpoints and a log.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restore(&self, from: &Path, arguments: &[&str]) -> Status {
        let from = from.to_str().expect("UTF-8");
        let restore = [&["restore", from, "--publish", "0:6379", "--json"], arguments].concat();
        serde_json::from_str(&self.must(&restore)).expect("a status")
    }

    /// Where a guest's port is reached.
    ///
    /// # Panics
    /// When it is not published.
    pub fn address(&mut self, guest_port: u16) -> SocketAddr {
        let status = self.status();
        let port = status.publish.iter().find(|port| port.guest == guest_port).expect("a published port");
        SocketAddr::from(([127, 0, 0, 1], port.host))
    }

    /// Everything that the guest has printed.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.folder().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The supervisor's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("supervisor.log")).unwrap_or_default()
    }

    /// Process ids of the QEMUs that were started, in their order, from the log: known before the pair serves.
    pub fn started_pids(&self) -> Vec<i32> {
        let log = self.log();
        let after = log.lines().filter_map(|line| line.split_once(" started as process ").map(|(_, pid)| pid));
        after.filter_map(|pid| pid.trim().parse().ok()).collect()
    }

    /// The processes that must be gone in the end and are not.
    fn left_over(&mut self) -> Vec<i32> {
        self.pids.extend(self.started_pids());
        let ours = format!("pollux-{NAME}-");
        let mut left = Vec::new();
        for &pid in &self.pids {
            // A number that was given to another process meanwhile is none of ours.
            if !wait_for_end(pid, Duration::ZERO) && command_line(pid).contains(&ours) {
                left.push(pid);
            }
        }
        left
    }

    fn print_logs(&self) {
        for name in ["supervisor.log", "console.log"].into_iter().map(str::to_owned).chain(
            (0..2).flat_map(|replica| [format!("replica{replica}.debug.log"), format!("replica{replica}.qemu.log")]),
        ) {
            let text = fs::read(self.folder().join(&name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let from = lines.len().saturating_sub(60);
            println!("--- {name} ({} lines)\n{}", lines.len(), lines[from..].join("\n"));
        }
    }

    /// Takes the pair down by the command, which must say goodbye within its own time, and checks that nothing is left.
    ///
    /// # Panics
    /// When it fails.
    pub fn down(mut self) {
        self.must(&["down"]);
        let left = self.left_over();
        assert!(left.is_empty(), "QEMU processes {left:?} are left after `down`");
    }
}

/// Waits until a line of a file contains `text`; the file may not exist yet, its folder must.
///
/// # Panics
/// When it does not within [`DEADLINE`].
pub fn wait_for_line(path: &Path, text: &str) -> String {
    let watch = Watch::new(path.parent().expect("a file in a folder"));
    let deadline = Instant::now() + DEADLINE;
    loop {
        let bytes = fs::read(path).unwrap_or_default();
        let contents = String::from_utf8_lossy(&bytes);
        if let Some(line) = contents.lines().find(|line| line.contains(text)) {
            return line.to_owned();
        }
        assert!(Instant::now() < deadline, "{text:?} is not in {} after {DEADLINE:?}", path.display());
        watch.wait(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        // It may have ended already, which is as good.
        let _ = self.run(&["down"]);
        if let Some(pid) = self.supervisor_pid {
            wait_for_end(pid, DEADLINE);
        }
        let left = self.left_over();
        for &pid in &left {
            if let Some(pid) = Pid::from_raw(pid) {
                // Ours by its command line; it may just be ending.
                let _ = kill_process(pid, Signal::KILL);
            }
            wait_for_end(pid, DEADLINE);
        }
        drop(self.watchman.stdin.take());
        let _ = self.watchman.wait();
        assert!(left.is_empty() || std::thread::panicking(), "QEMU processes {left:?} outlived their pair");
    }
}

/// The same command with a terminal of its own, which is hung up when it has ended.
fn in_terminal(command: &Command) -> Command {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
    let mut terminal = Command::new("script");
    // Standard error would reach the same terminal.
    terminal.args(["--quiet", "--return", "--command", &format!("{} 2>/dev/null", words.join(" ")), "/dev/null"]);
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    terminal
}
