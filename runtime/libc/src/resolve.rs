//! Addresses of names, as C asks for them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int};
use core::net::{Ipv4Addr, SocketAddrV4};
use core::ptr;

use libc::{addrinfo, sockaddr_in};
use runtime::sys::resolve::{self, LookupError};

use crate::environment;
use crate::errno::fail;
use crate::sockets::linux_address;

/// The variable that names the server to be asked, in place of the one that the network tells of.
const SERVER: &CStr = c"POLLUX_DNS";

/// One entry of what is found, in one piece of memory.
#[repr(C)]
struct Found {
    entry: addrinfo,
    address: sockaddr_in,
}

/// What a caller wants.
struct Hints {
    flags: c_int,
    family: c_int,
    kind: c_int,
    protocol: c_int,
}

/// The kinds of socket that entries are for, each with its protocol.
fn kinds(hints: &Hints) -> Result<Vec<(c_int, c_int)>, c_int> {
    let all = [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)];
    let fits = |(kind, protocol): &(c_int, c_int)| {
        (hints.kind == 0 || hints.kind == *kind) && (hints.protocol == 0 || hints.protocol == *protocol)
    };
    let kinds: Vec<_> = all.into_iter().filter(fits).collect();
    if kinds.is_empty() { Err(libc::EAI_SOCKTYPE) } else { Ok(kinds) }
}

/// A text; `None` for a null pointer.
///
/// # Safety
/// It is null or a text.
unsafe fn text<'a>(place: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller's.
    (!place.is_null()).then(|| unsafe { CStr::from_ptr(place) })
}

fn addresses(node: Option<&CStr>, hints: &Hints) -> Result<Vec<Ipv4Addr>, c_int> {
    let Some(node) = node else {
        let passive = hints.flags & libc::AI_PASSIVE != 0;
        return Ok(vec![if passive { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST }]);
    };
    let node = node.to_str().map_err(|_| libc::EAI_NONAME)?;
    if hints.flags & libc::AI_NUMERICHOST != 0 {
        return node.parse().map(|address| vec![address]).map_err(|_| libc::EAI_NONAME);
    }
    // SAFETY: it is a text; values are never freed.
    let server = unsafe { text(environment::getenv(SERVER.as_ptr())) };
    let server = server.and_then(|server| resolve::parse_server(server.to_str().ok()?));
    resolve::lookup(node, server).map_err(|error| match error {
        LookupError::NoSuchName => libc::EAI_NONAME,
        LookupError::NoAddress => EAI_NODATA,
        LookupError::TryAgain | LookupError::NoServer => libc::EAI_AGAIN,
        LookupError::System(errno) => {
            fail::<c_int>(errno);
            libc::EAI_SYSTEM
        }
    })
}

/// The name has no address. GNU's number, which the crate leaves out.
const EAI_NODATA: c_int = -5;

fn port(service: Option<&CStr>) -> Result<u16, c_int> {
    // There is no list of services.
    service.map_or(Ok(0), |service| service.to_str().ok().and_then(|text| text.parse().ok()).ok_or(libc::EAI_SERVICE))
}

fn find(node: Option<&CStr>, service: Option<&CStr>, hints: &Hints) -> Result<*mut addrinfo, c_int> {
    if node.is_none() && service.is_none() {
        return Err(libc::EAI_NONAME);
    }
    if !matches!(hints.family, libc::AF_UNSPEC | libc::AF_INET) {
        return Err(if hints.family == libc::AF_INET6 { libc::EAI_NONAME } else { libc::EAI_FAMILY });
    }
    let (kinds, port) = (kinds(hints)?, port(service)?);
    let mut next = ptr::null_mut();
    for ip in addresses(node, hints)?.into_iter().rev() {
        for (kind, protocol) in kinds.iter().rev() {
            let address = linux_address(SocketAddrV4::new(ip, port));
            let entry = addrinfo {
                ai_flags: hints.flags,
                ai_family: libc::AF_INET,
                ai_socktype: *kind,
                ai_protocol: *protocol,
                ai_addrlen: size_of::<sockaddr_in>() as libc::socklen_t,
                ai_addr: ptr::null_mut(),
                ai_canonname: ptr::null_mut(),
                ai_next: next,
            };
            let found = Box::into_raw(Box::new(Found { entry, address }));
            // SAFETY: it is a box of ours.
            unsafe { (*found).entry.ai_addr = (&raw mut (*found).address).cast() };
            next = found.cast();
        }
    }
    Ok(next)
}

c_functions! {
    /// Looks up a name and a service, which is a number. Only addresses of IPv4 are found.
    fn getaddrinfo(
        node: *const c_char, service: *const c_char, hints: *const addrinfo, place: *mut *mut addrinfo,
    ) -> c_int {
        // SAFETY: the caller's.
        let (node, service, hints) = unsafe { (text(node), text(service), hints.as_ref()) };
        let hints = hints.map_or(Hints { flags: 0, family: libc::AF_UNSPEC, kind: 0, protocol: 0 }, |hints| Hints {
            flags: hints.ai_flags,
            family: hints.ai_family,
            kind: hints.ai_socktype,
            protocol: hints.ai_protocol,
        });
        match find(node, service, &hints) {
            Ok(found) => {
                // SAFETY: the caller's.
                unsafe { place.write(found) };
                0
            }
            Err(error) => error,
        }
    }

    /// Gives back what [`getaddrinfo`] has found.
    fn freeaddrinfo(found: *mut addrinfo) {
        let mut found = found;
        while !found.is_null() {
            // SAFETY: the caller's: an entry that `find` has made of a box, which nobody uses any more.
            let entry = unsafe { Box::from_raw(found.cast::<Found>()) };
            found = entry.entry.ai_next;
        }
    }

    /// What an error of [`getaddrinfo`] means, in the words of Linux's C library.
    fn gai_strerror(error: c_int) -> *const c_char {
        match error {
            libc::EAI_BADFLAGS => c"Bad value for ai_flags",
            libc::EAI_NONAME => c"Name or service not known",
            libc::EAI_AGAIN => c"Temporary failure in name resolution",
            libc::EAI_FAIL => c"Non-recoverable failure in name resolution",
            EAI_NODATA => c"No address associated with hostname",
            libc::EAI_FAMILY => c"ai_family not supported",
            libc::EAI_SOCKTYPE => c"ai_socktype not supported",
            libc::EAI_SERVICE => c"Servname not supported for ai_socktype",
            libc::EAI_MEMORY => c"Memory allocation failure",
            libc::EAI_SYSTEM => c"System error",
            _ => c"Unknown error",
        }
        .as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entries = Vec<(SocketAddrV4, c_int)>;

    fn found(node: Option<&CStr>, service: Option<&CStr>, kind: c_int, flags: c_int) -> Result<Entries, c_int> {
        let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: zeros are values of all its parts; the arguments are texts, and what is found is looked at before it is
        // given back.
        unsafe {
            let mut hints: addrinfo = core::mem::zeroed();
            (hints.ai_socktype, hints.ai_flags) = (kind, flags);
            let mut first = ptr::null_mut();
            match getaddrinfo(pointer(node), pointer(service), &raw const hints, &raw mut first) {
                0 => {}
                error => return Err(error),
            }
            let (mut entries, mut next) = (Vec::new(), first);
            while let Some(entry) = next.as_ref() {
                let address = entry.ai_addr.cast::<sockaddr_in>().read();
                let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
                entries.push((SocketAddrV4::new(ip, u16::from_be(address.sin_port)), entry.ai_socktype));
                next = entry.ai_next;
            }
            freeaddrinfo(first);
            Ok(entries)
        }
    }

    #[test]
    fn names_that_need_no_server_are_found() {
        let at = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), port);
        let stream = libc::SOCK_STREAM;
        let home = Ok(vec![(at([127, 0, 0, 1], 80), stream)]);
        for name in [c"localhost", c"LOCALHOST.", c"a.localhost", c"127.0.0.1"] {
            assert_eq!(found(Some(name), Some(c"80"), stream, 0), home, "{name:?}");
        }
        assert_eq!(found(None, Some(c"80"), stream, 0), home);
        assert_eq!(found(None, Some(c"80"), stream, libc::AI_PASSIVE), Ok(vec![(at([0; 4], 80), stream)]));
        let both = vec![(at([192, 0, 2, 1], 0), stream), (at([192, 0, 2, 1], 0), libc::SOCK_DGRAM)];
        assert_eq!(found(Some(c"192.0.2.1"), None, 0, 0), Ok(both));
        assert_eq!(found(None, None, stream, 0), Err(libc::EAI_NONAME));
        assert_eq!(found(Some(c""), None, stream, 0), Err(libc::EAI_NONAME));
        assert_eq!(found(Some(c"localhost"), Some(c"http"), stream, 0), Err(libc::EAI_SERVICE));
        assert_eq!(found(Some(c"localhost"), None, stream, libc::AI_NUMERICHOST), Err(libc::EAI_NONAME));
        assert_eq!(found(Some(c"localhost"), None, libc::SOCK_RAW, 0), Err(libc::EAI_SOCKTYPE));
    }

    #[test]
    fn messages_are_those_of_the_host() {
        for error in -12..0 {
            // SAFETY: both give texts that are never freed.
            let (ours, theirs) =
                unsafe { (CStr::from_ptr(gai_strerror(error)), CStr::from_ptr(libc::gai_strerror(error))) };
            assert!(ours == c"Unknown error" || ours == theirs, "{error}: {ours:?}, {theirs:?}");
        }
    }
}
