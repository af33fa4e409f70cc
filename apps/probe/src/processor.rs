//! What only one kind of processor has, or has in its own way: the rest of the probe is the same on all of them.

#[cfg(target_arch = "wasm32")]
mod wasm32;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "wasm32")]
pub use wasm32::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
