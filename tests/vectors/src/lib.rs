//! What every machine must make of the same inputs: codecs, the replica state machine in the simulator's hands, and
//! arithmetic, as lines of text.
//!
//! A host prints them by `cargo run -p vectors`; the PA-RISC image (`pollux build vectors --target hppa`) prints them on its
//! console. Both are compiled from the same sources, which are also those of the tests `golden` and `simulation`. Two
//! machines that print the same lines write and read the same wire formats and ABI structures, and give the same commands
//! for the same inputs.

mod abi;
mod arithmetic;
// Its tests use all of it.
#[allow(dead_code, unused_imports, missing_docs)]
#[path = "../../src/sim/mod.rs"]
mod sim;
#[path = "../../../hypervisor-shim/protocol/tests/vectors/mod.rs"]
mod wire;

use std::fmt::Write as _;

use protocol::digest::digest_of;

/// Simulated runs: enough to take a failover, a disk and a newcomer each more than once.
pub const SEEDS: u64 = 40;
/// Seed of all digests here.
const DIGEST_SEED: u64 = 0x706f_6c6c_7578;

/// Where the lines go, one call each, without its end.
pub type Lines<'a> = &'a mut dyn FnMut(&str);

/// Writes all lines.
pub fn run(line: Lines<'_>) {
    arithmetic::run(line);
    abi::run(line);
    for (_, encode_and_decode) in wire::ALL {
        encode_and_decode(&mut |folder, name, bytes| bytes_line(line, &format!("wire {folder}/{name}"), bytes));
    }
    for seed in 0..SEEDS {
        simulate(line, seed);
    }
    line("done");
}

/// A vector: its name, its length and the digest of its bytes.
fn bytes_line(line: Lines<'_>, name: &str, bytes: &[u8]) {
    line(&format!("{name}: {} bytes {:016x}", bytes.len(), digest_of(DIGEST_SEED, bytes)));
}

/// A run of the simulator: every message and every command of both replicas is in its trace.
fn simulate(line: Lines<'_>, seed: u64) {
    let report = sim::run_traced(seed);
    let mut text = String::new();
    for entry in &report.trace {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{entry}");
    }
    let trace = digest_of(DIGEST_SEED, text.as_bytes());
    line(&format!("simulation {seed}: {} steps, trace {trace:016x}, {:?}", report.steps, report.verdict));
}

/// Where the lines go on a machine without an operating system.
#[cfg(target_arch = "wasm32")]
mod machine {
    #[link(wasm_import_module = "machine")]
    unsafe extern "C" {
        /// Writes to the console.
        fn write(address: *const u8, bytes: usize);
    }

    fn print(text: &str) {
        // SAFETY: the text is readable for its length while the call lasts.
        unsafe { write(text.as_ptr(), text.len()) }
    }

    /// The program; its platform layer calls it once.
    #[unsafe(no_mangle)]
    extern "C" fn program() {
        std::panic::set_hook(Box::new(|info| print(&format!("{info}\n"))));
        super::run(&mut |line| {
            print(line);
            print("\n");
        });
    }
}
