//! A program's own checkpoints: the first byte says whether the rest is a checkpoint in memory or the first blocks of an
//! archive. What is refused has changed nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use recordstore::model::{ModelDevice, run};
use user_checkpoint::{Archive, Checkpoints, Entry, Error, Memory, Target};

const REGION_BYTES: usize = 5000;
const DEVICE_BLOCKS: u64 = 100;
const BLOCK_BYTES: usize = 512;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    if kind % 2 == 0 { in_memory(bytes) } else { on_a_device(bytes) }
});

fn in_memory(bytes: &[u8]) {
    // As a target would name it: by the number in its header and the last checksum.
    let word = |at: Option<usize>| {
        let word = at.and_then(|at| bytes.get(at..at + 8)).and_then(|word| word.try_into().ok());
        word.map_or(0, u64::from_le_bytes)
    };
    let (sequence, id) = (word(Some(24)), word(bytes.len().checked_sub(8)));
    let checkpoints = Checkpoints::new("fuzz");
    let region = checkpoints.region("region", vec![1; REGION_BYTES], &[]).expect("a new name");
    let value = checkpoints.value("value", 1, 77_u32).expect("a new name");
    let memory = Memory::new(1 << 20);
    let entry = Entry { name: "fuzz".into(), sequence, id, base: None, bytes: 0 };
    if memory.import(entry, bytes.to_vec()).is_err() {
        return;
    }
    if let Err(error) = run(checkpoints.restore(&memory, sequence), || ()) {
        assert!(!matches!(error, Error::HalfRestored { .. }), "{error}");
        assert!(
            region.with(|bytes| bytes.iter().all(|&byte| byte == 1)) && value.with(|value| *value == 77),
            "{error}"
        );
    }
    let again = run(checkpoints.full("again", &memory).expect("nothing else is taken").commit(), || ());
    assert!(again.is_ok(), "{again:?}");
}

fn on_a_device(bytes: &[u8]) {
    let device = ModelDevice::new(DEVICE_BLOCKS);
    for (block, content) in (0..DEVICE_BLOCKS).zip(bytes.chunks(BLOCK_BYTES)) {
        let mut whole = [0; BLOCK_BYTES];
        whole[..content.len()].copy_from_slice(content);
        device.set_block(block, whole);
    }
    let Ok(archive) = run(Archive::open(device), || ()) else { return };
    for entry in archive.entries() {
        let mut place = vec![0; entry.bytes.min(10_000) as usize];
        run(archive.read(entry.sequence, 0, &mut place), || ()).expect("entries lie on the device");
    }
}
