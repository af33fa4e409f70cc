//! What a Pollux program links: executor, heap, TCP/IP, time, entropy.
//!
//! A program is one `async fn` handed to `main!`. It runs in a virtual machine with one CPU and no interrupts, on a
//! cooperative executor; what it waits for (frames, timers) arrives between *epochs*. Everything that a program can
//! see is the same in both replicas: the clock stands still during an epoch, random numbers come from the shim,
//! tasks run in the order in which they were woken.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! runtime::main!(main);
//!
//! async fn main() {
//!     runtime::println!("hello, {} ms after the start", runtime::time::Instant::now().as_millis());
//! }
//! ```
//!
//! Two builds exist. With the feature `image` this is the inside of an image: entry point, global allocator, panic
//! handler, and hypercalls by instruction. Without it, it is a host library whose hypercalls reach the fake shim of
//! the module `host`, so that programs can be tested, traced and profiled like any other.
#![no_std]

extern crate alloc;
#[cfg(not(feature = "image"))]
extern crate std;

extern crate freestanding as _;

#[macro_use]
mod local;

pub mod block;
pub mod checkpoint;
pub mod compute;
pub mod console;
#[cfg(feature = "image")]
pub mod entry;
pub mod env;
pub mod executor;
pub mod exit;
pub mod fs;
pub mod future;
pub mod heap;
#[cfg(not(feature = "image"))]
pub mod host;
pub mod net;
#[cfg(feature = "image")]
mod panic;
mod platform;
pub mod random;
pub mod sync;
pub mod sys;
pub mod thread;
pub mod time;

pub use executor::{JoinHandle, spawn, yield_now};
