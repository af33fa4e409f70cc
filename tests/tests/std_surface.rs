//! What `std` asks of a C library, what `runtime/libc` says becomes of it, and what is in the archive that programs are
//! linked with: three lists that must be one. And the same for what `hermit-abi` asks for, and `runtime/hermit.txt` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};
use pollux::build::{Workspace, build_std_library};

/// Crates of the toolchain that a program with `std` is linked with, whatever else it uses.
const CRATES: [&str; 18] = [
    "addr2line",
    "adler2",
    "alloc",
    "cfg_if",
    "compiler_builtins",
    "core",
    "gimli",
    "hashbrown",
    "libc",
    "memchr",
    "miniz_oxide",
    "object",
    "panic_abort",
    "panic_unwind",
    "rustc_demangle",
    "std",
    "std_detect",
    "unwind",
];

/// Symbols that are the linker's own, or the program's: rustc makes them when it links.
fn is_made_by_the_linker(name: &str) -> bool {
    name == "_GLOBAL_OFFSET_TABLE_" || name.starts_with("_R") || name.starts_with("__rust")
}

/// Symbols of an archive's members: defined, and asked for.
#[derive(Default)]
struct Symbols {
    defined: BTreeSet<String>,
    wanted: BTreeSet<String>,
}

impl Symbols {
    fn add(&mut self, archive: &Path) {
        let bytes = fs::read(archive).unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
        let members = ArchiveFile::parse(&*bytes).expect("an archive");
        for member in members.members() {
            let data = member.and_then(|member| member.data(&*bytes)).expect("a member");
            // What is no object is metadata of rustc.
            let Ok(object) = object::File::parse(data) else { continue };
            for symbol in object.symbols().filter(|symbol| symbol.is_global()) {
                let name = symbol.name().expect("UTF-8").to_owned();
                if symbol.is_undefined() {
                    self.wanted.insert(name)
                } else {
                    self.defined.insert(name)
                };
            }
        }
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it starts");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What the toolchain's `std` wants of others.
fn wanted_by_std() -> BTreeSet<String> {
    let folder = output("rustc", &["--print", "target-libdir", "--target", "x86_64-unknown-linux-gnu"]);
    let libraries: Vec<PathBuf> =
        fs::read_dir(folder.trim()).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    let mut symbols = Symbols::default();
    for name in CRATES {
        let is_it = |path: &&PathBuf| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&format!("lib{name}-")) && file.ends_with(".rlib")
        };
        symbols.add(libraries.iter().find(is_it).unwrap_or_else(|| panic!("the toolchain has no {name}")));
    }
    let wanted = symbols.wanted.difference(&symbols.defined);
    wanted.filter(|name| !is_made_by_the_linker(name)).cloned().collect()
}

/// What the list says.
fn listed() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/libc/symbols.txt");
    let text = fs::read_to_string(path).expect("the list");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').expect("a name and a word")).map(|(a, b)| (a.into(), b.into())).collect()
}

/// What the archive defines; it is built once, whichever test asks first.
fn in_the_archive() -> &'static BTreeSet<String> {
    static DEFINED: OnceLock<BTreeSet<String>> = OnceLock::new();
    DEFINED.get_or_init(|| {
        let workspace = Workspace::find().expect("this workspace");
        let mut symbols = Symbols::default();
        symbols.add(&build_std_library(&workspace, true).expect("the library is built"));
        symbols.defined
    })
}

#[test]
fn what_std_asks_for_is_what_the_list_names_and_the_archive_has() {
    let (wanted, listed, defined) = (wanted_by_std(), listed(), in_the_archive());
    assert!(wanted.len() > 150, "the toolchain was read: {wanted:?}");
    let names: BTreeSet<String> = listed.keys().cloned().collect();
    let unlisted: Vec<_> = wanted.difference(&names).collect();
    assert!(unlisted.is_empty(), "std asks for what runtime/libc/symbols.txt does not name: {unlisted:?}");
    let idle: Vec<_> = names.difference(&wanted).collect();
    assert!(idle.is_empty(), "runtime/libc/symbols.txt names what std does not ask for: {idle:?}");
    for (name, fate) in &listed {
        match fate.as_str() {
            "works" | "nothing" | "fails" | "refused" | "ends" => {
                assert!(defined.contains(name), "{name} is to be there ({fate}), and is not");
            }
            "absent" => assert!(!defined.contains(name), "{name} is to be absent, and is there"),
            other => panic!("{name}: no such fate: {other}"),
        }
    }
}

/// What `hermit-abi` declares: the name that the linker is asked for, by the function's name in Rust.
fn declared_by_hermit() -> BTreeMap<String, String> {
    let metadata = output("cargo", &["metadata", "--format-version", "1", "--offline"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let hermit = packages.iter().find(|package| package["name"] == "hermit-abi").expect("a dependency");
    let manifest = PathBuf::from(hermit["manifest_path"].as_str().expect("a path"));
    let source = fs::read_to_string(manifest.with_file_name("src").join("lib.rs")).expect("its source");
    let (_, block) = source.split_once("extern \"C\" {").expect("a block of declarations");
    let (block, rest) = block.split_once("\n}").expect("the block's end");
    assert!(!rest.contains("extern \"C\" {"), "it has one such block");
    let mut declared = BTreeMap::new();
    let mut link_name = None;
    for line in block.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("#[link_name = \"") {
            link_name = name.split('"').next().map(str::to_owned);
        }
        let line = line.strip_prefix("pub ").unwrap_or(line);
        if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
            declared.insert(name.to_owned(), link_name.take().unwrap_or_else(|| name.to_owned()));
        }
    }
    declared
}

/// What the `std` for hermit calls, out of what is declared: by its sources, which are the compiler's that builds it.
fn wanted_by_std_for_hermit(declared: &BTreeMap<String, String>) -> BTreeSet<String> {
    let root = Path::new(pollux::build::hppa::SOURCES).ancestors().nth(3).expect("sources").join("std/src");
    let mut folders = vec![root.join("sys"), root.join("os")];
    let mut wanted = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).expect("UTF-8");
            // Sockets of several systems share a file, in which the system's functions are called `c`.
            let is_shared = path.ends_with("net/connection/socket/mod.rs");
            let is_own = path.ends_with("net/connection/socket/hermit.rs");
            let prefixes = [("hermit_abi::", true), ("netc::", is_own), (" c::", is_shared), ("(c::", is_shared)];
            for (prefix, _) in prefixes.into_iter().filter(|(_, counts)| *counts) {
                let calls = text.split(prefix).skip(1).filter_map(|rest| rest.split_once('('));
                wanted.extend(calls.filter_map(|(name, _)| declared.get(name)).cloned());
            }
        }
    }
    wanted
}

/// Four lists that are one: what `hermit-abi` asks for, what `runtime/hermit.txt` says becomes of it, what is in the archive, and
/// (those that are marked) what the `std` for hermit calls.
#[test]
fn what_hermit_abi_asks_for_is_what_the_list_names_and_the_archive_has() {
    let declared = declared_by_hermit();
    let names: BTreeSet<&str> = declared.values().map(String::as_str).collect();
    assert!(names.len() > 70 && names.contains("sys_set_priority"), "its source was read: {names:?}");
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/hermit.txt")).expect("the list");
    let lines: Vec<Vec<&str>> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect()).collect();
    let listed: BTreeSet<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(lines.len(), listed.len(), "each name once");
    let unlisted: Vec<_> = names.difference(&listed).collect();
    assert!(unlisted.is_empty(), "hermit-abi asks for what runtime/hermit.txt does not name: {unlisted:?}");
    let idle: Vec<_> = listed.difference(&names).collect();
    assert!(idle.is_empty(), "runtime/hermit.txt names what hermit-abi does not ask for: {idle:?}");
    let exported: BTreeSet<&str> =
        in_the_archive().iter().map(String::as_str).filter(|name| name.starts_with("sys_")).collect();
    let foreign: Vec<_> = exported.difference(&names).collect();
    assert!(foreign.is_empty(), "hermit-abi does not declare {foreign:?}");
    let mut marked = BTreeSet::new();
    for line in &lines {
        let (name, is_there) = (line[0], exported.contains(line[0]));
        match (line[1], &line[2..]) {
            ("works" | "nothing", []) => assert!(is_there, "{name} is to be there, and is not"),
            ("works" | "nothing", ["std"]) => {
                assert!(is_there, "{name} is to be there, and is not");
                marked.insert(name.to_owned());
            }
            ("absent", [_, ..]) => assert!(!is_there, "{name} is to be absent, and is there"),
            _ => panic!("no such fate, or no reason: {line:?}"),
        }
    }
    assert_eq!(
        marked,
        wanted_by_std_for_hermit(&declared),
        "marked `std` in runtime/hermit.txt, called by std for hermit"
    );
}

/// Functions by hermit's names that are not masked: they touch nothing but their arguments, or the heap, which masks itself.
const UNMASKED_BY_HERMITS_NAMES: [&str; 12] = [
    "sys_alloc",
    "sys_alloc_zeroed",
    "sys_available_parallelism",
    "sys_dealloc",
    "sys_errno",
    "sys_free",
    "sys_get_processor_count",
    "sys_getpagesize",
    "sys_getpid",
    "sys_malloc",
    "sys_network_init",
    "sys_realloc",
];

/// A program with the `std` for hermit has no C library around what it calls: each function masks itself.
#[test]
fn every_function_by_hermits_names_is_masked() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src");
    let mut folders = vec![sources.join("sys")];
    let mut files = vec![sources.join("sys.rs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("UTF-8");
        for function in text.split("extern \"C\" fn sys_").skip(1) {
            let (name, rest) = function.split_once('(').expect("arguments");
            let name = format!("sys_{name}");
            let (_, body) = rest.split_once("{\n").expect("a body");
            let is_masked = body.trim_start().starts_with("let _masked = Masked::new();");
            let may_be_bare = UNMASKED_BY_HERMITS_NAMES.contains(&name.as_str());
            assert!(is_masked != may_be_bare, "{}: {name} is masked: {is_masked}", file.display());
            assert!(found.insert(name), "once each");
        }
    }
    let exported: BTreeSet<String> = in_the_archive().iter().filter(|name| name.starts_with("sys_")).cloned().collect();
    assert_eq!(found, exported, "the sources that were read are those of the archive");
}

/// Names that are exported without a mask around what they do, because they touch nothing but their arguments: each with the
/// file that has it.
const UNMASKED: [(&str, &str); 5] = [
    ("environment.rs", "pub static mut environ"),
    ("math.rs", "pub extern \"C\" fn $name"),
    ("math.rs", "pub unsafe extern \"C\" fn $name"),
    ("names.rs", "pub unsafe extern \"C\" fn dl_iterate_phdr"),
    ("start.rs", "extern \"C\" fn pollux_main"),
];

/// A thread may be interrupted between any two instructions of its program. What keeps it from being interrupted in the C
/// library is what `c_functions!` puts around each function, so nothing else may be exported. (What the runtime keeps refuses
/// whoever is not masked, at every access: `assert_disarmed`.)
#[test]
fn every_function_of_the_c_library_is_masked() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/libc/src");
    let mut masked = 0;
    for entry in fs::read_dir(folder).expect("its sources") {
        let path = entry.expect("an entry").path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("UTF-8");
        masked += text.matches("c_functions! {").count();
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if !line.contains("no_mangle") || file == "lib.rs" {
                continue;
            }
            let item = lines.by_ref().find(|line| !line.starts_with("#[")).unwrap_or_default();
            let known = UNMASKED.iter().any(|(place, start)| *place == file && item.starts_with(start));
            assert!(known, "{file} exports without c_functions!: {item}");
        }
    }
    assert!(masked >= 10, "the sources were read: {masked}");
    let macros = include_str!("../../runtime/libc/src/lib.rs");
    let (_, masks) = macros.split_once("macro_rules! c_functions").expect("the macro");
    assert!(masks.contains("let _masked = runtime::thread::Masked::new();\n            $body"), "{masks}");
}
