//! Builds images: one guest ELF and one shim ELF by cargo, packed into one bootable ELF.

mod bundle;
mod cargo;
mod elf;
pub mod hppa;
mod pack;
mod program;
pub mod ticks;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use cargo::Package;
pub use cargo::{Defaults, DiskNeed, Workspace, app_names};
#[doc(hidden)]
pub use pack::repack;
pub use pack::{
    IMAGE_VERSION, ImageError, ImageInfo, PAYLOAD_ADDRESS, PAYLOAD_HEADER_BYTES, PAYLOAD_LIMIT_BYTES, PAYLOAD_MAGIC,
    hex, inspect, pack,
};
pub use program::{Program, StdLibrary, build_std, build_std_library};

use self::ticks::Coverage;
use crate::error::{Error, Result};
use crate::setup;
use crate::supervise::spec::EpochSpec;

/// What the file names of an image that counts its ticks have behind the app's name.
const COUNTED: &str = ".counted";
/// What the file names of an image for PA-RISC have there.
const HPPA: &str = ".hppa";

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No such app in the workspace.
    #[error("unknown app {name:?}; the apps of this workspace are: {}", known.join(", "))]
    UnknownApp {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Cargo itself could not be run or its answer not be read.
    #[error("cannot ask cargo about the workspace: {0}; run pollux inside the Pollux checkout")]
    Workspace(String),
    /// Cargo was run and failed; its own messages went to stderr.
    #[error("cargo could not build {what} ({status}); its messages are above")]
    Cargo {
        /// Package and binary.
        what: String,
        /// How cargo ended.
        status: String,
    },
    /// A manifest somewhere is not one of a program that can be built.
    #[error("{path}: {what}", path = path.display())]
    Program {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The manifest of the app says something that makes no sense.
    #[error("{path}: [package.metadata.pollux] {what}", path = path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The two ELFs do not make an image.
    #[error("cannot pack {app}: {source}")]
    Pack {
        /// The app.
        app: String,
        /// What is wrong.
        source: ImageError,
    },
    /// The compiler's assembly is not what was expected.
    #[error("cannot make {app} count its ticks: {path}: {source}", path = path.display())]
    Ticks {
        /// The app.
        app: String,
        /// The assembly.
        path: PathBuf,
        /// What is wrong.
        source: ticks::TickError,
    },
    /// A guest that counts was not assembled or linked.
    #[error("cannot link {app}: {source}")]
    Link {
        /// The app.
        app: String,
        /// What is wrong.
        source: ticks::LinkError,
    },
    /// A program of the way to PA-RISC has failed.
    #[error("{program} has failed: {message}")]
    Native {
        /// Which.
        program: String,
        /// What it said.
        message: String,
    },
    /// The code that was translated to C is not what was expected.
    #[error(transparent)]
    Translate(#[from] hppa::TranslateError),
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An image on disk.
#[derive(Debug, Clone, Serialize)]
pub struct Image {
    /// The app's name.
    pub app: String,
    /// The bootable ELF.
    pub image: PathBuf,
    /// Its size.
    pub image_bytes: u64,
    /// SHA-256 over everything that is loaded, in hexadecimal.
    pub image_id: String,
    /// The guest with symbols, if known.
    pub guest_elf: Option<PathBuf>,
    /// The shim with symbols, if known.
    pub shim_elf: Option<PathBuf>,
    /// What the app's manifest wants to end its epochs.
    pub epoch: EpochSpec,
    /// Whether the guest counts its ticks, without which it has no counted epochs.
    pub counts_ticks: bool,
    /// What of the guest counts and what does not, if it was built here and counts.
    pub coverage: Option<Coverage>,
    /// The disks that the app's manifest names.
    pub disks: Vec<DiskNeed>,
    /// What the app's manifest has its program told when nobody says otherwise.
    pub defaults: Defaults,
    /// The machine that it is for.
    pub target: Target,
}

/// Builds the image of `app` in the release-like profile `image`. `counts_ticks` says whether the guest shall count its
/// ticks; `None`: if the epochs that its manifest wants need it.
///
/// # Errors
/// [`BuildError`], within [`Error::Build`].
pub fn build(workspace: &Workspace, app: &str, counts_ticks: Option<bool>, quiet: bool) -> Result<Image> {
    let package = workspace.app(app)?;
    package.refuse_files()?;
    let (epoch, disks, defaults) = (package.epoch()?, package.disks()?, package.defaults()?);
    let counts_ticks = counts_ticks.unwrap_or(epoch.needs_ticks());
    let (guest_bytes, coverage) = if counts_ticks {
        let (bytes, coverage) = build_counted(workspace, package, quiet)?;
        (bytes, Some(coverage))
    } else {
        (read(&workspace.build_guest(package, quiet)?)?, None)
    };
    let shim_bytes = read(&workspace.build_shim(quiet)?)?;
    let packed = pack(&shim_bytes, &guest_bytes).map_err(|source| BuildError::Pack { app: app.to_owned(), source })?;
    let path = workspace.images_dir().join(image_name(app, counts_ticks));
    let written = write(app, path, [&guest_bytes, &shim_bytes], &packed)?;
    Ok(Image { epoch, counts_ticks, coverage, disks, defaults, ..written })
}

/// Writes an image to `image` and, beside it, the guest and the shim (in this order) with their symbols. What is described is an
/// image for x86-64 whose manifest wants nothing in particular.
fn write(app: &str, image: PathBuf, [guest, shim]: [&[u8]; 2], packed: &pack::Packed) -> Result<Image, BuildError> {
    if let Some(folder) = image.parent() {
        std::fs::create_dir_all(folder).map_err(|source| file_error(folder, source))?;
    }
    let (guest_elf, shim_elf) = (image.with_extension("guest.elf"), image.with_extension("shim.elf"));
    replace(&guest_elf, guest)?;
    replace(&shim_elf, shim)?;
    replace(&image, &packed.bytes)?;
    Ok(Image {
        app: app.to_owned(),
        image,
        image_bytes: packed.bytes.len() as u64,
        image_id: hex(&packed.image_id),
        guest_elf: Some(guest_elf),
        shim_elf: Some(shim_elf),
        epoch: EpochSpec::default(),
        counts_ticks: false,
        coverage: None,
        disks: Vec::new(),
        defaults: Defaults::default(),
        target: Target::X86_64,
    })
}

/// The machine that an image is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// x86-64 (microvm, pc, q35).
    #[default]
    #[value(name = "x86-64", alias = "x86_64")]
    X86_64,
    /// PA-RISC 1.1 (HP 9000 B160L).
    Hppa,
    /// x86-64, for ordinary programs with the `std` for hermit, which is built from source. Their images are for x86-64.
    Hermit,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Hppa => "PA-RISC",
            Self::Hermit => "x86-64 with std for hermit",
        })
    }
}

/// Builds the image of a program that runs without a shim ([`Workspace::has_program`]); there are such programs for PA-RISC
/// only.
///
/// # Errors
/// [`BuildError`], within [`Error::Build`]; what is missing on this machine, as [`Error::Missing`].
pub fn build_program(workspace: &Workspace, name: &str, quiet: bool) -> Result<Image> {
    setup::ensure_hppa()?;
    let executable = hppa::build_program(workspace, name, quiet)?;
    let bytes = read(&executable)?;
    let folder = workspace.images_dir();
    std::fs::create_dir_all(&folder).map_err(|source| file_error(&folder, source))?;
    let image = folder.join(format!("{name}{HPPA}.img"));
    replace(&image, &bytes)?;
    Ok(Image {
        app: name.to_owned(),
        image,
        image_bytes: bytes.len() as u64,
        image_id: hex(&Sha256::digest(&bytes)),
        guest_elf: None,
        shim_elf: Some(executable),
        epoch: EpochSpec::default(),
        counts_ticks: false,
        coverage: None,
        disks: Vec::new(),
        defaults: Defaults::default(),
        target: Target::Hppa,
    })
}

/// Why an app is not built with the `std` for hermit.
pub(crate) const NO_APPS_FOR_HERMIT: &str = "--target hermit is for ordinary programs: name one by --manifest-path";

/// Builds the image of `app` for `target`, counting its ticks only if its manifest wants epochs that need it.
///
/// # Errors
/// As for [`build`] and [`build_hppa`].
pub fn build_for(workspace: &Workspace, app: &str, target: Target, quiet: bool) -> Result<Image> {
    match target {
        Target::X86_64 => build(workspace, app, None, quiet),
        Target::Hppa => build_hppa(workspace, app, quiet),
        Target::Hermit => Err(Error::Usage(NO_APPS_FOR_HERMIT.to_owned())),
    }
}

/// Builds the image of `app` for PA-RISC.
///
/// # Errors
/// [`BuildError`], within [`Error::Build`]; what is missing on this machine, as [`Error::Missing`].
pub fn build_hppa(workspace: &Workspace, app: &str, quiet: bool) -> Result<Image> {
    let package = workspace.app(app)?;
    package.refuse_files()?;
    let (epoch, disks, defaults) = (package.epoch()?, package.disks()?, package.defaults()?);
    setup::ensure_hppa()?;
    let halves = hppa::build_halves(workspace, app, quiet)?;
    let (guest_bytes, shim_bytes) = (read(&halves.guest)?, read(&halves.shim)?);
    let wrong = |source| BuildError::Pack { app: app.to_owned(), source };
    let native = hppa::image::NativeImage::parse(&guest_bytes).map_err(wrong)?;
    hppa::image::check_code(&native).map_err(wrong)?;
    let packed = pack::pack_hppa(&shim_bytes, &hppa::image::guest(&native, &halves.data)).map_err(wrong)?;
    let path = workspace.images_dir().join(format!("{app}{HPPA}.img"));
    let written = write(app, path, [&guest_bytes, &shim_bytes], &packed)?;
    Ok(Image { epoch, disks, defaults, target: Target::Hppa, ..written })
}

/// The file name of an app's image.
pub fn image_name(app: &str, counts_ticks: bool) -> String {
    format!("{app}{}.img", if counts_ticks { COUNTED } else { "" })
}

/// Builds a guest that counts its ticks: the compiler's assembly, with ticks, assembled and linked.
fn build_counted(workspace: &Workspace, package: &Package, quiet: bool) -> Result<(Vec<u8>, Coverage)> {
    let app = &package.name;
    let compiled = workspace.compile_guest(package, quiet)?;
    let path = &compiled.assembly;
    let text = std::fs::read_to_string(path).map_err(|source| file_error(path, source))?;
    let counted = ticks::instrument(&text);
    let counted = counted.map_err(|source| BuildError::Ticks { app: app.clone(), path: path.clone(), source })?;
    let (assembly, executable) = (path.with_extension("counted.s"), path.with_extension("counted.elf"));
    replace(&assembly, counted.assembly.as_bytes())?;
    if !compiled.linker.is_done(&assembly, &executable) {
        let linked = compiled.linker.link(&assembly, &executable);
        linked.map_err(|source| BuildError::Link { app: app.clone(), source })?;
    }
    let bytes = read(&executable)?;
    let coverage = Coverage::of(&bytes, &counted)
        .map_err(|error| BuildError::Pack { app: app.clone(), source: ImageError::NotElf(error.to_string()) })?;
    Ok((bytes, coverage))
}

/// Checks an image file built earlier, here or elsewhere. Symbols are taken from the files beside it if they belong
/// to this very image.
///
/// # Errors
/// [`Error::Image`] for a file that is truncated, damaged or not an image.
pub fn open(path: &Path) -> Result<Image> {
    let bad = |source| Error::Image { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(|source| bad(ImageError::Unreadable(source)))?;
    let info = inspect(&bytes).map_err(bad)?;
    let symbols =
        |suffix: &str| path.file_stem().map(|stem| path.with_file_name(format!("{}{suffix}", stem.display())));
    let (guest_elf, shim_elf) = (symbols(".guest.elf"), symbols(".shim.elf"));
    let ours = guest_elf.as_deref().zip(shim_elf.as_deref()).is_some_and(|(guest, shim)| {
        let packed = std::fs::read(shim).ok().zip(std::fs::read(guest).ok());
        packed.is_some_and(|(shim, guest)| pack(&shim, &guest).is_ok_and(|packed| packed.image_id == info.image_id))
    });
    Ok(Image {
        app: path
            .file_stem()
            .map(|stem| stem.display().to_string())
            .unwrap_or_default()
            .trim_end_matches(COUNTED)
            .trim_end_matches(HPPA)
            .to_owned(),
        image: path.to_owned(),
        image_bytes: bytes.len() as u64,
        image_id: hex(&info.image_id),
        guest_elf: guest_elf.filter(|_| ours),
        shim_elf: shim_elf.filter(|_| ours),
        // The image does not say; whoever built it may.
        epoch: EpochSpec::default(),
        counts_ticks: info.counts_ticks,
        coverage: None,
        disks: Vec::new(),
        defaults: Defaults::default(),
        target: info.target,
    })
}

fn file_error(path: &Path, source: io::Error) -> BuildError {
    BuildError::File { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(|source| file_error(path, source))
}

/// Writes a file by renaming, so that a running pair keeps the image it has mapped and nobody reads half a file.
/// An unchanged file is left alone.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), BuildError> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|source| file_error(path, source))
}
