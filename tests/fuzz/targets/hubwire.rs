//! Packets between shim and hub, and rings of records that a guest wrote.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::event::EventReader;
use protocol::hubwire::{BatchEncoder, Envelope, HEADER_BYTES, MAX_PACKET_BYTES, Packet};

/// The session of the golden vectors.
const SESSION: u64 = 0x0123_4567_89ab_cdef;

fuzz_target!(|input: &[u8]| {
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    let mut encoder = BatchEncoder::new(&mut buffer).expect("large enough");
    match Packet::decode(input, SESSION) {
        Ok(Packet::Frames(batch)) => {
            assert_eq!(EventReader::validate(batch.records()), Ok(usize::from(batch.frame_count())));
            assert_eq!(batch.frames().count(), usize::from(batch.frame_count()));
            assert!(batch.records_from(batch.end_sequence()).is_empty());
            for frame in batch.frames() {
                assert!(encoder.push(frame));
            }
            let envelope = Envelope {
                destination: input[..6].try_into().expect("six"),
                source: input[6..12].try_into().expect("six"),
                session: SESSION,
                generation: batch.generation(),
            };
            let used = encoder.finish(&envelope, batch.first_sequence());
            assert_eq!(&buffer[..used], input, "what is accepted must be canonical");
        }
        Ok(Packet::Resume { .. }) => assert_eq!(input.len(), HEADER_BYTES),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            // A guest's ring is as little trusted as a packet.
            if let Ok(taken) = encoder.push_records(input) {
                assert!(taken.bytes <= input.len());
                assert_eq!(EventReader::validate(&input[..taken.bytes]), Ok(usize::from(taken.frames)));
            }
        }
    }
});
