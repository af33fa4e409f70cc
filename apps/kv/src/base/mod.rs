//! Small building blocks that know nothing of keys or commands.

mod bytes;
mod chunked;
mod glob;
mod number;
mod rng;
mod table;

pub use bytes::{SmallBytes, alloc_bytes, copy, same, same_ignoring_case};
pub use chunked::Chunked;
pub use glob::glob_match;
pub use number::{
    DecimalBuf, Digits, decimal_add, format_f64, format_shortest, parse_f64, parse_i64, parse_score_bound, write_i64,
    write_u64,
};
pub use rng::Rng;
pub use table::{Entry, Seed, Table};
