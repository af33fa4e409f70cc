//! The report of a panic: message, place, backtrace.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

#[cfg(target_arch = "x86_64")]
use hypercall::layout::CODE_NAME;
use hypercall::layout::MAX_REPORT_BYTES;

use crate::{compute, platform};

/// Most frames of a backtrace.
#[cfg(target_arch = "x86_64")]
const MAX_FRAMES: usize = 64;

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
}

/// Text of bounded length; what does not fit is cut.
struct Report {
    bytes: [u8; MAX_REPORT_BYTES],
    used: usize,
}

impl Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.floor_char_boundary(MAX_REPORT_BYTES - self.used);
        self.bytes[self.used..self.used + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.used += taken;
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // Within something of the runtime a computation is masked, and its tables may be in disorder.
    let was_armed = compute::gate::is_armed();
    compute::gate::disarm();
    if was_armed && compute::is_contained() {
        crate::println!("a contained computation has ended: {info}");
        #[cfg(target_arch = "x86_64")]
        print_backtrace();
        compute::contain(format_args!("{}", info.message()));
    }
    Report::of(format_args!("{info}")).end()
}

/// Prints the calls that have led to the caller as `std` prints them, with addresses where names belong.
#[cfg(target_arch = "x86_64")]
fn print_backtrace() {
    let [start, end] = CODE_NAME;
    crate::println!("stack backtrace:");
    let mut index = 0;
    follow(|address| {
        // It points behind the call, which may be the last instruction of its function.
        crate::println!("{index:4}: {start}{:x}{end}", address - 1);
        index += 1;
    });
}

impl Report {
    /// The message, and the calls that have led to the caller.
    #[inline(never)]
    fn of(message: fmt::Arguments<'_>) -> Self {
        let mut report = Self { bytes: [0; MAX_REPORT_BYTES], used: 0 };
        // Writing cannot fail: the report cuts what does not fit.
        let _ = writeln!(report, "{message}");
        #[cfg(target_arch = "x86_64")]
        {
            let _ = writeln!(report, "backtrace:");
            follow(|address| {
                let _ = writeln!(report, "  {address:#x}");
            });
        }
        report
    }

    /// Stops the guest.
    fn end(&self) -> ! {
        crate::console::flush_for_panic();
        platform::panic_report(&self.bytes[..self.used])
    }
}

/// Stops the guest with a report: the message, and the calls that have led here.
pub(crate) fn abort(message: fmt::Arguments<'_>) -> ! {
    compute::gate::disarm();
    Report::of(message).end()
}

/// Stops the guest with a report: the message, and calls that were noted earlier.
pub(crate) fn abort_at(message: fmt::Arguments<'_>, calls: &[usize]) -> ! {
    compute::gate::disarm();
    let mut report = Report { bytes: [0; MAX_REPORT_BYTES], used: 0 };
    // Writing cannot fail: the report cuts what does not fit.
    let _ = writeln!(report, "{message}\nbacktrace:");
    for address in calls {
        let _ = writeln!(report, "  {address:#x}");
    }
    report.end()
}

/// Calls `each` with the return addresses on the stack, innermost first, by following frame pointers; each pointer is checked
/// to lie in the stack, above the one before, and each address to lie in code.
#[cfg(target_arch = "x86_64")]
fn follow(mut each: impl FnMut(u64)) {
    // Frames are followed in assembly's sense; other machines keep no chain of them.
    let Some(boot) = platform::boot() else { return };
    let stack = compute::current_stack()
        .or_else(crate::thread::current_stack)
        .unwrap_or(boot.stack_base..boot.stack_base + boot.stack_bytes);
    let text = &raw const __text_start as u64..&raw const __text_end as u64;
    let mut frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    for _ in 0..MAX_FRAMES {
        if !stack.contains(&frame) || frame + 16 > stack.end || !frame.is_multiple_of(8) {
            return;
        }
        // SAFETY: both words lie in the stack, which is mapped.
        let (caller_frame, address) = unsafe { (*(frame as *const u64), *((frame + 8) as *const u64)) };
        if !text.contains(&address) {
            return;
        }
        each(address);
        if caller_frame <= frame {
            return;
        }
        frame = caller_frame;
    }
}
