//! The guest's console on disk: every byte once, whoever sends it.

use super::scribe::Pen;

/// The console's log.
#[derive(Debug)]
pub struct Console {
    pen: Pen,
    /// Bytes of the stream written so far.
    written_bytes: u64,
}

impl Console {
    /// Begins the log of a guest that has written so many bytes before.
    pub fn new(pen: Pen, before_bytes: u64) -> Self {
        Self { pen, written_bytes: before_bytes }
    }

    /// Writes what is new of `bytes`, which begin at `offset_bytes` of the guest's stream. A promoted replica sends
    /// again what its primary may not have sent.
    pub fn write(&mut self, offset_bytes: u64, bytes: &[u8]) {
        let known = self.written_bytes.saturating_sub(offset_bytes).min(bytes.len() as u64);
        let new = &bytes[known as usize..];
        if new.is_empty() {
            return;
        }
        let missing = offset_bytes.saturating_sub(self.written_bytes);
        self.written_bytes = offset_bytes.saturating_add(bytes.len() as u64);
        if missing > 0 {
            self.remark(&format!("[{missing} bytes of the console were lost]"));
        }
        self.pen.append(new.to_vec());
    }

    /// Writes a remark of the supervisor's own.
    pub fn remark(&self, text: &str) {
        self.pen.append(format!("{text}\n").into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::scribe::Scribe;
    use super::*;

    #[test]
    fn repeated_bytes_are_written_once_and_missing_ones_are_owned_up_to() {
        let path = std::env::temp_dir().join(format!("pollux-console-test-{}", std::process::id()));
        let scribe = Scribe::start().expect("a thread");
        let mut console = Console::new(scribe.pen(std::fs::File::create(&path).expect("a file")), 0);
        for (offset, bytes) in [(0, &b"hello "[..]), (0, b"hello "), (3, b"lo world\n"), (12, b""), (20, b"late\n")] {
            console.write(offset, bytes);
        }
        scribe.finish();
        let text = std::fs::read_to_string(&path).expect("there");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(text, "hello world\n[8 bytes of the console were lost]\nlate\n");
    }
}
