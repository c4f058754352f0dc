//! CRC32C, as NVMe/TCP uses it for header and data digests (TCP transport 3.3.1.1): the Castagnoli polynomial,
//! seed FFFFFFFFh, inverted at the end, sent little endian.

/// How many bytes a digest takes on the wire.
pub const DIGEST_LEN: usize = 4;

/// A digest over bytes that come in pieces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// A digest over nothing yet.
    pub fn new() -> Self {
        Self(0)
    }

    /// Takes the next piece in.
    #[inline]
    pub fn update(&mut self, piece: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, piece);
    }

    /// The digest of all pieces so far, as a number.
    pub fn finish(self) -> u32 {
        self.0
    }

    /// The digest of all pieces so far, as it is sent.
    pub fn to_bytes(self) -> [u8; DIGEST_LEN] {
        self.0.to_le_bytes()
    }

    /// The digest of `a` followed by `b`, of which `b` is `b_len` bytes long, without seeing them again.
    pub fn combine(a: Self, b: Self, b_len: usize) -> Self {
        Self(crc32c::crc32c_combine(a.0, b.0, b_len))
    }
}

/// The digest of one piece.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
