//! One connection: bytes in, bytes out.

use crate::commands::{Peer, Work, execute};
use crate::resp::{Limits, Need, Output, Parser, ProtocolError, Step};
use crate::server::Server;
use alloc::vec::Vec;

/// There are as many connections as the configuration allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyClients;

impl TooManyClients {
    /// What to send to such a client before closing.
    pub const REPLY: &'static [u8] = b"-ERR max number of clients reached\r\n";
}

/// A connection's state.
///
/// The caller moves bytes: [`feed`](Self::feed) takes what the socket received, [`output`](Self::output) is what the
/// socket shall send. Nothing here blocks, reads a clock or owns a socket. End it with [`close`](Self::close), or the
/// server keeps counting it.
pub struct Session {
    peer: Peer,
    parser: Parser,
    /// The start of a command whose rest has not come yet. Complete commands are run from the caller's buffer.
    partial: Vec<u8>,
    out: Output,
    /// A computation was taken by the caller, and its result has not come.
    working: bool,
}

impl Session {
    /// Accepts a connection at the Unix time `now_ms`. `address` is for CLIENT LIST.
    pub fn open(server: &mut Server, now_ms: i64, address: &str) -> Result<Self, TooManyClients> {
        let (id, slot) = server.register(now_ms, address).ok_or(TooManyClients)?;
        Ok(Self {
            peer: Peer::new(id, slot),
            parser: Parser::new(Limits::with_bulk_bytes(server.config.bulk_bytes)),
            partial: Vec::new(),
            out: Output::new(server.config.output_hard_bytes),
            working: false,
        })
    }

    /// Ends the connection.
    pub fn close(mut self, server: &mut Server) {
        crate::commands::end_watches(server, &mut self.peer);
        server.unregister(self.peer.slot);
    }

    /// The connection's number, as CLIENT ID gives it and [`Server::take_killed`] names it.
    pub fn id(&self) -> u64 {
        self.peer.id
    }

    /// Runs the commands in `input` and gives how many bytes were taken.
    ///
    /// All are taken, a command cut short included, unless the client does not read its replies: while
    /// [`output`](Self::output) is over the soft limit nothing is, so that the socket's window closes. Feed the rest
    /// when output has drained. The same while a computation is under way that a command has asked for, see
    /// [`take_work`](Self::take_work). After [`wants_close`](Self::wants_close) nothing is taken any more.
    pub fn feed(&mut self, server: &mut Server, now_ms: i64, input: &[u8]) -> usize {
        let mut taken = 0;
        self.parser.set_limits(Limits::with_bulk_bytes(server.config.bulk_bytes));
        let soft_limit_bytes = server.config.output_soft_bytes;
        while taken < input.len()
            && !self.peer.closing
            && !self.is_busy()
            && self.out.pending_bytes() < soft_limit_bytes
        {
            let rest = input.get(taken..).unwrap_or(&[]);
            taken += match self.partial.is_empty() {
                true => self.run_from(server, now_ms, rest),
                false => self.top_up(server, now_ms, rest),
            };
        }
        self.note(server, now_ms, taken);
        taken
    }

    /// Runs the command at the start of `input`, or keeps it if it is not complete; gives the bytes taken.
    #[inline]
    fn run_from(&mut self, server: &mut Server, now_ms: i64, input: &[u8]) -> usize {
        match self.parser.parse(input) {
            Step::Command(bytes) => {
                execute(server, &mut self.peer, self.parser.args(input), &mut self.out, now_ms);
                bytes
            }
            Step::Nothing(bytes) => bytes,
            Step::Partial => self.keep(server, input),
            Step::Error(error) => self.refuse(error, input.len()),
        }
    }

    /// Completes the kept command with as much of `input` as it needs; gives the bytes taken.
    fn top_up(&mut self, server: &mut Server, now_ms: i64, input: &[u8]) -> usize {
        let wanted = match self.parser.need() {
            Need::Total(total) => total.saturating_sub(self.partial.len()),
            Need::Line => input.iter().position(|&c| c == b'\n').map_or(input.len(), |at| at + 1),
        };
        let more = input.get(..wanted).unwrap_or(input);
        if self.keep(server, more) < more.len() || self.peer.closing {
            return input.len();
        }
        let mut done = 0;
        while done < self.partial.len() && !self.peer.closing && !self.is_busy() {
            let buffer = self.partial.get(done..).unwrap_or(&[]);
            match self.parser.parse(buffer) {
                Step::Command(bytes) => {
                    execute(server, &mut self.peer, self.parser.args(buffer), &mut self.out, now_ms);
                    done += bytes;
                }
                Step::Nothing(bytes) => done += bytes,
                Step::Partial => break,
                Step::Error(error) => return self.refuse(error, input.len()),
            }
        }
        self.release(done);
        more.len()
    }

    /// Forgets the first `done` bytes of the kept input, and the memory that a large command took.
    fn release(&mut self, done: usize) {
        const KEEP_BYTES: usize = 1024;
        if done < self.partial.len() {
            self.partial.drain(..done);
            return;
        }
        self.partial.clear();
        if self.partial.capacity() > KEEP_BYTES {
            self.partial = Vec::new();
            self.parser.trim();
        }
    }

    /// Keeps input for later; closes the connection if kept commands take too much memory.
    fn keep(&mut self, server: &Server, input: &[u8]) -> usize {
        let others = server.clients_bytes().saturating_sub(server.client(self.peer.slot).map_or(0, |c| c.bytes));
        let needed = self.partial.len() + input.len();
        if others + needed + self.parser.bytes() > server.config.client_bytes
            || (needed > self.partial.capacity() && !crate::service::memory::may_grow_to(needed * 2))
        {
            self.out.raw(b"-OOM query buffers of all clients exceed their limit\r\n");
            self.peer.closing = true;
            self.partial = Vec::new();
            return input.len();
        }
        if needed > self.partial.capacity() {
            // By doubling, but not beyond what the command is known to need.
            let goal = match self.parser.need() {
                Need::Total(total) => (needed * 2).min(total).max(needed),
                Need::Line => needed,
            };
            self.partial.reserve_exact(goal - self.partial.len());
        }
        self.partial.extend_from_slice(input);
        input.len()
    }

    /// Answers input that is no RESP and ends the connection.
    fn refuse(&mut self, error: ProtocolError, taken: usize) -> usize {
        match error {
            ProtocolError::ExpectedBulk(byte) => {
                self.out.error(&[b"ERR Protocol error: ", error.text().as_bytes(), b"'", &[byte], b"'"]);
            }
            _ => self.out.error(&[b"ERR Protocol error: ", error.text().as_bytes()]),
        }
        self.peer.closing = true;
        taken
    }

    /// Notes in the register what CLIENT LIST shows.
    fn note(&mut self, server: &mut Server, now_ms: i64, taken: usize) {
        let queued = self.peer.multi.as_ref().map(|multi| (multi.queue.len(), multi.queued_bytes));
        let bytes =
            self.partial.capacity() + self.parser.bytes() + self.out.bytes() + queued.map_or(0, |(_, bytes)| bytes);
        server.stats.input_bytes += taken as u64;
        server.account_client(self.peer.slot, bytes);
        if let Some(client) = server.client_mut(self.peer.slot) {
            client.last_ms = now_ms;
            client.db = self.peer.db;
            client.last_command = self.peer.last_command;
            client.in_multi = queued.is_some();
            client.queued = queued.map_or(0, |(count, _)| count);
            client.input_bytes = self.partial.len();
            client.output_bytes = self.out.pending().len();
            self.peer.closing |= client.killed;
        }
    }

    /// Whether the reply to the last command depends on a computation.
    fn is_busy(&self) -> bool {
        self.working || self.peer.work.is_some()
    }

    /// The computation that the last command has asked for, if it has. Until [`finish_work`](Self::finish_work) no further
    /// command is run.
    pub fn take_work(&mut self) -> Option<Work> {
        let work = self.peer.work.take();
        self.working |= work.is_some();
        work
    }

    /// Answers with the result of what was asked for, or with why there is none, which begins with an error code.
    pub fn finish_work(&mut self, result: Result<u64, &str>) {
        self.working = false;
        match result {
            // As 64 bits: RESP has no unsigned integers.
            Ok(result) => self.out.integer(result as i64),
            Err(error) => self.out.error(&[error.as_bytes()]),
        }
    }

    /// Replies that the socket has not taken yet.
    #[inline]
    pub fn output(&self) -> &[u8] {
        self.out.pending()
    }

    /// Notes that the socket has taken `count` bytes of [`output`](Self::output).
    #[inline]
    pub fn advance_output(&mut self, count: usize) {
        self.out.advance(count);
    }

    /// Whether the connection shall be closed once its output has been sent.
    #[inline]
    pub fn wants_close(&self) -> bool {
        self.peer.closing
    }
}
