//! Clients that write and read the same few blocks of a probe's disk, and note when they asked and when they were told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::client::Client;
use crate::guests::ask;
use crate::linear::{Action, Operation, check};
use crate::sim::Rng;

/// Blocks for which all contend.
const BLOCKS: u64 = 4;

/// What happened to each block.
type Histories = Vec<Vec<Operation>>;

/// Clients at work.
pub struct Contenders {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    histories: Arc<Mutex<Histories>>,
    threads: Vec<JoinHandle<()>>,
}

impl Contenders {
    /// Starts so many clients of the disk `data`, whose blocks are zeros.
    ///
    /// # Panics
    /// When they cannot connect.
    pub fn start(address: SocketAddr, clients: u64, seed: u64) -> Self {
        let start = Instant::now();
        let next_value = Arc::new(AtomicU64::new(1));
        let mut contenders = Self {
            stop: Arc::new(AtomicBool::new(false)),
            answers: Arc::new(AtomicU64::new(0)),
            histories: Arc::new(Mutex::new(vec![Vec::new(); BLOCKS as usize])),
            threads: Vec::new(),
        };
        for index in 0..clients {
            let mut client = Client::connect(address).expect("a published port takes connections");
            let mut rng = Rng::new(seed ^ (index << 32));
            let (stop, answers) = (Arc::clone(&contenders.stop), Arc::clone(&contenders.answers));
            let (histories, next_value) = (Arc::clone(&contenders.histories), Arc::clone(&next_value));
            contenders.threads.push(std::thread::spawn(move || {
                let now_ns = || start.elapsed().as_nanos() as u64 + 1;
                while !stop.load(Ordering::SeqCst) {
                    let block = rng.below(BLOCKS);
                    let value = rng.chance(50).then(|| next_value.fetch_add(1, Ordering::SeqCst));
                    let begin_ns = now_ns();
                    let action = act(&mut client, block, value);
                    let operation = Operation { action, begin_ns, end_ns: Some(now_ns()) };
                    let mut histories = histories.lock().unwrap_or_else(PoisonError::into_inner);
                    histories[block as usize].push(operation);
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        contenders
    }

    /// Answers that all clients together have had.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }

    /// Waits for so many more answers.
    ///
    /// # Panics
    /// When a client has ended, which none does by itself.
    pub fn wait_for_answers(&self, more: u64) {
        let goal = self.answers() + more;
        while self.answers() < goal {
            assert!(self.threads.iter().all(|thread| !thread.is_finished()), "a client has ended");
            std::thread::yield_now();
        }
    }

    /// Ends the clients. Returns how many operations of all blocks were judged.
    ///
    /// # Panics
    /// When a client has lost its connection, or when what they saw of a block is not what one block would show.
    pub fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client keeps its connection and is told what it expects");
        }
        let histories = self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        for (block, history) in histories.iter().enumerate() {
            if let Err(text) = check(history) {
                panic!("block {block}, of {} operations: {text}", history.len());
            }
        }
        histories.iter().map(Vec::len).sum()
    }
}

fn act(client: &mut Client, block: u64, value: Option<u64>) -> Action {
    if let Some(value) = value {
        assert_eq!(ask(client, &format!("disk data write {block} 1 7 {value}")), "done");
        return Action::Write(value);
    }
    let answer = ask(client, &format!("disk data version {block}"));
    let found = answer.strip_prefix("version ").and_then(|version| version.parse().ok());
    Action::Read(found.unwrap_or_else(|| panic!("block {block}: {answer}")))
}
