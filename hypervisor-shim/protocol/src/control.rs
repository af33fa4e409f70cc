//! The messages between a shim and its supervisor.
