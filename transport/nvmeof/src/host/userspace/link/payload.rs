//! The memory of one command, and the ways in and out of it.

use nvferry_engine::Slice;
use nvferry_io::{Gather, MemSlice, PoolBuf};
use nvferry_wire::digest::Crc32c;
use std::ops::Range;

/// Bytes that a digest is computed over at a time: they fit the first-level cache.
const CRC_CHUNK_BYTES: usize = 4096;

/// From how many bytes on a payload is received in place, unless a test forces another number; below, one copy costs less
/// than more system calls.
pub(super) const IN_PLACE_BYTES: u32 = 16 << 10;

/// The memory of one command. Positions count from the first byte that the command moves on the wire.
#[derive(Debug)]
pub(crate) enum Payload {
    /// The command moves no data, or nobody wants what it moves any more: it is received and forgotten.
    None,
    /// A slice of a transfer. The command may move whole blocks around it: the slice's first byte is the wire's
    /// byte number `skip`; what comes before and after the slice is forgotten.
    Slice {
        /// The slice.
        slice: Slice,
        /// Bytes on the wire before the slice's first.
        skip: u32,
    },
    /// The first `len` bytes of a bounce buffer.
    Bounce {
        /// The buffer.
        buf: PoolBuf,
        /// Bytes of it that the command moves.
        len: u32,
    },
    /// What an admin or fabrics command moves.
    Bytes(Box<[u8]>),
}

impl Payload {
    /// Takes in what arrived for position `at`.
    pub(super) fn copy_in(&mut self, at: u32, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Slice { slice, skip } => {
                let wire = at as usize..at as usize + bytes.len();
                let wanted = overlap(&wire, *skip as usize, slice.memory.len());
                if !wanted.is_empty() {
                    let from = wanted.start - wire.start..wanted.end - wire.start;
                    slice.memory.copy_from(wanted.start - *skip as usize, &bytes[from]);
                }
            }
            Self::Bounce { buf, .. } => buf[at as usize..at as usize + bytes.len()].copy_from_slice(bytes),
            Self::Bytes(to) => to[at as usize..at as usize + bytes.len()].copy_from_slice(bytes),
        }
    }

    /// Of the `left` bytes from position `at` on: how many come through a buffer before the rest can be received in
    /// place; 0 if that can begin at once, all if it is not worth it, as it is from `worth_bytes` on.
    pub(super) fn until_in_place(&self, at: u32, left: u32, worth_bytes: u32) -> u32 {
        let Self::Slice { skip, .. } = self else { return left };
        let lead = skip.saturating_sub(at);
        if left.saturating_sub(lead) >= worth_bytes { lead } else { left }
    }

    /// Where the next bytes from position `at` on can be received without a copy: the memory and its range, of at
    /// most `len` bytes. Nothing while the next byte is one to be forgotten.
    pub(super) fn in_place(&self, at: u32, len: u32) -> Option<(&MemSlice, Range<usize>)> {
        let Self::Slice { slice, skip } = self else { return None };
        let start = at.checked_sub(*skip)? as usize;
        let end = (start + len as usize).min(slice.memory.len());
        (start < end).then_some((&slice.memory, start..end))
    }

    /// Adds a part to a list to be sent.
    pub(super) fn gather<'a>(&'a self, part: Range<usize>, into: &mut Gather<'a>) {
        match self {
            Self::None => {}
            Self::Slice { slice, .. } => into.push_leased_range(&slice.memory, part),
            Self::Bounce { buf, .. } => into.push(&buf[part]),
            Self::Bytes(bytes) => into.push(&bytes[part]),
        }
    }

    /// Bytes that the command sends.
    pub(super) fn send_len(&self) -> u32 {
        match self {
            Self::None => 0,
            // A slice is at most one command's transfer, which fits 32 bits.
            Self::Slice { slice, .. } => slice.len() as u32,
            Self::Bounce { len, .. } => *len,
            Self::Bytes(bytes) => bytes.len() as u32,
        }
    }

    /// Takes a part into a digest.
    pub(super) fn digest(&self, crc: &mut Crc32c, part: Range<usize>) {
        match self {
            Self::None => {}
            Self::Slice { slice, .. } => digest_leased(crc, &slice.memory, part),
            Self::Bounce { buf, .. } => crc.update(&buf[part]),
            Self::Bytes(bytes) => crc.update(&bytes[part]),
        }
    }
}

/// Takes leased memory into a digest, through a small copy: others may be writing to it.
pub(super) fn digest_leased(crc: &mut Crc32c, memory: &MemSlice, mut part: Range<usize>) {
    let mut chunk = [0; CRC_CHUNK_BYTES];
    while !part.is_empty() {
        let n = part.len().min(CRC_CHUNK_BYTES);
        memory.copy_to(part.start, &mut chunk[..n]);
        crc.update(&chunk[..n]);
        part.start += n;
    }
}

/// The part of `wire` that lies within `len` bytes from `start` on.
fn overlap(wire: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    wire.start.max(start)..wire.end.min(start + len)
}
