//! The commands: one table, one module a data type, and what runs a command for a connection.

mod bits;
mod client;
mod compute;
mod config;
mod connection;
mod context;
mod error;
mod expire;
mod float;
mod hashes;
mod info;
mod introspect;
mod keys;
mod lists;
mod lists_move;
mod persistence;
mod random;
mod run;
mod scan;
mod set_algebra;
mod sets;
mod strings;
mod strings_multi;
mod subcommands;
mod table;
mod transactions;
mod zset_algebra;
mod zset_range;
mod zsets;

pub use compute::Work;
pub use config::Config;
pub(crate) use context::{Ctx, Peer};
pub use error::Error;
pub(crate) use run::{call, execute};
pub use table::{COMMANDS, Command, lookup};
pub(crate) use transactions::end_watches;
