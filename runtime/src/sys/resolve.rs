//! Addresses of names.
//!
//! Texts that are addresses, this machine's own names, and what a name server says. The servers are those that DHCP has told
//! of; behind the supervisor's gateway it is the one beside it, which passes questions on to the host's.

use alloc::vec;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};

use hermit_abi::{EAGAIN, EFAULT, EINVAL, ENOENT};
use netstack::dns::{self, Failure, MAX_ANSWER_BYTES, Query};

use super::descriptors::{self, Errno};
use super::io::returned;
use super::sockets::{Family, Kind, Mode, Name, Socket, Value};
use crate::thread::Masked;
use crate::time::{Duration, Instant};
use crate::{env, net, random};

/// What the machine calls itself.
pub const HOST_NAME: &str = "pollux";

/// The supervisor's gateway, and the name server beside it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const BESIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// How often each server is asked.
const ROUNDS: u32 = 3;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupError {
    /// There is no such name, or the text is none.
    NoSuchName,
    /// There is one, without an address of IPv4.
    NoAddress,
    /// No server has answered, or none knows; later one may.
    TryAgain,
    /// No server is known.
    NoServer,
    /// A socket could not be had: the error number.
    System(Errno),
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchName => f.write_str("there is no such name"),
            Self::NoAddress => f.write_str("the name has no IPv4 address"),
            Self::TryAgain => f.write_str("no name server has answered"),
            Self::NoServer => f.write_str("no name server is known"),
            Self::System(errno) => write!(f, "no socket to ask a name server by: error {errno}"),
        }
    }
}

impl core::error::Error for LookupError {}

/// The servers that are asked, first one first: `chosen` if there is one.
fn servers(chosen: Option<SocketAddrV4>) -> Vec<SocketAddrV4> {
    if let Some(chosen) = chosen {
        return vec![chosen];
    }
    let mut servers = net::name_servers();
    if servers.is_empty() && net::gateway() == Some(GATEWAY) {
        servers.push(BESIDE_GATEWAY);
    }
    servers.into_iter().map(|ip| SocketAddrV4::new(ip, dns::PORT)).collect()
}

/// What this machine knows itself.
fn known(name: &str) -> Option<Vec<Ipv4Addr>> {
    let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
    let is_local = |name: &[u8]| {
        let (_, end) = name.split_at(name.len().saturating_sub(b"localhost".len()));
        end.eq_ignore_ascii_case(b"localhost") && (name.len() == end.len() || name[name.len() - end.len() - 1] == b'.')
    };
    if is_local(name) {
        return Some(vec![Ipv4Addr::LOCALHOST]);
    }
    let is_own = name.eq_ignore_ascii_case(HOST_NAME.as_bytes());
    is_own.then(|| vec![net::own_address().unwrap_or(Ipv4Addr::LOCALHOST)])
}

/// The addresses of a name, in the order in which they are to be tried. `chosen` is asked in place of the servers that are
/// known.
///
/// # Errors
/// [`LookupError`].
pub fn lookup(name: &str, chosen: Option<SocketAddrV4>) -> Result<Vec<Ipv4Addr>, LookupError> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    if let Some(known) = known(name) {
        return Ok(known);
    }
    // What is no name is nobody asked for, whatever else is missing.
    Query::new(name, 0).ok_or(LookupError::NoSuchName)?;
    if !dns::is_name(name) {
        return Err(LookupError::NoSuchName);
    }
    let mut id = [0; 2];
    random::fill(&mut id).map_err(|_| LookupError::TryAgain)?;
    let query = Query::new(name, u16::from_le_bytes(id)).ok_or(LookupError::NoSuchName)?;
    let servers = servers(chosen);
    if servers.is_empty() {
        return Err(LookupError::NoServer);
    }
    for _ in 0..ROUNDS {
        for server in &servers {
            match ask(&query, *server) {
                Err(LookupError::TryAgain) => {}
                other => return other,
            }
        }
    }
    Err(LookupError::TryAgain)
}

/// Asks one server once.
fn ask(query: &Query, server: SocketAddrV4) -> Result<Vec<Ipv4Addr>, LookupError> {
    let socket = Socket::new(Family::Internet, Kind::Datagram, false).map_err(LookupError::System)?;
    socket.connect(Some(server)).map_err(LookupError::System)?;
    if socket.send(&query.message(), Mode::default()).is_err() {
        return Err(LookupError::TryAgain);
    }
    let mut answer = [0; MAX_ANSWER_BYTES];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.duration_since(Instant::now());
        if left.is_zero() {
            return Err(LookupError::TryAgain);
        }
        socket.set_option(Name::ReceiveLimit, Value::Time(Some(left))).map_err(LookupError::System)?;
        // SAFETY: the place is an array of that length.
        let received = unsafe { socket.receive(answer.as_mut_ptr(), answer.len(), Mode::default()) };
        let Ok((bytes, _)) = received else { return Err(LookupError::TryAgain) };
        return match query.answer(&answer[..bytes]) {
            Ok(addresses) => Ok(addresses),
            // Late, or not for us: the right one may follow.
            Err(Failure::Foreign) => continue,
            Err(Failure::NoSuchName) => Err(LookupError::NoSuchName),
            Err(Failure::NoAddress) => Err(LookupError::NoAddress),
            Err(Failure::Server) => Err(LookupError::TryAgain),
        };
    }
}

/// The variable by which an operator names the server that is asked.
pub const SERVER_VARIABLE: &CStr = c"POLLUX_DNS";

/// The server that the operator has named at the start, if any. What a program sets itself later is its C library's business.
pub(super) fn operators_server() -> Option<SocketAddrV4> {
    let name = SERVER_VARIABLE.to_str().ok()?;
    let values = env::variables().filter_map(|variable| variable.strip_prefix(name)?.strip_prefix('='));
    values.last().and_then(parse_server)
}

/// A name server as an operator writes it: an address, and a port unless it is the usual one.
pub fn parse_server(text: &str) -> Option<SocketAddrV4> {
    text.parse().ok().or_else(|| text.parse().ok().map(|ip| SocketAddrV4::new(ip, dns::PORT)))
}

/// Leaves the first address of a name at `inaddr`, four bytes, most significant first. `-EINVAL` for another length,
/// `-EFAULT` for a null pointer, `-ENOENT` when there is no such name or none with such an address, `-EAGAIN` when nobody
/// could say.
///
/// # Safety
/// `name` is null or a text that ends with a zero, `inaddr` is null or points to `len` writable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_getaddrbyname(name: *const c_char, inaddr: *mut u8, len: usize) -> i32 {
    let _masked = Masked::new();
    let found = || -> descriptors::Result<Ipv4Addr> {
        if name.is_null() || inaddr.is_null() {
            return Err(EFAULT);
        }
        if len != size_of::<Ipv4Addr>() {
            return Err(EINVAL);
        }
        // SAFETY: the caller's.
        let name = unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| ENOENT)?;
        let found = lookup(name, operators_server()).map_err(|error| match error {
            LookupError::NoSuchName | LookupError::NoAddress => ENOENT,
            LookupError::TryAgain | LookupError::NoServer => EAGAIN,
            LookupError::System(errno) => errno,
        })?;
        found.first().copied().ok_or(ENOENT)
    };
    returned(found().map(|address| {
        // SAFETY: the caller's; there is room for as many.
        unsafe { inaddr.copy_from_nonoverlapping(address.octets().as_ptr(), size_of::<Ipv4Addr>()) };
        0
    }))
}
