//! Hashes: fields with values.

use crate::base::{Entry, Seed, SmallBytes, Table};

/// Beyond this many fields, or bytes in one, redis leaves the compact encoding.
const MAX_COMPACT_FIELDS: usize = 128;
const MAX_COMPACT_BYTES: usize = 64;

/// A field and its value.
pub struct Field {
    name: SmallBytes,
    value: SmallBytes,
}

impl Field {
    /// Its name.
    #[inline]
    pub fn name(&self) -> &[u8] {
        self.name.as_slice()
    }

    /// Its value.
    #[inline]
    pub fn value(&self) -> &[u8] {
        self.value.as_slice()
    }
}

impl Entry for Field {
    #[inline]
    fn key(&self) -> &[u8] {
        self.name.as_slice()
    }
    #[inline]
    fn heap_bytes(&self) -> usize {
        self.name.heap_bytes() + self.value.heap_bytes()
    }
}

/// A hash; all operations on one field are O(1). Fields keep the order of insertion until one is removed.
pub struct Hash {
    fields: Table<Field>,
    large: bool,
}

impl Hash {
    /// An empty hash.
    pub const fn new(seed: Seed) -> Self {
        Self { fields: Table::new(seed), large: false }
    }

    /// Number of fields.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a key never holds an empty hash")]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Memory behind the hash, in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.fields.bytes()
    }

    /// Whether redis would have left the compact encoding.
    pub fn is_large(&self) -> bool {
        self.large
    }

    /// A deep copy.
    pub fn duplicate(&self) -> Self {
        let mut copy = Self::new(self.fields.seed());
        self.iter().for_each(|field| {
            copy.set(field.name(), field.value());
        });
        copy.large = self.large;
        copy
    }

    /// The value of a field.
    #[inline]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields.find(name).and_then(|at| self.fields.get(at)).map(Field::value)
    }

    /// Sets a field; true if it is new.
    #[inline]
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        let hash = self.fields.hash(name);
        let found = self.fields.find_hashed(hash, name);
        match found {
            Some(at) => {
                self.fields.edit(at, |field| field.value = SmallBytes::new(value));
            }
            None => {
                self.fields.insert_new(hash, Field { name: SmallBytes::new(name), value: SmallBytes::new(value) });
            }
        }
        self.large |= self.len() > MAX_COMPACT_FIELDS || name.len().max(value.len()) > MAX_COMPACT_BYTES;
        found.is_none()
    }

    /// Removes a field; false if it was not there.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        self.fields.find(name).and_then(|at| self.fields.remove(at)).is_some()
    }

    /// Field `index` of `0..len`, in an order that changes with removals.
    pub fn at(&self, index: usize) -> Option<&Field> {
        self.fields.get(index as u32)
    }

    /// The fields.
    pub fn iter(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter()
    }

    /// One step of HSCAN.
    pub fn scan(&self, cursor: u64, visit: impl FnMut(&Field)) -> u64 {
        self.fields.scan(cursor, visit)
    }
}
