//! Framed messages over a port.

use alloc::vec::Vec;

use protocol::frame::{FrameReader, FrameWriter};

use crate::machine::{Port, Received};

/// One end of a framed byte stream.
#[derive(Debug)]
pub struct Channel {
    reader: Option<FrameReader>,
    writer: FrameWriter,
    /// Encoded messages that have not been handed to the port.
    outbox: Vec<u8>,
    open: bool,
    max_payload_bytes: usize,
    messages_sent: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

impl Channel {
    /// A channel that writes frames of one session and reads frames of another.
    pub fn new(write_session: u64, read_session: u64, max_payload_bytes: usize) -> Self {
        Self {
            reader: Some(FrameReader::new(read_session, max_payload_bytes)),
            writer: FrameWriter::new(write_session),
            outbox: Vec::new(),
            open: true,
            max_payload_bytes,
            messages_sent: 0,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    /// Begins anew with other sessions: what was not sent is forgotten, and so is what was read in part.
    pub fn renew(&mut self, write_session: u64, read_session: u64) {
        self.reader = Some(FrameReader::new(read_session, self.max_payload_bytes));
        self.writer = FrameWriter::new(write_session);
        self.outbox.clear();
        self.open = true;
    }

    /// Reads nothing more. What was encoded before is still sent.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Bytes waiting to be handed to the port.
    pub fn backlog_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// Messages and bytes sent, bytes received.
    pub fn counters(&self) -> (u64, u64, u64) {
        (self.messages_sent, self.bytes_sent, self.bytes_received)
    }

    /// Lets `encode` append messages to what is sent next.
    pub fn encode(&mut self, encode: impl FnOnce(&mut FrameWriter, &mut Vec<u8>)) {
        encode(&mut self.writer, &mut self.outbox);
        self.messages_sent += 1;
    }

    /// Hands everything encoded to the port in one buffer. What the port cannot take now goes with the next flush.
    pub fn flush(&mut self, port: &mut impl Port) {
        if self.outbox.is_empty() {
            return;
        }
        // The port's empty buffer becomes the next outbox: nothing is copied.
        if let Some(empty) = port.buffer() {
            self.bytes_sent += self.outbox.len() as u64;
            port.send(core::mem::replace(&mut self.outbox, empty));
        }
    }

    /// Takes a buffer off the port, if the channel is open and there is one.
    pub fn take(&mut self, port: &mut impl Port) -> Option<Received> {
        if !self.open {
            // Nobody wants it, but a port that is not emptied would block its other end.
            if let Some(received) = port.take() {
                port.give_back(received);
            }
            return None;
        }
        let received = port.take()?;
        self.bytes_received += received.payload().len() as u64;
        Some(received)
    }

    /// Whether messages can be read: the channel is open, and nobody reads it now.
    pub fn can_be_read(&self) -> bool {
        self.open && self.reader.is_some()
    }

    /// The reader, to be held while received buffers are read, so that their messages can be acted upon meanwhile.
    /// `None` when the channel is closed, or the reader is held already.
    pub fn take_reader(&mut self) -> Option<FrameReader> {
        if self.open { self.reader.take() } else { None }
    }

    /// Puts the reader back.
    pub fn put_reader(&mut self, reader: FrameReader) {
        self.reader = Some(reader);
    }
}
