//! One database: keys to values with expiry.

use super::value::{Kind, Value, WrongType};
use super::{Str, Watches};
use crate::base::{Entry, Seed, SmallBytes, Table};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// The expiry of a key that has none.
pub const NEVER_MS: i64 = i64::MAX;

/// A key, its value and when it ends.
pub struct Record {
    key: SmallBytes,
    value: Value,
    expire_at_ms: i64,
}

impl Record {
    /// The key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        self.key.as_slice()
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value, taken out.
    pub fn into_value(self) -> Value {
        self.value
    }

    /// The Unix time in ms after which the key is gone, or [`NEVER_MS`].
    #[inline]
    pub fn expire_at_ms(&self) -> i64 {
        self.expire_at_ms
    }
}

impl Entry for Record {
    #[inline]
    fn key(&self) -> &[u8] {
        self.key.as_slice()
    }
    #[inline]
    fn heap_bytes(&self) -> usize {
        self.key.heap_bytes() + self.value.heap_bytes()
    }
}

/// What one entry of the expiry order is taken to cost, in bytes.
const EXPIRY_BYTES: usize = 40;

/// One of the numbered databases.
///
/// A key past its expiry is removed when something looks for it and, in the order of expiry, by
/// [`expire_some`](Self::expire_some). Indices that lookups give are good until the next insertion or removal.
pub struct Db {
    records: Table<Record>,
    /// How many keys with this hash expire at this time. The hash finds the key again wherever it has moved.
    expiries: BTreeMap<(i64, u32), u32>,
    expiring: usize,
    /// Keys removed because their time had come.
    pub expired_keys: u64,
    /// Who watches keys here.
    pub watches: Watches,
    /// Keys that have expired since this was asked for, if it is.
    expired: Option<Vec<SmallBytes>>,
}

impl Db {
    /// An empty database; it allocates nothing.
    pub fn new(seed: Seed) -> Self {
        Self {
            records: Table::new(seed),
            expiries: BTreeMap::new(),
            expiring: 0,
            expired_keys: 0,
            watches: Watches::default(),
            expired: None,
        }
    }

    /// Number of keys, expired ones that nobody noticed yet included.
    #[inline]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Number of keys with an expiry.
    pub fn expiring(&self) -> usize {
        self.expiring
    }

    /// Memory of all keys and values, in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.records.bytes() + self.expiries.len() * EXPIRY_BYTES
    }

    /// The seed of the tables in it.
    pub fn seed(&self) -> Seed {
        self.records.seed()
    }

    /// The index of `key`, unless it has expired.
    #[inline]
    pub fn find(&mut self, now_ms: i64, key: &[u8]) -> Option<u32> {
        self.find_hashed(now_ms, self.records.hash(key), key)
    }

    #[inline]
    fn find_hashed(&mut self, now_ms: i64, hash: u32, key: &[u8]) -> Option<u32> {
        let at = self.records.find_hashed(hash, key)?;
        if self.records.get(at)?.expire_at_ms < now_ms {
            self.expire(at);
            return None;
        }
        Some(at)
    }

    fn expire(&mut self, at: u32) {
        if let Some(record) = self.remove(at) {
            self.expired_keys += 1;
            self.watches.touch(record.key());
            if let Some(expired) = &mut self.expired {
                expired.push(record.key);
            }
        }
    }

    /// From now on, notes which keys expire.
    pub fn keep_expired(&mut self) {
        self.expired = Some(Vec::new());
    }

    /// The keys that have expired since the last call; nothing if there are none.
    pub fn take_expired(&mut self) -> Option<Vec<SmallBytes>> {
        let expired = self.expired.as_mut().filter(|expired| !expired.is_empty())?;
        Some(core::mem::take(expired))
    }

    /// The value and expiry of `key`, expired or not.
    pub fn peek_record(&self, key: &[u8]) -> Option<(&Value, i64)> {
        let record = self.records.find(key).and_then(|at| self.records.get(at))?;
        Some((&record.value, record.expire_at_ms))
    }

    /// The record at an index.
    #[inline]
    pub fn record(&self, at: u32) -> Option<&Record> {
        self.records.get(at)
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&mut self, now_ms: i64, key: &[u8]) -> Option<&Value> {
        let at = self.find(now_ms, key)?;
        self.records.get(at).map(|record| &record.value)
    }

    /// The value of `key` if there is one, which must be of kind `K`.
    #[inline]
    pub fn read<K: Kind>(&mut self, now_ms: i64, key: &[u8]) -> Result<Option<&K>, WrongType> {
        self.get(now_ms, key).map(K::of).transpose()
    }

    /// As [`read`](Self::read), for commands that need several values at once: the caller has looked every key up by
    /// [`find`](Self::find) before, so that none of them is past its expiry.
    pub fn peek<K: Kind>(&self, key: &[u8]) -> Result<Option<&K>, WrongType> {
        let record = self.records.find(key).and_then(|at| self.records.get(at));
        record.map(|record| K::of(&record.value)).transpose()
    }

    /// As [`peek`](Self::peek), of any kind.
    pub fn peek_any(&self, key: &[u8]) -> Option<&Value> {
        self.records.find(key).and_then(|at| self.records.get(at)).map(|record| &record.value)
    }

    /// Changes the value of `key`, which must be of kind `K`. A missing one is made when `create` is set and skipped
    /// otherwise; a collection that ends up empty is removed with its key.
    #[inline]
    pub fn update<K: Kind, R>(
        &mut self,
        now_ms: i64,
        key: &[u8],
        create: bool,
        change: impl FnOnce(&mut K) -> R,
    ) -> Result<Option<R>, WrongType> {
        let hash = self.records.hash(key);
        let at = match self.find_hashed(now_ms, hash, key) {
            Some(at) => at,
            None if create => {
                let value = K::empty(self.seed()).into_value();
                self.insert_hashed(hash, key, value, NEVER_MS)
            }
            None => return Ok(None),
        };
        let outcome = self.records.edit(at, |record| {
            let value = K::of_mut(&mut record.value)?;
            let result = change(value);
            Ok((result, value.vanishes()))
        });
        let Some((result, vanishes)) = outcome.transpose()? else { return Ok(None) };
        if vanishes {
            self.remove(at);
        }
        Ok(Some(result))
    }

    /// The value of `key`, to change without touching the heap; nothing if `key` is missing or has an expiry.
    #[inline]
    pub fn inline_mut(&mut self, key: &[u8]) -> Option<&mut Value> {
        let at = self.records.find(key)?;
        let record = self.records.get_mut(at)?;
        (record.expire_at_ms == NEVER_MS).then_some(&mut record.value)
    }

    /// Makes `key` the string `text` without an expiry: the plain SET.
    #[inline]
    pub fn set_string(&mut self, now_ms: i64, key: &[u8], text: &[u8]) {
        let hash = self.records.hash(key);
        let found = self.records.find_hashed(hash, key);
        if let Some(at) = found
            && let Some(record) = self.records.get_mut(at)
            && record.expire_at_ms == NEVER_MS
            && let Value::Str(value) = &mut record.value
            && value.set_inline(text)
        {
            return;
        }
        self.set_string_anew(now_ms, hash, key, text);
    }

    fn set_string_anew(&mut self, now_ms: i64, hash: u32, key: &[u8], text: &[u8]) {
        let Some(at) = self.find_hashed(now_ms, hash, key) else {
            self.insert_hashed(hash, key, Value::Str(Str::new(text)), NEVER_MS);
            return;
        };
        self.set_expiry(at, NEVER_MS);
        self.records.edit(at, |record| match &mut record.value {
            Value::Str(value) => value.set(text),
            other => *other = Value::Str(Str::new(text)),
        });
    }

    /// Makes `key` hold `value`, whatever it held, until `expire_at_ms`.
    pub fn put(&mut self, now_ms: i64, key: &[u8], value: Value, expire_at_ms: i64) {
        let hash = self.records.hash(key);
        match self.find_hashed(now_ms, hash, key) {
            Some(at) => {
                self.records.edit(at, |record| record.value = value);
                self.set_expiry(at, expire_at_ms);
            }
            None => {
                self.insert_hashed(hash, key, value, expire_at_ms);
            }
        }
    }

    fn insert_hashed(&mut self, hash: u32, key: &[u8], value: Value, expire_at_ms: i64) -> u32 {
        let at = self.records.insert_new(hash, Record { key: SmallBytes::new(key), value, expire_at_ms: NEVER_MS });
        self.set_expiry(at, expire_at_ms);
        at
    }

    /// Removes the record at an index.
    pub fn remove(&mut self, at: u32) -> Option<Record> {
        let hash = self.records.hash_at(at);
        let (record, _) = self.records.remove(at)?;
        self.reschedule(hash, record.expire_at_ms, NEVER_MS);
        Some(record)
    }

    /// Removes `key`; nothing if it was not there.
    pub fn remove_key(&mut self, now_ms: i64, key: &[u8]) -> Option<Record> {
        let at = self.find(now_ms, key)?;
        self.remove(at)
    }

    /// Sets when the record at an index ends.
    #[inline]
    pub fn set_expiry(&mut self, at: u32, expire_at_ms: i64) {
        let Some(record) = self.records.get_mut(at) else { return };
        let old_ms = core::mem::replace(&mut record.expire_at_ms, expire_at_ms);
        if old_ms != expire_at_ms {
            self.reschedule(self.records.hash_at(at), old_ms, expire_at_ms);
        }
    }

    fn reschedule(&mut self, hash: u32, old_ms: i64, new_ms: i64) {
        if old_ms != NEVER_MS {
            self.expiring -= 1;
            if let Some(count) = self.expiries.get_mut(&(old_ms, hash)) {
                *count -= 1;
                if *count == 0 {
                    self.expiries.remove(&(old_ms, hash));
                }
            }
        }
        if new_ms != NEVER_MS {
            self.expiring += 1;
            *self.expiries.entry((new_ms, hash)).or_insert(0) += 1;
        }
    }

    /// When the next key expires.
    pub fn next_expiry_ms(&self) -> Option<i64> {
        self.expiries.first_key_value().map(|(&(expire_at_ms, _), _)| expire_at_ms)
    }

    /// Removes at most `budget` keys whose time has come; gives how many.
    pub fn expire_some(&mut self, now_ms: i64, budget: usize) -> usize {
        for done in 0..budget {
            let Some((&(due_ms, hash), _)) = self.expiries.first_key_value() else { return done };
            if due_ms >= now_ms {
                return done;
            }
            match self.records.find_by_hash(hash, |record| record.expire_at_ms == due_ms) {
                Some(at) => self.expire(at),
                None => {
                    // The order and the records always agree; if they ever did not, this is where it would hang.
                    debug_assert!(false, "an expiry without its key");
                    self.expiries.remove(&(due_ms, hash));
                }
            }
        }
        budget
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        let empty = Table::new(self.seed());
        let records = core::mem::replace(&mut self.records, empty);
        self.watches.touch_where(|key| records.find(key).is_some());
        self.expiries.clear();
        self.expiring = 0;
    }

    /// Exchanges the contents with another database; watches, and what has expired, stay.
    pub fn swap(&mut self, other: &mut Self) {
        let (a, b) = (&self.records, &other.records);
        let exists = |key: &[u8]| a.find(key).is_some() || b.find(key).is_some();
        self.watches.touch_where(exists);
        other.watches.touch_where(exists);
        core::mem::swap(self, other);
        core::mem::swap(&mut self.watches, &mut other.watches);
        // What has expired did so before, here.
        core::mem::swap(&mut self.expired, &mut other.expired);
    }

    /// The record at a dense index `0..len`, for random choices.
    pub fn at(&self, index: usize) -> Option<&Record> {
        self.records.get(index as u32)
    }

    /// Removes the record at a dense index if its time has come.
    pub fn remove_expired(&mut self, now_ms: i64, index: usize) {
        if self.at(index).is_some_and(|record| record.expire_at_ms < now_ms) {
            self.expire(index as u32);
        }
    }

    /// All records, expired ones that nobody noticed yet included.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// One step of SCAN; see [`Table::scan`].
    pub fn scan(&self, cursor: u64, visit: impl FnMut(&Record)) -> u64 {
        self.records.scan(cursor, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::List;

    fn db() -> Db {
        Db::new(Seed::new(1))
    }

    #[test]
    fn keys_expire_lazily_and_actively_and_leave_nothing() {
        let mut db = db();
        for n in 0..100i64 {
            let key = alloc::format!("{n}");
            db.put(0, key.as_bytes(), Value::Str(Str::new(&[b'x'; 50])), 10 + n % 5);
        }
        assert_eq!((db.len(), db.expiring(), db.next_expiry_ms()), (100, 100, Some(10)));
        assert!(db.get(10, b"0").is_some());
        assert!(db.get(11, b"0").is_none());
        assert_eq!(db.expire_some(12, 30), 30);
        assert_eq!(db.expire_some(12, 30), 9);
        assert_eq!(db.expire_some(1000, usize::MAX), 60);
        assert_eq!((db.len(), db.expiring(), db.bytes(), db.expired_keys), (0, 0, 0, 100));
    }

    #[test]
    fn a_set_ends_an_expiry_and_a_wrong_type_changes_nothing() {
        let mut db = db();
        db.put(0, b"k", Value::Str(Str::new(b"1")), 10);
        db.set_string(0, b"k", b"2");
        assert_eq!((db.expiring(), db.next_expiry_ms()), (0, None));
        assert_eq!(db.update::<List, _>(0, b"k", true, |list| list.push_back(b"x")), Err(WrongType));
        assert_eq!(db.read::<Str>(99, b"k").map(|s| s.and_then(Str::integer)), Ok(Some(2)));
    }

    #[test]
    fn an_emptied_collection_takes_its_key_along() {
        let mut db = db();
        assert_eq!(db.update::<List, _>(0, b"k", true, |list| list.push_back(&[1; 100])), Ok(Some(())));
        assert!(db.bytes() > 100);
        assert_eq!(db.update::<List, _>(0, b"k", false, |list| list.pop_back().is_some()), Ok(Some(true)));
        assert_eq!((db.len(), db.bytes()), (0, 0));
        assert_eq!(db.update::<List, _>(0, b"k", false, |_| ()), Ok(None));
    }

    #[test]
    fn watches_see_changes_of_contents_but_not_of_others() {
        let (mut a, mut b) = (db(), db());
        a.put(0, b"k", Value::Str(Str::new(b"1")), 10);
        a.watches.add(b"k", 7);
        b.watches.add(b"other", 8);
        a.swap(&mut b);
        assert!(a.watches.is_touched(7) && !b.watches.is_touched(8));
        a.watches.remove(b"k", 7);
        assert!(!a.watches.is_touched(7));
        b.watches.add(b"k", 9);
        b.find(11, b"k");
        assert!(b.watches.is_touched(9));
    }
}
