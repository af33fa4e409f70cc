//! Sorted sets: members with scores, found by name in O(1) and by order or rank in O(log n).

use super::zset_tree::{NIL, Tree};
use crate::base::{Entry, Seed, SmallBytes, Table};

const MAX_COMPACT_MEMBERS: usize = 128;
const MAX_COMPACT_BYTES: usize = 64;

/// A node's place in the tree.
#[derive(Clone, Copy)]
pub struct Links {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) parent: u32,
    pub(super) size: u32,
}

impl Links {
    pub(super) const LONE: Self = Self { left: NIL, right: NIL, parent: NIL, size: 1 };
}

/// A member, its score and its place in the order.
pub struct Member {
    pub(super) name: SmallBytes,
    pub(super) score: f64,
    pub(super) links: Links,
}

impl Member {
    /// Its name.
    #[inline]
    pub fn name(&self) -> &[u8] {
        self.name.as_slice()
    }

    /// Its score, never NaN.
    #[inline]
    pub fn score(&self) -> f64 {
        self.score
    }
}

impl Entry for Member {
    #[inline]
    fn key(&self) -> &[u8] {
        self.name.as_slice()
    }
    #[inline]
    fn heap_bytes(&self) -> usize {
        self.name.heap_bytes()
    }
}

/// A sorted set, ordered by score and then by name.
pub struct Zset {
    members: Table<Member>,
    tree: Tree,
    large: bool,
}

impl Zset {
    /// An empty sorted set.
    pub const fn new(seed: Seed) -> Self {
        Self { members: Table::new(seed), tree: Tree::new(), large: false }
    }

    /// Number of members.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a key never holds an empty sorted set")]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Memory behind the sorted set, in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.members.bytes()
    }

    /// Whether redis would have left the compact encoding.
    pub fn is_large(&self) -> bool {
        self.large
    }

    /// A deep copy.
    pub fn duplicate(&self) -> Self {
        let mut copy = Self::new(self.members.seed());
        self.members.iter().for_each(|member| {
            copy.set(member.name(), member.score);
        });
        copy.large = self.large;
        copy
    }

    /// The score of a member.
    #[inline]
    pub fn score(&self, name: &[u8]) -> Option<f64> {
        self.members.find(name).and_then(|at| self.members.get(at)).map(Member::score)
    }

    /// Gives a member a score, which must not be NaN; true if the member is new.
    pub fn set(&mut self, name: &[u8], score: f64) -> bool {
        // Redis keeps a negative zero in large sorted sets only; one zero is enough.
        let score = if score == 0.0 { 0.0 } else { score };
        let hash = self.members.hash(name);
        if let Some(at) = self.members.find_hashed(hash, name) {
            self.move_to(at, score);
            return false;
        }
        let at = self.members.insert_new(hash, Member { name: SmallBytes::new(name), score, links: Links::LONE });
        self.tree.insert(&mut self.members, at);
        self.large |= self.len() > MAX_COMPACT_MEMBERS || name.len() > MAX_COMPACT_BYTES;
        true
    }

    fn move_to(&mut self, at: u32, score: f64) {
        if self.members.get(at).is_none_or(|member| member.score.to_bits() == score.to_bits()) {
            return;
        }
        self.tree.remove(&mut self.members, at);
        if let Some(member) = self.members.get_mut(at) {
            member.score = score;
        }
        self.tree.insert(&mut self.members, at);
    }

    /// Removes a member; false if it was not there.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        self.members.find(name).and_then(|at| self.take(at)).is_some()
    }

    fn take(&mut self, at: u32) -> Option<Member> {
        self.tree.remove(&mut self.members, at);
        let (member, moved) = self.members.remove(at)?;
        if let Some(old) = moved {
            self.tree.moved(&mut self.members, old, at);
        }
        Some(member)
    }

    /// Takes the member with `rank` members before it.
    pub fn take_rank(&mut self, rank: usize) -> Option<Member> {
        match self.tree.select(&self.members, rank) {
            NIL => None,
            at => self.take(at),
        }
    }

    /// How many members come before this one.
    pub fn rank(&self, name: &[u8]) -> Option<usize> {
        self.members.find(name).map(|at| self.tree.rank(&self.members, at))
    }

    /// How many members at the start satisfy `early`, which must not come true again after it was false.
    pub fn partition(&self, early: impl FnMut(&Member) -> bool) -> usize {
        self.tree.partition(&self.members, early)
    }

    /// Visits `count` members from `rank` on, upwards or, if `backwards`, downwards.
    pub fn for_ranks(&self, rank: usize, count: usize, backwards: bool, mut visit: impl FnMut(&Member)) {
        let mut at = self.tree.select(&self.members, rank);
        for _ in 0..count {
            let Some(member) = self.members.get(at) else { return };
            visit(member);
            at = self.tree.step(&self.members, at, backwards);
        }
    }

    /// Member `index` of `0..len` in no order, for random choices.
    pub fn at(&self, index: usize) -> Option<&Member> {
        self.members.get(index as u32)
    }

    /// The members in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// One step of ZSCAN.
    pub fn scan(&self, cursor: u64, visit: impl FnMut(&Member)) -> u64 {
        self.members.scan(cursor, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use alloc::collections::{BTreeMap, BTreeSet};
    use alloc::vec::Vec;

    fn check(zset: &Zset, scores: &BTreeMap<Vec<u8>, i64>) {
        let order: BTreeSet<(i64, &[u8])> = scores.iter().map(|(name, &score)| (score, &name[..])).collect();
        let mut seen = Vec::new();
        zset.for_ranks(0, usize::MAX, false, |m| seen.push((m.score() as i64, m.name().to_vec())));
        assert!(seen.iter().map(|(s, n)| (*s, &n[..])).eq(order.iter().copied()));
        let mut back = Vec::new();
        if zset.len() > 0 {
            zset.for_ranks(zset.len() - 1, usize::MAX, true, |m| back.push(m.name().to_vec()));
        }
        assert!(back.iter().rev().eq(seen.iter().map(|(_, name)| name)));
        for (rank, (_, name)) in seen.iter().enumerate() {
            assert_eq!(zset.rank(name), Some(rank));
        }
        for limit in -12..12 {
            assert_eq!(zset.partition(|m| m.score() < limit as f64), scores.values().filter(|&&s| s < limit).count());
        }
    }

    #[test]
    fn behaves_as_a_sorted_map() {
        let mut rng = Rng::new(11);
        let mut zset = Zset::new(Seed::new(4));
        let mut model: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
        for step in 0..8000 {
            let name = alloc::format!("{}", rng.below(300)).into_bytes();
            let score = rng.below(20) as i64 - 10;
            match rng.below(if step < 5000 { 4 } else { 7 }) {
                0..=2 => assert_eq!(zset.set(&name, score as f64), model.insert(name, score).is_none()),
                3..=5 => assert_eq!(zset.remove(&name), model.remove(&name).is_some()),
                _ => {
                    let rank = rng.below(zset.len() + 1);
                    let taken = zset.take_rank(rank).map(|m| m.name().to_vec());
                    assert_eq!(taken.is_some(), rank < model.len());
                    taken.and_then(|name| model.remove(&name));
                }
            }
            if step % 100 == 0 {
                check(&zset, &model);
            }
        }
        check(&zset, &model);
        assert_eq!(zset.score(b"x"), None);
    }

    #[test]
    fn ascending_input_does_not_degenerate() {
        let mut zset = Zset::new(Seed::new(4));
        for n in 0..20_000u32 {
            zset.set(&n.to_le_bytes(), f64::from(n));
        }
        let mut steps = 0;
        zset.partition(|_| {
            steps += 1;
            true
        });
        assert!(steps < 60, "a path of {steps} nodes over 20,000 members");
    }

    #[test]
    fn zeros_of_both_signs_are_one_score_and_infinities_are_at_the_ends() {
        let mut zset = Zset::new(Seed::new(4));
        for (name, score) in [("d", f64::INFINITY), ("b", 0.0), ("a", -0.0), ("c", 1e-300), ("0", f64::NEG_INFINITY)] {
            zset.set(name.as_bytes(), score);
        }
        let mut names = Vec::new();
        zset.for_ranks(0, 9, false, |m| names.extend_from_slice(m.name()));
        assert_eq!(names, b"0abcd");
    }
}
