//! Reading the compiler's assembly: which lines are functions, labels, instructions.

use std::collections::HashMap;

use super::{COUNTER, TickError};

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A label, without its colon.
    Label(&'a str),
    /// An instruction, prefixes such as `lock` left out.
    Instruction {
        /// Its name, such as `cmpxchgq`.
        mnemonic: &'a str,
        /// The rest, without a comment.
        operands: &'a str,
    },
    /// A directive, such as `.quad`.
    Directive {
        /// Its name with its dot.
        name: &'a str,
        /// The rest.
        operands: &'a str,
    },
    /// The compiler says that hand-written assembly begins.
    Begin,
    /// The compiler says that hand-written assembly ends.
    End,
    /// Nothing, or a comment.
    Empty,
}

/// A function that the compiler has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function<'a> {
    /// Its symbol, in quotes where the assembly has them.
    pub name: &'a str,
    /// Index of the line with its label.
    pub first: usize,
    /// Index of the line with the label of its end.
    pub end: usize,
}

/// Assembly, taken apart.
pub(super) struct Source<'a> {
    /// The lines as they are.
    pub text: Vec<&'a str>,
    /// What they are.
    pub lines: Vec<Line<'a>>,
    /// The functions that the compiler has made, in their order; module-level assembly has none.
    pub functions: Vec<Function<'a>>,
    /// Indices of the lines with these labels.
    pub labels: HashMap<&'a str, usize>,
    /// Other names of symbols.
    pub aliases: HashMap<&'a str, &'a str>,
}

impl<'a> Source<'a> {
    /// Takes assembly apart.
    pub fn parse(assembly: &'a str) -> Result<Self, TickError> {
        let source = Self::read(assembly)?;
        if source.labels.contains_key(COUNTER) { Err(TickError::Counts) } else { Ok(source) }
    }

    /// Takes assembly apart that may count already.
    pub fn read(assembly: &'a str) -> Result<Self, TickError> {
        let text: Vec<_> = assembly.lines().collect();
        let lines: Vec<_> = text.iter().map(|line| Line::parse(line)).collect();
        let mut labels = HashMap::new();
        let mut aliases = HashMap::new();
        for (index, line) in lines.iter().enumerate() {
            match *line {
                Line::Label(name) => drop(labels.insert(name, index)),
                Line::Directive { name: ".set", operands } => {
                    if let Some((alias, symbol)) = operands.split_once(',') {
                        aliases.insert(alias.trim(), symbol.trim());
                    }
                }
                _ => {}
            }
        }
        let functions = functions(&lines, &labels)?;
        if functions.is_empty() {
            return Err(TickError::NoFunctions);
        }
        Ok(Self { text, lines, functions, labels, aliases })
    }

    /// The symbol that this one is another name of, or itself.
    pub fn resolve(&self, symbol: &'a str) -> &'a str {
        let mut symbol = symbol;
        // A chain cannot be longer than there are aliases, unless it is a circle, which no assembler takes.
        for _ in 0..=self.aliases.len() {
            match self.aliases.get(symbol) {
                Some(other) => symbol = other,
                None => break,
            }
        }
        symbol
    }
}

/// The compiler ends each of its functions by `.size NAME, .Lfunc_endN-NAME`; hand-written assembly does not.
fn functions<'a>(lines: &[Line<'a>], labels: &HashMap<&'a str, usize>) -> Result<Vec<Function<'a>>, TickError> {
    let mut functions = Vec::new();
    for line in lines {
        let Line::Directive { name: ".size", operands } = *line else { continue };
        let Some((name, size)) = split_name(operands) else { continue };
        let Some((end, _)) = size.trim().split_once('-') else { continue };
        if !end.starts_with(".Lfunc_end") {
            continue;
        }
        let Some(&first) = labels.get(name) else { continue };
        let end = labels.get(end).copied().filter(|&end| end > first);
        let end = end.ok_or_else(|| TickError::Unended { line: first + 1, name: name.to_owned() })?;
        functions.push(Function { name, first, end });
    }
    functions.sort_by_key(|function| function.first);
    Ok(functions)
}

/// A symbol, perhaps in quotes, and what follows the comma behind it.
fn split_name(operands: &str) -> Option<(&str, &str)> {
    let name_bytes = match operands.strip_prefix('"') {
        Some(quoted) => quoted.find('"')? + 2,
        None => operands.find(',')?,
    };
    let (name, rest) = operands.split_at(name_bytes);
    Some((name, rest.trim_start().strip_prefix(',')?))
}

/// Prefixes that stand before the name of an instruction.
const PREFIXES: [&str; 8] = ["lock", "rep", "repe", "repz", "repne", "repnz", "data16", "notrack"];

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Self {
        let trimmed = line.trim();
        match trimmed {
            "#APP" => return Self::Begin,
            "#NO_APP" => return Self::End,
            _ if trimmed.is_empty() || trimmed.starts_with('#') => return Self::Empty,
            _ => {}
        }
        if let Some(label) = label(trimmed) {
            return Self::Label(label);
        }
        if trimmed.starts_with('.') {
            let (name, operands) = split_word(trimmed);
            return Self::Directive { name, operands };
        }
        let trimmed = trimmed.split('#').next().unwrap_or_default().trim_end();
        let (mut mnemonic, mut operands) = split_word(trimmed);
        while PREFIXES.contains(&mnemonic) && !operands.is_empty() {
            (mnemonic, operands) = split_word(operands);
        }
        Self::Instruction { mnemonic, operands }
    }
}

/// `NAME:`, the name perhaps in quotes.
fn label(line: &str) -> Option<&str> {
    let name = line.split("  #").next()?.trim_end().strip_suffix(':')?;
    let quoted = name.len() > 1 && name.starts_with('"') && name.ends_with('"');
    (quoted || (!name.is_empty() && name.bytes().all(is_symbol_byte))).then_some(name)
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| character.is_whitespace() || character == ';').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start_matches(|character: char| character.is_whitespace() || character == ';'))
}

pub(super) fn is_symbol_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$')
}

/// The symbols that operands name, registers and numbers left out, without what follows an `@`.
pub(super) fn symbols(operands: &str) -> impl Iterator<Item = &str> {
    let bytes = operands.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let start = at;
            if bytes[at] == b'"' {
                let length = operands[at + 1..].find('"').map_or(bytes.len() - at, |length| length + 2);
                at += length;
                return Some(&operands[start..at]);
            }
            if !is_symbol_byte(bytes[at]) {
                at += 1;
                continue;
            }
            at += operands[at..].bytes().take_while(|&byte| is_symbol_byte(byte)).count();
            // An immediate is written `$symbol`.
            let word = operands[start..at].trim_start_matches('$');
            let is_name = word.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '_' | '.'));
            let before = start.checked_sub(1).map(|before| bytes[before]);
            if is_name && !matches!(before, Some(b'%' | b'@')) {
                return Some(word);
            }
        }
        None
    })
}
