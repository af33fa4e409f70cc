//! What a line asks for.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Write all of the disk.
    Fill {
        /// What the content follows from.
        seed: u64,
    },
    /// Read at random places, and compare.
    Read {
        /// How often.
        operations: u64,
        /// What places and content follow from.
        seed: u64,
    },
    /// Write at random places.
    Write {
        /// How often.
        operations: u64,
        /// What places and content follow from.
        seed: u64,
    },
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError(String);

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.0.escape_debug();
        write!(f, "`{line}`: expected fill SEED, read OPERATIONS SEED or write OPERATIONS SEED")
    }
}

impl core::error::Error for CommandError {}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, CommandError> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let numbers: Result<alloc::vec::Vec<u64>, _> = words.map(str::parse).collect();
        match (name, numbers.as_deref()) {
            ("fill", Ok(&[seed])) => Ok(Self::Fill { seed }),
            ("read", Ok(&[operations, seed])) => Ok(Self::Read { operations, seed }),
            ("write", Ok(&[operations, seed])) => Ok(Self::Write { operations, seed }),
            _ => Err(CommandError(line.into())),
        }
    }
}

impl Command {
    /// The answer when all of it was done, on a disk of so many blocks.
    pub fn answer(self, blocks: u64) -> String {
        match self {
            Self::Fill { .. } => format!("filled {blocks}"),
            Self::Read { operations, .. } => format!("read {operations} ok"),
            Self::Write { operations, .. } => format!("written {operations} ok"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn commands_are_read() {
        assert_eq!("fill 7".parse(), Ok(Command::Fill { seed: 7 }));
        assert_eq!("read 3 7".parse(), Ok(Command::Read { operations: 3, seed: 7 }));
        assert_eq!(" write  18446744073709551615 0 ".parse(), Ok(Command::Write { operations: u64::MAX, seed: 0 }));
    }

    #[test]
    fn what_is_no_command_is_named() {
        for wrong in ["", "fill", "fill x", "fill 1 2", "read 1", "read 1 2 3", "write -1 2", "erase 1 2", "Read 1 2"] {
            let error = wrong.parse::<Command>().expect_err("no command").to_string();
            assert!(error.contains("expected fill SEED") && error.starts_with(&format!("`{wrong}`")), "{error}");
        }
    }
}
