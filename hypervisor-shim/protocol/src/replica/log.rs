//! The log between the replicas: what the primary has outstanding, and what the backup has queued.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use super::Record;

/// The epochs that the backup has not run, as the primary keeps them: bounds only, never contents.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Window {
    /// Oldest first: (begin time, event bytes).
    epochs: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Window {
    pub(super) fn push(&mut self, begin_ns: u64, events_bytes: usize) {
        let events_bytes = events_bytes as u64;
        self.epochs.push_back((begin_ns, events_bytes));
        self.bytes += events_bytes;
    }

    /// The backup has run the `count` oldest.
    pub(super) fn pop(&mut self, count: u64) {
        for _ in 0..count {
            let Some((_, events_bytes)) = self.epochs.pop_front() else {
                break;
            };
            self.bytes -= events_bytes;
        }
    }

    pub(super) fn clear(&mut self) {
        self.epochs = VecDeque::new();
        self.bytes = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.epochs.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn oldest_begin_ns(&self) -> Option<u64> {
        self.epochs.front().map(|&(begin_ns, _)| begin_ns)
    }
}

/// The records that the backup holds and has not begun to run.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Queue {
    /// Oldest first, with the time of receipt.
    records: VecDeque<(u64, Record)>,
    bytes: u64,
}

impl Queue {
    pub(super) fn push(&mut self, received_ns: u64, record: Record) {
        self.bytes += record.events.len() as u64;
        self.records.push_back((received_ns, record));
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Record)> {
        let (received_ns, record) = self.records.pop_front()?;
        self.bytes -= record.events.len() as u64;
        Some((received_ns, record))
    }

    pub(super) fn front(&self) -> Option<&Record> {
        self.records.front().map(|(_, record)| record)
    }

    pub(super) fn oldest_received_ns(&self) -> Option<u64> {
        self.records.front().map(|&(received_ns, _)| received_ns)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Buffers kept for reuse, and the largest that is kept: memory that a burst needed is given back.
const POOL_BUFFERS: usize = 64;
const POOL_BUFFER_BYTES: usize = 256 * 1024;

/// Empty event buffers for reuse, so that the steady state allocates nothing. No part of what a replica is.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    buffers: Vec<Vec<u8>>,
}

impl Pool {
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < POOL_BUFFERS && (1..=POOL_BUFFER_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

impl PartialEq for Pool {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Pool {}

impl Hash for Pool {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
