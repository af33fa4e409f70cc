//! The bootable image of [`echo`].
#![no_std]
#![no_main]

runtime::main!(echo::main);
