//! Writes the keyspace into a new log, a slice at a time.

use super::effect::Effect;
use crate::base::{DecimalBuf, format_shortest, parse_i64, write_i64};
use crate::store::{Db, List, NEVER_MS, Value};
use alloc::boxed::Box;
use alloc::vec::Vec;
use recordstore::Batch;

/// Collections with more elements are written in several slices.
const LARGE_ELEMENTS: usize = 256;
/// And those that take more bytes.
const LARGE_BYTES: usize = 16 * 1024;
/// Elements of one effect: what replaying one takes, and what a scan's step can pass it by, is bounded.
const EFFECT_ELEMENTS: u32 = 128;
/// Bytes of one effect, about.
const EFFECT_BYTES: usize = 8 * 1024;

/// Whether a value takes several slices.
pub(super) fn is_large(value: &Value) -> bool {
    let elements = match value {
        // A string is one element; it is copied as fast as memory can.
        Value::Str(_) => return false,
        Value::List(list) => list.len(),
        Value::Set(set) => set.len(),
        Value::Hash(hash) => hash.len(),
        Value::Zset(zset) => zset.len(),
    };
    elements > LARGE_ELEMENTS || value.heap_bytes() > LARGE_BYTES
}

/// Gives the effects that make `key` hold `value`, whatever it held.
pub(super) fn dump(
    key: &[u8],
    value: &Value,
    expire_at_ms: i64,
    effect: &mut Effect,
    mut emit: impl FnMut(&Effect, &'static str),
) {
    let mut time = [0; 20];
    if let Value::Str(value) = value {
        effect.begin("set").arg(key).arg(value.text(&mut [0; 20]));
        if expire_at_ms != NEVER_MS {
            effect.arg(b"pxat").arg(write_i64(expire_at_ms, &mut time));
        }
        return emit(effect, "set");
    }
    effect.begin("del").arg(key);
    emit(effect, "del");
    let mut elements = Elements::of(value, key, effect);
    match value {
        Value::Str(_) => {}
        Value::List(list) => list.for_range(0, list.len(), |element| elements.one(&[element], &mut emit)),
        Value::Set(set) => set.iter().for_each(|member| elements.one(&[member], &mut emit)),
        Value::Hash(hash) => hash.iter().for_each(|field| elements.one(&[field.name(), field.value()], &mut emit)),
        Value::Zset(zset) => zset.iter().for_each(|member| elements.scored(member.score(), member.name(), &mut emit)),
    }
    elements.finish(&mut emit);
    if expire_at_ms != NEVER_MS {
        effect.begin("pexpireat").arg(key).arg(write_i64(expire_at_ms, &mut time));
        emit(effect, "pexpireat");
    }
}

/// Puts elements into effects of bounded size.
struct Elements<'a> {
    name: &'static str,
    key: &'a [u8],
    effect: &'a mut Effect,
    elements: u32,
}

impl<'a> Elements<'a> {
    fn of(value: &Value, key: &'a [u8], effect: &'a mut Effect) -> Self {
        let name = match value {
            Value::Str(_) | Value::List(_) => "rpush",
            Value::Set(_) => "sadd",
            Value::Hash(_) => "hset",
            Value::Zset(_) => "zadd",
        };
        effect.begin(name).arg(key);
        Self { name, key, effect, elements: 0 }
    }

    fn one(&mut self, parts: &[&[u8]], emit: &mut impl FnMut(&Effect, &'static str)) {
        self.effect.args(parts.iter().copied());
        self.elements += 1;
        if self.effect.count() > EFFECT_ELEMENTS || self.effect.bytes() > EFFECT_BYTES {
            emit(self.effect, self.name);
            self.effect.begin(self.name).arg(self.key);
        }
    }

    fn scored(&mut self, score: f64, member: &[u8], emit: &mut impl FnMut(&Effect, &'static str)) {
        let mut text = DecimalBuf::new();
        format_shortest(score, &mut text);
        self.one(&[text.as_slice(), member], emit);
    }

    /// Emits what is left; gives how many elements there were.
    fn finish(&mut self, emit: &mut impl FnMut(&Effect, &'static str)) -> usize {
        if self.effect.count() > 2 {
            emit(self.effect, self.name);
        }
        self.elements as usize
    }
}

/// A collection of which a part is written.
struct Current {
    db: usize,
    key: Box<[u8]>,
    part: Part,
}

enum Part {
    /// Nothing is written yet.
    Nothing,
    /// Of a list: the first `written` of its `len` elements.
    Prefix { written: usize, len: usize },
    /// Of any other: what a scan has passed before it came to this cursor.
    Cursor { cursor: u64, type_name: &'static str },
}

/// How far the keyspace is written.
#[derive(Default)]
pub(crate) struct Snapshot {
    db: usize,
    cursor: u64,
    /// Large collections that the scan of keys has met.
    waiting: Vec<(usize, Box<[u8]>)>,
    current: Option<Current>,
    complete: bool,
    effect: Effect,
}

impl Snapshot {
    /// Whether everything is written, so that the new log holds what the old one does.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Writes about `slice_bytes` bytes to `next`; true when everything is written.
    pub fn slice(&mut self, dbs: &[Db], next: &mut Batch, slice_bytes: usize) -> bool {
        let end = next.bytes() + slice_bytes;
        // Empty buckets, and keys that are gone, take time too.
        let mut steps = slice_bytes / 16 + 1;
        while !self.complete && next.bytes() < end && steps > 0 {
            steps -= 1;
            if self.current.is_some() {
                self.piece(dbs, next);
            } else if let Some((db, key)) = self.waiting.pop() {
                self.current = Some(Current { db, key, part: Part::Nothing });
            } else if let Some(db) = dbs.get(self.db) {
                self.keys(db, next);
            } else {
                self.complete = true;
            }
            next.close();
        }
        self.effect.trim();
        self.complete
    }

    /// Writes the keys under the cursor, but for large ones.
    fn keys(&mut self, db: &Db, next: &mut Batch) {
        let Self { db: index, waiting, effect, .. } = self;
        self.cursor = db.scan(self.cursor, |record| {
            if is_large(record.value()) {
                waiting.push((*index, record.key().into()));
                return;
            }
            dump(record.key(), record.value(), record.expire_at_ms(), effect, |effect, _| {
                effect.encode(*index, |bytes| next.extend(bytes));
            });
        });
        if self.cursor == 0 {
            self.db += 1;
        }
    }

    /// Writes a piece of the current collection.
    fn piece(&mut self, dbs: &[Db], next: &mut Batch) {
        let Some(mut current) = self.current.take() else { return };
        let Some((value, expire_at_ms)) = dbs.get(current.db).and_then(|db| db.peek_record(&current.key)) else {
            // Gone: what was said of that is in the log.
            return;
        };
        let db = current.db;
        let mut emit = |effect: &Effect, _: &'static str| effect.encode(db, |bytes| next.extend(bytes));
        let effect = &mut self.effect;
        let finished = match (&mut current.part, value) {
            (Part::Nothing, value) => {
                effect.begin("del").arg(&current.key);
                emit(effect, "del");
                current.part = match value {
                    Value::List(list) => Part::Prefix { written: 0, len: list.len() },
                    other => Part::Cursor { cursor: 0, type_name: other.type_name() },
                };
                false
            }
            (Part::Prefix { written, len }, Value::List(list)) if *len == list.len() => {
                *written += list_piece(&current.key, list, *written, effect, &mut emit);
                written == len
            }
            (Part::Cursor { cursor, type_name }, value) if *type_name == value.type_name() => {
                *cursor = scan_piece(&current.key, value, *cursor, effect, &mut emit);
                *cursor == 0
            }
            (part @ Part::Prefix { .. }, Value::List(_)) => {
                debug_assert!(false, "the account of the list is wrong");
                *part = Part::Nothing;
                false
            }
            // Another value came in its place, by effects that the new log has in full.
            (Part::Prefix { .. } | Part::Cursor { .. }, _) => return,
        };
        if !finished {
            self.current = Some(current);
        } else if expire_at_ms == NEVER_MS {
            effect.begin("persist").arg(&current.key);
            emit(effect, "persist");
        } else {
            effect.begin("pexpireat").arg(&current.key).arg(write_i64(expire_at_ms, &mut [0; 20]));
            emit(effect, "pexpireat");
        }
    }

    /// Adds the effect of a command to the new log, where it keeps it right.
    pub fn follow<'a>(
        &mut self,
        db: usize,
        name: &str,
        mut args: impl Iterator<Item = &'a [u8]> + Clone,
        effect: &Effect,
        next: &mut Batch,
    ) {
        let prefix = match &mut self.current {
            Some(Current { db: at, key, part: Part::Prefix { written, len } })
                if name == "flushall" || *at == db && touches(name, args.clone(), key) =>
            {
                Some((&key[..], written, len))
            }
            _ => None,
        };
        let Some((key, written, len)) = prefix else {
            return effect.encode(db, |bytes| next.extend(bytes));
        };
        match name {
            // At the front: the prefix changes as the list does.
            "lpush" => {
                let count = args.count() - 1;
                (*written, *len) = (*written + count, *len + count);
                effect.encode(db, |bytes| next.extend(bytes));
            }
            "lpop" => {
                let count = popped(args.nth(1), *len);
                let of_prefix = count.min(*written);
                (*written, *len) = (*written - of_prefix, *len - count);
                pop(&mut self.effect, db, "lpop", key, of_prefix, next);
            }
            // At the back: the prefix stays, as long as the list is not shorter.
            "rpush" => *len += args.count() - 1,
            "rpop" => {
                *len -= popped(args.nth(1), *len);
                let of_prefix = written.saturating_sub(*len);
                *written -= of_prefix;
                pop(&mut self.effect, db, "rpop", key, of_prefix, next);
            }
            // Its expiry is written at the end.
            "persist" | "pexpireat" => {}
            // Inside: once more from the start.
            "lset" | "lrem" | "ltrim" | "linsert" => {
                if let Some(current) = &mut self.current {
                    current.part = Part::Nothing;
                }
            }
            // Gone, or another value: the effect says it all.
            _ => {
                self.current = None;
                effect.encode(db, |bytes| next.extend(bytes));
            }
        }
    }
}

/// Whether an effect acts on `key`.
fn touches<'a>(name: &str, mut args: impl Iterator<Item = &'a [u8]>, key: &[u8]) -> bool {
    match name {
        "flushdb" | "swapdb" => true,
        // All arguments may be keys; that a value is taken for one does no harm.
        "del" | "unlink" | "mset" | "msetnx" => args.any(|arg| arg == key),
        _ => args.next() == Some(key),
    }
}

/// How many elements a pop with this count takes from a list of `len`.
fn popped(count: Option<&[u8]>, len: usize) -> usize {
    let count = count.map_or(Some(1), parse_i64).and_then(|count| usize::try_from(count).ok());
    count.unwrap_or(usize::MAX).min(len)
}

fn pop(effect: &mut Effect, db: usize, name: &'static str, key: &[u8], count: usize, next: &mut Batch) {
    if count > 0 {
        effect.begin(name).arg(key).arg(write_i64(count as i64, &mut [0; 20]));
        effect.encode(db, |bytes| next.extend(bytes));
    }
}

/// Writes elements of a list from the one at `from` on; gives how many.
fn list_piece(
    key: &[u8],
    list: &List,
    from: usize,
    effect: &mut Effect,
    emit: &mut impl FnMut(&Effect, &'static str),
) -> usize {
    effect.begin("rpush").arg(key);
    let most = (list.len() - from.min(list.len())).min(EFFECT_ELEMENTS as usize);
    let mut count = 0;
    list.for_range(from, most, |element| {
        if effect.bytes() < EFFECT_BYTES {
            effect.arg(element);
            count += 1;
        }
    });
    if count > 0 {
        emit(effect, "rpush");
    }
    count
}

/// Writes elements of a collection from `cursor` on; gives the next cursor, 0 at the end.
fn scan_piece(
    key: &[u8],
    value: &Value,
    mut cursor: u64,
    effect: &mut Effect,
    emit: &mut impl FnMut(&Effect, &'static str),
) -> u64 {
    let mut elements = Elements::of(value, key, effect);
    let mut steps = EFFECT_ELEMENTS;
    loop {
        cursor = match value {
            Value::Set(set) => set.scan(cursor, |member| elements.one(&[member], emit)),
            Value::Hash(hash) => hash.scan(cursor, |field| elements.one(&[field.name(), field.value()], emit)),
            Value::Zset(zset) => zset.scan(cursor, |member| elements.scored(member.score(), member.name(), emit)),
            Value::Str(_) | Value::List(_) => 0,
        };
        steps -= 1;
        if cursor == 0 || steps == 0 || elements.elements >= EFFECT_ELEMENTS {
            elements.finish(emit);
            return cursor;
        }
    }
}
