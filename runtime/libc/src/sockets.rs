//! Sockets: Linux's types, flags and options, over the runtime's.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ffi::{c_int, c_uint, c_void};
use core::net::{Ipv4Addr, SocketAddrV4};
use core::slice;

use libc::{iovec, msghdr, sockaddr, sockaddr_in, socklen_t};
use runtime::sys::descriptors::{self, Errno, Result};
use runtime::sys::sockets::{Family, Kind, Mode, Name, Side, Socket, Value};
use runtime::time::Duration;

use crate::errno::{fail, result};

/// Bytes of an address of IPv4.
const ADDRESS_BYTES: socklen_t = size_of::<sockaddr_in>() as socklen_t;
/// Bytes of a local address that is none: its family alone.
const FAMILY_BYTES: usize = size_of::<libc::sa_family_t>();

fn returned(outcome: Result<c_int>) -> c_int {
    result(outcome.unwrap_or_else(|errno: Errno| -errno))
}

fn size(outcome: Result<usize>) -> isize {
    match outcome {
        Ok(bytes) => bytes as isize,
        Err(errno) => fail(errno),
    }
}

fn socket_of(descriptor: c_int) -> Result<Rc<Socket>> {
    descriptors::get_as(descriptor, libc::ENOTSOCK)
}

/// A caller's address; `None` for one that is none (`AF_UNSPEC`).
///
/// # Safety
/// `place` is null or points to `bytes` readable bytes.
unsafe fn address(place: *const sockaddr, bytes: socklen_t) -> Result<Option<SocketAddrV4>> {
    if place.is_null() {
        return Err(libc::EFAULT);
    }
    if (bytes as usize) < FAMILY_BYTES {
        return Err(libc::EINVAL);
    }
    // SAFETY: the caller's; the family is there.
    let family = unsafe { place.cast::<libc::sa_family_t>().read_unaligned() };
    match c_int::from(family) {
        libc::AF_UNSPEC => Ok(None),
        libc::AF_INET if bytes < ADDRESS_BYTES => Err(libc::EINVAL),
        libc::AF_INET => {
            // SAFETY: the caller's; it is long enough.
            let address = unsafe { place.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Ok(Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port))))
        }
        _ => Err(libc::EAFNOSUPPORT),
    }
}

/// An address as Linux lays it out.
pub(crate) fn linux_address(address: SocketAddrV4) -> sockaddr_in {
    sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// Leaves an address, cut off if it must be, and its length. `None` is one of a local socket.
///
/// # Safety
/// Both are null, or `bytes` says how much can be written at `place`.
unsafe fn put_address(address: Option<SocketAddrV4>, place: *mut sockaddr, bytes: *mut socklen_t) -> Result<()> {
    if place.is_null() || bytes.is_null() {
        return Err(libc::EFAULT);
    }
    let put = |from: *const u8, wanted: usize| {
        // SAFETY: the caller's; no more than there is room for.
        unsafe {
            let room = (bytes.replace(wanted as socklen_t) as usize).min(wanted);
            place.cast::<u8>().copy_from_nonoverlapping(from, room);
        }
    };
    match address {
        Some(address) => {
            let address = linux_address(address);
            put((&raw const address).cast(), size_of::<sockaddr_in>());
        }
        None => put((&raw const LOCAL_FAMILY).cast(), FAMILY_BYTES),
    }
    Ok(())
}

static LOCAL_FAMILY: libc::sa_family_t = libc::AF_UNIX as libc::sa_family_t;

fn mode(flags: c_int) -> Result<Mode> {
    // Nothing is ever signalled, executed, or routed otherwise; what follows is not announced.
    let idle = libc::MSG_NOSIGNAL | libc::MSG_CMSG_CLOEXEC | libc::MSG_MORE;
    let known = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
    if flags & !(idle | known) != 0 {
        return Err(libc::EOPNOTSUPP);
    }
    Ok(Mode {
        peek: flags & libc::MSG_PEEK != 0,
        dont_wait: flags & libc::MSG_DONTWAIT != 0,
        wait_all: flags & libc::MSG_WAITALL != 0,
    })
}

/// What a socket is to be, and whether it waits and is marked to be closed.
fn kind_of(kind: c_int) -> Result<(Kind, bool, bool)> {
    let flags = kind & (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
    let kind = match kind & !flags {
        libc::SOCK_STREAM => Kind::Stream,
        libc::SOCK_DGRAM => Kind::Datagram,
        _ => return Err(libc::ESOCKTNOSUPPORT),
    };
    Ok((kind, flags & libc::SOCK_NONBLOCK != 0, flags & libc::SOCK_CLOEXEC != 0))
}

/// A caller's bytes.
///
/// # Safety
/// `place` is null or points to `bytes` readable bytes.
unsafe fn bytes_at<'a>(place: *const c_void, bytes: usize) -> Result<&'a [u8]> {
    match bytes {
        0 => Ok(&[]),
        _ if place.is_null() || isize::try_from(bytes).is_err() => Err(libc::EFAULT),
        // SAFETY: the caller's.
        _ => Ok(unsafe { slice::from_raw_parts(place.cast(), bytes) }),
    }
}

fn option_of(level: c_int, name: c_int) -> Result<Name> {
    Ok(match (level, name) {
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => Name::ReuseAddress,
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => Name::KeepAlive,
        (libc::SOL_SOCKET, libc::SO_BROADCAST) => Name::Broadcast,
        (libc::SOL_SOCKET, libc::SO_LINGER) => Name::Linger,
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => Name::SendBuffer,
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => Name::ReceiveBuffer,
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO) => Name::SendLimit,
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO) => Name::ReceiveLimit,
        (libc::SOL_SOCKET, libc::SO_ERROR) => Name::Error,
        (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => Name::Listens,
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => Name::NoDelay,
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL) => Name::KeepAliveTime,
        (libc::IPPROTO_IP, libc::IP_TTL) => Name::HopLimit,
        _ => return Err(libc::ENOPROTOOPT),
    })
}

/// A value at a place that may not be aligned. `EINVAL` if it is too short for one.
fn value_at<T: Copy>(bytes: &[u8]) -> Result<T> {
    if bytes.len() < size_of::<T>() {
        return Err(libc::EINVAL);
    }
    // SAFETY: there are as many bytes. It is used with plain numbers alone, of which any bytes are a value.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn set_option(socket: &Socket, name: Name, bytes: &[u8]) -> Result<()> {
    let value = match name {
        Name::ReceiveLimit | Name::SendLimit => {
            let libc::timeval { tv_sec, tv_usec } = value_at(bytes)?;
            let us = u32::try_from(tv_usec).ok().filter(|us| *us < 1_000_000).ok_or(libc::EDOM)?;
            // As Linux has it, less than no time is none.
            let limit = Duration::new(u64::try_from(tv_sec).unwrap_or(0), us * 1000);
            Value::Time((!limit.is_zero()).then_some(limit))
        }
        Name::Linger => {
            let libc::linger { l_onoff, l_linger } = value_at(bytes)?;
            let seconds = u64::try_from(l_linger).unwrap_or(0);
            Value::Time((l_onoff != 0).then(|| Duration::from_secs(seconds)))
        }
        _ => Value::Number(value_at(bytes)?),
    };
    socket.set_option(name, value)
}

/// Calls `f` with a value's bytes.
fn with_option(socket: &Socket, level: c_int, name: c_int, f: impl FnOnce(&[u8])) -> Result<()> {
    let (family, kind) = socket.kind();
    let number = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_TYPE) => Some(match kind {
            Kind::Stream => libc::SOCK_STREAM,
            Kind::Datagram => libc::SOCK_DGRAM,
        }),
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => Some(match family {
            Family::Internet => libc::AF_INET,
            Family::Local => libc::AF_UNIX,
        }),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => Some(match (family, kind) {
            (Family::Local, _) => 0,
            (_, Kind::Stream) => libc::IPPROTO_TCP,
            (_, Kind::Datagram) => libc::IPPROTO_UDP,
        }),
        _ => None,
    };
    if let Some(number) = number {
        f(&number.to_ne_bytes());
        return Ok(());
    }
    let name = option_of(level, name)?;
    match socket.option(name) {
        Value::Number(number) => f(&number.to_ne_bytes()),
        Value::Time(time) if name == Name::Linger => {
            let seconds = time.map_or(0, |time| i32::try_from(time.as_secs()).unwrap_or(i32::MAX));
            let words = [i32::from(time.is_some()), seconds];
            f(words.map(i32::to_ne_bytes).as_flattened());
        }
        Value::Time(limit) => {
            let limit = limit.unwrap_or_default();
            let words = [i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), limit.subsec_micros().into()];
            f(words.map(i64::to_ne_bytes).as_flattened());
        }
    }
    Ok(())
}

/// The pieces of a message.
///
/// # Safety
/// The message describes memory that can be read.
unsafe fn pieces_of(message: &msghdr) -> Result<&[iovec]> {
    match message.msg_iovlen {
        0 => Ok(&[]),
        count if count > hermit_abi::IOV_MAX => Err(libc::EMSGSIZE),
        _ if message.msg_iov.is_null() => Err(libc::EFAULT),
        // SAFETY: the caller's.
        count => Ok(unsafe { slice::from_raw_parts(message.msg_iov, count) }),
    }
}

/// # Safety
/// The message is as C wants it.
unsafe fn send_message(socket: &Rc<Socket>, message: &msghdr, mode: Mode) -> Result<usize> {
    if message.msg_controllen > 0 {
        // Descriptors cannot be sent: there is nobody else.
        return Err(libc::EOPNOTSUPP);
    }
    // SAFETY: the caller's.
    let pieces = unsafe { pieces_of(message) }?;
    // SAFETY: the caller's.
    let piece = |piece: &iovec| unsafe { bytes_at(piece.iov_base, piece.iov_len) };
    if socket.kind().1 == Kind::Datagram {
        let pieces: Vec<&[u8]> = pieces.iter().map(piece).collect::<Result<_>>()?;
        let to = if message.msg_name.is_null() {
            None
        } else {
            // SAFETY: the caller's.
            unsafe { address(message.msg_name.cast(), message.msg_namelen) }?
        };
        return socket.send_datagram(&pieces.concat(), to, mode);
    }
    let mut total = 0;
    for described in pieces.iter().filter(|piece| piece.iov_len > 0) {
        match socket.send(piece(described)?, mode) {
            Ok(written) => {
                total += written;
                if written < described.iov_len {
                    break;
                }
            }
            Err(errno) if total == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(total)
}

/// # Safety
/// The message is as C wants it.
unsafe fn receive_message(socket: &Rc<Socket>, message: &mut msghdr, mode: Mode) -> Result<usize> {
    message.msg_controllen = 0;
    message.msg_flags = 0;
    // SAFETY: the caller's.
    let pieces = unsafe { pieces_of(message) }?;
    if let [piece] = pieces {
        // SAFETY: the caller's.
        let (bytes, from) = unsafe { receive(socket, piece.iov_base, piece.iov_len, mode) }?;
        // SAFETY: the caller's.
        unsafe { put_sender(message, from) }?;
        return Ok(bytes);
    }
    let room = pieces.iter().map(|piece| piece.iov_len).sum();
    let mut gathered = Vec::new();
    gathered.try_reserve_exact(room).map_err(|_| libc::ENOMEM)?;
    // SAFETY: there is room for as many.
    let (bytes, from) = unsafe { socket.receive(gathered.as_mut_ptr(), room, mode) }?;
    // SAFETY: as many have been given a value.
    unsafe { gathered.set_len(bytes) };
    let mut rest = gathered.as_slice();
    for piece in pieces {
        let (part, left) = rest.split_at(rest.len().min(piece.iov_len));
        // SAFETY: the caller's; no more than the piece takes.
        unsafe { piece.iov_base.cast::<u8>().copy_from_nonoverlapping(part.as_ptr(), part.len()) };
        rest = left;
    }
    // SAFETY: the caller's.
    unsafe { put_sender(message, from) }?;
    Ok(bytes)
}

/// # Safety
/// The message is as C wants it.
unsafe fn put_sender(message: &mut msghdr, from: Option<SocketAddrV4>) -> Result<()> {
    if message.msg_name.is_null() || from.is_none() {
        message.msg_namelen = 0;
        return Ok(());
    }
    // SAFETY: the caller's.
    unsafe { put_address(from, message.msg_name.cast(), &raw mut message.msg_namelen) }
}

/// # Safety
/// `place` is null or points to `bytes` writable bytes.
unsafe fn receive(
    socket: &Rc<Socket>,
    place: *mut c_void,
    bytes: usize,
    mode: Mode,
) -> Result<(usize, Option<SocketAddrV4>)> {
    if place.is_null() && bytes > 0 || isize::try_from(bytes).is_err() {
        return Err(libc::EFAULT);
    }
    let place = if bytes == 0 { core::ptr::dangling_mut() } else { place.cast() };
    // SAFETY: the caller's.
    unsafe { socket.receive(place, bytes, mode) }
}

c_functions! {
    /// A socket over IPv4, for a stream or for datagrams. `EAFNOSUPPORT` for other addresses.
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
        let open = || {
            if domain != libc::AF_INET {
                return Err(libc::EAFNOSUPPORT);
            }
            let (kind, nonblocking, marked) = kind_of(kind)?;
            match (kind, protocol) {
                (_, 0) | (Kind::Stream, libc::IPPROTO_TCP) | (Kind::Datagram, libc::IPPROTO_UDP) => {}
                _ => return Err(libc::EPROTONOSUPPORT),
            }
            descriptors::open(Socket::new(Family::Internet, kind, nonblocking)?, marked)
        };
        returned(open())
    }

    /// Two streams that are connected with each other.
    fn socketpair(domain: c_int, kind: c_int, protocol: c_int, place: *mut c_int) -> c_int {
        let open = || {
            let (kind, nonblocking, marked) = kind_of(kind)?;
            match (domain, protocol) {
                (libc::AF_UNIX, 0) => {}
                (libc::AF_UNIX, _) => return Err(libc::EPROTONOSUPPORT),
                _ => return Err(libc::EAFNOSUPPORT),
            }
            let [one, two] = Socket::pair(kind, nonblocking)?;
            // SAFETY: the caller's.
            unsafe { put_both(place, descriptors::open(one, marked)?, descriptors::open(two, marked)) }
        };
        returned(open())
    }

    /// Gives a socket an address; with port 0, one that is free.
    fn bind(socket: c_int, place: *const sockaddr, bytes: socklen_t) -> c_int {
        // SAFETY: the caller's.
        let address = || unsafe { address(place, bytes) }?.ok_or(libc::EAFNOSUPPORT);
        returned(socket_of(socket).and_then(|socket| socket.bind(address()?)).map(|()| 0))
    }

    /// Listens, at a free port unless it has one.
    fn listen(socket: c_int, backlog: c_int) -> c_int {
        // As Linux has it, a negative number is a large one.
        returned(socket_of(socket).and_then(|socket| socket.listen(backlog as c_uint as usize)).map(|()| 0))
    }

    /// Waits for a connection: its descriptor.
    fn accept4(socket: c_int, place: *mut sockaddr, bytes: *mut socklen_t, flags: c_int) -> c_int {
        let accept = || {
            if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
                return Err(libc::EINVAL);
            }
            let accepted = socket_of(socket)?.accept(flags & libc::SOCK_NONBLOCK != 0)?;
            if !place.is_null() {
                // One that is gone already has no address any more.
                let remote = accepted.remote_address().ok().flatten();
                let remote = remote.unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
                // SAFETY: the caller's.
                unsafe { put_address(Some(remote), place, bytes) }?;
            }
            descriptors::open(accepted, flags & libc::SOCK_CLOEXEC != 0)
        };
        returned(accept())
    }

    /// As [`accept4`] without flags.
    fn accept(socket: c_int, place: *mut sockaddr, bytes: *mut socklen_t) -> c_int {
        // SAFETY: the caller's.
        unsafe { accept4(socket, place, bytes, 0) }
    }

    /// Opens a connection; `EINPROGRESS` from a socket that is not to wait.
    fn connect(socket: c_int, place: *const sockaddr, bytes: socklen_t) -> c_int {
        // SAFETY: the caller's.
        let address = || unsafe { address(place, bytes) };
        returned(socket_of(socket).and_then(|socket| socket.connect(address()?)).map(|()| 0))
    }

    /// Says that nothing more is read or written.
    fn shutdown(socket: c_int, how: c_int) -> c_int {
        let side = match how {
            libc::SHUT_RD => Ok(Side::Read),
            libc::SHUT_WR => Ok(Side::Write),
            libc::SHUT_RDWR => Ok(Side::Both),
            _ => Err(libc::EINVAL),
        };
        returned(socket_of(socket).and_then(|socket| socket.shutdown(side?)).map(|()| 0))
    }

    /// This end's address.
    fn getsockname(socket: c_int, place: *mut sockaddr, bytes: *mut socklen_t) -> c_int {
        // SAFETY: the caller's.
        let put = |socket: Rc<Socket>| unsafe { put_address(socket.local_address(), place, bytes) };
        returned(socket_of(socket).and_then(put).map(|()| 0))
    }

    /// The other end's address.
    fn getpeername(socket: c_int, place: *mut sockaddr, bytes: *mut socklen_t) -> c_int {
        // SAFETY: the caller's.
        let put = |socket: Rc<Socket>| unsafe { put_address(socket.remote_address()?, place, bytes) };
        returned(socket_of(socket).and_then(put).map(|()| 0))
    }

    /// Sets an option. `ENOPROTOOPT` for one that there is not.
    fn setsockopt(socket: c_int, level: c_int, name: c_int, value: *const c_void, bytes: socklen_t) -> c_int {
        let set = || {
            let socket = socket_of(socket)?;
            // SAFETY: the caller's.
            set_option(&socket, option_of(level, name)?, unsafe { bytes_at(value, bytes as usize) }?).map(|()| 0)
        };
        returned(set())
    }

    /// The value of an option. `ENOPROTOOPT` for one that there is not.
    fn getsockopt(socket: c_int, level: c_int, name: c_int, place: *mut c_void, bytes: *mut socklen_t) -> c_int {
        let get = || {
            let socket = socket_of(socket)?;
            if place.is_null() || bytes.is_null() {
                return Err(libc::EFAULT);
            }
            // SAFETY: the caller's; no more than there is room for.
            with_option(&socket, level, name, |value| unsafe {
                let room = value.len().min(bytes.read() as usize);
                place.cast::<u8>().copy_from_nonoverlapping(value.as_ptr(), room);
                bytes.write(room as socklen_t);
            })?;
            Ok(0)
        };
        returned(get())
    }

    /// Receives: how many bytes, 0 at the end.
    fn recv(socket: c_int, place: *mut c_void, bytes: usize, flags: c_int) -> isize {
        size(socket_of(socket).and_then(|socket| {
            // SAFETY: the caller's.
            unsafe { receive(&socket, place, bytes, mode(flags)?) }.map(|(bytes, _)| bytes)
        }))
    }

    /// As [`recv`], and who has sent it.
    fn recvfrom(
        socket: c_int, place: *mut c_void, bytes: usize, flags: c_int, from: *mut sockaddr, from_bytes: *mut socklen_t,
    ) -> isize {
        size(socket_of(socket).and_then(|socket| {
            // SAFETY: the caller's.
            let (bytes, sender) = unsafe { receive(&socket, place, bytes, mode(flags)?) }?;
            if !from.is_null() && sender.is_some() {
                // SAFETY: the caller's.
                unsafe { put_address(sender, from, from_bytes) }?;
            }
            Ok(bytes)
        }))
    }

    /// Receives into several places; no descriptors come with it.
    fn recvmsg(socket: c_int, message: *mut msghdr, flags: c_int) -> isize {
        size(socket_of(socket).and_then(|socket| {
            // SAFETY: the caller's.
            unsafe { receive_message(&socket, message.as_mut().ok_or(libc::EFAULT)?, mode(flags)?) }
        }))
    }

    /// Sends: how many bytes.
    fn send(socket: c_int, place: *const c_void, bytes: usize, flags: c_int) -> isize {
        // SAFETY: the caller's.
        size(socket_of(socket).and_then(|socket| socket.send(unsafe { bytes_at(place, bytes) }?, mode(flags)?)))
    }

    /// As [`send`], a datagram to an address.
    fn sendto(
        socket: c_int, place: *const c_void, bytes: usize, flags: c_int, to: *const sockaddr, to_bytes: socklen_t,
    ) -> isize {
        size(socket_of(socket).and_then(|socket| {
            // SAFETY: the caller's.
            let (data, mode) = (unsafe { bytes_at(place, bytes) }?, mode(flags)?);
            if to.is_null() || socket.kind().1 == Kind::Stream {
                return socket.send(data, mode);
            }
            // SAFETY: the caller's.
            socket.send_datagram(data, unsafe { address(to, to_bytes) }?, mode)
        }))
    }

    /// Sends several pieces. `EOPNOTSUPP` with descriptors.
    fn sendmsg(socket: c_int, message: *const msghdr, flags: c_int) -> isize {
        size(socket_of(socket).and_then(|socket| {
            // SAFETY: the caller's.
            unsafe { send_message(&socket, message.as_ref().ok_or(libc::EFAULT)?, mode(flags)?) }
        }))
    }
}

/// Leaves two descriptors; the first is closed if there is no second.
///
/// # Safety
/// `place` is null or points to room for two.
pub(crate) unsafe fn put_both(place: *mut c_int, first: c_int, second: Result<c_int>) -> Result<c_int> {
    let second = second.inspect_err(|_| _ = descriptors::close(first))?;
    if place.is_null() {
        for descriptor in [first, second] {
            descriptors::close(descriptor)?;
        }
        return Err(libc::EFAULT);
    }
    // SAFETY: the caller's.
    unsafe {
        place.write(first);
        place.add(1).write(second);
    }
    Ok(0)
}
