//! A Redis-compatible store that outlives its machine
#![no_std]

extern crate alloc;

pub mod base;
pub mod commands;
pub mod resp;
mod server;
pub mod service;
mod session;
pub mod store;

pub use commands::Config;
pub use server::{ClientInfo, DATABASES, Server, Stats};
pub use session::{Session, TooManyClients};
