//! The rules of the protocol, each named in a test, and properties over random runs.

mod disks;
mod failover;
mod guest_end;
mod handover;
mod harness;
mod join;
mod peer_faults;
mod properties;
mod rules;
mod storage;
