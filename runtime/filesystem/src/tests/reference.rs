//! What a file system should hold: names and contents in memory, and operations on both.

use proptest::prelude::*;
use recordstore::BlockDevice;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use super::now;
use crate::{FileSystem, FsError, Ino, Kind, ROOT};

/// What a path holds. Files and links with several names have a number in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(usize),
    Directory,
    Link(usize),
}

/// All of it. Paths are lists of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reference {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// Contents, which copies have in common until they change.
    files: Vec<Rc<Vec<u8>>>,
    /// Links made so far.
    links: usize,
}

/// What every link leads to.
const TARGET: &[u8] = b"somewhere";

/// What one can see of it: names, contents, and how many names a file has.
pub(super) type View = BTreeMap<Vec<u8>, (Vec<u8>, u32)>;

/// An operation. Paths are one or two names of a few, so that they meet.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Write { path: Vec<u8>, offset: u64, bytes: usize, fill: u8 },
    Truncate { path: Vec<u8>, bytes: u64 },
    MakeDirectory { path: Vec<u8> },
    Symlink { path: Vec<u8> },
    Link { from: Vec<u8>, to: Vec<u8> },
    Rename { from: Vec<u8>, to: Vec<u8> },
    Unlink { path: Vec<u8> },
    RemoveDirectory { path: Vec<u8> },
    Sync,
}

/// `a`, or `a/b`.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = || prop::sample::select(vec![b'a', b'b', b'c']);
    prop_oneof![name().prop_map(|name| vec![name]), (name(), name()).prop_map(|(a, b)| vec![a, b'/', b])]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let offset = prop_oneof![0..9000_u64, Just(1 << 20), 60_000..70_000_u64];
    let bytes = prop_oneof![1..200_usize, 4000..9000_usize, Just(70_000)];
    prop_oneof![
        6 => (path(), offset, bytes, 1..=255_u8)
            .prop_map(|(path, offset, bytes, fill)| Op::Write { path, offset, bytes, fill }),
        2 => (path(), 0..70_000_u64).prop_map(|(path, bytes)| Op::Truncate { path, bytes }),
        2 => path().prop_map(|path| Op::MakeDirectory { path }),
        1 => path().prop_map(|path| Op::Symlink { path }),
        1 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        3 => (path(), path()).prop_map(|(from, to)| Op::Rename { from, to }),
        2 => path().prop_map(|path| Op::Unlink { path }),
        1 => path().prop_map(|path| Op::RemoveDirectory { path }),
        3 => Just(Op::Sync),
    ]
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |at| &path[..at])
}

impl Reference {
    fn has_parent(&self, path: &[u8]) -> bool {
        parent(path).is_empty() || self.nodes.get(parent(path)) == Some(&Node::Directory)
    }

    fn is_empty_directory(&self, path: &[u8]) -> bool {
        let inside = [path, b"/"].concat();
        self.nodes.get(path) == Some(&Node::Directory) && !self.nodes.keys().any(|other| other.starts_with(&inside))
    }

    /// Does an operation, or not: as the file system should.
    pub fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::Write { path, offset, bytes, fill } => {
                let Some(file) = self.file_to_write(path) else { return false };
                self.write(file, *offset, *bytes, *fill);
                true
            }
            Op::Truncate { path, bytes } => {
                let Some(Node::File(file)) = self.nodes.get(path) else { return false };
                Rc::make_mut(&mut self.files[*file]).resize(*bytes as usize, 0);
                true
            }
            Op::MakeDirectory { path } => self.make(path, Node::Directory),
            Op::Symlink { path } => {
                self.links += 1;
                self.make(path, Node::Link(self.links))
            }
            Op::Link { from, to } => match self.nodes.get(from) {
                Some(Node::Directory) | None => false,
                Some(other) => {
                    let other = other.clone();
                    self.make(to, other)
                }
            },
            Op::Unlink { path } => {
                let is_other = self.nodes.get(path).is_some_and(|node| *node != Node::Directory);
                is_other && self.nodes.remove(path).is_some()
            }
            Op::RemoveDirectory { path } => self.is_empty_directory(path) && self.nodes.remove(path).is_some(),
            Op::Rename { from, to } => self.rename(from, to),
            Op::Sync => true,
        }
    }

    /// The file at a path, made if there is nothing.
    pub fn file_to_write(&mut self, path: &[u8]) -> Option<usize> {
        if !self.has_parent(path) {
            return None;
        }
        if !self.nodes.contains_key(path) {
            self.files.push(Rc::default());
            self.nodes.insert(path.to_vec(), Node::File(self.files.len() - 1));
        }
        self.file(path)
    }

    /// The file at a path.
    pub fn file(&self, path: &[u8]) -> Option<usize> {
        if let Node::File(file) = self.nodes.get(path)? { Some(*file) } else { None }
    }

    pub fn file_bytes(&self, file: usize) -> usize {
        self.files[file].len()
    }

    /// Writes, to a file that may have no name.
    pub fn write(&mut self, file: usize, offset: u64, bytes: usize, fill: u8) {
        let content = Rc::make_mut(&mut self.files[file]);
        let (start, end) = (offset as usize, offset as usize + bytes);
        content.resize(content.len().max(end), 0);
        content[start..end].fill(fill);
    }

    fn make(&mut self, path: &[u8], node: Node) -> bool {
        let free = self.has_parent(path) && !self.nodes.contains_key(path);
        if free {
            self.nodes.insert(path.to_vec(), node);
        }
        free
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some(node) = self.nodes.get(from).cloned() else { return false };
        if !self.has_parent(to) {
            return false;
        }
        if from == to {
            return true;
        }
        let is_directory = node == Node::Directory;
        let inside = [from, b"/"].concat();
        if is_directory && to.starts_with(&inside) {
            return false;
        }
        match self.nodes.get(to) {
            Some(Node::Directory) if !is_directory || !self.is_empty_directory(to) => return false,
            Some(Node::File(_) | Node::Link(_)) if is_directory => return false,
            Some(other) if !is_directory && *other == node => return true,
            _ => {}
        }
        let moved: Vec<Vec<u8>> =
            self.nodes.keys().filter(|path| *path == from || path.starts_with(&inside)).cloned().collect();
        for path in moved {
            if let Some(node) = self.nodes.remove(&path) {
                self.nodes.insert([to, &path[from.len()..]].concat(), node);
            }
        }
        true
    }

    /// Whether this is what one can see of it.
    pub fn is_seen_as(&self, view: &View) -> bool {
        let same = |(path, node): (&Vec<u8>, &Node)| {
            let Some((content, names)) = view.get(path) else { return false };
            match node {
                Node::Directory => (&content[..], *names) == (b"/", 0),
                Node::Link(_) => (&content[..], *names) == (TARGET, 1),
                Node::File(file) => {
                    *content == *self.files[*file]
                        && self.nodes.values().filter(|other| *other == node).count() == *names as usize
                }
            }
        };
        self.nodes.len() == view.len() && self.nodes.iter().all(same)
    }

    pub fn view(&self) -> View {
        let seen = |(path, node): (&Vec<u8>, &Node)| {
            let shown = match node {
                Node::Directory => (b"/".to_vec(), 0),
                Node::Link(_) => (TARGET.to_vec(), 1),
                Node::File(file) => {
                    let names = self.nodes.values().filter(|other| *other == node).count();
                    (self.files[*file].to_vec(), names as u32)
                }
            };
            (path.clone(), shown)
        };
        self.nodes.iter().map(seen).collect()
    }
}

pub(super) fn directory_of<D: BlockDevice + Clone>(fs: &FileSystem<D>, path: &[u8]) -> Result<Ino, FsError> {
    let parent = parent(path);
    if parent.is_empty() { Ok(ROOT) } else { fs.lookup(ROOT, parent) }
}

pub(super) fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

pub(super) fn find<D: BlockDevice + Clone>(fs: &FileSystem<D>, path: &[u8]) -> Result<Ino, FsError> {
    fs.lookup(directory_of(fs, path)?, name(path))
}

/// Does an operation on the file system.
pub(super) fn apply<D: BlockDevice + Clone>(fs: &mut FileSystem<D>, op: &Op) -> Result<(), FsError> {
    match op {
        Op::Write { path, offset, bytes, fill } => {
            let ino = match find(fs, path) {
                Err(FsError::NotFound) => fs.create_file(directory_of(fs, path)?, name(path), 0o644, 2)?,
                found => found?,
            };
            let written = now(fs.write(ino, *offset, &vec![*fill; *bytes], 3))?;
            if written == *bytes { Ok(()) } else { Err(FsError::NoSpace) }
        }
        Op::Truncate { path, bytes } => {
            let ino = find(fs, path)?;
            now(fs.truncate(ino, *bytes, 3))
        }
        Op::MakeDirectory { path } => fs.create_directory(directory_of(fs, path)?, name(path), 0o755, 4).map(drop),
        Op::Symlink { path } => fs.create_link(directory_of(fs, path)?, name(path), TARGET, 4).map(drop),
        Op::Link { from, to } => fs.link(find(fs, from)?, directory_of(fs, to)?, name(to), 5),
        Op::Rename { from, to } => {
            fs.rename((directory_of(fs, from)?, name(from)), (directory_of(fs, to)?, name(to)), true, 6)
        }
        Op::Unlink { path } => fs.unlink(directory_of(fs, path)?, name(path), 7),
        Op::RemoveDirectory { path } => fs.remove_directory(directory_of(fs, path)?, name(path), 8),
        Op::Sync => now(fs.sync()),
    }
}

/// All that a file system holds.
pub(super) fn view<D: BlockDevice + Clone>(fs: &mut FileSystem<D>) -> Result<View, FsError> {
    let mut seen = View::new();
    let mut directories = vec![(ROOT, Vec::new())];
    while let Some((directory, prefix)) = directories.pop() {
        let mut last: Option<Vec<u8>> = None;
        while let Some((name, ino, kind)) = fs.next_entry(directory, last.as_deref())? {
            let name = name.to_vec();
            let path = if prefix.is_empty() { name.clone() } else { [&prefix[..], b"/", &name].concat() };
            last = Some(name);
            let attributes = fs.attributes(ino)?;
            let shown = match kind {
                Kind::Directory => {
                    directories.push((ino, path.clone()));
                    (b"/".to_vec(), 0)
                }
                // Two links of one content are two or one: not told apart here.
                Kind::Link => (fs.target(ino)?.to_vec(), 1),
                Kind::File => {
                    // No operation here makes a file longer than that; a damaged device may.
                    let most = attributes.bytes.min(4 << 20);
                    let mut content = vec![0; most as usize + 1];
                    let bytes = now(fs.read(ino, 0, &mut content))?;
                    if (bytes as u64) < most {
                        return Err(FsError::Io);
                    }
                    content.truncate(bytes);
                    (content, attributes.links)
                }
            };
            seen.insert(path, shown);
        }
    }
    Ok(seen)
}
