//! What a key can hold.

use super::{Hash, List, Set, Str, Zset};
use crate::base::Seed;
use alloc::boxed::Box;

/// A command met a value of another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType;

/// A value of 24 bytes: strings inside, collections behind a pointer.
pub enum Value {
    /// A string or counter.
    Str(Str),
    /// A list.
    List(Box<List>),
    /// A set.
    Set(Box<Set>),
    /// A hash.
    Hash(Box<Hash>),
    /// A sorted set.
    Zset(Box<Zset>),
}

const _: () = assert!(size_of::<Value>() == 24);

impl Value {
    /// Heap memory behind the value, in bytes; O(1) for every type.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Str(value) => value.heap_bytes(),
            Self::List(value) => size_of::<List>() + value.bytes(),
            Self::Set(value) => size_of::<Set>() + value.bytes(),
            Self::Hash(value) => size_of::<Hash>() + value.bytes(),
            Self::Zset(value) => size_of::<Zset>() + value.bytes(),
        }
    }

    /// The name that TYPE gives it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Str(_) => "string",
            Self::List(_) => "list",
            Self::Set(_) => "set",
            Self::Hash(_) => "hash",
            Self::Zset(_) => "zset",
        }
    }

    /// The name that OBJECT ENCODING gives it: the one redis 7.0 would, whatever is inside here.
    pub fn encoding(&self) -> &'static str {
        match self {
            Self::Str(Str::Int(_)) => "int",
            Self::Str(value) if value.len() <= 44 => "embstr",
            Self::Str(_) => "raw",
            Self::List(_) => "quicklist",
            Self::Set(value) => value.encoding(),
            Self::Hash(value) if value.is_large() => "hashtable",
            Self::Zset(value) if value.is_large() => "skiplist",
            Self::Hash(_) | Self::Zset(_) => "listpack",
        }
    }

    /// A deep copy.
    pub fn duplicate(&self) -> Self {
        match self {
            Self::Str(value) => Self::Str(value.clone()),
            Self::List(value) => Self::List(Box::new(value.duplicate())),
            Self::Set(value) => Self::Set(Box::new(value.duplicate())),
            Self::Hash(value) => Self::Hash(Box::new(value.duplicate())),
            Self::Zset(value) => Self::Zset(Box::new(value.duplicate())),
        }
    }
}

/// One type of value, for lookups that fail on any other.
pub trait Kind: Sized {
    /// An empty value.
    fn empty(seed: Seed) -> Self;
    /// The value if it is of this type.
    fn of(value: &Value) -> Result<&Self, WrongType>;
    /// The value if it is of this type.
    fn of_mut(value: &mut Value) -> Result<&mut Self, WrongType>;
    /// Puts it into a [`Value`].
    fn into_value(self) -> Value;
    /// Whether a key must not exist with it (collections without elements).
    fn vanishes(&self) -> bool;
}

macro_rules! kind {
    ($type:ident, $empty:expr, $vanishes:expr) => {
        impl Kind for $type {
            fn empty(seed: Seed) -> Self {
                let make: fn(Seed) -> Self = $empty;
                make(seed)
            }
            #[inline]
            fn of(value: &Value) -> Result<&Self, WrongType> {
                if let Value::$type(value) = value { Ok(value) } else { Err(WrongType) }
            }
            #[inline]
            fn of_mut(value: &mut Value) -> Result<&mut Self, WrongType> {
                if let Value::$type(value) = value { Ok(value) } else { Err(WrongType) }
            }
            fn into_value(self) -> Value {
                Value::$type(self.into())
            }
            fn vanishes(&self) -> bool {
                let vanishes: fn(&Self) -> bool = $vanishes;
                vanishes(self)
            }
        }
    };
}

kind!(Str, |_| Self::new(b""), |_| false);
kind!(List, |_| Self::new(), |list| list.len() == 0);
kind!(Set, Self::new, |set| set.len() == 0);
kind!(Hash, Self::new, |hash| hash.len() == 0);
kind!(Zset, Self::new, |zset| zset.len() == 0);
