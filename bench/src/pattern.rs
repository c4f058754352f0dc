//! The verified pattern: what each byte of each file must be, made from its position and a seed alone.
//!
//! A word of 8 bytes (little endian, at a multiple of 8) is a hash of the seed, the file and the word's number. So
//! a block that lands in the wrong file or place, an old block, or one that was cut is found, also when blocks are
//! no multiple of 8 bytes.

use nvferry_engine::FileBufferId;

/// Bytes that are checked at a time.
const CHECK_BYTES: usize = 4096;

/// The pattern of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataPattern {
    key: u64,
}

/// The first wrong bytes of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Where in the file the first wrong byte is.
    pub(crate) offset: u64,
    /// The bytes there should be from there on, at most 8.
    pub(crate) expected: Vec<u8>,
    /// The bytes there are.
    pub(crate) got: Vec<u8>,
}

impl DataPattern {
    /// The pattern of a file under a seed.
    pub(crate) fn new(seed: u64, file: FileBufferId) -> Self {
        Self { key: mix(seed ^ mix(u64::from(file.0))) }
    }

    fn word(self, number: u64) -> [u8; 8] {
        mix(self.key ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
    }

    /// Fills `bytes` with what the file must hold from `offset` on.
    pub(crate) fn fill(self, offset: u64, bytes: &mut [u8]) {
        let into_word = (offset % 8) as usize;
        let head = if into_word == 0 { 0 } else { bytes.len().min(8 - into_word) };
        let (head, rest) = bytes.split_at_mut(head);
        head.copy_from_slice(&self.word(offset / 8)[into_word..into_word + head.len()]);
        let mut number = offset.div_ceil(8);
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word(number));
            number += 1;
        }
        let tail = words.into_remainder();
        tail.copy_from_slice(&self.word(number)[..tail.len()]);
    }

    /// Compares `bytes`, read from `offset` on, with what the file must hold.
    pub(crate) fn check(self, offset: u64, bytes: &[u8]) -> Result<(), Mismatch> {
        let mut expected = [0; CHECK_BYTES];
        for (part, got) in bytes.chunks(CHECK_BYTES).enumerate() {
            let at = offset + (part * CHECK_BYTES) as u64;
            let expected = &mut expected[..got.len()];
            self.fill(at, expected);
            if expected == got {
                continue;
            }
            let first = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
            let until = got.len().min(first + 8);
            return Err(Mismatch {
                offset: at + first as u64,
                expected: expected[first..until].to_vec(),
                got: got[first..until].to_vec(),
            });
        }
        Ok(())
    }
}

/// Spreads every bit of a word over all of it (the finaliser of SplitMix64).
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern() -> DataPattern {
        DataPattern::new(7, FileBufferId(1))
    }

    fn bytes(offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        pattern().fill(offset, &mut bytes);
        bytes
    }

    #[test]
    fn any_part_is_the_same_as_in_the_whole() {
        let whole = bytes(0, 1 << 14);
        for offset in (0..40).chain([4090, 4097, 12345]) {
            for len in (0..40).chain([512, 3000]) {
                assert_eq!(bytes(offset as u64, len), whole[offset..offset + len], "{len} bytes at {offset}");
            }
        }
    }

    #[test]
    fn what_was_filled_is_found_right() {
        for (offset, len) in [(0, 512), (12345, 12345), (1, 1), (1 << 40, 70_000)] {
            assert_eq!(pattern().check(offset, &bytes(offset, len)), Ok(()));
        }
    }

    #[test]
    fn one_wrong_bit_is_found_where_it_is() {
        let right = bytes(12345, 10_000);
        for wrong in [0, 1, 4095, 4096, 9998, 9999] {
            let mut got = right.clone();
            got[wrong] ^= 0x10;
            let mismatch = pattern().check(12345, &got).unwrap_err();
            assert_eq!(mismatch.offset, 12345 + wrong as u64);
            assert_eq!(mismatch.expected[0] ^ 0x10, mismatch.got[0]);
            assert!(!mismatch.expected.is_empty() && mismatch.expected.len() <= 8);
        }
    }

    #[test]
    fn another_place_file_or_seed_is_found() {
        let right = bytes(4096, 512);
        assert!(pattern().check(4608, &right).is_err());
        assert!(DataPattern::new(7, FileBufferId(2)).check(4096, &right).is_err());
        assert!(DataPattern::new(8, FileBufferId(1)).check(4096, &right).is_err());
        assert!(pattern().check(4096, &[0; 512]).is_err());
    }
}
