//! The calls of [`crate::platform`] on a host.

use std::boxed::Box;

use hypercall::layout::BootInfo;
use hypercall::table::{MAX_ARGUMENTS, Number, Outcome, dispatch};

use super::MACHINE;

/// Unwinds the thread when the guest has stopped: what never returns in an image must not return here either.
pub(crate) struct Stopped;

/// Executes one hypercall on the thread's machine; without a machine there is nobody to ask.
fn call(number: Number, first: u64, second: u64) -> i64 {
    let machine = MACHINE.with(|machine| machine.borrow().clone());
    let Some(machine) = machine else { return -hypercall::errno::ENOSYS };
    let mut machine = machine.borrow_mut();
    let mut arguments = [0; MAX_ARGUMENTS];
    arguments[..2].copy_from_slice(&[first, second]);
    match dispatch(&mut *machine, number as u64, arguments) {
        Outcome::Return(result) => result,
        Outcome::EndEpoch { deadline_ns } => {
            machine.end_epoch(deadline_ns);
            0
        }
        Outcome::Stop => {
            drop(machine);
            std::panic::resume_unwind(Box::new(Stopped))
        }
    }
}

pub(crate) fn boot() -> Option<&'static BootInfo> {
    MACHINE.with(|machine| machine.borrow().as_ref().map(|machine| machine.borrow().boot()))
}

pub(crate) fn wait(deadline_ns: u64) {
    call(Number::Wait, deadline_ns, 0);
}

pub(crate) fn exit(code: i32) -> ! {
    call(Number::Exit, u64::from(code as u32), 0);
    std::panic::resume_unwind(Box::new(Stopped))
}

pub(crate) fn console_write(text: &[u8]) -> i64 {
    call(Number::ConsoleWrite, text.as_ptr() as u64, text.len() as u64)
}

pub(crate) fn entropy(place: &mut [u8]) -> i64 {
    call(Number::Entropy, place.as_mut_ptr() as u64, place.len() as u64)
}
