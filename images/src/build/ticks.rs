//! Makes a guest count its ticks (see [`hypercall::layout::TickNote`]): a software instruction counter after
//! Mellor-Crummey and LeBlanc, *A Software Instruction Counter* (ASPLOS 1989), put into the assembly that the compiler
//! emits for a whole guest.
//!
//! Images are optimised as one module, so the compiler's assembly holds the app, all of its dependencies, `runtime`, and
//! what they use of `core` and `alloc`. A *tick* decrements the counter and leaves the straight way where it has become
//! negative. There is one wherever code could go round for ever:
//!
//! * on every jump backwards in the order of the text, where it is taken: a cycle within a function has one of them,
//! * on every jump through a register or a table,
//! * at the entry of every function that may come to call itself, directly or through others (`calls`).
//!
//! What lies between two ticks is so bounded by the length of the program. A tick changes flags, so where somebody may
//! still read them (`flags`) it saves them; it uses no register, and no stack that code may keep below its stack
//! pointer (`core` and `alloc` were compiled with a red zone).
//!
//! Not in that module, and so not counted: assembly written by hand (which is in it, but left alone), and crates that the compiler keeps out of the joint
//! optimisation because the optimiser itself calls them (`compiler_builtins`, and `no_builtins` crates such as
//! `freestanding`). The functions without ticks are found in the linked guest and reported ([`Coverage`]). All of them
//! come to an end by themselves, or are code that somebody wrote in assembly; a loop there makes an epoch late, but ends
//! it at the same place in both replicas all the same.

mod calls;
mod emit;
mod flags;
mod link;
mod source;

use std::collections::HashSet;

use object::{Object, ObjectSymbol, SymbolKind};
use serde::Serialize;

pub use emit::Sites;
pub use link::{LinkError, Linker};

/// Symbol of the counter.
const COUNTER: &str = "pollux_ticks";
/// Symbol of what runs when it has become negative.
const RAN_OUT: &str = "pollux_ran_out";

/// Why assembly cannot be made to count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TickError {
    /// There is nothing in it that a compiler has made.
    #[error("the assembly holds no compiled function (was it emitted for the whole guest, by a compiler for x86-64?)")]
    NoFunctions,
    /// A function that does not end where it says.
    #[error("line {line}: the function {name} begins here and has no end")]
    Unended {
        /// Line of its label, from 1.
        line: usize,
        /// Its symbol.
        name: String,
    },
    /// A jump to a label that is not in its function.
    #[error("line {line}: a jump to {target}, which is no label of the function around it")]
    UnknownTarget {
        /// The jump's line, from 1.
        line: usize,
        /// Where it goes.
        target: String,
    },
    /// The assembly counts already.
    #[error("the assembly defines {COUNTER} already")]
    Counts,
}

/// Assembly that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The assembly.
    pub assembly: String,
    /// How many ticks of each kind were put in.
    pub sites: Sites,
    /// Symbols of the functions whose loops tick.
    pub functions: HashSet<String>,
    /// Symbols of those among them that hold a loop written by hand, in inline assembly, which does not tick.
    pub by_hand: Vec<String>,
}

/// Puts ticks into the assembly (AT&T syntax, as LLVM writes it) of a whole guest.
///
/// # Errors
/// [`TickError`] when the text is not such assembly.
pub fn instrument(assembly: &str) -> Result<Counted, TickError> {
    let source = source::Source::parse(assembly)?;
    let recursive = calls::recursive(&source);
    let emitted = emit::emit(&source, &recursive)?;
    let plain = |name: &str| name.trim_matches('"').to_owned();
    let functions = source.functions.iter().map(|function| plain(function.name)).collect();
    let by_hand = emitted.by_hand.iter().map(|name| plain(name)).collect();
    Ok(Counted { assembly: emitted.assembly, sites: emitted.sites, functions, by_hand })
}

/// What counts in a linked guest, and what does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// How many ticks of each kind there are in the assembly.
    pub sites: Sites,
    /// Functions whose loops tick, as linked.
    pub functions: usize,
    /// Bytes of code in them.
    pub bytes: u64,
    /// Symbols of the functions without ticks.
    pub uncounted: Vec<String>,
    /// Bytes of code in those.
    pub uncounted_bytes: u64,
    /// Symbols of the functions that tick but hold a loop in inline assembly, which does not.
    pub by_hand: Vec<String>,
}

impl Coverage {
    /// Compares what is in a linked guest with what was instrumented.
    ///
    /// # Errors
    /// When the guest cannot be read.
    pub fn of(guest: &[u8], counted: &Counted) -> Result<Self, object::Error> {
        let file = object::File::parse(guest)?;
        let mut coverage = Self { sites: counted.sites, by_hand: counted.by_hand.clone(), ..Self::default() };
        let mut seen = HashSet::new();
        for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition()) {
            let name = symbol.name()?;
            // Functions with equal code share an address under several names.
            if name == RAN_OUT || !seen.insert(symbol.address()) {
                continue;
            }
            if counted.functions.contains(name) {
                coverage.functions += 1;
                coverage.bytes += symbol.size();
            } else {
                coverage.uncounted_bytes += symbol.size();
                coverage.uncounted.push(name.to_owned());
            }
        }
        coverage.uncounted.sort();
        Ok(coverage)
    }
}

#[cfg(test)]
mod tests;
