//! Addresses of names, as C asks for them.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int};
use core::net::SocketAddrV4;
use core::ptr;

use libc::{addrinfo, sockaddr_in};
use runtime::sys::addrinfo::{FindError, Wanted, Wish, find};
use runtime::sys::resolve::{self, LookupError};
use runtime::sys::sockets::Kind;

use crate::environment;
use crate::errno::fail;
use crate::sockets::linux_address;

/// One entry of what is found, in one piece of memory.
#[repr(C)]
struct Found {
    entry: addrinfo,
    address: sockaddr_in,
}

/// What hints ask for, in Linux's numbers; everything without any.
fn wanted(hints: Option<&addrinfo>) -> Wanted {
    let Some(hints) = hints else {
        let family = Wish::Internet;
        return Wanted { family, streams: true, datagrams: true, passive: false, numeric: false };
    };
    let fits = |kind, protocol| {
        (hints.ai_socktype == 0 || hints.ai_socktype == kind)
            && (hints.ai_protocol == 0 || hints.ai_protocol == protocol)
    };
    let family = match hints.ai_family {
        libc::AF_UNSPEC | libc::AF_INET => Wish::Internet,
        libc::AF_INET6 => Wish::Internet6,
        _ => Wish::Other,
    };
    Wanted {
        family,
        streams: fits(libc::SOCK_STREAM, libc::IPPROTO_TCP),
        datagrams: fits(libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        passive: hints.ai_flags & libc::AI_PASSIVE != 0,
        numeric: hints.ai_flags & libc::AI_NUMERICHOST != 0,
    }
}

/// A text; `None` for a null pointer.
///
/// # Safety
/// It is null or a text.
unsafe fn text<'a>(place: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller's.
    (!place.is_null()).then(|| unsafe { CStr::from_ptr(place) })
}

/// The name has no address. GNU's number, which the crate leaves out.
const EAI_NODATA: c_int = -5;

/// Linux's number for why nothing is found.
fn number(error: FindError) -> c_int {
    match error {
        FindError::NoName | FindError::Lookup(LookupError::NoSuchName) => libc::EAI_NONAME,
        FindError::Family => libc::EAI_FAMILY,
        FindError::Kind => libc::EAI_SOCKTYPE,
        FindError::Service => libc::EAI_SERVICE,
        FindError::Lookup(LookupError::NoAddress) => EAI_NODATA,
        FindError::Lookup(LookupError::TryAgain | LookupError::NoServer) => libc::EAI_AGAIN,
        FindError::Lookup(LookupError::System(errno)) => {
            fail::<c_int>(errno);
            libc::EAI_SYSTEM
        }
    }
}

/// Entries for what was found, the first one first.
fn entries(found: Vec<(SocketAddrV4, Kind)>, flags: c_int) -> *mut addrinfo {
    let mut next = ptr::null_mut();
    for (address, kind) in found.into_iter().rev() {
        let (ai_socktype, ai_protocol) = match kind {
            Kind::Stream => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            Kind::Datagram => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        };
        let entry = addrinfo {
            ai_flags: flags,
            ai_family: libc::AF_INET,
            ai_socktype,
            ai_protocol,
            ai_addrlen: size_of::<sockaddr_in>() as libc::socklen_t,
            ai_addr: ptr::null_mut(),
            ai_canonname: ptr::null_mut(),
            ai_next: next,
        };
        let found = Box::into_raw(Box::new(Found { entry, address: linux_address(address) }));
        // SAFETY: it is a box of ours.
        unsafe { (*found).entry.ai_addr = (&raw mut (*found).address).cast() };
        next = found.cast();
    }
    next
}

c_functions! {
    /// Looks up a name and a service, which is a number. Only addresses of IPv4 are found.
    fn getaddrinfo(
        node: *const c_char, service: *const c_char, hints: *const addrinfo, place: *mut *mut addrinfo,
    ) -> c_int {
        // SAFETY: the caller's.
        let (node, service, hints) = unsafe { (text(node), text(service), hints.as_ref()) };
        // SAFETY: it is a text; values are never freed.
        let server = unsafe { text(environment::getenv(resolve::SERVER_VARIABLE.as_ptr())) };
        let server = server.and_then(|server| resolve::parse_server(server.to_str().ok()?));
        match find(node, service, &wanted(hints), server) {
            Ok(found) => {
                // SAFETY: the caller's.
                unsafe { place.write(entries(found, hints.map_or(0, |hints| hints.ai_flags))) };
                0
            }
            Err(error) => number(error),
        }
    }

    /// Gives back what [`getaddrinfo`] has found.
    fn freeaddrinfo(found: *mut addrinfo) {
        let mut found = found;
        while !found.is_null() {
            // SAFETY: the caller's: an entry that `entries` has made of a box, which nobody uses any more.
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
    use alloc::vec;
    use core::net::Ipv4Addr;

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
