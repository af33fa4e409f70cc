//! The replica state machine: epochs, output commit, promotion; pure and sans-IO
#![no_std]
