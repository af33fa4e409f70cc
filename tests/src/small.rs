//! A small file system of a test's own, which can be full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system, gone when dropped.
pub struct Small {
    path: PathBuf,
}

impl Small {
    /// One of this size, as `mount` understands it, in a folder that is made for it.
    ///
    /// # Panics
    /// When it cannot be mounted: only root can.
    pub fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).expect("made");
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(path).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a tmpfs can be mounted: run this test as root");
        Self { path: path.to_owned() }
    }

    /// Takes all room that is left, to the last block. Returns the file that does, to be removed when there is to be room again.
    ///
    /// # Panics
    /// When there is still room.
    pub fn fill(&self) -> PathBuf {
        let filler = self.path.join("filler");
        let full =
            Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())).output();
        assert!(full.is_ok_and(|output| !output.status.success()), "the file system is full");
        filler
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
