//! Streams within the machine: two queues of bytes.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use hermit_abi::{EAGAIN, ECONNRESET, EPIPE, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP};

use super::super::descriptors::{Errno, Result};
use super::super::signal::{Events, Signal};
use crate::executor;

/// Bytes that one queue holds, as a pipe of Linux does.
const CAPACITY_BYTES: usize = 64 * 1024;

/// Bytes from one end to the other.
pub(in crate::sys) struct Queue {
    bytes: RefCell<VecDeque<u8>>,
    /// Nothing more is written.
    finished: Cell<bool>,
    /// Nobody reads any more.
    closed: Cell<bool>,
    /// The reader is to be told that what it has sent was not read.
    reset: Cell<bool>,
    reader: Rc<Signal>,
    writer: Rc<Signal>,
}

impl Queue {
    /// An empty queue, and the signals of its ends.
    pub(in crate::sys) fn new(reader: &Rc<Signal>, writer: &Rc<Signal>) -> Rc<Self> {
        Rc::new(Self {
            bytes: RefCell::default(),
            finished: Cell::new(false),
            closed: Cell::new(false),
            reset: Cell::new(false),
            reader: Rc::clone(reader),
            writer: Rc::clone(writer),
        })
    }

    /// Takes what is there: how many bytes, 0 at the end.
    ///
    /// # Safety
    /// `most` bytes can be written at `place`.
    pub(in crate::sys) unsafe fn read(&self, place: *mut u8, most: usize, peek: bool) -> Result<usize> {
        let mut bytes = self.bytes.borrow_mut();
        if bytes.is_empty() {
            return match (self.reset.take(), self.finished.get()) {
                (true, _) => Err(ECONNRESET),
                (false, true) => Ok(0),
                (false, false) => Err(EAGAIN),
            };
        }
        let (first, second) = bytes.as_slices();
        let first = &first[..first.len().min(most)];
        let second = &second[..second.len().min(most - first.len())];
        let read = first.len() + second.len();
        // SAFETY: the caller's: both together are no longer than the place, and nobody else's.
        unsafe {
            place.copy_from_nonoverlapping(first.as_ptr(), first.len());
            place.add(first.len()).copy_from_nonoverlapping(second.as_ptr(), second.len());
        }
        if !peek {
            bytes.drain(..read);
            drop(bytes);
            executor::charge(read as u32);
            self.writer.notify(POLLOUT);
        }
        Ok(read)
    }

    /// Puts in what there is room for: how many bytes.
    pub(in crate::sys) fn write(&self, data: &[u8]) -> Result<usize> {
        if self.reset.get() {
            return Err(ECONNRESET);
        }
        if self.closed.get() || self.finished.get() {
            return Err(EPIPE);
        }
        if data.is_empty() {
            return Ok(0);
        }
        let written = data.len().min(CAPACITY_BYTES - self.bytes.borrow().len());
        if written == 0 {
            return Err(EAGAIN);
        }
        self.bytes.borrow_mut().extend(&data[..written]);
        executor::charge(written as u32);
        self.reader.notify(POLLIN);
        Ok(written)
    }

    /// Nothing more is written.
    pub(in crate::sys) fn finish(&self) {
        if !self.finished.replace(true) {
            self.reader.notify(POLLIN | POLLRDHUP | POLLHUP);
        }
    }

    /// Nobody reads any more. Returns whether something was left.
    pub(in crate::sys) fn close(&self) -> bool {
        let left = !self.bytes.take().is_empty();
        if !self.closed.replace(true) {
            self.writer.notify(POLLOUT | POLLERR);
        }
        left
    }

    pub(in crate::sys) fn has_bytes(&self) -> bool {
        !self.bytes.borrow().is_empty()
    }

    pub(in crate::sys) fn is_readable(&self) -> bool {
        !self.bytes.borrow().is_empty() || self.finished.get() || self.reset.get()
    }

    pub(in crate::sys) fn is_finished(&self) -> bool {
        self.finished.get()
    }

    pub(in crate::sys) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(in crate::sys) fn is_writable(&self) -> bool {
        self.closed.get() || self.finished.get() || self.bytes.borrow().len() < CAPACITY_BYTES
    }
}

/// One end of a stream.
pub(super) struct End {
    incoming: Rc<Queue>,
    outgoing: Rc<Queue>,
}

/// Two ends that are each other's, of objects with these signals.
pub(super) fn join(one: &Rc<Signal>, two: &Rc<Signal>) -> [End; 2] {
    let (there, back) = (Queue::new(two, one), Queue::new(one, two));
    [End { incoming: Rc::clone(&back), outgoing: Rc::clone(&there) }, End { incoming: there, outgoing: back }]
}

impl End {
    /// # Safety
    /// `bytes` bytes can be written at `place`.
    pub(super) unsafe fn read(&self, place: *mut u8, bytes: usize, peek: bool) -> Result<usize> {
        // SAFETY: the caller's.
        unsafe { self.incoming.read(place, bytes, peek) }
    }

    pub(super) fn write(&self, data: &[u8]) -> Result<usize> {
        if self.incoming.reset.get() {
            self.incoming.reset.set(false);
            return Err(ECONNRESET);
        }
        self.outgoing.write(data)
    }

    pub(super) fn finish(&self) {
        self.outgoing.finish();
    }

    /// The other end finds a connection that was reset.
    pub(super) fn reset(&self) {
        self.outgoing.bytes.take();
        self.outgoing.reset.set(true);
        self.outgoing.reader.notify(POLLIN | POLLERR | POLLHUP);
    }

    pub(super) fn take_error(&self) -> Errno {
        if self.incoming.reset.take() { ECONNRESET } else { 0 }
    }

    pub(super) fn readiness(&self) -> Events {
        let mut events = 0;
        if self.incoming.is_readable() {
            events |= POLLIN;
        }
        if self.outgoing.is_writable() {
            events |= POLLOUT;
        }
        if self.incoming.is_finished() {
            events |= POLLRDHUP;
            if self.outgoing.is_finished() || self.outgoing.is_closed() {
                events |= POLLHUP;
            }
        }
        if self.incoming.reset.get() {
            events |= POLLERR | POLLHUP;
        }
        events
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.incoming.close() {
            // What was not read is lost: the other end is told so (RFC 2525, 2.17).
            self.reset();
        }
        self.outgoing.finish();
    }
}
