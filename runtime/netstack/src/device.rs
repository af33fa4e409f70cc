//! Where frames leave, and the smoltcp device that carries exactly one frame in.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::config::Config;
use crate::frame::ETHERNET_BYTES;

/// Takes the frames that the stack sends: a ring, a queue, a batch under construction.
pub trait FrameSink {
    /// Whether one more frame of any size up to the MTU plus 14 bytes can be taken now.
    ///
    /// While this is `false` the stack keeps what it has to send and tries again at the next
    /// [`poll`](crate::Stack::poll).
    fn has_room(&self) -> bool;

    /// Takes a frame of `len_bytes`: hands `fill` a buffer of exactly that length, whatever its content, and returns
    /// what `fill` returned. Called only while [`has_room`](Self::has_room) is true.
    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R;
}

/// A sink that never has room, for when frames are processed while no sink is at hand.
pub(crate) struct NoSink;

impl FrameSink for NoSink {
    fn has_room(&self) -> bool {
        false
    }

    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        fill(&mut alloc::vec![0; len_bytes])
    }
}

/// Most replies kept while the sink is full. Beyond it replies are dropped and counted: they answer frames (resets,
/// acknowledgements, ARP, echo), so their sender repeats itself.
const SPILL_FRAMES: usize = 256;

/// Replies that found the sink full.
#[derive(Debug, Default)]
pub(crate) struct Spill {
    frames: VecDeque<Vec<u8>>,
    pub(crate) dropped: u64,
}

impl Spill {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Hands over what fits.
    pub(crate) fn flush<S: FrameSink>(&mut self, sink: &mut S) {
        while !self.frames.is_empty() && sink.has_room() {
            if let Some(frame) = self.frames.pop_front() {
                sink.transmit(frame.len(), |buffer| buffer.copy_from_slice(&frame));
            }
        }
    }

    fn push<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = alloc::vec![0; len_bytes];
        let result = fill(&mut frame);
        if self.frames.len() < SPILL_FRAMES {
            self.frames.push_back(frame);
        } else {
            self.dropped += 1;
        }
        result
    }
}

/// The device that smoltcp sees during one call: at most one frame in, frames out into the sink.
pub(crate) struct Port<'a, S> {
    pub(crate) frame: Option<&'a [u8]>,
    pub(crate) sink: &'a mut S,
    pub(crate) spill: &'a mut Spill,
    pub(crate) capabilities: &'a DeviceCapabilities,
    /// Set when smoltcp was given a token to send with.
    pub(crate) offered: bool,
    /// What the last frame sent says about the rest.
    pub(crate) rest: Rest,
}

/// What a frame that smoltcp sent tells about what it has left to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing: the frame is a TCP segment with the end of the queued data (smoltcp sets PSH exactly then).
    Nothing,
    /// Probably more: the frame is a TCP segment with data.
    Data,
    /// The frame tells nothing.
    Unknown,
}

impl Rest {
    fn of(frame: &[u8]) -> Self {
        const ETHERTYPE: usize = 12;
        const PROTOCOL: usize = ETHERNET_BYTES + 9;
        const FLAGS: usize = ETHERNET_BYTES + 20 + 13;
        const HEADERS_BYTES: usize = ETHERNET_BYTES + 20 + 20;
        const PSH: u8 = 8;
        // smoltcp sends IPv4 headers without options; only SYNs and acknowledgements have TCP options.
        if frame.len() <= HEADERS_BYTES || frame[ETHERTYPE..][..2] != [8, 0] || frame[PROTOCOL] != 6 {
            return Self::Unknown;
        }
        if frame[FLAGS] & PSH != 0 { Self::Nothing } else { Self::Data }
    }
}

impl<'a, S> Port<'a, S> {
    pub(crate) fn new(
        frame: Option<&'a [u8]>,
        sink: &'a mut S,
        spill: &'a mut Spill,
        capabilities: &'a DeviceCapabilities,
    ) -> Self {
        Self { frame, sink, spill, capabilities, offered: false, rest: Rest::Unknown }
    }
}

/// The frame under way in.
pub(crate) struct Rx<'a>(&'a [u8]);

impl RxToken for Rx<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Permission to send one frame.
pub(crate) struct Tx<'a, S> {
    sink: &'a mut S,
    spill: &'a mut Spill,
    rest: &'a mut Rest,
}

impl<S: FrameSink> TxToken for Tx<'_, S> {
    #[inline]
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if self.spill.is_empty() && self.sink.has_room() {
            self.sink.transmit(len, |frame| {
                let result = f(frame);
                *self.rest = Rest::of(frame);
                result
            })
        } else {
            self.spill.push(len, f)
        }
    }
}

impl<S: FrameSink> Device for Port<'_, S> {
    type RxToken<'t>
        = Rx<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Tx<'t, S>
    where
        Self: 't;

    #[inline]
    fn receive(&mut self, _timestamp: Instant) -> Option<(Rx<'_>, Tx<'_, S>)> {
        let frame = self.frame.take()?;
        Some((Rx(frame), Tx { sink: self.sink, spill: self.spill, rest: &mut self.rest }))
    }

    #[inline]
    fn transmit(&mut self, _timestamp: Instant) -> Option<Tx<'_, S>> {
        if !self.spill.is_empty() || !self.sink.has_room() {
            return None;
        }
        self.offered = true;
        Some(Tx { sink: self.sink, spill: self.spill, rest: &mut self.rest })
    }

    #[inline]
    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// What smoltcp is told about the link.
pub(crate) fn capabilities(config: &Config) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ethernet;
    capabilities.max_transmission_unit = config.mtu_bytes + ETHERNET_BYTES;
    capabilities.checksum = if config.software_checksums {
        ChecksumCapabilities::default()
    } else {
        let mut none = ChecksumCapabilities::ignored();
        none.ipv4 = Checksum::None;
        none
    };
    capabilities
}
