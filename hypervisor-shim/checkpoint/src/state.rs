//! Registers and the shim's guest-visible state at an epoch boundary.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | version, u32: [`VERSION`] |
//! | 4..8 | bytes of the fixed part, u32 |
//! | 8..12 | architecture of the registers, u32 |
//! | 12.. | the fields of [`GuestState`] in their order |
//! | behind the fixed part | [`GuestState::disk_parked`], u64 each, ascending |
//! | behind those | [`GuestState::guards`], u32 each, ascending |
//! | behind those | the registers, in the architecture's own format |
//!
//! The random generator's seed is part of it, and so is all that a program holds in its memory: whoever can read a
//! replica's state can read its secrets.

use alloc::vec::Vec;
use core::fmt;

use protocol::Clocks;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the state; it changes with any field.
pub const VERSION: u32 = 3;
/// [`GuestState::architecture`] of x86-64.
pub const X86_64: u32 = 1;
/// [`GuestState::architecture`] of PA-RISC 1.1.
pub const PA_RISC: u32 = 2;

/// What people call it.
pub fn architecture_name(architecture: u32) -> &'static str {
    match architecture {
        X86_64 => "x86-64",
        PA_RISC => "PA-RISC",
        _ => "an unknown machine",
    }
}

/// What a shim keeps for its guest, beside the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestState {
    /// Whose registers follow.
    pub architecture: u32,
    /// Our position in the receive ring.
    pub receive_position: u32,
    /// Our position in the transmit ring.
    pub transmit_position: u32,
    /// Our position in the ring of requests to disks.
    pub disk_position: u32,
    /// Requests to disks made in all.
    pub disk_requests: u64,
    /// Numbers of those that are outstanding, ascending. None of them was begun; the guest asks for them again.
    pub disk_parked: Vec<u64>,
    /// The guest has agreed on the ABI.
    pub greeted: bool,
    /// The epoch before the next one was cut.
    pub cut: bool,
    /// Offset of the registered block of upcalls and address of its handler.
    pub preemption: Option<(u64, u64)>,
    /// Numbers of the pages that are guards, ascending.
    pub guards: Vec<u32>,
    /// Seed of the random generator.
    pub generator_seed: [u8; 32],
    /// Stream of the random generator.
    pub generator_stream: u64,
    /// Position of the random generator, in words.
    pub generator_position: u128,
    /// Clocks of the newest epoch.
    pub clocks: Clocks,
    /// Hypercalls made in all.
    pub hypercalls: u64,
    /// Console bytes written in all.
    pub console_offset: u64,
    /// Frames received in all.
    pub frames_in: u64,
    /// Frames sent in all.
    pub frames_out: u64,
    /// Number that the hub gives the next input frame, less `frames_in`.
    pub input_skew: u64,
    /// The guest's own monotonic time at which it wants to run again; 0: at once, `u64::MAX`: at none.
    pub deadline_ns: u64,
    /// The registers.
    pub registers: Vec<u8>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Fixed {
    version: U32,
    fixed_bytes: U32,
    architecture: U32,
    receive_position: U32,
    transmit_position: U32,
    disk_position: U32,
    greeted: u8,
    cut: u8,
    preempts: u8,
    reserved: u8,
    disk_requests: U64,
    preemption_block: U64,
    preemption_handler: U64,
    generator_seed: [u8; 32],
    generator_stream: U64,
    generator_position: [u8; 16],
    monotonic_ns: U64,
    realtime_ns: U64,
    hypercalls: U64,
    console_offset: U64,
    frames_in: U64,
    frames_out: U64,
    input_skew: U64,
    deadline_ns: U64,
    disk_parked: U32,
    guards: U32,
}

/// Why bytes are no state of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateError {
    /// They end inside the fixed part.
    Truncated {
        /// What it needs.
        expected_bytes: usize,
        /// What there is.
        got_bytes: usize,
    },
    /// Another version, or another size of the fixed part.
    Version {
        /// The version that came.
        got: u32,
        /// The size that it names, in bytes.
        fixed_bytes: u32,
    },
    /// Registers of another architecture.
    Architecture {
        /// The one wanted.
        expected: u32,
        /// The one that came.
        got: u32,
    },
    /// A field has a value that it cannot have.
    Field {
        /// Its name.
        field: &'static str,
        /// The value.
        got: u64,
    },
    /// The registers are not as many bytes as this architecture has.
    Registers {
        /// What they need.
        expected_bytes: usize,
        /// What came.
        got_bytes: usize,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { expected_bytes, got_bytes } => {
                write!(f, "the state needs {expected_bytes} bytes, got {got_bytes}")
            }
            Self::Version { got, fixed_bytes } => write!(
                f,
                "the state has version {got} ({fixed_bytes} bytes), this shim knows {VERSION} ({} bytes); build both \
                 from one source",
                size_of::<Fixed>()
            ),
            Self::Architecture { expected, got } => {
                let [expected, got] = [*expected, *got].map(architecture_name);
                write!(f, "the state is of a guest on {got}, this machine is {expected}")
            }
            Self::Field { field, got } => write!(f, "the state has the impossible value {got:#x} for {field}"),
            Self::Registers { expected_bytes, got_bytes } => {
                write!(f, "the registers should have {expected_bytes} bytes, got {got_bytes}")
            }
        }
    }
}

impl core::error::Error for StateError {}

impl GuestState {
    /// Appends the state to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let (block, handler) = self.preemption.unwrap_or_default();
        let fixed = Fixed {
            version: U32::new(VERSION),
            fixed_bytes: U32::new(size_of::<Fixed>() as u32),
            architecture: U32::new(self.architecture),
            receive_position: U32::new(self.receive_position),
            transmit_position: U32::new(self.transmit_position),
            disk_position: U32::new(self.disk_position),
            disk_requests: U64::new(self.disk_requests),
            greeted: self.greeted.into(),
            cut: self.cut.into(),
            preempts: self.preemption.is_some().into(),
            reserved: 0,
            preemption_block: U64::new(block),
            preemption_handler: U64::new(handler),
            generator_seed: self.generator_seed,
            generator_stream: U64::new(self.generator_stream),
            generator_position: self.generator_position.to_le_bytes(),
            monotonic_ns: U64::new(self.clocks.monotonic_ns),
            realtime_ns: U64::new(self.clocks.realtime_ns),
            hypercalls: U64::new(self.hypercalls),
            console_offset: U64::new(self.console_offset),
            frames_in: U64::new(self.frames_in),
            frames_out: U64::new(self.frames_out),
            input_skew: U64::new(self.input_skew),
            deadline_ns: U64::new(self.deadline_ns),
            disk_parked: U32::new(self.disk_parked.len() as u32),
            guards: U32::new(self.guards.len() as u32),
        };
        out.extend_from_slice(fixed.as_bytes());
        self.disk_parked.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        self.guards.iter().for_each(|page| out.extend_from_slice(&page.to_le_bytes()));
        out.extend_from_slice(&self.registers);
    }

    /// Reads a state whose registers must be of `architecture`.
    ///
    /// # Errors
    /// The first difference from what a state of this version is. What only a machine or a loaded guest can judge
    /// (registers, places in memory) is left to them.
    pub fn decode(bytes: &[u8], architecture: u32) -> Result<Self, StateError> {
        let expected_bytes = size_of::<Fixed>();
        let truncated = StateError::Truncated { expected_bytes, got_bytes: bytes.len() };
        let (fixed, rest) = Fixed::ref_from_prefix(bytes).map_err(|_| truncated)?;
        if fixed.version.get() != VERSION || fixed.fixed_bytes.get() as usize != expected_bytes {
            return Err(StateError::Version { got: fixed.version.get(), fixed_bytes: fixed.fixed_bytes.get() });
        }
        if fixed.architecture.get() != architecture {
            return Err(StateError::Architecture { expected: architecture, got: fixed.architecture.get() });
        }
        let truth = |field, value: u8| match value {
            0 => Ok(false),
            1 => Ok(true),
            got => Err(StateError::Field { field, got: got.into() }),
        };
        let zero = |field, got: u64| if got == 0 { Ok(()) } else { Err(StateError::Field { field, got }) };
        zero("reserved", fixed.reserved.into())?;
        // Where addresses have 32 bits, what is claimed may be more than there can be.
        let parked_bytes = (fixed.disk_parked.get() as usize).saturating_mul(size_of::<u64>());
        let guards_bytes = (fixed.guards.get() as usize).saturating_mul(size_of::<u32>());
        let expected_bytes = expected_bytes.saturating_add(parked_bytes).saturating_add(guards_bytes);
        let too_short = StateError::Truncated { expected_bytes, got_bytes: bytes.len() };
        let (parked, rest) = rest.split_at_checked(parked_bytes).ok_or(too_short)?;
        let (guards, registers) = rest.split_at_checked(guards_bytes).ok_or(too_short)?;
        let guards: Vec<u32> = guards.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        if let Some(out_of_order) = guards.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(StateError::Field { field: "guards", got: out_of_order[1].into() });
        }
        let disk_parked: Vec<u64> = parked.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        if let Some(out_of_order) = disk_parked.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(StateError::Field { field: "disk_parked", got: out_of_order[1] });
        }
        let (block, handler) = (fixed.preemption_block.get(), fixed.preemption_handler.get());
        let preemption = if truth("preempts", fixed.preempts)? {
            Some((block, handler))
        } else {
            zero("preemption block", block)?;
            zero("preemption handler", handler)?;
            None
        };
        Ok(Self {
            architecture,
            receive_position: fixed.receive_position.get(),
            transmit_position: fixed.transmit_position.get(),
            disk_position: fixed.disk_position.get(),
            disk_requests: fixed.disk_requests.get(),
            disk_parked,
            greeted: truth("greeted", fixed.greeted)?,
            cut: truth("cut", fixed.cut)?,
            preemption,
            guards,
            generator_seed: fixed.generator_seed,
            generator_stream: fixed.generator_stream.get(),
            generator_position: u128::from_le_bytes(fixed.generator_position),
            clocks: Clocks { monotonic_ns: fixed.monotonic_ns.get(), realtime_ns: fixed.realtime_ns.get() },
            hypercalls: fixed.hypercalls.get(),
            console_offset: fixed.console_offset.get(),
            frames_in: fixed.frames_in.get(),
            frames_out: fixed.frames_out.get(),
            input_skew: fixed.input_skew.get(),
            deadline_ns: fixed.deadline_ns.get(),
            registers: registers.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> impl Strategy<Value = GuestState> {
        let words = any::<[u64; 9]>();
        (
            words,
            any::<[u32; 2]>(),
            any::<[u8; 32]>(),
            any::<u128>(),
            any::<[bool; 3]>(),
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::btree_set(any::<u64>(), 0..5),
            prop::collection::btree_set(any::<u32>(), 0..5),
        )
            .prop_map(
                |(
                    words,
                    positions,
                    generator_seed,
                    generator_position,
                    [greeted, cut, preempts],
                    registers,
                    parked,
                    guards,
                )| {
                    let [a, b, c, d, e, f, g, h, i] = words;
                    GuestState {
                        architecture: X86_64,
                        receive_position: positions[0],
                        transmit_position: positions[1],
                        disk_position: positions[0] ^ positions[1],
                        disk_requests: c ^ d,
                        disk_parked: parked.into_iter().collect(),
                        greeted,
                        cut,
                        preemption: preempts.then_some((a, b)),
                        guards: guards.into_iter().collect(),
                        generator_seed,
                        generator_stream: c,
                        generator_position,
                        clocks: Clocks { monotonic_ns: d, realtime_ns: e },
                        hypercalls: f,
                        console_offset: g,
                        frames_in: h,
                        frames_out: i,
                        input_skew: a ^ i,
                        deadline_ns: b ^ h,
                        registers,
                    }
                },
            )
    }

    fn encode(state: &GuestState) -> Vec<u8> {
        let mut bytes = Vec::new();
        state.encode_into(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn round_trip(state in state()) {
            prop_assert_eq!(GuestState::decode(&encode(&state), X86_64), Ok(state));
        }

        #[test]
        fn what_is_accepted_is_canonical(state in state(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut bytes = encode(&state);
            let index = at.index(bytes.len());
            bytes[index] = value;
            if let Ok(read) = GuestState::decode(&bytes, X86_64) {
                prop_assert_eq!(encode(&read), bytes);
            }
        }

        #[test]
        fn cut_within_the_fixed_part_is_refused(state in state(), at in 0..size_of::<Fixed>()) {
            let got = GuestState::decode(&encode(&state)[..at], X86_64);
            prop_assert_eq!(got, Err(StateError::Truncated { expected_bytes: size_of::<Fixed>(), got_bytes: at }));
        }
    }

    #[test]
    fn differences_are_named() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let state = state().new_tree(&mut runner).expect("drawn").current();
        let good = encode(&state);
        let with = |index: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[index] = value;
            GuestState::decode(&bytes, X86_64).map(drop)
        };
        let fixed_bytes = size_of::<Fixed>() as u32;
        assert_eq!(with(0, 9), Err(StateError::Version { got: 9, fixed_bytes }));
        assert_eq!(with(4, 7), Err(StateError::Version { got: VERSION, fixed_bytes: fixed_bytes & !255 | 7 }));
        assert_eq!(with(8, 2), Err(StateError::Architecture { expected: X86_64, got: 2 }));
        assert_eq!(with(24, 2), Err(StateError::Field { field: "greeted", got: 2 }));
        assert_eq!(with(27, 1), Err(StateError::Field { field: "reserved", got: 1 }));
    }

    use proptest::strategy::ValueTree as _;
}
