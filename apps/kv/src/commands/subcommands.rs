//! The commands that are families of subcommands, and the checks on those.

use super::error::Error;
use crate::base::same_ignoring_case;
use crate::resp::Args;

/// A subcommand: its name and how many arguments it takes with both names counted, at least so many if negative.
pub type Subcommand = (&'static str, i8);

pub const CLIENT: &[Subcommand] = &[
    ("id", 2),
    ("setname", 3),
    ("getname", 2),
    ("list", -2),
    ("info", 2),
    ("setinfo", 4),
    ("no-evict", 3),
    ("no-touch", 3),
    ("kill", -3),
    ("reply", 3),
    ("unpause", 2),
    ("getredir", 2),
    ("help", 2),
];

pub const CONFIG: &[Subcommand] = &[("get", -3), ("set", -4), ("resetstat", 2), ("rewrite", 2), ("help", 2)];

pub const OBJECT: &[Subcommand] = &[("encoding", 3), ("refcount", 3), ("idletime", 3), ("freq", 3), ("help", 2)];

pub const COMMAND: &[Subcommand] =
    &[("count", 2), ("info", -2), ("docs", -2), ("list", -2), ("getkeys", -3), ("help", 2)];

/// The name of the subcommand that the second argument asks for, if it exists and the number of arguments suits it.
pub fn resolve(family: &[Subcommand], args: Args<'_>) -> Result<&'static str, Error> {
    let known = family.iter().find(|(name, _)| same_ignoring_case(args.at(1), name));
    let &(name, arity) = known.ok_or(Error::UnknownSubcommand)?;
    let wanted = usize::from(arity.unsigned_abs());
    let fits = if arity < 0 { args.len() >= wanted } else { args.len() == wanted };
    if fits { Ok(name) } else { Err(Error::SubcommandArity(name)) }
}
