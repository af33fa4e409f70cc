//! Names and services, as `getaddrinfo` takes them: what both faces look up ([`find`]), and hermit's own face.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::net::{Ipv4Addr, SocketAddrV4};
use core::ptr;

use hermit_abi::{
    AF_INET, AF_INET6, AF_UNSPEC, EAI_AGAIN, EAI_BADFLAGS, EAI_FAMILY, EAI_NODATA, EAI_NONAME, EAI_SERVICE,
    EAI_SOCKTYPE, EAI_SYSTEM, EFAULT, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_STREAM, addrinfo, sockaddr_in,
    socklen_t,
};

use super::errno::noted;
use super::resolve::{self, LookupError};
use super::sockets::{Kind, hermit_address};
use crate::thread::Masked;

/// The family of addresses that a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// IPv4, or whatever there is, which is IPv4.
    Internet,
    /// IPv6, of which no name has an address here.
    Internet6,
    /// One that there is not.
    Other,
}

/// What a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Of which family.
    pub family: Wish,
    /// For connections.
    pub streams: bool,
    /// For datagrams.
    pub datagrams: bool,
    /// Without a name: the address that listens at all of this machine's, not the one that reaches it from within.
    pub passive: bool,
    /// The name is an address, or nobody is asked for it.
    pub numeric: bool,
}

/// Why nothing is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindError {
    /// Neither a name nor a service was given, or the name is none.
    NoName,
    /// There are no addresses of that family.
    Family,
    /// There are no sockets of that kind.
    Kind,
    /// The service is no port's number; there is no list of names for them.
    Service,
    /// The name was looked up in vain.
    Lookup(LookupError),
}

/// What there is at a name and a service: addresses in the order in which they are to be tried, each for streams first.
/// `server` is asked in place of the servers that the network tells of.
///
/// # Errors
/// [`FindError`].
pub fn find(
    node: Option<&CStr>,
    service: Option<&CStr>,
    wanted: &Wanted,
    server: Option<SocketAddrV4>,
) -> Result<Vec<(SocketAddrV4, Kind)>, FindError> {
    match wanted.family {
        _ if node.is_none() && service.is_none() => return Err(FindError::NoName),
        Wish::Internet => {}
        Wish::Internet6 => return Err(FindError::NoName),
        Wish::Other => return Err(FindError::Family),
    }
    let kinds = [(Kind::Stream, wanted.streams), (Kind::Datagram, wanted.datagrams)];
    let kinds = kinds.into_iter().filter(|(_, wanted)| *wanted).map(|(kind, _)| kind);
    if kinds.clone().next().is_none() {
        return Err(FindError::Kind);
    }
    let number = |service: &CStr| service.to_str().ok().and_then(|text| text.parse().ok()).ok_or(FindError::Service);
    let port = service.map_or(Ok(0), number)?;
    let addresses = addresses(node, wanted, server)?.into_iter().map(|ip| SocketAddrV4::new(ip, port));
    Ok(addresses.flat_map(|address| kinds.clone().map(move |kind| (address, kind))).collect())
}

fn addresses(node: Option<&CStr>, wanted: &Wanted, server: Option<SocketAddrV4>) -> Result<Vec<Ipv4Addr>, FindError> {
    let Some(node) = node else {
        return Ok(vec![if wanted.passive { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST }]);
    };
    let node = node.to_str().map_err(|_| FindError::NoName)?;
    if wanted.numeric {
        return node.parse().map(|address| vec![address]).map_err(|_| FindError::NoName);
    }
    resolve::lookup(node, server).map_err(FindError::Lookup)
}

/// A caller's text; `None` for a null pointer.
///
/// # Safety
/// It is null or a text that lives as long as the result.
unsafe fn text<'a>(place: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller's.
    (!place.is_null()).then(|| unsafe { CStr::from_ptr(place) })
}

/// One entry of what is found, in one piece of memory.
#[repr(C)]
struct Found {
    entry: addrinfo,
    address: sockaddr_in,
}

/// What hints ask for, in hermit's numbers; everything without any.
fn wanted(hints: Option<&addrinfo>) -> Result<Wanted, i32> {
    let Some(hints) = hints else {
        let family = Wish::Internet;
        return Ok(Wanted { family, streams: true, datagrams: true, passive: false, numeric: false });
    };
    // Hermit has names for none.
    if hints.ai_flags != 0 {
        return Err(EAI_BADFLAGS);
    }
    let fits = |kind, protocol| {
        (hints.ai_socktype == 0 || hints.ai_socktype == kind)
            && (hints.ai_protocol == 0 || hints.ai_protocol == protocol)
    };
    let family = match hints.ai_family {
        AF_UNSPEC | AF_INET => Wish::Internet,
        AF_INET6 => Wish::Internet6,
        _ => Wish::Other,
    };
    let (streams, datagrams) = (fits(SOCK_STREAM, IPPROTO_TCP), fits(SOCK_DGRAM, IPPROTO_UDP));
    Ok(Wanted { family, streams, datagrams, passive: false, numeric: false })
}

/// Hermit's number for why nothing is found.
fn number(error: FindError) -> i32 {
    match error {
        FindError::NoName | FindError::Lookup(LookupError::NoSuchName) => EAI_NONAME,
        FindError::Family => EAI_FAMILY,
        FindError::Kind => EAI_SOCKTYPE,
        FindError::Service => EAI_SERVICE,
        FindError::Lookup(LookupError::NoAddress) => EAI_NODATA,
        FindError::Lookup(LookupError::TryAgain | LookupError::NoServer) => EAI_AGAIN,
        FindError::Lookup(LookupError::System(errno)) => {
            noted(-errno);
            EAI_SYSTEM
        }
    }
}

/// Entries for what was found, the first one first: a null pointer for nothing.
fn entries(found: Vec<(SocketAddrV4, Kind)>) -> *mut addrinfo {
    let mut next = ptr::null_mut();
    for (address, kind) in found.into_iter().rev() {
        let (ai_socktype, ai_protocol) = match kind {
            Kind::Stream => (SOCK_STREAM, IPPROTO_TCP),
            Kind::Datagram => (SOCK_DGRAM, IPPROTO_UDP),
        };
        let entry = addrinfo {
            ai_flags: 0,
            ai_family: AF_INET,
            ai_socktype,
            ai_protocol,
            ai_addrlen: size_of::<sockaddr_in>() as socklen_t,
            ai_canonname: ptr::null_mut(),
            ai_addr: ptr::null_mut(),
            ai_next: next,
        };
        let found = Box::into_raw(Box::new(Found { entry, address: hermit_address(address) }));
        // SAFETY: it is a box of ours.
        unsafe { (*found).entry.ai_addr = (&raw mut (*found).address).cast() };
        next = found.cast();
    }
    next
}

/// Looks up a name and a service, which is a number, and leaves a list of what there is at `res`: 0, or one of hermit's `EAI_`
/// numbers; `EAI_SYSTEM` says that the error number has the reason. Only addresses of IPv4 are found. The operator's variable
/// `POLLUX_DNS` names the server that is asked.
///
/// # Safety
/// `nodename` and `servname` are null or texts, `hints` is null or points to an entry, `res` is null or writable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_getaddrinfo(
    nodename: *const c_char,
    servname: *const c_char,
    hints: *const addrinfo,
    res: *mut *mut addrinfo,
) -> i32 {
    let _masked = Masked::new();
    if res.is_null() {
        noted(-EFAULT);
        return EAI_SYSTEM;
    }
    // SAFETY: the caller's.
    let (node, service, hints) = unsafe { (text(nodename), text(servname), hints.as_ref()) };
    let found =
        wanted(hints).and_then(|wanted| find(node, service, &wanted, resolve::operators_server()).map_err(number));
    match found {
        Ok(found) => {
            // SAFETY: the caller's.
            unsafe { res.write(entries(found)) };
            0
        }
        Err(error) => error,
    }
}

/// Gives back what [`sys_getaddrinfo`] has found.
///
/// # Safety
/// `ai` is null or was left by it, and is not used any more.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_freeaddrinfo(ai: *mut addrinfo) {
    let _masked = Masked::new();
    let mut next = ai;
    while !next.is_null() {
        // SAFETY: the caller's: an entry that `entries` has made of a box, which nobody uses any more.
        let found = unsafe { Box::from_raw(next.cast::<Found>()) };
        next = found.entry.ai_next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found, each with its kind of socket, by the list that a caller gets.
    fn found(
        node: Option<&CStr>,
        service: Option<&CStr>,
        hints: Option<addrinfo>,
    ) -> Result<Vec<(SocketAddrV4, i32)>, i32> {
        let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
        let hints = hints.as_ref().map_or(ptr::null(), ptr::from_ref);
        let mut first = ptr::null_mut();
        // SAFETY: the arguments are texts, an entry, and a variable; what is found is looked at before it is given back.
        unsafe {
            match sys_getaddrinfo(pointer(node), pointer(service), hints, &raw mut first) {
                0 => {}
                error => return Err(error),
            }
            let (mut entries, mut next) = (Vec::new(), first);
            while let Some(entry) = next.as_ref() {
                let address = entry.ai_addr.cast::<sockaddr_in>().read();
                assert_eq!(usize::from(address.sin_len), size_of::<sockaddr_in>());
                assert_eq!((i32::from(address.sin_family), entry.ai_family), (AF_INET, AF_INET));
                let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
                entries.push((SocketAddrV4::new(ip, u16::from_be(address.sin_port)), entry.ai_socktype));
                next = entry.ai_next;
            }
            sys_freeaddrinfo(first);
            Ok(entries)
        }
    }

    fn hints(ai_family: i32, ai_socktype: i32, ai_flags: i32) -> Option<addrinfo> {
        let (ai_canonname, ai_addr, ai_next) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        Some(addrinfo {
            ai_flags,
            ai_family,
            ai_socktype,
            ai_protocol: 0,
            ai_addrlen: 0,
            ai_canonname,
            ai_addr,
            ai_next,
        })
    }

    #[test]
    fn what_needs_no_server_is_found_and_what_is_wrong_has_a_number() {
        let at = |ip: [u8; 4], port| SocketAddrV4::new(ip.into(), port);
        let home = vec![(at([127, 0, 0, 1], 80), SOCK_STREAM)];
        for name in [c"localhost", c"LOCALHOST.", c"127.0.0.1"] {
            assert_eq!(found(Some(name), Some(c"80"), hints(AF_INET, SOCK_STREAM, 0)), Ok(home.clone()), "{name:?}");
        }
        assert_eq!(found(None, Some(c"80"), hints(AF_UNSPEC, SOCK_STREAM, 0)), Ok(home));
        let both = vec![(at([192, 0, 2, 1], 0), SOCK_STREAM), (at([192, 0, 2, 1], 0), SOCK_DGRAM)];
        assert_eq!(found(Some(c"192.0.2.1"), None, None), Ok(both));
        assert_eq!(found(None, None, None), Err(EAI_NONAME));
        assert_eq!(found(Some(c""), None, None), Err(EAI_NONAME));
        assert_eq!(found(Some(c"localhost"), Some(c"http"), None), Err(EAI_SERVICE));
        assert_eq!(found(Some(c"localhost"), None, hints(AF_INET6, 0, 0)), Err(EAI_NONAME));
        assert_eq!(found(Some(c"localhost"), None, hints(77, 0, 0)), Err(EAI_FAMILY));
        assert_eq!(found(Some(c"localhost"), None, hints(0, 77, 0)), Err(EAI_SOCKTYPE));
        assert_eq!(found(Some(c"localhost"), None, hints(0, 0, 1)), Err(EAI_BADFLAGS));
        // SAFETY: the name is a text.
        let nowhere = unsafe { sys_getaddrinfo(c"localhost".as_ptr(), ptr::null(), ptr::null(), ptr::null_mut()) };
        assert_eq!((nowhere, super::super::sys_get_errno()), (EAI_SYSTEM, EFAULT));
    }
}
