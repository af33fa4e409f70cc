//! Counters and pipes by descriptor.

use alloc::rc::Rc;
use core::cell::Cell;

use hermit_abi::{
    EAGAIN, EBADF, EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE, EINVAL, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY, POLLERR,
    POLLHUP, POLLIN, POLLOUT, S_IFIFO, stat,
};

use super::descriptors::{self, Open, Result, Status, stat_of};
use super::io::returned;
use super::signal::{Events, Signal};
use super::sockets::local::Queue;
use super::wait;
use crate::thread::Masked;

/// A number that is added to by writing and taken by reading (Linux's eventfd(2)).
struct Counter {
    status: Status,
    count: Cell<u64>,
    /// Reading takes one, not all.
    by_ones: bool,
    signal: Signal,
}

/// What the number cannot exceed.
const MOST: u64 = u64::MAX - 1;

impl Open for Counter {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let place = buffer.first_chunk_mut::<8>().ok_or(EINVAL)?;
        let taken = wait::until(self, POLLIN, None, || match self.count.get() {
            0 => Err(EAGAIN),
            count if self.by_ones => {
                self.count.set(count - 1);
                Ok(1u64)
            }
            count => {
                self.count.set(0);
                Ok(count)
            }
        })?;
        *place = taken.to_ne_bytes();
        self.signal.notify(POLLOUT);
        Ok(place.len())
    }

    fn write(&self, data: &[u8]) -> Result<usize> {
        let more = u64::from_ne_bytes(*data.first_chunk().ok_or(EINVAL)?);
        if more > MOST {
            return Err(EINVAL);
        }
        wait::until(self, POLLOUT, None, || {
            if more > MOST - self.count.get() {
                return Err(EAGAIN);
            }
            self.count.set(self.count.get() + more);
            Ok(())
        })?;
        self.signal.notify(POLLIN);
        Ok(size_of::<u64>())
    }

    fn stat(&self) -> Result<stat> {
        Ok(stat_of(0))
    }

    fn readiness(&self) -> Events {
        let count = self.count.get();
        (if count > 0 { POLLIN } else { 0 }) | if count < MOST { POLLOUT } else { 0 }
    }

    fn signal(&self) -> Option<&Signal> {
        Some(&self.signal)
    }
}

/// A counter: its descriptor. `-EINVAL` for a flag that there is not.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_eventfd(initval: u64, flags: i16) -> i32 {
    let _masked = Masked::new();
    if flags & !(EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC) != 0 || initval > MOST {
        return returned(Err(EINVAL));
    }
    let counter = Counter {
        status: Status::new(O_RDWR | if flags & EFD_NONBLOCK != 0 { O_NONBLOCK } else { 0 }),
        count: Cell::new(initval),
        by_ones: flags & EFD_SEMAPHORE != 0,
        signal: Signal::new(),
    };
    returned(descriptors::open(Rc::new(counter), flags & EFD_CLOEXEC != 0))
}

/// The end of a pipe that is read.
struct Source {
    status: Status,
    queue: Rc<Queue>,
    signal: Rc<Signal>,
}

/// The end that is written.
struct Sink {
    status: Status,
    queue: Rc<Queue>,
    signal: Rc<Signal>,
}

impl Open for Source {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        // SAFETY: the slice is as long as it says.
        unsafe { self.read_raw(buffer.as_mut_ptr(), buffer.len()) }
    }

    unsafe fn read_raw(&self, place: *mut u8, bytes: usize) -> Result<usize> {
        if bytes == 0 {
            return Ok(0);
        }
        // SAFETY: the caller's.
        wait::until(self, POLLIN, None, || unsafe { self.queue.read(place, bytes, false) })
    }

    fn write(&self, _data: &[u8]) -> Result<usize> {
        Err(EBADF)
    }

    fn stat(&self) -> Result<stat> {
        Ok(stat_of(S_IFIFO))
    }

    fn readiness(&self) -> Events {
        let waits = self.queue.has_bytes();
        (if waits { POLLIN } else { 0 }) | if self.queue.is_finished() { POLLHUP } else { 0 }
    }

    fn signal(&self) -> Option<&Signal> {
        Some(&self.signal)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Open for Sink {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, _buffer: &mut [u8]) -> Result<usize> {
        Err(EBADF)
    }

    fn write(&self, data: &[u8]) -> Result<usize> {
        let mut written = 0;
        loop {
            match wait::until(self, POLLOUT, None, || self.queue.write(&data[written..])) {
                Ok(piece) => written += piece,
                Err(_) if written > 0 => return Ok(written),
                Err(errno) => return Err(errno),
            }
            if written == data.len() || self.status.is_nonblocking() {
                return Ok(written);
            }
        }
    }

    fn stat(&self) -> Result<stat> {
        Ok(stat_of(S_IFIFO))
    }

    fn readiness(&self) -> Events {
        let room = self.queue.is_writable();
        (if room { POLLOUT } else { 0 }) | if self.queue.is_closed() { POLLERR } else { 0 }
    }

    fn signal(&self) -> Option<&Signal> {
        Some(&self.signal)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.queue.finish();
    }
}

/// A pipe: descriptors of the end that is read and of the end that is written.
///
/// # Errors
/// `EMFILE`.
pub fn pipe(nonblocking: bool, close_on_exec: bool) -> Result<[i32; 2]> {
    let flags = if nonblocking { O_NONBLOCK } else { 0 };
    let (reader, writer) = (Rc::<Signal>::default(), Rc::<Signal>::default());
    let queue = Queue::new(&reader, &writer);
    let source = Source { status: Status::new(O_RDONLY | flags), queue: Rc::clone(&queue), signal: reader };
    let sink = Sink { status: Status::new(O_WRONLY | flags), queue, signal: writer };
    let first = descriptors::open(Rc::new(source), close_on_exec)?;
    match descriptors::open(Rc::new(sink), close_on_exec) {
        Ok(second) => Ok([first, second]),
        Err(errno) => {
            descriptors::close(first)?;
            Err(errno)
        }
    }
}
