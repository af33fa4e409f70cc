//! The replica state machine of Pollux: epochs, output commit, divergence, promotion; pure and sans-IO.
//!
//! Everything here is a value or a function of values: no I/O, no clock, no threads, no `unsafe`. Time is an argument
//! (nanoseconds of the caller's own monotonic clock), inputs are values, and what has to be done about them comes
//! back as commands. The same code therefore runs in the shim, in the simulator and in the model checker.
//!
//! | module | what it holds |
//! |---|---|
//! | [`replica`] | the state machine of one replica: rules P1 to P7, output commit, bounded lag, failover |
//! | [`arbiter`] | the one record of a pair that decides who is active, changed by compare-and-set |
//! | [`link`] | the messages of the replication link |
//! | [`control`] | the messages between a shim and its supervisor |
//! | [`hubwire`] | batches of guest frames between a shim and the hub |
//! | [`frame`] | framing of byte streams: length, order, session, checksum |
//! | [`event`] | the records inside an epoch record |
//! | [`digest`] | the 64-bit digest of a guest's visible acts, and the checksum of frames |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arbiter;
pub mod control;
pub mod digest;
pub mod event;
pub mod frame;
pub mod hubwire;
pub mod link;
pub mod replica;
pub mod resync;
mod types;

pub use types::{Clocks, Discipline, DiskConduct, Epoch, EpochSource, Generation, Mode, ReplicaId, Role, RunMode};
