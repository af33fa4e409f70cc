//! What clients that run side by side have been answered, and how they are waited for and ended.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::pair::DEADLINE;
use crate::workbench::lock;

#[derive(Debug, Default)]
struct Progress {
    /// Requests answered, per client.
    answered: Vec<u64>,
    failures: Vec<String>,
    stop: bool,
}

/// What the clients tell.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Answers {
    /// A client has been answered once more.
    pub(crate) fn note(&self, client: usize) {
        lock(&self.progress).answered[client] += 1;
        self.changed.notify_all();
    }

    /// A client has failed.
    pub(crate) fn fail(&self, client: usize, text: &str) {
        lock(&self.progress).failures.push(format!("client {client}: {text}"));
        self.changed.notify_all();
    }

    /// Whether clients are to end.
    pub(crate) fn stop(&self) -> bool {
        lock(&self.progress).stop
    }
}

/// Running clients, each of which knows something at its end.
#[derive(Debug)]
pub(crate) struct Clients<K> {
    answers: Arc<Answers>,
    threads: Vec<JoinHandle<K>>,
}

impl<K: Send + 'static> Clients<K> {
    /// Starts so many, each of which runs `client` with its number.
    pub(crate) fn start(count: usize, client: impl Fn(usize, Arc<Answers>) -> K + Clone + Send + 'static) -> Self {
        let answers = Arc::new(Answers::default());
        lock(&answers.progress).answered = vec![0; count];
        let start = |index| {
            let (client, answers) = (client.clone(), Arc::clone(&answers));
            thread::spawn(move || client(index, answers))
        };
        let threads = (0..count).map(start).collect();
        Self { answers, threads }
    }

    /// Waits until every client has had so many more answers.
    ///
    /// # Panics
    /// When one fails, or has not within the deadline.
    pub(crate) fn wait_for_answers(&self, more: u64) {
        let deadline = Instant::now() + DEADLINE;
        let mut progress = lock(&self.answers.progress);
        let goals: Vec<_> = progress.answered.iter().map(|answered| answered + more).collect();
        loop {
            assert!(progress.failures.is_empty(), "clients failed: {:#?}", progress.failures);
            if progress.answered.iter().zip(&goals).all(|(answered, goal)| answered >= goal) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "clients stand still: {:?}, wanted {goals:?}", progress.answered);
            progress = self.answers.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Stops the clients: what each knows, and how many requests of each were answered.
    ///
    /// # Panics
    /// When one has failed.
    pub(crate) fn finish(mut self) -> (Vec<K>, Vec<u64>) {
        lock(&self.answers.progress).stop = true;
        let known = self.threads.drain(..).map(|client| client.join().expect("a client ends")).collect();
        let progress = lock(&self.answers.progress);
        assert!(progress.failures.is_empty(), "clients failed: {:#?}", progress.failures);
        (known, progress.answered.clone())
    }
}

impl<K> Drop for Clients<K> {
    fn drop(&mut self) {
        lock(&self.answers.progress).stop = true;
        for client in self.threads.drain(..) {
            // Whoever drops clients without finishing them is failing already.
            let _ = client.join();
        }
    }
}
