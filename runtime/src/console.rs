//! The console: text out, line by line, and typed bytes in.
//!
//! Output leaves the machine when its epoch is committed. An epoch takes a bounded number of bytes
//! ([`hypercall::layout::CONSOLE_EPOCH_BYTES`]); who prints more ends the epoch and goes on in the next, so nothing
//! is lost and nothing is buffered without bound.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use hermit_abi::POLLIN;

use crate::compute::gate::masked;
#[cfg(not(feature = "image"))]
use crate::local::WithMasked;
use crate::platform;
use crate::sys::signal::Signal;

/// Longest line that is passed on in one piece.
const LINE_BYTES: usize = 1024;

struct Line {
    bytes: [u8; LINE_BYTES],
    used: usize,
}

local! {
    static LINE: RefCell<Line> = RefCell::new(Line { bytes: [0; LINE_BYTES], used: 0 });
}

/// Hands bytes to the shim, in as many epochs as it takes. Bytes that the shim refuses altogether are dropped: there
/// is nobody left to tell.
fn write_out(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let taken = platform::console_write(bytes);
        match usize::try_from(taken) {
            Ok(taken) if taken > 0 => bytes = bytes.get(taken..).unwrap_or_default(),
            Ok(_) => platform::wait(0),
            Err(_) if taken == -hypercall::errno::EAGAIN => platform::wait(0),
            Err(_) => return,
        }
    }
}

impl Line {
    fn flush(&mut self) {
        write_out(&self.bytes[..self.used]);
        self.used = 0;
    }

    fn push(&mut self, mut text: &[u8]) {
        let complete = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let lines = complete > 0;
        while !text.is_empty() {
            let taken = text.len().min(LINE_BYTES - self.used);
            self.bytes[self.used..self.used + taken].copy_from_slice(&text[..taken]);
            self.used += taken;
            text = &text[taken..];
            if self.used == LINE_BYTES {
                self.flush();
            }
        }
        if lines {
            self.flush();
        }
    }
}

/// Writes raw bytes; everything up to the last newline is passed on, the rest waits for its line's end.
pub fn write(bytes: &[u8]) {
    LINE.with_masked(|line| match line.try_borrow_mut() {
        Ok(mut line) => line.push(bytes),
        // Only a formatter that prints while it is being printed gets here.
        Err(_) => write_out(bytes),
    });
}

/// Passes on an unfinished line.
pub fn flush() {
    LINE.with_masked(|line| {
        if let Ok(mut line) = line.try_borrow_mut() {
            line.flush();
        }
    });
}

/// Passes on an unfinished line as far as this epoch still takes it: a panic must not wait.
#[cfg(feature = "image")]
pub(crate) fn flush_for_panic() {
    LINE.with(|line| {
        if let Ok(line) = line.try_borrow_mut() {
            platform::console_write(&line.bytes[..line.used]);
        }
    });
}

/// Most typed bytes that wait for a reader; what comes beyond is lost, as with any terminal that nobody reads.
const INPUT_BYTES: usize = 4096;

local! {
    static INPUT: RefCell<VecDeque<u8>> = RefCell::new(VecDeque::new());
    /// Who waits for input; none until somebody has.
    static SIGNAL: RefCell<Option<Rc<Signal>>> = RefCell::new(None);
}

/// Who is to be told of typed bytes.
pub(crate) fn input_signal() -> Rc<Signal> {
    SIGNAL.with(|signal| Rc::clone(signal.borrow_mut().get_or_insert_default()))
}

/// Takes typed bytes in.
pub(crate) fn push_input(bytes: &[u8]) {
    INPUT.with(|input| {
        let mut input = input.borrow_mut();
        let room = INPUT_BYTES - input.len();
        input.extend(&bytes[..bytes.len().min(room)]);
    });
    let signal = SIGNAL.with(|signal| signal.borrow().clone());
    if let Some(signal) = signal {
        signal.notify(POLLIN);
    }
}

/// Takes typed bytes that are there already: how many.
pub fn try_read(buffer: &mut [u8]) -> usize {
    INPUT.with(|input| {
        let bytes = &mut *input.borrow_mut();
        let taken = bytes.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(bytes.drain(..taken)) {
            *place = byte;
        }
        taken
    })
}

/// Whether typed bytes are there.
pub fn has_input() -> bool {
    INPUT.with(|input| !input.borrow().is_empty())
}

/// Waits for typed bytes: how many, at least one unless `buffer` is empty.
pub async fn read(buffer: &mut [u8]) -> usize {
    poll_fn(|context| {
        let taken = try_read(buffer);
        if taken > 0 || buffer.is_empty() {
            return Poll::Ready(taken);
        }
        input_signal().register(context.waker(), POLLIN);
        Poll::Pending
    })
    .await
}

/// Forgets an unfinished line and typed bytes: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn reset() {
    LINE.with(|line| line.borrow_mut().used = 0);
    INPUT.with(|input| *input.borrow_mut() = VecDeque::new());
    SIGNAL.with(|signal| signal.replace(None));
}

/// The console as a formatter's target.
#[derive(Debug, Clone, Copy, Default)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

/// What the printing macros expand to.
#[doc(hidden)]
pub fn print(arguments: fmt::Arguments<'_>) {
    // The console itself never fails; a formatter that does has already printed what it could. Masked as a whole, so that
    // a line stays a line.
    let _ = masked(|| fmt::Write::write_fmt(&mut Console, arguments));
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::print(::core::format_args!($($argument)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($argument)*)))
    };
}
