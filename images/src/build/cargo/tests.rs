//! Tests of what manifests and cargo's messages say.

use super::*;

fn package(metadata: &str) -> Package {
    let metadata = serde_json::from_str(metadata).expect("metadata");
    Package { name: "app".to_owned(), manifest_path: PathBuf::from("app/Cargo.toml"), metadata }
}

fn epoch(metadata: &str) -> Result<EpochSpec, BuildError> {
    package(metadata).epoch()
}

#[test]
fn the_manifest_names_disks() {
    let disks = package(r#"{"pollux": {"disks": ["data", {"name": "log", "optional": true}]}}"#).disks();
    let need = |name: &str, optional| DiskNeed { name: name.to_owned(), optional };
    assert_eq!(disks.expect("two disks"), [need("data", false), need("log", true)]);
    assert_eq!(package("null").disks().expect("none"), []);
    for wrong in [r#""data""#, "[1]", r#"["Data"]"#, r#"[{"name": "a", "size": 5}]"#] {
        let error = package(&format!(r#"{{"pollux": {{"disks": {wrong}}}}}"#)).disks().expect_err(wrong).to_string();
        assert!(error.starts_with("app/Cargo.toml: [package.metadata.pollux] disks:"), "{error}");
    }
}

#[test]
fn the_manifest_names_the_epoch_source() {
    for (metadata, expected) in [
        ("null", EpochSpec::Cooperative),
        (r#"{"pollux": {}}"#, EpochSpec::Cooperative),
        (r#"{"pollux": {"epoch": {"source": "cooperative"}}}"#, EpochSpec::Cooperative),
        (r#"{"pollux": {"epoch": {"source": "exact", "length": 50000}}}"#, EpochSpec::Exact(50_000)),
        (r#"{"pollux": {"epoch": {"source": "counted", "length": 10000}}}"#, EpochSpec::Counted(10_000)),
    ] {
        assert_eq!(epoch(metadata).expect("a source"), expected, "{metadata}");
    }
}

#[test]
fn archives_are_those_of_the_target() {
    let messages = br#"{"reason":"compiler-artifact","filenames":["/t/x86/image/deps/libone-1.rlib","/t/x86/image/deps/libone-1.rmeta"]}
{"reason":"compiler-artifact","filenames":["/t/image/deps/libforthehost-2.rlib"]}
not json
{"reason":"build-finished","success":true}"#;
    assert_eq!(archives(messages, Path::new("/t/x86")), [PathBuf::from("/t/x86/image/deps/libone-1.rlib")]);
}

#[test]
fn nonsense_in_the_manifest_is_refused_with_its_place() {
    for metadata in [
        r#"{"pollux": {"epoch": "exact"}}"#,
        r#"{"pollux": {"epoch": {"source": "exact"}}}"#,
        r#"{"pollux": {"epoch": {"source": "exact", "length": -1}}}"#,
        r#"{"pollux": {"epoch": {"source": "sometimes", "length": 1000}}}"#,
        r#"{"pollux": {"epoch": {"length": 1000}}}"#,
    ] {
        let error = epoch(metadata).expect_err(metadata).to_string();
        assert!(error.starts_with("app/Cargo.toml: [package.metadata.pollux] epoch:"), "{error}");
    }
}
