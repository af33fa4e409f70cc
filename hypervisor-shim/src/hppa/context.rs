//! The guest's registers.

use alloc::vec::Vec;
use core::fmt;
use core::mem::{offset_of, replace};

use protocol::digest::Digest64;

use crate::machine::{Diverted, Registers, RegistersError};

/// General registers, of which the first is always zero.
const GENERAL: usize = 32;
const SPACES: usize = 5;
const FLOATS: usize = 32;

/// Everything of the processor that a guest can see. `native/start.S` knows the layout: as linear memory is reversed, word
/// i lies at -4(i+1) from the end.
#[derive(Debug, Clone)]
#[repr(C, align(8))]
pub struct Context {
    /// General registers.
    pub general: [u32; GENERAL],
    /// Number of the trap that ended the last run.
    pub trap: u32,
    /// Shift amount (CR11).
    pub shift: u32,
    /// Space registers 0 to 4; the others a guest cannot write.
    pub spaces: [u32; SPACES],
    /// Spaces of the next two instructions.
    pub instruction_spaces: [u32; 2],
    /// Addresses of the next two instructions, with the privilege in the low bits.
    pub instructions: [u32; 2],
    /// Processor status word.
    pub status: u32,
    /// The instruction that trapped.
    pub instruction: u32,
    /// Space of the address that trapped.
    pub trap_space: u32,
    /// The address that trapped.
    pub trap_address: u32,
    /// Floating-point registers; the first begins with the floating-point status.
    pub floats: [u64; FLOATS],
    /// Instructions that the guest has retired in this epoch, where they are counted.
    pub retired: u64,
}

// start.S has these as numbers.
const _: () = {
    assert!(offset_of!(Context, trap) == 4 * 32);
    assert!(offset_of!(Context, shift) == 4 * 33);
    assert!(offset_of!(Context, spaces) == 4 * 34);
    assert!(offset_of!(Context, instruction_spaces) == 4 * 39);
    assert!(offset_of!(Context, instructions) == 4 * 41);
    assert!(offset_of!(Context, status) == 4 * 43);
    assert!(offset_of!(Context, trap_address) == 4 * 46);
    assert!(offset_of!(Context, floats) == 192);
};

/// Indices into [`Context::general`] of the C calling convention.
mod register {
    pub const ARGUMENT: usize = 26;
    pub const STACK: usize = 30;
    pub const RESULT_HIGH: usize = 28;
    pub const RESULT_LOW: usize = 29;
    /// The hypercall's number.
    pub const NUMBER: usize = 20;
    /// High and low halves of a hypercall's arguments (`native/guest.c`).
    pub const ARGUMENTS: [(usize, usize); 4] = [(25, 26), (23, 24), (21, 22), (19, 31)];
}

/// Translated addresses for code and data, interrupts, and traps that tell where (PSW C, D, I, Q).
const STATUS: u32 = 0x0004_000b;
/// Status bits that a program changes by computing: carries, divide step, taken branch, nullified instruction.
const STATUS_FREE: u32 = 0x002a_ff00;
/// The next instruction is nullified.
const NULLIFY: u32 = 0x0020_0000;
/// Privilege of a guest, in the low bits of an instruction's address.
const PRIVILEGE: u32 = 3;
/// `break 6,0x1ff`: a hypercall (`native/guest.c`).
const HYPERCALL: u32 = 0x1ff << 13 | 6;
/// Traps (PA-RISC 1.1 architecture, chapter 4).
pub mod trap {
    #![allow(missing_docs)]
    pub const INTERRUPT: u32 = 4;
    pub const CODE_MISS: u32 = 6;
    pub const CODE_PROTECTION: u32 = 7;
    pub const BREAK: u32 = 9;
    pub const DATA_MISS: u32 = 15;
    pub const DATA_PROTECTION: u32 = 18;
    pub const ACCESS_RIGHTS: u32 = 26;
    pub const PROTECTION_ID: u32 = 27;
    pub const UNALIGNED: u32 = 28;
}

impl Context {
    /// A processor that will enter nothing.
    pub const fn new() -> Self {
        Self {
            general: [0; GENERAL],
            trap: 0,
            shift: 0,
            spaces: [0; SPACES],
            instruction_spaces: [0; 2],
            instructions: [PRIVILEGE, PRIVILEGE + 4],
            status: STATUS,
            instruction: 0,
            trap_space: 0,
            trap_address: 0,
            floats: [0; FLOATS],
            retired: 0,
        }
    }

    /// As a fresh guest finds it: at `entry`, with an upward stack from `stack` on, and one argument.
    pub fn reset(&mut self, entry: u32, stack: u32, argument: u32) {
        *self = Self::new();
        self.general[register::ARGUMENT] = argument;
        self.general[register::STACK] = stack;
        self.go_to(entry);
    }

    fn go_to(&mut self, address: u32) {
        let front = address & !PRIVILEGE | PRIVILEGE;
        (self.instructions, self.instruction_spaces) = ([front, front.wrapping_add(4)], [0; 2]);
    }

    /// Whether the trap was a hypercall.
    pub fn is_hypercall(&self) -> bool {
        self.trap == trap::BREAK && self.instruction == HYPERCALL
    }

    /// Goes on behind the instruction that trapped.
    pub fn step_over(&mut self) {
        let [_, next] = self.instructions;
        self.instructions = [next, next.wrapping_add(4)];
        self.instruction_spaces[0] = self.instruction_spaces[1];
        self.status &= !NULLIFY;
    }

    fn words(&mut self) -> impl Iterator<Item = &mut u32> {
        let own = [&mut self.shift];
        let code = self.instruction_spaces.iter_mut().chain(&mut self.instructions).chain([&mut self.status]);
        self.general[1..].iter_mut().chain(own).chain(&mut self.spaces).chain(code)
    }

    /// Bytes that [`Self::save`] writes.
    const BYTES: usize = (GENERAL - 1 + 1 + SPACES + 5) * 4 + FLOATS * 8;

    /// Appends the registers: general registers from 1 on, shift amount, spaces, the instruction queue (spaces, addresses),
    /// status, u32 each; floating-point registers, u64 each. Little-endian.
    pub fn save(&mut self, out: &mut Vec<u8>) {
        for word in self.words() {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for float in self.floats {
            out.extend_from_slice(&float.to_le_bytes());
        }
    }

    /// Takes registers that [`Self::save`] has written.
    ///
    /// # Errors
    /// What could not be a guest's, above all a privilege; nothing has changed then.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), RegistersError> {
        if bytes.len() != Self::BYTES {
            return Err(RegistersError::Length { expected_bytes: Self::BYTES, got_bytes: bytes.len() });
        }
        let (words, floats) = bytes.split_at(Self::BYTES - FLOATS * 8);
        let mut loaded = Self::new();
        for (word, bytes) in loaded.words().zip(words.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        for (float, bytes) in loaded.floats.iter_mut().zip(floats.as_chunks::<8>().0) {
            *float = u64::from_le_bytes(*bytes);
        }
        let wrong = |register, got: u32| Err(RegistersError::Value { register, got: got.into() });
        if let Some(&address) = loaded.instructions.iter().find(|&&address| address & PRIVILEGE != PRIVILEGE) {
            return wrong("iaoq", address);
        }
        if let Some(&space) = loaded.instruction_spaces.iter().find(|&&space| space != 0) {
            return wrong("iasq", space);
        }
        if loaded.status & !STATUS_FREE != STATUS {
            return wrong("psw", loaded.status);
        }
        *self = loaded;
        Ok(())
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Registers for Context {
    fn hypercall(&self) -> (u64, [u64; 4]) {
        let pair = |(high, low): (usize, usize)| u64::from(self.general[high]) << 32 | u64::from(self.general[low]);
        (self.general[register::NUMBER].into(), register::ARGUMENTS.map(pair))
    }

    fn set_result(&mut self, result: i64) {
        self.general[register::RESULT_HIGH] = (result >> 32) as u32;
        self.general[register::RESULT_LOW] = result as u32;
    }

    fn digest(&self, digest: &mut Digest64) {
        let rest = [self.instructions, [self.status, self.shift]];
        for [one, other] in self.general.as_chunks::<2>().0.iter().chain(&rest) {
            digest.write_u64(u64::from(*one) << 32 | u64::from(*other));
        }
        for space in self.spaces {
            digest.write_u64(space.into());
        }
        for float in self.floats {
            digest.write_u64(float);
        }
        digest.write_u64(self.retired);
    }

    fn frame_pointer(&self) -> u64 {
        // There are no chains of frames: the compiler keeps none on this machine.
        0
    }

    fn instruction_pointer(&self) -> u64 {
        (self.instructions[0] & !PRIVILEGE).into()
    }

    fn divert(&mut self, instruction: u64, stack: u64) -> Diverted {
        let diverted = Diverted {
            instruction: self.instruction_pointer(),
            stack: replace(&mut self.general[register::STACK], stack as u32).into(),
            flags: replace(&mut self.status, STATUS).into(),
        };
        self.go_to(super::native_address(instruction, 4));
        diverted
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let [front, back] = self.instructions;
        write!(out, "iaoq {front:08x} {back:08x} psw {:08x} sar {:02x}", self.status, self.shift)?;
        write!(out, " iir {:08x} ior {:08x}", self.instruction, self.trap_address)?;
        for (index, value) in self.general.iter().enumerate().skip(1) {
            let separator = if index % 8 == 1 { '\n' } else { ' ' };
            write!(out, "{separator}r{index:<2} {value:08x}")?;
        }
        Ok(())
    }
}
