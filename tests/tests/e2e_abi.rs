//! Guest and shim agree on the version of what lies between them, or say plainly that they do not.

use std::fs;
use std::path::{Path, PathBuf};

use hypercall::{ABI_FINGERPRINT, ABI_VERSION};
use pollux::build::repack;
use pollux_tests::pair::{Failure, Options, Pair};
use pollux_tests::workbench::image;

/// Exit codes of the command.
const NOT_AN_IMAGE: i32 = 5;
const NOT_STARTED: i32 = 9;

/// An image, undamaged by its own account, whose guest was changed; removed when dropped.
struct Changed(PathBuf);

impl Changed {
    fn new(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let whole = fs::read(image("probe")).expect("the image");
        let file = std::env::temp_dir().join(format!("pollux-e2e-{name}-{}.img", std::process::id()));
        fs::write(&file, repack(&whole, change).expect("it is one").bytes).expect("written");
        Self(file)
    }

    fn refused(&self) -> Failure {
        Pair::refused(&Options { image: Some(self.path().to_owned()), ..Options::new("probe") })
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        // It lies in the folder for temporary files.
        let _ = fs::remove_file(&self.0);
    }
}

/// Where `pattern` lies, each time.
fn places(bytes: &[u8], pattern: &[u8]) -> Vec<usize> {
    bytes.windows(pattern.len()).enumerate().filter(|(_, window)| *window == pattern).map(|(at, _)| at).collect()
}

/// The note that the command looks at: owner, version, fingerprint.
fn note_at(guest: &[u8]) -> usize {
    let note = [b"Pollux\0\0".as_slice(), &ABI_VERSION.to_le_bytes(), &ABI_FINGERPRINT.to_le_bytes()].concat();
    let places = places(guest, &note);
    assert_eq!(places.len(), 1, "one note a guest");
    places[0] + 8
}

#[test]
fn an_image_that_is_packed_again_unchanged_serves() {
    let same = Changed::new("same", |_| {});
    let pair = Pair::up(&Options { image: Some(same.path().to_owned()), ..Options::new("probe") });
    pair.down();
}

#[test]
fn a_guest_whose_note_names_another_version_is_refused_by_the_command() {
    let other = Changed::new("note", |guest| {
        let at = note_at(guest);
        guest[at..at + 4].copy_from_slice(&(ABI_VERSION + 1).to_le_bytes());
    });
    let failure = other.refused();
    assert_eq!(failure.code, NOT_AN_IMAGE, "{}", failure.text);
    let expected = format!("the guest was built for ABI {} ", ABI_VERSION + 1);
    assert!(failure.text.contains(&expected), "{}", failure.text);
    assert!(failure.text.contains(&format!("the shim has ABI {ABI_VERSION} ")), "{}", failure.text);
    assert!(failure.text.contains("build both from one checkout"), "it says what to do: {}", failure.text);
}

/// The note may say what it will: the guest's first hypercall names the ABI that its code was compiled for.
#[test]
fn a_guest_that_states_another_abi_is_stopped_by_the_shim() {
    let another = ABI_FINGERPRINT ^ 1;
    let other = Changed::new("code", |guest| {
        let note = note_at(guest) + 4;
        let in_code = places(guest, &ABI_FINGERPRINT.to_le_bytes()).into_iter().filter(|&at| at != note);
        let in_code: Vec<_> = in_code.collect();
        assert!(!in_code.is_empty(), "the guest's code names its ABI");
        for at in in_code {
            guest[at..at + 8].copy_from_slice(&another.to_le_bytes());
        }
    });
    let failure = other.refused();
    assert_eq!(failure.code, NOT_STARTED, "{}", failure.text);
    let expected = format!(
        "the guest was built for ABI version {ABI_VERSION} ({another:016x}), this shim has version {ABI_VERSION} \
         ({ABI_FINGERPRINT:016x})"
    );
    assert!(failure.text.contains(&expected), "{}", failure.text);
    assert!(failure.text.contains("build both from one source"), "it says what to do: {}", failure.text);
}
