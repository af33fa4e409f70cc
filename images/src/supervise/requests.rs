//! Answers requests: one JSON object a line over the socket in the pair's folder.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use protocol::control::ToShim;
use rustix::process::Signal;

use super::{Phase, Supervisor, token};
use crate::ctl::{Request, Response, RoleName, SignalName, to_line};
use crate::error::{Context, Result};
use crate::state::StateDir;

/// Connections at once.
const MAX_CLIENTS: usize = 64;
/// Longest request.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Longest text typed at the console in one request; it must fit into one control message.
const MAX_INPUT_BYTES: usize = 32 * 1024;
/// Bytes of garbage put into the link: several headers of frames.
const GARBAGE_BYTES: usize = 256;

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// It asked for the end and is answered when all has ended.
    awaits_end: bool,
}

/// The listener and its connections.
#[derive(Debug)]
pub struct Requests {
    listener: UnixListener,
    registry: Registry,
    clients: Vec<Option<Client>>,
}

impl Requests {
    /// Listens in the pair's folder. The caller holds the folder's lock, so a socket that is there is a dead one's.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(dir: &StateDir, registry: Registry) -> Result<Self> {
        let path = dir.socket();
        let bound = UnixListener::bind(&path);
        let mut listener = bound.context(|| format!("cannot listen on {}", path.display()))?;
        let private = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600));
        private.context(|| format!("cannot protect {}", path.display()))?;
        let registered = registry.register(&mut listener, Token(token::REQUESTS), Interest::READABLE);
        registered.context(|| "cannot watch the request socket")?;
        Ok(Self { listener, registry, clients: Vec::new() })
    }

    /// Takes whoever connects.
    pub fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let index = self.clients.iter().position(Option::is_none).unwrap_or(self.clients.len());
            if index >= MAX_CLIENTS {
                continue;
            }
            let mut client = Client { stream, input: Vec::new(), output: Vec::new(), awaits_end: false };
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.registry.register(&mut client.stream, Token(token::CLIENTS + index), interest).is_err() {
                continue;
            }
            if index == self.clients.len() {
                self.clients.push(None);
            }
            self.clients[index] = Some(client);
        }
    }

    /// Answers those who asked for the end.
    pub fn farewell(&mut self) {
        for client in self.clients.iter_mut().flatten().filter(|client| client.awaits_end) {
            client.answer(&Response::Done);
            // We are about to end: the few bytes fit into the socket's buffer.
            let _ = client.flush();
        }
    }
}

impl Client {
    /// Reads what there is and returns the first whole line. An error ends the connection.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
                let rest = self.input.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.input, rest)));
            }
            if self.input.len() > MAX_LINE_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.input.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn answer(&mut self, response: &Response) {
        // Responses hold nothing that JSON cannot say.
        self.output.extend_from_slice(to_line(response).unwrap_or_default().as_bytes());
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(bytes) => drop(self.output.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Supervisor {
    /// A connection with requests is ready.
    pub(super) fn serve_client(&mut self, index: usize, now_ns: u64) {
        let Some(mut client) = self.requests.clients.get_mut(index).and_then(Option::take) else {
            return;
        };
        let mut result = client.flush();
        // One that does not read its answers is asked nothing more.
        while result.is_ok() && client.output.is_empty() {
            match client.line() {
                Ok(None) => break,
                Ok(Some(line)) => {
                    match serde_json::from_slice(&line) {
                        Ok(Request::Down) => {
                            client.awaits_end = true;
                            self.begin_end(now_ns);
                        }
                        Ok(request) => client.answer(&self.handle(&request, now_ns)),
                        Err(error) => client.answer(&Response::Error(format!("not a request: {error}"))),
                    }
                    result = client.flush();
                }
                Err(error) => result = Err(error),
            }
        }
        if result.is_ok() {
            self.requests.clients[index] = Some(client);
        } else {
            // Closing it removes it from the registry too.
            let _ = self.requests.registry.deregister(&mut client.stream);
        }
    }

    fn handle(&mut self, request: &Request, now_ns: u64) -> Response {
        match request {
            Request::Status => Response::Status(Box::new(self.status(now_ns))),
            Request::Kill { role, signal } => self.kill(*role, *signal),
            Request::CutLink => self.cut_link().map_or_else(Response::Error, |()| Response::Done),
            Request::GarbageOnLink { role } => self.garbage_on_link(*role),
            Request::Checkpoint { path, since } => {
                self.take_checkpoint(path, since.as_deref()).map_or_else(Response::Error, |()| Response::Done)
            }
            Request::Record { path } => self.begin_recording(path).map_or_else(Response::Error, |()| Response::Done),
            Request::StopRecording => self.stop_recording().map_or_else(Response::Error, |()| Response::Done),
            Request::Rejoin => self.rejoin_on_request().map_or_else(Response::Error, |()| Response::Done),
            Request::SwitchOver => self.switch_over().map_or_else(Response::Error, |()| Response::Done),
            Request::Migrate { host } => self.migrate(host).map_or_else(Response::Error, |()| Response::Done),
            Request::ConsoleInput { text } => self.console_input(text),
            // Answered when all has ended.
            Request::Down => Response::Done,
        }
    }

    fn kill(&mut self, role: RoleName, signal: SignalName) -> Response {
        let active = self.arbiter.record().active;
        let (id, what) = match role {
            RoleName::Primary => (active, "primary"),
            RoleName::Backup => (active.peer(), "backup"),
        };
        let Some(replica) = &self.replicas[id.index()] else {
            return Response::Error(format!("there is no {what}: its virtual machine has ended"));
        };
        let (pid, number) = match signal {
            SignalName::Kill => (replica.vm.pid(), Signal::KILL),
            SignalName::Stop => (replica.vm.pid(), Signal::STOP),
            SignalName::Cont => (replica.vm.pid(), Signal::CONT),
        };
        if let Err(error) = replica.vm.signal(number) {
            return Response::Error(format!("cannot signal process {pid}: {error}"));
        }
        self.happened(format!("{signal:?} sent to the {what} (replica {id}, process {pid}) on request"));
        Response::Killed { pid }
    }

    /// Writes to one replica's end of the link's socket: its peer's bytes and these arrive in one stream.
    fn garbage_on_link(&mut self, role: RoleName) -> Response {
        let active = self.arbiter.record().active;
        let reader = if role == RoleName::Primary { active } else { active.peer() };
        let Some(ends) = &mut self.link else {
            return Response::Error("there is no replication link: this is not a pair".to_owned());
        };
        if let Err(error) = ends[reader.peer().index()].write_all(&[0xa5; GARBAGE_BYTES]) {
            return Response::Error(format!("cannot write to the link: {error}"));
        }
        self.happened(format!("{GARBAGE_BYTES} bytes of garbage were sent to replica {reader} on request"));
        Response::Done
    }

    fn console_input(&mut self, text: &str) -> Response {
        if text.len() > MAX_INPUT_BYTES {
            return Response::Error(format!("at most {MAX_INPUT_BYTES} bytes at once, got {}", text.len()));
        }
        if self.phase != Phase::Serving {
            return Response::Error("the pair does not serve yet".to_owned());
        }
        let active = self.arbiter.record().active;
        self.say(active, &ToShim::ConsoleInput { bytes: text.as_bytes() });
        Response::Done
    }
}
