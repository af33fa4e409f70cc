//! Ordinary Rust programs: `--manifest-path`, and `cargo pollux new`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::print;
use crate::build::{self, Image, Program, StdLibrary, Target, Workspace};
use crate::error::{Context, Error, Result};
use crate::setup;

/// Which program, if it is not an app of this workspace.
#[derive(Args, Debug, Clone)]
pub(super) struct ProgramArgs {
    /// Build any Rust program, `std` and all, instead of an app: the Cargo.toml of its package.
    #[arg(long, value_name = "CARGO.TOML", conflicts_with = "app")]
    manifest_path: Option<PathBuf>,
    /// Which of its binaries, if it has several.
    #[arg(long, value_name = "NAME", requires = "manifest_path")]
    bin: Option<String>,
}

impl ProgramArgs {
    pub(super) fn is_given(&self) -> bool {
        self.manifest_path.is_some()
    }

    pub(super) fn build(&self, target: Target, counts_ticks: bool, quiet: bool) -> Result<Image> {
        let Some(manifest) = &self.manifest_path else {
            return Err(Error::Usage("name an app, or a program by --manifest-path".to_owned()));
        };
        let library = match target {
            Target::X86_64 => StdLibrary::Linux,
            Target::Hermit => {
                setup::ensure_rust_sources()?;
                StdLibrary::Hermit
            }
            Target::Hppa => {
                return Err(Error::Usage(format!("programs with std are built for {} only", Target::X86_64)));
            }
        };
        if counts_ticks {
            return Err(Error::Usage(
                "a program with std cannot count its ticks, because std comes compiled: use --epoch exact:N".to_owned(),
            ));
        }
        build::build_std(&Workspace::find()?, &Program::find(manifest, self.bin.as_deref())?, library, quiet)
    }
}

/// What `new` accepts.
#[derive(Args, Debug)]
pub(super) struct NewArgs {
    /// The folder to make; its name is the package's.
    path: PathBuf,
}

/// The program of a new project.
const MAIN: &str = include_str!("program/main.rs");

/// Makes a project.
pub(super) fn new(args: &NewArgs) -> Result<()> {
    let name = args.path.file_name().and_then(|name| name.to_str()).filter(|name| is_package_name(name));
    let name = name.ok_or_else(|| {
        Error::Usage(format!(
            "{} cannot be a package's name: a letter first, then letters, digits, - and _",
            args.path.display()
        ))
    })?;
    if args.path.exists() {
        return Err(Error::Usage(format!("{} exists already: choose another folder", args.path.display())));
    }
    let command = Workspace::find()?.root.join("Cargo.toml");
    write(&args.path.join("Cargo.toml"), &manifest(name))?;
    write(&args.path.join("src/main.rs"), MAIN)?;
    write(&args.path.join(".gitignore"), "/target\n")?;
    write(&args.path.join(".cargo/config.toml"), &alias(&command))?;
    let folder = args.path.display();
    print(&format!(
        "made {folder}; now:\n  cd {folder}\n  cargo pollux up --manifest-path Cargo.toml --publish 8080:8080\n  \
         curl http://127.0.0.1:8080\n  cargo pollux kill primary\n  curl http://127.0.0.1:8080\n"
    ))
}

fn is_package_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '-' || char == '_')
}

fn manifest(name: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\n\
         # It is a workspace of its own, wherever it lies.\n[workspace]\n"
    )
}

/// Makes `cargo pollux` known in the project.
fn alias(command: &Path) -> String {
    // An array, so that a path may hold spaces; a string of TOML is one of JSON.
    let words = ["run", "--quiet", "--release", "--package", "pollux", "--manifest-path"].map(str::to_owned);
    let words: Vec<String> = words.into_iter().chain([command.display().to_string(), "--".to_owned()]).collect();
    let words = serde_json::Value::from(words);
    format!(
        "# `cargo pollux …` runs the command of the Pollux checkout that made this project.\n[alias]\npollux = {words}\n"
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(path, text).context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_packages() {
        for name in ["shop", "my-shop", "a_1"] {
            assert!(is_package_name(name), "{name}");
        }
        for name in ["", "1a", "-a", "a b", "ä", "a.b"] {
            assert!(!is_package_name(name), "{name}");
        }
    }

    #[test]
    fn the_alias_survives_odd_paths() {
        let text = alias(Path::new("/with \"quotes\" and spaces/Cargo.toml"));
        assert!(text.contains(r#""/with \"quotes\" and spaces/Cargo.toml","--"]"#), "{text}");
    }
}
