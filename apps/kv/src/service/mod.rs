//! The store as a network service: a task for each connection, one for housekeeping.
//!
//! What is on the wire and in the store is the rest of this crate; this module moves bytes between the two. A
//! connection's commands run in place, from the socket's receive buffer, and its replies go out with the epoch.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::cell::RefCell;
use core::fmt;

use runtime::block::Errno;
use runtime::net::{self, StartError, TcpListener, TcpStream};
use runtime::time::{Duration, SystemTime, sleep, timeout};
use runtime::{JoinHandle, env, println, random, spawn, yield_now};

use crate::persist::EngineError;
use crate::{Server, Session, TooManyClients, Work};

mod checkpoint;
pub(crate) mod memory;
mod persistence;
mod settings;

pub use settings::{Settings, SettingsError};

/// Expired keys that housekeeping removes before it lets others run.
const EXPIRE_BUDGET: usize = 100;
/// Between two rounds of housekeeping. A key that has expired is never seen, removed or not, so this only bounds how
/// long its memory stays taken.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How long a connection that the store ends waits for its peer to finish.
const HANG_UP: Duration = Duration::from_secs(1);
/// Connections that may be open beyond the limit of clients, so that those too many are told why they are closed.
const REFUSED_CONNECTIONS: usize = 16;

/// Why the store did not start, or stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An argument is wrong.
    Settings(SettingsError),
    /// The shim gave no seeds.
    Random(random::Error),
    /// The network did not start.
    Start(StartError),
    /// The port cannot be listened on.
    Listen {
        /// The port.
        port: u16,
        /// Why.
        error: net::Error,
    },
    /// What the disk holds could not be brought back.
    Persistence {
        /// The disk's name.
        disk: String,
        /// Why.
        error: EngineError<Errno>,
    },
    /// Connections cannot be accepted any more.
    Accept(net::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => error.fmt(f),
            Self::Random(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::Listen { port, error } => write!(f, "cannot listen on port {port}: {error}"),
            Self::Persistence { disk, error } => write!(f, "disk {disk}: {error}"),
            Self::Accept(error) => write!(f, "cannot accept connections any more: {error}"),
        }
    }
}

impl core::error::Error for Error {}

/// What all tasks share.
struct Shared {
    server: RefCell<Server>,
    /// The tasks of connections, by the connections' numbers, for CLIENT KILL.
    tasks: RefCell<BTreeMap<u64, JoinHandle<()>>>,
    /// Where replies wait for the disk.
    gate: persistence::Gate,
    /// What DEBUG CHECKPOINT has saved.
    saved: checkpoint::Saved,
}

/// Serves the store until the machine stops.
///
/// Arguments (see [`runtime::env`]): `port=6379`, `maxmemory=BYTES`, `maxclients=N`, `rx=BYTES` `tx=BYTES` (the
/// buffers of a connection) and `debug=yes|no` (DEBUG COMPUTE, CHECKPOINT, RESTORE); sizes may end in `kb`, `mb` or `gb`. With `appendonly=yes`
/// the data is kept on the disk `data`, or the one that `disk=NAME` names; `appendfsync=always|everysec|no` says when a
/// write is made stable. A log that is damaged in the middle is refused, unless `aof-repair=yes` says that what follows the
/// damage may be lost (as redis-check-aof does): then it is cut off, said on the console and in INFO, and never silently.
///
/// # Errors
/// When it cannot start; see [`Error`].
pub async fn main() -> Result<(), Error> {
    let settings = Settings::parse(env::words(), env::heap_bytes()).map_err(Error::Settings)?;
    let mut options = settings.net_options();
    let most_connections = settings.max_clients + REFUSED_CONNECTIONS;
    options.max_connections = Some(most_connections);
    net::start(&options).map_err(Error::Start)?;
    let config = settings.config(random::number().map_err(Error::Random)?, random::number().map_err(Error::Random)?);
    let port = settings.port;
    // With a backlog as large as the limit of connections, whoever comes beyond it is refused at once; with a smaller
    // one a burst would wait for its SYNs to be repeated.
    let listener = TcpListener::bind_with_backlog(port, most_connections);
    let listener = listener.map_err(|error| Error::Listen { port, error })?;
    // Who comes while the disk is being read waits for it.
    let mut server = Server::new(config, now_ms());
    let engine = match &settings.disk {
        Some(disk) => {
            let new_key = random::number().map_err(Error::Random)?;
            let started = persistence::start(&mut server, disk, new_key, settings.aof_repair).await;
            Some(started.map_err(|error| Error::Persistence { disk: disk.clone(), error })?)
        }
        None => None,
    };
    let shared = Rc::new(Shared {
        server: RefCell::new(server),
        tasks: RefCell::default(),
        gate: persistence::Gate::default(),
        saved: checkpoint::Saved::default(),
    });
    if let Some(engine) = engine {
        spawn(persistence::keep(Rc::clone(&shared), engine));
    }
    spawn(keep_house(Rc::clone(&shared)));
    println!("kv: ready on port {port}");
    loop {
        let stream = listener.accept().await.map_err(Error::Accept)?;
        shared.admit(stream);
    }
}

fn now_ms() -> i64 {
    SystemTime::now().unix_millis() as i64
}

/// Removes expired keys while nobody asks for them.
async fn keep_house(shared: Rc<Shared>) {
    loop {
        let now_ms = now_ms();
        let next_ms = shared.server.borrow_mut().tick(now_ms, EXPIRE_BUDGET);
        if next_ms.is_some_and(|next_ms| next_ms <= now_ms) {
            yield_now().await;
        } else {
            sleep(HOUSEKEEPING).await;
        }
    }
}

impl Shared {
    /// Starts a task for a connection.
    fn admit(self: &Rc<Self>, stream: TcpStream) {
        let address = stream.peer_addr().map(|address| address.to_string()).unwrap_or_default();
        let session = Session::open(&mut self.server.borrow_mut(), now_ms(), &address);
        match session {
            Ok(session) => {
                let id = session.id();
                let client = Client { shared: Rc::clone(self), session: Some(session) };
                let task = spawn(serve(client, stream));
                self.tasks.borrow_mut().insert(id, task);
            }
            Err(TooManyClients) => {
                spawn(async move {
                    if stream.write_all(TooManyClients::REPLY).await.is_ok() {
                        hang_up(&stream).await;
                    }
                });
            }
        }
    }

    /// Ends the connections that CLIENT KILL has named. One that is named by its own command ends by itself, once it
    /// has its reply.
    fn end_killed(&self, own_id: u64) {
        loop {
            let killed = self.server.borrow_mut().take_killed();
            let Some(id) = killed else { return };
            if id != own_id {
                let task = self.tasks.borrow_mut().remove(&id);
                if let Some(task) = task {
                    task.abort();
                }
            }
        }
    }
}

/// A connection's state in the store; dropping it, however the task ends, takes it off the server's register.
struct Client {
    shared: Rc<Shared>,
    session: Option<Session>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.shared.tasks.borrow_mut().remove(&session.id());
            session.close(&mut self.shared.server.borrow_mut());
        }
    }
}

/// Serves one connection to its end. How a connection breaks off makes no difference to the store.
async fn serve(mut client: Client, stream: TcpStream) {
    let Client { shared, session: Some(session) } = &mut client else { return };
    let _ = converse(shared, session, &stream).await;
}

async fn converse(shared: &Rc<Shared>, session: &mut Session, stream: &TcpStream) -> Result<(), net::Error> {
    loop {
        let fed = stream.read_with(|input| {
            let mut server = shared.server.borrow_mut();
            let taken = session.feed(&mut server, now_ms(), input);
            (taken, persistence::ticket(&server))
        });
        let fed = fed.await?;
        let peer_has_finished = fed.is_none();
        shared.end_killed(session.id());
        if let Some(work) = session.take_work() {
            let result = match work {
                Work::Compute(rounds) => compute(rounds).await,
                Work::Checkpoint => checkpoint::take(shared).await,
                Work::Restore => checkpoint::restore(shared).await,
            };
            session.finish_work(result.as_ref().copied().map_err(String::as_str));
        }
        if let Some(Some(ticket)) = fed
            && shared.settle(ticket).await.is_err()
        {
            // Whether what the replies speak of will last nobody knows, so they are not sent.
            return Ok(());
        }
        while !session.output().is_empty() {
            let written = stream.write(session.output()).await?;
            session.advance_output(written);
        }
        if peer_has_finished {
            return Ok(());
        }
        if session.wants_close() {
            hang_up(stream).await;
            return Ok(());
        }
    }
}

/// Computes what a connection has asked for, while others are served.
async fn compute(rounds: u64) -> Result<u64, String> {
    if !memory::may_grow_to(Work::STACK_BYTES) {
        return Err("OOM no memory for the stack of a computation".into());
    }
    Ok(runtime::compute::spawn(Work::STACK_BYTES, move || Work::rounds(rounds)).await)
}

/// Ends a connection whose peer may still be talking: closing it with unread data would reset it, and the last reply
/// would be lost with it. So the peer is told that this was all and is listened to until it has finished, for a while.
async fn hang_up(stream: &TcpStream) {
    if stream.shutdown().is_err() {
        return;
    }
    let hear_out = async { while let Ok(Some(())) = stream.read_with(|data| (data.len(), ())).await {} };
    // Late or not, this is the end.
    let _ = timeout(HANG_UP, hear_out).await;
}
