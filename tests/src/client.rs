//! A RESP client that hides nothing: what was sent, what came back, where a connection broke.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection that says nothing for so long is broken: far beyond every outage that a failover may cause.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Simple(String),
    /// `-ERR …`, without the dash.
    Error(String),
    /// `:1`.
    Integer(i64),
    /// `$…`; `None` is nil.
    Bulk(Option<Vec<u8>>),
    /// `*…`; `None` is nil.
    Array(Option<Vec<Reply>>),
}

impl Reply {
    /// `+OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text == "OK")
    }

    /// A bulk string of these bytes.
    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(Some(bytes.as_ref().to_vec()))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bulk(Some(bytes)) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, SILENCE_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        stream.set_write_timeout(Some(SILENCE_LIMIT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The system's.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends one command.
    ///
    /// # Errors
    /// The system's.
    pub fn send_command(&mut self, words: &[&[u8]]) -> io::Result<()> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.send(&bytes)
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// The system's; `InvalidData` for what is no RESP; `UnexpectedEof` when the peer has closed.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| invalid(&line))?;
        let number = || rest.parse::<i64>().map_err(|_| invalid(&line));
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()?),
            "$" => Reply::Bulk(usize::try_from(number()?).ok().map(|bytes| self.bulk(bytes)).transpose()?),
            "*" => {
                let count = usize::try_from(number()?).ok();
                Reply::Array(count.map(|count| (0..count).map(|_| self.receive()).collect()).transpose()?)
            }
            _ => return Err(invalid(&line)),
        })
    }

    /// Sends a command and reads its reply.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn ask(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        self.send_command(words)?;
        self.receive()
    }

    /// Sends a command of words separated by spaces and reads its reply.
    ///
    /// # Panics
    /// When the connection fails.
    pub fn must(&mut self, command: &str) -> Reply {
        let words: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        self.ask(&words).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Reads a line of text without its end.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer has closed the connection"));
        }
        line.truncate(line.trim_end_matches(['\r', '\n']).len());
        Ok(line)
    }

    /// Whether something has come that was not read.
    ///
    /// # Errors
    /// The system's.
    pub fn has_something(&self) -> io::Result<bool> {
        if !self.stream.buffer().is_empty() {
            return Ok(true);
        }
        let stream = self.stream.get_ref();
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        match peeked {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads to the end of the stream.
    ///
    /// # Errors
    /// The system's.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(&self) -> io::Result<()> {
        self.stream.get_ref().shutdown(std::net::Shutdown::Write)
    }

    fn bulk(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut value = vec![0; bytes + 2];
        self.stream.read_exact(&mut value)?;
        if value.split_off(bytes) != b"\r\n" {
            return Err(invalid("a bulk string without its end"));
        }
        Ok(value)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not RESP: {what:?}"))
}
