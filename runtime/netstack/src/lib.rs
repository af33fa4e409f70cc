//! A TCP/IP stack over smoltcp whose cost does not grow with the number of connections
#![no_std]
