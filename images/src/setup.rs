//! What this machine must have, what is missing, and the one command that installs it.

use std::process::{Command, Stdio};

use serde::Serialize;

use crate::build::{Target, hppa};
use crate::error::{Context, Error, Result};
use crate::qemu;
use crate::selftest;
use crate::state;
use crate::supervise::passt;

/// The oldest QEMU with a stream netdev over an inherited socket.
const MIN_QEMU: (u32, u32) = (7, 2);
/// Free disk that a build of everything takes.
const WANTED_DISK_MIB: u64 = 3 * 1024;
/// Descriptors for ten thousand connections, which one of the tests attempts, and everything else.
const WANTED_DESCRIPTORS: u64 = 10_240;

/// What something is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// Building and running pairs.
    Run,
    /// Benchmarks and tests too.
    Test,
    /// Nothing: it is good to know.
    Advice,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What it is needed for.
    pub need: Need,
    /// What was found.
    pub found: String,
    /// The Debian or Ubuntu package that brings it.
    pub package: Option<&'static str>,
    /// What to do when no package helps.
    pub advice: Option<String>,
}

/// Looks at everything.
pub fn examine() -> Vec<Finding> {
    vec![
        qemu_finding(),
        linker(),
        tool("c++", "--version", "build-essential", Need::Test),
        tool("ip", "-V", "iproute2", Need::Test),
        tool("nc", "-h", "netcat-openbsd", Need::Test),
        tool("curl", "--version", "curl", Need::Test),
        tool("redis-cli", "--version", "redis-tools", Need::Test),
        tool("redis-benchmark", "--version", "redis-tools", Need::Test),
        tool("gdb", "--version", "gdb", Need::Test),
        tool("mount", "--version", "mount", Need::Test),
        // The server that replies are compared with: started by its other name, because the package redis-server would
        // also start a service, which takes the port of the store.
        tool("redis-check-rdb", "--version", "redis-tools", Need::Test),
        tool(passt::PROGRAM, "--version", passt::PACKAGE, Need::Test),
        tool(qemu::HPPA_PROGRAM, "--version", "qemu-system-misc", Need::Test),
        tool(hppa::GCC, "--version", "gcc-hppa-linux-gnu", Need::Test),
        tool(hppa::WASM2C, "--version", "wabt", Need::Test),
        tool(hppa::CARGO, "--version", "cargo-web", Need::Test),
        tool(hppa::RUSTC, "--version", "rustc-web", Need::Test),
        rust_sources(),
        tool(selftest::BIG_ENDIAN_LINKER, "--version", "gcc-powerpc-linux-gnu", Need::Test),
        big_endian_library(),
        tool(selftest::BIG_ENDIAN_EMULATOR, "--version", "qemu-user", Need::Test),
        kvm(),
        disk(),
        descriptors(),
    ]
}

fn version_of(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
    // Some say it where others complain.
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&said).lines().next()?.trim().to_owned();
    output.status.success().then_some(text)
}

fn qemu_finding() -> Finding {
    let found = qemu_version();
    let old = found.as_deref().and_then(version_number).is_none_or(|version| version < MIN_QEMU);
    Finding {
        name: qemu::PROGRAM,
        ok: !old,
        need: Need::Run,
        advice: (found.is_some() && old)
            .then(|| format!("QEMU {}.{} or newer is needed: upgrade the distribution", MIN_QEMU.0, MIN_QEMU.1)),
        package: found.is_none().then_some("qemu-system-x86"),
        found: found.unwrap_or_else(|| "not installed".to_owned()),
    }
}

/// What QEMU says about its version.
pub fn qemu_version() -> Option<String> {
    version_of(qemu::PROGRAM, "--version")
}

/// The first `N.M` in a text.
fn version_number(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

fn linker() -> Finding {
    let found = version_of("cc", "--version");
    Finding {
        name: "cc",
        ok: found.is_some(),
        need: Need::Run,
        package: found.is_none().then_some("build-essential"),
        found: found.unwrap_or_else(|| "no linker".to_owned()),
        advice: None,
    }
}

/// A program that tells its version when given `argument`.
fn tool(name: &'static str, argument: &str, package: &'static str, need: Need) -> Finding {
    let found = version_of(name, argument);
    Finding {
        name,
        ok: found.is_some(),
        need,
        package: found.is_none().then_some(package),
        found: found.unwrap_or_else(|| "not installed".to_owned()),
        advice: None,
    }
}

/// Names of what only images for PA-RISC need.
const FOR_HPPA: [&str; 6] = [qemu::HPPA_PROGRAM, hppa::GCC, hppa::WASM2C, hppa::CARGO, hppa::RUSTC, RUST_SOURCES];
/// What programs with the `std` for hermit need beside what everything for x86-64 does.
const FOR_HERMIT: [&str; 3] = [hppa::CARGO, hppa::RUSTC, RUST_SOURCES];
const RUST_SOURCES: &str = "rust-sources";

/// A file of the library that unit tests on a big-endian machine are linked with.
const BIG_ENDIAN_LIBRARY: &str = "/usr/powerpc-linux-gnu/lib/libc.so.6";

fn big_endian_library() -> Finding {
    file("libc-powerpc", BIG_ENDIAN_LIBRARY, "libc6-dev-powerpc-cross")
}

fn rust_sources() -> Finding {
    file(RUST_SOURCES, hppa::SOURCES, "rust-web-src")
}

/// A file that a package of the tests brings.
fn file(name: &'static str, path: &'static str, package: &'static str) -> Finding {
    let ok = std::path::Path::new(path).is_file();
    Finding {
        name,
        ok,
        need: Need::Test,
        package: (!ok).then_some(package),
        found: if ok { path.to_owned() } else { "not installed".to_owned() },
        advice: None,
    }
}

/// Looks at what images for this machine need, or at everything.
pub fn examine_for(target: Option<Target>) -> Vec<Finding> {
    let mut findings = examine();
    findings.retain(|finding| match target {
        None => true,
        Some(Target::X86_64) => finding.need != Need::Test,
        Some(Target::Hppa) => FOR_HPPA.contains(&finding.name),
        Some(Target::Hermit) => finding.need != Need::Test || FOR_HERMIT.contains(&finding.name),
    });
    findings
}

/// Makes sure that images for PA-RISC can be built and run.
///
/// # Errors
/// [`Error::Missing`] with what to run.
pub fn ensure_hppa() -> Result<()> {
    let findings = examine_for(Some(Target::Hppa));
    match install_command(&findings, Need::Test).and_then(|mut words| words.pop()) {
        Some(command) => {
            Err(Error::Missing(format!("images for PA-RISC need what is missing on this machine; run\n  {command}")))
        }
        None => check(&findings, Need::Test),
    }
}

/// Refuses when something is missing that `std` is built from source with.
///
/// # Errors
/// [`Error::Missing`] with what to run.
pub fn ensure_rust_sources() -> Result<()> {
    let mut findings = examine();
    findings.retain(|finding| FOR_HERMIT.contains(&finding.name));
    match install_command(&findings, Need::Test).and_then(|mut words| words.pop()) {
        Some(command) => Err(Error::Missing(format!(
            "std for hermit is built from source, which is missing on this machine; run\n  {command}"
        ))),
        None => check(&findings, Need::Test),
    }
}

fn kvm() -> Finding {
    let fault = qemu::kvm_fault();
    Finding {
        name: "kvm",
        ok: fault.is_none(),
        need: Need::Advice,
        advice: fault.is_some().then(|| "guests run translated (TCG), which is what is measured and tested".to_owned()),
        found: fault.unwrap_or_else(|| "usable".to_owned()),
        package: None,
    }
}

fn disk() -> Finding {
    let here = rustix::fs::statvfs(".").map(|fs| fs.f_bavail * fs.f_frsize / (1024 * 1024));
    let free_mib = here.unwrap_or(0);
    Finding {
        name: "disk",
        ok: free_mib >= WANTED_DISK_MIB,
        need: Need::Advice,
        found: format!("{free_mib} MiB free here; states lie in {}", state::root().display()),
        package: None,
        advice: (free_mib < WANTED_DISK_MIB).then(|| format!("builds of everything take up to {WANTED_DISK_MIB} MiB")),
    }
}

fn descriptors() -> Finding {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    Finding {
        name: "descriptors",
        ok: most >= WANTED_DESCRIPTORS,
        need: Need::Test,
        found: format!("at most {most} a process"),
        package: None,
        advice: (most < WANTED_DESCRIPTORS).then(|| {
            format!("`ulimit -Hn {WANTED_DESCRIPTORS}` as root raises it; with {most}, fewer connections can be served")
        }),
    }
}

/// The command that installs what is missing for `need`, as words; `None` when nothing that a package brings is.
pub fn install_command(findings: &[Finding], need: Need) -> Option<Vec<String>> {
    let mut packages: Vec<_> =
        findings.iter().filter(|finding| finding.need <= need).filter_map(|finding| finding.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return None;
    }
    let sudo = if is_root() { "" } else { "sudo " };
    let script =
        format!("{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {}", packages.join(" "));
    Some(vec!["sh".to_owned(), "-c".to_owned(), script])
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes sure that everything for `need` is there: installs it as root or with `yes`, and otherwise says how.
///
/// # Errors
/// [`Error::Missing`] with what to run.
pub fn ensure(need: Need, yes: bool) -> Result<()> {
    ensure_of(examine, need, yes)
}

/// Makes sure that everything for images for this machine is there, or simply everything: see [`ensure`].
///
/// # Errors
/// [`Error::Missing`] with what to run.
pub fn ensure_for(target: Option<Target>, yes: bool) -> Result<()> {
    ensure_of(|| examine_for(target), Need::Test, yes)
}

fn ensure_of(examine: impl Fn() -> Vec<Finding>, need: Need, yes: bool) -> Result<()> {
    let findings = examine();
    let Some(command) = install_command(&findings, need) else {
        return check(&findings, need);
    };
    let text = command.last().cloned().unwrap_or_default();
    if !yes && !is_root() {
        return Err(Error::Missing(format!(
            "something is missing on this machine; run\n  {text}\nor add --yes to have it run"
        )));
    }
    if version_of("apt-get", "--version").is_none() {
        let names: Vec<_> = findings.iter().filter(|f| f.need <= need && f.package.is_some()).map(|f| f.name).collect();
        return Err(Error::Missing(format!("this machine has no apt-get: install {} by hand", names.join(", "))));
    }
    eprintln!("pollux: installing what is missing: {text}");
    let status = Command::new(&command[0])
        .args(&command[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .context(|| "cannot run apt-get")?;
    if !status.success() {
        return Err(Error::Missing(format!("`{text}` has failed ({status}); its messages are above")));
    }
    check(&examine(), need)
}

fn check(findings: &[Finding], need: Need) -> Result<()> {
    let wrong: Vec<_> = findings.iter().filter(|finding| finding.need <= need && !finding.ok).map(describe).collect();
    if wrong.is_empty() { Ok(()) } else { Err(Error::Missing(wrong.join("\n"))) }
}

/// One line about a finding.
pub fn describe(finding: &Finding) -> String {
    let mark = match (finding.ok, finding.need) {
        (true, _) => "ok     ",
        (false, Need::Advice) => "note   ",
        (false, _) => "MISSING",
    };
    let advice = finding.advice.as_deref().map(|advice| format!(": {advice}")).unwrap_or_default();
    format!("{mark} {:20} {}{advice}", finding.name, finding.found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(name: &'static str, package: &'static str, need: Need) -> Finding {
        Finding { name, ok: false, need, found: String::new(), package: Some(package), advice: None }
    }

    #[test]
    fn one_command_installs_what_is_needed_and_no_more() {
        let findings = [
            missing("redis-cli", "redis-tools", Need::Test),
            missing("redis-benchmark", "redis-tools", Need::Test),
            missing("qemu", "qemu-system-x86", Need::Run),
        ];
        let script = |need| install_command(&findings, need).and_then(|mut words| words.pop()).unwrap_or_default();
        assert!(script(Need::Run).ends_with("--no-install-recommends qemu-system-x86"));
        assert!(script(Need::Test).ends_with("--no-install-recommends qemu-system-x86 redis-tools"));
        assert_eq!(install_command(&[], Need::Test), None);
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version_number("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"), Some((7, 2)));
        assert_eq!(version_number("QEMU emulator version 10.0.0"), Some((10, 0)));
        assert_eq!(version_number("nothing"), None);
    }
}
