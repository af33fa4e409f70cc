//! What is left of a computation that has panicked.

use core::fmt::{self, Write};

/// Longest message of a panic that is kept, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 256;

/// A contained computation has panicked.
#[derive(Clone, PartialEq, Eq)]
pub struct Panicked {
    /// Of fixed length, because a panic may be for want of memory.
    message: [u8; MAX_MESSAGE_BYTES],
    used: usize,
}

impl Panicked {
    pub(super) fn new(message: fmt::Arguments<'_>) -> Self {
        let mut panicked = Self { message: [0; MAX_MESSAGE_BYTES], used: 0 };
        // A message is cut, and one that cannot be made is the less of two evils.
        let _ = panicked.write_fmt(message);
        panicked
    }

    /// What it has said, at most [`MAX_MESSAGE_BYTES`] bytes of it.
    pub fn message(&self) -> &str {
        core::str::from_utf8(&self.message[..self.used]).unwrap_or_default()
    }
}

impl fmt::Write for Panicked {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.floor_char_boundary(MAX_MESSAGE_BYTES - self.used);
        self.message[self.used..self.used + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.used += taken;
        Ok(())
    }
}

impl fmt::Debug for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panicked").field(&self.message()).finish()
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the computation panicked: {}", self.message())
    }
}

impl core::error::Error for Panicked {}
