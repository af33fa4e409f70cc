//! Running a program on a host: hypercalls reach a machine that the calling thread has installed.

use std::cell::RefCell;
use std::rc::Rc;

use hypercall::layout::BootInfo;
use hypercall::table::Hypercalls;

pub(crate) mod calls;

/// A shim for one thread.
pub trait Machine: Hypercalls {
    /// What the shim says at boot.
    fn boot(&self) -> &'static BootInfo;

    /// Lets the time between two epochs pass.
    fn end_epoch(&mut self, deadline_ns: u64);
}

std::thread_local! {
    static MACHINE: RefCell<Option<Rc<RefCell<dyn Machine>>>> = const { RefCell::new(None) };
}
