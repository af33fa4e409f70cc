//! What the bodies of all messages have in common: a versioned and sized struct of fixed-width fields, then bulk.

use core::fmt;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::event::RecordError;

/// Version of all message bodies; it changes with any of them.
pub(crate) const VERSION: u16 = 1;

/// Why a frame's payload is not the message that its kind names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// No message of this stream has this kind.
    UnknownKind {
        /// The kind.
        got: u16,
    },
    /// The payload ends inside the fixed part.
    Truncated {
        /// The message's kind.
        kind: u16,
        /// What the fixed part needs.
        expected_bytes: usize,
        /// The payload's length.
        got_bytes: usize,
    },
    /// The body has another version.
    Version {
        /// The message's kind.
        kind: u16,
        /// The version known here.
        expected: u16,
        /// The version that came.
        got: u16,
    },
    /// The body names another size for its fixed part.
    Size {
        /// The message's kind.
        kind: u16,
        /// The size known here.
        expected_bytes: usize,
        /// The size that came.
        got_bytes: usize,
    },
    /// Bytes follow a message that has no bulk.
    Trailing {
        /// The message's kind.
        kind: u16,
        /// How many.
        got_bytes: usize,
    },
    /// A field has a value that it cannot have.
    Field {
        /// The message's kind.
        kind: u16,
        /// The field's name.
        field: &'static str,
        /// The value.
        got: u64,
    },
    /// A text is not UTF-8.
    Text {
        /// The message's kind.
        kind: u16,
        /// Bytes before the fault.
        valid_bytes: usize,
    },
    /// The events are not a stream of event records.
    Events(RecordError),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownKind { got } => write!(f, "no message of this stream has kind {got:#06x}"),
            Self::Truncated { kind, expected_bytes, got_bytes } => {
                write!(f, "message {kind:#06x} needs {expected_bytes} bytes, got {got_bytes}")
            }
            Self::Version { kind, expected, got } => write!(
                f,
                "message {kind:#06x} has version {got}, expected {expected}: build both ends from the same source"
            ),
            Self::Size { kind, expected_bytes, got_bytes } => write!(
                f,
                "message {kind:#06x} names a size of {got_bytes} bytes, expected {expected_bytes}: build both ends from the same source"
            ),
            Self::Trailing { kind, got_bytes } => {
                write!(f, "message {kind:#06x} is followed by {got_bytes} bytes, expected none")
            }
            Self::Field { kind, field, got } => {
                write!(f, "message {kind:#06x} has the impossible value {got} for {field}")
            }
            Self::Text { kind, valid_bytes } => {
                write!(f, "text of message {kind:#06x} is not UTF-8 after {valid_bytes} bytes")
            }
            Self::Events(error) => write!(f, "events of an epoch are malformed: {error}"),
        }
    }
}

impl core::error::Error for MessageError {}

impl From<RecordError> for MessageError {
    fn from(error: RecordError) -> Self {
        Self::Events(error)
    }
}

/// The first bytes of each body.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct Prefix {
    version: U16,
    size_bytes: U16,
    reserved: [u8; 4],
}

impl Prefix {
    /// The prefix of a body of this type.
    pub(crate) const fn of<T>() -> Self {
        assert!(size_of::<T>() <= u16::MAX as usize);
        Self { version: U16::new(VERSION), size_bytes: U16::new(size_of::<T>() as u16), reserved: [0; 4] }
    }
}

/// The fixed part of a message.
pub(crate) trait Body: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned {
    fn prefix(&self) -> &Prefix;
}

/// Declares bodies: a struct each that begins with the [`Prefix`].
macro_rules! bodies {
    ($($vis:vis $name:ident { $($field:ident: $type:ty,)* })+) => {
        $(
            #[derive(
                zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable,
                zerocopy::Unaligned, Clone, Copy,
            )]
            #[repr(C)]
            $vis struct $name {
                prefix: $crate::frame::body::Prefix,
                $($field: $type,)*
            }

            impl $crate::frame::body::Body for $name {
                fn prefix(&self) -> &$crate::frame::body::Prefix {
                    &self.prefix
                }
            }
        )+
    };
}
pub(crate) use bodies;

bodies! {
    pub(crate) Empty {
    }
    pub(crate) Number {
        value: U64,
    }
}

impl Empty {
    /// The fixed part of a message that has none.
    pub(crate) const BODY: Self = Self { prefix: Prefix::of::<Self>() };
}

impl Number {
    /// The fixed part of a message that says one number.
    pub(crate) const fn of(value: u64) -> Self {
        Self { prefix: Prefix::of::<Self>(), value: U64::new(value) }
    }
}

/// Reads a message that says nothing but its kind.
pub(crate) fn empty(kind: u16, payload: &[u8]) -> Result<(), MessageError> {
    fixed::<Empty>(kind, payload).map(|_| ())
}

/// Reads a message that is all bulk.
pub(crate) fn bulk(kind: u16, payload: &[u8]) -> Result<&[u8], MessageError> {
    with_bulk::<Empty>(kind, payload).map(|(_, bulk)| bulk)
}

/// Reads a message that says one number.
pub(crate) fn number(kind: u16, payload: &[u8]) -> Result<u64, MessageError> {
    fixed::<Number>(kind, payload).map(|body| body.value.get())
}

/// Reads the fixed part of a message that has bulk, and the bulk.
pub(crate) fn with_bulk<T: Body>(kind: u16, payload: &[u8]) -> Result<(&T, &[u8]), MessageError> {
    let expected_bytes = size_of::<T>();
    let (body, bulk) = T::ref_from_prefix(payload).map_err(|_| MessageError::Truncated {
        kind,
        expected_bytes,
        got_bytes: payload.len(),
    })?;
    let prefix = body.prefix();
    if prefix.version.get() != VERSION {
        return Err(MessageError::Version { kind, expected: VERSION, got: prefix.version.get() });
    }
    let got_bytes = usize::from(prefix.size_bytes.get());
    if got_bytes != expected_bytes {
        return Err(MessageError::Size { kind, expected_bytes, got_bytes });
    }
    unused(kind, &prefix.reserved)?;
    Ok((body, bulk))
}

/// Reads a message that has no bulk.
pub(crate) fn fixed<T: Body>(kind: u16, payload: &[u8]) -> Result<&T, MessageError> {
    match with_bulk(kind, payload)? {
        (body, []) => Ok(body),
        (_, bulk) => Err(MessageError::Trailing { kind, got_bytes: bulk.len() }),
    }
}

/// Reads bulk that is text.
pub(crate) fn text(kind: u16, bulk: &[u8]) -> Result<&str, MessageError> {
    core::str::from_utf8(bulk).map_err(|error| MessageError::Text { kind, valid_bytes: error.valid_up_to() })
}

/// Reads a field that stands for something else.
pub(crate) fn field<T, C: Copy + Into<u64>>(
    kind: u16,
    field: &'static str,
    code: C,
    read: impl FnOnce(C) -> Option<T>,
) -> Result<T, MessageError> {
    read(code).ok_or_else(|| MessageError::Field { kind, field, got: code.into() })
}

/// Reads a truth value, which is 0 or 1.
pub(crate) fn truth(kind: u16, name: &'static str, code: u8) -> Result<bool, MessageError> {
    field(kind, name, code, |code| match code {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    })
}

/// Requires bytes that this version does not use to be zero, so that a later version may use them.
pub(crate) fn unused(kind: u16, reserved: &[u8]) -> Result<(), MessageError> {
    match reserved.iter().find(|byte| **byte != 0) {
        None => Ok(()),
        Some(byte) => Err(MessageError::Field { kind, field: "reserved", got: u64::from(*byte) }),
    }
}
