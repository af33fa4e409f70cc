//! The pollux command: builds images, runs and watches pairs, measures.

pub mod build;
mod cli;
pub mod ctl;
pub mod error;
pub mod load;
pub mod qemu;
pub mod resp;
pub mod state;
pub mod supervise;

pub use cli::run;
