//! Images for PA-RISC, for which rustc has no back end: Rust is compiled to WebAssembly, that is translated to C, and the
//! C is compiled by the cross compiler of Debian.
//!
//! | step | program | package |
//! |---|---|---|
//! | Rust to WebAssembly, with `core` and `alloc` (`std` for programs without a shim) from source | `/usr/bin/cargo` | `cargo-web`, `rustc-web`, `rust-web-src` |
//! | WebAssembly to C | `wasm2c` | `wabt` |
//! | C to PA-RISC | `hppa-linux-gnu-gcc` | `gcc-hppa-linux-gnu` |
//!
//! The linker of WebAssembly is the toolchain's own (`rust-lld`). What stands beside the translated code, in C and
//! assembly, lies in `hypervisor-shim/src/hppa/native`. A step is left out when nothing has changed that goes into it.

mod alignment;
pub(super) mod image;
mod native;
mod translate;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hypercall::layout::{GUEST_BASE, PAGE_BYTES};
use sha2::{Digest as _, Sha256};

pub use translate::TranslateError;

use self::native::Native;
use super::cargo::{PROFILE, SHIM, Workspace, run};
use super::{BuildError, hex, read, replace};

/// The programs of the packages above that are called by name.
pub const WASM2C: &str = "wasm2c";
/// See [`WASM2C`].
pub const GCC: &str = "hppa-linux-gnu-gcc";
/// The cargo and the compiler that come with the sources of `core`: those of the distribution, whatever is first in the
/// search path.
pub const CARGO: &str = "/usr/bin/cargo";
/// See [`CARGO`].
pub const RUSTC: &str = "/usr/bin/rustc";
/// Where the package of the sources puts them.
pub const SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";

const TARGET: &str = "wasm32-unknown-unknown";
/// What WebAssembly's first version lacks and `wasm2c` knows: a sign is extended by one instruction, and blocks are copied
/// and filled by the platform's own functions.
const CODEGEN: [&str; 2] = ["target-cpu=mvp", "target-feature=+sign-ext,+bulk-memory"];

/// Where a module's linear memory ends in the machine's memory (`native/wasm-rt.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinearEnd(pub u32);

/// A module to be compiled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Module<'a> {
    /// A folder of its own.
    pub name: &'a str,
    /// Cargo's arguments that choose the crate.
    pub target: &'a [&'a str],
    /// Which parts of the standard library it has.
    pub libraries: &'a str,
    /// Arguments of the linker.
    pub link: &'a [&'a str],
    /// The C source that is compiled together with it, in the folder of native sources.
    pub with: &'a str,
    /// Where its memory lies.
    pub end: LinearEnd,
}

/// Linear memory of what runs at privilege 0.
pub(super) const PRIVILEGED_END: LinearEnd = LinearEnd(0x0300_0000);
/// A guest's: its linear address A is 0 - A in its address space.
const GUEST_END: LinearEnd = LinearEnd(0);
/// More than the native code of a guest ever takes.
const GUEST_ROOM_BYTES: u64 = 0x0400_0000;
/// Stacks of what Rust keeps in linear memory; what C keeps has its own.
const GUEST_STACK_BYTES: u64 = 256 * 1024;
const SHIM_STACK: &str = "-zstack-size=262144";

/// Builds a program without a shim: a library that exports `program`. Returns the bootable ELF.
///
/// # Errors
/// [`BuildError`].
pub fn build_program(workspace: &Workspace, package: &str, quiet: bool) -> Result<PathBuf, BuildError> {
    let name = format!("program-{package}");
    let module = Module {
        name: &name,
        target: &["--package", package, "--lib", "--crate-type", "cdylib"],
        libraries: "std,panic_abort",
        link: &["--export=program"],
        with: "program.c",
        end: PRIVILEGED_END,
    };
    let wasm = compile_rust(workspace, package, &module, quiet)?;
    let native = Native::new(workspace, &module)?;
    let objects = native.objects(&wasm, &["start.S", "support.c", "console.c"])?;
    native.link(&objects, "image.ld", &[])
}

/// The halves of an image, linked with their symbols.
#[derive(Debug)]
pub(super) struct Halves {
    /// The guest: a native executable.
    pub guest: PathBuf,
    /// Start and end of its linear data, and of the stack that Rust has beside the native one.
    pub data: [(u64, u64); 2],
    /// The shim: a native executable.
    pub shim: PathBuf,
}

/// Builds both halves of an app's image.
///
/// # Errors
/// [`BuildError`].
pub(super) fn build_halves(workspace: &Workspace, app: &str, quiet: bool) -> Result<Halves, BuildError> {
    // The shim's C is compiled beside the guest's Rust.
    let shim = shim_module();
    let wasm = compile_rust(workspace, SHIM, &shim, quiet)?;
    std::thread::scope(|scope| {
        let shim = scope.spawn(|| link_shim(workspace, &shim, &wasm));
        let guest = build_guest(workspace, app, quiet);
        let shim = native::joined(shim);
        let (guest, data) = guest?;
        Ok(Halves { guest, data, shim: shim? })
    })
}

/// What every binary tells the linker of WebAssembly: it has no beginning of its own.
const NO_ENTRY: &str = "--no-entry";

fn build_guest(workspace: &Workspace, app: &str, quiet: bool) -> Result<(PathBuf, [(u64, u64); 2]), BuildError> {
    let name = format!("guest-{app}");
    let start = format!("--global-base={GUEST_BASE}");
    let module = Module {
        name: &name,
        target: &["--package", app, "--bin", app, "--features", "image"],
        libraries: "core,alloc",
        link: &[NO_ENTRY, "--export=pollux_main", "--export=__heap_base", &start],
        with: "guest.c",
        end: GUEST_END,
    };
    let wasm = compile_rust(workspace, app, &module, quiet)?;
    let native = Native::new(workspace, &module)?;
    let objects = native.objects(&wasm, &["guest.S", "support.c"])?;
    let end = native.heap_base()?.next_multiple_of(PAGE_BYTES);
    // A page that is not mapped lies below the stack, which grows down. The linker's own place for it has none.
    let stack = (end + PAGE_BYTES, end + PAGE_BYTES + GUEST_STACK_BYTES);
    // Native code follows in linear memory, that is, ends where the stack begins in the machine's. How long it is shows when
    // it is linked.
    let behind = u64::from(0u32.wrapping_sub(stack.1 as u32));
    let link = |base| native.link(&objects, "guest.ld", &[("BASE", base), ("STACK_TOP", stack.1)]);
    let bytes = extent(&link(behind - GUEST_ROOM_BYTES)?)?;
    Ok((link(behind - bytes)?, [(GUEST_BASE, end), stack]))
}

/// Bytes from an executable's first address to its last, in whole pages.
fn extent(executable: &Path) -> Result<u64, BuildError> {
    let wrong = |source| BuildError::Pack { app: executable.display().to_string(), source };
    let native = image::NativeImage::parse(&read(executable)?).map_err(wrong)?;
    let start = native.segments.iter().map(|segment| segment.virtual_address).min().unwrap_or_default();
    let end = native.segments.iter().filter_map(super::elf::Segment::virtual_end).max().unwrap_or_default();
    Ok((end - start).next_multiple_of(PAGE_BYTES))
}

fn shim_module() -> Module<'static> {
    Module {
        name: SHIM,
        target: &["--package", SHIM, "--bin", SHIM, "--features", "image"],
        libraries: "core,alloc",
        link: &[NO_ENTRY, "--export=shim_main", "--global-base=1048576", SHIM_STACK],
        with: "machine.c",
        end: PRIVILEGED_END,
    }
}

fn link_shim(workspace: &Workspace, module: &Module<'_>, wasm: &Path) -> Result<PathBuf, BuildError> {
    let native = Native::new(workspace, module)?;
    let objects = native.objects(wasm, &["start.S", "support.c", "console.c"])?;
    native.link(&objects, "image.ld", &[])
}

/// Compiles a crate to WebAssembly.
fn compile_rust(workspace: &Workspace, package: &str, module: &Module<'_>, quiet: bool) -> Result<PathBuf, BuildError> {
    let target_dir = workspace.pollux_target_dir().join("wasm");
    let linker = workspace.toolchain_linker_program()?;
    let mut command = Command::new(CARGO);
    command
        .arg("rustc")
        .args(module.target)
        .args(["--profile", PROFILE, "--target", TARGET])
        .arg(format!("-Zbuild-std={}", module.libraries))
        .arg("--target-dir")
        .arg(&target_dir)
        .args(quiet.then_some("--quiet"))
        .arg("--")
        .args(module.link.iter().map(|argument| format!("-Clink-arg={argument}")))
        .current_dir(&workspace.root)
        .env("RUSTC", RUSTC)
        // What a compiler that is not a nightly one otherwise refuses: sources of `core` that are its very own.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(workspace, linker.as_os_str()))
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_BUILD_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    run(&mut command, package)?;
    Ok(target_dir.join(TARGET).join(PROFILE).join(format!("{package}.wasm")))
}

fn flags(workspace: &Workspace, linker: &OsStr) -> OsString {
    let mut flags: Vec<OsString> = Vec::new();
    for option in CODEGEN {
        flags.extend(["-C".into(), option.into()]);
    }
    let mut linker_flag = OsString::from("-Clinker=");
    linker_flag.push(linker);
    flags.push(linker_flag);
    flags.extend(workspace.remapped());
    flags.join(super::cargo::FLAG_SEPARATOR.as_ref())
}

/// A digest of everything that goes into a step.
fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}
