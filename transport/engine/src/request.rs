//! A request: one contiguous range of one file, and the memory it goes to or comes from.

use crate::ids::{FileBufferId, Operation, SegmentId};
use crate::memory::Memory;
use crate::transport::FileLimits;
use std::ops::Range;

/// Where the bytes are on this side.
#[derive(Debug, Clone)]
pub enum Source<'m> {
    /// A range of memory that the caller holds.
    Memory {
        /// The memory.
        memory: &'m Memory,
        /// Which of its bytes.
        range: Range<usize>,
    },
    /// Memory that was registered for use by address.
    Address {
        /// The first byte's address.
        start: usize,
        /// How many bytes.
        len: usize,
    },
}

impl Source<'_> {
    /// Bytes there are; `None` for a range that ends before it starts.
    #[must_use]
    pub fn checked_len(&self) -> Option<usize> {
        match self {
            Self::Memory { range, .. } => range.end.checked_sub(range.start),
            Self::Address { len, .. } => Some(*len),
        }
    }
}

/// One contiguous range of one file to read or to write. Any address, offset and length works.
#[derive(Debug, Clone)]
pub struct Request<'m> {
    /// Which way.
    pub operation: Operation,
    /// The local memory; its length is the request's.
    pub source: Source<'m>,
    /// The segment, as `open_segment` gave it.
    pub segment: SegmentId,
    /// The file in the segment.
    pub file: FileBufferId,
    /// Where in the file, in bytes.
    pub offset: u64,
}

impl<'m> Request<'m> {
    /// Reads the file at `offset` into this range of `memory`.
    #[must_use]
    pub fn read(memory: &'m Memory, range: Range<usize>, segment: SegmentId, file: FileBufferId, offset: u64) -> Self {
        Self { operation: Operation::Read, source: Source::Memory { memory, range }, segment, file, offset }
    }

    /// Writes this range of `memory` into the file at `offset`.
    ///
    /// Writes that are under way at once must not overlap. Where they do, bytes of either may be lost, also outside of
    /// what both write: a block that one writes only in part is read, merged and written back. Neighbours are safe.
    ///
    /// A write that did not complete (it timed out, failed or was canceled) may have been carried out, in whole or in part,
    /// or not at all, and may still be as long as its target has it in hand: until then a later write over the same range
    /// may be undone by it, in all the blocks that both touch.
    #[must_use]
    pub fn write(memory: &'m Memory, range: Range<usize>, segment: SegmentId, file: FileBufferId, offset: u64) -> Self {
        Self { operation: Operation::Write, source: Source::Memory { memory, range }, segment, file, offset }
    }

    /// A request on memory that was registered for use by address.
    #[must_use]
    pub fn by_address(
        operation: Operation,
        start: usize,
        len: usize,
        segment: SegmentId,
        file: FileBufferId,
        offset: u64,
    ) -> Self {
        Self { operation, source: Source::Address { start, len }, segment, file, offset }
    }
}

/// How requests on one file are cut: into slices of at most `max`, between which lie multiples of `block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Not 0, and a multiple of `block`.
    max: u64,
    /// Not 0.
    block: u64,
}

impl Cut {
    /// Makes sense of any limits: the longest slice holds at least one block, and whole blocks.
    pub(crate) fn new(limits: FileLimits) -> Self {
        let block = u64::from(limits.block_bytes.max(1));
        let max = limits.max_slice_bytes.max(block);
        Self { max: max - max % block, block }
    }

    /// How many bytes of the `left` ones at `offset` the next slice takes. Not 0 unless `left` is.
    pub(crate) fn next(self, offset: u64, left: u64) -> u64 {
        // The slice's end moves down to a block's edge, which still lies beyond `offset` because `max >= block`.
        left.min(self.max - offset % self.block)
    }

    /// How many slices it takes.
    pub(crate) fn count(self, offset: u64, len: u64) -> u64 {
        let first = self.next(offset, len);
        u64::from(first > 0) + (len - first).div_ceil(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut_all(cut: Cut, mut offset: u64, len: u64) -> Vec<Range<u64>> {
        let (end, mut cuts) = (offset + len, Vec::new());
        while offset < end {
            let step = cut.next(offset, end - offset);
            cuts.push(offset..offset + step);
            offset += step;
        }
        cuts
    }

    proptest! {
        #[test]
        fn slices_cover_the_range_once_and_are_cut_at_blocks(
            max in 1_u64..5000,
            block_shift in 0_u32..13,
            offset in 0_u64..100_000,
            len in 0_u64..100_000,
        ) {
            let limits = FileLimits { max_slice_bytes: max, block_bytes: 1 << block_shift };
            let cut = Cut::new(limits);
            let slices = cut_all(cut, offset, len);
            prop_assert_eq!(slices.len() as u64, cut.count(offset, len));
            let mut at = offset;
            for slice in &slices {
                prop_assert_eq!(slice.start, at);
                let longest = max.max(u64::from(limits.block_bytes));
                prop_assert!(slice.start < slice.end && slice.end - slice.start <= longest);
                prop_assert!(slice.end == offset + len || slice.end % u64::from(limits.block_bytes) == 0);
                at = slice.end;
            }
            prop_assert_eq!(at, offset + len);
        }
    }

    #[test]
    fn senseless_limits_still_cut() {
        let cut = Cut::new(FileLimits { max_slice_bytes: 0, block_bytes: 0 });
        assert_eq!(cut.count(0, 3), 3);
        let cut = Cut::new(FileLimits { max_slice_bytes: u64::MAX, block_bytes: 512 });
        assert_eq!(cut.count(5, u64::MAX - 5), 2);
        assert_eq!(cut.count(0, 0), 0);
    }
}
