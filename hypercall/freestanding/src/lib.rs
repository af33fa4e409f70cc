//! Symbols that core and alloc expect of a C library, for images without one
#![no_std]
