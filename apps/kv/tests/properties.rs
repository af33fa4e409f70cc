//! Properties over arbitrary input: how bytes are cut makes no difference, garbage does no harm, memory adds up.

#[path = "common/generator.rs"]
mod generator;

use generator::Generator;
use kv::{Config, Server, Session};
use proptest::prelude::*;

const NOW_MS: i64 = 1_700_000_000_000;

fn server() -> Server {
    Server::new(Config::for_memory(64 << 20, 1, 2), NOW_MS)
}

/// Feeds the pieces and gives all output.
fn converse<'a>(server: &mut Server, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let mut session = Session::open(server, NOW_MS, "x").expect("room for a client");
    let mut output = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() && !session.wants_close() {
            rest = &rest[session.feed(server, NOW_MS, rest)..];
            output.extend_from_slice(session.output());
            session.advance_output(session.output().len());
        }
    }
    let closed = session.wants_close();
    session.close(server);
    (output, closed)
}

/// A stream of commands, most of them sound, some in the inline form, some damaged.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    (any::<u64>(), 1..60usize, proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()))).prop_map(
        |(seed, commands, damage)| {
            let mut generator = Generator::new(seed);
            let mut bytes = Vec::new();
            for number in 0..commands {
                let args = generator.next(true);
                let plain = args.iter().all(|arg| !arg.is_empty() && arg.iter().all(u8::is_ascii_alphanumeric));
                if number % 4 == 0 && plain {
                    bytes.extend(args.join(&b' '));
                    bytes.extend(b"\r\n");
                    continue;
                }
                bytes.extend(format!("*{}\r\n", args.len()).bytes());
                for arg in &args {
                    bytes.extend(format!("${}\r\n", arg.len()).bytes());
                    bytes.extend(arg);
                    bytes.extend(b"\r\n");
                }
            }
            if let Some((place, value)) = damage {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn how_the_stream_is_cut_makes_no_difference(bytes in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let whole = converse(&mut server(), std::iter::once(&bytes[..]));
        let in_pieces = converse(&mut server(), places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
        let byte_by_byte = converse(&mut server(), bytes.chunks(1));
        prop_assert_eq!(&whole, &in_pieces);
        prop_assert_eq!(&whole, &byte_by_byte);
    }

    #[test]
    fn garbage_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        converse(&mut server(), bytes.chunks(97));
    }

    #[test]
    fn near_misses_do_no_harm(bytes in "([*$][0-9-]{0,4}\r\n|[a-z]{1,6}[ \"'\\\\]|\r\n|(SET|EVAL|GET|LPUSH) [a-z] [0-9]{1,3}\r\n){1,40}") {
        let bytes = bytes.into_bytes();
        let mut server = server();
        let (output, closed) = converse(&mut server, bytes.chunks(13));
        prop_assert_eq!(closed, output.windows(20).any(|part| part == b"-ERR Protocol error:"));
    }

    #[test]
    fn memory_adds_up_and_returns_to_nothing(bytes in prop::collection::vec(stream(), 1..6)) {
        let mut server = server();
        for bytes in &bytes {
            converse(&mut server, bytes.chunks(1000));
            let counted = server.data_bytes();
            // A tick sums all databases up anew; what was counted on the way must agree.
            server.tick(NOW_MS, 0);
            prop_assert_eq!(counted, server.data_bytes());
            prop_assert_eq!(server.clients_bytes(), 0);
            prop_assert!(server.keys() == 0 || counted > 0);
        }
        converse(&mut server, std::iter::once(&b"FLUSHALL\r\n"[..]));
        prop_assert_eq!((server.data_bytes(), server.keys()), (0, 0));
    }
}
