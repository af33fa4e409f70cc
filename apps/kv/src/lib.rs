//! A Redis-compatible store that outlives its machine
#![no_std]
