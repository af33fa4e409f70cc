//! Lines out of a stream of bytes.

use super::{Error, TcpStream};

/// Reads a connection line by line, without allocating: a line, with its end, has at most `BYTES` bytes.
pub struct Lines<'a, const BYTES: usize> {
    stream: &'a TcpStream,
    buffer: [u8; BYTES],
    /// Bytes of the line handed out last, with its end.
    taken: usize,
    /// Bytes read.
    used: usize,
}

impl<'a, const BYTES: usize> Lines<'a, BYTES> {
    /// The lines that come from here on.
    pub fn new(stream: &'a TcpStream) -> Self {
        Self { stream, buffer: [0; BYTES], taken: 0, used: 0 }
    }

    /// The next line without its `\n`, or `None` when the peer has finished. A last line without an end is none.
    ///
    /// # Errors
    /// [`Error::TooLong`] for a line that does not fit, and every time from then on; else as [`TcpStream::read`].
    pub async fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        self.buffer.copy_within(self.taken..self.used, 0);
        self.used -= self.taken;
        self.taken = 0;
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..self.used].iter().position(|&byte| byte == b'\n') {
                let end = searched + end;
                self.taken = end + 1;
                return Ok(Some(&self.buffer[..end]));
            }
            searched = self.used;
            if searched == BYTES {
                return Err(Error::TooLong);
            }
            match self.stream.read(&mut self.buffer[searched..]).await? {
                0 => return Ok(None),
                bytes => self.used += bytes,
            }
        }
    }
}
