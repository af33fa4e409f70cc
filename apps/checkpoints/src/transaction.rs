//! Algorithm 3: application-level roll-back, a transaction that undoes itself when its task panics.
//!
//! Images do not unwind, so a panicking task usually ends the program. The work of a transaction runs as a *contained
//! computation*: on a stack of its own, which is given up where it panics, at the same instruction in both replicas. The
//! state is lent to it by value and works in place; if it panics the state is lost with the stack, in whatever disorder it
//! was. The checkpoint taken before brings it back.
//!
//! A transaction may move what it likes in whatever order, without a thought about half-done changes. What it may not do is
//! tell others of them: it computes, and has no network (see `runtime::compute`).

use core::convert::Infallible;
use core::mem;

use runtime::checkpoint::{Checkpoints, Error, Memory, Value};
use runtime::compute::{Panicked, spawn_contained};
use runtime::sync::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Stack of a transaction, in bytes.
const STACK_BYTES: usize = 48 * 1024;
/// Name of the checkpoint.
const UNDO: &str = "undo";

/// A value that is changed by transactions only, one after the other.
pub struct Transactional<T> {
    checkpoints: Checkpoints,
    value: Value<T>,
    memory: Memory,
    turn: Mutex<()>,
}

/// Why a transaction has changed nothing.
#[derive(Debug)]
pub enum Undone {
    /// It has panicked.
    Panicked(Panicked),
    /// There is no room for the checkpoint, or another is being taken.
    Checkpoint(Error<Infallible>),
}

impl<T: Serialize + DeserializeOwned + Default + Send + 'static> Transactional<T> {
    /// `memory` has room for two checkpoints of the value: the old one is dropped when the new one is there.
    pub fn new(checkpoints: Checkpoints, value: Value<T>, memory: Memory) -> Self {
        Self { checkpoints, value, memory, turn: Mutex::new(()) }
    }

    /// Does `work` on the value: all of it, or nothing when it panics.
    ///
    /// # Errors
    /// See [`Undone`].
    pub async fn run<R: Send + 'static>(&self, work: impl FnOnce(&mut T) -> R + Send + 'static) -> Result<R, Undone> {
        // While the value is away nobody may look at it.
        let _turn = self.turn.lock().await;
        let draft = self.checkpoints.full(UNDO, &self.memory).map_err(Undone::Checkpoint)?;
        draft.commit().await.map_err(Undone::Checkpoint)?;
        let mut lent = self.value.change(mem::take);
        let done = spawn_contained(STACK_BYTES, move || {
            let result = work(&mut lent);
            (lent, result)
        });
        match done.await {
            Ok((changed, result)) => {
                self.value.change(|value| *value = changed);
                Ok(result)
            }
            Err(panicked) => {
                self.checkpoints.restore(&self.memory, UNDO).await.map_err(Undone::Checkpoint)?;
                Err(Undone::Panicked(panicked))
            }
        }
    }

    /// Looks at the value between transactions.
    pub async fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        let _turn = self.turn.lock().await;
        self.value.with(look)
    }
}
