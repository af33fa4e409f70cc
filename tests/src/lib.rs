//! Simulation, model checking and end-to-end tests.
//!
//! | module | what it holds |
//! |---|---|
//! | [`sim`] | a deterministic simulator of a whole pair: one seed, one run, every fault |
//! | [`model`] | a model checker's view of promotion: every order of events within small bounds |
//!
//! Both run the replica of the `protocol` crate as it is, without a line of it changed for them.

pub mod model;
pub mod sim;
