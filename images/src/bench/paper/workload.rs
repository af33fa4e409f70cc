//! What the guest is made to do, and how the host asks it.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::throughput::{CLIENTS, TEST_COUNT, benchmark};
use crate::error::{Context, Error, Result};
use crate::failover::STORE_PORT;

/// The port that the benchmark which computes answers on.
const DHRYSTONE_PORT: u16 = 7000;
/// Something is wrong when an answer takes longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// Memory of a guest that computes, and of the store, in MiB.
const DHRYSTONE_MEMORY_MIB: u32 = 16;
const STORE_MEMORY_MIB: u32 = 64;

/// The paper's workloads: one that computes, two that use a disk; and a server, which the paper has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Dhrystone 2.1, which gives way after so many runs; 0: never. Its size is a number of runs.
    Dhrystone {
        /// Runs after which the task gives way.
        yield_after: u32,
    },
    /// `apps/kv` under `redis-benchmark`. Its size is the number of requests of each test.
    Store,
    /// Reads blocks of a disk.
    DiskRead,
    /// Writes blocks of a disk.
    DiskWrite,
}

impl Workload {
    /// The one that the model is made for: it computes and does nothing else.
    pub const COMPUTES: Self = Self::Dhrystone { yield_after: 0 };
    /// Those that cannot be run yet.
    pub const TO_COME: [Self; 2] = [Self::DiskRead, Self::DiskWrite];

    /// What is missing before it can be run; `None` when nothing is.
    pub fn needs(self) -> Option<&'static str> {
        match self {
            Self::Dhrystone { .. } | Self::Store => None,
            Self::DiskRead | Self::DiskWrite => Some("block I/O"),
        }
    }

    /// The part of a file's name that stands for it.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Dhrystone { .. } => "dhrystone",
            Self::Store => "kv",
            Self::DiskRead => "disk-read",
            Self::DiskWrite => "disk-write",
        }
    }

    /// The guest's port that the host talks to.
    pub fn port(self) -> u16 {
        if self == Self::Store { STORE_PORT } else { DHRYSTONE_PORT }
    }

    /// The program's arguments.
    pub fn arguments(self) -> String {
        match self {
            Self::Dhrystone { yield_after } => format!("serve yield={yield_after}"),
            Self::Store | Self::DiskRead | Self::DiskWrite => String::new(),
        }
    }

    /// Memory of the guest, in MiB.
    pub fn memory_mib(self) -> u32 {
        if self == Self::Store { STORE_MEMORY_MIB } else { DHRYSTONE_MEMORY_MIB }
    }

    /// Connects to a guest that runs it.
    ///
    /// # Errors
    /// The guest does not answer, or the workload cannot be run yet.
    pub fn connect(self, address: SocketAddr) -> Result<Client> {
        match (self, self.needs()) {
            (_, Some(needed)) => Err(Error::Missing(format!("{self} needs {needed}"))),
            (Self::Store, None) => Ok(Client::Store(address)),
            (_, None) => Dhrystone::connect(address).map(Client::Dhrystone),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhrystone { yield_after } => write!(f, "Dhrystone, yield={yield_after}"),
            Self::Store => f.write_str("kv, redis-benchmark"),
            Self::DiskRead => f.write_str("disk, reads"),
            Self::DiskWrite => f.write_str("disk, writes"),
        }
    }
}

/// A connection to a guest.
#[derive(Debug)]
pub enum Client {
    /// To the benchmark that computes.
    Dhrystone(Dhrystone),
    /// To the store: `redis-benchmark` makes its own.
    Store(SocketAddr),
}

impl Client {
    /// Makes the guest do so much, and says how many seconds of the host's clock passed from asking to the answer.
    ///
    /// # Errors
    /// No answer, or a wrong one.
    pub fn exchange(&mut self, size: u64) -> Result<f64> {
        match self {
            Self::Dhrystone(client) => client.run(size).map(|answer| answer.elapsed_s),
            Self::Store(address) => {
                let outcome = benchmark(*address, size, &["-c", CLIENTS])?;
                Ok((size * TEST_COUNT) as f64 / outcome.rps)
            }
        }
    }
}

/// A connection to `dhrystone serve`.
#[derive(Debug)]
pub struct Dhrystone {
    stream: BufReader<TcpStream>,
}

/// What it said, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The first line: `dhrystone: runs=N ok`.
    pub verdict: String,
    /// Seconds of the host's clock from asking to the answer. The guest's clock is not asked: where instructions are
    /// counted it only follows the host's.
    pub elapsed_s: f64,
}

impl Dhrystone {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let open = || -> io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        Ok(Self { stream: BufReader::new(open().context(|| format!("cannot connect to the guest at {address}"))?) })
    }

    /// Asks for `runs` runs and waits for the answer.
    ///
    /// # Errors
    /// The connection broke, or the answer is not that the final values are right.
    pub fn run(&mut self, runs: u64) -> Result<Answer> {
        let mut answer = String::new();
        let begin = Instant::now();
        let mut converse = || -> io::Result<usize> {
            self.stream.get_mut().write_all(format!("run {runs}\n").as_bytes())?;
            self.stream.read_line(&mut answer)?;
            // The second line holds times of the guest's clock.
            self.stream.read_line(&mut String::new())
        };
        converse().context(|| "the connection to the guest broke")?;
        let elapsed_s = begin.elapsed().as_secs_f64();
        let verdict = answer.trim_end().to_owned();
        if is_right(&verdict, runs) {
            Ok(Answer { verdict, elapsed_s })
        } else {
            Err(Error::CheckFailed(format!("the guest answered {verdict:?} to `run {runs}`")))
        }
    }
}

/// Whether this says that so many runs had the right result.
fn is_right(verdict: &str, runs: u64) -> bool {
    let done = verdict.strip_prefix("dhrystone: runs=").and_then(|rest| rest.strip_suffix(" ok"));
    done.and_then(|number| number.parse().ok()) == Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_answer_is_right() {
        assert!(is_right("dhrystone: runs=12 ok", 12));
        for wrong in
            ["", "dhrystone: runs=13 ok", "dhrystone: runs=12 WRONG: Int_Glob is 4, expected 5", "runs=12 ok", "ok"]
        {
            assert!(!is_right(wrong, 12), "{wrong:?} passes");
        }
    }

    #[test]
    fn an_answer_is_read_from_the_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let guest = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut lines = BufReader::new(stream.try_clone().expect("a copy"));
            let mut output = stream;
            for verdict in ["ok", "WRONG: Int_Glob is 4, expected 5"] {
                let mut asked = String::new();
                lines.read_line(&mut asked).expect("a line");
                assert_eq!(asked, "run 7\n");
                write!(output, "dhrystone: runs=7 {verdict}\ndhrystone: elapsed_ns=1 start_ns=1 end_ns=2\n")
                    .expect("sent");
            }
        });
        let mut client = Dhrystone::connect(address).expect("connected");
        assert_eq!(client.run(7).expect("right").verdict, "dhrystone: runs=7 ok");
        assert!(client.run(7).is_err());
        guest.join().expect("no panic");
    }

    #[test]
    fn what_is_to_come_says_what_it_needs() {
        assert!(Workload::TO_COME.iter().all(|workload| workload.needs() == Some("block I/O")));
        assert!(Workload::DiskRead.connect(SocketAddr::from(([127, 0, 0, 1], 1))).is_err());
    }
}
