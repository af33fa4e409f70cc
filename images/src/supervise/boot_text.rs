//! What a program is told when it starts: arguments and environment variables, as the one text that shims pass on.
//!
//! `ARGUMENTS`, and for each variable a zero byte and `NAME=VALUE`. The arguments are one text of words, or, given one by
//! one, a unit separator (U+001F) before each; `runtime::env` reads both. The text is part of what two replicas compare
//! before they pair, and of what a checkpoint holds.

use std::fmt;
use std::str::FromStr;

use hypercall::layout::MAX_ARGUMENT_BYTES;
use serde::{Deserialize, Serialize};

const VARIABLE_SEPARATOR: char = '\0';
const ARGUMENT_SEPARATOR: char = '\u{1f}';

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Variable {
    name: String,
    value: String,
}

impl Variable {
    /// One of this name and value.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn new(name: &str, value: &str) -> Result<Self, String> {
        if name.is_empty() || name.contains('=') {
            return Err(format!("expected NAME=VALUE with a name, got {:?}", format!("{name}={value}")));
        }
        if name.contains(VARIABLE_SEPARATOR) || value.contains(VARIABLE_SEPARATOR) {
            return Err(format!("the variable {name:?} holds a zero byte, which ends a text"));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("expected NAME=VALUE, got {text:?}"))?;
        Self::new(name, value)
    }
}

impl TryFrom<String> for Variable {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Variable> for String {
    fn from(variable: Variable) -> Self {
        variable.to_string()
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// The variables of `first`, and those of `then`, which take the place of others of their names.
pub fn merge(first: &[Variable], then: &[Variable]) -> Vec<Variable> {
    let mut merged: Vec<Variable> = Vec::new();
    for variable in first.iter().chain(then) {
        merged.retain(|other| other.name != variable.name);
        merged.push(variable.clone());
    }
    merged
}

/// Arguments that were given one by one, as one text.
///
/// # Errors
/// An argument holds what separates them.
pub fn one_by_one(arguments: &[String]) -> Result<String, String> {
    let separates = |char| char == ARGUMENT_SEPARATOR || char == VARIABLE_SEPARATOR;
    match arguments.iter().find(|argument| argument.contains(separates)) {
        Some(wrong) => Err(format!("the argument {wrong:?} holds a unit separator or a zero byte")),
        None => Ok(arguments.iter().flat_map(|argument| [ARGUMENT_SEPARATOR.to_string(), argument.clone()]).collect()),
    }
}

/// The text that a shim passes on.
///
/// # Errors
/// It is longer than a guest can be told.
pub fn compose(arguments: &str, variables: &[Variable]) -> Result<String, String> {
    if arguments.contains(VARIABLE_SEPARATOR) {
        return Err("the arguments hold a zero byte".to_owned());
    }
    let text =
        variables.iter().fold(arguments.to_owned(), |text, variable| format!("{text}{VARIABLE_SEPARATOR}{variable}"));
    if text.len() <= MAX_ARGUMENT_BYTES {
        return Ok(text);
    }
    Err(format!(
        "arguments and environment have {} bytes together; a program can be told {MAX_ARGUMENT_BYTES}: put the rest into a \
         file of the image or on a disk",
        text.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(texts: &[&str]) -> Vec<Variable> {
        texts.iter().map(|text| text.parse().expect("a variable")).collect()
    }

    #[test]
    fn variables_are_read_and_the_last_of_a_name_counts() {
        assert_eq!(
            merge(&variables(&["A=1", "B=x=y"]), &variables(&["A=", "C=3"])),
            variables(&["B=x=y", "A=", "C=3"])
        );
        for wrong in ["", "A", "=1", "A\0=1", "A=\0"] {
            let error = wrong.parse::<Variable>().expect_err(wrong);
            assert!(error.contains("NAME=VALUE") || error.contains("zero byte"), "{error}");
        }
    }

    #[test]
    fn texts_are_composed_up_to_their_limit() {
        assert_eq!(compose("a b", &variables(&["K=v w"])), Ok("a b\0K=v w".to_owned()));
        assert_eq!(one_by_one(&["a b".to_owned(), String::new()]), Ok("\u{1f}a b\u{1f}".to_owned()));
        assert!(one_by_one(&["a\0b".to_owned()]).is_err());
        let value = "x".repeat(MAX_ARGUMENT_BYTES - 3);
        assert!(compose("", &variables(&[&format!("K={value}")])).is_ok());
        assert!(compose("a", &variables(&[&format!("K={value}")])).expect_err("too long").contains("2049 bytes"));
    }
}
