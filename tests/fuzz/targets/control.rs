//! The messages of the control channel, both directions: kind (u16, little-endian) and payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::control::{ToShim, ToSupervisor};
use protocol::frame::{FrameWriter, HEADER_BYTES};

fuzz_target!(|input: &[u8]| {
    let Some((kind, payload)) = input.split_first_chunk() else { return };
    let kind = u16::from_le_bytes(*kind);
    let mut frame = Vec::new();
    let mut writer = FrameWriter::new(0);
    match ToSupervisor::decode(kind, payload) {
        Ok(message) => drop(message.encode_into(&mut writer, &mut frame)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    match ToShim::decode(kind, payload) {
        Ok(message) => drop(message.encode_into(&mut writer, &mut frame)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if !frame.is_empty() {
        assert_eq!(&frame[HEADER_BYTES..], payload, "what is accepted must be canonical, and of one direction");
    }
});
