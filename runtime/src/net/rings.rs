//! The two rings as the stack sees them: frames in, frames out, in place.

use alloc::vec;

use hypercall::layout::{BootInfo, RING_BYTES};
use hypercall::record::{KIND_CONSOLE_INPUT, KIND_DISK_DONE, KIND_FRAME};
use hypercall::ring::{self, Consumer, Producer, RingError};
use netstack::FrameSink;

/// Bytes of an Ethernet header.
const ETHERNET_BYTES: usize = 14;

/// What a guest says when the shim breaks the ring's contract, on which everything else rests.
const BROKEN: &str = "the shim keeps the rings in order";

pub(super) struct Rings {
    pub(super) receive: ReceiveRing,
    pub(super) transmit: TransmitRing,
}

impl Rings {
    /// # Panics
    /// If the rings are not those of this ABI.
    pub(super) fn attach(boot: &BootInfo) -> Self {
        let (receive, transmit) = (boot.receive_ring as *mut u8, boot.transmit_ring as *mut u8);
        // SAFETY: the shim has agreed on this ABI, so both addresses are those of initialised, 8-aligned rings of
        // RING_BYTES in our memory, which nobody else accesses while the guest runs.
        unsafe {
            for base in [receive, transmit] {
                ring::check(base, RING_BYTES).expect(BROKEN);
            }
            Self {
                receive: ReceiveRing(Consumer::new(receive, RING_BYTES, 0)),
                transmit: TransmitRing {
                    ring: Producer::new(transmit, RING_BYTES, 0),
                    frame_bytes: boot.net.mtu_bytes as usize + ETHERNET_BYTES,
                },
            }
        }
    }
}

pub(super) struct ReceiveRing(Consumer);

impl ReceiveRing {
    /// Whether nothing is left in the ring.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands every frame to `take` until it returns false, and typed bytes to the console.
    #[inline]
    pub(super) fn drain(&mut self, mut take: impl FnMut(&[u8]) -> bool) {
        loop {
            let more: Result<Option<bool>, RingError> = self.0.pop_with(|record| match record.kind {
                KIND_FRAME => take(record.payload),
                KIND_CONSOLE_INPUT => {
                    crate::console::push_input(record.payload);
                    true
                }
                KIND_DISK_DONE => {
                    crate::block::complete(record.payload);
                    true
                }
                // Other kinds concern devices that this guest does not use.
                _ => true,
            });
            match more.expect(BROKEN) {
                None | Some(false) => return,
                Some(true) => {}
            }
        }
    }
}

pub(super) struct TransmitRing {
    ring: Producer,
    /// Longest frame that the stack sends.
    frame_bytes: usize,
}

impl TransmitRing {
    /// Whether the ring is over half full.
    #[inline]
    pub(super) fn is_crowded(&self) -> bool {
        self.ring.free_bytes().expect(BROKEN) < RING_BYTES / 2
    }
}

impl FrameSink for TransmitRing {
    #[inline]
    fn has_room(&self) -> bool {
        self.ring.fits(self.frame_bytes).expect(BROKEN)
    }

    #[inline]
    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut fill = Some(fill);
        let mut result = None;
        self.ring.push_with(KIND_FRAME, len_bytes, |place| result = fill.take().map(|fill| fill(place))).expect(BROKEN);
        match (result, fill) {
            (Some(result), _) => result,
            // No room although `has_room` said so: the frame is lost, as on a wire, and TCP repeats it.
            (None, Some(fill)) => fill(&mut vec![0; len_bytes]),
            (None, None) => unreachable!("fill is taken only where its result is kept"),
        }
    }
}
