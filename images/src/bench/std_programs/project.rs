//! A new project, as a user makes it: by commands.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::running;
use crate::state::StateDir;

/// How often the console is looked at.
const LOOK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// Seconds from `cargo pollux new` to the first line that the new program, as a pair, has printed.
pub(super) fn new_to_first_line_s() -> Result<f64> {
    let name = format!("bench-new-{}", std::process::id());
    let parent = std::env::temp_dir().join(format!("pollux-{name}"));
    let measured = measure(&parent, &name);
    // Whatever came of it: the pair ends, and the project goes.
    let down = pollux(&["down", "--name", &name]);
    std::fs::remove_dir_all(&parent).context(|| format!("cannot remove {}", parent.display()))?;
    let measured_s = measured?;
    down.map(|()| measured_s)
}

fn measure(parent: &Path, name: &str) -> Result<f64> {
    let folder = parent.join("counter");
    let manifest = folder.join("Cargo.toml");
    let start = Instant::now();
    pollux(&["new", &folder.display().to_string()])?;
    pollux(&["up", "--manifest-path", &manifest.display().to_string(), "--name", name])?;
    let console = StateDir::new(name)?.console_log();
    // There is none before the first line.
    while !std::fs::read(&console).is_ok_and(|bytes| bytes.contains(&b'\n')) {
        if start.elapsed() > PATIENCE {
            return Err(Error::CheckFailed(format!("the new program has said nothing in {PATIENCE:?}")));
        }
        std::thread::sleep(LOOK);
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Runs the pollux command.
fn pollux(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(running::program()?);
    let output = command.args(arguments).output().context(|| "cannot start the pollux command")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::CheckFailed(format!(
        "pollux {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
