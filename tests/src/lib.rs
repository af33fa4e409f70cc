//! Simulation, model checking and end-to-end tests
#![no_std]
