//! A TCP/IP stack over smoltcp whose cost does not grow with the number of connections.
//!
//! smoltcp's `Interface::poll` looks at every socket for every frame. Here each socket lives in a set of its own, a
//! frame is handed to the one set it concerns (a hash lookup), and sending looks only at the sockets that have
//! something to send. The protocol itself is smoltcp's, through its public API.
//!
//! The stack is sans-IO: time, frames and the place where frames go are arguments. Equal configurations and equal
//! calls give equal frames and events, which is what lets two replicas run it in lockstep.
//!
//! A caller hands every arriving frame to [`Stack::receive`], lets its tasks run on what [`Stack::next_event`]
//! tells, then calls [`Stack::poll`], which sends what is due and says when to call again.
//!
//! IP fragments are dropped: the stack offers a segment size that fits the MTU, and datagrams must fit it too.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admit;
mod config;
mod conn;
mod device;
mod dhcp;
pub mod dhcp_server;
pub mod dns;
mod error;
mod event;
mod frame;
mod id;
mod quirks;
mod serve;
mod slot;
mod stack;
mod tcp;
mod timers;
mod udp;

pub use admit::Incoming;
pub use config::{Config, ConfigError, Congestion, MAX_MTU_BYTES, MIN_MTU_BYTES};
pub use device::FrameSink;
pub use error::Error;
pub use event::{Event, Readiness};
pub use id::{ConnId, IncomingId, ListenerId, UdpId};
pub use smoltcp::wire::Ipv4Cidr;
pub use stack::{Stack, Stats};
pub use udp::{Datagram, UdpQueue};
