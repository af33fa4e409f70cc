//! The control channel to one shim.

use std::io::{self, Read, Write};

use mio::net::UnixStream;
use protocol::control::{MAX_PAYLOAD_BYTES, SESSION_TO_SHIM, SESSION_TO_SUPERVISOR, ToShim, ToSupervisor};
use protocol::frame::{FrameError, FrameReader, FrameWriter, MessageError};

/// Bytes that may wait for a shim that does not read; beyond that it counts as broken.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// One read.
const READ_BYTES: usize = 64 * 1024;

/// Why a channel cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket's own error; `UnexpectedEof` when QEMU has closed it.
    #[error("control channel: {0}")]
    Io(#[from] io::Error),
    /// The bytes are no frames.
    #[error("control channel: {0}")]
    Frame(#[from] FrameError),
    /// A frame is no message.
    #[error("control channel: {0}")]
    Message(#[from] MessageError),
    /// The shim does not read.
    #[error("control channel: {0} bytes wait for a shim that does not read")]
    Stuck(usize),
}

/// What comes from a shim. Apart from the [`Channel`], so that a message can be answered while the next ones wait here.
#[derive(Debug)]
pub struct Inbox {
    reader: FrameReader,
    input: Box<[u8]>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            reader: FrameReader::new(SESSION_TO_SUPERVISOR, MAX_PAYLOAD_BYTES),
            input: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }
}

impl Inbox {
    /// Hands each message that the first `bytes` of the last [`Channel::receive`] complete to `each`.
    ///
    /// # Errors
    /// [`ChannelError`]; the channel is of no use then.
    pub fn take(&mut self, bytes: usize, mut each: impl FnMut(ToSupervisor<'_>)) -> Result<(), ChannelError> {
        self.reader.feed(&self.input[..bytes], |frame| {
            each(ToSupervisor::decode(frame.kind, frame.payload)?);
            Ok(())
        })
    }
}

/// The supervisor's end.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    writer: FrameWriter,
    waiting: Vec<u8>,
}

impl Channel {
    /// The supervisor's end of a connected, non-blocking stream.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, writer: FrameWriter::new(SESSION_TO_SHIM), waiting: Vec::new() }
    }

    /// The socket, to be registered.
    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Reads what there is into the inbox and returns how many bytes, 0 when nothing waits.
    ///
    /// # Errors
    /// The socket's error; `UnexpectedEof` when QEMU has closed it.
    pub fn receive(&mut self, inbox: &mut Inbox) -> Result<usize, ChannelError> {
        loop {
            match self.stream.read(&mut inbox.input) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a message, now or as soon as the socket takes it.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn send(&mut self, message: &ToShim<'_>) -> Result<(), ChannelError> {
        // The only texts sent are bounded by the callers.
        message
            .encode_into(&mut self.writer, &mut self.waiting)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        self.flush()?;
        if self.waiting.len() > MAX_WAITING_BYTES { Err(ChannelError::Stuck(self.waiting.len())) } else { Ok(()) }
    }

    /// Writes what waits. A QEMU that has ended takes nothing more, which is no error here: the shim's last words still
    /// lie in the socket, and behind them [`Channel::receive`] finds the end.
    ///
    /// # Errors
    /// The socket's error.
    pub fn flush(&mut self) -> Result<(), ChannelError> {
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(bytes) => drop(self.waiting.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.waiting.clear();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use protocol::control::{Level, Log};

    use super::*;

    #[test]
    fn the_last_words_of_a_shim_that_has_gone_are_read() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("a socket of ours");
        let (mut channel, mut inbox) = (Channel::new(UnixStream::from_std(ours)), Inbox::default());
        // Two messages, so that one lies unread in the socket when it closes.
        channel.send(&ToShim::Shutdown).expect("a socket with room");
        let (mut writer, mut bytes) = (FrameWriter::new(SESSION_TO_SUPERVISOR), Vec::new());
        let words = ToSupervisor::Log(Log { level: Level::Info, text: "farewell" });
        words.encode_into(&mut writer, &mut bytes).expect("a short message");
        (&theirs).write_all(&bytes).expect("a socket with room");
        drop(theirs);

        channel.send(&ToShim::PeerDead).expect("the end is found by reading");
        let mut heard = Vec::new();
        let received = channel.receive(&mut inbox).expect("what was said before the end");
        inbox
            .take(received, |message| {
                if let ToSupervisor::Log(log) = message {
                    heard.push(log.text.to_owned());
                }
            })
            .expect("whole messages");
        assert_eq!(heard, ["farewell"]);
        channel.receive(&mut inbox).expect_err("and then the end");
    }
}
