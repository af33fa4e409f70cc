//! Stores that lie, each in its own way.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use super::*;
use crate::workbench::lock;

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// Nothing.
    None,
    /// Acknowledged SETs are forgotten from a moment on.
    LoseSet,
    /// One INCR of a client's own counter is applied twice.
    RepeatIncrement,
    /// One acknowledged INCR of the shared counter is forgotten, as if a backup had not had it.
    LoseSharedIncrement,
    /// One INCR of the shared counter is applied twice, and the second answer given.
    RepeatSharedIncrement,
    /// A connection is closed.
    Close,
    /// One GET is answered from the past.
    StaleGet,
}

/// The request at which the bug shows.
const WHEN: u64 = 150;

struct Store {
    bug: Bug,
    requests: u64,
    done: bool,
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Store {
    /// Whether the bug shows now, which it does once.
    fn strikes(&mut self, bug: Bug) -> bool {
        let now = self.bug == bug && self.requests > WHEN && !self.done;
        self.done |= now;
        now
    }

    fn increment(&mut self, key: &[u8]) -> i64 {
        let value = self.values.entry(key.to_vec()).or_insert_with(|| b"0".to_vec());
        let number = String::from_utf8_lossy(value).parse::<i64>().expect("a number") + 1;
        *value = number.to_string().into_bytes();
        number
    }

    /// The answer; `None` closes the connection.
    fn answer(&mut self, words: &[Vec<u8>]) -> Option<Vec<u8>> {
        self.requests += 1;
        if self.strikes(Bug::Close) {
            return None;
        }
        let key = &words[1];
        Some(match words[0].as_slice() {
            b"SET" => {
                if self.bug != Bug::LoseSet || self.requests < WHEN {
                    self.values.insert(key.clone(), words[2].clone());
                }
                b"+OK\r\n".to_vec()
            }
            b"GET" => match self.values.get(key).cloned() {
                Some(_) if self.strikes(Bug::StaleGet) => b"$3\r\nold\r\n".to_vec(),
                Some(value) => [format!("${}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat(),
                None => b"$-1\r\n".to_vec(),
            },
            _ => {
                let shared = key == SHARED;
                if self.strikes(if shared { Bug::RepeatSharedIncrement } else { Bug::RepeatIncrement }) {
                    self.increment(key);
                }
                let number = self.increment(key);
                if shared && self.strikes(Bug::LoseSharedIncrement) {
                    self.values.insert(key.clone(), (number - 1).to_string().into_bytes());
                }
                format!(":{number}\r\n").into_bytes()
            }
        })
    }
}

/// The number behind a mark such as `*` or `$`; `None` at the end of the stream.
fn number(reader: &mut impl BufRead, mark: char) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.trim_end().strip_prefix(mark)?.parse().ok()
}

/// Serves one connection to its end.
fn serve(stream: &TcpStream, store: &Mutex<Store>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let count = number(&mut reader, '*')?;
        let mut words = Vec::new();
        for _ in 0..count {
            let mut word = vec![0; number(&mut reader, '$')? + 2];
            reader.read_exact(&mut word).ok()?;
            word.truncate(word.len() - 2);
            words.push(word);
        }
        let answer = lock(store).answer(&words)?;
        (&*stream).write_all(&answer).ok()?;
    }
}

/// Runs a load against a store with this bug; returns what it was accused of.
fn accusation(bug: Bug) -> Option<String> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let store = Arc::new(Mutex::new(Store { bug, requests: 0, done: false, values: BTreeMap::new() }));
    // Ends with the process: it has nothing to clean up.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let store = Arc::clone(&store);
            thread::spawn(move || serve(&stream, &store));
        }
    });
    let run = || {
        let load = Load::start(address, 3, 1);
        load.wait_for_answers(300);
        load.finish();
    };
    let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
    Some(panic.downcast_ref::<String>().cloned().unwrap_or_default())
}

#[test]
fn an_honest_store_is_not_accused() {
    assert_eq!(accusation(Bug::None), None);
}

#[test]
fn every_lie_is_caught_and_called_by_its_name() {
    let lies = [
        (Bug::LoseSet, "GET answered"),
        (Bug::RepeatIncrement, "INCR answered"),
        (Bug::LoseSharedIncrement, "shared counter"),
        (Bug::RepeatSharedIncrement, "shared counter"),
        (Bug::Close, "closed the connection"),
        (Bug::StaleGet, "GET answered"),
    ];
    for (bug, word) in lies {
        let text = accusation(bug).unwrap_or_else(|| panic!("{bug:?} went unnoticed"));
        assert!(text.contains(word), "{bug:?} is called {text}");
    }
}
