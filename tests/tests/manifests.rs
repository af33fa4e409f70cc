//! What the manifests say of dependencies: each is used, and each has a licence that goes with ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Licences whose terms a program under MIT or Apache-2.0 can meet by naming them.
const ALLOWED: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "BSL-1.0",
    "ISC",
    "NCSA",
    "Zlib",
    "Unlicense",
    "Unicode-3.0",
];

/// What cargo knows of a workspace, which it reads from the lock file.
fn metadata(manifest: &Path) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--all-features", "--manifest-path"])
        .arg(manifest)
        .stdin(Stdio::null())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The workspace, and that of the fuzz targets.
fn workspaces() -> [Value; 2] {
    [root().join("Cargo.toml"), root().join("tests/fuzz/Cargo.toml")].map(|manifest| metadata(&manifest))
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().expect("a list").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether a licence expression (SPDX) can be met by allowed licences alone. Without parentheses, `AND` binds first.
fn is_allowed(expression: &str) -> bool {
    let term = |term: &str| ALLOWED.contains(&term.trim_matches(['(', ')', ' ']));
    // Old manifests write a slash for OR.
    let expression = expression.replace('/', " OR ");
    match expression.split_once(") AND ").or_else(|| expression.split_once(" AND (")) {
        Some((one, other)) => is_allowed(one) && is_allowed(other),
        None => expression.split(" OR ").any(|choice| choice.split(" AND ").all(term)),
    }
}

#[test]
fn licences_are_read() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-2.0 OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 AND (GPL-3.0 OR ISC)",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND OpenSSL", "ISC AND (GPL-3.0 OR LGPL-3.0)"] {
        assert!(!is_allowed(bad), "{bad}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_goes_with_ours() {
    let mut seen = 0;
    for metadata in workspaces() {
        for package in packages(&metadata) {
            let licence = text(&package["license"]);
            assert!(is_allowed(licence), "{} {}: licence {licence:?}", package["name"], package["version"]);
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} packages");
}

/// All Rust code of a package: every file under its folder that belongs to no package within.
fn code_of(folder: &Path, others: &BTreeSet<PathBuf>) -> String {
    let mut code = String::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() && !others.contains(&path) && !path.ends_with("target") {
            code += &code_of(&path, others);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code += &fs::read_to_string(&path).expect("source text");
        }
    }
    code
}

/// Whether code names a crate: as a word that a path may begin with.
fn names(code: &str, name: &str) -> bool {
    let word = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices(name).any(|(at, _)| {
        let free = |side: Option<char>| !side.is_some_and(word);
        free(code[..at].chars().next_back()) && free(code[at + name.len()..].chars().next())
    })
}

#[test]
fn every_dependency_is_used() {
    let mut unused = Vec::new();
    for metadata in workspaces() {
        let members: BTreeSet<_> = metadata["workspace_members"].as_array().expect("a list").iter().map(text).collect();
        let ours: Vec<_> = packages(&metadata).filter(|package| members.contains(text(&package["id"]))).collect();
        let folder =
            |package: &Value| Path::new(text(&package["manifest_path"])).parent().expect("a folder").to_owned();
        let folders: BTreeSet<_> = ours.iter().map(|package| folder(package)).collect();
        for package in ours {
            let code = code_of(&folder(package), &folders);
            for dependency in package["dependencies"].as_array().expect("a list") {
                let name = dependency["rename"].as_str().unwrap_or(text(&dependency["name"])).replace('-', "_");
                if !names(&code, &name) {
                    unused.push(format!("{} does not use {name}", text(&package["name"])));
                }
            }
        }
    }
    assert!(unused.is_empty(), "take out of the manifests: {unused:#?}");
}

#[test]
fn a_crate_is_named_by_a_whole_word() {
    assert!(names("use serde::Deserialize;", "serde"));
    assert!(names("extern crate alloc; serde_json::to_string", "serde_json"));
    assert!(!names("use serde_json::Value;", "serde"));
    assert!(!names("// nothing", "serde"));
}
