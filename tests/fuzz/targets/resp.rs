//! The store's command parser: a command that arrives byte by byte or in pieces must be what it is in one piece.
#![no_main]

use kv::resp::{Limits, Parser, ProtocolError, Step};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { bulk_bytes: 1024, arguments: 64, inline_bytes: 256 };

type Outcome = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

/// Parses a connection's input that arrives in pieces and returns all commands and the error that ended it.
fn parse(input: &[u8], piece_bytes: usize) -> Outcome {
    let mut parser = Parser::new(LIMITS);
    let mut commands = Vec::new();
    let mut start = 0;
    let mut arrived = 0;
    while arrived < input.len() {
        arrived = input.len().min(arrived + piece_bytes.max(1));
        loop {
            let buffer = &input[start..arrived];
            match parser.parse(buffer) {
                Step::Command(used) => {
                    assert!((1..=buffer.len()).contains(&used));
                    commands.push(parser.args(buffer).iter().map(<[u8]>::to_vec).collect());
                    start += used;
                }
                Step::Nothing(used) => {
                    assert!((1..=buffer.len()).contains(&used));
                    start += used;
                }
                Step::Partial => break,
                Step::Error(error) => {
                    assert!(!error.text().is_empty());
                    return (commands, Some(error));
                }
            }
        }
    }
    (commands, None)
}

/// As in redis, a line is refused as too long only while its end has not come: whether it is depends on the pieces.
fn is_limit_of_a_line(outcome: &Outcome) -> bool {
    use ProtocolError::{LongBulkLine, LongInline, LongMultibulkLine};
    matches!(outcome.1, Some(LongBulkLine | LongInline | LongMultibulkLine))
}

fuzz_target!(|input: &[u8]| {
    let Some((piece_bytes, stream)) = input.split_last() else { return };
    let pieces = parse(stream, usize::from(*piece_bytes));
    let whole = parse(stream, stream.len());
    if is_limit_of_a_line(&pieces) || is_limit_of_a_line(&whole) {
        assert!(pieces.0.iter().zip(&whole.0).all(|(left, right)| left == right));
    } else {
        assert_eq!(pieces, whole);
    }
});
