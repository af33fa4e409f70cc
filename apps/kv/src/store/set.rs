//! Sets of strings.

use crate::base::{Entry, Seed, SmallBytes, Table, parse_i64};

/// Most elements of a set that redis keeps as sorted integers.
const MAX_INTSET: usize = 512;

impl Entry for SmallBytes {
    #[inline]
    fn key(&self) -> &[u8] {
        self.as_slice()
    }
    #[inline]
    fn heap_bytes(&self) -> usize {
        self.heap_bytes()
    }
}

/// A set; all operations on one member are O(1), a random member too.
pub struct Set {
    members: Table<SmallBytes>,
    integers: bool,
}

impl Set {
    /// An empty set.
    pub const fn new(seed: Seed) -> Self {
        Self { members: Table::new(seed), integers: true }
    }

    /// Number of members.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a key never holds an empty set")]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Memory behind the set, in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.members.bytes()
    }

    /// The encoding redis would use.
    pub fn encoding(&self) -> &'static str {
        if self.integers { "intset" } else { "hashtable" }
    }

    /// Whether redis would scan it in steps and not at once.
    pub fn is_large(&self) -> bool {
        !self.integers
    }

    /// A deep copy.
    pub fn duplicate(&self) -> Self {
        let mut copy = Self::new(self.members.seed());
        self.iter().for_each(|member| {
            copy.insert(member);
        });
        copy.integers = self.integers;
        copy
    }

    /// Adds a member; false if it was there.
    #[inline]
    pub fn insert(&mut self, member: &[u8]) -> bool {
        let hash = self.members.hash(member);
        if self.members.find_hashed(hash, member).is_some() {
            return false;
        }
        self.members.insert_new(hash, SmallBytes::new(member));
        self.integers = self.integers && self.len() <= MAX_INTSET && parse_i64(member).is_some();
        true
    }

    /// Whether `member` is in the set.
    #[inline]
    pub fn contains(&self, member: &[u8]) -> bool {
        self.members.find(member).is_some()
    }

    /// Removes a member; false if it was not there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        self.members.find(member).and_then(|at| self.members.remove(at)).is_some()
    }

    /// Member `index` of `0..len`, in an order that changes with removals.
    pub fn at(&self, index: usize) -> Option<&[u8]> {
        self.members.get(index as u32).map(SmallBytes::as_slice)
    }

    /// Takes member `index` of `0..len`.
    pub fn remove_at(&mut self, index: usize) -> Option<SmallBytes> {
        self.members.remove(index as u32).map(|(member, _)| member)
    }

    /// The members.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.members.iter().map(SmallBytes::as_slice)
    }

    /// One step of SSCAN.
    pub fn scan(&self, cursor: u64, mut visit: impl FnMut(&[u8])) -> u64 {
        self.members.scan(cursor, |member| visit(member.as_slice()))
    }
}
