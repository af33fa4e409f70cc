//! The machine that measured: what a reader must know of it, and nothing that names it.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::setup;

/// A machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// The processor's model.
    pub cpu: String,
    /// Its cores, as far as we may use them.
    pub cores: usize,
    /// What QEMU says about its version.
    pub qemu: String,
    /// The kernel's release.
    pub kernel: String,
    /// Processes that wanted a core before anything was measured: the load average of the last minute.
    pub load_before: f64,
}

impl Host {
    /// Looks at this machine.
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu_model(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            qemu: setup::qemu_version().unwrap_or_else(|| "unknown".to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: read("/proc/loadavg").split_whitespace().next().and_then(|w| w.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// The first model's name in the kernel's list of processors.
fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_read() {
        let text = "processor\t: 0\nmodel\t\t: 6\nmodel name\t: Some Processor @ 2.0GHz\nflags\t\t: fpu\n";
        assert_eq!(cpu_model(text), "Some Processor @ 2.0GHz");
        assert_eq!(cpu_model(""), "unknown");
    }
}
