//! What is typed at the console.

use alloc::string::String;
use alloc::vec::Vec;

use runtime::console;

/// Longest line that is answered; the rest of a longer one is the next line.
const LINE_BYTES: usize = 1024;

/// Waits for a typed line and answers it without its end. What is typed behind it waits where it is, in the runtime.
pub async fn line() -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_BYTES && console::read(&mut byte).await == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    String::from_utf8_lossy(&line).into_owned()
}
