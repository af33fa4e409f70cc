//! A file system on a disk, shared by threads.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use filesystem::{FileSystem, FsError, Ino};

use super::{COMMIT_AFTER, Errno, Result, errno};
use crate::block::Disk;
use crate::sync::{Mutex, MutexGuard, Notify};
use crate::sys::wait::block_on;
use crate::time;

pub(super) type Fs = FileSystem<Disk>;

pub(super) struct Volume {
    /// The disk's name.
    pub disk: String,
    fs: Mutex<Fs>,
    /// Somebody has worked with it since the last commit.
    changed: Notify,
    /// Files that were closed while somebody else had the lock.
    closed: RefCell<Vec<Ino>>,
    /// It was said that nothing can be made stable.
    told: Cell<bool>,
}

impl Volume {
    pub fn new(disk: &str, fs: Fs) -> Self {
        Self {
            disk: disk.into(),
            fs: Mutex::new(fs),
            changed: Notify::new(),
            closed: RefCell::new(Vec::new()),
            told: Cell::new(false),
        }
    }

    async fn lock(&self) -> MutexGuard<'_, Fs> {
        let mut fs = self.fs.lock().await;
        self.close_waiting(&mut fs);
        fs
    }

    fn close_waiting(&self, fs: &mut Fs) {
        for ino in self.closed.take() {
            fs.close(ino);
        }
    }

    /// Waits for the lock in a call. Not inlined: there are many callers.
    #[inline(never)]
    fn enter(&self) -> MutexGuard<'_, Fs> {
        block_on(self.lock())
    }

    /// Somebody has worked with the file system.
    #[inline(never)]
    fn leave(&self, fs: MutexGuard<'_, Fs>) {
        if fs.is_changed() {
            self.changed.notify_one();
        }
    }

    /// Calls `f` with the file system; what it waits for, it waits for in a call.
    pub fn with<T>(&self, f: impl FnOnce(&mut Fs) -> core::result::Result<T, FsError>) -> Result<T> {
        let mut fs = self.enter();
        let result = f(&mut fs);
        if fs.wants_commit() {
            // Whoever must know whether it is stable asks for that himself.
            let _ = block_on(fs.sync());
        }
        self.leave(fs);
        result.map_err(errno)
    }

    /// A file is not open any more.
    pub fn close(&self, ino: Ino) {
        match self.fs.try_lock() {
            Some(mut fs) => {
                self.close_waiting(&mut fs);
                fs.close(ino);
                self.leave(fs);
            }
            None => self.closed.borrow_mut().push(ino),
        }
    }

    /// Whether somebody works with it.
    pub fn is_busy(&self) -> bool {
        self.fs.try_lock().is_none()
    }

    pub async fn sync(&self) -> Result<()> {
        self.lock().await.sync().await.map_err(errno)
    }

    /// Makes everything stable, and says on the console if that cannot be done, once until it can again.
    pub async fn sync_or_say(&self) {
        match self.sync().await {
            Ok(()) => self.told.set(false),
            Err(error) => {
                if !self.told.replace(true) {
                    self.say(error);
                }
            }
        }
    }

    fn say(&self, error: Errno) {
        let why = match error {
            hermit_abi::ENOSPC => "the disk is full",
            _ => "the disk has failed",
        };
        crate::println!("pollux: what the program has written to disk {} cannot be made stable: {why}", self.disk);
    }

    /// Makes changes stable some time after they were made, for ever.
    pub async fn commit_in_time(&self) {
        loop {
            self.changed.notified().await;
            time::sleep(COMMIT_AFTER).await;
            self.sync_or_say().await;
        }
    }
}
