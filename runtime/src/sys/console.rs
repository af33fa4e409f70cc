//! The console as open objects: descriptors 0 to 2.

use alloc::rc::Rc;

use hermit_abi::{EAGAIN, EBADF, O_RDWR, POLLIN, POLLOUT, S_IFCHR, stat};

use super::descriptors::{Open, Result, Status, stat_of};
use super::signal::{Events, Signal};
use super::wait;
use crate::console;

/// Typed bytes.
pub(crate) struct Input {
    status: Status,
    signal: Rc<Signal>,
}

impl Default for Input {
    fn default() -> Self {
        Self { status: Status::new(O_RDWR), signal: console::input_signal() }
    }
}

impl Open for Input {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        wait::until(self, POLLIN, None, || match console::try_read(buffer) {
            0 => Err(EAGAIN),
            taken => Ok(taken),
        })
    }

    fn write(&self, _data: &[u8]) -> Result<usize> {
        Err(EBADF)
    }

    fn stat(&self) -> Result<stat> {
        Ok(stat_of(S_IFCHR))
    }

    fn readiness(&self) -> Events {
        if console::has_input() { POLLIN } else { 0 }
    }

    fn signal(&self) -> Option<&Signal> {
        Some(&self.signal)
    }
}

/// Printed bytes.
pub(crate) struct Output {
    status: Status,
    /// What is written leaves at once, whether or not a line is complete.
    unbuffered: bool,
}

impl Output {
    pub(crate) fn standard() -> Self {
        Self { status: Status::new(O_RDWR), unbuffered: false }
    }

    pub(crate) fn error() -> Self {
        Self { status: Status::new(O_RDWR), unbuffered: true }
    }
}

impl Open for Output {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, _buffer: &mut [u8]) -> Result<usize> {
        Err(EBADF)
    }

    fn write(&self, data: &[u8]) -> Result<usize> {
        console::write(data);
        if self.unbuffered {
            console::flush();
        }
        Ok(data.len())
    }

    fn stat(&self) -> Result<stat> {
        Ok(stat_of(S_IFCHR))
    }

    fn readiness(&self) -> Events {
        POLLOUT
    }
}
