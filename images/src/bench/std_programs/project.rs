//! A new project, as a user makes it: by commands.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::server::{PATIENCE, PORT, REQUEST, answer_bytes};
use crate::ctl::PairStatus;
use crate::error::{Context, Error, Result};
use crate::running;

/// What the new program answers its first visitor.
const FIRST_ANSWER: &str = "visit 1\n";

/// Seconds from `cargo pollux new` to the first request that the new program, as a pair, has answered.
pub(super) fn new_to_answer_s() -> Result<f64> {
    let name = format!("bench-new-{}", std::process::id());
    let parent = std::env::temp_dir().join(format!("pollux-{name}"));
    let measured = measure(&parent, &name);
    // Whatever came of it: the pair ends, and the project goes.
    let down = pollux(&["down", "--name", &name]);
    std::fs::remove_dir_all(&parent).context(|| format!("cannot remove {}", parent.display()))?;
    let measured_s = measured?;
    down.map(|_| measured_s)
}

fn measure(parent: &Path, name: &str) -> Result<f64> {
    let folder = parent.join("counter");
    let manifest = folder.join("Cargo.toml");
    let start = Instant::now();
    pollux(&["new", &folder.display().to_string()])?;
    let publish = format!("0:{PORT}");
    let manifest = manifest.display().to_string();
    let up = pollux(&["up", "--manifest-path", &manifest, "--name", name, "--publish", &publish, "--json"])?;
    let up: PairStatus = serde_json::from_str(&up).map_err(|error| Error::CheckFailed(format!("{error}: {up}")))?;
    let answer = ask(up.published(PORT)?)?;
    if !answer.ends_with(FIRST_ANSWER) {
        return Err(Error::CheckFailed(format!("expected {FIRST_ANSWER:?} of the new program, got {answer:?}")));
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Makes one request. Returns the answer, with its head.
fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).context(|| format!("cannot connect to {address}"))?;
    let asked = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.write_all(REQUEST));
    asked.context(|| "cannot ask the new program")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 512]);
    while answer_bytes(&answer).map_err(Error::CheckFailed)?.is_none_or(|bytes| answer.len() < bytes) {
        match stream.read(&mut buffer).context(|| "cannot read the new program's answer")? {
            0 => return Err(Error::CheckFailed("the new program has closed the connection".to_owned())),
            bytes => answer.extend_from_slice(&buffer[..bytes]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Runs the pollux command. Returns what it has printed.
fn pollux(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(running::program()?);
    let output = command.args(arguments).output().context(|| "cannot start the pollux command")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::CheckFailed(format!(
        "pollux {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
