//! The algorithms as programs of an image.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Display;

use runtime::env;

mod chain;
mod control;
mod cut;
mod disk;
mod link;
mod log;
mod periodic;
mod transaction;

/// Runs the algorithm that the argument `mode=NAME` chooses, for ever.
///
/// # Errors
/// In words: when there is no such mode, or its disk or its port cannot be had.
pub async fn main() -> Result<(), String> {
    match env::value("mode") {
        Some("periodic") => periodic::run().await,
        Some("chain") => chain::run().await,
        Some("transaction") => transaction::run().await,
        Some("cut") => cut::run().await,
        Some("log") => log::run().await,
        other => Err(format!(
            "mode={} is none: start it with --args mode=periodic, chain, transaction, cut or log",
            other.unwrap_or_default()
        )),
    }
}

/// An error in words.
fn text(error: impl Display) -> String {
    error.to_string()
}

/// The numeric value of an argument.
fn number(name: &str, otherwise: u64) -> u64 {
    env::value(name).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The numeric word at a place of a command, 0 when there is none.
fn word(words: &[&str], at: usize) -> u64 {
    words.get(at).and_then(|text| text.parse().ok()).unwrap_or(0)
}
