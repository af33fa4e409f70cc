//! Assembling and linking a guest whose assembly was rewritten: what rustc would have done with its own.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The C compiler's driver, which Rust itself needs for linking.
const DRIVER: &str = "cc";

/// Why a guest was not assembled or linked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The driver does not start.
    #[error(
        "{DRIVER} does not start ({0}); install the C linker that Rust itself needs (`apt install build-essential`)"
    )]
    Start(#[source] io::Error),
    /// It ended with an error.
    #[error("{DRIVER} could not {what} ({status}): {messages}")]
    Failed {
        /// What it was to do.
        what: &'static str,
        /// How it ended.
        status: String,
        /// The beginning of what it said.
        messages: String,
    },
}

/// Everything that a guest is linked from besides its own assembly.
#[derive(Debug, Clone)]
pub struct Linker {
    /// Arguments of the driver, without its inputs.
    pub arguments: Vec<std::ffi::OsString>,
    /// Archives of the crates that the compiler keeps out of the joint optimisation. Others may be among them: nothing
    /// refers to what they hold.
    pub archives: Vec<PathBuf>,
    /// The linker script, which is among the arguments.
    pub script: PathBuf,
}

impl Linker {
    /// Whether `executable` is newer than everything that it was linked from.
    pub fn is_done(&self, assembly: &Path, executable: &Path) -> bool {
        let written = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
        let Some(done) = written(executable) else { return false };
        let inputs = self.archives.iter().chain([&self.script]).map(PathBuf::as_path).chain([assembly]);
        inputs.map(written).all(|input| input.is_some_and(|input| input < done))
    }

    /// Assembles `assembly` to `object` and links that to `executable`.
    ///
    /// # Errors
    /// [`LinkError`] with the tool's own words.
    pub fn link(&self, assembly: &Path, object: &Path, executable: &Path) -> Result<(), LinkError> {
        run("assemble the guest", [OsStr::new("-c"), assembly.as_os_str(), OsStr::new("-o"), object.as_os_str()])?;
        let outputs = [OsStr::new("-o"), executable.as_os_str(), object.as_os_str(), OsStr::new("-Wl,--start-group")];
        let archives = self.archives.iter().map(|archive| archive.as_os_str());
        let arguments = self.arguments.iter().map(|argument| argument.as_os_str());
        run(
            "link the guest",
            outputs.into_iter().chain(archives).chain([OsStr::new("-Wl,--end-group")]).chain(arguments),
        )
    }
}

fn run<'a>(what: &'static str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<(), LinkError> {
    const MESSAGE_BYTES: usize = 4000;
    let output = Command::new(DRIVER).args(arguments).stdin(Stdio::null()).output().map_err(LinkError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    let messages = messages[..messages.floor_char_boundary(MESSAGE_BYTES)].trim().to_owned();
    Err(LinkError::Failed { what, status: output.status.to_string(), messages })
}
