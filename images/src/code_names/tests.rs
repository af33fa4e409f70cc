use std::cell::RefCell;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// A function that was inlined into another at 0x40000001, one whose place nobody knows at 0x40000002, nothing elsewhere.
struct Few;

impl Names for Few {
    fn at(&mut self, address: u64) -> Vec<Function> {
        let function = |name: &str, place: Option<(&str, u32, u32)>| Function {
            name: name.to_owned(),
            place: place.map(|(file, line, column)| (file.to_owned(), line, column)),
        };
        match address {
            0x4000_0001 => vec![
                function("shop::inner", Some(("/program/src/main.rs", 3, 5))),
                function("shop::outer<u8>", Some(("/cargo/x/lib.rs", 9, 0))),
            ],
            0x4000_0002 => vec![function("_start", None)],
            _ => Vec::new(),
        }
    }
}

/// What is shown in the end when the text comes in these pieces.
fn shown<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut filter = Filter::new(Few);
    let mut out: Vec<u8> = pieces.into_iter().flat_map(|piece| filter.push(piece)).collect();
    out.extend(filter.finish());
    assert!(!filter.is_waiting());
    out
}

fn text(input: &str) -> String {
    String::from_utf8(shown([input.as_bytes()])).expect("UTF-8")
}

#[test]
fn a_short_backtrace_becomes_what_std_writes() {
    let input = "stack backtrace:\n   0: <code at 0x40000001>\n  11: <code at 0x40000002>\n   2: <code at 0x40000003>\nnote: x\n";
    let expected = "stack backtrace:\n   0: shop::inner\n             at ./src/main.rs:3:5\n      shop::outer<u8>\n             at /cargo/x/lib.rs:9\n  \
                    11: _start\n   2: <code at 0x40000003>\nnote: x\n";
    assert_eq!(text(input), expected);
}

#[test]
fn a_full_backtrace_becomes_what_std_writes() {
    let at = " ".repeat(31);
    let name = " ".repeat(27);
    let expected = format!(
        "   7:         0x40000002 - shop::inner\n{at}at /program/src/main.rs:3:5\n{name}shop::outer<u8>\n{at}at /cargo/x/lib.rs:9\n"
    );
    assert_eq!(text("   7:         0x40000002 - <code at 0x40000001>\n"), expected);
    assert_eq!(text("   7:         0x40000002 - <unknown>\n"), expected, "it points behind the call");
    assert_eq!(text("   7:                0x0 - <unknown>\n"), "   7:                0x0 - <unknown>\n");
    // The mark by which `std` knows a function goes.
    let marked = "   7:         0x40000003 - <code at 0x40000002 __rust_end_short_backtrace>\n";
    assert_eq!(text(marked), "   7:         0x40000003 - _start\n");
}

#[test]
fn addresses_elsewhere_become_names_where_they_stand() {
    for (input, expected) in [
        ("in <code at 0x40000001>, <code at 0x40000002>!", "in shop::inner at /program/src/main.rs:3:5, _start!"),
        (
            "Backtrace [{ fn: \"<code at 0x40000001>\" }, { fn: \"<code at 0x40000002>\" }]\n",
            "Backtrace [{ fn: \"shop::inner\", file: \"./src/main.rs\", line: 3 }, \
             { fn: \"shop::outer<u8>\", file: \"/cargo/x/lib.rs\", line: 9 }, { fn: \"_start\" }]\n",
        ),
        ("{ fn: \"<code at 0x40000009>\" }", "{ fn: \"<code at 0x40000009>\" }"),
        (" 1: <code at 0x40000002> and more\n", " 1: _start and more\n"),
        ("<code at 0x<code at 0x40000002>", "<code at 0x_start"),
    ] {
        assert_eq!(text(input), expected);
    }
}

#[test]
fn what_merely_looks_like_an_address_is_left_alone() {
    for same in [
        "",
        "\n",
        "   3: \n",
        "   3: main\n",
        "   3: <unknown>\n",
        "   :  0x40000002 - <unknown>\n",
        "   3: 0x - <unknown>\n",
        "   3: 0x40000002 - <unknown> \n",
        "   3: 0xffffffffffffffffff - <unknown>\n",
        "   3: <code at 0x>\n",
        "   3: <code at 0x+40000002>\n",
        "<code at 0x40000002",
        "<code at 0x40000002 >>\n",
        "<code at 0x40000002 two words>\n",
        "<code at 0xfffffffffffffffff>\n",
        "code at 0x40000002 <code at\n",
        "{ fn: \"\" }\n",
        "<<<<<\n",
    ] {
        assert_eq!(text(same), same);
    }
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(shown([bytes.as_slice()]), bytes, "it need be no text");
}

#[test]
fn a_line_that_pauses_is_shown_but_for_an_address_that_may_go_on() {
    let mut filter = Filter::new(Few);
    assert_eq!((filter.push(b"your name? <"), filter.is_waiting()), (Vec::new(), true));
    assert_eq!(filter.pause(), b"your name? <");
    assert!(!filter.is_waiting());
    assert_eq!(filter.push(b"\n   3: <code at 0x4000"), b"\n");
    assert_eq!(filter.pause(), b"   3: ");
    assert_eq!(filter.pause(), b"");
    // The frame's number was shown, so the rest stays in its line.
    assert_eq!(filter.push(b"0002>\n   3: <code"), b"_start\n");
    assert_eq!(filter.finish(), b"   3: <code");
}

#[test]
fn a_line_without_an_end_is_not_kept_for_ever() {
    let mut filter = Filter::new(Few);
    let mut out = Vec::new();
    for _ in 0..10 {
        out.extend(filter.push(&[b'x'; 1000]));
        assert!(filter.line.len() <= LONGEST_LINE_BYTES);
    }
    out.extend(filter.finish());
    assert_eq!(out, [b'x'; 10_000]);
}

fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "<code at 0x40000001>",
        "<code at 0x4000",
        "0002>",
        "<",
        ">",
        "\n",
        "   3: ",
        "0x40000002 - ",
        "<unknown>",
        " __rust_end",
        "{ fn: \"",
        "\" }",
        "<code at 0x",
        "text",
        "\r\n",
    ];
    prop_oneof![
        4 => prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    /// However the text comes in pieces, the same is shown; and without names nothing is changed, pauses or not.
    #[test]
    fn pieces_make_no_difference(fragments in prop::collection::vec(fragment(), 0..40), cut_bytes in 1..30_usize) {
        let whole = fragments.concat();
        let expected = shown([whole.as_slice()]);
        prop_assert_eq!(&shown(fragments.iter().map(Vec::as_slice)), &expected);
        prop_assert_eq!(&shown(whole.chunks(cut_bytes)), &expected);
        let mut filter = Filter::new(ElfNames::new(None, |_: &str| ()));
        let mut out = Vec::new();
        for piece in whole.chunks(cut_bytes) {
            out.extend(filter.push(piece));
            out.extend(filter.pause());
        }
        out.extend(filter.finish());
        prop_assert_eq!(out, whole);
    }
}

#[test]
fn why_there_are_no_names_is_said_once_and_only_when_one_is_looked_for() {
    let reasons = RefCell::new(Vec::new());
    let tell = |why: &str| reasons.borrow_mut().push(why.to_owned());
    for (file, part) in [
        (None, "not noted"),
        (Some(SymbolFile::note(None)), "no symbols beside it"),
        (Some(SymbolFile::note(Some(Path::new("/nonexistent/shop.guest.elf")))), "is not there"),
        (Some(SymbolFile::note(Some(Path::new("/")))), "cannot be read"),
    ] {
        let mut filter = Filter::new(ElfNames::new(file, tell));
        assert_eq!(filter.push(b"nothing\n"), b"nothing\n");
        assert!(reasons.borrow().is_empty());
        let line = b"   3: <code at 0x40000001>\n";
        assert_eq!((filter.push(line), filter.push(line)), (line.to_vec(), line.to_vec()));
        let said = reasons.take();
        assert!(said.len() == 1 && said[0].contains(part), "{part}: {said:?}");
    }
}

#[test]
fn symbols_of_a_later_build_are_not_used() {
    let folder = std::env::temp_dir().join(format!("pollux-symbols-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (path, newer) = (folder.join("shop.guest.elf"), folder.join("new"));
    std::fs::write(&path, "one").expect("written");
    let file = SymbolFile::note(Some(&path));
    assert_eq!(file.unchanged(), Ok(path.as_path()));
    // The old file is kept, so that the new one cannot be given its inode.
    std::fs::hard_link(&path, folder.join("old")).expect("a link");
    std::fs::write(&newer, "two").expect("written");
    std::fs::rename(&newer, &path).expect("renamed");
    assert!(file.unchanged().expect_err("another file").contains("built anew"));
    let again: SymbolFile = serde_json::from_str(&serde_json::to_string(&file).expect("JSON")).expect("itself");
    assert_eq!(again, file);
    std::fs::remove_dir_all(folder).expect("removed");
}

/// The test's own program has names like a guest's.
#[test]
fn names_come_out_of_an_elf_with_their_places() {
    let own = std::env::current_exe().expect("a path");
    let loader = addr2line::Loader::new(&own).expect("an ELF");
    let file = std::fs::read(&own).expect("a file");
    let elf = object::read::elf::ElfFile64::<object::LittleEndian>::parse(file.as_slice()).expect("an ELF");
    use object::{Object, ObjectSymbol};
    let is_this = |symbol: &object::read::elf::ElfSymbol64<'_, '_, object::LittleEndian>| {
        symbol.name().is_ok_and(|name| name.contains("names_come_out_of_an_elf") && !name.contains("closure"))
    };
    let symbol = elf.symbols().find(is_this).expect("this function");
    let found = functions(&loader, symbol.address() + 1);
    let last = found.last().expect("a function");
    assert!(last.name.contains("names_come_out_of_an_elf"), "{found:?}");
    assert!(last.place.as_ref().is_some_and(|(file, line, _)| file.ends_with("tests.rs") && *line > 0), "{found:?}");
}
