//! The store on a device that crashes: what was told to clients is there, whatever happens when.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/generator.rs"]
mod generator;
mod harness;

mod crashes;
mod effects;
mod failures;
mod slices;
