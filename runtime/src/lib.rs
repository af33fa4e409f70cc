//! What a Pollux program links: executor, heap, TCP/IP, time, entropy
#![no_std]
