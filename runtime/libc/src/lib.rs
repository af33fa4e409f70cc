//! The C library of ordinary Rust programs in an image.
//!
//! `std` for `x86_64-unknown-linux-gnu`, as every toolchain brings it, asks a C library for some 180 functions. This crate
//! is that library: their C names and the types of Linux on x86-64, over the runtime's `sys_` functions and threads. A
//! program needs nothing of it in its source or its manifest; `cargo pollux build --manifest-path` links it in.
//!
//! Each function works, or returns the error number that a program expects of a system that lacks the thing, or, where a
//! program would not look at an error ([`refused`]), ends it with the function's name. `symbols.txt` says which, and a test
//! compares it with what the toolchain's `std` refers to and with what is defined here.
#![no_std]
// Names are the C library's.
#![allow(non_snake_case)]

extern crate alloc;

/// Defines functions of the C library: with their C names in an image; on a host, beside the host's own, without.
///
/// A thread that calls one is not interrupted before it returns ([`runtime::thread::Masked`]): so nothing that it touches of
/// this library's or the runtime's is ever seen half changed.
macro_rules! c_functions {
    ($( $(#[$attribute:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block )*) => { $(
        $(#[$attribute])*
        ///
        /// # Safety
        /// As C wants it: pointers are null where that is allowed, or point to what the type says.
        #[cfg_attr(feature = "image", unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($($argument: $kind),*) $(-> $result)? {
            let _masked = runtime::thread::Masked::new();
            $body
        }
    )* };
}

pub mod environment;
pub mod errno;
pub mod events;
pub mod files;
pub mod folders;
pub mod io;
pub mod math;
pub mod memory;
pub mod names;
#[cfg(feature = "image")]
pub mod panics;
pub mod process;
pub mod refused;
pub mod resolve;
pub mod signals;
pub mod sockets;
#[cfg(feature = "image")]
pub mod start;
pub mod system;
pub mod text;
pub mod threads;
pub mod time;
pub mod tls;
pub mod unwind;
