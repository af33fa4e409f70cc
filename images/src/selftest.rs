//! `cargo pollux test`: sets this machine up and runs every test of the workspace.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::build::{self, Workspace, hppa};
use crate::error::{Context, Error, Result};
use crate::running::{PROGRAM_VARIABLE, program};
use crate::setup::{self, Need};

/// Names the folder of the images that end-to-end tests boot.
pub const IMAGES_VARIABLE: &str = "POLLUX_IMAGES";
/// Names the file in which tests note what they could not try, one line each.
pub const SKIPS_VARIABLE: &str = "POLLUX_SKIPS";
/// The fuzz targets' own workspace, within ours.
const FUZZ_FOLDER: &str = "tests/fuzz";
/// Apps that end-to-end tests run on PA-RISC.
const HPPA_APPS: [&str; 5] = ["dhrystone", "diskload", "echo", "kv", "probe"];
/// The program that shows that PA-RISC computes what this machine does.
const HPPA_VECTORS: &str = "vectors";
/// How long each fuzz target runs here: long enough to try the seeds and some thousands of mutations of each.
const FUZZ_SECONDS: u32 = 5;

/// The big-endian machine of the unit tests, its linker and its emulator.
const BIG_ENDIAN_TARGET: &str = "powerpc-unknown-linux-gnu";
/// What links for it.
pub const BIG_ENDIAN_LINKER: &str = "powerpc-linux-gnu-gcc";
/// What runs it.
pub const BIG_ENDIAN_EMULATOR: &str = "qemu-ppc";

/// What to leave out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Skip {
    /// The fuzz targets.
    pub fuzz: bool,
    /// The unit tests on a big-endian machine.
    pub big_endian: bool,
}

/// Runs everything. Cargo's own output, its closing lines among it, goes where ours goes.
///
/// # Errors
/// What is missing, or which part failed. All parts are run, whatever fails.
pub fn run(yes: bool, skip: Skip, cargo_arguments: &[String]) -> Result<()> {
    setup::ensure(Need::Test, yes)?;
    let workspace = Workspace::find()?;
    for app in workspace.apps() {
        eprintln!("pollux: building the image of {app}");
        build::build(&workspace, &app, Some(false), true)?;
        build::build(&workspace, &app, Some(true), true)?;
    }
    let skips = workspace.images_dir().join(format!("skips.{}", std::process::id()));
    for app in HPPA_APPS {
        eprintln!("pollux: building the image of {app} for PA-RISC");
        build::build_hppa(&workspace, app, true)?;
    }
    build::build_program(&workspace, HPPA_VECTORS, true)?;
    let mut failed = Vec::new();
    if !cargo_test(&workspace, cargo_arguments, &skips)? {
        failed.push("cargo test".to_owned());
    }
    if !skip.big_endian && !big_endian_test(&workspace)? {
        failed.push("unit tests on a big-endian machine".to_owned());
    }
    if !skip.fuzz {
        failed.extend(fuzz(&workspace.root.join(FUZZ_FOLDER), &workspace.fuzz_dir())?);
    }
    let skipped = take_skips(&skips);
    for line in &skipped {
        eprintln!("pollux: SKIPPED {line}");
    }
    if failed.is_empty() {
        eprintln!("{}", closing_line(skipped.len()));
        return Ok(());
    }
    Err(Error::CheckFailed(format!("failed: {}; the messages are above", failed.join(", "))))
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.stdin(Stdio::null());
    command
}

/// What tests have noted, in their words. There is no file when none had anything to note.
fn take_skips(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // It may not be there; if it stays, nobody reads it again.
    let _ = std::fs::remove_file(file);
    text.lines().map(str::to_owned).collect()
}

fn closing_line(skipped: usize) -> String {
    match skipped {
        0 => "pollux: every test has passed".to_owned(),
        1 => "pollux: every test that was run has passed; 1 could not be run".to_owned(),
        many => format!("pollux: every test that was run has passed; {many} could not be run"),
    }
}

fn cargo_test(workspace: &Workspace, arguments: &[String], skips: &Path) -> Result<bool> {
    eprintln!("pollux: cargo test --workspace");
    let status = cargo()
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .current_dir(&workspace.root)
        .env(PROGRAM_VARIABLE, program()?)
        .env(IMAGES_VARIABLE, workspace.images_dir())
        .env(SKIPS_VARIABLE, skips)
        .status()
        .context(|| "cannot run cargo")?;
    Ok(status.success())
}

/// Crates that make or read bytes which leave the machine, or which guest and shim share.
const BYTE_MAKERS: [&str; 7] =
    ["hypercall", "freestanding", "protocol", "checkpoint", "netstack", "recordstore", "filesystem"];

/// Runs their unit tests on a big-endian machine of 32 bits, an emulated PowerPC. Images for PA-RISC do not show what a
/// codec takes from its host's byte order: the way there leads through WebAssembly, which is little-endian.
fn big_endian_test(workspace: &Workspace) -> Result<bool> {
    eprintln!("pollux: unit tests on a big-endian machine");
    let packages = BYTE_MAKERS.iter().flat_map(|name| ["--package", name]);
    let status = Command::new(hppa::CARGO)
        .args(["test", "--quiet", "--no-fail-fast", "--lib", "--tests", "-Zbuild-std", "--target", BIG_ENDIAN_TARGET])
        .args(packages)
        .arg("--target-dir")
        .arg(workspace.big_endian_dir())
        .current_dir(&workspace.root)
        .env("RUSTC", hppa::RUSTC)
        // Sources of `std` that are the compiler's very own.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_POWERPC_UNKNOWN_LINUX_GNU_LINKER", BIG_ENDIAN_LINKER)
        .env(
            "CARGO_TARGET_POWERPC_UNKNOWN_LINUX_GNU_RUNNER",
            format!("{BIG_ENDIAN_EMULATOR} -L /usr/powerpc-linux-gnu"),
        )
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        // Hundreds of lives of a store and faults at each of its requests, which are about order and not about bytes: minutes
        // under emulation.
        .args(["--", "--skip", "crashes::", "--skip", "faults::", "--skip", "lives::"])
        .stdin(Stdio::null())
        .status()
        .context(|| format!("cannot run {}", hppa::CARGO))?;
    Ok(status.success())
}

/// Runs each fuzz target for a short while and returns the names of those that found something.
fn fuzz(folder: &Path, work: &Path) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for target in fuzz_targets(folder)? {
        eprintln!("pollux: fuzzing {target} for {FUZZ_SECONDS} s");
        let corpus = work.join("corpus").join(&target);
        let artifacts = work.join("artifacts");
        for made in [&corpus, &artifacts] {
            std::fs::create_dir_all(made).context(|| format!("cannot make {}", made.display()))?;
        }
        let status = cargo()
            .args(["run", "--quiet", "--release", "--bin", &target, "--target-dir"])
            .arg(work.join("target"))
            .arg("--")
            .arg(format!("-max_total_time={FUZZ_SECONDS}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-verbosity=0")
            .arg(&corpus)
            .args(seeds(folder, &target))
            .current_dir(folder)
            .status()
            .context(|| "cannot run cargo")?;
        if !status.success() {
            failed.push(format!("fuzz target {target}"));
        }
    }
    Ok(failed)
}

/// The targets, by their files.
fn fuzz_targets(folder: &Path) -> Result<Vec<String>> {
    let targets = folder.join("targets");
    let entries = std::fs::read_dir(&targets).context(|| format!("cannot read {}", targets.display()))?;
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("rs")))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Folders with inputs to begin with, as far as they exist.
fn seeds(folder: &Path, target: &str) -> Vec<std::path::PathBuf> {
    let golden = folder.join("../../hypervisor-shim/protocol/tests/golden").join(target);
    [folder.join("seeds").join(target), golden].into_iter().filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_is_told_once() {
        let file = std::env::temp_dir().join(format!("pollux-skips-{}", std::process::id()));
        assert_eq!(take_skips(&file), [""; 0], "no file, no skips");
        std::fs::write(&file, "one: why\nanother: why\n").expect("written");
        assert_eq!(take_skips(&file), ["one: why", "another: why"]);
        assert!(!file.exists(), "the next run begins anew");
        assert!(closing_line(0).ends_with("every test has passed"));
        assert!(closing_line(2).ends_with("2 could not be run"));
    }
}
