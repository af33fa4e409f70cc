//! Names of sockets. An id carries the generation of its slot, so a stale one is recognised, not mistaken for the
//! slot's next owner.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pub(crate) index: u32,
            pub(crate) generation: u32,
        }

        impl $name {
            /// The id as one number, for tables of wakers and the like.
            #[must_use]
            pub const fn to_bits(self) -> u64 {
                (self.generation as u64) << 32 | self.index as u64
            }

            /// The id whose [`to_bits`](Self::to_bits) is `bits`. Any number is safe: an invented id is stale.
            #[must_use]
            pub const fn from_bits(bits: u64) -> Self {
                Self { index: bits as u32, generation: (bits >> 32) as u32 }
            }

            /// A small number, unique among the open sockets of this kind, fit to index an array.
            #[must_use]
            pub const fn index(self) -> usize {
                self.index as usize
            }
        }
    };
}

id! {
    /// A TCP connection.
    ConnId
}
id! {
    /// A TCP listener.
    ListenerId
}
id! {
    /// A UDP socket.
    UdpId
}
id! {
    /// An intercepted connection attempt that waits for a decision.
    IncomingId
}
