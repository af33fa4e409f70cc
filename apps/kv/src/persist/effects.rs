//! What the effect of each command is.

use super::effect::Effect;
use super::journal::Journal;
use super::snapshot::{dump, is_large};
use crate::base::write_i64;
use crate::commands::{Command, Ctx};
use crate::store::{Db, NEVER_MS, Value};

/// How a command becomes its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// As it is: each element that it changes, it changes as a function of that element alone.
    Verbatim,
    /// As it is, under the name of a command that does not ask whether the key is there.
    As(&'static str),
    /// The string that the key now holds, with its expiry.
    String,
    /// The expiry that the key now has, or that the key is gone.
    Expiry,
    /// The members that it has removed, by this command.
    Removed(&'static str),
    /// A member that went from one set to another.
    SetMove,
    /// An element that went from one list to another; whether it was the first there and is the first here.
    ListMove,
    /// A value made from other keys; the argument that names its key.
    Stored(usize),
    /// A value that went from the first key to the second.
    Rename,
    /// A key that went to another database.
    Move,
    /// Two databases exchanged.
    Swap,
}

/// The class of a command that writes; nothing for any other.
pub(crate) fn class_of(name: &str) -> Option<Class> {
    Some(match name {
        "set" | "setex" | "psetex" | "getset" => Class::String,
        "append" | "setrange" | "setbit" | "incr" | "decr" | "incrby" | "decrby" | "incrbyfloat" | "setnx" | "mset"
        | "msetnx" | "del" | "unlink" | "persist" | "hset" | "hmset" | "hsetnx" | "hdel" | "hincrby"
        | "hincrbyfloat" | "lpush" | "rpush" | "lpop" | "rpop" | "lset" | "lrem" | "ltrim" | "linsert" | "sadd"
        | "srem" | "zadd" | "zincrby" | "zrem" | "flushdb" | "flushall" => Class::Verbatim,
        "lpushx" => Class::As("lpush"),
        "rpushx" => Class::As("rpush"),
        "expire" | "pexpire" | "expireat" | "pexpireat" | "getex" | "getdel" => Class::Expiry,
        "spop" => Class::Removed("srem"),
        "zpopmin" | "zpopmax" | "zremrangebyrank" | "zremrangebyscore" | "zremrangebylex" => Class::Removed("zrem"),
        "smove" => Class::SetMove,
        "rpoplpush" | "lmove" => Class::ListMove,
        "sinterstore" | "sunionstore" | "sdiffstore" | "zunionstore" | "zinterstore" | "zdiffstore" | "zrangestore" => {
            Class::Stored(1)
        }
        "copy" => Class::Stored(2),
        "rename" | "renamenx" => Class::Rename,
        "move" => Class::Move,
        "swapdb" => Class::Swap,
        _ => return None,
    })
}

/// Adds the effect of a command that has run on database `db` to the journal; `changed` tells whether there is one.
/// Outside a transaction that ends the record.
pub(crate) fn note(ctx: &mut Ctx<'_>, command: &Command, db: usize, changed: bool) {
    if changed && let Some(class) = class_of(command.name) {
        let (dbs, journal) = ctx.server.journal_parts();
        journal.bury(dbs);
        let mut effect = core::mem::take(&mut journal.effect);
        Noted { dbs, journal, ctx_args: ctx.args, command, db, effect: &mut effect }.note(class);
        journal.effect = effect;
    }
    if !ctx.peer.in_exec {
        ctx.server.journal.close();
    }
}

/// A command whose effect is being put together.
struct Noted<'a, 'c> {
    dbs: &'a mut [Db],
    journal: &'a mut Journal,
    ctx_args: crate::resp::Args<'c>,
    command: &'a Command,
    db: usize,
    effect: &'a mut Effect,
}

impl Noted<'_, '_> {
    fn note(&mut self, class: Class) {
        let (first, second) = (self.ctx_args.at(1), self.ctx_args.at(2));
        match class {
            Class::Verbatim => self.verbatim(self.command.name),
            Class::As(name) => self.verbatim(name),
            Class::String => self.string(first),
            Class::Expiry => self.expiry(first),
            Class::Removed(name) => {
                self.effect.begin(name).arg(first);
                if self.journal.take_removed(self.effect) {
                    self.emit(self.db, name, &[first]);
                }
            }
            Class::SetMove => {
                let member = self.ctx_args.at(3);
                self.say(self.db, "srem", &[first, member]);
                self.say(self.db, "sadd", &[second, member]);
            }
            Class::ListMove => self.list_move(first, second),
            Class::Stored(at) => self.value_of(self.target_db(at), self.ctx_args.at(at), None),
            Class::Rename => self.value_of(self.db, second, Some(first)),
            Class::Move => self.value_of(self.target_db(2), first, Some(first)),
            Class::Swap => {
                if self.journal.is_partial() {
                    self.journal.give_up_snapshot();
                }
                self.verbatim(self.command.name);
            }
        }
    }

    fn verbatim(&mut self, name: &'static str) {
        let args = self.ctx_args.from(1);
        self.effect.begin(name).args(args.iter());
        self.journal.emit(self.db, self.effect, name, args.iter());
    }

    fn emit(&mut self, db: usize, name: &'static str, args: &[&[u8]]) {
        self.journal.emit(db, self.effect, name, args.iter().copied());
    }

    fn say(&mut self, db: usize, name: &'static str, args: &[&[u8]]) {
        self.effect.begin(name).args(args.iter().copied());
        self.emit(db, name, args);
    }

    /// The database that COPY or MOVE has written to; for other commands the connection's.
    fn target_db(&self, key_at: usize) -> usize {
        let args = self.ctx_args;
        let number = match self.command.name {
            "move" => Some(args.at(2)),
            "copy" => {
                let at = (key_at + 1..args.len()).find(|&at| crate::base::same_ignoring_case(args.at(at), "db"));
                at.map(|at| args.at(at + 1))
            }
            _ => None,
        };
        let index = number.and_then(crate::base::parse_i64).and_then(|index| usize::try_from(index).ok());
        index.filter(|&index| index < self.dbs.len()).unwrap_or(self.db)
    }

    fn string(&mut self, key: &[u8]) {
        if self.ctx_args.len() == 3 {
            // Plain SET, and GETSET.
            let value = self.ctx_args.at(2);
            return self.say(self.db, "set", &[key, value]);
        }
        let Some((value, expire_at_ms)) = self.dbs.get(self.db).and_then(|db| db.peek_record(key)) else {
            return self.say(self.db, "del", &[key]);
        };
        let (mut digits, mut time) = ([0; 20], [0; 20]);
        let text = if let Value::Str(value) = value { value.text(&mut digits) } else { &[] };
        self.effect.begin("set").arg(key).arg(text);
        if expire_at_ms != NEVER_MS {
            self.effect.arg(b"pxat").arg(write_i64(expire_at_ms, &mut time));
        }
        self.journal.emit(self.db, self.effect, "set", core::iter::once(key));
    }

    fn expiry(&mut self, key: &[u8]) {
        let expire_at_ms = self.dbs.get(self.db).and_then(|db| db.peek_record(key)).map(|(_, expiry)| expiry);
        match expire_at_ms {
            None => self.say(self.db, "del", &[key]),
            Some(NEVER_MS) => self.say(self.db, "persist", &[key]),
            Some(at_ms) => self.say(self.db, "pexpireat", &[key, write_i64(at_ms, &mut [0; 20])]),
        }
    }

    /// A move within a list pushes before it pops, lest a list of one element vanish, and its expiry with it.
    fn list_move(&mut self, from: &[u8], to: &[u8]) {
        let side = |at: usize| crate::base::same_ignoring_case(self.ctx_args.at(at), "left");
        let (from_front, to_front) = if self.command.name == "lmove" { (side(3), side(4)) } else { (false, true) };
        let (pop, push) = (if from_front { "lpop" } else { "rpop" }, if to_front { "lpush" } else { "rpush" });
        let Some((Value::List(list), _)) = self.dbs.get(self.db).and_then(|db| db.peek_record(to)) else { return };
        let element = list.get(if to_front { 0 } else { list.len().wrapping_sub(1) }).unwrap_or(&[]);
        let mut say = |name: &'static str, args: &[&[u8]]| {
            self.effect.begin(name).args(args.iter().copied());
            self.journal.emit(self.db, self.effect, name, args.iter().copied());
        };
        if from == to && from_front == to_front {
            return;
        }
        if from == to {
            say(push, &[to, element]);
            say(pop, &[from]);
        } else {
            say(pop, &[from]);
            say(push, &[to, element]);
        }
    }

    /// The value of a key that came from others, and that the key it came from, if it was moved, is gone.
    fn value_of(&mut self, db: usize, key: &[u8], gone: Option<&[u8]>) {
        if !self.journal.is_partial() {
            return self.verbatim(self.command.name);
        }
        let record = self.dbs.get(db).and_then(|db| db.peek_record(key));
        if record.is_some_and(|(value, _)| is_large(value)) {
            // Too much to write at once. The live log does not need it.
            self.journal.give_up_snapshot();
            return self.verbatim(self.command.name);
        }
        if let Some(gone) = gone {
            self.effect.begin("del").arg(gone);
            self.journal.emit(self.db, self.effect, "del", core::iter::once(gone));
        }
        let journal = &mut *self.journal;
        match record {
            Some((value, expire_at_ms)) => dump(key, value, expire_at_ms, self.effect, |effect, name| {
                journal.emit(db, effect, name, core::iter::once(key));
            }),
            None => {
                self.effect.begin("del").arg(key);
                journal.emit(db, self.effect, "del", core::iter::once(key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::COMMANDS;

    #[test]
    fn every_command_that_writes_has_an_effect_and_no_other_has() {
        for command in &COMMANDS {
            assert_eq!(class_of(command.name).is_some(), command.is_write(), "{}", command.name);
        }
    }
}
