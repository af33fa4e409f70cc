//! What a command handler works on.

use super::compute::Work;
use super::error::{Error, NOT_FLOAT, NOT_INTEGER, NOT_POSITIVE, OUT_OF_MEMORY};
use super::table::Command;
use crate::base::{parse_f64, parse_i64};
use crate::resp::{Args, Output, Span};
use crate::server::Server;
use crate::store::Db;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Which replies a client wants (CLIENT REPLY).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ReplyMode {
    /// All.
    On,
    /// None.
    Off,
    /// Not the one to this command.
    SkipThis,
    /// Not the one to the next command.
    SkipNext,
}

/// A command waiting for EXEC, with its arguments copied.
pub struct Queued {
    pub command: &'static Command,
    pub bytes: Vec<u8>,
    pub spans: Vec<Span>,
}

/// An open transaction.
#[derive(Default)]
pub struct Multi {
    pub queue: Vec<Queued>,
    /// A command could not be queued, so EXEC must fail.
    pub broken: bool,
    pub queued_bytes: usize,
    /// A queued command may need memory.
    pub deny_oom: bool,
    /// A queued command may write.
    pub writes: bool,
}

/// The state of a connection that commands change.
pub struct Peer {
    pub id: u64,
    /// Where the server's registry keeps what it knows of this connection.
    pub slot: usize,
    pub db: usize,
    pub closing: bool,
    /// The last command, for CLIENT LIST.
    pub last_command: &'static str,
    pub reply: ReplyMode,
    pub multi: Option<Box<Multi>>,
    pub watched: Vec<(usize, Box<[u8]>)>,
    /// EXEC runs its commands.
    pub in_exec: bool,
    /// What is to be computed before the next command.
    pub work: Option<Work>,
}

/// A command being run.
pub struct Ctx<'a> {
    pub server: &'a mut Server,
    pub peer: &'a mut Peer,
    pub args: Args<'a>,
    pub out: &'a mut Output,
    pub now_ms: i64,
}

impl Peer {
    /// The connection with this number and place in the register, as it begins.
    pub fn new(id: u64, slot: usize) -> Self {
        Self {
            id,
            slot,
            db: 0,
            closing: false,
            last_command: "NULL",
            reply: ReplyMode::On,
            multi: None,
            watched: Vec::new(),
            in_exec: false,
            work: None,
        }
    }

    /// A connection that is in no register, for commands that no client has sent.
    pub fn nobody() -> Self {
        Self::new(0, usize::MAX)
    }
}

impl<'a> Ctx<'a> {
    /// The connection's database.
    #[inline]
    pub fn db(&mut self) -> &mut Db {
        self.server.db(self.peer.db)
    }

    /// The database and, apart from it, where replies go.
    #[inline]
    pub fn parts(&mut self) -> (&mut Db, &mut Output) {
        (self.server.db(self.peer.db), self.out)
    }

    /// The first argument, the key of most commands.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        self.args.at(1)
    }

    /// Notes that `key` of the connection's database changed.
    #[inline]
    pub fn modified(&mut self, key: &[u8]) {
        self.server.stats.changes += 1;
        self.db().watches.touch(key);
    }

    /// Argument `index` as an integer.
    #[inline]
    pub fn integer(&self, index: usize) -> Result<i64, Error> {
        parse_i64(self.args.at(index)).ok_or(NOT_INTEGER)
    }

    /// Argument `index` as a number that is not negative.
    pub fn positive(&self, index: usize) -> Result<usize, Error> {
        parse_i64(self.args.at(index)).and_then(|count| usize::try_from(count).ok()).ok_or(NOT_POSITIVE)
    }

    /// Argument `index` as a double.
    pub fn float(&self, index: usize) -> Result<f64, Error> {
        parse_f64(self.args.at(index)).ok_or(NOT_FLOAT)
    }

    /// Fails if `more_bytes` would pass the memory limit. For commands that can make much out of little input; the
    /// limit is otherwise checked before a command runs.
    pub fn ensure_room(&self, more_bytes: usize) -> Result<(), Error> {
        let limit = self.server.config.max_memory_bytes;
        if limit != 0 && self.server.used_bytes().saturating_add(more_bytes) > limit {
            Err(OUT_OF_MEMORY)
        } else {
            Ok(())
        }
    }
}
