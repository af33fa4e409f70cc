//! The frame reader: any bytes in any pieces; the pieces must not matter, and what is read was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::frame::{FrameError, FrameReader, FrameWriter};

/// The session of the golden vectors.
const SESSION: u64 = 0x0123_4567_89ab_cdef;
const MAX_PAYLOAD_BYTES: usize = 4096;

type Outcome = (Vec<(u16, Vec<u8>)>, Result<(), FrameError>);

fn read(stream: &[u8], piece_bytes: usize) -> Outcome {
    let mut reader = FrameReader::new(SESSION, MAX_PAYLOAD_BYTES);
    let mut frames = Vec::new();
    for piece in stream.chunks(piece_bytes.max(1)) {
        let fed: Result<(), FrameError> = reader.feed(piece, |frame| {
            frames.push((frame.kind, frame.payload.to_vec()));
            Ok(())
        });
        if fed.is_err() {
            assert_eq!(reader.read(piece).err(), fed.err(), "a fault must be final");
            return (frames, fed);
        }
    }
    (frames, Ok(()))
}

fuzz_target!(|input: &[u8]| {
    // The last byte, not the first: so that the golden stream is a seed as it is.
    let Some((piece_bytes, stream)) = input.split_last() else { return };
    let whole = read(stream, stream.len());
    assert_eq!(read(stream, usize::from(*piece_bytes)), whole);
    let mut writer = FrameWriter::new(SESSION);
    let mut written = Vec::new();
    for (kind, payload) in &whole.0 {
        writer.encode_into(&mut written, *kind, &[payload]).expect("short enough to be read");
    }
    assert_eq!(stream[..written.len()], written);
});
