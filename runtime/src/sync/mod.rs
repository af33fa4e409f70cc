//! Channels and locks between tasks.
//!
//! All of them are for the guest's one thread: nothing here is atomic, and none may cross threads on a host. Waiting
//! tasks are served in the order in which they came.

pub mod mpsc;
pub mod mutex;
pub mod notify;
pub mod oneshot;
pub mod semaphore;
pub mod watch;

mod waitlist;

pub use mutex::{Mutex, MutexGuard};
pub use notify::Notify;
pub use semaphore::{Permit, Semaphore};

use waitlist::{Ticket, WaitList};

#[cfg(test)]
mod tests;
