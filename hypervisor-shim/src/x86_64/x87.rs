//! The guest's x87 registers, which stay in the processor while the shim runs: nothing of the shim uses them.
//!
//! Saving and restoring them at every cut with all else that `fxsave64` knows took a tenth of a boundary under emulation, and programs in
//! Rust have no use for them. So they are looked at where an epoch ends, by the few words that say whether there is anything in
//! them, and read when there is or when a guest's state is copied.

use core::arch::asm;

use protocol::digest::Digest64;

use super::context::FXSAVE_BYTES;

/// What `fnstenv` writes: control, status and tag words first (Intel SDM volume 1, section 8.1.10).
const ENVIRONMENT_WORDS: usize = 7;
/// The tags of eight empty registers.
const ALL_EMPTY: u32 = 0xffff;
/// What of an `fxsave64` image is about them: control words and pointers, and the registers.
const CONTROL_BYTES: usize = 24;
const REGISTERS: core::ops::Range<usize> = 32..160;

/// An `fxsave64` image.
#[derive(Debug, Clone)]
#[repr(C, align(16))]
pub(super) struct Image(pub [u8; FXSAVE_BYTES]);

impl Image {
    /// What the processor holds: of the guest only the x87 registers.
    pub(super) fn of_the_processor() -> Self {
        let mut image = Self([0; FXSAVE_BYTES]);
        // SAFETY: writes 416 bytes at most, to an image that is aligned; changes no register.
        unsafe { asm!("fxsave64 [{}]", in(reg) image.0.as_mut_ptr(), options(nostack, preserves_flags)) };
        image
    }

    /// Puts everything of it into the processor.
    ///
    /// # Safety
    /// The image's MXCSR has no reserved bits: they fault.
    pub(super) unsafe fn load(&self) {
        // SAFETY: reads an image that is aligned. The vector registers are named as changed; nobody in the shim uses the x87 ones, and
        // MXCSR is the guest's all the time.
        unsafe {
            asm!(
                "fxrstor64 [{}]",
                in(reg) self.0.as_ptr(),
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                options(nostack, readonly, preserves_flags),
            );
        }
    }
}

/// Adds them to a digest: control, status and tags, and all of them when one is not empty.
pub(super) fn digest(digest: &mut Digest64) {
    let mut environment = [0_u32; ENVIRONMENT_WORDS];
    // SAFETY: writes 28 bytes. The first instruction also masks exceptions, which the second takes back: with that none can be
    // pending when it looks for one.
    unsafe {
        asm!(
            "fnstenv [{environment}]",
            "fldcw word ptr [{environment}]",
            environment = in(reg) environment.as_mut_ptr(),
            options(nostack, preserves_flags),
        );
    }
    let [control, status, tags] = [0, 1, 2].map(|index| environment[index] & 0xffff);
    digest.write_u64(u64::from(control) << 32 | u64::from(status) << 16 | u64::from(tags));
    if tags != ALL_EMPTY {
        let image = Image::of_the_processor();
        digest.write_bytes(&image.0[..CONTROL_BYTES]);
        digest.write_bytes(&image.0[REGISTERS]);
    }
}
