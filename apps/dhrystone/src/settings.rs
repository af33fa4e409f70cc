//! What the arguments say.

use alloc::string::String;
use core::fmt;

use crate::benchmark::MOST_RUNS;

/// Runs unless the arguments say otherwise.
const DEFAULT_RUNS: i32 = 1_000_000;

/// How the benchmark is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How many runs.
    pub runs: i32,
    /// Runs after which the task gives way; `None` for never.
    pub yield_after: Option<i32>,
    /// Whether clients ask for runs, instead of one go at the start.
    pub serve: bool,
}

/// What is wrong with an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    word: String,
    expected: &'static str,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: expected {}", self.word, self.expected)
    }
}

impl core::error::Error for SettingsError {}

/// A number of runs: one at least, and no more than can be counted.
pub(crate) fn runs(text: &str) -> Option<i32> {
    text.parse().ok().filter(|runs| (1..=MOST_RUNS).contains(runs))
}

impl Settings {
    /// Reads the arguments.
    ///
    /// # Errors
    /// The first argument that is wrong.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, SettingsError> {
        let mut settings = Self { runs: DEFAULT_RUNS, yield_after: None, serve: false };
        for word in words {
            settings.apply(word)?;
        }
        Ok(settings)
    }

    fn apply(&mut self, word: &str) -> Result<(), SettingsError> {
        let wrong = |expected| move || SettingsError { word: word.into(), expected };
        match word.split_once('=') {
            None if word == "serve" => self.serve = true,
            Some(("runs", value)) => {
                self.runs = runs(value).ok_or_else(wrong("a number of runs from 1 to 2147483637"))?;
            }
            Some(("yield", "0")) => self.yield_after = None,
            Some(("yield", value)) => {
                self.yield_after = Some(runs(value).ok_or_else(wrong("a number of runs from 0 to 2147483637"))?);
            }
            _ => return Err(wrong("runs=, yield= or serve")()),
        }
        Ok(())
    }
}
