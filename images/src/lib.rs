//! The pollux command: builds images, runs and watches pairs, measures.

pub mod build;
mod cli;
pub mod error;

pub use cli::run;
