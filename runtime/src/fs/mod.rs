//! Files: directories packed into the image, and file systems on disks.
//!
//! What lies where is said in the program's manifest and packed into the image ([`filesystem::bundle`]). The root is a
//! directory of the image that cannot be written to; in it, or deeper, lie directories that were packed, and the file systems of
//! disks ([`filesystem::FileSystem`]), which can. [`mount`] sets it all up, before the program starts.
//!
//! Every function here may wait: on the running thread's stack, while others run. Errors are positive error numbers, those of Linux.
//! Times are those of the epoch's clock.
//!
//! Changes are gathered in memory. They are stable when a sync says so, when the program exits, and at most
//! [`COMMIT_AFTER`] after they were made.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use filesystem::FsError;

mod directory;
mod file;
mod locks;
mod mounts;
mod names;
mod path;
mod status;
#[cfg(test)]
mod tests;
mod tree;
mod volume;

pub use directory::Entry;
pub use file::{File, lock, open, read_at, sync_all, truncate, write_at};
pub use mounts::{MountFailed, mount};
pub use names::{
    change_directory, current_directory, link, make_directory, metadata, metadata_of, read_link, real_path, remove,
    rename, set_mode, set_mode_of, set_times, set_times_of, symlink,
};
pub use status::{Metadata, NewTimes};

use path::Place;
use tree::Tree;
use volume::Volume;

/// A positive error number.
pub type Errno = i32;
/// What operations return.
pub type Result<T> = core::result::Result<T, Errno>;

/// How long a change may wait until it is made stable without being asked for.
pub const COMMIT_AFTER: Duration = Duration::from_secs(5);

/// Linux's flags of `open` that hermit does not name.
pub mod flags {
    /// Writes return when they are stable.
    pub const O_DSYNC: i32 = 0o10_000;
    /// The last name must not be a symbolic link.
    pub const O_NOFOLLOW: i32 = 0o400_000;
    /// Closed when another program is executed, which never happens.
    pub const O_CLOEXEC: i32 = 0o2_000_000;
    /// Only to name things.
    pub const O_PATH: i32 = 0o10_000_000;
    /// A file without a name.
    pub const O_TMPFILE: i32 = 0o20_000_000;
}

/// What a guest has of files.
struct State {
    tree: Rc<Tree>,
    volumes: Vec<Rc<Volume>>,
    current: Place,
}

local! {
    static STATE: RefCell<Option<State>> = RefCell::new(None);
}

/// Calls `f` with the state; without one it is an empty root directory.
fn with_state<R>(f: impl FnOnce(&mut State) -> R) -> R {
    STATE.with(|state| {
        let mut state = state.borrow_mut();
        f(state.get_or_insert_with(|| State {
            tree: Rc::new(Tree::new()),
            volumes: Vec::new(),
            current: Place::Packed(tree::ROOT),
        }))
    })
}

fn the_tree() -> Rc<Tree> {
    with_state(|state| Rc::clone(&state.tree))
}

fn volume(index: usize) -> Result<Rc<Volume>> {
    with_state(|state| state.volumes.get(index).cloned().ok_or(hermit_abi::EIO))
}

/// Makes everything stable, as far as it can be: for the end of the program. What cannot is said on the console.
pub fn finish() {
    let volumes = with_state(|state| state.volumes.clone());
    for volume in volumes {
        // A task would wait for ever for a thread that is in the midst of something.
        if crate::thread::is_thread() || !volume.is_busy() {
            crate::sys::wait::block_on(volume.sync_or_say());
        }
    }
}

/// Forgets everything: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn reset() {
    let state = STATE.with(|state| state.borrow_mut().take());
    drop(state);
    locks::reset();
}

fn errno(error: FsError) -> Errno {
    match error {
        FsError::Io => hermit_abi::EIO,
        FsError::NotFound => hermit_abi::ENOENT,
        FsError::Exists => hermit_abi::EEXIST,
        FsError::NotDirectory => hermit_abi::ENOTDIR,
        FsError::IsDirectory => hermit_abi::EISDIR,
        FsError::NotEmpty => hermit_abi::ENOTEMPTY,
        FsError::NoSpace => hermit_abi::ENOSPC,
        FsError::TooLarge => hermit_abi::EFBIG,
        FsError::NameTooLong => hermit_abi::ENAMETOOLONG,
        FsError::Invalid => hermit_abi::EINVAL,
        FsError::TooManyLinks => hermit_abi::EMLINK,
        FsError::NotPermitted => hermit_abi::EPERM,
    }
}
