//! What cargo knows about the workspace, and the two cargo invocations that make the ELFs.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::BuildError;
use super::bundle::{self, Files};
use super::ticks::Linker;
use crate::disk::check_name;
use crate::supervise::boot_text::{self, Variable};
use crate::supervise::spec::EpochSpec;

/// The target that images are built for: the one whose prebuilt core and alloc every stable toolchain has.
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Cargo profile of images.
pub(super) const PROFILE: &str = "image";
/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
pub(super) const FLAG_SEPARATOR: &str = "\x1f";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// A package of the workspace, as cargo describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    manifest_path: PathBuf,
    #[serde(default)]
    metadata: serde_json::Value,
}

impl Package {
    /// Its manifest.
    pub(super) fn manifest(&self) -> &Path {
        &self.manifest_path
    }

    /// An app lives under `apps/` or says `[package.metadata.pollux]` in its manifest.
    fn is_app(&self, root: &Path) -> bool {
        self.manifest_path.starts_with(root.join("apps")) || self.metadata.get("pollux").is_some()
    }

    /// What `[package.metadata.pollux] epoch = { source = "…", length = N }` says.
    ///
    /// # Errors
    /// [`BuildError::Manifest`] when that is no epoch source.
    pub fn epoch(&self) -> Result<EpochSpec, BuildError> {
        let Some(epoch) = self.metadata.get("pollux").and_then(|pollux| pollux.get("epoch")) else {
            return Ok(EpochSpec::default());
        };
        let source = epoch.get("source").and_then(serde_json::Value::as_str);
        let text = match (source, epoch.get("length")) {
            (Some(source), Some(length)) => format!("{source}:{length}"),
            (Some(source), None) => source.to_owned(),
            (None, _) => epoch.to_string(),
        };
        text.parse().map_err(|error| self.nonsense(format!("epoch: {error}")))
    }

    /// What `[package.metadata.pollux] disks = ["data", { name = "log", optional = true }]` says.
    ///
    /// # Errors
    /// [`BuildError::Manifest`] when that is no list of disks.
    pub fn disks(&self) -> Result<Vec<DiskNeed>, BuildError> {
        let disks = self.metadata.get("pollux").and_then(|pollux| pollux.get("disks"));
        let mut needs: Vec<DiskNeed> = disks.map_or(Ok(Vec::new()), |disks| {
            serde_json::from_value(disks.clone()).map_err(|_| {
                let example = r#"["data", { name = "log", optional = true }]"#;
                self.nonsense(format!("disks: expected names such as {example}, got {disks}"))
            })
        })?;
        for need in &needs {
            check_name(&need.name).map_err(|error| self.nonsense(format!("disks: {error}")))?;
        }
        self.files()?.add_disks(&mut needs);
        Ok(needs)
    }

    /// What `[package.metadata.pollux] mount = { "/data" = "disk" }` and `files = { "/assets" = "folder" }` say.
    fn files(&self) -> Result<Files, BuildError> {
        bundle::read(self.metadata.get("pollux")).map_err(|what| self.nonsense(what))
    }

    /// The files and mounts that the manifest speaks of, as they are linked into an ordinary program; nothing if it speaks of
    /// none.
    ///
    /// # Errors
    /// [`BuildError::Manifest`] for nonsense, and for what cannot be read.
    pub(super) fn bundle(&self) -> Result<Option<Vec<u8>>, BuildError> {
        let files = self.files()?;
        if files.is_empty() {
            return Ok(None);
        }
        let beside = self.manifest_path.parent().unwrap_or(Path::new("."));
        files.pack(beside).map(Some).map_err(|what| self.nonsense(what))
    }

    /// Refuses files and mounts in the manifest of an app.
    ///
    /// # Errors
    /// [`BuildError::Manifest`].
    pub(super) fn refuse_files(&self) -> Result<(), BuildError> {
        if self.files()?.is_empty() {
            return Ok(());
        }
        let what = "mount, files: only ordinary programs have files; an app uses runtime::block";
        Err(self.nonsense(what.to_owned()))
    }

    /// What `[package.metadata.pollux] args = "…"` (or a list of them) and `env = { NAME = "VALUE" }` say.
    ///
    /// # Errors
    /// [`BuildError::Manifest`] when that is neither.
    pub fn defaults(&self) -> Result<Defaults, BuildError> {
        let said = |key: &str| self.metadata.get("pollux").and_then(|pollux| pollux.get(key));
        let arguments = match said("args") {
            None => None,
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            Some(list) => {
                let list: Vec<String> = serde_json::from_value(list.clone())
                    .map_err(|_| self.nonsense(format!("args: expected a text or a list of texts, got {list}")))?;
                Some(boot_text::one_by_one(&list).map_err(|error| self.nonsense(format!("args: {error}")))?)
            }
        };
        let Some(table) = said("env") else { return Ok(Defaults { arguments, environment: Vec::new() }) };
        let wrong = || self.nonsense(format!("env: expected a table such as {{ NAME = \"value\" }}, got {table}"));
        let variables = table.as_object().ok_or_else(wrong)?.iter().map(|(name, value)| {
            let value = value.as_str().ok_or_else(wrong)?;
            Variable::new(name, value).map_err(|error| self.nonsense(format!("env: {error}")))
        });
        Ok(Defaults { arguments, environment: variables.collect::<Result<_, _>>()? })
    }

    fn nonsense(&self, what: String) -> BuildError {
        BuildError::Manifest { path: self.manifest_path.clone(), what }
    }
}

/// What a program is told when it starts and nobody says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Defaults {
    /// Its arguments, unless the command line has any.
    pub arguments: Option<String>,
    /// Its environment, to which the command line adds.
    pub environment: Vec<Variable>,
}

/// A disk that an app uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "DiskEntry")]
pub struct DiskNeed {
    /// Its name.
    pub name: String,
    /// Whether the app also runs without it.
    pub optional: bool,
}

/// How a manifest says it.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum DiskEntry {
    Name(String),
    Full {
        name: String,
        #[serde(default)]
        optional: bool,
    },
}

impl From<DiskEntry> for DiskNeed {
    fn from(entry: DiskEntry) -> Self {
        match entry {
            DiskEntry::Name(name) => Self { name, optional: false },
            DiskEntry::Full { name, optional } => Self { name, optional },
        }
    }
}

/// The package of the ring-0 half.
pub(super) const SHIM: &str = "hypervisor-shim";

/// The cargo workspace that apps are built from.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Its folder.
    pub root: PathBuf,
    target_dir: PathBuf,
    packages: Vec<Package>,
}

/// Code for a translator is not code for a processor. A vector register is memory, so words are not gathered into vectors (nocona is the
/// processor whose tuning says so; QEMU's least CPU model has all its features).
pub(super) const FOR_AN_EMULATOR: [&str; 3] = ["target-cpu=nocona", "no-vectorize-loops", "no-vectorize-slp"];

/// A return costs a look-up, so more is inlined. Measured, with the above, by `redis-benchmark -P 16`, four interleaved runs: 0.97 to
/// 1.20 us of the vCPU's time a request instead of 1.10 to 1.42. Not in the library of ordinary programs, most of which a
/// program does not call often: it would be a sixth larger.
pub(super) const INLINES_MORE: [&str; 1] = ["llvm-args=-inline-threshold=600"];

/// Backtraces follow frame pointers.
pub(super) const GUEST_CODEGEN: [&str; 1] = ["force-frame-pointers=yes"];

/// Arguments of the C compiler's driver when it links either half.
const LINK: [&str; 7] = [
    "-nostartfiles",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,-z,norelro",
    "-Wl,-z,max-page-size=4096",
];

impl Workspace {
    /// Asks cargo for the workspace around the current folder; failing that, for the one this command was built from.
    ///
    /// # Errors
    /// [`BuildError::Workspace`] when neither is a workspace that holds the shim.
    pub fn find() -> Result<Self, BuildError> {
        let here = std::env::current_dir().map_err(|error| BuildError::Workspace(error.to_string()))?;
        Self::at(&here).or_else(|error| {
            let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
            if built_from.is_dir() { Self::at(built_from) } else { Err(error) }
        })
    }

    /// Asks cargo for the workspace around `folder`.
    ///
    /// # Errors
    /// [`BuildError::Workspace`] with cargo's own words, or when the workspace holds no shim.
    pub fn at(folder: &Path) -> Result<Self, BuildError> {
        let output = Command::new(cargo_program())
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| BuildError::Workspace(format!("cargo does not start ({error})")))?;
        if !output.status.success() {
            return Err(BuildError::Workspace(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).map_err(|error| BuildError::Workspace(error.to_string()))?;
        if !metadata.packages.iter().any(|package| package.name == SHIM) {
            return Err(BuildError::Workspace(format!(
                "the workspace at {} has no package hypervisor-shim",
                metadata.workspace_root.display()
            )));
        }
        Ok(Self { root: metadata.workspace_root, target_dir: metadata.target_directory, packages: metadata.packages })
    }

    /// Where images and their symbols are put.
    pub fn images_dir(&self) -> PathBuf {
        self.pollux_target_dir().join("images")
    }

    /// Where benchmarks leave what they have measured.
    pub fn bench_dir(&self) -> PathBuf {
        self.target_dir.join("bench")
    }

    /// Where unit tests for a big-endian machine are built.
    pub fn big_endian_dir(&self) -> PathBuf {
        self.pollux_target_dir().join("big-endian")
    }

    /// Where fuzz targets are built and keep what they find.
    pub fn fuzz_dir(&self) -> PathBuf {
        self.target_dir.join("fuzz")
    }

    /// A target directory of its own: the profile and the flags of images never evict what host builds cached.
    pub(super) fn pollux_target_dir(&self) -> PathBuf {
        self.target_dir.join("pollux")
    }

    /// Names of the apps, sorted.
    pub fn apps(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .packages
            .iter()
            .filter(|package| package.is_app(&self.root))
            .map(|package| package.name.clone())
            .collect();
        names.sort();
        names
    }

    /// The app's package.
    ///
    /// # Errors
    /// [`BuildError::UnknownApp`], which lists those that exist.
    pub(super) fn app(&self, name: &str) -> Result<&Package, BuildError> {
        self.packages
            .iter()
            .find(|package| package.name == name && package.is_app(&self.root))
            .ok_or_else(|| BuildError::UnknownApp { name: name.to_owned(), known: self.apps() })
    }

    /// Whether there is a program of that name that runs without a shim: its manifest says
    /// `[package.metadata.pollux-program]`.
    pub fn has_program(&self, name: &str) -> bool {
        self.packages.iter().any(|package| package.name == name && package.metadata.get("pollux-program").is_some())
    }

    /// Builds the ring-3 half.
    pub(super) fn build_guest(&self, package: &Package, quiet: bool) -> Result<PathBuf, BuildError> {
        let target_dir = self.pollux_target_dir().join("guests");
        let mut command = self.cargo("build", &package.name, &target_dir, quiet);
        command.env("CARGO_ENCODED_RUSTFLAGS", self.flags(&self.guest_script(), &GUEST_CODEGEN)).stdout(Stdio::null());
        run(&mut command, &package.name)?;
        Ok(target_dir.join(TARGET).join(PROFILE).join(&package.name))
    }

    /// Builds the ring-0 half.
    pub(super) fn build_shim(&self, quiet: bool) -> Result<PathBuf, BuildError> {
        let target_dir = self.pollux_target_dir().join("shim");
        let mut command = self.cargo("build", SHIM, &target_dir, quiet);
        let script = self.root.join("hypervisor-shim/shim.ld");
        command.env("CARGO_ENCODED_RUSTFLAGS", self.flags(&script, &[])).stdout(Stdio::null());
        run(&mut command, SHIM)?;
        Ok(target_dir.join(TARGET).join(PROFILE).join(SHIM))
    }

    /// Builds a library for guests as one archive of everything that it needs.
    pub(super) fn build_library(&self, package: &str, archive: &str, quiet: bool) -> Result<PathBuf, BuildError> {
        let target_dir = self.pollux_target_dir().join("libraries");
        let mut command = self.command("rustc", &target_dir, quiet);
        command.args(["--package", package, "--lib", "--crate-type", "staticlib", "--features", "image"]);
        // A program's panics unwind through a library's functions, too; the library's own do not.
        let codegen = GUEST_CODEGEN.iter().chain(&["force-unwind-tables=yes"]);
        command.env("CARGO_ENCODED_RUSTFLAGS", self.compile_flags(codegen).join(FLAG_SEPARATOR.as_ref()));
        run(command.stdout(Stdio::null()), package)?;
        Ok(target_dir.join(TARGET).join(PROFILE).join(archive))
    }

    /// Has the ring-3 half compiled to assembly.
    pub(super) fn compile_guest(&self, package: &Package, quiet: bool) -> Result<Compiled, BuildError> {
        // The crates are those of other guests; only what becomes of the last one differs. But cargo keeps one build of a
        // crate a folder: there the two kinds of guest would throw out each other.
        let target_dir = self.pollux_target_dir().join("counted");
        let folder = target_dir.join("assembly");
        std::fs::create_dir_all(&folder).map_err(|source| super::file_error(&folder, source))?;
        let assembly = folder.join(format!("{}.s", package.name));
        let mut emit = OsString::from("--emit=asm=");
        emit.push(&assembly);
        let mut command = self.cargo("rustc", &package.name, &target_dir, quiet);
        command
            .args(["--message-format", "json-render-diagnostics"])
            .arg("--")
            .arg(emit)
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(&self.guest_script(), &GUEST_CODEGEN))
            .stderr(Stdio::inherit());
        let messages = run(&mut command, &package.name)?;
        let libraries = self.toolchain_libraries()?;
        let mut archives = archives(&messages, &target_dir.join(TARGET));
        archives.extend(compiler_builtins(&libraries)?);
        let script = self.guest_script();
        let mut arguments: Vec<OsString> = LINK.iter().map(OsString::from).collect();
        arguments.extend(["-m64".into(), "-Wl,--gc-sections".into(), "-Wl,-z,noexecstack".into()]);
        arguments.extend(["-T".into(), script.clone().into_os_string()]);
        arguments.extend(toolchain_linker(&libraries));
        let compiler = (rustc_program(), self.root.clone());
        Ok(Compiled { assembly, linker: Linker { compiler, target: TARGET, arguments, archives, script } })
    }

    fn guest_script(&self) -> PathBuf {
        self.root.join("runtime/guest.ld")
    }

    /// Where the toolchain keeps its libraries for images.
    fn toolchain_libraries(&self) -> Result<PathBuf, BuildError> {
        let wrong = |what: String| BuildError::Workspace(format!("rustc does not say where its libraries are: {what}"));
        let output = Command::new(rustc_program())
            .args(["--print", "target-libdir", "--target", TARGET])
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| wrong(error.to_string()))?;
        if output.status.success() {
            Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        } else {
            Err(wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    /// A cargo invocation for one binary. Cargo keeps one build of a crate a folder, whatever the flags: in one folder
    /// guests and shim, whose flags differ, would throw out each other's.
    fn cargo(&self, command: &str, name: &str, target_dir: &Path, quiet: bool) -> Command {
        let mut cargo = self.command(command, target_dir, quiet);
        cargo.args(["--package", name, "--bin", name, "--features", "image"]);
        cargo
    }

    fn command(&self, command: &str, target_dir: &Path, quiet: bool) -> Command {
        let mut cargo = Command::new(cargo_program());
        cargo
            .arg(command)
            .args(["--profile", PROFILE, "--target", TARGET])
            .arg("--target-dir")
            .arg(target_dir)
            .args(quiet.then_some("--quiet"))
            .current_dir(&self.root)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_BUILD_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        cargo
    }

    /// The flags go through the environment and together with `--target`, so that build scripts and procedural
    /// macros, which run on the host, are built without them.
    fn flags(&self, script: &Path, codegen: &[&str]) -> OsString {
        let mut flags = self.compile_flags(INLINES_MORE.iter().chain(codegen));
        for argument in LINK {
            flags.extend(["-C".into(), format!("link-arg={argument}").into()]);
        }
        let mut script_flag = OsString::from("link-arg=");
        script_flag.push(script);
        flags.extend(["-C".into(), "link-arg=-T".into(), "-C".into(), script_flag]);
        flags.join(FLAG_SEPARATOR.as_ref())
    }

    /// Those of them that do not concern the linker.
    fn compile_flags<'a>(&self, codegen: impl Iterator<Item = &'a &'a str>) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        for option in ["relocation-model=static", "no-redzone=yes"].iter().chain(&FOR_AN_EMULATOR).chain(codegen) {
            flags.extend(["-C".into(), (*option).into()]);
        }
        flags.extend(self.remapped());
        flags
    }

    /// Flags by which it does not change the image where the sources lie: two machines build the same bits.
    pub(super) fn remapped(&self) -> Vec<OsString> {
        let home = cargo_home().map(|home| remap(&home, "/cargo"));
        [remap(&self.root, "/pollux")].into_iter().chain(home).collect()
    }

    /// The toolchain's own linker, which knows WebAssembly.
    pub(super) fn toolchain_linker_program(&self) -> Result<PathBuf, BuildError> {
        let libraries = self.toolchain_libraries()?;
        let linker = libraries.with_file_name("bin").join("rust-lld");
        if linker.is_file() {
            return Ok(linker);
        }
        Err(BuildError::Workspace(format!("the toolchain has no linker for WebAssembly at {}", linker.display())))
    }
}

/// A guest as the compiler leaves it, if it is asked for assembly.
#[derive(Debug)]
pub(super) struct Compiled {
    /// The assembly of everything that was optimised together.
    pub assembly: PathBuf,
    /// How a guest is made of it.
    pub linker: Linker,
}

/// Runs cargo and returns what it wrote to its standard output, if that is not led elsewhere.
pub(super) fn run(command: &mut Command, name: &str) -> Result<Vec<u8>, BuildError> {
    let what = format!("{name} (profile {PROFILE})");
    let output = command
        .output()
        .map_err(|error| BuildError::Cargo { what: what.clone(), status: format!("it does not start: {error}") })?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(BuildError::Cargo { what, status: output.status.to_string() })
    }
}

/// The libraries below `folder` that cargo says it has built or found built.
fn archives(messages: &[u8], folder: &Path) -> Vec<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        filenames: Vec<PathBuf>,
    }
    let messages = messages.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let files = messages.flat_map(|message: Message| message.filenames);
    files.filter(|file| file.starts_with(folder) && file.extension().is_some_and(|name| name == "rlib")).collect()
}

/// The toolchain's own archives, which every guest is linked with.
fn compiler_builtins(libraries: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let entries = std::fs::read_dir(libraries).map_err(|source| super::file_error(libraries, source))?;
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libcompiler_builtins-") && name.ends_with(".rlib")
    };
    let found: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_wanted).collect();
    if found.is_empty() {
        let folder = libraries.display();
        return Err(BuildError::Workspace(format!("the toolchain has no libcompiler_builtins in {folder}")));
    }
    Ok(found)
}

/// Arguments by which the driver uses the toolchain's own linker, as rustc does: two machines build the same bits,
/// whatever linker they have. A toolchain without one leaves it to the driver.
fn toolchain_linker(libraries: &Path) -> Vec<OsString> {
    let Some(folder) = libraries.parent().map(|parent| parent.join("bin/gcc-ld")).filter(|folder| folder.is_dir())
    else {
        return Vec::new();
    };
    let mut search = OsString::from("-B");
    search.push(folder);
    vec![search, "-fuse-ld=lld".into()]
}

pub(super) fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push("=");
    flag.push(to);
    flag
}

/// Names of the apps of the workspace around the current folder; empty when there is none.
pub fn app_names() -> Vec<String> {
    Workspace::find().map(|workspace| workspace.apps()).unwrap_or_default()
}

pub(super) fn cargo_program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn rustc_program() -> OsString {
    std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}
