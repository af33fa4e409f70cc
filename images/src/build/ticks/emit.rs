//! Writing assembly that ticks.
//!
//! Under an emulator a jump that is taken within a page costs little and one out of it much, so what is executed often
//! stays where it is: only what runs when the counter has become negative is put behind the function.

use std::fmt::Write;

use hypercall::layout::TickNote;
use hypercall::table::Number;
use serde::Serialize;

use super::flags::{Jump, Liveness, opposite, taken_labels};
use super::source::{Function, Line, Source};
use super::{COUNTER, RAN_OUT, TickError};

/// Bytes below the stack pointer that belong to the function that runs, where it was compiled with a red zone.
const RED_ZONE_BYTES: u32 = 128;

/// How many ticks of each kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sites {
    /// At entries of functions.
    pub entries: usize,
    /// On jumps backwards.
    pub loops: usize,
    /// On jumps through a register or a table.
    pub indirect: usize,
    /// Those of them all that must keep flags.
    pub keeping_flags: usize,
}

/// Writes the whole assembly, with ticks, and behind it the counter and what runs when it has run out.
pub(super) fn emit<'a>(source: &Source<'a>, recursive: &[bool]) -> Result<Emitted<'a>, TickError> {
    let text_bytes: usize = source.text.iter().map(|line| line.len() + 1).sum();
    let mut writer = Writer {
        out: String::with_capacity(text_bytes + text_bytes / 8),
        aside: String::new(),
        labels: 0,
        sites: Sites::default(),
        by_hand: Vec::new(),
    };
    let taken = taken_labels(source);
    let mut next = 0;
    for (function, &recursive) in source.functions.iter().zip(recursive) {
        writer.copy(source, next..function.first);
        let liveness = Liveness::of(source, function, &taken);
        writer.function(source, function, recursive, &liveness)?;
        next = function.end;
    }
    writer.copy(source, next..source.text.len());
    writer.out.push_str(&ending());
    Ok(Emitted { assembly: writer.out, sites: writer.sites, by_hand: writer.by_hand })
}

/// Assembly that ticks.
pub(super) struct Emitted<'a> {
    pub assembly: String,
    pub sites: Sites,
    /// Functions that jump backwards, or nobody knows where, in assembly written by hand.
    pub by_hand: Vec<&'a str>,
}

struct Writer<'a> {
    out: String,
    /// What goes behind the function that is being written.
    aside: String,
    labels: usize,
    sites: Sites,
    by_hand: Vec<&'a str>,
}

impl<'a> Writer<'a> {
    fn copy(&mut self, source: &Source<'_>, lines: std::ops::Range<usize>) {
        for line in &source.text[lines] {
            self.out.push_str(line);
            self.out.push('\n');
        }
    }

    /// Writes a function, up to the label of its end.
    fn function(
        &mut self,
        source: &Source<'_>,
        function: &Function<'a>,
        recursive: bool,
        liveness: &Liveness,
    ) -> Result<(), TickError> {
        let mut entered = !recursive;
        let mut by_hand = false;
        for index in function.first..function.end {
            let line = &source.lines[index];
            match line {
                Line::Begin => by_hand = true,
                Line::End => by_hand = false,
                _ => {}
            }
            // Before the first instruction, and before the first label that somebody jumps to.
            let begins = match line {
                Line::Instruction { .. } | Line::Begin => true,
                Line::Label(name) => name.starts_with(".LBB"),
                _ => false,
            };
            if begins && !entered {
                entered = true;
                self.sites.entries += 1;
                self.tick(false);
            }
            if by_hand {
                self.note_by_hand(source, function, index);
            }
            if by_hand || !self.jump(source, function, index, liveness)? {
                self.copy(source, index..index + 1);
            }
        }
        self.out.push_str(&self.aside);
        self.aside.clear();
        Ok(())
    }

    /// Takes down a function in which somebody has written a jump that may go round.
    fn note_by_hand(&mut self, source: &Source<'_>, function: &Function<'a>, index: usize) {
        let forwards = |label: &str| source.labels.get(label).is_some_and(|&line| line > index && line <= function.end);
        let goes_round = match Jump::of(&source.lines[index]) {
            Jump::None => false,
            Jump::Indirect => true,
            Jump::Always(label) | Jump::If(label) => !forwards(label),
        };
        if goes_round && self.by_hand.last() != Some(&function.name) {
            self.by_hand.push(function.name);
        }
    }

    /// Writes the line with its tick if it is a jump that ticks. Returns whether it has written anything.
    fn jump(
        &mut self,
        source: &Source<'_>,
        function: &Function<'_>,
        index: usize,
        liveness: &Liveness,
    ) -> Result<bool, TickError> {
        let line = &source.lines[index];
        let label = match Jump::of(line) {
            Jump::None => return Ok(false),
            Jump::Indirect => {
                self.sites.indirect += 1;
                self.tick(liveness.after_indirect());
                return Ok(false);
            }
            Jump::Always(label) | Jump::If(label) => label,
        };
        if !label.starts_with(".L") {
            // A call of a function that need not return here; that function has its own ticks.
            return Ok(false);
        }
        let target = source.labels.get(label).copied();
        let target = target.filter(|line| (function.first..function.end).contains(line));
        let target = target.ok_or_else(|| TickError::UnknownTarget { line: index + 1, target: label.to_owned() })?;
        if target > index {
            return Ok(false);
        }
        self.sites.loops += 1;
        let keeps_flags = liveness.before(target);
        match *line {
            Line::Instruction { mnemonic, .. } if !matches!(Jump::of(line), Jump::Always(_)) => {
                self.conditional(mnemonic, label, keeps_flags);
            }
            _ => self.tick_and_jump(label, keeps_flags),
        }
        Ok(true)
    }

    /// A jump backwards that is not always taken ticks only where it is.
    fn conditional(&mut self, mnemonic: &str, label: &str, keeps_flags: bool) {
        let past = self.label();
        match opposite(mnemonic) {
            Some(opposite) => self.line(format_args!("\t{opposite}\t{past}")),
            None => {
                // These have no opposite, and a short reach.
                let taken = self.label();
                self.line(format_args!("\t{mnemonic}\t{taken}\n\tjmp\t{past}\n{taken}:"));
            }
        }
        self.tick_and_jump(label, keeps_flags);
        self.line(format_args!("{past}:"));
    }

    fn tick_and_jump(&mut self, label: &str, keeps_flags: bool) {
        if keeps_flags {
            self.tick(true);
            return self.line(format_args!("\tjmp\t{label}"));
        }
        let slow = self.ran_out(label);
        self.line(format_args!("\tdecq\t{COUNTER}(%rip)\n\tjns\t{label}\n\tjmp\t{slow}"));
    }

    /// A tick on the straight way.
    fn tick(&mut self, keeps_flags: bool) {
        let back = self.label();
        if keeps_flags {
            self.sites.keeping_flags += 1;
            let slow = self.label();
            self.line(format_args!(
                "\tleaq\t-{RED_ZONE_BYTES}(%rsp), %rsp\n\tpushfq\n\tdecq\t{COUNTER}(%rip)\n\tjs\t{slow}\n{back}:\n\tpopfq\n\
                 \tleaq\t{RED_ZONE_BYTES}(%rsp), %rsp"
            ));
            // Writing to a string cannot fail.
            let _ = writeln!(self.aside, "{slow}:\n\tcallq\t{RAN_OUT}\n\tjmp\t{back}");
        } else {
            let slow = self.ran_out(&back);
            self.line(format_args!("\tdecq\t{COUNTER}(%rip)\n\tjs\t{slow}\n{back}:"));
        }
    }

    /// Puts aside what runs when the counter has become negative, to go on at `back`; returns its label.
    fn ran_out(&mut self, back: &str) -> String {
        let slow = self.label();
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.aside,
            "{slow}:\n\tleaq\t-{RED_ZONE_BYTES}(%rsp), %rsp\n\tcallq\t{RAN_OUT}\n\tleaq\t{RED_ZONE_BYTES}(%rsp), %rsp\n\tjmp\t{back}"
        );
        slow
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!(".Lpollux{}", self.labels)
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{text}");
    }
}

/// The counter, its note, and the function that is called when it has run out. That keeps every register: what was
/// interrupted does not know of it. A hypercall changes rax, rcx, r11 and the vector registers.
fn ending() -> String {
    let cut = Number::Cut as u64;
    let vectors = |line: fn(u32) -> String| (0..16).map(line).collect::<String>();
    let save = vectors(|number| format!("\tmovups\t%xmm{number}, {}(%rsp)\n", 16 * number));
    let load = vectors(|number| format!("\tmovups\t{}(%rsp), %xmm{number}\n", 16 * number));
    let (description_bytes, kind) = (TickNote::DESCRIPTION_BYTES, TickNote::KIND);
    format!(
        "\t.section\t.text.{RAN_OUT},\"ax\",@progbits\n\
         \t.type\t{RAN_OUT},@function\n\
         {RAN_OUT}:\n\
         \tpushq\t%rbp\n\
         \tmovq\t%rsp, %rbp\n\
         \tpushfq\n\
         \tpushq\t%rax\n\
         \tpushq\t%rcx\n\
         \tpushq\t%r11\n\
         \tsubq\t$256, %rsp\n\
         {save}\
         \tmovl\t${cut}, %eax\n\
         \tsyscall\n\
         {load}\
         \taddq\t$256, %rsp\n\
         \tpopq\t%r11\n\
         \tpopq\t%rcx\n\
         \tpopq\t%rax\n\
         \tpopfq\n\
         \tpopq\t%rbp\n\
         \tretq\n\
         \t.size\t{RAN_OUT}, .-{RAN_OUT}\n\
         \t.section\t.bss.{COUNTER},\"aw\",@nobits\n\
         \t.p2align\t3\n\
         \t.type\t{COUNTER},@object\n\
         {COUNTER}:\n\
         \t.zero\t8\n\
         \t.size\t{COUNTER}, 8\n\
         \t.section\t.note.pollux,\"a\",@note\n\
         \t.p2align\t2\n\
         \t.long\t7, {description_bytes}, {kind}\n\
         \t.asciz\t\"Pollux\"\n\
         \t.byte\t0\n\
         \t.quad\t{COUNTER}\n"
    )
}
