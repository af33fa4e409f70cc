//! The bootable image of [`dhrystone`].
#![no_std]
#![no_main]

runtime::main!(dhrystone::main);
