//! From WebAssembly to a PA-RISC executable.

use std::ffi::OsStr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use super::{BuildError, GCC, Module, WASM2C, alignment, key, read, replace, translate};
use crate::build::cargo::Workspace;
use crate::build::file_error;

/// The flags of all C. Memory is reversed and seen as whatever type an access has; a module's memory may not be taken for a
/// library function's work (the functions would call themselves).
const CFLAGS: [&str; 20] = [
    "-O2",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-pic",
    "-fno-pie",
    "-ffunction-sections",
    "-fdata-sections",
    "-mno-space-regs",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-fno-tree-loop-distribute-patterns",
    "-fwrapv",
    // What can be reckoned once or before a loop, the optimiser of Rust has put there. Doing that again finds addresses, of which
    // there are more than registers: they are stored and loaded, which costs an emulator several times as much as a subtraction.
    "-fno-tree-pre",
    "-fno-gcse",
    "-fno-tree-loop-im",
    "-fno-move-loop-invariants",
    // Translated code has functions and variables that nobody uses.
    "-w",
    "-c",
];

/// Compiles the native parts of one module.
pub(super) struct Native<'a> {
    module: &'a Module<'a>,
    /// The sources beside the translated code.
    sources: PathBuf,
    /// Where objects are put.
    folder: PathBuf,
    /// All headers, for noticing changes.
    headers_key: String,
    compiler: String,
}

/// A source, what becomes of it, and a digest of what goes into that.
struct Job {
    source: PathBuf,
    object: PathBuf,
    inputs: String,
}

impl<'a> Native<'a> {
    pub fn new(workspace: &Workspace, module: &'a Module<'a>) -> Result<Self, BuildError> {
        let sources = workspace.root.join("hypervisor-shim/src/hppa/native");
        let folder = workspace.pollux_target_dir().join("hppa").join(module.name);
        std::fs::create_dir_all(&folder).map_err(|source| file_error(&folder, source))?;
        let mut files: Vec<_> = std::fs::read_dir(&sources)
            .map_err(|source| file_error(&sources, source))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension() == Some(OsStr::new("h")))
            .collect();
        files.sort();
        let contents = files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        let headers_key = key(contents.iter().map(Vec::as_slice));
        let compiler = output_of(Command::new(GCC).arg("--version"), GCC)?;
        Ok(Self { module, sources, folder, headers_key, compiler })
    }

    /// Translates and compiles the module, and compiles these sources; as many at a time as there are processors.
    pub fn objects(&self, wasm: &Path, sources: &[&str]) -> Result<Vec<PathBuf>, BuildError> {
        let mut jobs = self.translated(wasm)?;
        for source in sources {
            let object = self.folder.join(source).with_extension("o");
            let path = self.sources.join(source);
            let inputs = key([read(&path)?.as_slice(), self.headers_key.as_bytes()]);
            jobs.push(Job { source: path, object, inputs });
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.compile(job)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
            let workers: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            let own = work();
            workers.into_iter().map(joined).fold(own, Result::and)
        })?;
        Ok(jobs.into_iter().map(|job| job.object).collect())
    }

    /// What is to be compiled of the module.
    fn translated(&self, wasm: &Path) -> Result<Vec<Job>, BuildError> {
        let (code, header) = (self.folder.join("m.c"), self.folder.join(translate::HEADER));
        let bytes = read(wasm)?;
        self.unless_done(&code, &key([bytes.as_slice()]), || {
            // The module's name goes into every symbol.
            let mut command = Command::new(WASM2C);
            command.args(["--module-name", "m"]).arg(wasm).arg("--output").arg(&code);
            execute(&mut command, WASM2C)
        })?;
        let text = String::from_utf8_lossy(&read(&code)?).into_owned();
        let translated = translate::rewrite(&text, self.module.with, &alignment::accesses(&bytes)?)?;
        replace(&header, translated.header.as_bytes())?;
        let of_header =
            key([translated.header.as_bytes(), self.headers_key.as_bytes(), &read(&self.folder.join("m.h"))?]);
        let with = key([read(&self.sources.join(self.module.with))?.as_slice()]);
        let part = |(number, text): (usize, &String)| {
            let (source, object) = (self.part(number), self.part(number).with_extension("o"));
            replace(&source, text.as_bytes())?;
            let with = if number == 0 { with.as_str() } else { "" };
            let inputs = key([text.as_bytes(), of_header.as_bytes(), with.as_bytes()]);
            Ok(Job { source, object, inputs })
        };
        translated.parts.iter().enumerate().map(part).collect()
    }

    fn part(&self, number: usize) -> PathBuf {
        self.folder.join(format!("part{number}.c"))
    }

    fn compile(&self, job: &Job) -> Result<(), BuildError> {
        let end = format!("-DLINEAR_END={:#x}u", self.module.end.0);
        let flags = CFLAGS.join(" ");
        let inputs = [job.inputs.as_bytes(), self.compiler.as_bytes(), end.as_bytes(), flags.as_bytes()];
        self.unless_done(&job.object, &key(inputs), || {
            let mut command = Command::new(GCC);
            command.args(CFLAGS).arg(&end).arg("-I").arg(&self.sources).arg("-I").arg(&self.folder);
            command.arg(&job.source).arg("-o").arg(&job.object);
            execute(&mut command, GCC)
        })
    }

    /// Where the linker of WebAssembly says that the module's data ends.
    pub fn heap_base(&self) -> Result<u64, BuildError> {
        let what = "instance->w2c___heap_base = ";
        let code = String::from_utf8_lossy(&read(&self.part(0))?).into_owned();
        let number = code.split_once(what).and_then(|(_, rest)| rest.split_once('u')).map(|(number, _)| number);
        number
            .and_then(|number| number.parse().ok())
            .ok_or(BuildError::Translate(translate::TranslateError::Missing { what }))
    }

    /// Links an executable by a script, with these symbols defined.
    pub fn link(&self, objects: &[PathBuf], script: &str, symbols: &[(&str, u64)]) -> Result<PathBuf, BuildError> {
        let executable = self.folder.join("image.elf");
        let library = output_of(Command::new(GCC).arg("-print-libgcc-file-name"), GCC)?;
        // By the compiler's driver, which knows where its linker is.
        let mut command = Command::new(GCC);
        command.args([
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,-N",
            "-Wl,--gc-sections",
            "-Wl,--build-id=none",
            "-Wl,-T",
        ]);
        command.arg(self.sources.join(script));
        command.args(symbols.iter().map(|(name, value)| format!("-Wl,--defsym={name}={value:#x}")));
        command.args(objects).arg(library.trim()).arg("-o").arg(&executable);
        execute(&mut command, "the linker of PA-RISC")?;
        Ok(executable)
    }

    /// Does a step whose result is `path` unless it was done with the same inputs before.
    fn unless_done(
        &self,
        path: &Path,
        inputs: &str,
        step: impl FnOnce() -> Result<(), BuildError>,
    ) -> Result<(), BuildError> {
        let mut name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
        name.push(".key");
        let stamp = path.with_file_name(name);
        if path.exists() && std::fs::read(&stamp).is_ok_and(|old| old == inputs.as_bytes()) {
            return Ok(());
        }
        // Not done until it is done.
        let _ = std::fs::remove_file(&stamp);
        step()?;
        replace(&stamp, inputs.as_bytes())
    }
}

/// What a thread has come to.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, BuildError>>) -> Result<T, BuildError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn not_started(program: &str, error: &std::io::Error) -> BuildError {
    BuildError::Native {
        program: program.to_owned(),
        message: format!("it does not start: {error}; `pollux doctor` says which package brings it"),
    }
}

fn execute(command: &mut Command, program: &str) -> Result<(), BuildError> {
    output_of(command, program).map(drop)
}

/// What a program prints. Its complaints become the error.
fn output_of(command: &mut Command, program: &str) -> Result<String, BuildError> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| not_started(program, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BuildError::Native { program: program.to_owned(), message: format!("{}: {message}", output.status) })
}
