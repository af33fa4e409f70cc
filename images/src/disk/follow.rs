//! Copying files while somebody writes to them: everything once, then what has changed, as somebody else says.
//!
//! A thread of its own does it, because clients would wait for the disk otherwise. Blocks that are equal already are not
//! written, and holes stay holes: a mirror that has missed little gets little.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use hypercall::disk::BLOCK_BYTES;
use protocol::resync::ChangedBlocks;
use rustix::fs::FallocateFlags;

use super::copy::next_data;
use super::identity::HEADER_BYTES;

/// Bytes read at a time.
const CHUNK_BYTES: u64 = 1 << 20;
/// What is compared, and written if it differs; and the least that can be a hole.
const PIECE_BYTES: usize = 4096;
/// So much is written before it is made stable: one flush of everything would hold up those of the guest.
const STABLE_BYTES: u64 = 32 << 20;

/// A file that is copied, and where to. Both have an identity in front.
#[derive(Debug)]
pub struct Route {
    /// The disk's place among those of the guest.
    pub disk: u32,
    /// Bytes of it.
    pub size_bytes: u64,
    /// The one that is written to.
    pub from: File,
    /// Its name.
    pub from_path: PathBuf,
    /// Its copy.
    pub to: File,
    /// Its name.
    pub to_path: PathBuf,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Job {
    /// Everything is copied. What the files say of themselves is stable before.
    Whole,
    /// These blocks are.
    Ranges(Vec<ChangedBlocks>),
    /// The copy is made stable.
    Stable,
}

/// Tells of a job that is done.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How far everything is, in bytes.
#[derive(Debug, Default)]
struct Progress {
    looked_at: AtomicU64,
    written: AtomicU64,
}

/// The thread, and the jobs on their way to it.
pub struct Follower {
    jobs: mpsc::Sender<Job>,
    done: mpsc::Receiver<Result<(), String>>,
    progress: Arc<Progress>,
    total_bytes: u64,
    given_up: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl Follower {
    /// A thread that waits for jobs; `wake` is called whenever one is done.
    ///
    /// # Errors
    /// The system has no thread.
    pub fn start(routes: Vec<Route>, wake: Wake) -> std::io::Result<Self> {
        let (jobs, todo) = mpsc::channel();
        let (told, done) = mpsc::channel();
        let (progress, given_up) = (Arc::new(Progress::default()), Arc::new(AtomicBool::new(false)));
        let total_bytes = routes.iter().map(|route| route.size_bytes).sum();
        let worker = Worker { progress: progress.clone(), given_up: given_up.clone(), unstable_bytes: 0 };
        let work = move || {
            let mut worker = worker;
            while let Ok(job) = todo.recv() {
                let result = worker.carry_out(&routes, &job);
                let failed = result.is_err();
                if told.send(result).is_err() || failed {
                    return wake();
                }
                wake();
            }
        };
        let thread = std::thread::Builder::new().name("disks".to_owned()).spawn(work)?;
        Ok(Self { jobs, done, progress, total_bytes, given_up, thread })
    }

    /// Adds a job. They are done in their order.
    pub fn push(&self, job: Job) {
        // A thread that has ended has said why.
        let _ = self.jobs.send(job);
    }

    /// The end of the oldest job of which was not told yet.
    ///
    /// # Errors
    /// Why it was not done; nothing is done after that.
    pub fn take_done(&self) -> Result<bool, String> {
        match self.done.try_recv() {
            Ok(result) => result.map(|()| true),
            Err(mpsc::TryRecvError::Empty) => Ok(false),
            Err(mpsc::TryRecvError::Disconnected) => Err("the thread that copies has ended".to_owned()),
        }
    }

    /// Bytes looked at when everything is copied, of how many; and bytes written in all.
    pub fn progress(&self) -> (u64, u64, u64) {
        let looked_at = self.progress.looked_at.load(Ordering::Relaxed).min(self.total_bytes);
        (looked_at, self.total_bytes, self.progress.written.load(Ordering::Relaxed))
    }

    /// Gives up. When the returned thread has ended nothing more is written.
    pub fn give_up(self) -> JoinHandle<()> {
        self.given_up.store(true, Ordering::Relaxed);
        self.thread
    }
}

struct Worker {
    progress: Arc<Progress>,
    given_up: Arc<AtomicBool>,
    unstable_bytes: u64,
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

impl Worker {
    fn carry_out(&mut self, routes: &[Route], job: &Job) -> Result<(), String> {
        match job {
            Job::Whole => routes.iter().try_for_each(|route| self.copy_whole(route)),
            Job::Ranges(ranges) => ranges.iter().try_for_each(|range| {
                let route = routes.iter().find(|route| route.disk == range.disk);
                let end = (range.first_block + range.blocks).checked_mul(BLOCK_BYTES as u64);
                match (route, end) {
                    (Some(route), Some(end)) if end <= route.size_bytes => {
                        let start = range.first_block * BLOCK_BYTES as u64;
                        self.copy_range(route, HEADER_BYTES + start, HEADER_BYTES + end)
                    }
                    _ => Err(format!("{range:?} are said to have changed, which are not there")),
                }
            }),
            Job::Stable => routes.iter().try_for_each(|route| self.make_stable(route)),
        }
    }

    fn make_stable(&mut self, route: &Route) -> Result<(), String> {
        self.unstable_bytes = 0;
        route.to.sync_data().map_err(failed(&route.to_path))
    }

    fn copy_whole(&mut self, route: &Route) -> Result<(), String> {
        // Before the first block of an older life is overwritten it must be certain that nobody takes the file for whole.
        self.make_stable(route)?;
        let end = HEADER_BYTES + route.size_bytes;
        let before = self.progress.looked_at.load(Ordering::Relaxed);
        let mut at = HEADER_BYTES;
        while at < end {
            let (start, stop) =
                next_data(&route.from, at, end).map_err(failed(&route.from_path))?.unwrap_or((end, end));
            self.empty(route, at, start)?;
            self.progress.looked_at.store(before + start - HEADER_BYTES, Ordering::Relaxed);
            at = start;
            while at < stop {
                let began = Instant::now();
                let next = stop.min(at + CHUNK_BYTES);
                self.copy_range(route, at, next)?;
                at = next;
                self.progress.looked_at.store(before + at - HEADER_BYTES, Ordering::Relaxed);
                if self.unstable_bytes >= STABLE_BYTES {
                    self.make_stable(route)?;
                }
                // The processors and the disk belong to the guest: at most half of either is used.
                std::thread::sleep(began.elapsed());
            }
        }
        Ok(())
    }

    /// Where the source has a hole, the copy gets one.
    fn empty(&mut self, route: &Route, start: u64, end: u64) -> Result<(), String> {
        let mut at = start;
        while let Some((first, stop)) = next_data(&route.to, at, end).map_err(failed(&route.to_path))? {
            self.punch(route, first, stop)?;
            at = stop;
        }
        Ok(())
    }

    fn punch(&mut self, route: &Route, start: u64, end: u64) -> Result<(), String> {
        self.check_given_up()?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&route.to, flags, start, end - start) {
            Ok(()) => {
                self.unstable_bytes += PIECE_BYTES as u64;
                Ok(())
            }
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = vec![0; CHUNK_BYTES as usize];
                for at in (start..end).step_by(zeros.len()) {
                    let bytes = (end - at).min(CHUNK_BYTES) as usize;
                    self.write(route, at, &zeros[..bytes])?;
                }
                Ok(())
            }
            Err(error) => Err(failed(&route.to_path)(error.into())),
        }
    }

    fn check_given_up(&self) -> Result<(), String> {
        if self.given_up.load(Ordering::Relaxed) { Err("given up".to_owned()) } else { Ok(()) }
    }

    fn write(&mut self, route: &Route, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.check_given_up()?;
        route.to.write_all_at(bytes, at).map_err(failed(&route.to_path))?;
        self.unstable_bytes += bytes.len() as u64;
        self.progress.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Copies the bytes of a range, whatever they are, in pieces that differ.
    fn copy_range(&mut self, route: &Route, start: u64, end: u64) -> Result<(), String> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut at = start;
        while at < end {
            self.check_given_up()?;
            let bytes = (end - at).min(CHUNK_BYTES) as usize;
            ours.resize(bytes, 0);
            theirs.resize(bytes, 0);
            route.from.read_exact_at(&mut ours, at).map_err(failed(&route.from_path))?;
            route.to.read_exact_at(&mut theirs, at).map_err(failed(&route.to_path))?;
            for run in differing(&ours, &theirs) {
                let whole = run.len().is_multiple_of(PIECE_BYTES) && at.is_multiple_of(PIECE_BYTES as u64);
                if whole && ours[run.clone()].iter().all(|&byte| byte == 0) {
                    self.punch(route, at + run.start as u64, at + run.end as u64)?;
                } else {
                    self.write(route, at + run.start as u64, &ours[run])?;
                }
            }
            at += bytes as u64;
        }
        Ok(())
    }
}

/// Runs of pieces in which two equally long buffers differ.
fn differing(ours: &[u8], theirs: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (index, (one, other)) in ours.chunks(PIECE_BYTES).zip(theirs.chunks(PIECE_BYTES)).enumerate() {
        if one == other {
            continue;
        }
        let start = index * PIECE_BYTES;
        let end = start + one.len();
        match runs.last_mut().filter(|run| run.end == start) {
            Some(run) => run.end = end,
            None => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    struct Files(PathBuf);

    impl Files {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pollux-follow-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn file(&self, name: &str, size_bytes: u64) -> File {
            let path = self.0.join(name);
            let file = File::options().read(true).write(true).create(true).truncate(true).open(path).expect("a file");
            file.set_len(HEADER_BYTES + size_bytes).expect("sized");
            file
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn wait(follower: &Follower) -> Result<(), String> {
        follower.done.recv().expect("an answer")
    }

    fn content(file: &File, size_bytes: u64) -> Vec<u8> {
        let mut bytes = vec![0; size_bytes as usize];
        file.read_exact_at(&mut bytes, HEADER_BYTES).expect("read");
        bytes
    }

    const SIZE: u64 = 8 << 20;

    #[test]
    fn a_copy_becomes_equal_and_keeps_its_holes() {
        let files = Files::new("equal");
        let (from, to) = (files.file("from", SIZE), files.file("to", SIZE));
        from.write_all_at(&[7; 100_000], HEADER_BYTES + 512).expect("written");
        from.write_all_at(&[9; 512], HEADER_BYTES + SIZE - 512).expect("written");
        // An older life: something where the source has a hole, and something that is right.
        to.write_all_at(&[1; 1 << 20], HEADER_BYTES + (4 << 20)).expect("written");
        to.write_all_at(&[7; 50_000], HEADER_BYTES + 512).expect("written");
        let route = Route {
            disk: 3,
            size_bytes: SIZE,
            from: from.try_clone().expect("a copy"),
            from_path: "from".into(),
            to: to.try_clone().expect("a copy"),
            to_path: "to".into(),
        };
        let follower = Follower::start(vec![route], Arc::new(|| ())).expect("a thread");
        follower.push(Job::Whole);
        wait(&follower).expect("copied");
        assert!(content(&from, SIZE) == content(&to, SIZE));
        let (looked_at, of, written) = follower.progress();
        assert_eq!((looked_at, of), (SIZE, SIZE));
        assert!(written < 80_000, "what was right is not written: {written}");
        let taken = to.metadata().expect("metadata").blocks() * 512;
        assert!(taken < 1 << 20, "the hole is one: {taken}");

        from.write_all_at(&[0; 65_536], HEADER_BYTES).expect("written");
        from.write_all_at(&[5; 512], HEADER_BYTES + 4_000 * 512).expect("written");
        let range = |first_block, blocks| ChangedBlocks { disk: 3, first_block, blocks };
        follower.push(Job::Ranges(vec![range(0, 128), range(4_000, 1)]));
        wait(&follower).expect("copied");
        follower.push(Job::Stable);
        wait(&follower).expect("flushed");
        assert!(content(&from, SIZE) == content(&to, SIZE));
        follower.push(Job::Ranges(vec![range(SIZE / 512, 1)]));
        assert!(wait(&follower).expect_err("beyond the end").contains("not there"));
        follower.give_up().join().expect("it ends");
    }

    #[test]
    fn a_copy_that_is_given_up_writes_no_more() {
        let files = Files::new("given-up");
        let (from, to) = (files.file("from", SIZE), files.file("to", SIZE));
        from.write_all_at(&[7; 4096], HEADER_BYTES).expect("written");
        let to_path = files.0.join("to");
        let route = Route { disk: 0, size_bytes: SIZE, from, from_path: "from".into(), to, to_path };
        let follower = Follower::start(vec![route], Arc::new(|| ())).expect("a thread");
        follower.given_up.store(true, Ordering::Relaxed);
        follower.push(Job::Whole);
        assert_eq!(wait(&follower), Err("given up".to_owned()));
        follower.push(Job::Whole);
        assert_eq!(follower.done.recv(), Err(mpsc::RecvError), "the thread ends, and does nothing more");
        assert!(follower.take_done().is_err());
        follower.give_up().join().expect("it has ended");
    }

    #[test]
    fn differing_pieces_are_joined() {
        let (mut one, other) = (vec![0; 5 * PIECE_BYTES + 100], vec![0; 5 * PIECE_BYTES + 100]);
        assert!(differing(&one, &other).is_empty());
        (one[0], one[2 * PIECE_BYTES - 1], one[5 * PIECE_BYTES + 99]) = (1, 1, 1);
        assert_eq!(differing(&one, &other), [0..2 * PIECE_BYTES, 5 * PIECE_BYTES..5 * PIECE_BYTES + 100]);
    }
}
