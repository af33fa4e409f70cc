//! The smallest useful Pollux program: a TCP echo server
#![no_std]
