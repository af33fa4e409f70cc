//! The thread that writes the log: what waits is written and synced together, then it is said how far that is done.
//!
//! It also gives finished checkpoints their names and removes what is older than anybody needs, because all of that has an
//! order: a checkpoint counts when the log up to it is stored, a newer one is there before an older one goes, and one that a
//! promoted replica has made untrue goes before the first record that contradicts it. Disks of the guest are marked before a
//! checkpoint counts that relies on what they hold.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use checkpoint::file::Identity;
use checkpoint::log::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentWriter};
use mio::Waker;
use protocol::control::{LogEnd, LogRecord};
use protocol::replica::Record;
use protocol::{Epoch, Generation, ReplicaId};

use super::folder::{checkpoint_path, segment_path};
use crate::disk::mark::Mark;

/// A segment that has grown beyond this is followed by another.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Writing that has failed is tried again after this time.
const RETRY: Duration = Duration::from_millis(500);
/// A log that nobody waits for is synced after so many bytes.
const LAZY_SYNC_BYTES: u64 = 4 << 20;
/// Restore points that are kept.
const KEPT_POINTS: usize = 2;

/// What the thread is to do, in this order.
#[derive(Debug)]
pub enum Order {
    /// Store a record.
    Record {
        /// Whose.
        from: ReplicaId,
        /// In which generation.
        generation: Generation,
        /// The record.
        record: Record,
    },
    /// Store how the last epoch ended.
    End {
        /// Whose.
        from: ReplicaId,
        /// How.
        end: LogEnd,
    },
    /// A checkpoint is complete under a temporary name.
    Publish {
        /// The temporary name.
        from: PathBuf,
        /// The checkpoint.
        point: Point,
    },
    /// Checkpoints of epochs after this one are not true any more.
    Forget {
        /// The last epoch that all agree on.
        after: Epoch,
    },
    /// These files hold all that the log says was done at disks up to this epoch: they are made stable and marked.
    Mark {
        /// The replica that writes to them.
        of: ReplicaId,
        /// The epoch.
        through: Epoch,
        /// The files, with their generations.
        disks: Vec<(File, u64)>,
    },
}

/// A checkpoint in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its number.
    pub number: u64,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it builds upon the one before it.
    pub builds_upon: bool,
}

/// What the thread has done.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// Everything up to this epoch is stored, of what this replica has sent.
    Stored {
        /// Whose records.
        from: ReplicaId,
        /// The epoch.
        through: Epoch,
    },
    /// A checkpoint has its name, and older ones have gone.
    Published(Point),
    /// Nothing can be written; it is tried again, and nothing is stored meanwhile.
    Failing(String),
    /// It can be written again.
    Recovered,
    /// The log can never be whole again.
    Broken(String),
    /// The disks of this replica are marked.
    Marked(ReplicaId),
    /// Checkpoints were removed because they are not true any more.
    Forgotten {
        /// How many are left.
        left: usize,
    },
}

/// What a thread begins with.
#[derive(Debug)]
pub struct Start {
    /// Where.
    pub folder: PathBuf,
    /// Of which guest.
    pub identity: Identity,
    /// The log's name.
    pub lineage: u64,
    /// The number of the next segment.
    pub next_sequence: u64,
    /// Segments that are there, oldest first, with their last epochs.
    pub segments: Vec<(u64, Epoch)>,
    /// Checkpoints that are there, oldest first.
    pub points: Vec<Point>,
    /// The last epoch of the log, if there is one.
    pub last_epoch: Option<Epoch>,
    /// Whether somebody waits for records to be on the disk.
    pub durable: bool,
    /// Whether what is older than anybody needs is removed.
    pub prunes: bool,
}

/// The thread.
#[derive(Debug)]
pub struct LogWriter {
    orders: Option<Sender<Order>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl LogWriter {
    /// Starts it.
    ///
    /// # Errors
    /// The system's.
    pub fn start(start: Start, waker: Arc<Waker>) -> io::Result<Self> {
        let (orders, inbox) = channel();
        let (outbox, done) = channel();
        let mut work = Work {
            lazy_bytes: 0,
            waiting: VecDeque::new(),
            file: None,
            failing: false,
            broken: false,
            generation: 1,
            out: Vec::new(),
            tell: Box::new(move |told| {
                // A supervisor that has gone needs no answer.
                let _ = outbox.send(told);
                let _ = waker.wake();
            }),
            start,
        };
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || work.run(&inbox))?;
        Ok(Self { orders: Some(orders), done, thread: Some(thread) })
    }

    /// Gives it something to do.
    pub fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // It ends only when this is dropped.
            let _ = orders.send(order);
        }
    }

    /// Has everything done that was ordered, as far as it can be, and takes no more.
    pub fn finish(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// What it has done since the last call.
    pub fn done(&self) -> impl Iterator<Item = Done> + '_ {
        self.done.try_iter()
    }
}

impl Drop for LogWriter {
    /// Everything that was ordered is done, as far as it can be.
    fn drop(&mut self) {
        self.finish();
    }
}

/// The segment that is being written.
struct Open {
    file: File,
    writer: SegmentWriter,
    generation: Generation,
    replica: ReplicaId,
    bytes: u64,
    synced_bytes: u64,
}

struct Work {
    start: Start,
    /// What was ordered and is not done.
    waiting: VecDeque<Order>,
    file: Option<Open>,
    failing: bool,
    /// Records are missing: nothing is stored any more.
    broken: bool,
    /// Of the last record.
    generation: Generation,
    /// Bytes of a log that nobody waits for which are not synced.
    lazy_bytes: u64,
    out: Vec<u8>,
    tell: Box<dyn Fn(Done) + Send>,
}

impl Work {
    fn run(&mut self, inbox: &Receiver<Order>) {
        loop {
            let wait = if self.failing { RETRY } else { Duration::from_secs(1) };
            let idle = self.waiting.is_empty() || self.failing;
            match if idle { inbox.recv_timeout(wait) } else { Err(RecvTimeoutError::Timeout) } {
                Ok(order) => self.waiting.push_back(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Once more; what cannot be written now was promised to nobody.
                    self.carry_out();
                    self.sync_lazily(true);
                    return;
                }
            }
            self.waiting.extend(inbox.try_iter());
            self.carry_out();
            self.sync_lazily(self.waiting.is_empty());
        }
    }

    fn sync_lazily(&mut self, idle: bool) {
        let due = self.lazy_bytes > LAZY_SYNC_BYTES || (idle && self.lazy_bytes > 0);
        if let Some(open) = self.file.as_mut().filter(|_| due) {
            self.lazy_bytes = 0;
            if open.file.sync_data().is_ok() {
                open.synced_bytes = open.bytes;
            }
        }
    }

    /// Does what was ordered, in its order, as far as it can be done.
    fn carry_out(&mut self) {
        while let Some(order) = self.waiting.front() {
            let result = match order {
                Order::Record { .. } | Order::End { .. } => self.store(),
                Order::Publish { from, point } => {
                    let (from, point) = (from.clone(), *point);
                    self.publish(&from, point).map(|()| _ = self.waiting.pop_front())
                }
                Order::Forget { after } => {
                    let after = *after;
                    self.forget(after).map(|()| _ = self.waiting.pop_front())
                }
                Order::Mark { of, through, disks } => {
                    let of = *of;
                    mark(disks, self.start.lineage, *through).map(|()| {
                        self.waiting.pop_front();
                        (self.tell)(Done::Marked(of));
                    })
                }
            };
            match result {
                Ok(()) if self.failing => {
                    self.failing = false;
                    (self.tell)(Done::Recovered);
                }
                Ok(()) => {}
                Err(error) => {
                    // What was written in part is of no use, and what a disk has failed to sync it may not try again: a
                    // new segment begins with what waits.
                    self.give_up_segment();
                    if !self.failing {
                        self.failing = true;
                        (self.tell)(Done::Failing(format!("{}: {error}", self.start.folder.display())));
                    }
                    return;
                }
            }
        }
    }

    /// Leaves the segment that could not be written to. One in which nothing is stored gives its number back.
    fn give_up_segment(&mut self) {
        let Some(open) = self.file.take() else { return };
        if self.start.durable && open.synced_bytes <= SEGMENT_HEADER_BYTES as u64 {
            self.start.next_sequence -= 1;
            self.start.segments.pop();
        }
    }

    /// The segment for what this replica sends in this generation (0: whichever is open), if it need not be begun.
    fn is_open_for(&self, from: ReplicaId, generation: Generation) -> bool {
        self.file.as_ref().is_some_and(|open| {
            open.replica == from && (generation == 0 || open.generation == generation) && open.bytes < SEGMENT_BYTES
        })
    }

    /// Stores everything in front of the next order of another kind, in one write.
    fn store(&mut self) -> io::Result<()> {
        self.out.clear();
        let (mut count, mut through) = (0, None);
        for order in &self.waiting {
            let (from, generation, epoch) = match order {
                Order::Record { from, generation, record } => (*from, *generation, record.epoch),
                Order::End { from, end } => (*from, 0, end.epoch),
                Order::Publish { .. } | Order::Forget { .. } | Order::Mark { .. } => break,
            };
            let same = self.is_open_for(from, generation);
            if !same && count > 0 {
                break;
            }
            match order {
                Order::End { end, .. } => {
                    if self.file.is_none() {
                        self.file = Some(begin(&mut self.start, from, self.generation, epoch + 1)?);
                    }
                    if let Some(open) = self.file.as_ref().filter(|open| open.replica == from) {
                        open.writer.end(end, open.generation, open.synced_bytes, &mut self.out);
                    }
                }
                Order::Record { record, .. } => {
                    let gap = self.start.last_epoch.filter(|last| epoch > last + 1);
                    if let Some(last) = gap
                        && !self.broken
                    {
                        self.broken = true;
                        (self.tell)(Done::Broken(format!("the log lacks epochs {} to {}", last + 1, epoch - 1)));
                    }
                    if self.broken {
                        count += 1;
                        continue;
                    }
                    if !same {
                        self.file = Some(begin(&mut self.start, from, generation, epoch)?);
                    }
                    let Some(open) = &self.file else { break };
                    self.generation = generation;
                    let stored = LogRecord { generation, start: record.message() };
                    open.writer.record(&stored, open.synced_bytes, &mut self.out);
                    through = Some((from, epoch));
                    // The known end may lie behind it, in what is stored again.
                    self.start.last_epoch = Some(self.start.last_epoch.map_or(epoch, |last| last.max(epoch)));
                    if let Some(last) = self.start.segments.last_mut() {
                        last.1 = last.1.max(epoch);
                    }
                }
                Order::Publish { .. } | Order::Forget { .. } | Order::Mark { .. } => {}
            }
            count += 1;
        }
        if let Some(open) = &mut self.file {
            open.file.write_all(&self.out)?;
            open.bytes += self.out.len() as u64;
            if self.start.durable {
                open.file.sync_data()?;
                open.synced_bytes = open.bytes;
            } else {
                self.lazy_bytes += self.out.len() as u64;
            }
        }
        self.waiting.drain(..count);
        if let Some((from, through)) = through {
            (self.tell)(Done::Stored { from, through });
        }
        Ok(())
    }

    /// A checkpoint gets its name: everything before it is stored.
    fn publish(&mut self, from: &Path, point: Point) -> io::Result<()> {
        fs::rename(from, checkpoint_path(&self.start.folder, point.number))?;
        sync_folder(&self.start.folder)?;
        self.start.points.push(point);
        // The next record begins a new segment, so that whole ones can go.
        self.file = None;
        if self.start.prunes {
            self.prune();
        }
        (self.tell)(Done::Published(point));
        Ok(())
    }

    /// Removes what neither of the newest restore points needs. What cannot be removed only takes room.
    fn prune(&mut self) {
        let points = &mut self.start.points;
        let Some(oldest) = points.len().checked_sub(KEPT_POINTS) else { return };
        let needed_from = points[oldest].epoch;
        // With the chain that it builds upon.
        let first = points[..=oldest].iter().rposition(|point| !point.builds_upon).unwrap_or(0);
        for point in points.drain(..first) {
            let _ = fs::remove_file(checkpoint_path(&self.start.folder, point.number));
        }
        let segments = &mut self.start.segments;
        // Oldest first: a crash leaves no hole.
        while segments.len() > 1 && segments[0].1 <= needed_from {
            let (sequence, _) = segments.remove(0);
            let _ = fs::remove_file(segment_path(&self.start.folder, sequence));
        }
    }

    fn forget(&mut self, after: Epoch) -> io::Result<()> {
        let before = self.start.points.len();
        let (folder, mut result) = (&self.start.folder, Ok(()));
        self.start.points.retain(|point| {
            let stays = point.epoch <= after || result.is_err();
            if !stays {
                result = fs::remove_file(checkpoint_path(folder, point.number));
            }
            stays || result.is_err()
        });
        result?;
        if self.start.points.len() != before {
            sync_folder(&self.start.folder)?;
            (self.tell)(Done::Forgotten { left: self.start.points.len() });
        }
        Ok(())
    }
}

/// Makes disks stable and says in their files how far they have come.
fn mark(disks: &[(File, u64)], lineage: u64, through: Epoch) -> io::Result<()> {
    disks.iter().try_for_each(|(file, generation)| Mark { lineage, generation: *generation, through }.make(file))
}

/// Begins a segment.
fn begin(start: &mut Start, replica: ReplicaId, generation: Generation, first_epoch: Epoch) -> io::Result<Open> {
    let sequence = start.next_sequence;
    let path = segment_path(&start.folder, sequence);
    // What a try that has failed has left is written anew.
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    let header =
        SegmentHeader { sequence, lineage: start.lineage, identity: start.identity, generation, replica, first_epoch };
    let mut out = Vec::new();
    let writer = SegmentWriter::new(&header, &mut out);
    file.write_all(&out)?;
    if start.durable {
        file.sync_data()?;
        sync_folder(&start.folder)?;
    }
    start.next_sequence += 1;
    start.segments.push((sequence, first_epoch.saturating_sub(1)));
    let bytes = out.len() as u64;
    Ok(Open { file, writer, generation, replica, bytes, synced_bytes: if start.durable { bytes } else { 0 } })
}

/// Names, too, must outlive the host.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
