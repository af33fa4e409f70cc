//! The bootable image of [`diskload`].
#![no_std]
#![no_main]

runtime::main!(diskload::main);
