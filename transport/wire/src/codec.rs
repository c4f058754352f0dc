//! The only way from bytes to numbers and back.
//!
//! Structures of a fixed size are read and written at constant offsets, and the compiler proves that each
//! offset lies inside the structure (`get`, `put`): no error to handle, no panic possible. Structures
//! whose size depends on their content go through [`Reader`] and [`Writer`], which know where they end.
//! NVMe is little endian throughout.

use crate::WireError;

/// The `N` bytes at offset `AT` of a fixed structure; an offset outside it does not compile.
#[inline(always)]
pub(crate) fn get<const AT: usize, const N: usize, const LEN: usize>(bytes: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN, "field lies outside the structure") };
    let mut field = [0; N];
    field.copy_from_slice(&bytes[AT..AT + N]);
    field
}

/// Writes `value` at offset `AT` of a fixed structure; an offset outside it does not compile.
#[inline(always)]
pub(crate) fn put<const AT: usize, const N: usize, const LEN: usize>(out: &mut [u8; LEN], value: [u8; N]) {
    const { assert!(AT + N <= LEN, "field lies outside the structure") };
    out[AT..AT + N].copy_from_slice(&value);
}

macro_rules! little_endian {
    ($($get:ident $put:ident $int:ty;)*) => {$(
        #[inline(always)]
        pub(crate) fn $get<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> $int {
            <$int>::from_le_bytes(get::<AT, { size_of::<$int>() }, LEN>(bytes))
        }
        #[inline(always)]
        pub(crate) fn $put<const AT: usize, const LEN: usize>(out: &mut [u8; LEN], value: $int) {
            put::<AT, { size_of::<$int>() }, LEN>(out, value.to_le_bytes());
        }
    )*};
}
little_endian! {
    get_u8 put_u8 u8;
    get_u16 put_u16 u16;
    get_u32 put_u32 u32;
    get_u64 put_u64 u64;
    get_u128 put_u128 u128;
}

/// The first `LEN` bytes of `bytes`, as the fixed structure `what`.
pub(crate) fn prefix<'a, const LEN: usize>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8; LEN], WireError> {
    bytes.first_chunk().ok_or(WireError::Truncated { what, needed: LEN, available: bytes.len() })
}

/// Text as NVMe pads it: trailing spaces and NULs are not part of it, and bytes that are no ASCII text show as `?`.
pub(crate) fn padded_text(field: &[u8]) -> String {
    let end = field.iter().rposition(|&b| b != b' ' && b != 0).map_or(0, |last| last + 1);
    field[..end].iter().map(|&b| if b == b' ' || b.is_ascii_graphic() { b as char } else { '?' }).collect()
}

/// An ASCII field padded with spaces. Text that is too long is cut, and what is not printable ASCII becomes `?`.
pub(crate) fn pad_text<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (slot, c) in field.iter_mut().zip(text.chars()) {
        *slot = if c == ' ' || c.is_ascii_graphic() { c as u8 } else { b'?' };
    }
    field
}

/// A cursor that never reads past the end of its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which hold the structure `what` (named in errors).
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// How many bytes are left.
    pub(crate) fn remaining_bytes(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated {
            what: self.what,
            needed: len,
            available: self.rest.len(),
        })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated {
            what: self.what,
            needed: N,
            available: self.rest.len(),
        })?;
        self.rest = rest;
        Ok(head)
    }

    /// The next byte.
    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|b| b[0])
    }

    /// The next four bytes as a number.
    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(|b| u32::from_le_bytes(*b))
    }

    /// The next eight bytes as a number.
    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(|b| u64::from_le_bytes(*b))
    }
}

/// A cursor that never writes past the end of its buffer.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Writer<'a> {
    /// Writes the structure `what` (named in errors) into `out`, from its start.
    pub(crate) fn new(out: &'a mut [u8], what: &'static str) -> Self {
        Self { out, at: 0, what }
    }

    /// How many bytes have been written.
    pub(crate) fn written_bytes(&self) -> usize {
        self.at
    }

    /// Writes `bytes`.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let available = self.out.len() - self.at;
        let slot = self.out[self.at..].get_mut(..bytes.len()).ok_or(WireError::BufferTooSmall {
            what: self.what,
            needed: bytes.len(),
            available,
        })?;
        slot.copy_from_slice(bytes);
        self.at += bytes.len();
        Ok(())
    }

    /// Writes one byte.
    pub(crate) fn u8(&mut self, value: u8) -> Result<(), WireError> {
        self.bytes(&[value])
    }

    /// Writes a number in two bytes.
    pub(crate) fn u16(&mut self, value: u16) -> Result<(), WireError> {
        self.bytes(&value.to_le_bytes())
    }

    /// Writes a number in four bytes.
    pub(crate) fn u32(&mut self, value: u32) -> Result<(), WireError> {
        self.bytes(&value.to_le_bytes())
    }

    /// Writes a number in eight bytes.
    pub(crate) fn u64(&mut self, value: u64) -> Result<(), WireError> {
        self.bytes(&value.to_le_bytes())
    }

    /// Fills the rest of the buffer with zeros and returns how many bytes were written before that.
    pub(crate) fn zero_rest(self) -> usize {
        self.out[self.at..].fill(0);
        self.at
    }
}
