//! CRC32C, as NVMe/TCP uses it for header and data digests (TCP transport 3.3.1.1): the Castagnoli polynomial,
//! seed FFFFFFFFh, inverted at the end, sent little endian.

use crc_fast::{CrcAlgorithm, Digest};

/// How many bytes a digest takes on the wire.
pub const DIGEST_LEN: usize = 4;

/// A digest over bytes that come in pieces: what it would be before it is inverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc32c {
    /// A digest over nothing yet.
    pub fn new() -> Self {
        Self(u32::MAX)
    }

    /// Takes the next piece in.
    #[inline]
    pub fn update(&mut self, piece: &[u8]) {
        // Named iSCSI's there, which uses the same.
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, self.0.into());
        digest.update(piece);
        // Of 32 bits, as the polynomial is.
        self.0 = digest.get_state() as u32;
    }

    /// The digest of all pieces so far, as a number.
    pub fn finish(self) -> u32 {
        !self.0
    }

    /// The digest of all pieces so far, as it is sent.
    pub fn to_bytes(self) -> [u8; DIGEST_LEN] {
        self.finish().to_le_bytes()
    }
}

/// The digest of one piece.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn known_vectors() {
        let rising: [u8; 32] = std::array::from_fn(|i| i as u8);
        let falling: [u8; 32] = std::array::from_fn(|i| 31 - i as u8);
        assert_eq!(crc32c(&[0; 32]).to_le_bytes(), [0xAA, 0x36, 0x91, 0x8A]);
        assert_eq!(crc32c(&[0xFF; 32]).to_le_bytes(), [0x43, 0xAB, 0xA8, 0x62]);
        assert_eq!(crc32c(&rising).to_le_bytes(), [0x4E, 0x79, 0xDD, 0x46]);
        assert_eq!(crc32c(&falling).to_le_bytes(), [0x5C, 0xDB, 0x3F, 0x11]);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for piece_len in [1, 3, 8, 64, 1000, 4096] {
            let mut digest = Crc32c::new();
            bytes.chunks(piece_len).for_each(|piece| digest.update(piece));
            assert_eq!(digest.finish(), crc32c(&bytes), "pieces of {piece_len}");
        }
    }
}
