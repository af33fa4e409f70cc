//! Ordinary Rust programs: any crate with a binary, `std` and all, as a guest.
//!
//! `std` comes with the toolchain, made for Linux; what it asks of a C library is in one archive, `runtime/libc`, which is
//! linked in place of Linux's. The toolchain names nine libraries of Linux to the linker: it is shown empty ones. Nothing of
//! that is said in the program or its manifest: it is all in flags.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::cargo::{
    FLAG_SEPARATOR, FOR_AN_EMULATOR, GUEST_CODEGEN, INLINES_MORE, Package, TARGET, cargo_program, remap, run,
};
use super::{BuildError, Image, Workspace, file_error, hex, hppa, image_name, pack, read, replace, write};
use crate::error::Result;
use crate::supervise::spec::EpochSpec;

/// The package of the C library.
const LIBRARY: &str = "image-libc";
/// What rustc calls its archive.
const ARCHIVE: &str = "libimage_libc.a";
/// The libraries of Linux that `std` names to the linker.
const EMPTY_LIBRARIES: [&str; 9] = ["c", "m", "rt", "pthread", "dl", "util", "gcc_s", "gcc_eh", "gcc"];
/// What the linker script calls the files that are packed into an image.
const BUNDLE: &str = "pollux.bundle";
/// An archive without members is its first line.
const EMPTY_ARCHIVE: &[u8] = b"!<arch>\n";
/// Profile of programs: their own release profile, with line numbers for the report of a panic.
const PROFILE: &str = "pollux";
const PROFILE_SETTINGS: [&str; 2] = [r#"profile.pollux.inherits="release""#, "profile.pollux.debug=1"];

/// Arguments of the toolchain's own linker. Where unwinding begins, the C library notes the calls that have led there; where a
/// program looks at its stack, that it has done so.
const LINK: [&str; 7] = [
    "-static",
    "-znorelro",
    "--build-id=none",
    "-zmax-page-size=4096",
    "--eh-frame-hdr",
    "--wrap=_Unwind_RaiseException",
    "--wrap=_Unwind_GetIP",
];

/// A crate somewhere, as cargo describes it.
#[derive(Debug)]
pub struct Program {
    manifest: PathBuf,
    package: Package,
    binary: String,
    root: PathBuf,
    target_dir: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Described>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Described {
    #[serde(flatten)]
    package: Package,
    default_run: Option<String>,
    targets: Vec<Made>,
}

/// What cargo makes of a package.
#[derive(Deserialize)]
struct Made {
    name: String,
    kind: Vec<String>,
}

impl Described {
    fn binaries(&self) -> impl Iterator<Item = &str> {
        self.targets.iter().filter(|made| made.kind.iter().any(|kind| kind == "bin")).map(|made| made.name.as_str())
    }

    /// The binary that is meant.
    fn choose(&self, wanted: Option<&str>) -> Result<String, String> {
        let all: Vec<&str> = self.binaries().collect();
        let known = all.join(", ");
        match (wanted.or(self.default_run.as_deref()), all.as_slice()) {
            (_, []) => Err("it has no binary: an image needs a `main`".to_owned()),
            (Some(name), all) if all.contains(&name) => Ok(name.to_owned()),
            (Some(name), _) => Err(format!("it has no binary {name:?}; it has: {known}")),
            (None, [only]) => Ok((*only).to_owned()),
            (None, _) => Err(format!("it has several binaries: choose one with --bin: {known}")),
        }
    }
}

impl Program {
    /// Asks cargo for the package whose manifest this is; `binary` names one of its binaries, if it has several.
    ///
    /// # Errors
    /// [`BuildError::Program`].
    pub fn find(manifest: &Path, binary: Option<&str>) -> Result<Self, BuildError> {
        let wrong = |what: String| BuildError::Program { path: manifest.to_owned(), what };
        let manifest_path = manifest.canonicalize().map_err(|error| wrong(error.to_string()))?;
        let output = Command::new(cargo_program())
            .args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path"])
            .arg(&manifest_path)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| wrong(format!("cargo does not start ({error})")))?;
        if !output.status.success() {
            return Err(wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(|error| wrong(error.to_string()))?;
        let described = metadata.packages.into_iter().find(|described| described.package.manifest() == manifest_path);
        let described = described.ok_or_else(|| wrong("it is no package's manifest, but a workspace's".to_owned()))?;
        let binary = described.choose(binary).map_err(wrong)?;
        Ok(Self {
            manifest: manifest_path,
            package: described.package,
            binary,
            root: metadata.workspace_root,
            target_dir: metadata.target_directory.join("pollux"),
        })
    }

    /// Builds the guest.
    fn build(
        &self,
        library: &Library,
        bundle: Option<&Path>,
        workspace: &Workspace,
        std: StdLibrary,
        quiet: bool,
    ) -> Result<PathBuf, BuildError> {
        let mut command = Command::new(std.cargo());
        command.args(["rustc", "--manifest-path"]).arg(&self.manifest);
        command.args(["--package", &self.package.name, "--bin", &self.binary]);
        command.args(["--profile", PROFILE, "--target", std.target(), "--target-dir"]).arg(&self.target_dir);
        command.args(PROFILE_SETTINGS.iter().flat_map(|setting| ["--config", setting]));
        command.args(quiet.then_some("--quiet"));
        let mut linker = OsString::from("rust-lld");
        if std == StdLibrary::Hermit {
            command.args(FROM_SOURCE);
            // What a compiler that is not a nightly one otherwise refuses: sources of `std` that are its very own.
            command.env("RUSTC", hppa::RUSTC).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
            linker = workspace.toolchain_linker_program()?.into();
        }
        // What concerns the linker goes to the last crate alone: another C library compiles nothing else anew.
        command.arg("--").args(library.link_flags(bundle, std, &linker));
        command.env("CARGO_ENCODED_RUSTFLAGS", self.flags(workspace, std));
        for name in ["RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        run(&mut command, &self.binary)?;
        Ok(self.target_dir.join(std.target()).join(PROFILE).join(&self.binary))
    }

    /// Flags for every crate.
    fn flags(&self, workspace: &Workspace, std: StdLibrary) -> OsString {
        let mut flags: Vec<OsString> = Vec::new();
        let general = ["relocation-model=static", std.features()];
        for option in general.iter().chain(&FOR_AN_EMULATOR).chain(&INLINES_MORE).chain(&GUEST_CODEGEN) {
            flags.extend(["-C".into(), (*option).into()]);
        }
        // A crate that would make Linux's system calls itself, and asks the C library when it is told to.
        flags.extend(["--cfg".into(), "rustix_use_libc".into()]);
        flags.extend(workspace.remapped());
        // The last one counts, for a program within this workspace.
        flags.push(remap(&self.root, "/program"));
        flags.join(FLAG_SEPARATOR.as_ref())
    }
}

/// Which `std` a program is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdLibrary {
    /// The toolchain's own for Linux, as it comes.
    Linux,
    /// The one for hermit, from source: it asks for `sys_` functions and no C library. Panics end the program.
    Hermit,
}

/// How `std` is built from source.
const FROM_SOURCE: [&str; 3] = ["-Zbuild-std=std,panic_abort", "--config", r#"profile.pollux.panic="abort""#];

impl StdLibrary {
    fn cargo(self) -> OsString {
        match self {
            Self::Linux => cargo_program(),
            Self::Hermit => hppa::CARGO.into(),
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Linux => TARGET,
            Self::Hermit => "x86_64-unknown-hermit",
        }
    }

    /// A program linked as one, as hermit's always are; and without instructions that draw random numbers, which replicas would
    /// draw apart.
    fn features(self) -> &'static str {
        match self {
            Self::Linux => "target-feature=+crt-static",
            Self::Hermit => "target-feature=-rdrand,-rdseed",
        }
    }

    /// What tells the compiler that the linker is the toolchain's own, and that nothing of the system's is linked.
    fn link_options(self) -> &'static [&'static str] {
        match self {
            Self::Linux => &["-Clinker-flavor=ld.lld", "-Clink-self-contained=no"],
            Self::Hermit => &[],
        }
    }
}

/// The C library, ready to be linked.
struct Library {
    /// Where the empty libraries are.
    folder: PathBuf,
    archive: PathBuf,
    script: PathBuf,
}

impl Library {
    /// Flags by which a program is linked with it, and with files that are packed into the image.
    fn link_flags(&self, bundle: Option<&Path>, std: StdLibrary, linker: &OsStr) -> Vec<OsString> {
        let with = |start: &str, end: &OsStr| {
            let mut flag = OsString::from(start);
            flag.push(end);
            flag
        };
        let mut flags: Vec<OsString> = std.link_options().iter().map(OsString::from).collect();
        flags.push(with("-Clinker=", linker));
        flags.push(with("-Lnative=", self.folder.as_os_str()));
        flags.extend(LINK.iter().map(|argument| with("-Clink-arg=", argument.as_ref())));
        flags.push(with("-Clink-arg=-T", self.script.as_os_str()));
        flags.push(with("-Clink-arg=", self.archive.as_os_str()));
        if let Some(bundle) = bundle {
            // The linker script says where its bytes go.
            let pieces = [OsStr::new("--format=binary"), bundle.as_os_str(), OsStr::new("--format=default")];
            flags.extend(pieces.map(|piece| with("-Clink-arg=", piece)));
        }
        flags
    }

    /// Builds it. Its files lie in a folder that is named after their contents: so whoever was linked with others is linked
    /// anew.
    fn build(workspace: &Workspace, quiet: bool) -> Result<Self, BuildError> {
        let built = read(&workspace.build_library(LIBRARY, ARCHIVE, quiet)?)?;
        let script = read(&workspace.root.join("runtime/libc/guest.ld"))?;
        let digest = Sha256::new().chain_update(&built).chain_update(&script).finalize();
        let folder = workspace.pollux_target_dir().join("libc").join(&hex(&digest)[..16]);
        std::fs::create_dir_all(&folder).map_err(|source| file_error(&folder, source))?;
        let place = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            replace(&path, bytes).map(|()| path)
        };
        for name in EMPTY_LIBRARIES {
            place(&format!("lib{name}.a"), EMPTY_ARCHIVE)?;
        }
        Ok(Self { archive: place(ARCHIVE, &built)?, script: place("guest.ld", &script)?, folder })
    }
}

/// Builds the C library that ordinary programs are linked with: the path of its archive.
///
/// # Errors
/// [`BuildError`], within [`crate::error::Error::Build`].
pub fn build_std_library(workspace: &Workspace, quiet: bool) -> Result<PathBuf> {
    Ok(Library::build(workspace, quiet)?.archive)
}

/// Builds the image of an ordinary program with this `std`.
///
/// # Errors
/// [`BuildError`], within [`crate::error::Error::Build`].
pub fn build_std(workspace: &Workspace, program: &Program, std: StdLibrary, quiet: bool) -> Result<Image> {
    let (epoch, disks, defaults) = (program.package.epoch()?, program.package.disks()?, program.package.defaults()?);
    if epoch.needs_ticks() {
        return Err(program.cannot_count().into());
    }
    let library = Library::build(workspace, quiet)?;
    let bundle = program.place_bundle()?;
    let guest_bytes = read(&program.build(&library, bundle.as_deref(), workspace, std, quiet)?)?;
    let shim_bytes = read(&workspace.build_shim(quiet)?)?;
    let app = &program.binary;
    let packed = pack(&shim_bytes, &guest_bytes).map_err(|source| BuildError::Pack { app: app.clone(), source })?;
    let name = if std == StdLibrary::Hermit { format!("{app}.hermit.img") } else { image_name(app, false) };
    let path = program.target_dir.join("images").join(name);
    let written = write(app, path, [&guest_bytes, &shim_bytes], &packed)?;
    Ok(Image { epoch, disks, defaults, ..written })
}

impl Program {
    /// Writes the files that the manifest wants in the image to where the linker finds them: a folder that is named after their
    /// contents, so that the program is linked anew when they have changed.
    fn place_bundle(&self) -> Result<Option<PathBuf>, BuildError> {
        let Some(bytes) = self.package.bundle()? else { return Ok(None) };
        let folder = self.target_dir.join("files").join(&hex(&Sha256::digest(&bytes))[..16]);
        std::fs::create_dir_all(&folder).map_err(|source| file_error(&folder, source))?;
        let path = folder.join(BUNDLE);
        replace(&path, &bytes)?;
        Ok(Some(path))
    }

    /// Why an epoch source is refused.
    fn cannot_count(&self) -> BuildError {
        let what = format!(
            "counted epochs need a program whose assembly is all there, and `std` comes compiled: use {:?} or {:?}",
            EpochSpec::Exact(100_000).to_string(),
            EpochSpec::Cooperative.to_string()
        );
        BuildError::Program { path: self.manifest.clone(), what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(default_run: Option<&str>, targets: &[(&str, &str)]) -> Described {
        let targets: Vec<_> =
            targets.iter().map(|(name, kind)| serde_json::json!({ "name": name, "kind": [kind] })).collect();
        let package = serde_json::json!({
            "name": "shop", "manifest_path": "/shop/Cargo.toml", "default_run": default_run, "targets": targets
        });
        serde_json::from_value(package).expect("as cargo says it")
    }

    #[test]
    fn the_only_binary_the_default_one_or_the_one_that_was_asked_for() {
        let one = described(None, &[("shop", "lib"), ("serve", "bin"), ("check", "test")]);
        assert_eq!(one.choose(None), Ok("serve".to_owned()));
        assert!(one.choose(Some("check")).expect_err("a test").contains("it has: serve"));
        let two = [("serve", "bin"), ("admin", "bin")];
        assert!(described(None, &two).choose(None).expect_err("two").contains("--bin: serve, admin"));
        assert_eq!(described(None, &two).choose(Some("admin")), Ok("admin".to_owned()));
        assert_eq!(described(Some("admin"), &two).choose(None), Ok("admin".to_owned()));
        assert!(described(None, &[("shop", "lib")]).choose(None).expect_err("none").contains("no binary"));
    }
}
