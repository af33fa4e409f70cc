//! The ABI between a guest and the shim, from one table
#![no_std]
