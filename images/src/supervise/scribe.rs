//! Writes the small files of a pair's folder, in a thread of its own.
//!
//! The supervisor may not wait for a file system: while it does, clients wait for their frames and a backup for the
//! arbiter's answer. Even a write that nobody flushes may have to wait for the journal when others flush much: with builds and
//! tests of disks beside it, one line of the log took 11.6 s, and a failover with it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Writes that may wait. For more the file system is waited for: nothing is lost.
const QUEUE: usize = 1 << 14;
/// How long the end waits for what is still to be written.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Job {
    Append(Arc<File>, Vec<u8>),
    Place(Arc<File>, u64, Vec<u8>),
    Said(SyncSender<()>),
}

/// The thread.
#[derive(Debug)]
pub struct Scribe {
    queue: SyncSender<Job>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

/// Writes to one file, in order, soon.
#[derive(Debug)]
pub struct Pen {
    file: Arc<File>,
    queue: SyncSender<Job>,
}

impl Scribe {
    /// Starts the thread. It ends when this and all pens are gone.
    ///
    /// # Errors
    /// The system is short of threads.
    pub fn start() -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        let failure = Arc::new(Mutex::new(None));
        let noted = failure.clone();
        std::thread::Builder::new().name("scribe".to_owned()).spawn(move || write(&jobs, &noted))?;
        Ok(Self { queue, failure })
    }

    /// A pen for a file.
    pub fn pen(&self, file: File) -> Pen {
        Pen { file: Arc::new(file), queue: self.queue.clone() }
    }

    /// Why something could not be written: the newest reason that was not asked for yet.
    pub fn failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until everything so far is written, but not for ever.
    pub fn finish(&self) {
        let (said, heard) = sync_channel(1);
        if self.queue.send(Job::Said(said)).is_ok() {
            let _ = heard.recv_timeout(PATIENCE);
        }
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Pen {
    /// Adds bytes at the end.
    pub fn append(&self, bytes: Vec<u8>) {
        self.push(Job::Append(self.file.clone(), bytes));
    }

    /// Writes bytes at a place.
    pub fn place(&self, offset_bytes: u64, bytes: Vec<u8>) {
        self.push(Job::Place(self.file.clone(), offset_bytes, bytes));
    }

    fn push(&self, job: Job) {
        // The thread ends after the last pen.
        let _ = self.queue.send(job);
    }
}

fn write(jobs: &Receiver<Job>, failure: &Mutex<Option<io::Error>>) {
    for job in jobs {
        let result = match job {
            Job::Append(file, bytes) => (&*file).write_all(&bytes),
            Job::Place(file, offset_bytes, bytes) => file.write_all_at(&bytes, offset_bytes),
            Job::Said(said) => {
                // Whoever asked may have lost patience.
                let _ = said.send(());
                Ok(())
            }
        };
        if let Err(error) = result {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_written_in_order_and_failures_are_told_once() {
        let path = std::env::temp_dir().join(format!("pollux-scribe-{}", std::process::id()));
        let scribe = Scribe::start().expect("a thread");
        let pen = scribe.pen(File::create(&path).expect("a file"));
        for line in 0..100 {
            pen.append(format!("{line}\n").into_bytes());
        }
        pen.place(0, b"x".to_vec());
        scribe.finish();
        let expected: String = (0..100).map(|line| format!("{line}\n")).collect();
        assert_eq!(std::fs::read_to_string(&path).expect("there"), expected.replacen('0', "x", 1));
        assert!(scribe.failure().is_none());
        scribe.pen(File::open(&path).expect("read-only")).append(b"no".to_vec());
        scribe.finish();
        assert!(scribe.failure().is_some() && scribe.failure().is_none());
        std::fs::remove_file(path).expect("removed");
    }
}
