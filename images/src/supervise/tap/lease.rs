//! Which address a DHCP server gives the guest (RFC 2131), read off the frames that pass: for `status`, nothing else.

use std::net::Ipv4Addr;

const ETHERNET_BYTES: usize = 14;
const UDP_BYTES: usize = 8;
const PROTOCOL_UDP: u8 = 17;
const SERVER_PORT: [u8; 2] = 67u16.to_be_bytes();
const CLIENT_PORT: [u8; 2] = 68u16.to_be_bytes();
const BOOT_REPLY: u8 = 2;
/// Where a message has the address that it gives, the client's Ethernet address, and its options.
const YOUR_ADDRESS_AT: usize = 16;
const CLIENT_MAC_AT: usize = 28;
const OPTIONS_AT: usize = 240;
const OPTION_PAD: u8 = 0;
const OPTION_END: u8 = 255;
const OPTION_MESSAGE_TYPE: u8 = 53;
const DHCP_ACK: u8 = 5;

/// The address that this frame acknowledges as the guest's, if it is such a frame.
pub fn leased_address(frame: &[u8], mac: [u8; 6]) -> Option<Ipv4Addr> {
    let ip = frame.get(ETHERNET_BYTES..)?;
    let header_bytes = usize::from(ip.first()? & 0x0f) * 4;
    if *ip.get(9)? != PROTOCOL_UDP {
        return None;
    }
    let udp = ip.get(header_bytes..)?;
    if *udp.get(..2)? != SERVER_PORT || *udp.get(2..4)? != CLIENT_PORT {
        return None;
    }
    let message = udp.get(UDP_BYTES..)?;
    let to_guest = *message.first()? == BOOT_REPLY && *message.get(CLIENT_MAC_AT..CLIENT_MAC_AT + 6)? == mac;
    if !to_guest || message_type(message.get(OPTIONS_AT..)?)? != DHCP_ACK {
        return None;
    }
    let (address, _) = message.get(YOUR_ADDRESS_AT..)?.split_first_chunk::<4>()?;
    Some(Ipv4Addr::from(*address)).filter(|address| !address.is_unspecified())
}

fn message_type(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [OPTION_PAD, ref rest @ ..] => options = rest,
            [] | [OPTION_END, ..] => return None,
            [OPTION_MESSAGE_TYPE, 1, kind, ..] => return Some(kind),
            [_, length, ref rest @ ..] => options = rest.get(usize::from(length)..)?,
            [_] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn frame(message_type: u8) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_BYTES + 20 + UDP_BYTES + OPTIONS_AT];
        let ip = ETHERNET_BYTES;
        frame[ip] = 0x45;
        frame[ip + 9] = PROTOCOL_UDP;
        frame[ip + 20..ip + 22].copy_from_slice(&SERVER_PORT);
        frame[ip + 22..ip + 24].copy_from_slice(&CLIENT_PORT);
        let message = ip + 20 + UDP_BYTES;
        frame[message] = BOOT_REPLY;
        frame[message + YOUR_ADDRESS_AT..][..4].copy_from_slice(&[10, 9, 0, 77]);
        frame[message + CLIENT_MAC_AT..][..6].copy_from_slice(&MAC);
        frame.extend([OPTION_PAD, 1, 4, 255, 255, 255, 0, OPTION_MESSAGE_TYPE, 1, message_type, OPTION_END]);
        frame
    }

    #[test]
    fn an_acknowledgement_to_the_guest_names_its_address() {
        assert_eq!(leased_address(&frame(DHCP_ACK), MAC), Some(Ipv4Addr::new(10, 9, 0, 77)));
        assert_eq!(leased_address(&frame(2), MAC), None, "an offer");
        assert_eq!(leased_address(&frame(DHCP_ACK), [2; 6]), None, "another's");
    }

    #[test]
    fn no_cut_frame_and_no_changed_byte_is_too_much() {
        let whole = frame(DHCP_ACK);
        for length in 0..whole.len() - 1 {
            assert_eq!(leased_address(&whole[..length], MAC), None, "{length} bytes");
        }
        for position in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[position] = value;
                // Any answer will do.
                let _ = leased_address(&changed, MAC);
            }
        }
    }
}
