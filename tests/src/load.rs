//! Clients that write all the time and check every answer.
//!
//! Each client has one connection for its whole life and does SET, GET and INCR on keys of its own, and INCR on a
//! counter that all share. It knows what every answer must be, so that a write that was lost, repeated or applied
//! without being asked for shows at once or, at the end, in the final state. A connection that breaks, closes or says
//! nothing for ten seconds is a failure: nobody connects twice. The tests beside this put bugs into a store on purpose:
//! a checker that does not catch them checks nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::answers::{Answers, Clients};
use crate::client::{Client, Reply};
use crate::sim::Rng;

/// Keys that each client writes.
const KEYS: u64 = 8;
/// The counter that all clients increment.
const SHARED: &[u8] = b"shared";

/// What one client knows at its end.
#[derive(Debug, Default)]
struct Knowledge {
    /// Last acknowledged value of each key.
    values: Vec<Option<String>>,
    /// Acknowledged increments of its own counter.
    own_increments: i64,
    /// Acknowledged increments of the shared counter.
    shared_increments: i64,
    /// The longest wait for an answer.
    longest_wait: Duration,
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    address: SocketAddr,
    clients: Clients<Knowledge>,
}

/// What the clients saw.
#[derive(Debug)]
pub struct Summary {
    /// Requests answered.
    pub answered: u64,
    /// The longest wait for an answer: the outage, if there was one.
    pub longest_wait: Duration,
}

impl Load {
    /// Starts clients and waits until each has had a few answers.
    ///
    /// # Panics
    /// When one fails.
    pub fn start(address: SocketAddr, clients: usize, seed: u64) -> Self {
        let clients = Clients::start(clients, move |index, answers| {
            let mut worker = Worker::new(index, seed, answers);
            worker.run(address);
            worker.knowledge
        });
        let load = Self { address, clients };
        load.wait_for_answers(20);
        load
    }

    /// Waits until every client has had so many more answers.
    ///
    /// # Panics
    /// When one fails, or has not within the deadline.
    pub fn wait_for_answers(&self, more: u64) {
        self.clients.wait_for_answers(more);
    }

    /// Stops the clients and compares what the store holds with what they know.
    ///
    /// # Panics
    /// When a client has failed, or an acknowledged write is missing, or one was applied twice.
    pub fn finish(self) -> Summary {
        let (known, answered) = self.clients.finish();
        let answered = answered.iter().sum();
        compare(self.address, &known);
        let longest_wait = known.iter().map(|client| client.longest_wait).max().unwrap_or_default();
        println!("{answered} requests answered and checked, longest wait {longest_wait:?}");
        Summary { answered, longest_wait }
    }
}

fn compare(address: SocketAddr, known: &[Knowledge]) {
    let mut client = Client::connect(address).expect("a new connection");
    let mut get = |key: &[u8]| client.ask(&[b"GET", key]).expect("an answer");
    for (index, knowledge) in known.iter().enumerate() {
        for (key, value) in knowledge.values.iter().enumerate() {
            let expected = Reply::Bulk(value.as_ref().map(|value| value.clone().into_bytes()));
            assert_eq!(get(&key_name(index, key as u64)), expected, "key {key} of client {index}");
        }
        let counted = knowledge.own_increments.to_string();
        assert_eq!(get(&counter_name(index)), Reply::bulk(counted), "counter of client {index}");
    }
    let all: i64 = known.iter().map(|knowledge| knowledge.shared_increments).sum();
    assert_eq!(get(SHARED), Reply::bulk(all.to_string()), "the shared counter, against acknowledged increments");
}

fn key_name(client: usize, key: u64) -> Vec<u8> {
    format!("key:{client}:{key}").into_bytes()
}

fn counter_name(client: usize) -> Vec<u8> {
    format!("counter:{client}").into_bytes()
}

struct Worker {
    index: usize,
    rng: Rng,
    answers: Arc<Answers>,
    knowledge: Knowledge,
    last_shared: i64,
}

impl Worker {
    fn new(index: usize, seed: u64, answers: Arc<Answers>) -> Self {
        let knowledge = Knowledge { values: vec![None; KEYS as usize], own_increments: 0, ..Knowledge::default() };
        Self {
            index,
            rng: Rng::new(seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9)),
            answers,
            knowledge,
            last_shared: 0,
        }
    }

    fn run(&mut self, address: SocketAddr) {
        let mut client = match Client::connect(address) {
            Ok(client) => client,
            Err(error) => return self.fail(&format!("cannot connect: {error}")),
        };
        // A counter that was never incremented would be nil.
        let mut first = true;
        while first || !self.answers.stop() {
            let started = Instant::now();
            let result = if first { self.increment_own(&mut client) } else { self.request(&mut client) };
            first = false;
            self.knowledge.longest_wait = self.knowledge.longest_wait.max(started.elapsed());
            if let Err(text) = result {
                return self.fail(&format!("{text} ({:?} after asking)", started.elapsed()));
            }
            self.answers.note(self.index);
        }
    }

    fn fail(&self, text: &str) {
        self.answers.fail(self.index, text);
    }

    fn request(&mut self, client: &mut Client) -> Result<(), String> {
        match self.rng.below(8) {
            0..=2 => self.set(client),
            3 => self.get(client),
            4..=5 => self.increment_own(client),
            _ => self.increment_shared(client),
        }
    }

    fn set(&mut self, client: &mut Client) -> Result<(), String> {
        let (key, value) = (self.rng.below(KEYS), format!("value-{:016x}", self.rng.next_u64()));
        let reply = ask(client, &[b"SET", &key_name(self.index, key), value.as_bytes()])?;
        if !reply.is_ok() {
            return Err(format!("SET answered {reply}"));
        }
        self.knowledge.values[key as usize] = Some(value);
        Ok(())
    }

    fn get(&mut self, client: &mut Client) -> Result<(), String> {
        let key = self.rng.below(KEYS);
        let reply = ask(client, &[b"GET", &key_name(self.index, key)])?;
        let expected = Reply::Bulk(self.knowledge.values[key as usize].clone().map(String::into_bytes));
        if reply == expected { Ok(()) } else { Err(format!("GET answered {reply}, not {expected}")) }
    }

    fn increment_own(&mut self, client: &mut Client) -> Result<(), String> {
        let reply = ask(client, &[b"INCR", &counter_name(self.index)])?;
        self.knowledge.own_increments += 1;
        let expected = Reply::Integer(self.knowledge.own_increments);
        if reply == expected { Ok(()) } else { Err(format!("INCR answered {reply}, not {expected}")) }
    }

    fn increment_shared(&mut self, client: &mut Client) -> Result<(), String> {
        let reply = ask(client, &[b"INCR", SHARED])?;
        let last = self.last_shared;
        match reply {
            Reply::Integer(value) if value > last => self.last_shared = value,
            other => return Err(format!("INCR of the shared counter answered {other} after {last}")),
        }
        self.knowledge.shared_increments += 1;
        Ok(())
    }
}

fn ask(client: &mut Client, words: &[&[u8]]) -> Result<Reply, String> {
    client.ask(words).map_err(|error| format!("{}: {error}", String::from_utf8_lossy(words[0])))
}

#[cfg(test)]
mod tests;
