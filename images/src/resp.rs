//! A small RESP2 client: what `demo` and `bench` speak to the store.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest reply accepted.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+text`
    Simple(String),
    /// `-text`
    Error(String),
    /// `:number`
    Integer(i64),
    /// `$bytes`, or nothing
    Bulk(Option<Vec<u8>>),
}

/// A connection to a store.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Client {
    /// Connects. A reply that takes longer than `timeout` is an error.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, input: Vec::new(), output: Vec::new() })
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// The connection's end, its timeout, or a reply that is no RESP2.
    pub fn command(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        self.queue(words);
        self.send()?;
        self.receive()
    }

    /// Adds a command to those that the next [`send`](Self::send) sends.
    pub fn queue(&mut self, words: &[&[u8]]) {
        self.output.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.output.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.output.extend_from_slice(word);
            self.output.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The connection's end or its timeout.
    pub fn send(&mut self) -> io::Result<()> {
        let sent = self.stream.write_all(&self.output);
        self.output.clear();
        sent
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            if let Some((reply, used)) = parse(&self.input)? {
                self.input.drain(..used);
                return Ok(reply);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.input.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The reply at the start of `bytes` and its length; `None` when more is needed.
fn parse(bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() > MAX_REPLY_BYTES { Err(malformed("a line without end")) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| malformed("a line that is not text"))?;
    let used = end + 2;
    let (kind, text) = line.split_at_checked(1).ok_or_else(|| malformed("an empty line"))?;
    let number = || text.parse::<i64>().map_err(|_| malformed("a number expected"));
    Ok(Some(match kind {
        "+" => (Reply::Simple(text.to_owned()), used),
        "-" => (Reply::Error(text.to_owned()), used),
        ":" => (Reply::Integer(number()?), used),
        "$" => match number()? {
            -1 => (Reply::Bulk(None), used),
            length => {
                let length = usize::try_from(length).ok().filter(|&length| length <= MAX_REPLY_BYTES);
                let length = length.ok_or_else(|| malformed("an impossible length"))?;
                let Some(rest) = bytes.get(used..used + length + 2) else { return Ok(None) };
                (Reply::Bulk(Some(rest[..length].to_vec())), used + length + 2)
            }
        },
        _ => return Err(malformed("an unknown kind of reply")),
    }))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the store's reply is no RESP2: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        let all: [(&[u8], Reply); 6] = [
            (b"+OK\r\n", Reply::Simple("OK".into())),
            (b"-ERR no\r\n", Reply::Error("ERR no".into())),
            (b":-7\r\n", Reply::Integer(-7)),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"$0\r\n\r\n", Reply::Bulk(Some(Vec::new()))),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(Some(b"a\r\nb".to_vec()))),
        ];
        for (bytes, reply) in all {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]).expect("no fault"), None, "{cut} of {bytes:?}");
            }
            let followed = [bytes, b"+more"].concat();
            assert_eq!(parse(&followed).expect("no fault"), Some((reply, bytes.len())));
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for bytes in [&b"\r\n"[..], b"?\r\n", b":x\r\n", b"$-2\r\n", b"$99999999999\r\n", b"\xff\r\n"] {
            assert!(parse(bytes).is_err(), "{bytes:?} passes");
        }
    }
}
