//! The messages of the replication link: kind (u16, little-endian) and payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::frame::{FrameWriter, HEADER_BYTES};
use protocol::link::Message;

fuzz_target!(|input: &[u8]| {
    let Some((kind, payload)) = input.split_first_chunk() else { return };
    let kind = u16::from_le_bytes(*kind);
    match Message::decode(kind, payload) {
        Ok(message) => {
            assert_eq!(message.kind(), kind);
            let mut frame = Vec::new();
            message.encode_into(&mut FrameWriter::new(0), &mut frame).expect("short enough to be read");
            assert_eq!(&frame[HEADER_BYTES..], payload, "what is accepted must be canonical");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
