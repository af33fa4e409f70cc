//! Names for addresses of a guest: of code in its report, of data where two replicas differ.

use std::fmt::Write;
use std::path::Path;

use addr2line::Loader;
use hypercall::layout::{GUEST_BASE, PAGE_BYTES, Regions};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSegment, ObjectSymbol, SymbolKind};

use crate::code_names::{Filter, functions, is_code};

/// Puts function, file and line behind each line of `report` that holds addresses of guest code, and in place of those that
/// stand for names. Without symbols the report stays as it was, and says at its end why that is.
///
/// All but the instruction pointer are taken for return addresses: they point behind a call, which may be the last
/// instruction of its function, so the byte before is looked up.
pub fn annotate(report: &str, guest_elf: Result<&Path, String>) -> String {
    let loader = guest_elf.and_then(|path| Loader::new(path).map_err(|error| format!("{}: {error}", path.display())));
    match loader {
        Ok(loader) => with_names(report, &loader),
        Err(why) if report.lines().any(|line| addresses(line).next().is_some()) => {
            format!("{}\n(addresses of code are shown without names: {why})\n", report.trim_end())
        }
        Err(_) => report.to_owned(),
    }
}

fn with_names(report: &str, loader: &Loader) -> String {
    let instruction_pointer = instruction_pointer(report);
    let mut filter = Filter::new(loader);
    let mut named = filter.push(report.as_bytes());
    named.extend(filter.finish());
    let mut out = String::with_capacity(report.len() * 2);
    for line in String::from_utf8_lossy(&named).lines() {
        out.push_str(line);
        out.push('\n');
        for address in addresses(line) {
            let exact = Some(address) == instruction_pointer;
            for function in functions(loader, if exact { address } else { address - 1 }) {
                let place = function.place.map(|(file, line, _)| format!(" at {file}:{line}"));
                // Writing to a string cannot fail.
                let _ = writeln!(out, "      {}{}", function.name, place.unwrap_or_default());
            }
        }
    }
    out
}

/// The instruction pointer among the registers of a fault's report.
fn instruction_pointer(report: &str) -> Option<u64> {
    let (_, rest) = report.split_once("\nrip ")?;
    u64::from_str_radix(rest.split_ascii_whitespace().next()?, 16).ok()
}

/// Numbers in a line that can be addresses of guest code.
fn addresses(line: &str) -> impl Iterator<Item = u64> {
    line.split(|character: char| !character.is_ascii_alphanumeric())
        .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .filter(|address| *address > GUEST_BASE && is_code(*address))
}

/// What lies at an address: a static with the offset in it, or a part of memory.
pub fn place(address: u64, guest_elf: Option<&Path>) -> String {
    let found = with_elf(guest_elf, |elf| {
        let symbol = data(elf).find(|symbol| (symbol.address()..symbol.address() + symbol.size()).contains(&address));
        match symbol.and_then(|symbol| Some((symbol.name().ok()?, address - symbol.address()))) {
            Some((name, offset)) => format!("{}+{offset:#x}", rustc_demangle(name)),
            None => address.checked_sub(GUEST_BASE).map_or("outside", |offset| regions(elf).name(offset)).to_owned(),
        }
    });
    found.unwrap_or_else(|| "no symbols at hand".to_owned())
}

/// The names of all statics in a range of addresses, in ascending order.
pub fn data_between(start: u64, end: u64, guest_elf: Option<&Path>) -> Vec<String> {
    let found = with_elf(guest_elf, |elf| {
        let within = data(elf).filter(|symbol| symbol.address() < end && start < symbol.address() + symbol.size());
        let mut named: Vec<_> =
            within.filter_map(|symbol| Some((symbol.address(), rustc_demangle(symbol.name().ok()?)))).collect();
        named.sort();
        named.into_iter().map(|(_, name)| name).collect()
    });
    found.unwrap_or_default()
}

fn with_elf<R>(guest_elf: Option<&Path>, look: impl FnOnce(&Elf<'_>) -> R) -> Option<R> {
    let file = std::fs::read(guest_elf?).ok()?;
    let elf = Elf::parse(file.as_slice()).ok()?;
    Some(look(&elf))
}

type Elf<'a> = ElfFile64<'a, object::LittleEndian>;

/// The statics; none of them reaches around the end of the address space.
fn data<'a>(elf: &'a Elf<'a>) -> impl Iterator<Item = impl ObjectSymbol<'a>> {
    let whole = |symbol: &_| ObjectSymbol::address(symbol).checked_add(ObjectSymbol::size(symbol)).is_some();
    elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Data).filter(whole)
}

/// Where the shim has placed what follows the image.
fn regions(elf: &Elf<'_>) -> Regions {
    let ends = elf.segments().map(|segment| segment.address().saturating_add(segment.size()));
    let end = ends.max().unwrap_or(GUEST_BASE).clamp(GUEST_BASE, 2 * GUEST_BASE);
    Regions::behind((end - GUEST_BASE).next_multiple_of(PAGE_BYTES))
}

fn rustc_demangle(symbol: &str) -> String {
    addr2line::demangle_auto(symbol.into(), None).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_guest_code_are_looked_up() {
        let line =
            "rip=0x40001234 rsp=0x7fff rax=0x40000000 0x40000010, 0xffffffffffffffff 40002222 0xzz #3 0x4000abcd";
        assert_eq!(addresses(line).collect::<Vec<_>>(), [0x4000_1234, 0x4000_0010, 0x4000_abcd]);
    }

    #[test]
    fn the_instruction_pointer_is_told_from_return_addresses() {
        let report =
            "page fault (error 0x4) in epoch 6\nrip 0000000040016724 rflags 00000246\nrax 0\nbacktrace:\n  0x40016724";
        assert_eq!(instruction_pointer(report), Some(0x4001_6724));
        assert_eq!(instruction_pointer("panicked at a.rs:1:2:\nrip\nbacktrace:\n  0x40016724"), None);
    }

    #[test]
    fn data_without_symbols_has_no_name() {
        for path in [None, Some(Path::new("/nonexistent")), Some(Path::new("/"))] {
            assert_eq!(place(GUEST_BASE, path), "no symbols at hand");
            assert!(data_between(GUEST_BASE, GUEST_BASE + PAGE_BYTES, path).is_empty());
        }
    }

    #[test]
    fn data_has_the_name_of_its_symbol_or_of_its_part_of_memory() {
        // The test's own program: its statics have addresses of their own, not those of a guest.
        let own = std::env::current_exe().expect("a path");
        let names = data_between(0, u64::MAX, Some(&own));
        assert!(!names.is_empty(), "a program has statics");
        assert_eq!(place(0, Some(&own)), "outside");
        let file = std::fs::read(&own).expect("a file");
        let elf = Elf::parse(file.as_slice()).expect("an ELF file");
        let symbol = data(&elf).find(|symbol| symbol.size() >= 16).expect("a static of some size");
        let (address, name) = (symbol.address(), rustc_demangle(symbol.name().expect("a name")));
        assert!(data_between(address + 8, address + 9, Some(&own)).contains(&name));
        assert!(place(address + 8, Some(&own)).contains('+'));
    }

    #[test]
    fn a_report_without_symbols_is_left_alone_and_says_why() {
        let none = || Err("there are none".to_owned());
        assert_eq!(annotate("a\nb", none()), "a\nb");
        assert_eq!(annotate("a\nb", Ok(Path::new("/nonexistent"))), "a\nb");
        let said = "(addresses of code are shown without names: there are none)";
        assert_eq!(annotate("a\n  0x40000010\n", none()), format!("a\n  0x40000010\n{said}\n"));
    }
}
