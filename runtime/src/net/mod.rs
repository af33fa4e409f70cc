//! TCP and UDP for tasks.
//!
//! The stack itself is the `netstack` crate; this module owns the one instance of a guest, moves frames between it
//! and the shim's rings without copying them in between, and turns its events into wake-ups of exactly the tasks
//! concerned.
//!
//! ```ignore
//! let listener = TcpListener::bind(7)?;
//! loop {
//!     let stream = listener.accept().await?;
//!     spawn(serve(stream));
//! }
//! ```
//!
//! Names follow `std::net` and `tokio::net`; the blocking `sys_socket` family of `hermit-abi` is in [`crate::sys`].

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::task::{Context, Poll};

pub use netstack::{Error, Ipv4Cidr, Stats};

mod direct;
mod lines;
mod options;
mod rings;
mod tcp;
mod udp;
mod waiters;

pub use lines::Lines;
pub use options::{Options, StartError};
pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;

use crate::executor::waker::Wake;
use crate::{platform, time};
use netstack::Stack;
use rings::Rings;
use waiters::Waiters;

/// The network of this guest.
pub(crate) struct Net {
    stack: Stack,
    waiters: Waiters,
}

/// Rings and, once it is started, the stack.
struct State {
    rings: Rings,
    net: Option<Net>,
    /// Wakers of others, called when nothing is borrowed any more.
    deferred: Vec<Wake>,
}

local! {
    static STATE: RefCell<Option<Box<State>>> = RefCell::new(None);
}

/// Starts the network with `options`. Without this call it starts with the defaults when first used.
///
/// # Errors
/// [`StartError`] says what the options or the shim's configuration got wrong, or that it has started already.
pub fn start(options: &Options) -> Result<(), StartError> {
    let boot = platform::boot().ok_or(StartError::NoMachine)?;
    let config = options.resolve(boot)?;
    STATE.with(|state| {
        let mut state = state.borrow_mut();
        let state = state.as_mut().ok_or(StartError::NoMachine)?;
        if state.net.is_some() {
            return Err(StartError::AlreadyStarted);
        }
        let stack = Stack::new(config, time::monotonic_ns()).map_err(StartError::Config)?;
        state.net = Some(Net { stack, waiters: Waiters::default() });
        Ok(())
    })
}

/// Calls `f` with the network, started with the defaults if need be.
fn with_net<R>(f: impl FnOnce(&mut Net) -> Result<R, Error>) -> Result<R, Error> {
    let started = STATE.with(|state| match state.borrow_mut().as_mut() {
        Some(state) => state.net.is_some(),
        None => false,
    });
    if !started {
        start(&Options::default()).map_err(|_| Error::Unaddressable)?;
    }
    with_started(f)
}

/// Calls `f` with the network.
#[inline]
fn with_started<R>(f: impl FnOnce(&mut Net) -> Result<R, Error>) -> Result<R, Error> {
    STATE.with(|state| match state.borrow_mut().as_mut().and_then(|state| state.net.as_mut()) {
        Some(net) => f(net),
        // A socket that outlived its network, which a host machine's end can cause.
        None => Err(Error::NotConnected),
    })
}

/// Own address and prefix, once known.
pub fn address() -> Option<Ipv4Cidr> {
    with_started(|net| Ok(net.stack.address())).ok().flatten()
}

/// Own address, once known; starts the network if need be.
pub(crate) fn own_address() -> Option<Ipv4Addr> {
    with_net(|net| Ok(net.stack.address())).ok().flatten().map(|cidr| cidr.address())
}

/// The default router, once known.
pub fn gateway() -> Option<Ipv4Addr> {
    with_started(|net| Ok(net.stack.gateway())).ok().flatten()
}

/// Name servers that the network has told of, first the one to be asked first.
pub fn name_servers() -> Vec<Ipv4Addr> {
    with_net(|net| Ok(net.stack.dns_servers().to_vec())).unwrap_or_default()
}

/// Waits until the interface has an address, which takes time only with DHCP.
///
/// # Errors
/// When the network cannot start.
pub async fn configured() -> Result<Ipv4Cidr, Error> {
    core::future::poll_fn(|context| {
        let known = with_net(|net| {
            let address = net.stack.address();
            if address.is_none() {
                net.waiters.wait_for_address(context.waker());
            }
            Ok(address)
        });
        match known {
            Ok(Some(address)) => Poll::Ready(Ok(address)),
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    })
    .await
}

/// What the stack refused or gave up so far.
pub fn stats() -> Stats {
    with_started(|net| Ok(net.stack.stats())).unwrap_or_default()
}

/// TCP connections in any state, including those that still finish after having been closed.
pub fn connections() -> usize {
    with_started(|net| Ok(net.stack.connections())).unwrap_or_default()
}

/// Takes the rings that the shim has set up.
///
/// # Panics
/// If the shim's rings are not those of this ABI, after it has agreed on the ABI.
pub(crate) fn attach() {
    let Some(boot) = platform::boot() else { return };
    let rings = Rings::attach(boot);
    STATE.with(|state| *state.borrow_mut() = Some(Box::new(State { rings, net: None, deferred: Vec::new() })));
}

/// Drops stack and rings: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn detach() {
    let state = STATE.with(|state| state.borrow_mut().take());
    drop(state);
}

/// Takes in what arrived, as long as `spend` allows it, and wakes who waited for it.
pub(crate) fn receive(mut spend: impl FnMut(u32) -> bool) {
    STATE.with(|state| {
        let mut state = state.borrow_mut();
        let Some(state) = state.as_mut() else { return };
        let now_ns = time::monotonic_ns();
        let Rings { receive, transmit } = &mut state.rings;
        receive.drain(|frame| {
            if let Some(net) = &mut state.net {
                net.stack.receive(now_ns, frame, transmit);
            }
            spend(frame.len() as u32)
        });
        state.dispatch();
    });
    wake_deferred();
    crate::block::dispatch();
}

/// Whether something has arrived that was not taken in: an epoch that a task ended by itself (a console that was full)
/// may have brought it.
pub(crate) fn has_arrived() -> bool {
    STATE.with(|state| state.borrow().as_ref().is_some_and(|state| !state.rings.receive.is_empty()))
}

/// What sending left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    /// When to send again at the latest, in nanoseconds; `u64::MAX` for when something changes.
    pub(crate) deadline_ns: u64,
    /// Something is left to send for want of room: the next epoch should start at once.
    pub(crate) backlog: bool,
    /// The ring is over half full: the epoch should end soon.
    pub(crate) crowded: bool,
}

impl Sent {
    const NOTHING: Self = Self { deadline_ns: u64::MAX, backlog: false, crowded: false };
}

/// Sends what is due.
pub(crate) fn send() -> Sent {
    let sent = STATE.with(|state| {
        let mut state = state.borrow_mut();
        let Some(state) = state.as_mut() else { return Sent::NOTHING };
        let Some(net) = &mut state.net else { return Sent::NOTHING };
        let deadline_ns = net.stack.poll(time::monotonic_ns(), &mut state.rings.transmit).unwrap_or(u64::MAX);
        let backlog = net.stack.has_backlog();
        let crowded = backlog || state.rings.transmit.is_crowded();
        state.dispatch();
        Sent { deadline_ns, backlog, crowded }
    });
    wake_deferred();
    sent
}

impl State {
    /// Wakes the tasks that the stack's events concern.
    #[inline]
    fn dispatch(&mut self) {
        let Some(Net { stack, waiters }) = &mut self.net else { return };
        while let Some(event) = stack.next_event() {
            waiters.on_event(event, |wake| match wake {
                Wake::Task(id) => id.wake(),
                foreign @ Wake::Foreign(_) => self.deferred.push(foreign),
            });
        }
    }
}

/// Calls the wakers of others: they may do anything, so nothing is borrowed meanwhile.
fn wake_deferred() {
    while let Some(wake) = STATE.with(|state| state.borrow_mut().as_mut().and_then(|state| state.deferred.pop())) {
        wake.wake();
    }
}

/// Tries an operation, and registers the task by `register` when it would block.
#[inline]
fn poll_operation<R>(
    context: &mut Context<'_>,
    operation: impl FnOnce(&mut Net) -> Result<R, Error>,
    register: impl FnOnce(&mut Waiters, Wake),
) -> Poll<Result<R, Error>> {
    let result = with_started(|net| {
        let result = operation(net);
        if let Err(Error::WouldBlock) = result {
            register(&mut net.waiters, Wake::of(context.waker()));
        }
        result
    });
    match result {
        Err(Error::WouldBlock) => Poll::Pending,
        ready => Poll::Ready(ready),
    }
}

/// An address of ours with a port, for messages and `local_addr`.
fn own_endpoint(port: u16) -> SocketAddrV4 {
    let ip = address().map_or(Ipv4Addr::UNSPECIFIED, |cidr| cidr.address());
    SocketAddrV4::new(ip, port)
}
