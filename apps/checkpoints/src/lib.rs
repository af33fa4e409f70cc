//! Five algorithms of checkpoint and recovery, built from the primitives of [`runtime::checkpoint`].
//!
//! Each algorithm is one file that can be read alone; the modules under `guest` make programs of them, one of which
//! `--args mode=NAME` chooses. All listen on port 7000 and take one command a line.
//!
//! | mode | algorithm | file |
//! |---|---|---|
//! | `periodic` | checkpoints at the interval that minimises expected loss | [`periodic`] |
//! | `chain` | incremental checkpoints with a bounded chain | [`chain`] |
//! | `transaction` | a transaction that undoes itself when its task panics | [`transaction`] |
//! | `cut` | coordinated checkpoints of two images (Chandy-Lamport) | [`cut`] |
//! | `log` | message logging with independent checkpoints | [`log`] and [`node`] |
#![no_std]

extern crate alloc;

pub mod chain;
pub mod cut;
mod guest;
pub mod log;
pub mod node;
pub mod periodic;
pub mod transaction;

pub use guest::main;
