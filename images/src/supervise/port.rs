//! QEMU's stream netdev: packets over a socket, each behind its length in four big-endian bytes.

use std::io::{self, Read, Write};

use mio::net::UnixStream;
use protocol::hubwire::MAX_PACKET_BYTES;

/// Bytes before each packet.
const LENGTH_BYTES: usize = 4;
/// Room for what one read may bring: several of the longest packets.
const READ_BYTES: usize = 256 * 1024;

/// The hub's end of one replica's network device.
#[derive(Debug)]
pub struct Port {
    stream: UnixStream,
    input: Box<[u8]>,
    /// Bytes of `input` that hold the beginning of a packet.
    pending_bytes: usize,
    output: Vec<u8>,
    /// Bytes of `output` already written.
    written_bytes: usize,
}

impl Port {
    /// The hub's end of a connected, non-blocking stream.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: vec![0; READ_BYTES].into_boxed_slice(),
            pending_bytes: 0,
            output: Vec::with_capacity(LENGTH_BYTES + MAX_PACKET_BYTES),
            written_bytes: 0,
        }
    }

    /// The socket, to be registered.
    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Reads until nothing is left and hands each whole packet to `each`.
    ///
    /// # Errors
    /// The socket's error; `UnexpectedEof` when QEMU has closed it; `InvalidData` for a length that no packet has.
    pub fn read(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        while self.read_once(&mut each)? {}
        Ok(())
    }

    /// Reads once and hands each whole packet to `each`. Returns whether there may be more.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_once(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        let room_bytes = self.input.len() - self.pending_bytes;
        let read_bytes = match self.stream.read(&mut self.input[self.pending_bytes..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read_bytes) => read_bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        let end = self.pending_bytes + read_bytes;
        let used = packets(&self.input[..end], &mut each)?;
        self.input.copy_within(used..end, 0);
        self.pending_bytes = end - used;
        // A short read has emptied the socket: whatever comes later is a new edge.
        Ok(read_bytes == room_bytes)
    }

    /// Whether the last packet has been handed over, so that another one may be begun.
    pub fn is_idle(&self) -> bool {
        self.output.is_empty()
    }

    /// Sends one packet, written by `fill` into a buffer of the greatest length; it returns how much it used. Call
    /// only while [`is_idle`](Self::is_idle).
    ///
    /// # Errors
    /// The socket's error. What the socket does not take now leaves with [`flush`](Self::flush).
    pub fn send(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> io::Result<()> {
        self.output.resize(LENGTH_BYTES + MAX_PACKET_BYTES, 0);
        let used = fill(&mut self.output[LENGTH_BYTES..]);
        self.output[..LENGTH_BYTES].copy_from_slice(&(used as u32).to_be_bytes());
        self.output.truncate(LENGTH_BYTES + used);
        self.written_bytes = 0;
        self.flush()
    }

    /// Bytes handed over with [`push`](Self::push) since the socket last had taken everything.
    pub fn waiting_bytes(&self) -> usize {
        self.output.len()
    }

    /// Puts a packet behind those that wait; they leave together with [`flush`](Self::flush).
    pub fn push(&mut self, packet: &[u8]) {
        self.output.extend_from_slice(&(packet.len() as u32).to_be_bytes());
        self.output.extend_from_slice(packet);
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The socket's error.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.written_bytes < self.output.len() {
            match self.stream.write(&self.output[self.written_bytes..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written_bytes += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written_bytes = 0;
        Ok(())
    }
}

/// Hands over the whole packets at the start of `bytes` and returns how many bytes they took.
fn packets(bytes: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<usize> {
    let mut used = 0;
    while let Some((length, rest)) = bytes[used..].split_first_chunk::<LENGTH_BYTES>() {
        let length = u32::from_be_bytes(*length) as usize;
        // Longer than a batch, but no longer than what fits the buffer, is a packet that the decoder refuses.
        if length > READ_BYTES - LENGTH_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a packet of {length} bytes")));
        }
        let Some(packet) = rest.get(..length) else { break };
        each(packet);
        used += LENGTH_BYTES + length;
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream as StdStream;

    fn port() -> (Port, StdStream) {
        let (ours, theirs) = StdStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("non-blocking");
        (Port::new(UnixStream::from_std(ours)), theirs)
    }

    fn framed(packets: &[&[u8]]) -> Vec<u8> {
        packets.iter().flat_map(|packet| [&(packet.len() as u32).to_be_bytes()[..], packet].concat()).collect()
    }

    #[test]
    fn packets_survive_any_cut() {
        let sent: [&[u8]; 3] = [b"one", b"", b"three"];
        let bytes = framed(&sent);
        for cut in 0..bytes.len() {
            let (mut port, mut peer) = port();
            let mut got: Vec<Vec<u8>> = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                peer.write_all(part).expect("written");
                port.read(|packet| got.push(packet.to_vec())).expect("read");
            }
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn packets_that_wait_leave_together_and_in_order() {
        let (mut port, mut peer) = port();
        let sent: [&[u8]; 2] = [b"one", b"three"];
        for round in 0..2 {
            sent.iter().for_each(|packet| port.push(packet));
            assert_eq!(port.waiting_bytes(), framed(&sent).len(), "round {round}");
            port.flush().expect("flushed");
            let mut got = vec![0; framed(&sent).len()];
            peer.read_exact(&mut got).expect("read");
            assert_eq!((got, port.is_idle()), (framed(&sent), true));
        }
    }

    #[test]
    fn an_impossible_length_and_the_end_are_errors() {
        let (mut port, mut peer) = port();
        peer.write_all(&u32::MAX.to_be_bytes()).expect("written");
        let error = port.read(|_| panic!("no packet came")).expect_err("impossible");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let (mut port, peer) = self::port();
        drop(peer);
        let error = port.read(|_| panic!("no packet came")).expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_the_socket_does_not_take_leaves_later() {
        let (mut port, mut peer) = port();
        let mut sent = 0;
        while port.is_idle() {
            port.send(|buffer| {
                buffer.fill(sent as u8);
                buffer.len()
            })
            .expect("sent");
            sent += 1;
        }
        let whole = LENGTH_BYTES + MAX_PACKET_BYTES;
        let mut got = vec![0; whole * sent];
        peer.read_exact(&mut got[..whole * (sent - 1)]).expect("read");
        port.flush().expect("flushed");
        assert!(port.is_idle());
        peer.read_exact(&mut got[whole * (sent - 1)..]).expect("read");
        for (index, packet) in got.chunks(whole).enumerate() {
            assert!(packet[LENGTH_BYTES..].iter().all(|&byte| byte == index as u8), "packet {index} is mixed up");
        }
    }
}
