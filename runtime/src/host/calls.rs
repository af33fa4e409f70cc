//! The calls of [`crate::platform`] on a host.

use std::boxed::Box;

use hypercall::layout::BootInfo;
use hypercall::table::{MAX_ARGUMENTS, Number, Outcome, dispatch};

use super::{BOOT, SHIM};

/// Unwinds the thread when the guest has stopped: what never returns in an image must not return here either.
pub(crate) enum Stopped {
    Exit(i32),
    World,
    Stuck,
}

fn stop(why: Stopped) -> ! {
    std::panic::resume_unwind(Box::new(why))
}

/// Executes one hypercall on the thread's machine; without a machine there is nobody to ask.
fn call(number: Number, first: u64, second: u64) -> i64 {
    let mut arguments = [0; MAX_ARGUMENTS];
    arguments[..2].copy_from_slice(&[first, second]);
    let result = SHIM.with(|shim| {
        let mut shim = shim.borrow_mut();
        let Some(shim) = shim.as_mut() else { return Ok(-hypercall::errno::ENOSYS) };
        match dispatch(shim, number as u64, arguments) {
            Outcome::Return(result) => Ok(result),
            Outcome::SetThreadPointer { .. } | Outcome::SetGuard { .. } => Ok(-hypercall::errno::ENOSYS),
            Outcome::EndEpoch { deadline_ns } => shim.end_epoch(deadline_ns).map(|()| 0),
            Outcome::CutEpoch => shim.end_epoch(0).map(|()| 0),
            Outcome::Stop => Err(Stopped::Exit(first as i32)),
            Outcome::SystemCall(_) => Ok(-hypercall::errno::ENOSYS),
        }
    });
    // Outside the borrow: unwinding drops tasks, which may print.
    result.unwrap_or_else(|why| stop(why))
}

pub(crate) fn boot() -> Option<&'static BootInfo> {
    BOOT.get()
}

pub(crate) fn wait(deadline_ns: u64) {
    call(Number::Wait, deadline_ns, 0);
}

pub(crate) fn exit(code: i32) -> ! {
    call(Number::Exit, u64::from(code as u32), 0);
    stop(Stopped::Exit(code))
}

pub(crate) fn console_write(text: &[u8]) -> i64 {
    call(Number::ConsoleWrite, text.as_ptr() as u64, text.len() as u64)
}

pub(crate) fn preempt(block: u64, handler: u64) -> i64 {
    call(Number::Preempt, block, handler)
}

pub(crate) fn thread_pointer(address: u64) -> i64 {
    call(Number::ThreadPointer, address, 0)
}

pub(crate) fn guard(address: u64, _text: &[u8]) -> i64 {
    call(Number::Guard, address, 0)
}

pub(crate) fn unguard(address: u64) -> i64 {
    call(Number::Unguard, address, 0)
}

pub(crate) fn entropy(place: &mut [u8]) -> i64 {
    call(Number::Entropy, place.as_mut_ptr() as u64, place.len() as u64)
}
