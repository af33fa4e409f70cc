//! A Redis-compatible store that outlives its machine.
//!
//! The core is pure: time, seeds and bytes come in, replies go out. Nothing in it reads a clock, draws an unseeded random
//! number or depends on an address, so two replicas that are fed alike answer alike, to the byte.
//!
//! * [`resp`]: RESP2 in and out, without copying.
//! * [`store`]: databases, the types of values, expiry, the account of memory.
//! * [`commands`]: the table of commands and their handlers.
//! * [`Server`] is what all connections share, [`Session`] is one connection.
//! * [`persist`] keeps it all on a block device.
//! * [`service`] serves it all over the network of an image.
//!
//! # What differs from redis 7.0
//!
//! Replies are those of redis 7.0, byte for byte, as far as `tests/differential.rs` can tell. On purpose:
//!
//! * Not there: blocking commands (BLPOP and its kin), publish and subscribe, streams, scripts, functions, geo,
//!   HyperLogLog, SORT, BITOP, BITFIELD, DUMP, RDB files, replication, ACLs, RESP3. They get redis's error for unknown
//!   commands.
//! * At most 1,048,576 arguments a command, and limits on argument, reply and buffer sizes that follow from the memory
//!   there is ([`Config`]). A reply beyond its limit becomes an error; if the command was a write, the connection ends,
//!   because its outcome cannot be told.
//! * INCRBYFLOAT adds decimals exactly, where redis adds 80-bit floating-point numbers.
//! * Sorted sets know one zero; OBJECT reports no idle times, frequencies or shared values.
//! * DEBUG knows OBJECT and, with the argument `debug=yes`, `COMPUTE rounds`: a computation beside which others are served
//!   (with exact epochs, see [`runtime::compute`]).
//! * FLUSHALL, DEL and UNLINK free memory at once, in time linear in what is freed.
#![no_std]

extern crate alloc;

pub mod base;
pub mod commands;
pub mod persist;
pub mod resp;
mod server;
pub mod service;
mod session;
pub mod store;

pub use commands::{Config, Work};
pub use server::{ClientInfo, DATABASES, Server, Stats};
pub use session::{Session, TooManyClients};
