//! Where the guest's network leads: the option `--net` of `up`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest name of a network device, in bytes (Linux: `IFNAMSIZ` less the zero at the end).
const MAX_DEVICE_NAME_BYTES: usize = 15;
/// What the system takes for one machine's own.
const MACHINE_ID: &str = "/etc/machine-id";

/// Where the guest's network leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Net {
    /// To the supervisor's forwarder: needs no privilege, reached through published ports.
    #[default]
    Forward,
    /// To passt(1), a process of its own: needs no privilege either, reached through published ports.
    Passt,
    /// To a bridge of this host: the guest has an address of its own there.
    Tap(TapNet),
}

/// A guest on a bridge: `tap,bridge=BR[,address=A.B.C.D/P[,gateway=G] | ,dhcp][,mac=M]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapNet {
    /// Name of the bridge.
    pub bridge: String,
    /// The guest's address; `None` asks a DHCP server.
    pub address: Option<StaticAddress>,
    /// The guest's Ethernet address, if it was chosen.
    pub mac: Option<Mac>,
}

/// A fixed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticAddress {
    /// The guest's.
    pub address: Ipv4Addr,
    /// Length of the network's prefix, 1 to 30 bits.
    pub prefix_bits: u8,
    /// The default router, in the same network.
    pub gateway: Option<Ipv4Addr>,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Net {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Passt => "passt",
            Self::Tap(_) => "tap",
        }
    }
}

impl TapNet {
    /// The guest's Ethernet address: the chosen one, or one that this machine gives every time to a pair of that name,
    /// so that a DHCP server knows the guest again.
    pub fn guest_mac(&self, pair: &str) -> Mac {
        // Without the file, pairs of one name on two machines of one network would need --net …,mac= to differ.
        self.mac.unwrap_or_else(|| Mac::derived(&std::fs::read(MACHINE_ID).unwrap_or_default(), pair))
    }
}

impl Mac {
    fn derived(machine_id: &[u8], pair: &str) -> Self {
        let digest = Sha256::new().chain_update(machine_id).chain_update(b"\0").chain_update(pair).finalize();
        let mut mac = [0; 6];
        mac.copy_from_slice(&digest[..6]);
        // Locally administered, unicast.
        mac[0] = (mac[0] & 0xfc) | 2;
        Self(mac)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected an Ethernet address of a host, such as 52:54:00:12:34:56, got {text:?}");
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        let unicast = mac[0] & 1 == 0 && mac != [0; 6];
        if parts.next().is_none() && unicast { Ok(Self(mac)) } else { Err(wrong()) }
    }
}

impl StaticAddress {
    fn new(text: &str, gateway: Option<&str>) -> Result<Self, String> {
        let wrong = || format!("expected address=A.B.C.D/P with a prefix of 1 to 30 bits, got {text:?}");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix_bits = prefix.parse().ok().filter(|bits| (1..=30).contains(bits)).ok_or_else(wrong)?;
        let mut network = Self { address, prefix_bits, gateway: None };
        network.check("address", address)?;
        if let Some(text) = gateway {
            let gateway = text.parse().map_err(|_| format!("expected gateway=A.B.C.D, got {text:?}"))?;
            network.check("gateway", gateway)?;
            if gateway == address {
                return Err(format!("the gateway cannot be the guest itself: both are {address}"));
            }
            network.gateway = Some(gateway);
        }
        Ok(network)
    }

    /// Whether a host of this network can have that address.
    fn check(&self, what: &str, host: Ipv4Addr) -> Result<(), String> {
        let host_bits = u32::MAX >> self.prefix_bits;
        if (u32::from(host) ^ u32::from(self.address)) & !host_bits != 0 {
            return Err(format!("{what} {host} is outside the network of {}/{}", self.address, self.prefix_bits));
        }
        let number = u32::from(host) & host_bits;
        if number == 0 || number == host_bits || host.is_multicast() || host.is_loopback() || host.octets()[0] == 0 {
            return Err(format!("{what} {host} is no address of a host in a network of {} bits", self.prefix_bits));
        }
        Ok(())
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        match parts.next() {
            Some("forward") if parts.next().is_none() => Ok(Self::Forward),
            Some("passt") if parts.next().is_none() => Ok(Self::Passt),
            Some("tap") => tap(parts).map(Self::Tap),
            _ => Err(format!("expected forward, passt or tap,bridge=BR[,address=A.B.C.D/P[,gateway=G]], got {text:?}")),
        }
    }
}

fn tap<'a>(parts: impl Iterator<Item = &'a str>) -> Result<TapNet, String> {
    let [mut bridge, mut address, mut gateway, mut mac, mut dhcp] = [None; 5];
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let place = match key {
            "bridge" => &mut bridge,
            "address" => &mut address,
            "gateway" => &mut gateway,
            "mac" => &mut mac,
            "dhcp" if part == "dhcp" => &mut dhcp,
            _ => return Err(format!("expected bridge=, address=, gateway=, mac= or dhcp after tap, got {part:?}")),
        };
        if place.replace(value).is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    let bridge = bridge.ok_or("a tap needs a bridge to join: tap,bridge=BR")?;
    if bridge.is_empty() || bridge.len() > MAX_DEVICE_NAME_BYTES || bridge.contains(['/', '\0', ' ']) {
        return Err(format!(
            "expected the name of a network device of up to {MAX_DEVICE_NAME_BYTES} bytes: {bridge:?}"
        ));
    }
    if dhcp.is_some() && address.is_some() {
        return Err("the guest's address comes from address= or from dhcp, not from both".to_owned());
    }
    if gateway.is_some() && address.is_none() {
        return Err("gateway= goes with address=; a DHCP server names the gateway itself".to_owned());
    }
    Ok(TapNet {
        bridge: bridge.to_owned(),
        address: address.map(|text| StaticAddress::new(text, gateway)).transpose()?,
        mac: mac.map(str::parse).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        let parse = |text: &str| text.parse::<Net>();
        let net = |address, mac| Ok(Net::Tap(TapNet { bridge: "br0".to_owned(), address, mac }));
        let address = |gateway| {
            let address = Ipv4Addr::new(10, 9, 0, 2);
            Some(StaticAddress { address, prefix_bits: 24, gateway })
        };
        assert_eq!(parse("forward"), Ok(Net::Forward));
        assert_eq!(parse("passt"), Ok(Net::Passt));
        assert_eq!(parse("tap,bridge=br0"), net(None, None));
        assert_eq!(parse("tap,dhcp,bridge=br0"), net(None, None));
        assert_eq!(parse("tap,bridge=br0,address=10.9.0.2/24"), net(address(None), None));
        let gateway = Some(Ipv4Addr::new(10, 9, 0, 1));
        assert_eq!(parse("tap,bridge=br0,gateway=10.9.0.1,address=10.9.0.2/24"), net(address(gateway), None));
        assert_eq!(parse("tap,bridge=br0,mac=02:00:00:00:00:Af"), net(None, Some(Mac([2, 0, 0, 0, 0, 0xaf]))));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for wrong in [
            "",
            "user",
            "forward,bridge=br0",
            "passt,bridge=br0",
            "tap",
            "tap,bridge=",
            "tap,bridge=a-name-that-is-too-long",
            "tap,bridge=br0,bridge=br1",
            "tap,bridge=br0,colour=red",
            "tap,bridge=br0,dhcp=yes",
            "tap,bridge=br0,dhcp,address=10.9.0.2/24",
            "tap,bridge=br0,gateway=10.9.0.1",
            "tap,bridge=br0,address=10.9.0.2",
            "tap,bridge=br0,address=10.9.0.2/31",
            "tap,bridge=br0,address=10.9.0.2/0",
            "tap,bridge=br0,address=10.9.0.0/24",
            "tap,bridge=br0,address=10.9.0.255/24",
            "tap,bridge=br0,address=127.0.0.1/8",
            "tap,bridge=br0,address=224.0.0.1/8",
            "tap,bridge=br0,address=10.9.0.2/24,gateway=10.9.1.1",
            "tap,bridge=br0,address=10.9.0.2/24,gateway=10.9.0.2",
            "tap,bridge=br0,mac=01:00:00:00:00:00",
            "tap,bridge=br0,mac=00:00:00:00:00:00",
            "tap,bridge=br0,mac=02:00:00:00:00",
            "tap,bridge=br0,mac=02:00:00:00:00:00:00",
        ] {
            assert!(wrong.parse::<Net>().is_err(), "{wrong:?} passes");
        }
    }

    #[test]
    fn a_pair_keeps_its_ethernet_address_and_shares_it_with_none() {
        let mac = |machine: &[u8], pair| Mac::derived(machine, pair);
        assert_eq!(mac(b"a", "one"), mac(b"a", "one"));
        assert_ne!(mac(b"a", "one"), mac(b"a", "two"));
        assert_ne!(mac(b"a", "one"), mac(b"b", "one"));
        for pair in 0..64 {
            let mac = Mac::derived(b"a", &pair.to_string());
            assert_eq!(mac.0[0] & 3, 2, "{mac}: unicast, locally administered");
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }
}
