//! The ring-0 shim that runs one guest in lockstep with its twin
#![no_std]
