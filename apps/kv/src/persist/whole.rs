//! All databases as one record, for user-level checkpoints.

use super::effect::{Effect, decode};
use super::replay::Replayer;
use super::snapshot;
use crate::server::{DATABASES, Server};
use alloc::vec::Vec;

/// Appends effects that make any server hold what this one does.
pub(crate) fn dump(server: &Server, out: &mut Vec<u8>) {
    // Each element once, with few words about it: the estimate of the store's own memory is above that.
    out.reserve_exact(server.data_bytes());
    let mut effect = Effect::default();
    effect.begin("flushall").encode(0, |bytes| out.extend_from_slice(bytes));
    for db in 0..DATABASES {
        for record in server.records(db) {
            let (key, value, expire_at_ms) = (record.key(), record.value(), record.expire_at_ms());
            snapshot::dump(key, value, expire_at_ms, &mut effect, |effect, _| {
                effect.encode(db, |bytes| out.extend_from_slice(bytes));
            });
        }
    }
}

/// Whether these bytes are effects, and nothing else.
pub(crate) fn check(record: &[u8]) -> bool {
    let (mut at, mut spans) = (0, Vec::new());
    while at < record.len() {
        match decode(record, at, &mut spans) {
            Some((db, next)) if db < DATABASES => at = next,
            _ => return false,
        }
    }
    true
}

/// Applies what [`dump`] has made. Returns whether all of it was.
pub(crate) fn load(server: &mut Server, record: &[u8]) -> bool {
    Replayer::new(server).apply(record)
}
