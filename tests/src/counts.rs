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

/// What the store holds under `count:0`, `count:1` and so on lies between what was told and what was asked for. From here on it
/// is what was told.
///
/// # Panics
/// When something was lost or invented.
pub fn check(address: SocketAddr, counts: &[Count], life: u64) {
    let mut reader = Client::connect(address).expect("a published port takes connections");
    for (index, count) in counts.iter().enumerate() {
        let found = match reader.must(&format!("GET count:{index}")) {
            Reply::Bulk(Some(text)) => String::from_utf8(text).expect("digits").parse().expect("a number"),
            _ => 0,
        };
        let bounds = count.told.load(Ordering::SeqCst)..=count.asked.load(Ordering::SeqCst);
        assert!(bounds.contains(&found), "life {life}, count:{index}: {found} is not in {bounds:?}");
        count.asked.store(found, Ordering::SeqCst);
        count.told.store(found, Ordering::SeqCst);
    }
}
