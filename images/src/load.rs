//! Clients that write, remember what was acknowledged, and check it: the judges of a failover.
//!
//! Each client has a connection and keys of its own. It counts a counter up (a reply other than the next number is an
//! INCR repeated or skipped), sets keys to values that are never used twice, and reads some back. At the end every
//! key is read and compared with the last value that was acknowledged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::resp::{Client, Reply};

/// A reply that takes longer means that the connection hangs.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys of a client.
const KEYS: usize = 32;

/// What the clients have seen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Connections that took part.
    pub connections: usize,
    /// Replies received.
    pub replies: u64,
    /// Writes that were acknowledged.
    pub acknowledged_writes: u64,
    /// Keys whose value at the end was compared with the last acknowledged one.
    pub checked_keys: u64,
    /// Connections that broke or hung.
    pub broken_connections: u64,
    /// Acknowledged writes that were not there afterwards, or reads of values that were never acknowledged.
    pub lost_writes: u64,
    /// Counters that were counted twice for one request.
    pub repeated_increments: u64,
    /// Counters that were not counted for an acknowledged request.
    pub skipped_increments: u64,
    /// The longest wait for a reply that ended after the fault, for each connection and each fault, in milliseconds.
    pub outages_ms: Vec<f64>,
    /// The longest wait for a reply that ended before the fault, or after it was over, over all connections, in milliseconds.
    pub longest_before_ms: f64,
    /// What went wrong, in words.
    pub complaints: Vec<String>,
}

impl Verdict {
    /// Whether nothing broke and nothing was lost, repeated or skipped.
    pub fn is_clean(&self) -> bool {
        self.broken_connections + self.lost_writes + self.repeated_increments + self.skipped_increments == 0
    }

    /// The longest outage of all connections.
    pub fn outage_ms(&self) -> f64 {
        self.outages_ms.iter().copied().fold(0.0, f64::max)
    }

    /// Adds what others have seen.
    pub fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.replies += other.replies;
        self.acknowledged_writes += other.acknowledged_writes;
        self.checked_keys += other.checked_keys;
        self.broken_connections += other.broken_connections;
        self.lost_writes += other.lost_writes;
        self.repeated_increments += other.repeated_increments;
        self.skipped_increments += other.skipped_increments;
        self.outages_ms.extend(other.outages_ms);
        self.longest_before_ms = self.longest_before_ms.max(other.longest_before_ms);
        self.complaints.extend(other.complaints);
    }
}

/// What the clients and whoever drives them share.
#[derive(Debug)]
struct Shared {
    started: Instant,
    stop: AtomicBool,
    /// When the fault was injected, in nanoseconds since `started`; 0: there is none, not yet or not any more.
    fault_ns: AtomicU64,
    /// Faults so far.
    faults: AtomicUsize,
    replies: AtomicU64,
    /// Replies whose request was sent after the newest fault.
    replies_after: AtomicU64,
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Verdict>>,
}

impl Load {
    /// Starts `connections` clients.
    pub fn start(address: SocketAddr, connections: usize) -> Self {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            fault_ns: AtomicU64::new(0),
            faults: AtomicUsize::new(0),
            replies: AtomicU64::new(0),
            replies_after: AtomicU64::new(0),
        });
        let threads = (0..connections)
            .map(|number| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || Worker::new(number, shared).run(address))
            })
            .collect();
        Self { shared, threads }
    }

    /// Removes what earlier clients have written: new ones expect a store in which their keys are not.
    ///
    /// # Errors
    /// The connection's.
    pub fn forget(address: SocketAddr, connections: usize) -> std::io::Result<()> {
        let mut client = Client::connect(address, REPLY_TIMEOUT)?;
        for number in 0..connections {
            let mut keys = vec![format!("counter:{number}")];
            keys.extend((0..KEYS).map(|slot| format!("key:{number}:{slot}")));
            let words: Vec<_> = std::iter::once(&b"DEL"[..]).chain(keys.iter().map(|key| key.as_bytes())).collect();
            client.command(&words)?;
        }
        Ok(())
    }

    /// Replies received so far.
    pub fn replies(&self) -> u64 {
        self.shared.replies.load(Ordering::Relaxed)
    }

    /// Replies received so far to requests sent after the newest fault.
    pub fn replies_after_fault(&self) -> u64 {
        self.shared.replies_after.load(Ordering::Relaxed)
    }

    /// Waits until `count` replies are there, or a client has ended, or `limit` has passed. Returns whether they are.
    pub fn wait_for(&self, limit: Duration, count: impl Fn(&Self) -> bool) -> bool {
        let until = Instant::now() + limit;
        while !count(self) {
            if Instant::now() > until || self.threads.iter().any(JoinHandle::is_finished) {
                return count(self);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Notes that a fault is injected now. From here on waits are that fault's.
    pub fn mark_fault(&self) {
        self.shared.faults.fetch_add(1, Ordering::SeqCst);
        self.shared.replies_after.store(0, Ordering::SeqCst);
        self.shared.fault_ns.store(self.shared.started.elapsed().as_nanos() as u64, Ordering::SeqCst);
    }

    /// Notes that the newest fault is over: further waits are not its own.
    pub fn mark_over(&self) {
        self.shared.fault_ns.store(0, Ordering::SeqCst);
    }

    /// Stops the clients; each checks its keys before it ends.
    pub fn finish(self) -> Verdict {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut verdict = Verdict::default();
        for thread in self.threads {
            match thread.join() {
                Ok(one) => verdict.add(one),
                Err(_) => {
                    verdict.broken_connections += 1;
                    verdict.complaints.push("a client of ours panicked".to_owned());
                }
            }
        }
        verdict
    }
}

/// One client.
struct Worker {
    number: usize,
    shared: Arc<Shared>,
    verdict: Verdict,
    /// The number of the last acknowledged value of each key; 0: never set.
    acknowledged: [u64; KEYS],
    counter: i64,
    /// For each fault.
    longest_after_ns: Vec<u64>,
    longest_before_ns: u64,
}

impl Worker {
    fn new(number: usize, shared: Arc<Shared>) -> Self {
        Self {
            number,
            shared,
            verdict: Verdict { connections: 1, ..Verdict::default() },
            acknowledged: [0; KEYS],
            counter: 0,
            longest_after_ns: Vec::new(),
            longest_before_ns: 0,
        }
    }

    fn run(mut self, address: SocketAddr) -> Verdict {
        match Client::connect(address, REPLY_TIMEOUT).and_then(|mut client| self.converse(&mut client)) {
            Ok(()) => {}
            Err(error) => {
                self.verdict.broken_connections += 1;
                self.complain(format!("its connection broke: {error}"));
            }
        }
        // A connection that broke has no outage of the faults that came then; one without a fault waited for none.
        self.longest_after_ns.resize(self.shared.faults.load(Ordering::SeqCst).max(1), 0);
        self.verdict.outages_ms = self.longest_after_ns.iter().map(|&ns| ns as f64 / 1e6).collect();
        self.verdict.longest_before_ms = self.longest_before_ns as f64 / 1e6;
        self.verdict
    }

    fn complain(&mut self, text: String) {
        self.verdict.complaints.push(format!("client {}: {text}", self.number));
    }

    fn converse(&mut self, client: &mut Client) -> std::io::Result<()> {
        let mut serial = 0u64;
        while !self.shared.stop.load(Ordering::Relaxed) {
            serial += 1;
            let slot = |serial: u64| serial as usize % KEYS;
            match serial % 4 {
                // Every value is read back before it is overwritten.
                0 => {
                    self.check_key(client, slot(serial - 2))?;
                    self.check_key(client, slot(serial - 1))?;
                }
                1 => self.increment(client)?,
                _ => self.set(client, slot(serial), serial)?,
            }
        }
        for slot in 0..KEYS {
            self.check_key(client, slot)?;
            self.verdict.checked_keys += 1;
        }
        let counter = format!("counter:{}", self.number);
        let last = self.timed(client, &[b"GET", counter.as_bytes()])?;
        let expected = (self.counter > 0).then(|| self.counter.to_string().into_bytes());
        self.verdict.checked_keys += 1;
        if last != Reply::Bulk(expected) {
            self.verdict.lost_writes += 1;
            self.complain(format!("its counter should be {}, the store says {last:?}", self.counter));
        }
        Ok(())
    }

    fn increment(&mut self, client: &mut Client) -> std::io::Result<()> {
        let key = format!("counter:{}", self.number);
        match self.timed(client, &[b"INCR", key.as_bytes()])? {
            Reply::Integer(value) => {
                self.verdict.acknowledged_writes += 1;
                let expected = self.counter + 1;
                if value > expected {
                    self.verdict.repeated_increments += 1;
                    self.complain(format!("INCR gave {value} instead of {expected}"));
                } else if value < expected {
                    self.verdict.skipped_increments += 1;
                    self.complain(format!("INCR gave {value} instead of {expected}"));
                }
                self.counter = value;
            }
            other => self.unexpected("INCR", &other),
        }
        Ok(())
    }

    fn set(&mut self, client: &mut Client, slot: usize, serial: u64) -> std::io::Result<()> {
        let (key, value) = (format!("key:{}:{slot}", self.number), format!("value:{}:{serial}", self.number));
        match self.timed(client, &[b"SET", key.as_bytes(), value.as_bytes()])? {
            Reply::Simple(text) if text == "OK" => {
                self.verdict.acknowledged_writes += 1;
                self.acknowledged[slot] = serial;
            }
            other => self.unexpected("SET", &other),
        }
        Ok(())
    }

    fn check_key(&mut self, client: &mut Client, slot: usize) -> std::io::Result<()> {
        let key = format!("key:{}:{slot}", self.number);
        let got = self.timed(client, &[b"GET", key.as_bytes()])?;
        let serial = self.acknowledged[slot];
        let expected = (serial > 0).then(|| format!("value:{}:{serial}", self.number).into_bytes());
        if got != Reply::Bulk(expected) {
            self.verdict.lost_writes += 1;
            self.complain(format!("{key} should have its value number {serial}, the store says {got:?}"));
        }
        Ok(())
    }

    fn unexpected(&mut self, what: &str, reply: &Reply) {
        self.verdict.lost_writes += 1;
        self.complain(format!("{what} was answered with {reply:?}"));
    }

    fn timed(&mut self, client: &mut Client, words: &[&[u8]]) -> std::io::Result<Reply> {
        let sent_ns = self.shared.started.elapsed().as_nanos() as u64;
        let reply = client.command(words);
        let got_ns = self.shared.started.elapsed().as_nanos() as u64;
        let fault_ns = self.shared.fault_ns.load(Ordering::SeqCst);
        let waited_ns = got_ns - sent_ns;
        if fault_ns > 0 && got_ns >= fault_ns {
            let faults = self.shared.faults.load(Ordering::SeqCst);
            self.longest_after_ns.resize(faults, 0);
            if let Some(longest_ns) = self.longest_after_ns.last_mut() {
                *longest_ns = waited_ns.max(*longest_ns);
            }
        } else {
            self.longest_before_ns = self.longest_before_ns.max(waited_ns);
        }
        let reply = reply?;
        self.verdict.replies += 1;
        self.shared.replies.fetch_add(1, Ordering::Relaxed);
        if fault_ns > 0 && sent_ns >= fault_ns {
            self.shared.replies_after.fetch_add(1, Ordering::Relaxed);
        }
        Ok(reply)
    }
}

/// The value below which the fraction `share` of the values lies; 0 when there are none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    /// A store of one connection that answers each command with what `answer` makes of its number and words.
    fn store(answer: impl Fn(u64, &[String]) -> String + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut input = BufReader::new(stream.try_clone().expect("a copy"));
            let mut output = stream;
            for number in 0.. {
                let mut words = Vec::new();
                let mut line = String::new();
                if input.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                for _ in 0..line[1..].trim().parse::<usize>().expect("a count") {
                    line.clear();
                    input.read_line(&mut line).expect("a length");
                    let mut word = vec![0; line[1..].trim().parse::<usize>().expect("a length") + 2];
                    input.read_exact(&mut word).expect("a word");
                    words.push(String::from_utf8_lossy(&word[..word.len() - 2]).into_owned());
                }
                let reply = answer(number, &words);
                if reply.is_empty() || output.write_all(reply.as_bytes()).is_err() {
                    return;
                }
            }
        });
        address
    }

    /// Runs one client for at least 200 replies against a store with one fault.
    fn judge(fault: impl Fn(u64, &[String]) -> Option<String> + Send + 'static) -> Verdict {
        let values = std::sync::Mutex::new(std::collections::BTreeMap::<String, String>::new());
        let address = store(move |number, words| {
            if let Some(reply) = fault(number, words) {
                return reply;
            }
            let mut values = values.lock().expect("not poisoned");
            match words[0].as_str() {
                "SET" => {
                    values.insert(words[1].clone(), words[2].clone());
                    "+OK\r\n".to_owned()
                }
                "INCR" => {
                    let value = values.get(&words[1]).map_or(0, |text| text.parse::<i64>().expect("a number")) + 1;
                    values.insert(words[1].clone(), value.to_string());
                    format!(":{value}\r\n")
                }
                _ => values.get(&words[1]).map_or("$-1\r\n".to_owned(), |v| format!("${}\r\n{v}\r\n", v.len())),
            }
        });
        let load = Load::start(address, 1);
        load.wait_for(Duration::from_secs(10), |load| load.replies() >= 200);
        load.finish()
    }

    #[test]
    fn a_faithful_store_is_found_clean() {
        let verdict = judge(|_, _| None);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert!(verdict.acknowledged_writes > 100 && verdict.checked_keys == KEYS as u64 + 1);
    }

    #[test]
    fn each_kind_of_fault_is_noticed() {
        for lost in [51, 52] {
            // Five requests make a round: INCR, SET, SET, GET, GET. Request 51 is an INCR, request 52 a SET.
            let verdict =
                judge(move |number, words| (number + 1 == lost && words[0] == "SET").then(|| "+OK\r\n".to_owned()));
            let expected = u64::from(lost % 5 == 2 || lost % 5 == 3);
            assert_eq!(verdict.lost_writes, expected, "{verdict:?}");
        }
        let repeated = judge(|number, words| (number > 40 && words[0] == "INCR").then(|| ":9999\r\n".to_owned()));
        assert!(repeated.repeated_increments > 0, "{repeated:?}");
        let skipped = judge(|number, words| (number > 40 && words[0] == "INCR").then(|| ":1\r\n".to_owned()));
        assert!(skipped.skipped_increments > 0);
        let broken = judge(|number, _| (number == 70).then(String::new));
        assert_eq!(broken.broken_connections, 1);
    }

    #[test]
    fn each_fault_has_the_waits_until_it_is_over() {
        let slow = Arc::new(AtomicBool::new(false));
        let is_slow = Arc::clone(&slow);
        // What it answers to reads is wrong, which is not what this is about.
        let address = store(move |_, words| {
            if is_slow.swap(false, Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(30));
            }
            if words[0] == "SET" { "+OK\r\n".to_owned() } else { "$-1\r\n".to_owned() }
        });
        let load = Load::start(address, 1);
        let more = |replies| load.wait_for(Duration::from_secs(10), |load| load.replies_after_fault() >= replies);
        for slow_then in [true, false] {
            load.mark_fault();
            slow.store(slow_then, Ordering::SeqCst);
            assert!(more(20));
            load.mark_over();
        }
        slow.store(true, Ordering::SeqCst);
        let replies = load.replies();
        assert!(load.wait_for(Duration::from_secs(10), |load| load.replies() > replies + 20));
        let verdict = load.finish();
        assert_eq!(verdict.outages_ms.len(), 2, "{verdict:?}");
        assert!(verdict.outages_ms[0] >= 30.0 && verdict.longest_before_ms >= 30.0, "{verdict:?}");
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 0.5), percentile(&values, 0.99), percentile(&values, 1.0)),
            (50.0, 99.0, 100.0)
        );
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
