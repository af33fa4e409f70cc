//! The registers of a guest at an epoch boundary as bytes, and back.
//!
//! | bytes | field |
//! |---|---|
//! | 0..128 | general registers in the order of [`Context::general`], u64 each |
//! | 128..136 | instruction pointer |
//! | 136..144 | flags |
//! | 144..152 | SSE control and status |
//! | 152..160 | 0: the guest was left by a hypercall, and its vector registers are zero; 1: by an interrupt |
//! | 160..168 | base of `fs` |
//! | 168..680 | `fxsave64` image; its vector registers are zero after a hypercall |

use alloc::vec::Vec;

use super::context::{Context, FXSAVE_BYTES, FXSAVE_MXCSR, FXSAVE_VECTORS, Left, RFLAGS_GUEST, VirtualCpu};
use super::x87;
use crate::machine::RegistersError;

const GENERAL: usize = 16;
const WORDS: usize = GENERAL + 5;
/// All of them.
const BYTES: usize = WORDS * 8 + FXSAVE_BYTES;

/// Flags that ring 3 can change (Intel SDM volume 1, section 3.4.3): status, trap, direction, nested task, resume,
/// alignment check, identification.
const RFLAGS_FREE: u64 = 0x25_4dd5;
/// MXCSR has no more bits; loading others faults in ring 0 (volume 1, section 10.2.3).
const MXCSR_BITS: u64 = 0xffff;

impl VirtualCpu {
    /// Appends the registers.
    pub fn save(&mut self, out: &mut Vec<u8>) {
        let left_by_trap = self.last == Left::Trap;
        let context = self.context();
        let others = [context.rip, context.rflags, context.mxcsr, left_by_trap.into(), context.thread_pointer];
        for word in context.general.into_iter().chain(others) {
            out.extend_from_slice(&word.to_le_bytes());
        }
        // What the processor holds of these is the shim's by now.
        let mut image = x87::Image::of_the_processor().0;
        if left_by_trap {
            image[FXSAVE_MXCSR].copy_from_slice(&context.fxsave[FXSAVE_MXCSR]);
            image[FXSAVE_VECTORS].copy_from_slice(&context.fxsave[FXSAVE_VECTORS]);
        } else {
            image[FXSAVE_MXCSR].copy_from_slice(&(context.mxcsr as u32).to_le_bytes());
            image[FXSAVE_VECTORS].fill(0);
        }
        out.extend_from_slice(&image);
    }

    /// Takes registers that [`Self::save`] has written. `is_guest` says whether an address lies in guest memory.
    ///
    /// # Errors
    /// What could not be a guest's; nothing has changed then.
    pub fn load(&mut self, bytes: &[u8], is_guest: impl Fn(u64) -> bool) -> Result<(), RegistersError> {
        if bytes.len() != BYTES {
            return Err(RegistersError::Length { expected_bytes: BYTES, got_bytes: bytes.len() });
        }
        let (head, fxsave) = bytes.split_at(WORDS * 8);
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(head.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let [rip, rflags, mxcsr, left_by_trap, thread_pointer] = [16, 17, 18, 19, 20].map(|index| words[index]);
        let check = |register, value: u64, fits: bool| {
            if fits { Ok(()) } else { Err(RegistersError::Value { register, got: value }) }
        };
        // `sysretq` and `iretq` to an address that is not canonical fault in ring 0.
        check("rip", rip, is_guest(rip))?;
        check("rflags", rflags, rflags & !RFLAGS_FREE == RFLAGS_GUEST)?;
        check("mxcsr", mxcsr, mxcsr & !MXCSR_BITS == 0)?;
        check("left", left_by_trap, left_by_trap < 2)?;
        // So does a base that is not canonical.
        check("fs", thread_pointer, thread_pointer == 0 || is_guest(thread_pointer))?;
        let mut image_mxcsr = [0; 4];
        image_mxcsr.copy_from_slice(&fxsave[FXSAVE_MXCSR]);
        let image_mxcsr = u64::from(u32::from_le_bytes(image_mxcsr));
        check("mxcsr", image_mxcsr, image_mxcsr & !MXCSR_BITS == 0)?;
        self.last = if left_by_trap == 1 { Left::Trap } else { Left::Hypercall };
        let context: &mut Context = self.context();
        context.general.copy_from_slice(&words[..GENERAL]);
        (context.rip, context.rflags, context.mxcsr) = (rip, rflags, mxcsr);
        context.fxsave.copy_from_slice(fxsave);
        // SAFETY: the image's MXCSR has no reserved bits, as was checked.
        unsafe { x87::Image(context.fxsave).load() };
        self.set_thread_pointer(thread_pointer);
        Ok(())
    }
}
