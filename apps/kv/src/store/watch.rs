//! WATCH: who wants to know that a key of one database changed.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Watched keys of one database and the clients that have seen one change.
#[derive(Default)]
pub struct Watches {
    watchers: BTreeMap<Box<[u8]>, Vec<u64>>,
    touched: BTreeSet<u64>,
}

impl Watches {
    /// Whether nothing is watched.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Lets `client` watch `key`; false if it does already.
    pub fn add(&mut self, key: &[u8], client: u64) -> bool {
        let watchers = match self.watchers.get_mut(key) {
            Some(watchers) => watchers,
            None => self.watchers.entry(key.into()).or_default(),
        };
        let new = !watchers.contains(&client);
        if new {
            watchers.push(client);
        }
        new
    }

    /// Ends one watch and forgets what it saw.
    pub fn remove(&mut self, key: &[u8], client: u64) {
        if let Some(watchers) = self.watchers.get_mut(key) {
            watchers.retain(|&watcher| watcher != client);
            if watchers.is_empty() {
                self.watchers.remove(key);
            }
        }
        self.touched.remove(&client);
    }

    /// Notes that `key` changed.
    #[inline]
    pub fn touch(&mut self, key: &[u8]) {
        if !self.is_empty()
            && let Some(watchers) = self.watchers.get(key)
        {
            self.touched.extend(watchers);
        }
    }

    /// Notes that every watched key changed for which `changed` says so.
    pub fn touch_where(&mut self, mut changed: impl FnMut(&[u8]) -> bool) {
        for (key, watchers) in &self.watchers {
            if changed(key) {
                self.touched.extend(watchers);
            }
        }
    }

    /// Whether a key that `client` watches has changed.
    pub fn is_touched(&self, client: u64) -> bool {
        self.touched.contains(&client)
    }
}
