//! The state of a replica as bytes.
//!
//! A replica's state is exactly guest memory, guest registers and the shim's guest-visible state. Here is the one place
//! that says how each of them is written down: for a newcomer that is brought to the state of a running replica, and for
//! a file.
//! Everything is little-endian, versioned and sized, and nothing that is read is trusted: it is refused as a whole, with
//! an error that names the difference, before anything of it is used.
//!
//! | module | what it holds |
//! |---|---|
//! | [`pages`] | pages of guest memory: with their content, or as runs of zero pages that are only named |
//! | `file` | a checkpoint as a file: a header, checksummed sections, totals (feature `file`) |
//! | `log` | the stored log of a pair as files: segments of checksummed records, and the history that they tell (feature `file`) |
//! | [`state`] | registers and the shim's guest-visible state at an epoch boundary |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "file")]
pub mod log;
pub mod pages;
pub mod state;
