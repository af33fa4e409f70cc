//! The pollux command: builds images, runs and watches pairs, measures.

pub mod bench;
pub mod build;
mod cli;
pub mod code_names;
pub mod ctl;
pub mod demo;
pub mod disk;
pub mod error;
pub mod failover;
pub mod load;
pub mod qemu;
pub mod resp;
pub mod running;
pub mod selftest;
pub mod setup;
pub mod state;
pub mod supervise;
pub mod vcpu;

pub use cli::run;
