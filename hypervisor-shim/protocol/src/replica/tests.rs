//! The rules of the protocol, each named in a test, and properties over random runs.

mod disks;
mod failover;
mod guest_end;
mod harness;
mod peer_faults;
mod properties;
mod rules;
