//! The guest's console on disk: every byte once, whoever sends it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The console's log.
#[derive(Debug)]
pub struct Console {
    file: File,
    /// Bytes of the stream written so far.
    written_bytes: u64,
}

impl Console {
    /// Begins an empty log of a guest that has written so many bytes before.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path, before_bytes: u64) -> io::Result<Self> {
        Ok(Self { file: File::create(path)?, written_bytes: before_bytes })
    }

    /// Writes what is new of `bytes`, which begin at `offset_bytes` of the guest's stream. A promoted replica sends
    /// again what its primary may not have sent.
    ///
    /// # Errors
    /// The system's; the bytes count as written all the same.
    pub fn write(&mut self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        let known = self.written_bytes.saturating_sub(offset_bytes).min(bytes.len() as u64);
        let new = &bytes[known as usize..];
        if new.is_empty() {
            return Ok(());
        }
        let missing = offset_bytes.saturating_sub(self.written_bytes);
        self.written_bytes = offset_bytes.saturating_add(bytes.len() as u64);
        if missing > 0 {
            writeln!(self.file, "[{missing} bytes of the console were lost]")?;
        }
        self.file.write_all(new)
    }

    /// Writes a remark of the supervisor's own.
    ///
    /// # Errors
    /// The system's.
    pub fn remark(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.file, "{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_bytes_are_written_once_and_missing_ones_are_owned_up_to() {
        let path = std::env::temp_dir().join(format!("pollux-console-test-{}", std::process::id()));
        let mut console = Console::create(&path, 0).expect("a file");
        for (offset, bytes) in [(0, &b"hello "[..]), (0, b"hello "), (3, b"lo world\n"), (12, b""), (20, b"late\n")] {
            console.write(offset, bytes).expect("written");
        }
        let text = std::fs::read_to_string(&path).expect("there");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(text, "hello world\n[8 bytes of the console were lost]\nlate\n");
    }
}
