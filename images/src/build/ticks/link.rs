//! Assembling and linking a guest whose assembly was rewritten: what rustc would have done with its own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The C compiler's driver, which Rust itself needs for linking.
const DRIVER: &str = "cc";

/// Why a guest was not assembled or linked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A tool does not start.
    #[error("{tool} does not start ({source}); `cargo pollux doctor` says what is missing")]
    Start {
        /// The tool.
        tool: String,
        /// What the system said.
        source: io::Error,
    },
    /// A tool ended with an error.
    #[error("{tool} could not {what} ({status}): {messages}")]
    Failed {
        /// The tool.
        tool: String,
        /// What it was to do.
        what: &'static str,
        /// How it ended.
        status: String,
        /// The beginning of what it said.
        messages: String,
    },
    /// A file could not be written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Everything that a guest is made of besides its own assembly.
#[derive(Debug, Clone)]
pub struct Linker {
    /// The compiler, and the folder that it is run in, which decides which one it is.
    pub compiler: (OsString, PathBuf),
    /// The machine that it compiles for.
    pub target: &'static str,
    /// Arguments of the driver, without its inputs.
    pub arguments: Vec<OsString>,
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

    /// Assembles `assembly` and links it to `executable`, which is replaced when all is done: several may do this at once.
    ///
    /// # Errors
    /// [`LinkError`] with the tool's own words.
    pub fn link(&self, assembly: &Path, executable: &Path) -> Result<(), LinkError> {
        let own = |kind: &str| executable.with_extension(format!("{}.{kind}", std::process::id()));
        let (source, object, linked) = (own("rs"), own("o"), own("elf"));
        let done = self
            .assemble(assembly, &source, &object)
            .and_then(|()| self.link_object(&object, &linked))
            .and_then(|()| {
                std::fs::rename(&linked, executable)
                    .map_err(|error| LinkError::File { path: executable.to_owned(), source: error })
            });
        for file in [source, object, linked] {
            // What was never made, or renamed, is not there.
            let _ = std::fs::remove_file(file);
        }
        done
    }

    fn link_object(&self, object: &Path, executable: &Path) -> Result<(), LinkError> {
        let outputs = [OsStr::new("-o"), executable.as_os_str(), object.as_os_str(), OsStr::new("-Wl,--start-group")];
        let mut command = Command::new(DRIVER);
        command.args(outputs).args(&self.archives).arg("-Wl,--end-group").args(&self.arguments);
        run("link the guest", &mut command)
    }

    /// The compiler's own assembler takes all that the compiler writes; others know some instructions by other names. The
    /// way to it is a crate that holds nothing else.
    fn assemble(&self, assembly: &Path, source: &Path, object: &Path) -> Result<(), LinkError> {
        let text = format!(
            "#![no_std]\ncore::arch::global_asm!(include_str!({:?}), options(att_syntax, raw));\n",
            assembly.to_string_lossy()
        );
        std::fs::write(source, text).map_err(|error| LinkError::File { path: source.to_owned(), source: error })?;
        let mut emit = OsString::from("--emit=obj=");
        emit.push(object);
        let (program, folder) = &self.compiler;
        let mut command = Command::new(program);
        command
            .args(["--edition", "2024", "--crate-type", "lib", "--crate-name", "assembled", "--target", self.target])
            .args(["-C", "panic=abort", "-C", "codegen-units=1"])
            .arg(emit)
            .arg(source)
            .current_dir(folder);
        run("assemble the guest", &mut command)
    }
}

fn run(what: &'static str, command: &mut Command) -> Result<(), LinkError> {
    const MESSAGE_BYTES: usize = 4000;
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(source) => return Err(LinkError::Start { tool, source }),
    };
    if output.status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    let messages = messages[..messages.floor_char_boundary(MESSAGE_BYTES)].trim().to_owned();
    Err(LinkError::Failed { tool, what, status: output.status.to_string(), messages })
}
