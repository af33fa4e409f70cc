//! The bootable image of [`checkpoints`].
#![no_std]
#![no_main]

runtime::main!(checkpoints::main);
