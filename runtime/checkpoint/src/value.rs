//! Values that are saved by their encoding.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::BLOCK_BYTES;
use crate::part::{Frozen, NotDecoded, NotEncoded, Part, PartKind, Shape, hash};

/// A value that is saved. Clones are the same value.
pub struct Value<T>(Rc<ValuePart<T>>);

pub(crate) struct ValuePart<T> {
    name: String,
    schema: u32,
    value: RefCell<T>,
    /// It may have changed since the base was frozen.
    touched: Cell<bool>,
    /// Hash of its encoding in the base.
    base: Cell<Option<u64>>,
    capture: RefCell<Option<Capture>>,
}

/// Its encoding, on its way into a checkpoint.
struct Capture {
    encoded: Vec<u8>,
    emitted: usize,
    touched_before: bool,
    /// `None`: not encoded, because nobody has touched it.
    hash: Option<u64>,
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Value<T> {
    pub(crate) fn new(name: String, schema: u32, value: T) -> Self {
        let (value, touched) = (RefCell::new(value), Cell::new(true));
        Self(Rc::new(ValuePart { name, schema, value, touched, base: Cell::new(None), capture: RefCell::new(None) }))
    }

    pub(crate) fn part(&self) -> Rc<dyn Part> {
        Rc::clone(&self.0) as Rc<dyn Part>
    }

    /// Shows the value. What changes it behind a shared reference (a `Cell` in it) is not noticed by incremental
    /// checkpoints.
    ///
    /// # Panics
    /// When called within [`change`](Self::change) of the same value.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.value.borrow())
    }

    /// Lets the value be changed.
    ///
    /// # Panics
    /// When called within [`with`](Self::with) or `change` of the same value.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        self.0.touched.set(true);
        change(&mut self.0.value.borrow_mut())
    }
}

impl<T> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl<T: Serialize + DeserializeOwned> Part for ValuePart<T> {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> Shape {
        Shape { kind: PartKind::Value, schema: u64::from(self.schema), length_bytes: 0 }
    }

    fn freeze(&self, changed_only: bool) -> Result<Frozen, NotEncoded> {
        let touched_before = self.touched.get();
        let (mut encoded, mut hash_now) = (Vec::new(), None);
        if touched_before || !changed_only {
            encoded = postcard::to_allocvec(&*self.value.borrow()).map_err(|_| NotEncoded)?;
            hash_now = Some(hash(&encoded, 0));
        }
        let present = !changed_only || hash_now.is_some() && hash_now != self.base.get();
        if !present {
            encoded = Vec::new();
        }
        self.touched.set(false);
        let length_bytes = encoded.len() as u64;
        *self.capture.borrow_mut() = Some(Capture { encoded, emitted: 0, touched_before, hash: hash_now });
        let most_pieces = length_bytes.div_ceil(BLOCK_BYTES as u64);
        Ok(Frozen { present, length_bytes, most_pieces, most_bytes: length_bytes })
    }

    fn emit(&self, emit: &mut dyn FnMut(u64, &[u8])) -> bool {
        let mut capture = self.capture.borrow_mut();
        let Some(capture) = capture.as_mut() else { return false };
        let rest = capture.encoded.get(capture.emitted..).unwrap_or_default();
        let piece = &rest[..rest.len().min(BLOCK_BYTES)];
        if !piece.is_empty() {
            emit(capture.emitted as u64, piece);
        }
        capture.emitted += piece.len();
        capture.emitted < capture.encoded.len()
    }

    fn thaw(&self, committed: bool) {
        let Some(capture) = self.capture.borrow_mut().take() else { return };
        if !committed {
            self.touched.set(self.touched.get() || capture.touched_before);
        } else if let Some(hash) = capture.hash {
            self.base.set(Some(hash));
        }
    }

    fn stage<'a>(&'a self, encoded: &'a [u8]) -> Result<Box<dyn FnOnce() + 'a>, NotDecoded> {
        let (value, rest) = postcard::take_from_bytes::<T>(encoded).map_err(|_| NotDecoded)?;
        if !rest.is_empty() {
            return Err(NotDecoded);
        }
        let base = hash(encoded, 0);
        Ok(Box::new(move || {
            *self.value.borrow_mut() = value;
            self.base.set(Some(base));
            self.touched.set(false);
        }))
    }

    fn apply(&self, _offset: u64, _bytes: &[u8]) {}

    fn restored(&self, base: bool) {
        if !base {
            self.base.set(None);
            self.touched.set(true);
        }
    }
}
