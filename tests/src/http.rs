//! Clients that add to a list over HTTP all the time and know what was acknowledged.
//!
//! Each client has one connection for its whole life, adds one entry after the other, each only once, and waits for each
//! answer. In the end the list must hold every entry that was acknowledged once, in each client's order, and nothing else. A
//! connection that breaks, closes or says nothing for ten seconds is a failure: nobody connects twice.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::answers::{Answers, Clients};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

fn invalid(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl Connection {
    /// Opens it.
    ///
    /// # Errors
    /// Why it could not be opened.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer: its status and its body.
    ///
    /// # Errors
    /// Why there was none, or what was wrong with it.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: pair\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| invalid(format!("expected a status line, got {status:?}")))?;
        let mut bytes = None;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                bytes = value.trim().parse().ok();
            }
        }
        let bytes = bytes.ok_or_else(|| invalid("an answer without a length".to_owned()))?;
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body)?;
        Ok((code, String::from_utf8(body).map_err(|error| invalid(error.to_string()))?))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Running clients.
#[derive(Debug)]
pub struct HttpLoad {
    address: SocketAddr,
    clients: Clients<()>,
}

impl HttpLoad {
    /// Starts clients and waits until each has had a few answers.
    ///
    /// # Panics
    /// When one fails.
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        let clients = Clients::start(clients, move |index, answers| {
            if let Err(error) = add(address, index, &answers) {
                answers.fail(index, &error.to_string());
            }
        });
        let load = Self { address, clients };
        load.wait_for_answers(5);
        load
    }

    /// Waits until every client has had so many more answers.
    ///
    /// # Panics
    /// When one fails, or has not within the deadline.
    pub fn wait_for_answers(&self, more: u64) {
        self.clients.wait_for_answers(more);
    }

    /// Stops the clients and compares what the server holds with what was acknowledged: how many entries there are.
    ///
    /// # Panics
    /// When a client has failed, or an entry is missing, is there twice, or was never added.
    pub fn finish(self) -> u64 {
        let acknowledged: BTreeMap<usize, u64> = self.clients.finish().1.into_iter().enumerate().collect();
        let all = Connection::open(self.address).and_then(|mut connection| connection.ask("GET", "/entries", ""));
        let (status, all) = all.expect("the server answers");
        assert_eq!(status, 200);
        if let Err(what) = compare(&all, &acknowledged) {
            panic!("{what}");
        }
        acknowledged.values().sum()
    }
}

/// What one client does.
fn add(address: SocketAddr, index: usize, answers: &Answers) -> io::Result<()> {
    let mut connection = Connection::open(address)?;
    let (mut number, mut last) = (0u64, 0u64);
    while !answers.stop() {
        let (status, body) = connection.ask("POST", "/entries", &format!("{index} {number}"))?;
        let entries = body.parse().ok().filter(|entries| status == 200 && *entries > last);
        last = entries.ok_or_else(|| invalid(format!("answered {status} {body:?} after {last}")))?;
        number += 1;
        answers.note(index);
    }
    Ok(())
}

/// Compares the server's list with the number of entries of each client that were acknowledged.
fn compare(list: &str, acknowledged: &BTreeMap<usize, u64>) -> Result<(), String> {
    let mut found: BTreeMap<usize, u64> = acknowledged.keys().map(|index| (*index, 0)).collect();
    for line in list.lines() {
        let entry = line.split_once(' ').and_then(|(index, number)| Some((index.parse().ok()?, number.parse().ok()?)));
        let (index, number): (usize, u64) = entry.ok_or_else(|| format!("nobody has added {line:?}"))?;
        let next = found.get_mut(&index).ok_or_else(|| format!("there is no client of {line:?}"))?;
        if *next != number {
            return Err(format!("client {index}: entry {number} stands where {next} is to be"));
        }
        *next += 1;
    }
    for (index, acknowledged) in acknowledged {
        if found[index] != *acknowledged {
            return Err(format!(
                "client {index}: {acknowledged} entries were acknowledged, {} are there",
                found[index]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_repeated_or_invented_is_found() {
        let acknowledged = BTreeMap::from([(0, 2), (1, 1)]);
        assert_eq!(compare("0 0\n1 0\n0 1", &acknowledged), Ok(()));
        for wrong in ["0 0\n1 0", "0 0\n0 0\n1 0\n0 1", "0 1\n0 0\n1 0", "0 0\n1 0\n0 1\n0 2", "0 0\n2 0", "0 0\nx"] {
            assert!(compare(wrong, &acknowledged).is_err(), "{wrong:?}");
        }
    }
}
