//! Parts that encode themselves.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::BLOCK_BYTES;
use crate::part::{Frozen, NotDecoded, NotEncoded, Part, PartKind, Shape, hash};

/// Something with an encoding of its own: what is too large to be registered as a [`Value`](crate::Value), because it lives
/// elsewhere, or has a better encoding than its `Serialize`.
pub trait Encoded {
    /// Appends the encoding of what it is now.
    fn encode(&self, out: &mut Vec<u8>);

    /// Looks whether this is such an encoding, without changing anything; what it gives puts it into place and cannot fail.
    ///
    /// # Errors
    /// [`NotDecoded`].
    fn decode<'a>(&'a self, encoded: &'a [u8]) -> Result<Box<dyn FnOnce() + 'a>, NotDecoded>;
}

/// A registered one. Whether it has changed is told by the hash of its encoding.
pub(crate) struct EncodedPart<E> {
    name: String,
    schema: u32,
    source: E,
    base: Cell<Option<u64>>,
    capture: RefCell<Option<Capture>>,
}

struct Capture {
    bytes: Vec<u8>,
    emitted: usize,
    hash: u64,
}

impl<E: Encoded + 'static> EncodedPart<E> {
    pub(crate) fn part(name: String, schema: u32, source: E) -> Rc<dyn Part> {
        Rc::new(Self { name, schema, source, base: Cell::new(None), capture: RefCell::new(None) })
    }
}

impl<E: Encoded> Part for EncodedPart<E> {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> Shape {
        Shape { kind: PartKind::Value, schema: u64::from(self.schema), length_bytes: 0 }
    }

    fn freeze(&self, changed_only: bool) -> Result<Frozen, NotEncoded> {
        let mut bytes = Vec::new();
        self.source.encode(&mut bytes);
        let hash = hash(&bytes, 0);
        let present = !changed_only || self.base.get() != Some(hash);
        if !present {
            bytes = Vec::new();
        }
        let length_bytes = bytes.len() as u64;
        *self.capture.borrow_mut() = Some(Capture { bytes, emitted: 0, hash });
        let most_pieces = length_bytes.div_ceil(BLOCK_BYTES as u64);
        Ok(Frozen { present, length_bytes, most_pieces, most_bytes: length_bytes })
    }

    fn emit(&self, emit: &mut dyn FnMut(u64, &[u8])) -> bool {
        let mut capture = self.capture.borrow_mut();
        let Some(capture) = capture.as_mut() else { return false };
        let rest = capture.bytes.get(capture.emitted..).unwrap_or_default();
        let piece = &rest[..rest.len().min(BLOCK_BYTES)];
        if !piece.is_empty() {
            emit(capture.emitted as u64, piece);
        }
        capture.emitted += piece.len();
        capture.emitted < capture.bytes.len()
    }

    fn thaw(&self, committed: bool) {
        if let Some(capture) = self.capture.borrow_mut().take().filter(|_| committed) {
            self.base.set(Some(capture.hash));
        }
    }

    fn stage<'a>(&'a self, encoded: &'a [u8]) -> Result<Box<dyn FnOnce() + 'a>, NotDecoded> {
        let put = self.source.decode(encoded)?;
        Ok(Box::new(move || {
            put();
            self.base.set(Some(hash(encoded, 0)));
        }))
    }

    fn apply(&self, _offset: u64, _bytes: &[u8]) {}

    fn restored(&self, base: bool) {
        if !base {
            self.base.set(None);
        }
    }
}
