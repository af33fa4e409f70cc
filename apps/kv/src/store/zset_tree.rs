//! The order under a sorted set: a treap (Seidel, Aragon 1996) with subtree sizes, its links kept in the set's table.
//!
//! Nodes are indices of the table's dense array, so an element costs 16 bytes beyond its table entry and nothing is
//! allocated for the order. Priorities are the seeded hashes of the members: a function of the seed and the members,
//! hidden from clients, so the expected depth is O(log n) whatever is inserted and in whatever order.

use super::zset::{Links, Member};
use crate::base::{Table, same};
use core::cmp::Ordering;

/// No node.
pub const NIL: u32 = u32::MAX;

/// Maps scores to integers of the same order, because floating-point comparisons are dear under emulation.
#[inline]
pub fn ordinal(score: f64) -> u64 {
    const SIGN: u64 = 1 << 63;
    match score.to_bits() {
        SIGN => SIGN, // -0 equals 0
        bits if bits & SIGN != 0 => !bits,
        bits => bits | SIGN,
    }
}

/// The order of members with equal scores: by bytes, as `memcmp` does.
#[inline]
pub fn compare(a: &Member, b: &Member) -> Ordering {
    match ordinal(a.score).cmp(&ordinal(b.score)) {
        Ordering::Equal if same(a.name.as_slice(), b.name.as_slice()) => Ordering::Equal,
        Ordering::Equal => a.name.as_slice().cmp(b.name.as_slice()),
        order => order,
    }
}

/// The root; everything else is in the table.
pub struct Tree {
    root: u32,
}

type Nodes = Table<Member>;

#[inline]
fn links(nodes: &Nodes, at: u32) -> Links {
    nodes.get(at).map_or(Links::LONE, |member| member.links)
}

#[inline]
fn with(nodes: &mut Nodes, at: u32, change: impl FnOnce(&mut Links)) {
    if let Some(member) = nodes.get_mut(at) {
        change(&mut member.links);
    }
}

#[inline]
fn size(nodes: &Nodes, at: u32) -> u32 {
    nodes.get(at).map_or(0, |member| member.links.size)
}

fn priority(nodes: &Nodes, at: u32) -> u32 {
    // Multiplied, so that heap order is not the order of buckets.
    nodes.hash_at(at).wrapping_mul(0x9e37_79b1)
}

impl Tree {
    /// No nodes.
    pub const fn new() -> Self {
        Self { root: NIL }
    }

    /// Makes the parent of `child` (or the root) point to `to` instead.
    fn redirect(&mut self, nodes: &mut Nodes, parent: u32, child: u32, to: u32) {
        if parent == NIL {
            self.root = to;
        } else {
            with(nodes, parent, |l| if l.left == child { l.left = to } else { l.right = to });
        }
    }

    /// Puts node `at` where its score and name belong.
    pub fn insert(&mut self, nodes: &mut Nodes, at: u32) {
        let (mut parent, mut side) = (NIL, Ordering::Equal);
        let mut next = self.root;
        while next != NIL {
            let (Some(new), Some(here)) = (nodes.get(at), nodes.get(next)) else { return };
            parent = next;
            side = compare(new, here);
            next = if side == Ordering::Less { here.links.left } else { here.links.right };
            with(nodes, parent, |l| l.size += 1);
        }
        with(nodes, at, |l| *l = Links { parent, ..Links::LONE });
        match (parent, side) {
            (NIL, _) => self.root = at,
            (_, Ordering::Less) => with(nodes, parent, |l| l.left = at),
            _ => with(nodes, parent, |l| l.right = at),
        }
        let priority_at = priority(nodes, at);
        while let parent = links(nodes, at).parent
            && parent != NIL
            && priority(nodes, parent) < priority_at
        {
            self.rotate_up(nodes, at);
        }
    }

    /// Swaps a node with its parent, keeping the order.
    fn rotate_up(&mut self, nodes: &mut Nodes, at: u32) {
        let me = links(nodes, at);
        let up = links(nodes, me.parent);
        let inner = if up.left == at { me.right } else { me.left };
        with(nodes, inner, |l| l.parent = me.parent);
        let inner_size = size(nodes, inner);
        with(nodes, me.parent, |l| {
            if l.left == at {
                l.left = inner
            } else {
                l.right = inner
            }
            l.parent = at;
            l.size = l.size - me.size + inner_size;
        });
        with(nodes, at, |l| {
            if up.left == at {
                l.right = me.parent
            } else {
                l.left = me.parent
            }
            l.parent = up.parent;
            l.size = up.size;
        });
        self.redirect(nodes, up.parent, me.parent, at);
    }

    /// Takes node `at` out of the order; it stays in the table.
    pub fn remove(&mut self, nodes: &mut Nodes, at: u32) {
        loop {
            let Links { left, right, .. } = links(nodes, at);
            let child = match (left, right) {
                (NIL, NIL) => break,
                (NIL, child) | (child, NIL) => child,
                _ if priority(nodes, left) > priority(nodes, right) => left,
                _ => right,
            };
            self.rotate_up(nodes, child);
        }
        let mut up = links(nodes, at).parent;
        self.redirect(nodes, up, at, NIL);
        while up != NIL {
            with(nodes, up, |l| l.size -= 1);
            up = links(nodes, up).parent;
        }
    }

    /// Mends the links to the node that the table moved from index `old` to `new`.
    pub fn moved(&mut self, nodes: &mut Nodes, old: u32, new: u32) {
        let Links { left, right, parent, .. } = links(nodes, new);
        self.redirect(nodes, parent, old, new);
        with(nodes, left, |l| l.parent = new);
        with(nodes, right, |l| l.parent = new);
    }

    /// How many nodes come before `at`.
    pub fn rank(&self, nodes: &Nodes, mut at: u32) -> usize {
        let mut me = links(nodes, at);
        let mut rank = size(nodes, me.left);
        while me.parent != NIL {
            let up = links(nodes, me.parent);
            if up.right == at {
                rank += size(nodes, up.left) + 1;
            }
            at = me.parent;
            me = up;
        }
        rank as usize
    }

    /// The node with `rank` nodes before it, or [`NIL`].
    pub fn select(&self, nodes: &Nodes, rank: usize) -> u32 {
        let (mut at, mut rest) = (self.root, rank);
        while at != NIL {
            let me = links(nodes, at);
            let before = size(nodes, me.left) as usize;
            match rest.cmp(&before) {
                Ordering::Equal => return at,
                Ordering::Less => at = me.left,
                Ordering::Greater => {
                    rest -= before + 1;
                    at = me.right;
                }
            }
        }
        NIL
    }

    /// How many nodes at the start satisfy `early`, which must not come true again after it was false.
    pub fn partition(&self, nodes: &Nodes, mut early: impl FnMut(&Member) -> bool) -> usize {
        let (mut at, mut rank) = (self.root, 0);
        while let Some(member) = nodes.get(at) {
            if early(member) {
                rank += size(nodes, member.links.left) as usize + 1;
                at = member.links.right;
            } else {
                at = member.links.left;
            }
        }
        rank
    }

    /// The node behind `at`, or before it if `backwards`, or [`NIL`].
    pub fn step(&self, nodes: &Nodes, at: u32, backwards: bool) -> u32 {
        let ahead = |l: Links| if backwards { l.left } else { l.right };
        let behind = |l: Links| if backwards { l.right } else { l.left };
        let me = links(nodes, at);
        let mut next = ahead(me);
        if next != NIL {
            while let inner = behind(links(nodes, next))
                && inner != NIL
            {
                next = inner;
            }
            return next;
        }
        let (mut child, mut up) = (at, me.parent);
        while up != NIL && ahead(links(nodes, up)) == child {
            child = up;
            up = links(nodes, up).parent;
        }
        up
    }
}
