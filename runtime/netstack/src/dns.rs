//! Questions for name servers, and their answers: messages alone (RFC 1035), without sockets.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData, DnsRepr,
};

/// Where name servers listen.
pub const PORT: u16 = 53;
/// Longest answer that comes in one datagram, in bytes.
pub const MAX_ANSWER_BYTES: usize = 512;
/// Longest name, in bytes of its message form.
const MAX_NAME_BYTES: usize = 255;
/// Longest part of a name between dots.
const MAX_LABEL_BYTES: usize = 63;

/// Why an answer gives no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There is no such name.
    NoSuchName,
    /// There is such a name, without an address of IPv4.
    NoAddress,
    /// The server cannot say.
    Server,
    /// It is none to this question: somebody else's, or no message at all.
    Foreign,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchName => "there is no such name",
            Self::NoAddress => "the name has no IPv4 address",
            Self::Server => "the name server cannot say",
            Self::Foreign => "the message does not answer this question",
        })
    }
}

impl core::error::Error for Failure {}

/// A name in message form; `None` for a text that is none.
fn encode_name(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let fits = (1..=MAX_LABEL_BYTES).contains(&label.len());
        let usable = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !fits || !usable {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    (bytes.len() <= MAX_NAME_BYTES).then_some(bytes)
}

/// Whether a text is a name that can be asked for.
#[must_use]
pub fn is_name(text: &str) -> bool {
    encode_name(text).is_some()
}

/// A question for the addresses of a name.
#[derive(Debug, Clone)]
pub struct Query {
    id: u16,
    name: Vec<u8>,
}

impl Query {
    /// A question with a number that outsiders cannot guess; `None` for a text that is no name.
    #[must_use]
    pub fn new(name: &str, id: u16) -> Option<Self> {
        Some(Self { id, name: encode_name(name)? })
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let repr = DnsRepr {
            transaction_id: self.id,
            opcode: DnsOpcode::Query,
            flags: DnsFlags::RECURSION_DESIRED,
            question: DnsQuestion { name: &self.name, type_: DnsQueryType::A },
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DnsPacket::new_unchecked(&mut bytes));
        bytes
    }

    /// The addresses that a message gives, in its order. What aliases lead to counts, too.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn answer(&self, message: &[u8]) -> Result<Vec<Ipv4Addr>, Failure> {
        let packet = DnsPacket::new_checked(message).map_err(|_| Failure::Foreign)?;
        let is_answer = packet.flags().contains(DnsFlags::RESPONSE) && packet.opcode() == DnsOpcode::Query;
        if packet.transaction_id() != self.id || !is_answer || packet.question_count() != 1 {
            return Err(Failure::Foreign);
        }
        let (mut rest, asked) = DnsQuestion::parse(packet.payload()).map_err(|_| Failure::Foreign)?;
        if asked.type_ != DnsQueryType::A || !asked.name.eq_ignore_ascii_case(&self.name) {
            return Err(Failure::Foreign);
        }
        match packet.rcode() {
            DnsRcode::NoError => {}
            DnsRcode::NXDomain => return Err(Failure::NoSuchName),
            _ => return Err(Failure::Server),
        }
        let mut addresses = Vec::new();
        for _ in 0..packet.answer_record_count() {
            // An answer that was cut off holds what came before.
            let Ok((next, record)) = DnsRecord::parse(rest) else { break };
            rest = next;
            if let DnsRecordData::A(address) = record.data {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(Failure::NoAddress) } else { Ok(addresses) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer: flags, and records of a type with data.
    fn answer(query: &Query, flags: u16, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = query.message();
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (kind, data) in records {
            // The name is the question's.
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        message
    }

    const ANSWER: u16 = 0x8180;

    fn query() -> Query {
        Query::new("www.Example.org", 77).expect("a name")
    }

    #[test]
    fn a_question_is_laid_out_as_the_standard_says() {
        let expected = b"\0\x4d\x01\0\0\x01\0\0\0\0\0\0\x03www\x07Example\x03org\0\0\x01\0\x01";
        assert_eq!(query().message(), expected);
        assert_eq!(Query::new("a.b.", 0).expect("a name").name, b"\x01a\x01b\0");
        let long = "a".repeat(64);
        let many = "abcdefg.".repeat(32);
        for wrong in ["", ".", "a..b", "a b", "a/b", "über", &long, &many, "a\0"] {
            assert!(Query::new(wrong, 0).is_none() && !is_name(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_come_in_their_order_past_aliases() {
        let alias: &[u8] = b"\x05other\x03org\0";
        let message = answer(&query(), ANSWER, &[(5, alias), (1, &[192, 0, 2, 9]), (1, &[192, 0, 2, 1])]);
        let expected = [[192, 0, 2, 9], [192, 0, 2, 1]].map(Ipv4Addr::from);
        assert_eq!(query().answer(&message).as_deref(), Ok(&expected[..]));
        // Cut off within the last one.
        assert_eq!(query().answer(&message[..message.len() - 1]).as_deref(), Ok(&expected[..1]));
    }

    #[test]
    fn failures_are_told_apart() {
        let query = query();
        assert_eq!(query.answer(&answer(&query, ANSWER | 3, &[])), Err(Failure::NoSuchName));
        assert_eq!(query.answer(&answer(&query, ANSWER | 2, &[])), Err(Failure::Server));
        assert_eq!(query.answer(&answer(&query, ANSWER, &[])), Err(Failure::NoAddress));
        assert_eq!(query.answer(&answer(&query, ANSWER, &[(28, &[0; 16])])), Err(Failure::NoAddress));
        let good = answer(&query, ANSWER, &[(1, &[192, 0, 2, 1])]);
        for other in [Query::new("www.example.org", 78), Query::new("www.example.com", 77)] {
            assert_eq!(other.expect("a name").answer(&good), Err(Failure::Foreign));
        }
        assert!(Query::new("WWW.example.ORG", 77).expect("a name").answer(&good).is_ok(), "case does not matter");
        assert_eq!(query.answer(&query.message()), Err(Failure::Foreign), "a question is no answer");
        for cut in 0..query.message().len() {
            assert_eq!(query.answer(&good[..cut]), Err(Failure::Foreign), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_arrives_does_harm(noise in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let query = query();
            let _ = query.answer(&noise);
            let mut message = answer(&query, ANSWER, &[(1, &[192, 0, 2, 1]), (5, b"\x01a\0")]);
            let at = at % message.len();
            message.truncate(at + 1);
            message.extend(noise);
            let _ = query.answer(&message);
        }
    }
}
