//! The start of a small program.

use std::time::{Duration, Instant};

use crate::build::Image;
use crate::error::{Error, Result};
use crate::running::Running;
use crate::supervise::spec::{RunName, Spec};

/// Guest memory at which starts are promised.
const MEMORY_MIB: u32 = 16;
/// How often the console is looked at.
const LOOK: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds from the start of a supervisor to the first line of the image's program, bare.
pub(super) fn first_line_ms(image: &Image) -> Result<f64> {
    let name = format!("bench-start-{}", std::process::id());
    let spec = Spec { run: RunName::Bare, memory_mib: MEMORY_MIB, ..Spec::new(name, image.clone())? };
    let start = Instant::now();
    let running = Running::start(&spec)?;
    while !running.console()?.contains('\n') {
        if start.elapsed() > PATIENCE {
            return Err(Error::CheckFailed(format!("{} has said nothing in {PATIENCE:?}", image.app)));
        }
        std::thread::sleep(LOOK);
    }
    let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
    running.down()?;
    Ok(elapsed_ms)
}
