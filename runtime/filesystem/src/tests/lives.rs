//! Many lives of one device: operations until the power goes, at any write, and on from what is left. The device is small, so
//! that it is full now and then, the metadata log is replaced, and a commit may come in the middle of an operation; writes
//! and flushes fail; files are open that have lost their names.

use recordstore::model::{Crash, Faults, Mixer, ModelDevice};
use std::format;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::reference::{Op, Reference, View, apply, directory_of, find, name, view};
use super::{Fs, OPTIONS, now};
use crate::fs::Sabotage;
use crate::{BLOCK_BYTES, FileSystem, FsError, Ino, Kind, ROOT};

/// What the runs have come by; one that has not been there proves nothing.
#[derive(Debug, Default)]
struct Seen {
    lives: usize,
    full: usize,
    failed: usize,
    /// Commits in the middle of an operation.
    within: usize,
    replaced_logs: usize,
    nameless_writes: usize,
    /// Crashes that left another state than the last one that was synced.
    newer: usize,
}

/// A device's life: what is there, and what a crash may leave.
struct Life<'s> {
    fs: Fs,
    device: ModelDevice,
    now: Reference,
    /// What was stable when the last commit ended, and what the commits that were begun since have said.
    allowed: Vec<Reference>,
    /// Open files: their numbers here and there.
    open: Vec<(Ino, usize)>,
    seen: &'s mut Seen,
}

fn paths(mixer: &mut Mixer) -> Vec<u8> {
    let mut letter = || b'a' + mixer.below(4) as u8;
    let (first, second) = (letter(), letter());
    if mixer.below(2) == 0 { vec![first] } else { vec![first, b'/', second] }
}

fn draw(mixer: &mut Mixer) -> Op {
    let path = paths(mixer);
    let offset = [mixer.below(9000), 60_000 + mixer.below(10_000), mixer.below(300_000)][mixer.below(3) as usize];
    let bytes = [1 + mixer.below(200), 4000 + mixer.below(5000), 70_000, 200_000][mixer.below(4) as usize] as usize;
    match mixer.below(22) {
        0..8 => Op::Write { path, offset, bytes, fill: 1 + mixer.below(255) as u8 },
        8..10 => Op::Truncate { path, bytes: mixer.below(80_000) },
        10..12 => Op::MakeDirectory { path },
        12 => Op::Symlink { path },
        13 => Op::Link { from: path, to: paths(mixer) },
        14..17 => Op::Rename { from: path, to: paths(mixer) },
        17..19 => Op::Unlink { path },
        19 => Op::RemoveDirectory { path },
        _ => Op::Sync,
    }
}

impl Life<'_> {
    /// Does something to the file system, and the same to the memory of it. `steps` are states that a commit within it could find.
    fn judge(
        &mut self,
        what: &str,
        steps: impl FnOnce(&mut Reference) -> Vec<Reference>,
        act: impl FnOnce(&mut Fs) -> Result<usize, FsError>,
        after: impl FnOnce(&mut Reference, usize) -> bool,
    ) -> Result<(), String> {
        let (commits, log_bytes) = (self.fs.commits, self.fs.store.usage().live_bytes);
        let outcome = act(&mut self.fs);
        let begun = self.fs.commits.0 > commits.0;
        let ended = self.fs.commits.1 > commits.1;
        self.seen.replaced_logs += usize::from(self.fs.store.usage().live_bytes < log_bytes);
        if begun {
            if ended {
                self.allowed.clear();
            }
            let mut before = self.now.clone();
            self.allowed.push(before.clone());
            self.allowed.extend(steps(&mut before));
        }
        match outcome {
            Ok(count) => {
                if !after(&mut self.now, count) {
                    return Err(format!("{what} was done, and should have been refused"));
                }
            }
            Err(FsError::NoSpace) => self.seen.full += 1,
            Err(FsError::Io) => self.seen.failed += 1,
            Err(error) => {
                if after(&mut self.now.clone(), 0) {
                    return Err(format!("{what} was refused: {error}"));
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, path: &[u8], offset: u64, bytes: usize, fill: u8) -> Result<(), String> {
        let mut made = self.now.clone();
        let target = made.file_to_write(path);
        // It is made before anything is written, so it is there whatever becomes of that.
        let ino = match (find(&self.fs, path), target) {
            (Ok(ino), Some(_)) if self.now.file(path).is_some() => ino,
            (Ok(ino), Some(_)) => return Err(format!("{ino} is at {path:?}, where nothing should be")),
            (Err(FsError::NotFound), Some(_)) => {
                let directory = directory_of(&self.fs, path).map_err(|error| error.to_string())?;
                match self.fs.create_file(directory, name(path), 0o644, 2) {
                    Ok(ino) => {
                        self.now = made;
                        ino
                    }
                    Err(FsError::NoSpace) => return Ok(()),
                    Err(error) => return Err(format!("a file cannot be made: {error}")),
                }
            }
            // A link, a directory, or no directory to lie in.
            (_, None) => return Ok(()),
            (Err(error), Some(_)) => return Err(format!("a file is not to be found: {error}")),
        };
        let file = target.ok_or("it is no file")?;
        self.write_to(ino, file, offset, bytes, fill)
    }

    /// Writes to a file, which has a name or none. As far as it was written it is there: by whole blocks.
    fn write_to(&mut self, ino: Ino, file: usize, offset: u64, bytes: usize, fill: u8) -> Result<(), String> {
        let within = self.fs.commits.0;
        let steps = |before: &mut Reference| {
            let mut states = Vec::new();
            let mut end = offset - offset % BLOCK_BYTES as u64;
            while end < offset + bytes as u64 {
                end += BLOCK_BYTES as u64;
                before.write(file, offset, (end - offset).min(bytes as u64) as usize, fill);
                states.push(before.clone());
            }
            states
        };
        self.judge(
            "a write",
            steps,
            |fs| now(fs.write(ino, offset, &vec![fill; bytes], 3)),
            |reference, count| {
                reference.write(file, offset, count, fill);
                true
            },
        )?;
        self.seen.within += usize::from(self.fs.commits.0 > within);
        Ok(())
    }

    fn step(&mut self, mixer: &mut Mixer) -> Result<(), String> {
        match (mixer.below(12), self.open.len()) {
            (0, 0..3) => {
                let path = paths(mixer);
                if let Some((file, ino)) = self.now.file(&path).zip(find(&self.fs, &path).ok()) {
                    self.fs.open(ino).map_err(|error| error.to_string())?;
                    self.open.push((ino, file));
                }
                Ok(())
            }
            (1, 1..) => {
                let (ino, _) = self.open.remove(mixer.below(self.open.len() as u64) as usize);
                self.fs.close(ino);
                Ok(())
            }
            (2, 1..) => {
                let (ino, file) = self.open[mixer.below(self.open.len() as u64) as usize];
                let links = self.fs.attributes(ino).map_err(|error| error.to_string())?.links;
                self.seen.nameless_writes += usize::from(links == 0);
                self.write_to(ino, file, mixer.below(30_000), 1 + mixer.below(20_000) as usize, mixer.next() as u8)?;
                self.check_nameless(ino, file)
            }
            _ => match draw(mixer) {
                Op::Write { path, offset, bytes, fill } => self.write(&path, offset, bytes, fill),
                op => self.judge(
                    &format!("{op:?}"),
                    |_| Vec::new(),
                    |fs| apply(fs, &op).map(|()| 0),
                    |reference, _| reference.apply(&op),
                ),
            },
        }
    }

    /// A file without a name holds what was written to it, too.
    fn check_nameless(&mut self, ino: Ino, file: usize) -> Result<(), String> {
        let bytes = self.fs.attributes(ino).map_err(|error| error.to_string())?.bytes;
        let expected = self.now.file_bytes(file);
        if bytes == expected as u64 { Ok(()) } else { Err(format!("file {ino} has {bytes} bytes and not {expected}")) }
    }

    /// Everything is taken away: all room must be there again, and metadata weigh what an empty file system's do.
    fn empty(&mut self) -> Result<(), String> {
        let text = |error: FsError| error.to_string();
        for (ino, _) in self.open.drain(..) {
            self.fs.close(ino);
        }
        let mut directories = vec![ROOT];
        while let Some(&directory) = directories.last() {
            let entry = self.fs.next_entry(directory, None).map_err(text)?;
            match entry.map(|(name, ino, kind)| (name.to_vec(), ino, kind)) {
                Some((_, ino, Kind::Directory)) if !self.is_empty(ino) => directories.push(ino),
                Some((name, _, Kind::Directory)) => self.fs.remove_directory(directory, &name, 9).map_err(text)?,
                Some((name, ..)) => self.fs.unlink(directory, &name, 9).map_err(text)?,
                None => drop(directories.pop()),
            }
        }
        now(self.fs.sync()).map_err(text)?;
        let (free, all) = (self.fs.space.free(), self.fs.space.blocks() - 1);
        let weight = self.fs.weight;
        if (free, self.fs.inodes.len()) != (all, 1) || weight.log_bytes != crate::fs::Weight::INODE.log_bytes {
            return Err(format!("{free} of {all} blocks are free, {weight:?}, {} inodes", self.fs.inodes.len()));
        }
        Ok(())
    }

    fn is_empty(&self, directory: Ino) -> bool {
        matches!(self.fs.next_entry(directory, None), Ok(None))
    }

    /// Makes everything stable, if that can be done. What was counted while it was mounted is then what a mount counts.
    fn ends_in_peace(&mut self) -> Result<bool, String> {
        for (ino, _) in core::mem::take(&mut self.open) {
            self.fs.close(ino);
        }
        let sync = |fs: &mut Fs| now(fs.sync()).map(|()| 0);
        self.judge("a sync", |_| Vec::new(), sync, |_, _| true)?;
        if self.fs.is_changed() {
            return Ok(false);
        }
        let found = view(&mut self.fs).map_err(|error| format!("it cannot be read: {error}"))?;
        if !self.now.is_seen_as(&found) {
            return Err(format!("at the end of a life: {}", difference(&found, &self.now.view())));
        }
        let (other, _) = now(FileSystem::mount(self.device.after(Crash::LoseAll), OPTIONS))
            .map_err(|error| format!("a copy does not mount: {error}"))?;
        let counts = |fs: &Fs| (fs.space.free(), fs.weight.log_bytes, fs.inodes.len(), fs.next_ino);
        let (here, there) = (counts(&self.fs), counts(&other));
        if here != there || self.fs.weight.memory_bytes < other.weight.memory_bytes {
            return Err(format!("{here:?} {:?} here, {there:?} {:?} there", self.fs.weight, other.weight));
        }
        Ok(true)
    }
}

/// Mounts what a life has left, perhaps after a power failure in the middle of that.
fn mount_again(device: &ModelDevice, mixer: &mut Mixer) -> Result<(Fs, ModelDevice), String> {
    let mut device = device.clone();
    if mixer.below(3) == 0 {
        device.set_faults(Faults { power_off_after: Some(mixer.below(6)), ..Faults::default() });
        drop(now(FileSystem::mount(device.clone(), OPTIONS)));
        device = device.after(crash(mixer));
    }
    let (fs, _) = now(FileSystem::mount(device.clone(), OPTIONS)).map_err(|error| format!("no mount: {error}"))?;
    Ok((fs, device))
}

fn crash(mixer: &mut Mixer) -> Crash {
    match mixer.below(6) {
        0 => Crash::LoseAll,
        1 => Crash::KeepAll,
        2..4 => Crash::Blocks(mixer.next()),
        _ => Crash::Bytes(mixer.next()),
    }
}

/// The first path at which two views differ.
fn difference(found: &View, expected: &View) -> String {
    for path in found.keys().chain(expected.keys()) {
        let (found, expected) = (found.get(path), expected.get(path));
        if found == expected {
            continue;
        }
        let length = |node: Option<&(Vec<u8>, u32)>| node.map(|(content, names)| (content.len(), *names));
        let at = found
            .zip(expected)
            .and_then(|((found, _), (expected, _))| found.iter().zip(expected).position(|(one, other)| one != other));
        let path = String::from_utf8_lossy(path);
        return format!("{path}: found {:?}, expected {:?}, from byte {at:?} on", length(found), length(expected));
    }
    "no difference".to_string()
}

/// The lives of one device; what went wrong first.
fn live(seed: u64, lives: u64, sabotage: Sabotage, seen: &mut Seen) -> Result<(), String> {
    let mut mixer = Mixer(seed);
    // 1 to 3 MiB: a quarter to a third of that is the log's at the least.
    let mut device = ModelDevice::new(2048 + mixer.below(4096));
    let mut base = Reference::default();
    for life in 0..lives {
        let (mut fs, mounted) = mount_again(&device, &mut mixer).map_err(|why| format!("life {life}: {why}"))?;
        fs.sabotage = sabotage;
        fs.space.eager = mixer.below(2) == 0;
        device = mounted;
        let fail_at = (mixer.below(3) == 0).then(|| device.changes() + mixer.below(60));
        let power_off_after = Some(device.changes() + mixer.below(120));
        device.set_faults(Faults { fail_at, power_off_after, ..Faults::default() });
        let (now, allowed) = (base.clone(), vec![base.clone()]);
        let mut life_of = Life { fs, device: device.clone(), now, allowed, open: Vec::new(), seen: &mut *seen };
        for step in 0..60 {
            if power_off_after.is_some_and(|at| device.changes() >= at) {
                break;
            }
            life_of.step(&mut mixer).map_err(|why| format!("life {life}, step {step}: {why}"))?;
        }
        if mixer.below(4) == 0 && life_of.ends_in_peace().map_err(|why| format!("life {life}: {why}"))? {
            base = life_of.now;
            device = device.after(Crash::LoseAll);
            continue;
        }
        let allowed = life_of.allowed;
        let crash = crash(&mut mixer);
        device = device.after(crash);
        base = after(&device, &allowed, sabotage, seen).map_err(|why| format!("life {life}, {crash:?}: {why}"))?;
        seen.lives += 1;
    }
    let (fs, device) = mount_again(&device, &mut mixer)?;
    let (now, allowed) = (base.clone(), Vec::new());
    Life { fs, device, now, allowed, open: Vec::new(), seen }.empty()
}

/// Which of the states that are allowed is there.
fn after(
    device: &ModelDevice,
    allowed: &[Reference],
    sabotage: Sabotage,
    seen: &mut Seen,
) -> Result<Reference, String> {
    let mounted = now(FileSystem::mount(device.after(Crash::KeepAll), OPTIONS));
    let (mut fs, _) = mounted.map_err(|error| format!("it does not mount: {error}"))?;
    fs.sabotage = sabotage;
    let found = view(&mut fs).map_err(|error| format!("it cannot be read: {error}"))?;
    let at = allowed.iter().position(|state| state.is_seen_as(&found)).ok_or_else(|| {
        let differences: Vec<_> = allowed.iter().map(|state| difference(&found, &state.view())).collect();
        format!("it is none of {} states: {differences:#?}", allowed.len())
    })?;
    seen.newer += usize::from(at > 0);
    let state = allowed.get(at).cloned().unwrap_or_default();
    // Whoever makes a file longer finds zeros there, and not what somebody has written who was not to the end.
    for (path, (content, names)) in found.iter().filter(|(_, (_, names))| *names > 0) {
        let Ok(ino) = find(&fs, path) else { continue };
        if fs.attributes(ino).map(|it| it.kind) != Ok(Kind::File) || now(fs.truncate(ino, 500_000, 1)).is_err() {
            continue;
        }
        let mut longer = vec![1; 500_000];
        let read = now(fs.read(ino, 0, &mut longer)).map_err(|error| format!("{path:?} made longer: {error}"))?;
        let behind = longer.get(content.len()..read).unwrap_or_default();
        if behind.iter().any(|&byte| byte != 0) {
            return Err(format!("{path:?} of {names} names made longer holds what was never there"));
        }
    }
    Ok(state)
}

/// `POLLUX_LIVES` devices instead of some; `POLLUX_SEED` is the first one's seed.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_life_goes_on_from_what_was_stable() {
    let (first, count) = (number("POLLUX_SEED").unwrap_or(1), number("POLLUX_LIVES").unwrap_or(20));
    let mut seen = Seen::default();
    for seed in first..first + count {
        live(seed, 12, Sabotage::None, &mut seen).unwrap_or_else(|why| panic!("POLLUX_SEED={seed}: {why}"));
    }
    std::println!("seeds {first} to {}: {seen:?}", first + count - 1);
    let Seen { lives, full, failed, within, replaced_logs, nameless_writes, newer } = seen;
    let reached = [lives, full, failed, within, replaced_logs, nameless_writes, newer];
    assert!(count < 20 || reached.iter().all(|&count| count > 3), "{seen:?}");
}

/// What the other crash tests cannot find, because it takes a commit in the middle of an operation, is found here.
#[test]
fn mistakes_are_found_in_the_middle_of_an_operation() {
    for sabotage in [Sabotage::LateLength, Sabotage::NoDataFlush, Sabotage::FreeAtOnce] {
        let found = (0..400).any(|seed| live(seed, 12, sabotage, &mut Seen::default()).is_err());
        assert!(found, "{sabotage:?} was not found");
    }
}
