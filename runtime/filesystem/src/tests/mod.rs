//! The file system against a memory of what it should hold, on a device that loses, tears, fails and forgets.

mod crashes;
mod damage;
mod faults;
mod lives;
mod plain;
mod reference;

use recordstore::model::{ModelDevice, run};
use std::boxed::Box;
use std::future::Future;

use crate::{FileSystem, MountError, Mounted, Options};

type Fs = FileSystem<ModelDevice>;

/// 4 MiB.
const BLOCKS: u64 = 8192;

const OPTIONS: Options =
    Options { new_key: 7, cache_bytes: 256 * 1024, metadata_bytes: 1 << 20, now_ns: 1, blank: None };

/// Runs what never waits for anybody else.
fn now<T>(future: impl Future<Output = T>) -> T {
    run(Box::pin(future), || ())
}

fn mount(device: &ModelDevice) -> Result<(Fs, Mounted), MountError> {
    now(FileSystem::mount(device.clone(), OPTIONS))
}

fn mounted(device: &ModelDevice) -> Fs {
    mount(device).unwrap_or_else(|error| panic!("it mounts: {error}")).0
}
