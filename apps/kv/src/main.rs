//! The bootable image of [`kv`].
#![no_std]
#![no_main]

runtime::main!(kv::service::main);
