//! Batches of guest frames between a shim and the hub.
