//! A server with tasks (axum, hyper, tokio) under load: the pair against the same image bare.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;

use super::super::cores::{self, Cores, Effort, Slice};
use super::super::{median, process};
use crate::build::Image;
use crate::ctl::RoleName;
use crate::error::{Context, Error, Result};
use crate::running::Running;
use crate::supervise::spec::{RunName, Spec};

/// Where the server listens.
pub(super) const PORT: u16 = 8080;
/// Connections at once.
const CONNECTIONS: usize = 50;
/// Requests of a slice, those before each round, and those before the first, so that the translator has seen the code.
const REQUESTS: u64 = 4_000;
const SETTLE_REQUESTS: u64 = 15_000;
const WARM_UP_REQUESTS: u64 = 15_000;
/// Slices of a system in a round.
const EFFORT: Effort = Effort { enough: 5, most: 16, longest: Duration::from_secs(10) };
/// What is asked, each time.
pub(super) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Longest silence of the server.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// One system in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerSample {
    /// Requests a second.
    pub rps: f64,
    /// Processor time of the active replica's vCPU for one request, in microseconds.
    pub vcpu_us: f64,
}

/// A round: bare, then the pair, each in slices.
#[derive(Debug, Clone, Serialize)]
pub struct ServerRound {
    /// The image without epochs.
    pub bare: Vec<Slice<ServerSample>>,
    /// Two replicas.
    pub pair: Vec<Slice<ServerSample>>,
}

/// What all rounds say: of slices during which no core of the host was shared, or of all if there are none of those.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Compared {
    /// Slices that count, of both systems,
    pub slices: usize,
    /// of so many.
    pub of: usize,
    /// All count, because there were none of both systems in one round on cores of our own.
    pub shared: bool,
    /// Requests a second, bare and paired: the middle of the rounds' middle slices.
    pub rps: [f64; 2],
    /// The same of the processor time of the active replica's vCPU for one request, in microseconds.
    pub vcpu_us: [f64; 2],
    /// Throughput of the pair by bare's in the same round; the middle one.
    pub rps_ratio: f64,
    /// Processor time of the pair's by bare's in the same round; the middle one.
    pub vcpu_ratio: f64,
}

impl Compared {
    /// Of rounds each of which has slices of both.
    pub(super) fn of(rounds: &[ServerRound]) -> Self {
        let all = || rounds.iter().flat_map(|round| round.bare.iter().chain(&round.pair));
        let best_ns = cores::best(all());
        let ours = |best_ns| {
            let both = |round: &ServerRound, measure: fn(&ServerSample) -> f64| {
                let (bare, some) = cores::undisturbed(&round.bare, best_ns, measure)?;
                let (pair, more) = cores::undisturbed(&round.pair, best_ns, measure)?;
                Some((bare, pair, some + more))
            };
            let over = |measure: fn(&ServerSample) -> f64| -> Vec<(f64, f64, usize)> {
                rounds.iter().filter_map(|round| both(round, measure)).collect()
            };
            (over(|sample| sample.rps), over(|sample| sample.vcpu_us))
        };
        let (mut rps, mut vcpu_us) = ours(best_ns);
        let shared = rps.is_empty();
        if shared {
            (rps, vcpu_us) = ours(u64::MAX);
        }
        let over = |rounds: &[(f64, f64, usize)], of: fn(&(f64, f64, usize)) -> f64| {
            median(&rounds.iter().map(of).collect::<Vec<_>>())
        };
        Self {
            slices: rps.iter().map(|(_, _, slices)| slices).sum(),
            of: all().count(),
            shared,
            rps: [over(&rps, |of| of.0), over(&rps, |of| of.1)],
            vcpu_us: [over(&vcpu_us, |of| of.0), over(&vcpu_us, |of| of.1)],
            rps_ratio: over(&rps, |of| of.1 / of.0),
            vcpu_ratio: over(&vcpu_us, |of| of.1 / of.0),
        }
    }
}

/// Both systems, up together: each waits while the other is measured, so that a round's two halves are close in time.
pub(super) struct Servers {
    bare: Server,
    pair: Server,
    cores: Cores,
}

impl Servers {
    /// Starts both and lets them serve until the translator has seen the code.
    pub(super) fn start(image: &Image) -> Result<Self> {
        let (bare, pair) = (Server::start(image, RunName::Bare)?, Server::start(image, RunName::Pair)?);
        Ok(Self { bare, pair, cores: Cores::new() })
    }

    /// Measures one after the other.
    pub(super) fn round(&mut self) -> Result<ServerRound> {
        let mut slices = |server: &mut Server| {
            // It has been idle while the other was measured.
            load(server.address, SETTLE_REQUESTS)?;
            self.cores.slices(EFFORT, || server.sample())
        };
        Ok(ServerRound { bare: slices(&mut self.bare)?, pair: slices(&mut self.pair)? })
    }

    /// Ends both.
    pub(super) fn down(self) -> Result<()> {
        self.bare.running.down()?;
        self.pair.running.down()
    }
}

/// One system that serves.
struct Server {
    running: Running,
    address: SocketAddr,
    /// The active replica's process.
    primary: i32,
}

impl Server {
    fn start(image: &Image, run: RunName) -> Result<Self> {
        let name = format!("bench-server-{run:?}-{}", std::process::id()).to_lowercase();
        let spec = Spec { run, ..Spec::new(name, image.clone())?.staying_alone().publishing(PORT) };
        let mut running = Running::start(&spec)?;
        let address = running.address(PORT)?;
        let primary = running.status()?.replica(RoleName::Primary).map(|replica| replica.pid);
        let primary = primary.ok_or_else(|| Error::Start("there is no primary".to_owned()))?;
        load(address, WARM_UP_REQUESTS)?;
        Ok(Self { running, address, primary })
    }

    fn sample(&mut self) -> Result<ServerSample> {
        let before_ns = process::vcpu_ns(self.primary)?;
        let took = load(self.address, REQUESTS)?;
        let vcpu_ns = process::vcpu_ns(self.primary)? - before_ns;
        let after = self.running.status()?;
        if after.generation != 1 {
            return Err(Error::CheckFailed(format!("a failover disturbed the measurement: {:?}", after.events.last())));
        }
        let requests = REQUESTS as f64;
        Ok(ServerSample { rps: requests / took.as_secs_f64(), vcpu_us: vcpu_ns as f64 / 1e3 / requests })
    }
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
pub(super) fn answer_bytes(answer: &[u8]) -> std::result::Result<Option<usize>, String> {
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
    fn slices_on_shared_cores_do_not_count_if_there_are_others() {
        let slices = |values: &[(f64, u64)]| -> Vec<_> {
            let slice = |&(vcpu_us, look_ns)| Slice { value: ServerSample { rps: 100.0 / vcpu_us, vcpu_us }, look_ns };
            values.iter().map(slice).collect()
        };
        let bare = slices(&[(2.0, 100), (4.0, 200)]);
        let round = |pair: &[(f64, u64)]| ServerRound { bare: bare.clone(), pair: slices(pair) };
        let compared = Compared::of(&[round(&[(3.0, 110), (8.0, 190)]), round(&[(8.0, 190)])]);
        assert_eq!((compared.slices, compared.of, compared.shared), (2, 7, false));
        assert_eq!((compared.vcpu_us, compared.vcpu_ratio), ([2.0, 3.0], 1.5));
        let compared = Compared::of(&[round(&[(6.0, 190), (6.0, 190)])]);
        assert_eq!(
            (compared.slices, compared.of, compared.shared),
            (4, 4, true),
            "there are none of the pair on cores of our own"
        );
        assert_eq!((compared.vcpu_us, compared.vcpu_ratio), ([3.0, 6.0], 2.0));
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(answer_bytes(answer), Ok(Some(answer.len())));
        assert_eq!(answer_bytes(&answer[..30]), Ok(None));
        assert!(answer_bytes(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(answer_bytes(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
