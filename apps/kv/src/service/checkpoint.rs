//! `DEBUG CHECKPOINT` and `DEBUG RESTORE`: the databases by the user-level checkpoints of the runtime, to compare those with
//! checkpoints of the whole machine. With a disk `data` that nothing else uses they are kept there, else in memory.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Debug;

use runtime::block::Disk;
use runtime::checkpoint::{Archive, Checkpoints, Encoded, Error, Memory, NotDecoded, Target};

use super::{Shared, memory};
use crate::persist;

const NAME: &str = "databases";
const DISK: &str = "data";

/// What is kept in memory.
pub(super) struct Saved(Memory);

impl Default for Saved {
    fn default() -> Self {
        Self(Memory::new(u64::MAX))
    }
}

/// All databases.
struct Databases(Rc<Shared>);

impl Encoded for Databases {
    fn encode(&self, out: &mut Vec<u8>) {
        persist::dump(&self.0.server.borrow(), out);
    }

    fn decode<'a>(&'a self, encoded: &'a [u8]) -> Result<Box<dyn FnOnce() + 'a>, NotDecoded> {
        if !persist::check(encoded) {
            return Err(NotDecoded);
        }
        Ok(Box::new(|| {
            let loaded = persist::load(&mut self.0.server.borrow_mut(), encoded);
            debug_assert!(loaded, "what was checked is applied");
        }))
    }
}

fn checkpoints(shared: &Rc<Shared>) -> Result<Checkpoints, String> {
    if shared.server.borrow().journal.is_on() {
        return Err("ERR DEBUG CHECKPOINT and RESTORE are not for a store with a log".into());
    }
    let checkpoints = Checkpoints::new("kv");
    checkpoints.encoded(NAME, 1, Databases(Rc::clone(shared))).map_err(|error| error.to_string())?;
    Ok(checkpoints)
}

fn text<E: Debug>(error: Error<E>) -> String {
    format!("ERR {error}")
}

/// Saves all databases as they are now; gives the bytes of the checkpoint.
pub(super) async fn take(shared: &Rc<Shared>) -> Result<u64, String> {
    let checkpoints = checkpoints(shared)?;
    let disk = Disk::open(DISK).ok();
    // The encoding, and in memory the checkpoint, each beside the data.
    let copies = if disk.is_some() { 1 } else { 2 };
    if !memory::may_grow_to(copies * shared.server.borrow().data_bytes()) {
        return Err("OOM no memory for a checkpoint".into());
    }
    let entry = match disk {
        Some(disk) => {
            let archive = Archive::open(disk).await.map_err(text)?;
            checkpoints.full(NAME, &archive).map_err(text)?.commit().await.map_err(text)?
        }
        None => checkpoints.full(NAME, &shared.saved.0).map_err(text)?.commit().await.map_err(text)?,
    };
    Ok(entry.bytes)
}

/// Goes back to what was saved; gives the number of keys.
pub(super) async fn restore(shared: &Rc<Shared>) -> Result<u64, String> {
    let checkpoints = checkpoints(shared)?;
    let newest = match Disk::open(DISK) {
        Ok(disk) => restore_from(&checkpoints, &Archive::open(disk).await.map_err(text)?).await,
        Err(_) => restore_from(&checkpoints, &shared.saved.0).await,
    };
    newest?;
    Ok(shared.server.borrow().keys() as u64)
}

async fn restore_from<T: Target>(checkpoints: &Checkpoints, target: &T) -> Result<(), String> {
    checkpoints.restore(target, NAME).await.map(|_| ()).map_err(text)
}
