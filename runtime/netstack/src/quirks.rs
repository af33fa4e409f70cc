//! Gaps of smoltcp 0.14 that leave a connection hanging until a timeout, closed from outside.
//!
//! 1. A segment whose data has all arrived before, but whose FIN has not been taken (it came ahead of a hole), is
//!    judged out of window, because the FIN does not count in its length: see [`bare_fin`].
//! 2. The third duplicate acknowledgement starts a fast retransmission. When only a FIN is outstanding there is no
//!    data to retransmit, nothing is sent, and the retransmission timer is gone: see [`bare_acknowledgement`].
//! 3. A fast retransmission that meets a full device is forgotten, and its timer with it: sending is only tried while
//!    the sink has room.
//! 4. A retransmission timer that fires while the peer's window is closed (an old segment may have closed it) ends
//!    without the zero-window probe taking over. Data is then queued and no timer runs: [`Conn::prod`] has
//!    a keep-alive probe sent, whose answer tells the window.
//! 5. In LAST-ACK, that answer would be ignored: with data queued, the FIN waits for its acknowledgement:
//!    [`Conn::finish`].
//! 6. The end of TIME-WAIT clears what the program has not read: this crate ends it first.
//!
//! [`Conn::prod`]: crate::conn::Conn::prod
//! [`Conn::finish`]: crate::conn::Conn::finish

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetFrame, Ipv4Packet, TcpPacket};

use crate::frame::ETHERNET_BYTES;

/// Longest headers that a segment can have, in bytes: Ethernet, IPv4 with options, TCP with options.
const HEADERS_BYTES: usize = ETHERNET_BYTES + 60 + 60;

/// The FIN of a segment without its data.
pub(crate) struct BareFin {
    bytes: [u8; HEADERS_BYTES],
    len_bytes: usize,
}

impl BareFin {
    pub(crate) fn frame(&self) -> &[u8] {
        &self.bytes[..self.len_bytes]
    }
}

type Segment<'a> = (Ipv4Packet<&'a [u8]>, TcpPacket<&'a [u8]>);

/// The TCP segment in a frame, if it is well-formed.
fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    Some((ip, tcp))
}

/// For a segment with data and FIN: the same without the data, to be shown to smoltcp when the whole was shown and
/// its FIN not taken. It is in the window exactly when all data before it has arrived.
pub(crate) fn bare_fin(frame: &[u8], checksums: &ChecksumCapabilities) -> Option<BareFin> {
    let (ip, tcp) = segment(frame)?;
    let data_bytes = tcp.payload().len();
    let wanted = tcp.fin() && !tcp.syn() && !tcp.rst() && data_bytes > 0;
    // The copy gets fresh checksums, so the original must have had a right one.
    let (src, dst) = (ip.src_addr().into(), ip.dst_addr().into());
    let intact = !checksums.tcp.rx() || (ip.verify_checksum() && tcp.verify_checksum(&src, &dst));
    if !wanted || !intact {
        return None;
    }
    let seq_number = tcp.seq_number() + data_bytes;
    let (ip_header_bytes, tcp_header_bytes) = (usize::from(ip.header_len()), usize::from(tcp.header_len()));
    let len_bytes = ETHERNET_BYTES + ip_header_bytes + tcp_header_bytes;
    let mut bare = BareFin { bytes: [0; HEADERS_BYTES], len_bytes };
    bare.bytes.get_mut(..len_bytes)?.copy_from_slice(frame.get(..len_bytes)?);
    let mut ip = Ipv4Packet::new_unchecked(&mut bare.bytes[ETHERNET_BYTES..len_bytes]);
    ip.set_total_len((ip_header_bytes + tcp_header_bytes) as u16);
    ip.fill_checksum();
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    tcp.set_seq_number(seq_number);
    tcp.fill_checksum(&src, &dst);
    Some(bare)
}

/// The acknowledgement number of a segment that does nothing but acknowledge.
pub(crate) fn bare_acknowledgement(frame: &[u8]) -> Option<i32> {
    let (_, tcp) = segment(frame)?;
    let bare = tcp.ack() && !tcp.syn() && !tcp.fin() && !tcp.rst() && tcp.payload().is_empty();
    bare.then(|| tcp.ack_number().0)
}
