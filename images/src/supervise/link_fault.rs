//! Faults of the replication link that tests ask for: its bytes repeated, or damaged on their way.
//!
//! The supervisor keeps copies of both ends of the link's socket pair, so what is on its way to a replica can be looked
//! at and taken out here, as long as that replica's QEMU does not read it: it has to be frozen.

use std::io::Write;
use std::ops::Range;
use std::os::unix::net::UnixStream;

use protocol::frame::{HEADER_BYTES, MAGIC, MAX_PAYLOAD_BYTES};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::Supervisor;
use crate::ctl::{LinkDamage, RoleName};

/// Most bytes that are looked at: more than the link's socket holds.
const MOST_BYTES: usize = 1024 * 1024;
/// Where a frame's header says how long its payload is.
const PAYLOAD_BYTES_FIELD: Range<usize> = 12..16;

impl Supervisor {
    /// Repeats what is on its way to a replica, or damages the first whole message of it.
    pub(super) fn replay_on_link(&mut self, role: RoleName, damage: Option<LinkDamage>) -> Result<(), String> {
        let active = self.arbiter.record().active;
        let reader = if role == RoleName::Primary { active } else { active.peer() };
        let Some(ends) = &self.link else {
            return Err("there is no replication link: this is not a pair".to_owned());
        };
        let (reads, writes) = (&ends[reader.index()], &ends[reader.peer().index()]);
        let none = || format!("no whole message is on its way to replica {reader}: freeze it and try again");
        let mut bytes = on_its_way(reads, RecvFlags::PEEK)?;
        let frame = first_frame(&bytes).ok_or_else(none)?;
        let what = match damage {
            None => {
                bytes.drain(..frame.start);
                "repeated"
            }
            Some(damage) => {
                // Taken out whole, and put back with the damage: frames behind it keep their order.
                bytes = on_its_way(reads, RecvFlags::empty())?;
                apply(&mut bytes, frame, damage)
            }
        };
        let mut writes: &UnixStream = writes;
        writes.write_all(&bytes).map_err(|error| format!("cannot write to the link: {error}"))?;
        self.happened(format!("{what} on request: {} bytes on their way to replica {reader}", bytes.len()));
        Ok(())
    }
}

/// What has not been read yet at an end of the link.
fn on_its_way(end: &UnixStream, flags: RecvFlags) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; MOST_BYTES];
    match recv(end, bytes.as_mut_slice(), flags | RecvFlags::DONTWAIT) {
        Ok((length, _)) => bytes.truncate(length),
        Err(Errno::AGAIN) => bytes.clear(),
        Err(error) => return Err(format!("cannot read from the link: {error}")),
    }
    Ok(bytes)
}

/// Where the first whole frame with a payload lies. The bytes may begin in the middle of one, whose head was read
/// already.
fn first_frame(bytes: &[u8]) -> Option<Range<usize>> {
    let magic = MAGIC.to_le_bytes();
    (0..bytes.len().saturating_sub(HEADER_BYTES)).find_map(|start| {
        let header = &bytes[start..start + HEADER_BYTES];
        let payload_bytes: [u8; 4] = header[PAYLOAD_BYTES_FIELD].try_into().ok()?;
        let payload_bytes = u32::from_le_bytes(payload_bytes) as usize;
        let end = start + HEADER_BYTES + payload_bytes;
        let whole =
            header.starts_with(&magic) && (1..=MAX_PAYLOAD_BYTES).contains(&payload_bytes) && end <= bytes.len();
        whole.then_some(start..end)
    })
}

/// Damages a frame within `bytes` and says how.
fn apply(bytes: &mut Vec<u8>, frame: Range<usize>, damage: LinkDamage) -> &'static str {
    match damage {
        LinkDamage::Flip => {
            bytes[frame.end - 1] ^= 1;
            "a bit flipped"
        }
        LinkDamage::Truncate => {
            bytes.remove(frame.end - 1);
            "a message truncated"
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::frame::{FrameReader, FrameWriter};

    use super::*;

    const SESSION: u64 = 7;

    /// Three frames whose first has lost its head, and where the second lies.
    fn frames() -> (Vec<u8>, Range<usize>) {
        let mut writer = FrameWriter::new(SESSION);
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for payload in [b"one".as_slice(), b"", b"three"] {
            writer.encode_into(&mut bytes, 9, &[payload]).expect("short");
            ends.push(bytes.len() - 5);
        }
        bytes.drain(..5);
        (bytes, ends[1]..ends[2])
    }

    #[test]
    fn a_whole_frame_with_a_payload_is_found() {
        let (bytes, wanted) = frames();
        assert_eq!(first_frame(&bytes), Some(wanted.clone()));
        assert_eq!(first_frame(&bytes[..wanted.end - 1]), None, "one that is not whole is none");
        assert_eq!(first_frame(b""), None);
    }

    #[test]
    fn damage_is_what_a_reader_finds() {
        for damage in [LinkDamage::Flip, LinkDamage::Truncate] {
            let mut writer = FrameWriter::new(SESSION);
            let mut bytes = Vec::new();
            for _ in 0..2 {
                writer.encode_into(&mut bytes, 9, &[b"payload"]).expect("short");
            }
            let frame = first_frame(&bytes).expect("there is one");
            apply(&mut bytes, frame, damage);
            let mut reader = FrameReader::new(SESSION, 100);
            let fault = reader.feed::<protocol::frame::FrameError>(&bytes, |_| Ok(()));
            assert!(matches!(fault, Err(protocol::frame::FrameError::BadChecksum { .. })), "{damage:?}: {fault:?}");
        }
    }
}
