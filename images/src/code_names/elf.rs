//! Names out of a guest's ELF, and whether it is still the one that a pair has started with.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use addr2line::Loader;
use hypercall::layout::GUEST_BASE;
use serde::{Deserialize, Serialize};

use super::{Function, Names};

/// Addresses this far above the guest's base can be code.
const CODE_LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// Whether there can be code of a guest at an address.
pub(crate) fn is_code(address: u64) -> bool {
    (GUEST_BASE..GUEST_BASE + CODE_LIMIT_BYTES).contains(&address)
}

/// The guest's ELF with symbols as it was when a pair started. Builds put a new file in its place and leave it alone when nothing has
/// changed, so the same file has the same symbols.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolFile {
    /// Where it is; `None` for an image that has none beside it.
    path: Option<PathBuf>,
    /// By which the file is known again: device, inode, bytes, time of the last change in nanoseconds.
    stamp: Option<(u64, u64, u64, i64)>,
}

impl SymbolFile {
    /// The file as it is now.
    pub fn note(path: Option<&Path>) -> Self {
        let path = path.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        Self { stamp: path.as_deref().and_then(stamp), path }
    }

    /// Its path if it is still the same file, else why there are no names.
    ///
    /// # Errors
    /// A text for people.
    pub fn unchanged(&self) -> Result<&Path, String> {
        let path = self.path.as_deref().ok_or("the image has no symbols beside it")?;
        match (self.stamp, stamp(path)) {
            (Some(before), Some(now)) if before == now => Ok(path),
            (Some(_), Some(_)) => Err(format!(
                "{} was built anew since the pair started, so its symbols are others; start the pair again",
                path.display()
            )),
            _ => Err(format!("{} with the symbols is not there; build the image again", path.display())),
        }
    }
}

fn stamp(path: &Path) -> Option<(u64, u64, u64, i64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.len(), file.mtime().wrapping_mul(1_000_000_000).wrapping_add(file.mtime_nsec())))
}

/// Names out of an ELF, which is opened when the first one is looked for. When there are none it says why, once.
pub struct ElfNames<F> {
    file: Option<SymbolFile>,
    /// `None` before the first name is looked for.
    opened: Option<Option<Loader>>,
    tell: F,
}

impl<F: FnMut(&str)> ElfNames<F> {
    /// Names out of this file; `None` where nobody has noted one. `tell` is called with the reason why there are no names.
    pub fn new(file: Option<SymbolFile>, tell: F) -> Self {
        Self { file, opened: None, tell }
    }

    fn open(&self) -> Result<Loader, String> {
        let file = self.file.as_ref().ok_or("it was not noted which symbols are the pair's")?;
        let path = file.unchanged()?;
        Loader::new(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
    }
}

impl<F: FnMut(&str)> Names for ElfNames<F> {
    fn at(&mut self, address: u64) -> Vec<Function> {
        if self.opened.is_none() {
            let opened = self.open();
            if let Err(why) = &opened {
                (self.tell)(&format!("addresses of code are shown without names: {why}"));
            }
            self.opened = Some(opened.ok());
        }
        match &self.opened {
            Some(Some(loader)) if is_code(address) => functions(loader, address),
            _ => Vec::new(),
        }
    }
}

impl Names for &Loader {
    fn at(&mut self, address: u64) -> Vec<Function> {
        if is_code(address) { functions(self, address) } else { Vec::new() }
    }
}

/// All functions at an address: the innermost first, then those that it was inlined into.
pub(crate) fn functions(loader: &Loader, address: u64) -> Vec<Function> {
    let mut found = Vec::new();
    if let Ok(mut frames) = loader.find_frames(address) {
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|function| function.demangle().ok());
            let place = frame
                .location
                .and_then(|place| Some((place.file?.to_owned(), place.line.unwrap_or(0), place.column.unwrap_or(0))));
            if name.is_some() || place.is_some() {
                let name = name.map_or_else(|| "?".to_owned(), |name| name.into_owned());
                found.push(Function { name, place });
            }
        }
    }
    if found.is_empty() {
        let symbol = loader.find_symbol(address);
        found.extend(symbol.map(|name| {
            let name = addr2line::demangle_auto(name.into(), None).into_owned();
            Function { name, place: None }
        }));
    }
    found
}
