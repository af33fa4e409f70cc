//! A server with tasks (axum, hyper, tokio) under load: the pair against the same image bare.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;

use super::super::process;
use crate::build::Image;
use crate::ctl::RoleName;
use crate::error::{Context, Error, Result};
use crate::running::Running;
use crate::supervise::spec::{RunName, Spec};

/// Where the server listens.
const PORT: u16 = 8080;
/// Connections at once.
const CONNECTIONS: usize = 50;
/// Requests of a measurement, and those before it, so that the translator has seen the code.
const REQUESTS: u64 = 15_000;
const WARM_UP_REQUESTS: u64 = 3_000;
/// What is asked, each time.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Longest silence of the server.
const PATIENCE: Duration = Duration::from_secs(10);

/// One system in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerSample {
    /// Requests a second.
    pub rps: f64,
    /// Processor time of the active replica's vCPU for one request, in microseconds.
    pub vcpu_us: f64,
}

/// A round: bare, then the pair.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerRound {
    /// The image without epochs.
    pub bare: ServerSample,
    /// Two replicas.
    pub pair: ServerSample,
}

/// Measures both once.
pub(super) fn round(image: &Image) -> Result<ServerRound> {
    Ok(ServerRound { bare: sample(image, RunName::Bare)?, pair: sample(image, RunName::Pair)? })
}

fn sample(image: &Image, run: RunName) -> Result<ServerSample> {
    let name = format!("bench-server-{}", std::process::id());
    let spec = Spec { run, ..Spec::new(name, image.clone())?.staying_alone().publishing(PORT) };
    let mut running = Running::start(&spec)?;
    let address = running.address(PORT)?;
    let primary = running.status()?.replica(RoleName::Primary).map(|replica| replica.pid);
    let primary = primary.ok_or_else(|| Error::Start("there is no primary".to_owned()))?;
    load(address, WARM_UP_REQUESTS)?;
    let before_ns = process::vcpu_ns(primary)?;
    let took = load(address, REQUESTS)?;
    let vcpu_ns = process::vcpu_ns(primary)? - before_ns;
    let after = running.status()?;
    if after.generation != 1 {
        return Err(Error::CheckFailed(format!("a failover disturbed the measurement: {:?}", after.events.last())));
    }
    running.down()?;
    let requests = REQUESTS as f64;
    Ok(ServerSample { rps: requests / took.as_secs_f64(), vcpu_us: vcpu_ns as f64 / 1e3 / requests })
}

/// One connection: its answer so far.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

/// Makes so many requests on all connections together, each connection one at a time. Returns how long it took.
fn load(address: SocketAddr, requests: u64) -> Result<Duration> {
    let mut poll = Poll::new().context(|| "cannot wait for connections")?;
    let mut connections = Vec::new();
    for index in 0..CONNECTIONS {
        let stream = std::net::TcpStream::connect(address).context(|| format!("cannot connect to {address}"))?;
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_nonblocking(true))
            .context(|| "cannot set up a connection")?;
        let mut stream = TcpStream::from_std(stream);
        let registered = poll.registry().register(&mut stream, Token(index), Interest::READABLE);
        registered.context(|| "cannot wait for a connection")?;
        connections.push(Connection { stream, answer: Vec::new() });
    }
    let started = Instant::now();
    let (mut asked, mut answered) = (0, 0);
    for connection in &mut connections {
        connection.ask()?;
        asked += 1;
    }
    let mut events = Events::with_capacity(CONNECTIONS);
    while answered < requests {
        poll.poll(&mut events, Some(PATIENCE)).context(|| "cannot wait for answers")?;
        if events.is_empty() {
            return Err(Error::CheckFailed(format!("no answer in {PATIENCE:?}, after {answered}")));
        }
        for event in &events {
            let connection = &mut connections[event.token().0];
            if connection.hear()? {
                answered += 1;
                if asked < requests {
                    connection.ask()?;
                    asked += 1;
                }
            }
        }
    }
    Ok(started.elapsed())
}

impl Connection {
    fn ask(&mut self) -> Result<()> {
        self.answer.clear();
        // It is short, and nothing else is on its way.
        self.stream.write_all(REQUEST).context(|| "cannot ask")
    }

    /// Reads what is there. Returns whether the answer is complete.
    fn hear(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Error::CheckFailed("the server has closed a connection".to_owned())),
                Ok(bytes) => self.answer.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context(|| "cannot read an answer"),
            }
        }
        match answer_bytes(&self.answer) {
            Ok(complete) => Ok(complete.is_some_and(|bytes| bytes == self.answer.len())),
            Err(what) => Err(Error::CheckFailed(what)),
        }
    }
}

/// Bytes of an answer whose head has arrived: `None` before.
fn answer_bytes(answer: &[u8]) -> std::result::Result<Option<usize>, String> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]);
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("expected status 200, got {:?}", head.lines().next().unwrap_or_default()));
    }
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.next().and_then(|(_, value)| value.trim().parse::<usize>().ok());
    let length = length.ok_or_else(|| format!("an answer without a length: {head:?}"))?;
    Ok(Some(end + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_how_long_it_is() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(answer_bytes(answer), Ok(Some(answer.len())));
        assert_eq!(answer_bytes(&answer[..30]), Ok(None));
        assert!(answer_bytes(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(answer_bytes(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
