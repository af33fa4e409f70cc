//! The wire formats, byte by byte: checked-in vectors under `tests/golden/` that every build on every machine must
//! write and read alike. They are also the seeds of the fuzz targets.
//!
//! A change of a format changes its version, and then the vectors: `POLLUX_BLESS=1 cargo test -p protocol --test golden`
//! writes them anew, for the reviewer of the difference to judge.
//!
//! | folder | content of a file |
//! |---|---|
//! | `frame` | a stream of frames of session [`vectors::SESSION`] |
//! | `link`, `control` | the kind (u16, little-endian) and the payload of one message |
//! | `hubwire` | one packet of session [`vectors::SESSION`] |
//! | `event` | one stream of event records |

mod vectors;

use std::fs;
use std::path::PathBuf;

/// Compares with the checked-in vector, or writes it when told to.
fn check(folder: &str, name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder).join(format!("{name}.bin"));
    if std::env::var_os("POLLUX_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("has a parent")).expect("folder can be made");
        fs::write(&path, bytes).expect("vector can be written");
    }
    let golden = fs::read(&path).unwrap_or_else(|error| panic!("{folder}/{name}.bin cannot be read: {error}"));
    assert_eq!(golden, bytes, "{folder}/{name}: the wire format has changed");
}

#[test]
fn messages_are_as_recorded() {
    for (what, encode_and_decode) in vectors::ALL {
        println!("{what}");
        encode_and_decode(&mut check);
    }
}
