//! What a manifest says of files: directories that are packed into the image, and disks that are mounted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use filesystem::bundle::{Item, encode};
use serde::Deserialize;

use super::cargo::DiskNeed;
use crate::disk::check_name;

/// The part of `[package.metadata.pollux]` that speaks of files.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Files {
    /// Path in the image: name of a disk.
    #[serde(default)]
    mount: BTreeMap<String, String>,
    /// Path in the image: folder, beside the manifest unless it is absolute.
    #[serde(default)]
    files: BTreeMap<String, String>,
}

/// An entry, owned.
#[derive(Debug, PartialEq, Eq)]
enum Packed {
    Directory,
    File(Vec<u8>),
    Mount(String),
}

impl Packed {
    fn item(&self) -> Item<'_> {
        match self {
            Self::Directory => Item::Directory,
            Self::File(content) => Item::File(content),
            Self::Mount(disk) => Item::Mount(disk),
        }
    }
}

type Entries = BTreeMap<String, Packed>;

/// Reads what a manifest's table says. The error names what is wrong.
pub(super) fn read(table: Option<&serde_json::Value>) -> Result<Files, String> {
    let Some(table) = table else { return Ok(Files::default()) };
    let files = Files::deserialize(table).map_err(|_| {
        let (mount, files) = (r#"mount = { "/data" = "name of a disk" }"#, r#"files = { "/assets" = "folder" }"#);
        format!("mount, files: expected {mount} and {files}")
    })?;
    for (path, disk) in &files.mount {
        check_path("mount", path)?;
        check_name(disk).map_err(|error| format!("mount at {path}: {error}"))?;
    }
    for path in files.files.keys() {
        check_path("files", path)?;
    }
    files.check_apart()?;
    Ok(files)
}

fn check_path(what: &str, path: &str) -> Result<(), String> {
    let Some(names) = path.strip_prefix('/') else {
        return Err(format!("{what}: {path:?} is no absolute path, such as \"/data\""));
    };
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0') && name.len() <= 255;
    if names.is_empty() || names.split('/').all(is_name) {
        Ok(())
    } else {
        Err(format!("{what}: {path:?} is to be written without \".\", \"..\" and slashes that are not needed"))
    }
}

impl Files {
    /// Nothing lies within what is mounted, no disk is mounted twice, and no path is there twice.
    fn check_apart(&self) -> Result<(), String> {
        for (mount, disk) in &self.mount {
            let inside = format!("{}/", mount.trim_end_matches('/'));
            let others = self.mount.keys().filter(|path| *path != mount).chain(self.files.keys());
            if let Some(path) = others.into_iter().find(|path| path.starts_with(&inside) || *path == mount) {
                return Err(format!("mount: {path} lies within {mount}, where disk {disk} is mounted"));
            }
            if let Some((other, _)) = self.mount.iter().find(|(path, name)| *name == disk && *path != mount) {
                return Err(format!("mount: disk {disk} is mounted at {mount} and at {other}"));
            }
        }
        Ok(())
    }

    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.mount.is_empty() && self.files.is_empty()
    }

    /// The disks that are mounted, unless they are in the list already.
    pub(super) fn add_disks(&self, disks: &mut Vec<DiskNeed>) {
        for name in self.mount.values() {
            match disks.iter_mut().find(|disk| disk.name == *name) {
                // The program is not started without it.
                Some(disk) => disk.optional = false,
                None => disks.push(DiskNeed { name: name.clone(), optional: false }),
            }
        }
    }

    /// The bundle that is linked into the program; folders are those beside the manifest.
    pub(super) fn pack(&self, beside: &Path) -> Result<Vec<u8>, String> {
        let mut entries = Entries::new();
        for (path, folder) in &self.files {
            add_parents(&mut entries, path);
            pack_folder(&mut entries, path.trim_end_matches('/'), &beside.join(folder))?;
        }
        for (path, disk) in &self.mount {
            add_parents(&mut entries, path);
            entries.insert(path.clone(), Packed::Mount(disk.clone()));
        }
        // In the order of paths a directory comes before what lies in it.
        Ok(encode(entries.iter().map(|(path, packed)| (path.as_str(), packed.item()))))
    }
}

fn add_parents(entries: &mut Entries, path: &str) {
    for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
        entries.entry(path[..at].to_owned()).or_insert(Packed::Directory);
    }
}

/// Adds a folder at a path, the root being the empty one.
fn pack_folder(entries: &mut Entries, path: &str, folder: &Path) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("files at {path}: {}: {error}", folder.display());
    if !path.is_empty() {
        entries.insert(path.to_owned(), Packed::Directory);
    }
    for entry in fs::read_dir(folder).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(format!("files at {path}: {} has a name that is not UTF-8", entry.path().display()));
        };
        let (inside, kind) = (format!("{path}/{name}"), entry.file_type().map_err(wrong)?);
        if kind.is_dir() {
            pack_folder(entries, &inside, &entry.path())?;
        } else if fs::metadata(entry.path()).is_ok_and(|found| found.is_file()) {
            let content = fs::read(entry.path()).map_err(wrong)?;
            entries.insert(inside, Packed::File(content));
        } else {
            let what = "is no file or folder; links to folders are not followed";
            return Err(format!("files at {path}: {} {what}", entry.path().display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Files, String> {
        read(Some(&serde_json::from_str(text).expect("JSON")))
    }

    #[test]
    fn folders_and_mounts_are_packed_in_the_order_of_paths() {
        let folder = std::env::temp_dir().join(format!("pollux-bundle-{}", std::process::id()));
        fs::create_dir_all(folder.join("assets/inner")).expect("a folder");
        fs::write(folder.join("assets/inner/b"), "B").expect("a file");
        fs::write(folder.join("assets/a"), "A").expect("a file");
        let files = said(r#"{"mount": {"/var/db": "data"}, "files": {"/usr/share": "assets"}}"#).expect("sound");
        let bytes = files.pack(&folder).expect("packed");
        let entries = filesystem::bundle::decode(&bytes).expect("a bundle");
        let expected = [
            ("/usr", Item::Directory),
            ("/usr/share", Item::Directory),
            ("/usr/share/a", Item::File(b"A")),
            ("/usr/share/inner", Item::Directory),
            ("/usr/share/inner/b", Item::File(b"B")),
            ("/var", Item::Directory),
            ("/var/db", Item::Mount("data")),
        ];
        assert_eq!(entries, expected);
        let mut disks = vec![DiskNeed { name: "data".into(), optional: true }];
        files.add_disks(&mut disks);
        assert_eq!(disks, [DiskNeed { name: "data".into(), optional: false }]);
        let missing = said(r#"{"files": {"/a": "nowhere"}}"#).expect("sound").pack(&folder).expect_err("no folder");
        assert!(missing.contains("nowhere"), "{missing}");
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn nonsense_is_named() {
        for (text, word) in [
            (r#"{"mount": ["/data"]}"#, "expected mount = "),
            (r#"{"mount": {"data": "data"}}"#, "no absolute path"),
            (r#"{"mount": {"/data/": "data"}}"#, "slashes"),
            (r#"{"files": {"/a/../b": "x"}}"#, "slashes"),
            (r#"{"mount": {"/data": ""}}"#, "mount at /data"),
            (r#"{"mount": {"/d": "a", "/d/e": "b"}}"#, "lies within /d"),
            (r#"{"mount": {"/": "a"}, "files": {"/x": "x"}}"#, "lies within /"),
            (r#"{"mount": {"/d": "a"}, "files": {"/d": "x"}}"#, "lies within /d"),
            (r#"{"mount": {"/d": "a", "/e": "a"}}"#, "disk a is mounted at"),
        ] {
            let error = said(text).map(drop).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(said("{}").expect("nothing").is_empty());
    }
}
