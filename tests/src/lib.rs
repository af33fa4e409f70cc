//! Simulation, model checking and end-to-end tests.
//!
//! | module | what it holds |
//! |---|---|
//! | [`sim`] | a deterministic simulator of a whole pair: one seed, one run, every fault |
//! | [`model`] | a model checker's view of promotion: every order of events within small bounds |
//! | [`pair`] | a real pair, started by the real command, for the end-to-end tests (`tests/e2e_*.rs`) |
//! | [`client`], [`load`] | a RESP client, and many of them that check every answer while replicas die |
//! | [`counts`] | counters in a store that clients increment until their machines die |
//! | [`guests`], [`disks`] | what guests are asked line by line and must answer; a probe with a disk |
//! | [`blocks`] | clients that write to disks, and a checker that reads what lies there |
//! | [`small`] | a small file system, which can be full |
//! | [`status`], [`workbench`] | the promised form of `status --json`; the built command and images, permits, seeds |
//!
//! The first two run the replica of the `protocol` crate as it is, without a line of it changed for them.

mod answers;
pub mod client;
pub mod contend;
pub mod counts;
pub mod disks;
pub mod guests;
pub mod http;
pub mod linear;
pub mod load;
pub mod model;
pub mod names;
pub mod namespaces;
pub mod pair;
pub mod sim;
pub mod small;
pub mod status;
pub mod workbench;
pub mod writelog;

pub use blockcheck as blocks;
