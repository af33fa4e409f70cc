//! What a command can fail with, in the words of redis.

use crate::resp::Output;
use crate::store::WrongType;

/// An error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The key holds a value of another type.
    WrongType,
    /// The wrong number of arguments for the command.
    Arity,
    /// The wrong number of arguments for this subcommand.
    SubcommandArity(&'static str),
    /// The command has no subcommand of the name in its second argument.
    UnknownSubcommand,
    /// An expiry that is not positive or overflows.
    InvalidExpire,
    /// A combination of sorted sets without any.
    NoInputKeys,
    /// Any other, with its code.
    Text(&'static str),
}

/// What redis shows of text from a client in an error: at most `limit` bytes, and nothing from a zero byte on.
pub fn shown(text: &[u8], limit: usize) -> &[u8] {
    let text = text.get(..limit).unwrap_or(text);
    text.split(|&c| c == 0).next().unwrap_or(text)
}

impl From<WrongType> for Error {
    fn from(_: WrongType) -> Self {
        Self::WrongType
    }
}

/// The arguments do not fit the command's syntax.
pub const SYNTAX: Error = Error::Text("ERR syntax error");
/// A number was expected.
pub const NOT_INTEGER: Error = Error::Text("ERR value is not an integer or out of range");
/// A number with or without a fraction was expected.
pub const NOT_FLOAT: Error = Error::Text("ERR value is not a valid float");
/// A count that must not be negative is.
pub const NOT_POSITIVE: Error = Error::Text("ERR value is out of range, must be positive");
/// A count that is too large.
pub const OUT_OF_RANGE: Error = Error::Text("ERR value is out of range");
/// A counter would leave the range of 64-bit integers.
pub const OVERFLOW: Error = Error::Text("ERR increment or decrement would overflow");
/// A floating-point counter would leave its range.
pub const NOT_FINITE: Error = Error::Text("ERR increment would produce NaN or Infinity");
/// The key must exist.
pub const NO_SUCH_KEY: Error = Error::Text("ERR no such key");
/// The memory limit is reached.
pub const OUT_OF_MEMORY: Error = Error::Text("OOM command not allowed when used memory > 'maxmemory'.");
/// A string would pass the limit on its length.
pub const STRING_TOO_LONG: Error = Error::Text("ERR string exceeds maximum allowed size (proto-max-bulk-len)");

impl Error {
    /// Writes the reply. `command` is the command's name and `argument` the one after it.
    pub fn write(&self, out: &mut Output, command: &'static str, argument: &[u8]) {
        match self {
            Self::WrongType => out.raw(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
            Self::Arity => {
                out.error(&[b"ERR wrong number of arguments for '", command.as_bytes(), b"' command"]);
            }
            Self::SubcommandArity(name) => out.error(&[
                b"ERR wrong number of arguments for '",
                command.as_bytes(),
                b"|",
                name.as_bytes(),
                b"' command",
            ]),
            Self::UnknownSubcommand => {
                out.raw(b"-ERR unknown subcommand '");
                for &c in shown(argument, 128) {
                    out.raw(&[if c == b'\r' || c == b'\n' { b' ' } else { c }]);
                }
                out.raw(b"'. Try ");
                command.bytes().for_each(|c| out.raw(&[c.to_ascii_uppercase()]));
                out.raw(b" HELP.\r\n");
            }
            Self::InvalidExpire => out.error(&[b"ERR invalid expire time in '", command.as_bytes(), b"' command"]),
            Self::NoInputKeys => {
                out.error(&[b"ERR at least 1 input key is needed for '", command.as_bytes(), b"' command"]);
            }
            Self::Text(text) => out.error(&[text.as_bytes()]),
        }
    }
}
