//! The parts of a program, and checkpoints of them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::draft::Draft;
use crate::encoded::{Encoded, EncodedPart};
use crate::error::{Error, RegisterError};
use crate::format::{Kind, MAX_NAME_BYTES, MAX_PARTS};
use crate::part::{Part, Parts, hash};
use crate::region::Region;
use crate::target::Target;
use crate::value::Value;

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A checkpoint is about to be taken: what the parts hold when the hooks have run is what it holds.
    BeforeTake(Kind),
    /// It was committed, or nothing came of it.
    AfterTake {
        /// Whether it was committed.
        committed: bool,
    },
    /// A checkpoint was found whole and fitting and is about to be put into place.
    BeforeRestore,
    /// It was, or failed half way.
    AfterRestore {
        /// Whether it is in place.
        done: bool,
    },
}

type Hook = Rc<RefCell<dyn FnMut(Moment)>>;

/// What the next incremental checkpoint builds upon.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) name: alloc::string::String,
    pub(crate) id: u64,
}

pub(crate) struct Inner {
    pub(crate) program: u64,
    pub(crate) parts: RefCell<Parts>,
    hooks: RefCell<Vec<Hook>>,
    pub(crate) base: RefCell<Option<Base>>,
    pub(crate) last_sequence: Cell<u64>,
    /// A checkpoint is being taken or restored.
    pub(crate) busy: Cell<bool>,
}

impl Inner {
    /// Calls all hooks: those for what comes before in the order of their registration, those for after in reverse, so that
    /// each pair encloses the pairs behind it.
    pub(crate) fn call_hooks(&self, moment: Moment) {
        let mut hooks = self.hooks.borrow().clone();
        if matches!(moment, Moment::AfterTake { .. } | Moment::AfterRestore { .. }) {
            hooks.reverse();
        }
        hooks.iter().for_each(|hook| (hook.borrow_mut())(moment));
    }
}

/// The parts of a program that are saved together. Clones are the same.
#[derive(Clone)]
pub struct Checkpoints(pub(crate) Rc<Inner>);

impl fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoints").field("parts", &self.0.parts.borrow().len()).finish_non_exhaustive()
    }
}

impl Checkpoints {
    /// Of a program of this name. A checkpoint of a program of another name is refused.
    pub fn new(program: &str) -> Self {
        Self(Rc::new(Inner {
            program: hash(program.as_bytes(), 0),
            parts: RefCell::default(),
            hooks: RefCell::default(),
            base: RefCell::default(),
            last_sequence: Cell::new(0),
            busy: Cell::new(false),
        }))
    }

    /// Registers plain bytes. What `excluded` names (byte ranges within it; they may overlap) is scratch: it is not
    /// saved, and stays as it is at a restore.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn region(
        &self,
        name: &str,
        bytes: impl Into<Box<[u8]>>,
        excluded: &[Range<usize>],
    ) -> Result<Region, RegisterError> {
        let bytes = bytes.into();
        let length_bytes = bytes.len();
        if let Some(range) = excluded.iter().find(|range| range.end > length_bytes) {
            return Err(RegisterError::Excluded { end: range.end, length_bytes });
        }
        self.check_registration(name)?;
        let region = Region::new(name.into(), bytes, excluded.to_vec());
        self.0.parts.borrow_mut().push(region.part());
        Ok(region)
    }

    /// Registers a value, saved by its encoding (postcard, which is compact and does not describe itself). `version` is to
    /// be raised whenever the type changes: a checkpoint with another one is refused.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn value<T>(&self, name: &str, version: u32, value: T) -> Result<Value<T>, RegisterError>
    where
        T: Serialize + DeserializeOwned + 'static,
    {
        self.check_registration(name)?;
        let value = Value::new(name.into(), version, value);
        self.0.parts.borrow_mut().push(value.part());
        Ok(value)
    }

    /// Registers something that encodes itself. `version` as for [`value`](Self::value).
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn encoded(&self, name: &str, version: u32, source: impl Encoded + 'static) -> Result<(), RegisterError> {
        self.check_registration(name)?;
        self.0.parts.borrow_mut().push(EncodedPart::part(name.into(), version, source));
        Ok(())
    }

    /// Takes a part out; its bytes or value stay with whoever holds them. Returns whether there was one of this name. The
    /// next checkpoint must be a full one.
    ///
    /// # Errors
    /// [`RegisterError::Busy`].
    pub fn unregister(&self, name: &str) -> Result<bool, RegisterError> {
        if self.0.busy.get() {
            return Err(RegisterError::Busy);
        }
        let mut parts = self.0.parts.borrow_mut();
        let before = parts.len();
        parts.retain(|part| part.name() != name);
        *self.0.base.borrow_mut() = None;
        Ok(parts.len() < before)
    }

    fn check_registration(&self, name: &str) -> Result<(), RegisterError> {
        let parts = self.0.parts.borrow();
        if self.0.busy.get() {
            Err(RegisterError::Busy)
        } else if !is_name(name) || parts.iter().any(|part| part.name() == name) {
            Err(RegisterError::Name { name: name.into() })
        } else if parts.len() == MAX_PARTS {
            Err(RegisterError::TooMany)
        } else {
            // The base lacks the new part.
            *self.0.base.borrow_mut() = None;
            Ok(())
        }
    }

    /// Adds a hook, called at each [`Moment`]. Within it no checkpoint can be taken or restored
    /// ([`Error::Busy`]).
    pub fn hook(&self, hook: impl FnMut(Moment) + 'static) {
        self.0.hooks.borrow_mut().push(Rc::new(RefCell::new(hook)));
    }

    /// Takes a checkpoint of everything, as it is now. It is written by [`Draft::commit`]; what the program changes
    /// meanwhile does not go into it. Once committed it takes the place of all others of its name in the target.
    ///
    /// Takes time for encoding the values and a few words a block of each region, not for copying regions.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Name`], [`Error::Encode`].
    pub fn full<T: Target>(&self, name: &str, target: T) -> Result<Draft<T>, Error<T::Error>> {
        Draft::take(&self.0, name, target, Kind::Full)
    }

    /// Takes a checkpoint of what has changed since the newest one, which must be of this name and in this target. As
    /// [`full`](Self::full) otherwise; it also takes time to hash the blocks that were written to.
    ///
    /// # Errors
    /// [`Error::NoBase`], and those of [`full`](Self::full).
    pub fn incremental<T: Target>(&self, name: &str, target: T) -> Result<Draft<T>, Error<T::Error>> {
        Draft::take(&self.0, name, target, Kind::Incremental)
    }
}

/// Whether a name is neither empty nor too long.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
}

/// Parts by name.
pub(crate) fn find<'a>(parts: &'a Parts, name: &str) -> Option<&'a Rc<dyn Part>> {
    parts.iter().find(|part| part.name() == name)
}
