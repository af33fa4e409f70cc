//! What is packed into the image: directories, files, and the places where disks are mounted. It never changes.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use filesystem::bundle::Item;

/// A node of the tree.
pub(super) type Index = usize;

pub(super) const ROOT: Index = 0;

#[derive(Debug)]
pub(super) enum Node {
    Directory(BTreeMap<String, Index>),
    File(&'static [u8]),
    /// The root of a volume.
    Mount(usize),
}

#[derive(Debug)]
pub(super) struct Tree {
    /// Each with the directory that it lies in.
    nodes: Vec<(Index, Node)>,
}

impl Tree {
    /// An empty root.
    pub fn new() -> Self {
        Self { nodes: Vec::from([(ROOT, Node::Directory(BTreeMap::new()))]) }
    }

    /// Adds what lies at an absolute path, whose directory is there. `false` if it is not, or if something else is at the path.
    /// A mount's volume is the one of `volume`.
    pub fn add(&mut self, path: &str, item: Item<'static>, volume: usize) -> bool {
        let node = match item {
            Item::Directory => Node::Directory(BTreeMap::new()),
            Item::File(content) => Node::File(content),
            Item::Mount(_) => Node::Mount(volume),
        };
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let found =
            directory.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |at, name| self.child(at, name));
        let index = self.nodes.len();
        if name.is_empty() {
            // The root itself: a disk may take its place as long as nothing else is in it.
            let free = index == 1;
            if free {
                self.nodes = Vec::from([(ROOT, node)]);
            }
            return free;
        }
        let Some((directory, (_, Node::Directory(entries)))) =
            found.and_then(|directory| Some((directory, self.nodes.get_mut(directory)?)))
        else {
            return false;
        };
        if entries.contains_key(name) {
            return false;
        }
        entries.insert(name.into(), index);
        self.nodes.push((directory, node));
        true
    }

    pub fn child(&self, directory: Index, name: &str) -> Option<Index> {
        match self.node(directory) {
            Node::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    pub fn node(&self, index: Index) -> &Node {
        // Numbers come from this tree alone; the root is always there.
        self.nodes.get(index).map_or(&self.nodes[ROOT].1, |(_, node)| node)
    }

    pub fn parent(&self, index: Index) -> Index {
        self.nodes.get(index).map_or(ROOT, |(parent, _)| *parent)
    }

    /// Where a volume is mounted.
    pub fn mount_of(&self, volume: usize) -> Index {
        self.nodes.iter().position(|(_, node)| matches!(node, Node::Mount(at) if *at == volume)).unwrap_or(ROOT)
    }

    /// The name of a node in its directory.
    pub fn name_of(&self, index: Index) -> &str {
        match self.node(self.parent(index)) {
            Node::Directory(entries) => {
                entries.iter().find(|(_, at)| **at == index).map_or("", |(name, _)| name.as_str())
            }
            _ => "",
        }
    }
}
