//! Streams of event records.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::event::{Event, EventReader, RecordError};

fuzz_target!(|input: &[u8]| {
    let events: Result<Vec<Event<'_>>, RecordError> = EventReader::new(input).collect();
    match events {
        Ok(events) => {
            let mut stream = Vec::new();
            for event in events {
                event.append_to(&mut stream).expect("short enough to be read");
            }
            assert_eq!(stream, input, "what is accepted must be canonical");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
