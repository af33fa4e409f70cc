//! The names that every part of the protocol shares.

use core::fmt;

/// The number of an epoch. The first epoch is 1; 0 stands for "none yet".
pub type Epoch = u64;

/// The number of the arbiter record's version: it grows by one with each change of who is active or of the mode.
pub type Generation = u64;

/// Which of the two replicas of a pair: 0 or 1. It never changes, unlike the [`Role`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplicaId(u8);

impl ReplicaId {
    /// Replica 0, the primary of a new pair.
    pub const ZERO: Self = Self(0);
    /// Replica 1, the backup of a new pair.
    pub const ONE: Self = Self(1);

    /// The replica with this number, or `None` if it is neither 0 nor 1.
    pub const fn new(number: u8) -> Option<Self> {
        if number < 2 { Some(Self(number)) } else { None }
    }

    /// 0 or 1.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// 0 or 1, to index a table of two.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The other one of the pair.
    pub const fn peer(self) -> Self {
        Self(1 - self.0)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Defines an enum whose variants have fixed numbers on the wire and fixed lower-case names for people.
macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vdoc])* $variant = $code,)+
        }

        impl $name {
            /// The number that stands for this value in every wire format.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The value that `code` stands for, or `None` if no version of the format defines it.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The lower-case name shown to people and in JSON.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use wire_enum;

wire_enum! {
    /// What a replica does in its pair.
    Role {
        /// It hears the devices, writes the log and releases outputs: the active replica.
        Primary = 0, "primary";
        /// It replays the primary's log and discards its outputs.
        Backup = 1, "backup";
    }
}

wire_enum! {
    /// Whether the active replica has a peer whose acknowledgements commit its outputs.
    Mode {
        /// Two replicas: an output leaves when the backup holds what it depends on.
        Paired = 0, "paired";
        /// One replica: an output leaves at once.
        Solo = 1, "solo";
    }
}

wire_enum! {
    /// The two protocols of rule P2. Both commit outputs the same way; they differ in when the guest waits.
    Discipline {
        /// At every boundary the primary waits for all acknowledgements.
        Original = 0, "original";
        /// The primary never waits for the link except for its bounds; outputs wait instead.
        Revised = 1, "revised";
    }
}

wire_enum! {
    /// What ends an epoch. With every source a guest that waits ends its epoch early.
    EpochSource {
        /// Only the guest, by waiting.
        Cooperative = 0, "cooperative";
        /// The machine, after an exact number of the guest's instructions.
        Exact = 1, "exact";
        /// Code in the guest that counts, after a number of its ticks.
        Counted = 2, "counted";
    }
}

impl EpochSource {
    /// The shortest epoch, in instructions or ticks (a tick is some hundred instructions, at times only a few): shorter ones would
    /// spend their time at their borders. 0 where the length has no meaning.
    #[must_use]
    pub const fn least_length(self) -> u64 {
        match self {
            Self::Cooperative => 0,
            Self::Exact => 100,
            Self::Counted => 10,
        }
    }
}

wire_enum! {
    /// How a replica carries out what the guest asks of its disks.
    DiskConduct {
        /// It goes to the disks as soon as it is asked for, or for shared disks, as soon as that is committed.
        Own = 0, "own";
        /// The log is to be enough to make the disks what the guest believes: what was read is in the records, the active
        /// replica changes nothing before the log holds the record that it follows from, and a backup only what a record says
        /// is done.
        Logged = 1, "logged";
        /// There are no disks, though the guest believes in some: a log is run again, and says what came of each request.
        Absent = 2, "absent";
    }
}

wire_enum! {
    /// How a shim runs its guest.
    RunMode {
        /// No epochs, no log, no digest: the baseline of every ratio.
        Bare = 0, "bare";
        /// Epochs without a peer.
        Solo = 1, "solo";
        /// Epochs with a peer.
        Pair = 2, "pair";
        /// As bare, but the machine is cut every so many instructions and goes on at once: the cost of a boundary that nothing of ours
        /// can go below.
        Cut = 3, "cut";
    }
}

impl RunMode {
    /// Whether there are epochs that follow each other by the protocol's rules, with records and digests.
    #[must_use]
    pub const fn has_epochs(self) -> bool {
        matches!(self, Self::Solo | Self::Pair)
    }
}

/// The environment values that start an epoch (the paper's `Tme`): the only clocks a guest sees during it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Clocks {
    /// The guest's monotonic clock, in nanoseconds; it never goes back, not even at a promotion.
    pub monotonic_ns: u64,
    /// The guest's wall clock, in nanoseconds since 1970-01-01 00:00 UTC.
    pub realtime_ns: u64,
}
