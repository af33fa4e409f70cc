//! Applies records to a server.

use super::effect::decode;
use crate::commands::{Ctx, Peer, call, lookup};
use crate::resp::{Args, Output, Span};
use crate::server::{DATABASES, Server};
use alloc::vec::Vec;

/// Nothing expires before it: what has expired says so by a DEL of its own, or is found when the store serves.
const BEFORE_ALL_MS: i64 = i64::MIN;

/// Applies one record after the other.
pub(super) struct Replayer<'a> {
    server: &'a mut Server,
    /// The server's own limits. While it replays, what was accepted once is accepted again, whatever they are now.
    max_memory_bytes: usize,
    bulk_bytes: usize,
    peer: Peer,
    out: Output,
    spans: Vec<Span>,
}

impl<'a> Replayer<'a> {
    pub fn new(server: &'a mut Server) -> Self {
        let out = Output::new(server.config.output_hard_bytes);
        let max_memory_bytes = core::mem::replace(&mut server.config.max_memory_bytes, 0);
        let bulk_bytes = core::mem::replace(&mut server.config.bulk_bytes, u32::MAX as usize);
        Self { server, max_memory_bytes, bulk_bytes, peer: Peer::nobody(), out, spans: Vec::new() }
    }

    /// Applies a record; false if it is not one of this program's. A command that fails is none's fault: an effect may
    /// meet a key of which a new log held only a part by then, and a later record makes good for it.
    pub fn apply(&mut self, record: &[u8]) -> bool {
        let mut at = 0;
        while at < record.len() {
            let Some((db, next)) = decode(record, at, &mut self.spans) else { return false };
            let args = Args::new(record, &self.spans);
            let Some(command) = lookup(args.at(0)).filter(|command| command.is_write() && command.takes(args.len()))
            else {
                return false;
            };
            if db >= DATABASES {
                return false;
            }
            self.peer.db = db;
            let mark = self.out.mark();
            let ctx =
                &mut Ctx { server: self.server, peer: &mut self.peer, args, out: &mut self.out, now_ms: BEFORE_ALL_MS };
            call(ctx, command);
            self.out.rewind(mark);
            self.out.clear_overflow();
            at = next;
        }
        true
    }

    /// Whether the data does not fit into the memory there is.
    pub fn is_out_of_memory(&self) -> bool {
        crate::service::memory::is_short()
    }
}

impl Drop for Replayer<'_> {
    fn drop(&mut self) {
        self.server.config.max_memory_bytes = self.max_memory_bytes;
        self.server.config.bulk_bytes = self.bulk_bytes;
    }
}
