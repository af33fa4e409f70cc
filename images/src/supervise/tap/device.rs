//! Making a tap and joining it to a bridge: the system calls of netdevice(7) and Linux' `tuntap.rst`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::super::net::Mac;

/// Where taps come from.
const CLONE_DEVICE: &str = "/dev/net/tun";
/// Names of our taps: the system puts the first free number behind it.
const NAME_PATTERN: &[u8] = b"plx%d";
/// Bytes of a name, with a zero at the end (`IFNAMSIZ`).
const NAME_BYTES: usize = 16;
/// First byte of a tap's own Ethernet address. A bridge without a fixed address takes the lowest of its ports'; this
/// one is higher than any other, so the bridge keeps its own.
const TAP_MAC_FIRST: u8 = 0xfe;

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCGIFMTU: Opcode = 0x8921;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCSIFHWADDR: Opcode = 0x8924;
const SIOCGIFINDEX: Opcode = 0x8933;
const SIOCBRADDIF: Opcode = 0x89a2;

/// A tap, not a tun.
const IFF_TAP: i16 = 0x0002;
/// Frames as they are, without four bytes in front.
const IFF_NO_PI: i16 = 0x1000;
const IFF_UP: i16 = 0x0001;
/// The kind of the hardware address: Ethernet.
const ARPHRD_ETHER: i16 = 1;

/// Why there is no tap. It says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no taps, or this container does not show them.
    #[error(
        "cannot open {CLONE_DEVICE}, where taps come from: {0}; load the module (`modprobe tun`), or give the container \
         the device"
    )]
    NoTaps(io::Error),
    /// Privilege is missing.
    #[error(
        "making a tap and joining it to bridge {bridge:?} is not permitted: it takes CAP_NET_ADMIN. Run as root, give \
         the pollux program that capability (`setcap cap_net_admin+ep`), or use --net forward, which needs no privilege"
    )]
    NotPermitted {
        /// The bridge.
        bridge: String,
    },
    /// No such device.
    #[error(
        "there is no network device {bridge:?} here: `ip link add {bridge} type bridge && ip link set {bridge} up` makes \
         a bridge, `ip -brief link show type bridge` lists those there are"
    )]
    NoBridge {
        /// The name asked for.
        bridge: String,
    },
    /// A device, but no bridge.
    #[error("network device {bridge:?} is not a Linux bridge: `ip -brief link show type bridge` lists those there are")]
    NotABridge {
        /// The name asked for.
        bridge: String,
    },
    /// Anything else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A tap that is up and a port of its bridge. It disappears when the descriptor is closed, however we end.
#[derive(Debug)]
pub struct TapDevice {
    /// Reads and writes whole Ethernet frames; non-blocking.
    pub fd: OwnedFd,
    /// Its name.
    pub name: String,
    /// Longest IP packet: the bridge's.
    pub mtu_bytes: u16,
}

/// `struct ifreq`: a name and a union, of which every member lies at its beginning.
#[repr(C, align(8))]
struct Request {
    name: [u8; NAME_BYTES],
    value: [u8; 24],
}

impl Request {
    /// About the device of that name; what does not fit is cut, and names no device then.
    fn new(name: &[u8]) -> Self {
        let mut request = Self { name: [0; NAME_BYTES], value: [0; 24] };
        for (to, from) in request.name[..NAME_BYTES - 1].iter_mut().zip(name) {
            *to = *from;
        }
        request
    }

    fn with(mut self, value: &[u8]) -> Self {
        self.value[..value.len()].copy_from_slice(value);
        self
    }

    fn short(&self) -> i16 {
        i16::from_ne_bytes([self.value[0], self.value[1]])
    }

    fn int(&self) -> i32 {
        let [a, b, c, d, ..] = self.value;
        i32::from_ne_bytes([a, b, c, d])
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|&byte| byte == 0).unwrap_or(NAME_BYTES);
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }

    /// Makes the call `OPCODE`.
    fn call<const OPCODE: Opcode>(mut self, fd: impl AsFd) -> Result<Self, Errno> {
        // SAFETY: every opcode of this module takes a pointer to a `struct ifreq`, which `Request` is as large as (40
        // bytes on 64-bit machines, less on others); the kernel reads and writes nothing beyond it and keeps no pointer.
        unsafe { ioctl(fd, Updater::<OPCODE, Self>::new(&mut self)) }?;
        Ok(self)
    }
}

const _: () = assert!(size_of::<Request>() == 40);

impl TapDevice {
    /// Makes a tap for a guest with this Ethernet address, joins it to the bridge and brings it up.
    ///
    /// # Errors
    /// [`TapError`]; nothing is left behind then.
    pub fn open(bridge: &str, guest_mac: Mac) -> Result<Self, TapError> {
        let failed = |what| move |error| fault(error, what, bridge);
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None);
        let socket = socket.map_err(failed("make a socket to configure devices with"))?;
        let about_bridge = || Request::new(bridge.as_bytes());
        about_bridge().call::<SIOCGIFINDEX>(&socket).map_err(|error| match error {
            Errno::NODEV => TapError::NoBridge { bridge: bridge.to_owned() },
            other => fault(other, "look for the bridge", bridge),
        })?;
        let mtu = about_bridge().call::<SIOCGIFMTU>(&socket).map_err(failed("ask for the bridge's MTU"))?.int();

        let (fd, name) = make_tap(bridge)?;
        let about_tap = || Request::new(name.as_bytes());
        let mut own_mac = guest_mac.0;
        own_mac[0] = TAP_MAC_FIRST;
        let hardware = [&ARPHRD_ETHER.to_ne_bytes()[..], &own_mac].concat();
        about_tap().with(&hardware).call::<SIOCSIFHWADDR>(&socket).map_err(failed("set the tap's address"))?;
        let mtu_bytes = guest_mtu_bytes(mtu);
        let wanted = i32::from(mtu_bytes).to_ne_bytes();
        about_tap().with(&wanted).call::<SIOCSIFMTU>(&socket).map_err(failed("set the tap's MTU"))?;
        let index = about_tap().call::<SIOCGIFINDEX>(&socket).map_err(failed("find the tap"))?.int();
        let joined = about_bridge().with(&index.to_ne_bytes()).call::<SIOCBRADDIF>(&socket);
        joined.map_err(|error| match error {
            Errno::OPNOTSUPP | Errno::INVAL => TapError::NotABridge { bridge: bridge.to_owned() },
            other => fault(other, "join the tap to the bridge", bridge),
        })?;
        let flags = about_tap().call::<SIOCGIFFLAGS>(&socket).map_err(failed("ask for the tap's state"))?.short();
        let up = (flags | IFF_UP).to_ne_bytes();
        about_tap().with(&up).call::<SIOCSIFFLAGS>(&socket).map_err(failed("bring the tap up"))?;
        Ok(Self { fd, name, mtu_bytes })
    }
}

fn make_tap(bridge: &str) -> Result<(OwnedFd, String), TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(CLONE_DEVICE, flags, Mode::empty()).map_err(|error| match error {
        Errno::ACCESS | Errno::PERM => fault(error, "open", bridge),
        other => TapError::NoTaps(other.into()),
    })?;
    let kind = (IFF_TAP | IFF_NO_PI).to_ne_bytes();
    let made = Request::new(NAME_PATTERN).with(&kind).call::<TUNSETIFF>(&fd);
    let name = made.map_err(|error| fault(error, "make a tap", bridge))?.name();
    Ok((fd, name))
}

fn fault(error: Errno, what: &'static str, bridge: &str) -> TapError {
    match error {
        Errno::PERM | Errno::ACCESS => TapError::NotPermitted { bridge: bridge.to_owned() },
        other => TapError::System { what, source: other.into() },
    }
}

/// The bridge's MTU, within what a guest can have.
fn guest_mtu_bytes(bridge_mtu_bytes: i32) -> u16 {
    let most = super::super::forward::MTU_BYTES as i32;
    bridge_mtu_bytes.clamp(netstack::MIN_MTU_BYTES as i32, most) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_and_layout_are_linux_s() {
        assert_eq!(TUNSETIFF, 0x4004_54ca);
        let request = Request::new(b"plx0").with(&7i32.to_ne_bytes());
        assert_eq!((request.name(), request.int()), ("plx0".to_owned(), 7));
        assert_eq!(Request::new(&[b'x'; 40]).name(), "x".repeat(NAME_BYTES - 1));
    }

    #[test]
    fn a_guest_has_the_bridge_s_mtu_as_far_as_it_can() {
        assert_eq!([0, 1500, 4000, 65_535].map(guest_mtu_bytes), [576, 1500, 4000, 9000]);
    }

    #[test]
    fn an_unknown_bridge_is_named() {
        let error = TapDevice::open("no-such-bridge", Mac([2; 6])).expect_err("there is none");
        assert!(matches!(&error, TapError::NoBridge { bridge } if bridge == "no-such-bridge"), "{error}");
    }
}
