//! The shim of a replica: runs one guest in ring 3, in epochs, in lockstep with its twin.
//!
//! The state of a replica is exactly guest memory, guest registers and the shim's guest-visible state ([`guest`]).
//! What differs between machines is behind the traits of [`machine`]; [`vmm`] is the loop that ties a machine, a guest
//! and the replica state machine of the `protocol` crate together. Nothing in between panics on what a guest, the peer
//! or a device hands over.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

// Linked for its symbols.
use freestanding as _;

pub mod block;
pub mod guest;
#[cfg(feature = "image")]
pub mod heap;
// Imports what only its native half has, so only into an image.
#[cfg(all(target_arch = "wasm32", feature = "image"))]
pub mod hppa;
pub mod machine;
pub mod pace;
pub mod vmm;
// Linked to the addresses of its own script, so only into an image.
#[cfg(all(target_arch = "x86_64", feature = "image"))]
pub mod x86_64;

#[cfg(all(target_arch = "wasm32", feature = "image"))]
pub use hppa as platform;
#[cfg(all(target_arch = "x86_64", feature = "image"))]
pub use x86_64 as platform;
