//! The table of hypercalls: numbers, guest stubs and the shim's dispatch in one place.

use crate::errno::ENOSYS;

/// The first number. No system has system calls of such numbers, so one that a program makes itself, for the kernel that it was
/// written for, is told from a hypercall.
pub const FIRST_NUMBER: u64 = 0x0070_6c00;
/// Numbers from the first one on that are hypercalls, or would be in another version.
pub const NUMBERS: u64 = 256;
/// How many hypercalls' arguments there are at most.
pub const MAX_ARGUMENTS: usize = 4;

/// What a dispatcher hands back to the trap handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Return this value in the result register and go on with the guest.
    Return(i64),
    /// Give the thread pointer this value, an address of guest memory or 0, and go on with the guest, with result 0;
    /// `-ENOSYS` on a machine without one.
    SetThreadPointer {
        /// The value.
        address: u64,
    },
    /// From now on ring 3 can neither read nor write to this page, or it can again, and the guest goes on, with result 0;
    /// `-ENOSYS` on a machine that cannot do it.
    SetGuard {
        /// Offset of the page in guest memory.
        offset: u64,
        /// Whether it is a guard from now on.
        guarded: bool,
    },
    /// The epoch ends at this instruction; the guest goes on, with result 0, when the next one starts.
    EndEpoch {
        /// Monotonic clock value, in nanoseconds, at which the guest wants to run again although no event has
        /// come; 0 asks for the next epoch at once, `u64::MAX` for no time limit.
        deadline_ns: u64,
    },
    /// The epoch ends at this instruction as if the machine had cut it there: the guest has not waited, and goes on, with
    /// result 0, as soon as the next one starts.
    CutEpoch,
    /// The guest does not run again.
    Stop,
    /// That was none: the program has made a system call of this number itself. It does not run again.
    SystemCall(u64),
}

macro_rules! hypercalls {
    ($( $(#[$doc:meta])* $number:literal $variant:ident $name:ident ( $($argument:ident),* ); )*) => {
        /// Hypercall numbers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u64)]
        pub enum Number { $( $(#[$doc])* $variant = FIRST_NUMBER + $number, )* }

        impl Number {
            /// Every hypercall with its number and name, in the order of the table.
            pub const ALL: &'static [(Number, &'static str)] = &[ $( (Number::$variant, stringify!($name)), )* ];
        }

        /// Hash over numbers, names and argument counts.
        pub(crate) const TABLE_FINGERPRINT: u64 = {
            let mut hash = FIRST_NUMBER;
            $(
                hash = crate::mix(hash, $number);
                hash = crate::mix(hash, ([$(stringify!($argument)),*] as [&str; _]).len() as u64);
                let name = stringify!($name).as_bytes();
                let mut index = 0;
                while index < name.len() {
                    hash = crate::mix(hash, name[index] as u64);
                    index += 1;
                }
            )*
            hash
        };

        /// What a shim implements: one method a hypercall. Arguments are raw register values that the guest
        /// chose freely; nothing about them may be assumed.
        pub trait Hypercalls {
            $( $(#[$doc])* fn $name(&mut self, $($argument: u64),*) -> Outcome; )*
        }

        /// Calls the method of `handler` that `number` names. One that could name another method gives `-ENOSYS`, any other
        /// number is a system call.
        #[inline]
        pub fn dispatch<H: Hypercalls>(handler: &mut H, number: u64, arguments: [u64; MAX_ARGUMENTS]) -> Outcome {
            match number.wrapping_sub(FIRST_NUMBER) {
                $( $number => {
                    let [$($argument,)* ..] = arguments;
                    handler.$name($($argument),*)
                } )*
                unknown if unknown < NUMBERS => Outcome::Return(-ENOSYS),
                _ => Outcome::SystemCall(number),
            }
        }

        /// The guest's side: one function a hypercall, each returning the shim's result.
        pub mod guest {
            $(
                $(#[$doc])*
                ///
                /// # Safety
                /// Pointers and lengths must name memory of the caller that the hypercall may read, and for
                /// `entropy` write. Only a Pollux guest may execute this.
                #[inline]
                pub unsafe fn $name($($argument: u64),*) -> i64 {
                    let mut arguments = [0u64; super::MAX_ARGUMENTS];
                    let given: &[u64] = &[$($argument),*];
                    arguments[..given.len()].copy_from_slice(given);
                    // SAFETY: the caller vouches for the arguments and for being a guest.
                    unsafe { super::raw_hypercall(super::FIRST_NUMBER + $number, arguments) }
                }
            )*
        }
    };
}

hypercalls! {
    /// `hello(abi_version, fingerprint)`: agrees on the ABI; must come first. Returns 0, or stops the guest
    /// with a report that names both versions when they differ.
    0 Hello hello(abi_version, fingerprint);
    /// `wait(deadline_ns)`: ends the epoch. Returns 0 when the next one starts: because an event was delivered,
    /// or because the monotonic clock has reached `deadline_ns` (0: at once; `u64::MAX`: no limit).
    1 Wait wait(deadline_ns);
    /// `exit(code)`: ends the program with the low 32 bits of `code`. Does not return.
    2 Exit exit(code);
    /// `panic_report(text_address, text_bytes)`: stops the guest with a report of at most
    /// [`crate::layout::MAX_REPORT_BYTES`] bytes of UTF-8 (longer ones are cut). Does not return.
    3 PanicReport panic_report(text_address, text_bytes);
    /// `console_write(address, bytes)`: appends to the console. Returns how many bytes were taken, which is less
    /// than asked when the epoch's console buffer ([`crate::layout::CONSOLE_EPOCH_BYTES`]) is full, or `-EAGAIN`
    /// when none were, or `-EFAULT`. What was taken leaves the machine when the epoch is committed.
    4 ConsoleWrite console_write(address, bytes);
    /// `entropy(address, bytes)`: fills memory with random bytes, the same in both replicas. Returns 0, or
    /// `-EFAULT` where the guest itself may not write, or `-E2BIG` above [`crate::layout::MAX_ENTROPY_BYTES`].
    5 Entropy entropy(address, bytes);
    /// `preempt(block_address, handler_address)`: from now on an epoch that begins where the one before was cut may
    /// make an upcall, see [`crate::layout::Preemption`]; a `block_address` of 0 takes that back. Returns 0, or `-EFAULT`
    /// where the block is not memory that the guest itself may write or the handler is no address of guest memory, or
    /// `-EINVAL` when the block is not aligned to 8; what was registered before then stays.
    6 Preempt preempt(block_address, handler_address);
    /// `cut()`: the guest's counter of ticks has run out (see [`crate::layout::TickNote`]). Ends the epoch where a machine
    /// that counts instructions would have cut it: the guest goes on at once, and an upcall may be due. Returns 0 then.
    7 Cut cut();
    /// `thread_pointer(address)`: from now on the thread pointer (on x86-64 the base of `fs`) is `address`; it is 0 when a
    /// guest starts. Returns 0, or `-EFAULT` for what is neither 0 nor an address of guest memory, or `-ENOSYS` on a
    /// machine without such a register.
    8 ThreadPointer thread_pointer(address);
    /// `guard(address, text_address, text_bytes)`: from now on the page at `address`, one that the guest itself may write, is a
    /// *guard*: an instruction of the guest that touches it is a fault. The text (UTF-8, at most
    /// [`crate::layout::MAX_GUARD_TEXT_BYTES`]; it may be empty) is left in the page, with a zero byte behind it, and stands
    /// in the report of such a fault. A page that is a guard already gets another text. Hypercalls and disks are not kept
    /// out of it. Returns 0, or `-EINVAL` when the address is not that of a page, `-EFAULT` where the guest itself may not
    /// write or the text does not lie in guest memory, `-E2BIG` for a longer text, `-ENOMEM` when there are
    /// [`crate::layout::MAX_GUARDS`] already, `-ENOSYS` on a machine that cannot do it.
    9 Guard guard(address, text_address, text_bytes);
    /// `unguard(address)`: the guard at `address` is a page like any other again. What it holds then is not what it held
    /// before. Returns 0, or `-ENOENT` when there is no guard.
    10 Unguard unguard(address);
}

/// Executes one hypercall.
///
/// # Safety
/// The instruction is only meaningful in a Pollux guest; elsewhere it is a system call of the host.
#[cfg(target_arch = "x86_64")]
#[inline]
pub unsafe fn raw_hypercall(number: u64, arguments: [u64; MAX_ARGUMENTS]) -> i64 {
    let result: i64;
    // SAFETY: the shim preserves all registers but those named as clobbered, and reads or writes only memory that
    // the arguments name, which the caller vouches for.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as i64 => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r8") arguments[3],
            clobber_abi("C"),
            options(nostack),
        );
    }
    result
}

#[cfg(not(target_arch = "x86_64"))]
#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "guest"))]
unsafe extern "C" {
    /// The platform's way into the shim.
    fn pollux_hypercall(number: u64, first: u64, second: u64, third: u64, fourth: u64) -> i64;
}

/// Executes one hypercall.
///
/// # Safety
/// Only a Pollux guest may call it.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub unsafe fn raw_hypercall(number: u64, arguments: [u64; MAX_ARGUMENTS]) -> i64 {
    // SAFETY: provided by the platform layer; the caller vouches for the arguments.
    unsafe { pollux_hypercall(number, arguments[0], arguments[1], arguments[2], arguments[3]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::EPROTO;

    struct Recorder(Option<(&'static str, [u64; 2])>);

    impl Hypercalls for Recorder {
        fn hello(&mut self, abi_version: u64, fingerprint: u64) -> Outcome {
            self.0 = Some(("hello", [abi_version, fingerprint]));
            Outcome::Return(-EPROTO)
        }
        fn wait(&mut self, deadline_ns: u64) -> Outcome {
            self.0 = Some(("wait", [deadline_ns, 0]));
            Outcome::EndEpoch { deadline_ns }
        }
        fn exit(&mut self, code: u64) -> Outcome {
            self.0 = Some(("exit", [code, 0]));
            Outcome::Stop
        }
        fn panic_report(&mut self, text_address: u64, text_bytes: u64) -> Outcome {
            self.0 = Some(("panic_report", [text_address, text_bytes]));
            Outcome::Stop
        }
        fn console_write(&mut self, address: u64, bytes: u64) -> Outcome {
            self.0 = Some(("console_write", [address, bytes]));
            Outcome::Return(bytes as i64)
        }
        fn entropy(&mut self, address: u64, bytes: u64) -> Outcome {
            self.0 = Some(("entropy", [address, bytes]));
            Outcome::Return(0)
        }
        fn preempt(&mut self, block_address: u64, handler_address: u64) -> Outcome {
            self.0 = Some(("preempt", [block_address, handler_address]));
            Outcome::Return(0)
        }
        fn cut(&mut self) -> Outcome {
            self.0 = Some(("cut", [0; 2]));
            Outcome::CutEpoch
        }
        fn thread_pointer(&mut self, address: u64) -> Outcome {
            self.0 = Some(("thread_pointer", [address, 0]));
            Outcome::SetThreadPointer { address }
        }
        fn guard(&mut self, address: u64, text_address: u64, _text_bytes: u64) -> Outcome {
            self.0 = Some(("guard", [address, text_address]));
            Outcome::SetGuard { offset: address, guarded: true }
        }
        fn unguard(&mut self, address: u64) -> Outcome {
            self.0 = Some(("unguard", [address, 0]));
            Outcome::SetGuard { offset: address, guarded: false }
        }
    }

    #[test]
    fn every_number_reaches_the_method_of_its_name() {
        for (number, name) in Number::ALL {
            let mut recorder = Recorder(None);
            dispatch(&mut recorder, *number as u64, [7, 9, 0, 0]);
            let (called, arguments) = recorder.0.expect("dispatched");
            assert_eq!(called, *name);
            assert_eq!(arguments[0], if *number == Number::Cut { 0 } else { 7 });
        }
    }

    #[test]
    fn an_unknown_number_is_enosys_or_a_system_call() {
        let expect = |number: u64, expected: Outcome| {
            let mut recorder = Recorder(None);
            assert_eq!(dispatch(&mut recorder, number, [0; 4]), expected);
            assert!(recorder.0.is_none());
        };
        for number in [Number::ALL.len() as u64, NUMBERS - 1] {
            expect(FIRST_NUMBER + number, Outcome::Return(-ENOSYS));
        }
        for number in [0, 1, 231, FIRST_NUMBER - 1, FIRST_NUMBER + NUMBERS, 1 << 32, u64::MAX] {
            expect(number, Outcome::SystemCall(number));
        }
    }
}
