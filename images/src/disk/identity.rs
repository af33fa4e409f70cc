//! The first block of a disk file: whose it is, and how far it has come. The guest's blocks follow it.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic |
//! | 8..12 | version |
//! | 12..16 | bytes before the guest's first block |
//! | 16..24 | bytes of the guest's disk |
//! | 24..40 | the disk's number, random, the same for both mirrors |
//! | 40..64 | its name, filled up with zeros |
//! | 64..128 | the pair's name, filled up with zeros |
//! | 128 | which replica's mirror; 0 for a shared disk |
//! | 129 | 1 when it was left in good order, and equal to its mirror if that has the same generation |
//! | 130 | 0: one of two mirrors; 1: a disk that both replicas share |
//! | 131 | 1: of two mirrors with the same generation, the one that the active replica had when they were made equal |
//! | 136..144 | generation |
//! | 144..152 | last epoch that the supervisor has seen |
//! | 504..512 | checksum of the bytes before |
//!
//! Integers are little-endian; everything else is zero. All of it lies in one sector, so that a write is whole or not.

use protocol::ReplicaId;
use protocol::digest::digest_of;

/// Bytes before the guest's first block.
pub const HEADER_BYTES: u64 = 4096;
/// Bytes of an identity on disk: one sector.
pub const IDENTITY_BYTES: usize = 512;
/// Longest name of a pair that has disks.
pub const MAX_PAIR_NAME_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"PLXDISK\0";
const VERSION: u32 = 1;
const CHECKSUM_SEED: u64 = 0x6469_736b_6964_3031;
const CHECKSUM_AT: usize = IDENTITY_BYTES - 8;
const NAME_BYTES: usize = 24;

/// Whether each replica has a file of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Yes: both carry out everything.
    #[default]
    Mirrored,
    /// No: there is one, and the active replica uses it.
    Shared,
}

/// Whose a disk file is and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Identity {
    /// Bytes of the guest's disk.
    pub size_bytes: u64,
    /// Names the disk; both mirrors have the same.
    #[serde(serialize_with = "as_hex")]
    pub id: [u8; 16],
    /// Its name.
    pub disk: String,
    /// The pair's name.
    pub pair: String,
    /// Whether it is one of two mirrors.
    pub kind: Kind,
    /// Which replica's mirror it is; replica 0 if it is shared.
    #[serde(serialize_with = "as_number")]
    pub replica: ReplicaId,
    /// Grows with every start of the pair and whenever a replica leaves it. A mirror with a lower one has missed writes.
    pub generation: u64,
    /// The last epoch that the supervisor has seen.
    pub last_epoch: u64,
    /// When the pair became complete again, the active replica had this one. It is the better of two that are equally fresh.
    pub leads: bool,
    /// It was left in good order: a mirror with the same generation holds the same.
    pub clean: bool,
}

fn as_hex<S: serde::Serializer>(id: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::build::hex(id))
}

fn as_number<S: serde::Serializer>(replica: &ReplicaId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(replica.get())
}

/// Why bytes are no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Something else is in the file.
    #[error("it does not begin as a disk of Pollux does: it is somebody else's file")]
    Foreign,
    /// Another version of Pollux wrote it.
    #[error("its format has version {got}, this command knows {VERSION}: use the pollux that made it")]
    Version {
        /// What it says.
        got: u32,
    },
    /// The checksum is wrong, or a field makes no sense.
    #[error(
        "its first block is damaged: remove the file and make it anew from its mirror by `cargo pollux disk resync`"
    )]
    Damaged,
}

impl Identity {
    /// The bytes of it.
    pub fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(HEADER_BYTES as u32).to_le_bytes());
        put(16, &self.size_bytes.to_le_bytes());
        put(24, &self.id);
        put(40, &self.disk.as_bytes()[..self.disk.len().min(NAME_BYTES)]);
        put(64, &self.pair.as_bytes()[..self.pair.len().min(MAX_PAIR_NAME_BYTES)]);
        let is_shared = self.kind == Kind::Shared;
        put(128, &[self.replica.get(), self.clean.into(), is_shared.into(), self.leads.into()]);
        put(136, &self.generation.to_le_bytes());
        put(144, &self.last_epoch.to_le_bytes());
        let checksum = digest_of(CHECKSUM_SEED, &bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8; IDENTITY_BYTES]) -> Result<Self, IdentityError> {
        if bytes[..8] != MAGIC {
            return Err(IdentityError::Foreign);
        }
        let version = u32::from_le_bytes(field(bytes, 8));
        if version != VERSION {
            return Err(IdentityError::Version { got: version });
        }
        let checksum = u64::from_le_bytes(field(bytes, CHECKSUM_AT));
        let identity = Self {
            size_bytes: u64::from_le_bytes(field(bytes, 16)),
            id: field(bytes, 24),
            disk: text(&bytes[40..40 + NAME_BYTES]),
            pair: text(&bytes[64..64 + MAX_PAIR_NAME_BYTES]),
            replica: ReplicaId::new(bytes[128]).ok_or(IdentityError::Damaged)?,
            generation: u64::from_le_bytes(field(bytes, 136)),
            last_epoch: u64::from_le_bytes(field(bytes, 144)),
            leads: bytes[131] == 1,
            clean: bytes[129] == 1,
            kind: if bytes[130] == 1 { Kind::Shared } else { Kind::Mirrored },
        };
        // What does not encode to the same bytes has something in it that this version does not write.
        let good = checksum == digest_of(CHECKSUM_SEED, &bytes[..CHECKSUM_AT]) && identity.encode() == *bytes;
        if good { Ok(identity) } else { Err(IdentityError::Damaged) }
    }
}

fn field<const N: usize>(bytes: &[u8; IDENTITY_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn text(padded: &[u8]) -> String {
    let end = padded.iter().position(|&byte| byte == 0).unwrap_or(padded.len());
    String::from_utf8_lossy(&padded[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            size_bytes: 0x0102_0304_0506_0000,
            id: std::array::from_fn(|index| index as u8),
            disk: "data".to_owned(),
            pair: "shop".to_owned(),
            kind: Kind::Shared,
            replica: ReplicaId::ONE,
            generation: 7,
            last_epoch: 99,
            leads: true,
            clean: true,
        }
    }

    #[test]
    fn an_identity_survives_encoding() {
        let bytes = identity().encode();
        assert_eq!(Identity::decode(&bytes), Ok(identity()));
        assert_eq!(bytes[..24], *b"PLXDISK\0\x01\0\0\0\0\x10\0\0\0\0\x06\x05\x04\x03\x02\x01");
        assert_eq!(bytes[128..132], [1, 1, 1, 1]);
        assert_eq!((bytes[136], bytes[144]), (7, 99));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = identity().encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = Identity::decode(&bytes).expect_err("one bit is wrong");
            let expected = match bit / 8 {
                0..8 => IdentityError::Foreign,
                8..12 => IdentityError::Version { got: u32::from_le_bytes(field(&bytes, 8)) },
                _ => IdentityError::Damaged,
            };
            assert_eq!(error, expected, "bit {bit}");
        }
    }

    #[test]
    fn what_this_version_never_writes_is_damage_although_the_checksum_is_right() {
        let mut bytes = identity().encode();
        bytes[200] = 1;
        let checksum = digest_of(CHECKSUM_SEED, &bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Identity::decode(&bytes), Err(IdentityError::Damaged));
    }
}
