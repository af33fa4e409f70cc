//! As much of GDB's remote protocol as it takes to stop a machine at an instruction (*Debugging with GDB*, appendix E).
//!
//! QEMU stops the machine when somebody connects, and leaves it as it is when the connection is closed.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// QEMU answers at once, and a replica enters its guest within milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest answer to what is asked here.
const MAX_ANSWER_BYTES: usize = 4096;

/// A connection to QEMU's stub.
#[derive(Debug)]
pub struct Stub {
    stream: UnixStream,
}

impl Stub {
    /// Connects, which stops the machine.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream })
    }

    /// Stops the machine when it comes to this address.
    pub fn break_at(&mut self, address: u64) -> Result<(), String> {
        self.ask_for_ok(&format!("Z1,{address:x},1"))
    }

    /// Takes that back.
    pub fn forget(&mut self, address: u64) -> Result<(), String> {
        self.ask_for_ok(&format!("z1,{address:x},1"))
    }

    /// Lets the machine go on.
    pub fn go_on(&mut self) -> Result<(), String> {
        self.send("c")
    }

    /// Waits until it has stopped.
    pub fn await_stop(&mut self) -> Result<(), String> {
        let answer = self.receive()?;
        if is_stop(&answer) { Ok(()) } else { Err(format!("expected the machine to stop, QEMU said {answer:?}")) }
    }

    fn ask_for_ok(&mut self, question: &str) -> Result<(), String> {
        self.send(question)?;
        loop {
            let answer = self.receive()?;
            match answer.as_str() {
                "OK" => return Ok(()),
                // That the machine stops when somebody connects is said unasked.
                stopped if is_stop(stopped) => {}
                other => return Err(format!("QEMU answered {other:?} to {question:?}")),
            }
        }
    }

    fn send(&mut self, text: &str) -> Result<(), String> {
        let sum = text.bytes().fold(0_u8, u8::wrapping_add);
        let mut packet = String::new();
        // Writing to a string cannot fail.
        let _ = write!(packet, "${text}#{sum:02x}");
        self.stream.write_all(packet.as_bytes()).map_err(|error| error.to_string())
    }

    /// The next packet; acknowledgements before it are passed over.
    fn receive(&mut self) -> Result<String, String> {
        let mut text = Vec::new();
        let mut inside = false;
        while text.len() < MAX_ANSWER_BYTES {
            match (self.byte()?, inside) {
                (b'$', _) => {
                    inside = true;
                    text.clear();
                }
                (b'#', true) => {
                    // Two digits of a checksum: the socket loses nothing.
                    self.byte()?;
                    self.byte()?;
                    self.stream.write_all(b"+").map_err(|error| error.to_string())?;
                    return Ok(String::from_utf8_lossy(&text).into_owned());
                }
                (byte, true) => text.push(byte),
                (_, false) => {}
            }
        }
        Err("QEMU's answer is too long".to_owned())
    }

    fn byte(&mut self) -> Result<u8, String> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).map_err(|error| format!("QEMU does not answer: {error}"))?;
        Ok(byte[0])
    }
}

fn is_stop(answer: &str) -> bool {
    answer.starts_with('T') || answer.starts_with('S')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_made_and_read() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut stub = Stub { stream: ours };
        theirs.write_all(b"+$T05thread:01;#07+$T05thread:01;#07+$OK#9a+$E22#a9").expect("room");
        stub.await_stop().expect("stopped");
        stub.forget(0x4000_1000).expect("OK");
        assert!(stub.break_at(1).is_err(), "an error is not a stop");
        let mut sent = [0; 64];
        let length = theirs.read(&mut sent).expect("sent");
        let sent = String::from_utf8_lossy(&sent[..length]);
        assert!(sent.starts_with("+$z1,40001000,1#"), "{sent}");
    }
}
