//! What the guest is made to do, and how the host asks it.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hypercall::disk::BLOCK_BYTES;
use serde::{Deserialize, Serialize};

use crate::bench::throughput::{CLIENTS, TEST_COUNT, benchmark};
use crate::error::{Context, Error, Result};
use crate::failover::STORE_PORT;

/// The port that the benchmark which computes answers on.
const DHRYSTONE_PORT: u16 = 7000;
/// The port that the program answers on that reads and writes a disk.
const DISK_PORT: u16 = 7000;
/// Size of its disk.
pub const DISK_BYTES: u64 = 8 << 20;
/// What the disk's content is made from.
const DISK_SEED: u64 = 1996;
/// Something is wrong when an answer takes longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// Memory of a guest that computes, and of the store, in MiB.
const DHRYSTONE_MEMORY_MIB: u32 = 16;
const STORE_MEMORY_MIB: u32 = 64;

/// The paper's workloads: one that computes, two that use a disk; and a server, which the paper has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Dhrystone 2.1, which gives way after so many runs; 0: never. Its size is a number of runs.
    Dhrystone {
        /// Runs after which the task gives way.
        yield_after: u32,
    },
    /// `apps/kv` under `redis-benchmark`. Its size is the number of requests of each test.
    Store,
    /// Reads 8 KiB at random places of a mirrored disk, one after the other, and checks them. Its size is a number of
    /// reads.
    DiskRead,
    /// Makes up 8 KiB and writes them to random places, one after the other. Its size is a number of writes.
    DiskWrite,
    /// The same reads, of a disk that both replicas share.
    SharedRead,
    /// The same writes, to a disk that both replicas share.
    SharedWrite,
}

impl Workload {
    /// The one that the model is made for: it computes and does nothing else.
    pub const COMPUTES: Self = Self::Dhrystone { yield_after: 0 };
    /// All of them, the one that computes without giving way.
    pub const ALL: [Self; 6] =
        [Self::COMPUTES, Self::DiskRead, Self::DiskWrite, Self::SharedRead, Self::SharedWrite, Self::Store];
    /// Those that use a disk.
    pub const DISK: [Self; 4] = [Self::DiskRead, Self::DiskWrite, Self::SharedRead, Self::SharedWrite];

    /// The part of a file's name that stands for it.
    pub fn slug(self) -> &'static str {
        match self {
            Self::Dhrystone { .. } => "dhrystone",
            Self::Store => "kv",
            Self::DiskRead => "disk-read",
            Self::DiskWrite => "disk-write",
            Self::SharedRead => "shared-read",
            Self::SharedWrite => "shared-write",
        }
    }

    /// The guest's port that the host talks to.
    pub fn port(self) -> u16 {
        match self {
            Self::Dhrystone { .. } => DHRYSTONE_PORT,
            Self::Store => STORE_PORT,
            Self::DiskRead | Self::DiskWrite | Self::SharedRead | Self::SharedWrite => DISK_PORT,
        }
    }

    /// The program's arguments.
    pub fn arguments(self) -> String {
        match self {
            Self::Dhrystone { yield_after } => format!("serve yield={yield_after}"),
            _ => String::new(),
        }
    }

    /// Memory of the guest, in MiB.
    pub fn memory_mib(self) -> u32 {
        if self == Self::Store { STORE_MEMORY_MIB } else { DHRYSTONE_MEMORY_MIB }
    }

    /// Whether its guest has a disk.
    pub fn has_disk(self) -> bool {
        Self::DISK.contains(&self)
    }

    /// Whether that is one that both replicas share.
    pub fn shares_disk(self) -> bool {
        matches!(self, Self::SharedRead | Self::SharedWrite)
    }

    /// Whether it writes to its disk.
    fn writes(self) -> bool {
        matches!(self, Self::DiskWrite | Self::SharedWrite)
    }

    /// Connects to a guest that runs it. What is to be read is written first.
    ///
    /// # Errors
    /// The guest does not answer, or its disk cannot be filled.
    pub fn connect(self, address: SocketAddr) -> Result<Client> {
        match self {
            Self::Store => Ok(Client::Store(address)),
            Self::Dhrystone { .. } => Dhrystone::connect(address).map(Client::Dhrystone),
            Self::DiskRead | Self::DiskWrite | Self::SharedRead | Self::SharedWrite => {
                let mut disk = DiskUser { line: Line::connect(address)?, write: self.writes() };
                disk.fill()?;
                Ok(Client::Disk(disk))
            }
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
            Self::SharedRead => f.write_str("shared disk, reads"),
            Self::SharedWrite => f.write_str("shared disk, writes"),
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
    /// To the program that reads and writes a disk.
    Disk(DiskUser),
}

impl Client {
    /// Makes the guest do so much, and says how many seconds of the host's clock passed from asking to the answer.
    ///
    /// # Errors
    /// No answer, or a wrong one.
    pub fn exchange(&mut self, size: u64) -> Result<f64> {
        match self {
            Self::Dhrystone(client) => client.run(size).map(|answer| answer.elapsed_s),
            Self::Disk(client) => client.run(size),
            Self::Store(address) => {
                let outcome = benchmark(*address, size, &["-c", CLIENTS])?;
                Ok((size * TEST_COUNT) as f64 / outcome.rps)
            }
        }
    }
}

/// A connection that is asked and answers in lines.
#[derive(Debug)]
struct Line(BufReader<TcpStream>);

impl Line {
    fn connect(address: SocketAddr) -> Result<Self> {
        let open = || -> io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        Ok(Self(BufReader::new(open().context(|| format!("cannot connect to the guest at {address}"))?)))
    }

    /// Sends a line and waits for the answer, of so many lines; the first of them counts.
    fn ask(&mut self, command: &str, lines: usize) -> Result<String> {
        let mut answer = String::new();
        let mut converse = || -> io::Result<()> {
            self.0.get_mut().write_all(format!("{command}\n").as_bytes())?;
            self.0.read_line(&mut answer)?;
            for _ in 1..lines {
                self.0.read_line(&mut String::new())?;
            }
            Ok(())
        };
        converse().context(|| "the connection to the guest broke")?;
        answer.truncate(answer.trim_end().len());
        Ok(answer)
    }
}

/// A connection to `diskload`.
#[derive(Debug)]
pub struct DiskUser {
    line: Line,
    write: bool,
}

impl DiskUser {
    /// Writes every block, as the reads want it.
    fn fill(&mut self) -> Result<()> {
        self.must(&format!("fill {DISK_SEED}"), &format!("filled {}", DISK_BYTES / BLOCK_BYTES as u64))
    }

    /// Asks for so many operations; returns seconds of the host's clock.
    fn run(&mut self, operations: u64) -> Result<f64> {
        let begin = Instant::now();
        let (command, done) = if self.write { ("write", "written") } else { ("read", "read") };
        self.must(&format!("{command} {operations} {DISK_SEED}"), &format!("{done} {operations} ok"))?;
        Ok(begin.elapsed().as_secs_f64())
    }

    fn must(&mut self, command: &str, expected: &str) -> Result<()> {
        let answer = self.line.ask(command, 1)?;
        if answer == expected {
            return Ok(());
        }
        Err(Error::CheckFailed(format!("the guest answered {answer:?} to `{command}`, not {expected:?}")))
    }
}

/// A connection to `dhrystone serve`.
#[derive(Debug)]
pub struct Dhrystone(Line);

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
        Line::connect(address).map(Self)
    }

    /// Asks for `runs` runs and waits for the answer.
    ///
    /// # Errors
    /// The connection broke, or the answer is not that the final values are right.
    pub fn run(&mut self, runs: u64) -> Result<Answer> {
        let begin = Instant::now();
        // The second line holds times of the guest's clock.
        let verdict = self.0.ask(&format!("run {runs}"), 2)?;
        let elapsed_s = begin.elapsed().as_secs_f64();
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

    /// A guest that fills its disk and answers this to the rest.
    fn disk_user(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let guest = std::thread::spawn(move || {
            let (mut output, _) = listener.accept().expect("a client");
            let lines = BufReader::new(output.try_clone().expect("a copy")).lines();
            let mut asked = Vec::new();
            for line in lines.map_while(std::result::Result::ok) {
                let text = if line.starts_with("fill") { "filled 16384" } else { answer };
                writeln!(output, "{text}").expect("sent");
                asked.push(line);
            }
            asked
        });
        (address, guest)
    }

    #[test]
    fn a_disk_is_filled_before_it_is_used_and_a_wrong_answer_is_told() {
        let (address, guest) = disk_user("read 5 ok");
        let mut client = Workload::DiskRead.connect(address).expect("connected");
        assert!(client.exchange(5).is_ok());
        assert!(client.exchange(6).is_err(), "that many were not asked for");
        drop(client);
        assert_eq!(guest.join().expect("no panic"), ["fill 1996", "read 5 1996", "read 6 1996"]);
        let (address, guest) = disk_user("diskload: the disk answers EIO");
        let mut client = Workload::DiskWrite.connect(address).expect("connected");
        let told = client.exchange(5).expect_err("it failed").to_string();
        assert!(told.contains("EIO"), "{told}");
        drop(client);
        assert_eq!(guest.join().expect("no panic"), ["fill 1996", "write 5 1996"]);
    }
}
