//! The hypercalls.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use hypercall::errno::{E2BIG, EAGAIN, EFAULT, EPERM};
use hypercall::layout::{CONSOLE_EPOCH_BYTES, MAX_ENTROPY_BYTES, MAX_REPORT_BYTES};
use hypercall::table::{Hypercalls, Number, Outcome, dispatch};
use hypercall::{ABI_FINGERPRINT, ABI_VERSION};
use rand_chacha::rand_core::RngCore;

use super::{EndKind, Guest, guards};

/// Exit code of a guest that panicked, as of a Rust program.
const PANIC_CODE: u32 = 101;
/// Exit code of a guest that was built for another ABI: as EPROTO.
const ABI_MISMATCH_CODE: u32 = 71;

impl Guest {
    /// Carries out a hypercall. Number and arguments are whatever the guest had in its registers.
    pub fn call(&mut self, number: u64, arguments: [u64; 4]) -> Outcome {
        self.hypercalls += 1;
        if self.digests {
            self.digest.write_u64(number);
            for argument in arguments {
                self.digest.write_u64(argument);
            }
        }
        if !self.greeted && number != Number::Hello as u64 {
            return Outcome::Return(-EPERM);
        }
        dispatch(self, number, arguments)
    }
}

impl Hypercalls for Guest {
    fn hello(&mut self, abi_version: u64, fingerprint: u64) -> Outcome {
        if abi_version == u64::from(ABI_VERSION) && fingerprint == ABI_FINGERPRINT {
            self.greeted = true;
            return Outcome::Return(0);
        }
        let report = format!(
            "the guest was built for ABI version {abi_version} ({fingerprint:016x}), this shim has version \
             {ABI_VERSION} ({ABI_FINGERPRINT:016x}); build both from one source"
        );
        self.set_end(EndKind::Fault, ABI_MISMATCH_CODE, report);
        Outcome::Stop
    }

    fn wait(&mut self, deadline_ns: u64) -> Outcome {
        Outcome::EndEpoch { deadline_ns }
    }

    fn exit(&mut self, code: u64) -> Outcome {
        self.set_end(EndKind::Exit, code as u32, String::new());
        Outcome::Stop
    }

    fn panic_report(&mut self, text_address: u64, text_bytes: u64) -> Outcome {
        let bytes = text_bytes.min(MAX_REPORT_BYTES as u64) as usize;
        let report = match self.memory.copy_out(text_address, bytes) {
            Some(text) => String::from_utf8_lossy(&text).into_owned(),
            None => format!("(the report of {text_bytes} bytes at {text_address:#x} lies outside guest memory)"),
        };
        self.set_end(EndKind::Panic, PANIC_CODE, report);
        Outcome::Stop
    }

    fn console_write(&mut self, address: u64, bytes: u64) -> Outcome {
        if self.memory.offset_of(address, bytes).is_none() {
            return Outcome::Return(-EFAULT);
        }
        let room = CONSOLE_EPOCH_BYTES - self.console.len();
        let taken = bytes.min(room as u64) as usize;
        if taken == 0 && bytes != 0 {
            return Outcome::Return(-EAGAIN);
        }
        self.memory.append_to(address, taken, &mut self.console);
        Outcome::Return(taken as i64)
    }

    fn entropy(&mut self, address: u64, bytes: u64) -> Outcome {
        if bytes > MAX_ENTROPY_BYTES {
            return Outcome::Return(-E2BIG);
        }
        if !self.may_write(address, bytes) {
            return Outcome::Return(-EFAULT);
        }
        let mut random = vec![0; bytes as usize];
        self.generator.fill_bytes(&mut random);
        self.memory.write(address, &random);
        if let Some(offset) = self.memory.offset_of(address, bytes) {
            self.note_written(offset, random.len());
        }
        Outcome::Return(0)
    }

    fn preempt(&mut self, block_address: u64, handler_address: u64) -> Outcome {
        Outcome::Return(self.register_preemption(block_address, handler_address).map_or_else(|error| -error, |()| 0))
    }

    fn cut(&mut self) -> Outcome {
        Outcome::CutEpoch
    }

    fn thread_pointer(&mut self, address: u64) -> Outcome {
        // Any address of guest memory is canonical, which is all that the processor asks of it.
        if address != 0 && self.memory.offset_of(address, 1).is_none() {
            return Outcome::Return(-EFAULT);
        }
        Outcome::SetThreadPointer { address }
    }

    fn guard(&mut self, address: u64, text_address: u64, text_bytes: u64) -> Outcome {
        guards::outcome(self.add_guard(address, text_address, text_bytes), true)
    }

    fn unguard(&mut self, address: u64) -> Outcome {
        guards::outcome(self.remove_guard(address), false)
    }
}
