//! What lies on the disk of a file system. The first byte says what the rest is: the disk's first blocks as they are; damage to
//! a good file system, block by block; or records of its log, which is sound. Whatever it is, a mount ends, says what is wrong or
//! gives a file system that can be looked at and worked with, and takes no more memory than it may.
#![no_main]

#[path = "../shared/source.rs"]
mod source;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use filesystem::{BLOCK_BYTES, FileSystem, FsError, Ino, Kind, MountError, Options, ROOT};
use libfuzzer_sys::fuzz_target;
use recordstore::model::{Crash, ModelDevice, ModelError, run};
use recordstore::{Batch, BlockDevice, Store};
use source::Source;

const SECTOR_BYTES: usize = recordstore::BLOCK_BYTES;
/// 1 MiB, the smallest; a quarter of it is the log.
const BLOCKS: u64 = 2048;
const LOG_BLOCKS: u64 = 512;
const DATA_BLOCKS: u32 = 192;
/// Where the log says that it is one.
const SUPERBLOCKS: [u64; 2] = [0, 8];
const METADATA_BYTES: usize = 64 * 1024;
const OPTIONS: Options =
    Options { new_key: 7, cache_bytes: 256 * 1024, metadata_bytes: METADATA_BYTES, now_ns: 1, blank: None };
/// What a mount may take at once: metadata and what a commit brings, twice as much as may stay of each; a list of what has
/// which name; the buffer of the longest record, and those of transfers.
const MOST_MOUNT_BYTES: usize = 8 * METADATA_BYTES + 6 * 64 * 1024;
/// Reads of a mount: each block once alone, at the very most some three times.
const MOST_READS: u64 = 3 * BLOCKS;
/// Names that are looked at, and bytes of each file.
const MOST_NAMES: usize = 2000;
const MOST_FILE_BYTES: usize = 64 * 1024;

/// Counts what is allocated.
struct Counting;

static TAKEN_BYTES: AtomicUsize = AtomicUsize::new(0);
static MOST_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system's allocator's; numbers are added up beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let taken = TAKEN_BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST_BYTES.fetch_max(taken, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        TAKEN_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

/// A device that counts reads.
#[derive(Clone, Debug)]
struct Device {
    model: ModelDevice,
    reads: Rc<Cell<u64>>,
}

impl BlockDevice for Device {
    type Error = ModelError;

    fn blocks(&self) -> u64 {
        self.model.blocks()
    }

    async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), ModelError> {
        self.reads.set(self.reads.get() + 1);
        self.model.read(first_block, into).await
    }

    async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), ModelError> {
        self.model.write(first_block, from).await
    }

    async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), ModelError> {
        self.model.write_zeroes(first_block, blocks).await
    }

    async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), ModelError> {
        self.model.discard(first_block, blocks).await
    }

    async fn flush(&self) -> Result<(), ModelError> {
        self.model.flush().await
    }
}

type Fs = FileSystem<Device>;

fn now<T>(future: impl Future<Output = T>) -> T {
    run(future, || ())
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 3 {
        0 => judge(&as_it_is(bytes)),
        1 => judge(&damaged(&mut Source(bytes))),
        _ => judge(&logged(&mut Source(bytes))),
    }
});

impl Source<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A small number mostly, and now and then any.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            254 => u64::MAX - u64::from(self.byte()),
            253 => 1 << (self.byte() % 64),
            small => u64::from(small % 16),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        (u64::from(self.byte()) << 8 | u64::from(self.byte())) % limit
    }
}

/// The input is what lies on the device from its beginning on.
fn as_it_is(bytes: &[u8]) -> ModelDevice {
    let device = ModelDevice::new(BLOCKS);
    for (block, content) in (0..BLOCKS).zip(bytes.chunks(SECTOR_BYTES)) {
        let mut whole = [0; SECTOR_BYTES];
        whole[..content.len()].copy_from_slice(content);
        device.set_block(block, whole);
    }
    device
}

/// Blocks of a file system in use that are not zeros.
fn good() -> &'static [(u64, [u8; SECTOR_BYTES])] {
    static GOOD: OnceLock<Vec<(u64, [u8; SECTOR_BYTES])>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let device = ModelDevice::new(BLOCKS);
        let mut fs = mount(&device).expect("a new one");
        fill(&mut fs).expect("there is room");
        (0..BLOCKS).map(|at| (at, device.block(at))).filter(|(_, block)| block.iter().any(|&byte| byte != 0)).collect()
    })
}

/// Directories, links, files with holes and with two names, and what was changed and removed, in several commits.
fn fill(fs: &mut Fs) -> Result<(), FsError> {
    let directory = fs.create_directory(ROOT, b"directory", 0o755, 1)?;
    fs.create_link(ROOT, b"link", b"directory/file", 1)?;
    let file = fs.create_file(directory, b"file", 0o644, 1)?;
    for round in 0..3 {
        now(fs.write(file, round * 9000, &[round as u8 + 1; 12_000], round))?;
        now(fs.sync())?;
    }
    fs.link(file, ROOT, b"other", 1)?;
    let gone = fs.create_file(ROOT, b"gone", 0o644, 1)?;
    now(fs.write(gone, 500_000, &[9; 5000], 1))?;
    now(fs.sync())?;
    now(fs.truncate(file, 7000, 1))?;
    fs.unlink(ROOT, b"gone", 1)?;
    fs.rename((directory, b"file"), (ROOT, b"renamed"), false, 1)?;
    now(fs.sync())
}

/// A good file system, and what has become of it.
fn damaged(source: &mut Source<'_>) -> ModelDevice {
    let device = ModelDevice::new(BLOCKS);
    good().iter().for_each(|(at, block)| device.set_block(*at, *block));
    let used = good().len() as u64;
    let pick = |source: &mut Source<'_>| good()[source.below(used) as usize].0;
    for _ in 0..32 {
        if source.is_empty() {
            break;
        }
        let at = pick(source);
        let mut block = device.block(at);
        match source.byte() % 6 {
            0 | 1 => block[source.below(SECTOR_BYTES as u64) as usize] ^= source.byte().max(1),
            2 => block[source.below(SECTOR_BYTES as u64) as usize..].fill(0),
            3 => block.fill(source.byte()),
            4 => block = device.block(pick(source)),
            _ => {
                let from = source.below(SECTOR_BYTES as u64 - 8) as usize;
                block[from..from + 8].copy_from_slice(&source.number().to_le_bytes());
            }
        }
        device.set_block(at, block);
    }
    device
}

/// A log with the records of the input, all of it as a log should be.
fn logged(source: &mut Source<'_>) -> ModelDevice {
    let device = ModelDevice::new(BLOCKS);
    let log = Front(device.clone());
    let mut batch = Batch::new();
    let words = |batch: &mut Batch, kind: u8, words: &[u64]| {
        batch.open();
        batch.extend(&[kind]);
        words.iter().for_each(|word| batch.extend(&word.to_le_bytes()));
    };
    let format: [u32; 3] =
        [1, BLOCK_BYTES as u32, if source.byte() == 255 { source.number() as u32 } else { DATA_BLOCKS }];
    batch.open();
    batch.extend(&[0]);
    format.iter().for_each(|word| batch.extend(&word.to_le_bytes()));
    batch.close();
    batch.push(&[1, 1]);
    if source.byte() != 255 {
        inode(&mut batch, ROOT, 1, 1, 0, ROOT, &[]);
    }
    while !source.is_empty() && batch.bytes() < 40_000 {
        match source.byte() % 10 {
            0 | 1 => {
                let (ino, kind, links) = (source.number(), source.byte() % 4, source.number() as u32);
                let (bytes, parent) = (source.number() << (source.byte() % 5 * 12), source.number());
                inode(&mut batch, ino, kind, links, bytes, parent, &source.bytes(40));
            }
            2..=4 => {
                let (directory, ino) = (source.number(), source.number());
                words(&mut batch, 3, &[directory, ino]);
                batch.extend(&source.bytes(255));
                batch.close();
            }
            5 => {
                let (ino, index, block) = (source.number(), source.number(), source.number() as u32);
                words(&mut batch, 4, &[ino, index]);
                batch.extend(&block.to_le_bytes());
                (0..source.byte() % 80).for_each(|sum| batch.extend(&u64::from(sum).to_le_bytes()));
                batch.close();
            }
            6 => {
                let (ino, index) = (source.number(), source.number());
                words(&mut batch, 5, &[ino, index]);
                batch.close();
            }
            7 => {
                words(&mut batch, 6, &[source.number()]);
                batch.close();
            }
            8 => {
                words(&mut batch, 7, &[source.number()]);
                batch.close();
                batch.push(&[1, u8::from(source.byte() == 255)]);
            }
            _ => batch.push(&source.bytes(255)),
        }
    }
    if source.byte() != 255 {
        words(&mut batch, 7, &[100]);
        batch.close();
    }
    let (mut store, _) = now(Store::open(log, recordstore::Options::default(), |_| ())).expect("a new log");
    now(store.append(&batch)).expect("it has room");
    now(store.sync()).expect("synced");
    device
}

fn inode(batch: &mut Batch, ino: Ino, kind: u8, links: u32, bytes: u64, parent: Ino, target: &[u8]) {
    batch.open();
    batch.extend(&[2]);
    batch.extend(&ino.to_le_bytes());
    batch.extend(&[kind]);
    batch.extend(&0o644_u32.to_le_bytes());
    batch.extend(&links.to_le_bytes());
    [bytes, 1, 2, 3, 4, parent].iter().for_each(|word| batch.extend(&word.to_le_bytes()));
    batch.extend(target);
    batch.close();
}

/// The part of the device that is the log.
#[derive(Debug)]
struct Front(ModelDevice);

impl BlockDevice for Front {
    type Error = ModelError;

    fn blocks(&self) -> u64 {
        LOG_BLOCKS
    }

    async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), ModelError> {
        self.0.read(first_block, into).await
    }

    async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), ModelError> {
        self.0.write(first_block, from).await
    }

    async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), ModelError> {
        self.0.write_zeroes(first_block, blocks).await
    }

    async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), ModelError> {
        self.0.discard(first_block, blocks).await
    }

    async fn flush(&self) -> Result<(), ModelError> {
        self.0.flush().await
    }
}

/// Mounts, and counts what that takes.
fn mount(model: &ModelDevice) -> Result<Fs, MountError> {
    let device = Device { model: model.clone(), reads: Rc::default() };
    let before = TAKEN_BYTES.load(Ordering::Relaxed);
    MOST_BYTES.store(before, Ordering::Relaxed);
    let mounted = now(FileSystem::mount(device.clone(), OPTIONS));
    let taken = MOST_BYTES.load(Ordering::Relaxed) - before;
    assert!(taken <= MOST_MOUNT_BYTES, "a mount took {taken} bytes");
    assert!(device.reads.get() <= MOST_READS, "a mount took {} reads", device.reads.get());
    mounted.map(|(fs, _)| fs)
}

fn judge(device: &ModelDevice) {
    let before: Vec<_> = (0..BLOCKS).map(|at| device.block(at)).collect();
    let is_blank = before.iter().flatten().all(|&byte| byte == 0);
    let mut fs = match mount(device) {
        Ok(fs) => fs,
        Err(error) => {
            assert!(!error.to_string().is_empty() && !is_blank, "{error}");
            assert!(!matches!(error, MountError::Device(_) | MountError::TooSmall { .. }), "{error}");
            // All that an opening of the log may have changed is the number of openings.
            let after = device.after(Crash::KeepAll);
            let mut content = (0..BLOCKS).zip(&before).filter(|(at, _)| !SUPERBLOCKS.contains(at));
            assert!(content.all(|(at, block)| after.block(at) == *block), "it was not left as it was: {error}");
            return;
        }
    };
    walk(&mut fs);
    let worked = work(&mut fs);
    assert!(matches!(worked, Ok(()) | Err(FsError::NoSpace)), "{worked:?}");
    drop(fs);
    let mut again = mount(&device.after(Crash::LoseAll)).expect("what was mounted and synced mounts again");
    if worked.is_ok() {
        let ino = again.lookup(ROOT, b"a new file").expect("it was synced");
        let mut content = [0; 9000];
        assert_eq!(now(again.read(ino, 5, &mut content)), Ok(9000));
        assert!(content.iter().all(|&byte| byte == 7));
    }
    walk(&mut again);
}

/// Looks at everything. A block may not be what was written; that is an error of the read, and of nothing else.
fn walk(fs: &mut Fs) {
    let mut directories = vec![ROOT];
    let mut names = 0;
    while let Some(directory) = directories.pop() {
        let mut last: Option<Vec<u8>> = None;
        while let Some((name, ino, kind)) = fs.next_entry(directory, last.as_deref()).expect("a directory") {
            assert!(last.as_deref().is_none_or(|last| last < name), "names come in order");
            last = Some(name.to_vec());
            names += 1;
            assert!(names <= MOST_NAMES, "there is no end of names");
            let attributes = fs.attributes(ino).expect("it has a name");
            match kind {
                Kind::Directory => {
                    assert_eq!(fs.parent(ino), Ok(directory));
                    assert_eq!(fs.name_of(ino), last.as_deref());
                    directories.push(ino);
                }
                Kind::Link => assert_eq!(fs.target(ino).map(|target| target.len() as u64), Ok(attributes.bytes)),
                Kind::File => {
                    let mut content = vec![0; MOST_FILE_BYTES];
                    match now(fs.read(ino, 0, &mut content)) {
                        Ok(bytes) => assert!(bytes as u64 <= attributes.bytes),
                        Err(error) => assert_eq!(error, FsError::Io),
                    }
                }
            }
        }
    }
}

/// What a program might do.
fn work(fs: &mut Fs) -> Result<(), FsError> {
    match fs.unlink(ROOT, b"a new file", 5) {
        Ok(()) | Err(FsError::NotFound) => {}
        // Somebody has called a directory so.
        Err(_) => return Err(FsError::NoSpace),
    }
    let ino = fs.create_file(ROOT, b"a new file", 0o644, 5)?;
    let mut done = 0;
    while done < 9000 {
        done += now(fs.write(ino, 5 + done as u64, &[7; 9000][done..], 5))?;
    }
    now(fs.sync())
}
