//! Where the processor's flags may still be read: there a tick must keep them.
//!
//! A tick decrements memory, which changes all arithmetic flags but carry. What is not known counts as reading them.

use std::collections::HashSet;

use super::source::{Function, Line, Source, symbols};

/// What an instruction does about the flags that a tick changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It may read them, or is not known.
    Reads,
    /// It gives all of them a new value, or leaves them undefined.
    Writes,
    /// Neither.
    Keeps,
}

/// Names without the letter of the operands' width: everything that compilers write often.
const WRITES: [&str; 28] = [
    "cmp", "test", "add", "sub", "and", "or", "xor", "neg", "inc", "dec", "imul", "mul", "div", "idiv", "bsf", "bsr",
    "popcnt", "tzcnt", "lzcnt", "xadd", "cmpxchg", "ucomiss", "ucomisd", "comiss", "comisd", "ud2", "ret", "call",
];
const KEEPS: [&str; 30] = [
    "mov",
    "lea",
    "push",
    "pop",
    "nop",
    "xchg",
    "bswap",
    "not",
    "leave",
    "cltq",
    "cltd",
    "cqto",
    "cwtl",
    "cwtd",
    "cbtw",
    "rol",
    "ror",
    "bt",
    "bts",
    "btr",
    "btc",
    "stos",
    "lfence",
    "mfence",
    "sfence",
    "pause",
    "prefetcht",
    "prefetchnta",
    "prefetchw",
    "endbr64",
];
/// Vector instructions read no flags. They are told by how they begin.
const VECTOR_STEMS: [&str; 17] = [
    "mov", "cvt", "p", "add", "sub", "mul", "div", "sqrt", "un", "shuf", "and", "or", "xor", "max", "min", "cmp",
    "round",
];

fn effect(mnemonic: &str, operands: &str) -> Effect {
    let is_vector = operands.contains("%xmm");
    if is_vector && VECTOR_STEMS.iter().any(|stem| mnemonic.starts_with(stem)) {
        return Effect::Keeps;
    }
    if is_one_of(mnemonic, &WRITES) {
        return Effect::Writes;
    }
    if is_one_of(mnemonic, &KEEPS) || ["movs", "movz"].iter().any(|stem| mnemonic.starts_with(stem)) {
        return Effect::Keeps;
    }
    if is_one_of(mnemonic, &["shl", "shr", "sar", "sal", "shld", "shrd"]) {
        return shift_effect(operands);
    }
    Effect::Reads
}

/// A shift by 0 changes no flags, and a shift by a register may be one.
fn shift_effect(operands: &str) -> Effect {
    let by_constant = operands.starts_with('$') && !operands.starts_with("$0,");
    let by_one = !operands.contains(',');
    if by_constant || by_one { Effect::Writes } else { Effect::Keeps }
}

/// Whether it is one of these names, or one of them and a width.
fn is_one_of(mnemonic: &str, names: &[&str]) -> bool {
    names.iter().any(|name| {
        let width = mnemonic.strip_prefix(name);
        width.is_some_and(|width| matches!(width, "" | "b" | "w" | "l" | "q" | "absq"))
    })
}

/// How an instruction goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Jump<'a> {
    /// With the next one.
    None,
    /// At a label or symbol.
    Always(&'a str),
    /// There or with the next one.
    If(&'a str),
    /// Wherever a register or memory says.
    Indirect,
}

impl<'a> Jump<'a> {
    /// What kind of jump an instruction is.
    pub fn of(line: &Line<'a>) -> Self {
        let Line::Instruction { mnemonic, operands } = *line else { return Self::None };
        let conditional = matches!(mnemonic, "jrcxz" | "jecxz") || opposite(mnemonic).is_some();
        match mnemonic {
            "jmp" | "jmpq" if operands.starts_with('*') => Self::Indirect,
            "jmp" | "jmpq" => Self::Always(operands),
            _ if conditional || mnemonic.starts_with("loop") => Self::If(operands),
            _ => Self::None,
        }
    }
}

/// The conditional jump that is taken when this one is not. `None` for any other instruction.
pub(super) fn opposite(mnemonic: &str) -> Option<&'static str> {
    const PAIRS: [(&str, &str); 8] = [
        ("jo", "jno"),
        ("jb", "jae"),
        ("je", "jne"),
        ("jbe", "ja"),
        ("js", "jns"),
        ("jp", "jnp"),
        ("jl", "jge"),
        ("jle", "jg"),
    ];
    PAIRS.iter().find_map(|&(one, other)| match mnemonic {
        _ if mnemonic == one => Some(other),
        _ if mnemonic == other => Some(one),
        _ => None,
    })
}

/// Where flags may be read before they are written, for each line of a function.
pub(super) struct Liveness {
    first: usize,
    live: Vec<bool>,
    indirect: bool,
}

impl Liveness {
    /// Looks at a function. `taken` are the labels that somebody may jump to through a table.
    pub fn of(source: &Source<'_>, function: &Function<'_>, taken: &HashSet<&str>) -> Self {
        let (first, end) = (function.first, function.end);
        let mut liveness = Self { first, live: vec![false; end + 1 - first], indirect: false };
        // What is found live stays so, so this comes to an end.
        while liveness.pass(source, function, taken) {}
        liveness
    }

    /// Whether flags may be read from the line on.
    pub fn before(&self, line: usize) -> bool {
        self.live[line - self.first]
    }

    /// Whether flags may be read after a jump through a register or a table.
    pub fn after_indirect(&self) -> bool {
        self.indirect
    }

    /// One way back through the function. Returns whether anything was found.
    fn pass(&mut self, source: &Source<'_>, function: &Function<'_>, taken: &HashSet<&str>) -> bool {
        let mut found = false;
        for line in (function.first..function.end).rev() {
            let next = self.before(line + 1);
            let live = match &source.lines[line] {
                // What is written by hand may read flags that the code before it has left.
                Line::Begin | Line::End => true,
                &Line::Instruction { mnemonic, operands } => match Jump::of(&source.lines[line]) {
                    Jump::None => match effect(mnemonic, operands) {
                        Effect::Reads => true,
                        Effect::Writes => false,
                        Effect::Keeps => next,
                    },
                    Jump::If(_) => true,
                    Jump::Always(target) => self.at_label(source, function, target),
                    Jump::Indirect => self.indirect,
                },
                Line::Label(_) | Line::Directive { .. } | Line::Empty => next,
            };
            if live && !self.before(line) {
                self.live[line - self.first] = true;
                found = true;
                let is_taken = matches!(source.lines[line], Line::Label(name) if taken.contains(name));
                self.indirect |= is_taken;
            }
        }
        found
    }

    /// A jump out of the function is a call, before which nobody leaves anything in flags.
    fn at_label(&self, source: &Source<'_>, function: &Function<'_>, label: &str) -> bool {
        let line = source.labels.get(label).copied();
        line.is_some_and(|line| (function.first..function.end).contains(&line) && self.before(line))
    }
}

/// Labels that appear elsewhere than in direct jumps: targets of jump tables.
pub(super) fn taken_labels<'a>(source: &Source<'a>) -> HashSet<&'a str> {
    let mut taken = HashSet::new();
    for line in &source.lines {
        let operands = match *line {
            Line::Directive { name: ".quad" | ".long", operands } => operands,
            Line::Instruction { operands, .. } if matches!(Jump::of(line), Jump::None | Jump::Indirect) => operands,
            _ => continue,
        };
        taken.extend(symbols(operands).filter(|symbol| symbol.starts_with(".LBB")));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_reads_flags() {
        for (text, expected) in [
            ("addq\t$1, %rax", Effect::Writes),
            ("incq\t%rax", Effect::Writes),
            ("adcq\t$0, %rax", Effect::Reads),
            ("sbbq\t%rax, %rax", Effect::Reads),
            ("cmovaeq\t%rax, %rcx", Effect::Reads),
            ("sete\t%al", Effect::Reads),
            ("rcrq\t%rax", Effect::Reads),
            ("pushfq", Effect::Reads),
            ("frobnicate\t%rax", Effect::Reads),
            ("shlq\t$3, %rax", Effect::Writes),
            ("shlq\t%rax", Effect::Writes),
            ("shlq\t%cl, %rax", Effect::Keeps),
            ("movzbl\t%al, %eax", Effect::Keeps),
            ("movabsq\t$1, %rax", Effect::Keeps),
            ("btq\t%rax, %rcx", Effect::Keeps),
            ("bsrq\t%rax, %rcx", Effect::Writes),
            ("notq\t%rax", Effect::Keeps),
            ("ucomisd\t%xmm0, %xmm1", Effect::Writes),
            ("addsd\t%xmm0, %xmm1", Effect::Keeps),
            ("pmovmskb\t%xmm0, %eax", Effect::Keeps),
            ("movups\t%xmm0, (%rax)", Effect::Keeps),
            ("lock\t\tcmpxchgq\t%rax, (%rcx)", Effect::Writes),
            ("rep;movsq\t(%rsi), %es:(%rdi)", Effect::Keeps),
            ("repne\tscasb\t%es:(%rdi), %al", Effect::Reads),
            ("callq\tsomewhere", Effect::Writes),
            ("cltq", Effect::Keeps),
            ("retq", Effect::Writes),
        ] {
            let text = format!("\t.text\n\t{text}\n.size\tf, .Lfunc_end0-f\nf:\n.Lfunc_end0:\n");
            let source = Source::parse(&text).expect("assembly");
            let Line::Instruction { mnemonic, operands } = source.lines[1] else { panic!("{text}") };
            assert_eq!(effect(mnemonic, operands), expected, "{mnemonic} {operands}");
        }
    }
}
