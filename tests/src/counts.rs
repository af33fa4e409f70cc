//! Counters in a store that clients increment until their machines die.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::client::{Client, Reply};

/// What one connection has asked for and was told.
#[derive(Debug, Default)]
pub struct Count {
    /// Increments that were asked for.
    pub asked: AtomicU64,
    /// The newest result that was told.
    pub told: AtomicU64,
}

/// Counts until the connection breaks.
pub fn count_on(address: SocketAddr, key: &str, count: &Count, all: &AtomicU64) {
    let Ok(mut client) = Client::connect(address) else { return };
    loop {
        count.asked.fetch_add(1, Ordering::SeqCst);
        match client.ask(&[b"INCR", key.as_bytes()]) {
            Ok(Reply::Integer(told)) => count.told.store(told as u64, Ordering::SeqCst),
            _ => return,
        }
        all.fetch_add(1, Ordering::SeqCst);
    }
}
