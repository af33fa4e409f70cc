//! Running a program on a host, on a fake shim.
//!
//! The fake implements the hypercalls over real rings; what lies behind the rings is the caller's [`World`]: it is
//! asked at every epoch boundary, takes the frames that the program sent, delivers others and moves the clock.
//! Program and world share one thread and nothing else happens in between, so a run is a function of the setup and
//! the world: run twice, it must send the same bytes at the same times.
//!
//! ```
//! use std::{cell::RefCell, rc::Rc};
//! use runtime::host::{Boundary, End, Setup, World, run};
//!
//! struct Nobody;
//! impl World for Nobody {
//!     fn boundary(&mut self, boundary: &mut Boundary<'_>) {
//!         boundary.set_now_ns(boundary.deadline_ns());
//!     }
//! }
//!
//! let outcome = run(&Setup::default(), &Rc::new(RefCell::new(Nobody)), || async {
//!     runtime::time::sleep(runtime::time::Duration::from_secs(3)).await;
//!     runtime::println!("{}", runtime::time::Instant::now());
//! });
//! assert_eq!(outcome.console, b"3.000000000 s\n");
//! assert!(matches!(outcome.end, End::Returned(())));
//! ```

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

use hypercall::layout::{BootInfo, NET_CHECKSUM_OFFLOAD, NetConfig};

pub(crate) mod calls;
pub mod dialogue;
pub mod disk;
pub mod heap;
mod memory;
pub mod peer;
mod shim;

pub use shim::Boundary;

use calls::Stopped;
use memory::Memory;
use shim::Shim;

/// What lies behind the shim: the network, the clock, the keyboard.
pub trait World {
    /// Called at each epoch boundary. It must move the clock to the deadline or deliver something, sooner or later:
    /// a guest that waits for what never comes is reported as [`End::Stuck`] after
    /// [`Setup::idle_epochs`] boundaries without either.
    fn boundary(&mut self, boundary: &mut Boundary<'_>);
}

/// How the machine is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Bytes of memory that the program is told it has as heap. The host's allocator does not enforce it.
    pub heap_bytes: u64,
    /// Argument text, see [`crate::env`].
    pub arguments: String,
    /// The network interface.
    pub net: NetConfig,
    /// The disks, sorted by name, at most [`hypercall::disk::MAX_DISKS`].
    pub disks: Vec<disk::HostDisk>,
    /// Seeds the shim's random bytes.
    pub entropy_seed: u64,
    /// Wall clock at the start.
    pub realtime_ns: u64,
    /// Boundaries without progress after which the machine is stuck.
    pub idle_epochs: u32,
}

impl Default for Setup {
    /// 10.0.2.15/24 behind 10.0.2.2 without checksums, 12 MiB of heap, no disks.
    fn default() -> Self {
        Self {
            heap_bytes: 12 << 20,
            arguments: String::new(),
            net: NetConfig {
                mac: [0x02, 0, 0, 0, 0, 0x0f, 0, 0],
                flags: NET_CHECKSUM_OFFLOAD,
                address: 0x0a00_020f,
                prefix_bits: 24,
                gateway: 0x0a00_0202,
                mtu_bytes: 9000,
                reserved: 0,
            },
            disks: Vec::new(),
            entropy_seed: 1,
            realtime_ns: 1_700_000_000_000_000_000,
            idle_epochs: 1000,
        }
    }
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End<T> {
    /// `main` returned.
    Returned(T),
    /// The program asked to exit.
    Exited(i32),
    /// The world stopped the machine, see [`Boundary::stop`].
    Stopped,
    /// The program waited for what never came.
    Stuck,
}

/// What a run left behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome<T> {
    /// How it ended.
    pub end: End<T>,
    /// Everything written to the console.
    pub console: Vec<u8>,
    /// Epoch boundaries.
    pub epochs: u64,
    /// A hash of every hypercall and every frame in order: equal runs have equal ones.
    pub digest: u64,
}

std::thread_local! {
    static BOOT: Cell<Option<&'static BootInfo>> = const { Cell::new(None) };
    static SHIM: RefCell<Option<Shim>> = const { RefCell::new(None) };
    /// Leaked once a thread, so that references into it may have any lifetime.
    static MEMORY: &'static Memory = Box::leak(Box::new(Memory::new()));
}

/// Uninstalls the machine however the run ends.
struct Installed;

impl Installed {
    fn new(setup: &Setup, world: Rc<RefCell<dyn World>>) -> Self {
        assert!(BOOT.get().is_none(), "a machine already runs on this thread");
        let memory = MEMORY.with(|memory| *memory);
        let boot = memory.initialise(setup);
        SHIM.with(|shim| *shim.borrow_mut() = Some(Shim::new(memory, setup, world)));
        BOOT.set(Some(boot));
        crate::net::attach();
        crate::block::attach();
        Self
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        crate::executor::reset();
        crate::net::detach();
        crate::fs::reset();
        crate::block::detach();
        crate::console::reset();
        SHIM.with(|shim| shim.borrow_mut().take());
        BOOT.set(None);
    }
}

/// Runs the program that `main` starts until it returns or the machine stops.
///
/// # Panics
/// If the calling thread already runs a machine. Panics of the program are passed on.
pub fn run<W, F>(setup: &Setup, world: &Rc<RefCell<W>>, main: impl FnOnce() -> F + 'static) -> Outcome<F::Output>
where
    W: World + 'static,
    F: Future + 'static,
    F::Output: 'static,
{
    let world: Rc<RefCell<dyn World>> = Rc::clone(world) as _;
    let installed = Installed::new(setup, world);
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| crate::executor::block_on(async move { main().await })));
    let end = match ran {
        Ok(output) => {
            crate::console::flush();
            End::Returned(output)
        }
        Err(payload) => match payload.downcast::<Stopped>() {
            Ok(stopped) => match *stopped {
                Stopped::Exit(code) => End::Exited(code),
                Stopped::World => End::Stopped,
                Stopped::Stuck => End::Stuck,
            },
            Err(panic) => std::panic::resume_unwind(panic),
        },
    };
    let (console, epochs, digest) = SHIM.with(|shim| shim.borrow_mut().as_mut().map(Shim::finish)).unwrap_or_default();
    drop(installed);
    Outcome { end, console, epochs, digest }
}
