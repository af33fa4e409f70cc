//! What the end-to-end tests share: the built command, the images, permits to run pairs, seeds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};

/// Pairs that run at once, unless `POLLUX_E2E_PAIRS` says otherwise: what two processors bear.
const PAIRS: u32 = 2;

/// The `pollux` command: `POLLUX_BIN`, or built by cargo in the profile that users run.
///
/// # Panics
/// When it cannot be built.
pub fn command_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| std::env::var_os("POLLUX_BIN").map_or_else(build_command, PathBuf::from))
}

fn build_command() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--package", "pollux", "--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "the pollux command cannot be built");
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let built = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executable = built.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?))).next_back();
    executable.expect("cargo names the executable that it built")
}

/// What the name of an app has behind it for the image that counts its ticks.
pub const COUNTED: &str = ".counted";
/// What the name of an app has behind it for the image for PA-RISC.
pub const HPPA: &str = ".hppa";

/// The image of an app: from the folder `POLLUX_IMAGES`, or built once in this process. With [`COUNTED`] behind its name
/// it is one that counts its ticks.
///
/// # Panics
/// When it cannot be built.
pub fn image(app: &str) -> PathBuf {
    static IMAGES: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    if let Some(folder) = std::env::var_os("POLLUX_IMAGES") {
        return PathBuf::from(folder).join(format!("{app}.img"));
    }
    let mut images = lock(&IMAGES);
    if let Some(path) = images.get(app) {
        return path.clone();
    }
    let kinds: [(&str, &[&str]); 2] = [(COUNTED, &["--counted"]), (HPPA, &["--target", "hppa"])];
    let kind = kinds.iter().find_map(|(suffix, options)| Some((app.strip_suffix(suffix)?, *options)));
    let (name, options) = kind.unwrap_or((app, &[]));
    let path = built(&[&[name], options].concat());
    images.insert(app.to_owned(), path.clone());
    path
}

/// The folder of an ordinary program of these tests, a crate outside the workspace.
pub fn program_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// What an ordinary program prints on this host, built by cargo with these options (`--release`), when it is told these words
/// and nothing on its standard input.
///
/// # Panics
/// When it cannot be built, or fails.
pub fn native(name: &str, options: &[&str], arguments: &[&str]) -> String {
    native_with(name, options, arguments, &[])
}

/// As [`native`], with these variables in its environment.
///
/// # Panics
/// As [`native`].
pub fn native_with(name: &str, options: &[&str], arguments: &[&str], variables: &[(&str, &Path)]) -> String {
    let output = Command::new("cargo")
        .args(["run", "--quiet", "--manifest-path"])
        .arg(program_folder(name).join("Cargo.toml"))
        .args(options)
        .arg("--")
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The image of an ordinary program, built once in this process.
///
/// # Panics
/// When it cannot be built.
pub fn program_image(name: &str) -> PathBuf {
    static IMAGES: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut images = lock(&IMAGES);
    if let Some(path) = images.get(name) {
        return path.clone();
    }
    let path = built(&["--manifest-path", &program_folder(name).join("Cargo.toml").display().to_string()]);
    images.insert(name.to_owned(), path.clone());
    path
}

/// The image of an ordinary program with the `std` for hermit.
///
/// # Panics
/// When it cannot be built.
pub fn hermit_image(name: &str) -> PathBuf {
    let manifest = program_folder(name).join("Cargo.toml").display().to_string();
    built(&["--target", "hermit", "--manifest-path", &manifest])
}

/// The image that `pollux build` makes with these arguments.
fn built(arguments: &[&str]) -> PathBuf {
    let output = Command::new(command_path())
        .args(["build", "--json"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("the pollux command starts");
    assert!(output.status.success(), "`cargo pollux build {}` failed: {}", arguments.join(" "), output.status);
    let built: serde_json::Value = serde_json::from_slice(&output.stdout).expect("`build --json` prints JSON");
    PathBuf::from(built["image"].as_str().expect("it names the image"))
}

/// The right to load the machine with some pairs; given back when dropped.
#[derive(Debug)]
pub struct Permit(u32);

struct Permits {
    free: Mutex<u32>,
    returned: Condvar,
    all: u32,
}

fn permits() -> &'static Permits {
    static PERMITS: OnceLock<Permits> = OnceLock::new();
    PERMITS.get_or_init(|| {
        let all = number("POLLUX_E2E_PAIRS").map_or(PAIRS, |pairs| pairs.clamp(1, 64) as u32);
        Permits { free: Mutex::new(all), returned: Condvar::new(), all }
    })
}

impl Permit {
    /// Waits for `weight` permits at once; more than there are means all of them.
    pub fn take(weight: u32) -> Self {
        let permits = permits();
        let weight = weight.min(permits.all);
        let mut free = lock(&permits.free);
        while *free < weight {
            free = permits.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= weight;
        Self(weight)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *lock(&permits().free) += self.0;
        permits().returned.notify_all();
    }
}

/// Locks, whatever became of a test that held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// The seed of a test: `POLLUX_SEED`, or one from the clock. Printed first, so that a failure can be repeated.
pub fn seed(test: &str) -> u64 {
    let from_clock = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_nanos() as u64) % 1_000_000_007
    };
    let seed = number("POLLUX_SEED").unwrap_or_else(from_clock);
    println!("{test}: seed {seed} (POLLUX_SEED={seed} repeats it)");
    seed
}

/// Says that the test that runs cannot be run here, and why: on its output, and in the file that `POLLUX_SKIPS` names,
/// from which `pollux test` repeats it at the end.
///
/// # Panics
/// Where everything must be run: when `CI` is `true`.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}", thread.name().unwrap_or("a test"));
    println!("SKIPPED {line}");
    if let Some(file) = std::env::var_os("POLLUX_SKIPS") {
        let file = fs::File::options().create(true).append(true).open(file);
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("a file for what is skipped");
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI=true, and nothing may be skipped: {line}");
}

/// How many moments of a kind of fault are tried: `POLLUX_E2E_MOMENTS`, or `default`.
pub fn moments(default: u64) -> u64 {
    number("POLLUX_E2E_MOMENTS").unwrap_or(default)
}

/// How many epochs are compared: `POLLUX_E2E_EPOCHS`, or `default`.
pub fn epochs(default: u64) -> u64 {
    number("POLLUX_E2E_EPOCHS").unwrap_or(default)
}

/// Notices when something is written to a file or created in a folder.
#[derive(Debug)]
pub struct Watch {
    events: rustix::fd::OwnedFd,
}

impl Watch {
    /// Watches a file or a folder.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn new(path: &Path) -> Self {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let events = inotify::init(flags).expect("inotify starts");
        let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        inotify::add_watch(&events, path, what).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { events }
    }

    /// Waits for something to be written, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) {
        if wait_readable(&self.events, timeout) {
            let mut bytes = [0; 4096];
            // Only that something was written matters. Empty is an error here, and the end.
            while rustix::io::read(&self.events, &mut bytes).is_ok_and(|read| read > 0) {}
        }
    }
}

fn wait_readable(what: &impl AsFd, timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    let mut one = [PollFd::new(what, PollFlags::IN)];
    poll(&mut one, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Waits for the end of a process that need not be a child. Returns whether it has ended.
pub fn wait_for_end(pid: i32, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let Some(pid) = Pid::from_raw(pid) else { return true };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // No such process.
        Err(_) => true,
        Ok(process) => wait_readable(&process, deadline.saturating_duration_since(Instant::now())),
    }
}

/// Sends a signal to a process by its number: for those that no command can name yet, or any more.
///
/// # Panics
/// When there is no such process.
pub fn send_signal(pid: i32, signal: Signal) {
    let process = Pid::from_raw(pid).expect("a process id");
    kill_process(process, signal).unwrap_or_else(|error| panic!("process {pid}: {error}"));
}

/// The command line of a process, empty when there is no such process or it is a zombie.
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
