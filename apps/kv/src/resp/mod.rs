//! RESP2, the wire format of redis: commands in ([`Parser`]), replies out ([`Output`]).
//!
//! Source: the RESP protocol specification, <https://redis.io/docs/latest/develop/reference/protocol-spec/>, and the
//! behaviour of redis 7.0 where that is silent.

mod args;
mod inline;
mod output;
mod parser;

pub use args::{Args, Span};
pub use output::Output;
pub use parser::{Limits, Need, Parser, ProtocolError, Step};
