//! Stores on a device that crashes, lies and fails.

mod canaries;
mod crashes;
mod faults;
mod format;
mod harness;
