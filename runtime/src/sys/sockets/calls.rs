//! The `sys_` functions of sockets: hermit's types, and the error numbers.

use alloc::rc::Rc;
use core::ffi::c_void;
use core::net::{Ipv4Addr, SocketAddrV4};

use hermit_abi::{
    AF_INET, AF_UNSPEC, EAFNOSUPPORT, EFAULT, EINVAL, ENOPROTOOPT, ENOTSOCK, EOPNOTSUPP, EPROTONOSUPPORT, IP_TTL,
    IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP, MSG_PEEK, SHUT_RD, SHUT_RDWR, SHUT_WR, SO_BROADCAST, SO_ERROR, SO_KEEPALIVE,
    SO_LINGER, SO_RCVBUF, SO_RCVTIMEO, SO_REUSEADDR, SO_SNDBUF, SO_SNDTIMEO, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK,
    SOCK_STREAM, SOL_SOCKET, TCP_NODELAY, in_addr, linger, sockaddr, sockaddr_in, socklen_t, timeval,
};

use super::{Family, Kind, Mode, Name, Side, Socket, Value};
use crate::sys::descriptors::{self, Result};
use crate::sys::io::{bytes_at, returned, size};
use crate::thread::Masked;
use crate::time::Duration;

/// Bytes of an address.
const ADDRESS_BYTES: socklen_t = size_of::<sockaddr_in>() as socklen_t;

fn socket(descriptor: i32) -> Result<Rc<Socket>> {
    descriptors::get_as(descriptor, ENOTSOCK)
}

/// An address of a caller; `None` for one that is none (`AF_UNSPEC`).
///
/// # Safety
/// `address` is null or points to `bytes` readable bytes.
unsafe fn address(address: *const sockaddr, bytes: socklen_t) -> Result<Option<SocketAddrV4>> {
    if address.is_null() {
        return Err(EFAULT);
    }
    if bytes < ADDRESS_BYTES {
        return Err(EINVAL);
    }
    // SAFETY: the caller's; it is long enough.
    let address = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
    match i32::from(address.sin_family) {
        AF_INET => {
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Ok(Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port))))
        }
        AF_UNSPEC => Ok(None),
        _ => Err(EAFNOSUPPORT),
    }
}

/// An address in hermit's form.
pub(in crate::sys) fn hermit_address(address: SocketAddrV4) -> sockaddr_in {
    sockaddr_in {
        sin_len: ADDRESS_BYTES as u8,
        sin_family: AF_INET as u8,
        sin_port: address.port().to_be(),
        sin_addr: in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// Leaves an address, cut off if it must be, and its length.
///
/// # Safety
/// Both are null, or `bytes` says how much can be written at `place`.
unsafe fn put_address(address: Option<SocketAddrV4>, place: *mut sockaddr, bytes: *mut socklen_t) -> Result<()> {
    if place.is_null() || bytes.is_null() {
        return Err(EFAULT);
    }
    let address = hermit_address(address.unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)));
    // SAFETY: the caller's; no more than there is room for.
    unsafe {
        let room = bytes.replace(ADDRESS_BYTES).min(ADDRESS_BYTES);
        place.cast::<u8>().copy_from_nonoverlapping((&raw const address).cast(), room as usize);
    }
    Ok(())
}

/// A socket over IPv4: its descriptor. `-EAFNOSUPPORT`, `-EPROTONOSUPPORT`, `-EMFILE`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_socket(domain: i32, type_: i32, protocol: i32) -> i32 {
    let _masked = Masked::new();
    let open = || {
        let kind = match (domain, type_ & !(SOCK_NONBLOCK | SOCK_CLOEXEC), protocol) {
            (AF_INET, SOCK_STREAM, 0 | IPPROTO_TCP) => Kind::Stream,
            (AF_INET, SOCK_DGRAM, 0 | IPPROTO_UDP) => Kind::Datagram,
            (AF_INET, ..) => return Err(EPROTONOSUPPORT),
            _ => return Err(EAFNOSUPPORT),
        };
        let socket = Socket::new(Family::Internet, kind, type_ & SOCK_NONBLOCK != 0)?;
        descriptors::open(socket, type_ & SOCK_CLOEXEC != 0)
    };
    returned(open())
}

/// Gives a socket an address; with port 0, one that is free. `-EADDRINUSE`, `-EADDRNOTAVAIL`, `-EINVAL` if it has one.
///
/// # Safety
/// `name` is null or points to `namelen` readable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_bind(s: i32, name: *const sockaddr, namelen: socklen_t) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    let address = || unsafe { address(name, namelen) }?.ok_or(EAFNOSUPPORT);
    returned(socket(s).and_then(|socket| socket.bind(address()?)).map(|()| 0))
}

/// Listens, at a free port unless it has one.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_listen(s: i32, backlog: i32) -> i32 {
    let _masked = Masked::new();
    // As Linux has it, a negative number is a large one.
    returned(socket(s).and_then(|socket| socket.listen(backlog as u32 as usize)).map(|()| 0))
}

/// Waits for a connection: its descriptor. The other end's address is left at `addr` unless that is null.
///
/// # Safety
/// `addr` and `addrlen` are null, or `addrlen` says how much can be written at `addr`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_accept(s: i32, addr: *mut sockaddr, addrlen: *mut socklen_t) -> i32 {
    let _masked = Masked::new();
    returned(socket(s).and_then(|socket| socket.accept(false)).and_then(|accepted| {
        if !addr.is_null() {
            // SAFETY: the caller's.
            unsafe { put_address(accepted.remote_address().ok().flatten(), addr, addrlen)? };
        }
        descriptors::open(accepted, false)
    }))
}

/// Opens a connection; `-EINPROGRESS` from a socket that is not to wait.
///
/// # Safety
/// `name` is null or points to `namelen` readable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_connect(s: i32, name: *const sockaddr, namelen: socklen_t) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    let address = || unsafe { address(name, namelen) };
    returned(socket(s).and_then(|socket| socket.connect(address()?)).map(|()| 0))
}

fn mode(flags: i32) -> Result<Mode> {
    match flags {
        0 => Ok(Mode::default()),
        MSG_PEEK => Ok(Mode { peek: true, ..Mode::default() }),
        _ => Err(EOPNOTSUPP),
    }
}

/// Receives: how many bytes, 0 at the end of the other's stream. `-EAGAIN` when it is not to wait or the time is over.
///
/// # Safety
/// `buf` is null or points to `len` writable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_recv(s: i32, buf: *mut u8, len: usize, flags: i32) -> isize {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    unsafe { sys_recvfrom(s, buf, len, flags, core::ptr::null_mut(), core::ptr::null_mut()) }
}

/// As [`sys_recv`], and leaves at `addr`, unless that is null, who has sent it.
///
/// # Safety
/// As for [`sys_recv`]; `addr` and `addrlen` are null, or `addrlen` says how much can be written at `addr`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_recvfrom(
    s: i32,
    buf: *mut u8,
    len: usize,
    flags: i32,
    addr: *mut sockaddr,
    addrlen: *mut socklen_t,
) -> isize {
    let _masked = Masked::new();
    size(socket(s).and_then(|socket| {
        if buf.is_null() && len > 0 || isize::try_from(len).is_err() {
            return Err(EFAULT);
        }
        let place = if len == 0 { core::ptr::dangling_mut() } else { buf };
        // SAFETY: the caller's.
        let (bytes, from) = unsafe { socket.receive(place, len, mode(flags)?)? };
        if !addr.is_null() && from.is_some() {
            // SAFETY: the caller's.
            unsafe { put_address(from, addr, addrlen)? };
        }
        Ok(bytes)
    }))
}

/// Sends: how many bytes, all of them unless it is not to wait. `-EAGAIN` then or when the time is over, `-EPIPE` after the
/// end.
///
/// # Safety
/// `mem` is null or points to `len` readable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_send(s: i32, mem: *const c_void, len: usize, flags: i32) -> isize {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    size(socket(s).and_then(|socket| socket.send(unsafe { bytes_at(mem.cast(), len) }?, mode(flags)?)))
}

/// As [`sys_send`], a datagram to an address, or to where the socket is connected if `to` is null.
///
/// # Safety
/// As for [`sys_send`]; `to` is null or points to `tolen` readable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_sendto(
    s: i32,
    mem: *const c_void,
    len: usize,
    flags: i32,
    to: *const sockaddr,
    tolen: socklen_t,
) -> isize {
    let _masked = Masked::new();
    size(socket(s).and_then(|socket| {
        // SAFETY: the caller's.
        let (data, mode) = (unsafe { bytes_at(mem.cast(), len) }?, mode(flags)?);
        if to.is_null() || socket.kind().1 == Kind::Stream {
            return socket.send(data, mode);
        }
        // SAFETY: the caller's.
        socket.send_datagram(data, unsafe { address(to, tolen) }?, mode)
    }))
}

/// Says that nothing more is written (`SHUT_WR`), read (`SHUT_RD`), or accepted.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_shutdown(sockfd: i32, how: i32) -> i32 {
    let _masked = Masked::new();
    let side = match how {
        SHUT_RD => Ok(Side::Read),
        SHUT_WR => Ok(Side::Write),
        SHUT_RDWR => Ok(Side::Both),
        _ => Err(EINVAL),
    };
    returned(socket(sockfd).and_then(|socket| socket.shutdown(side?)).map(|()| 0))
}

/// As [`sys_shutdown`].
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_shutdown_socket(s: i32, how: i32) -> i32 {
    let _masked = Masked::new();
    sys_shutdown(s, how)
}

/// This end's address.
///
/// # Safety
/// Both are null, or `namelen` says how much can be written at `name`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_getsockname(s: i32, name: *mut sockaddr, namelen: *mut socklen_t) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    let put = |socket: Rc<Socket>| unsafe { put_address(socket.local_address(), name, namelen) };
    returned(socket(s).and_then(put).map(|()| 0))
}

/// The other end's address.
///
/// # Safety
/// As for [`sys_getsockname`].
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_getpeername(s: i32, name: *mut sockaddr, namelen: *mut socklen_t) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    let put = |socket: Rc<Socket>| unsafe { put_address(socket.remote_address()?, name, namelen) };
    returned(socket(s).and_then(put).map(|()| 0))
}

fn option_of(level: i32, name: i32) -> Result<Name> {
    Ok(match (level, name) {
        (SOL_SOCKET, SO_REUSEADDR) => Name::ReuseAddress,
        (SOL_SOCKET, SO_KEEPALIVE) => Name::KeepAlive,
        (SOL_SOCKET, SO_BROADCAST) => Name::Broadcast,
        (SOL_SOCKET, SO_LINGER) => Name::Linger,
        (SOL_SOCKET, SO_SNDBUF) => Name::SendBuffer,
        (SOL_SOCKET, SO_RCVBUF) => Name::ReceiveBuffer,
        (SOL_SOCKET, SO_SNDTIMEO) => Name::SendLimit,
        (SOL_SOCKET, SO_RCVTIMEO) => Name::ReceiveLimit,
        (SOL_SOCKET, SO_ERROR) => Name::Error,
        (IPPROTO_TCP, TCP_NODELAY) => Name::NoDelay,
        (IPPROTO_IP, IP_TTL) => Name::HopLimit,
        _ => return Err(ENOPROTOOPT),
    })
}

/// A value at a place that may not be aligned. `EINVAL` if it is too short for one.
fn value_at<T: Copy>(bytes: &[u8]) -> Result<T> {
    if bytes.len() < size_of::<T>() {
        return Err(EINVAL);
    }
    // SAFETY: there are as many bytes. It is used with plain numbers alone, of which any bytes are a value.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// A limit of seconds and microseconds; none for zero.
///
/// # Errors
/// `EINVAL` for what is no time.
pub(super) fn limit(seconds: i64, us: i64) -> Result<Option<Duration>> {
    let seconds = u64::try_from(seconds).map_err(|_| EINVAL)?;
    let us = u32::try_from(us).ok().filter(|us| *us < 1_000_000).ok_or(EINVAL)?;
    let limit = Duration::new(seconds, us * 1000);
    Ok((!limit.is_zero()).then_some(limit))
}

/// Sets an option. `-ENOPROTOOPT` for one that there is not, `-EINVAL` for a value that it cannot have.
///
/// # Safety
/// `optval` is null or points to `optlen` readable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_setsockopt(
    s: i32,
    level: i32,
    optname: i32,
    optval: *const c_void,
    optlen: socklen_t,
) -> i32 {
    let _masked = Masked::new();
    let set = || {
        let socket = socket(s)?;
        // SAFETY: the caller's.
        let bytes = unsafe { bytes_at(optval.cast(), optlen as usize) }?;
        let name = option_of(level, optname)?;
        let value = match name {
            Name::ReceiveLimit | Name::SendLimit => {
                let timeval { tv_sec, tv_usec } = value_at(bytes)?;
                Value::Time(limit(tv_sec, tv_usec.into())?)
            }
            Name::Linger => {
                let linger { l_onoff, l_linger } = value_at(bytes)?;
                let seconds = u64::try_from(l_linger).map_err(|_| EINVAL)?;
                Value::Time((l_onoff != 0).then(|| Duration::from_secs(seconds)))
            }
            _ => Value::Number(value_at(bytes)?),
        };
        socket.set_option(name, value).map(|()| 0)
    };
    returned(set())
}

/// The value of an option. `-ENOPROTOOPT` for one that there is not.
///
/// # Safety
/// Both are null, or `optlen` says how much can be written at `optval`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_getsockopt(
    s: i32,
    level: i32,
    optname: i32,
    optval: *mut c_void,
    optlen: *mut socklen_t,
) -> i32 {
    let _masked = Masked::new();
    let get = || {
        let socket = socket(s)?;
        if optval.is_null() || optlen.is_null() {
            return Err(EFAULT);
        }
        // SAFETY: the caller's; no more than there is room for, and the length that it is then.
        let put = |bytes: *const u8, wanted: usize| unsafe {
            let room = wanted.min(optlen.read() as usize);
            optval.cast::<u8>().copy_from_nonoverlapping(bytes, room);
            optlen.write(room as socklen_t);
        };
        let name = option_of(level, optname)?;
        match socket.option(name) {
            Value::Number(number) => put((&raw const number).cast(), size_of::<i32>()),
            Value::Time(time) if name == Name::Linger => {
                let seconds = time.map_or(0, |time| i32::try_from(time.as_secs()).unwrap_or(i32::MAX));
                let value = linger { l_onoff: time.is_some().into(), l_linger: seconds };
                put((&raw const value).cast(), size_of::<linger>());
            }
            Value::Time(limit) => {
                let limit = limit.unwrap_or_default();
                let tv_sec = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
                // Of bytes, so that those that follow the numbers have a value, too.
                let mut value = [0; size_of::<timeval>()];
                value[..8].copy_from_slice(&tv_sec.to_ne_bytes());
                value[8..12].copy_from_slice(&(limit.subsec_micros() as i32).to_ne_bytes());
                put(value.as_ptr(), value.len());
            }
        }
        Ok(0)
    };
    returned(get())
}
