//! Scatter and gather lists: many pieces of plain and leased memory for one system call.
//!
//! The list of pieces is scratch that a worker keeps (an [`IoVecs`]), so that no call allocates.

use crate::copy::copy_shared;
use crate::memory::MemSlice;
use std::marker::PhantomData;
use std::ops::Range;

/// The most pieces that one vectored system call takes (IOV_MAX on Linux).
pub const MAX_PIECES: usize = 1024;

/// Scratch for lists of pieces, kept over calls.
#[derive(Default)]
pub struct IoVecs(Vec<libc::iovec>);

// SAFETY: the addresses inside are only meaningful while a `Gather` or `Scatter` borrows this; both clear it first.
unsafe impl Send for IoVecs {}

impl IoVecs {
    /// Scratch with room for [`MAX_PIECES`].
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(MAX_PIECES))
    }

    /// Starts an empty list of memory to send from.
    pub fn gather<'a>(&'a mut self) -> Gather<'a> {
        self.0.clear();
        Gather { pieces: &mut self.0, bytes: 0, memory: PhantomData }
    }

    /// Starts an empty list of memory to receive into.
    pub fn scatter<'a>(&'a mut self) -> Scatter<'a> {
        self.0.clear();
        Scatter { pieces: &mut self.0, bytes: 0, memory: PhantomData }
    }
}

/// Memory to send from, in order.
pub struct Gather<'a> {
    pieces: &'a mut Vec<libc::iovec>,
    bytes: usize,
    memory: PhantomData<&'a [u8]>,
}

impl<'a> Gather<'a> {
    /// Whether another piece fits.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pieces.len() < MAX_PIECES
    }

    /// Adds plain memory. Empty pieces are left out. Callers check [`Self::has_room`] first.
    pub fn push(&mut self, piece: &'a [u8]) {
        self.push_raw(piece.as_ptr().cast_mut(), piece.len());
    }

    /// Adds leased memory, which the reference keeps leased while the list lives.
    pub fn push_leased(&mut self, piece: &'a MemSlice, from: usize) {
        assert!(from <= piece.len(), "{from} is outside {} bytes", piece.len());
        // SAFETY: `from` is inside the slice.
        self.push_raw(unsafe { piece.as_ptr().add(from) }, piece.len() - from);
    }

    /// Adds a part of leased memory, which the reference keeps leased while the list lives.
    ///
    /// # Panics
    /// When the range is not inside, as slicing does.
    pub fn push_leased_range(&mut self, piece: &'a MemSlice, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= piece.len(), "{range:?} is outside {} bytes", piece.len());
        // SAFETY: the range is inside the slice.
        self.push_raw(unsafe { piece.as_ptr().add(range.start) }, range.len());
    }

    fn push_raw(&mut self, start: *mut u8, len: usize) {
        if len > 0 {
            debug_assert!(self.has_room(), "more pieces than one system call takes");
            self.pieces.push(libc::iovec { iov_base: start.cast(), iov_len: len });
            self.bytes += len;
        }
    }

    /// Bytes in all pieces.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends up to `limit` bytes to `to` and tells how many: what a stream in memory does instead of a system call.
    pub fn copy_to(&self, to: &mut Vec<u8>, limit: usize) -> usize {
        let mut left = limit;
        to.reserve(limit.min(self.bytes));
        for piece in self.pieces.iter() {
            let n = piece.iov_len.min(left);
            let end = to.len();
            // SAFETY: every piece came from a reference or lease that `'a` keeps alive; leased memory may change
            // meanwhile, which `copy_shared` tolerates. The pieces copied fit what was reserved, which is no part of
            // any, and the length grows by just what was copied.
            unsafe {
                copy_shared(piece.iov_base.cast::<u8>(), to.as_mut_ptr().add(end), n);
                to.set_len(end + n);
            }
            left -= n;
        }
        limit - left
    }

    pub(crate) fn as_iovecs(&self) -> &[libc::iovec] {
        self.pieces
    }
}

/// Memory to receive into, in order.
pub struct Scatter<'a> {
    pieces: &'a mut Vec<libc::iovec>,
    bytes: usize,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Scatter<'a> {
    /// Whether another piece fits.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pieces.len() < MAX_PIECES
    }

    /// Adds plain memory. Empty pieces are left out. Callers check [`Self::has_room`] first.
    pub fn push(&mut self, piece: &'a mut [u8]) {
        self.push_raw(piece.as_mut_ptr(), piece.len());
    }

    /// Adds leased memory from byte `from` on.
    pub fn push_leased(&mut self, piece: &'a MemSlice, from: usize) {
        assert!(from <= piece.len(), "{from} is outside {} bytes", piece.len());
        // SAFETY: `from` is inside the slice.
        self.push_raw(unsafe { piece.as_ptr().add(from) }, piece.len() - from);
    }

    /// Adds a part of leased memory.
    ///
    /// # Panics
    /// When the range is not inside, as slicing does.
    pub fn push_leased_range(&mut self, piece: &'a MemSlice, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= piece.len(), "{range:?} is outside {} bytes", piece.len());
        // SAFETY: the range is inside the slice.
        self.push_raw(unsafe { piece.as_ptr().add(range.start) }, range.len());
    }

    fn push_raw(&mut self, start: *mut u8, len: usize) {
        if len > 0 {
            debug_assert!(self.has_room(), "more pieces than one system call takes");
            self.pieces.push(libc::iovec { iov_base: start.cast(), iov_len: len });
            self.bytes += len;
        }
    }

    /// Bytes in all pieces.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills the pieces from `from` and tells how many bytes were taken: a stream in memory's receive.
    pub fn copy_from(&mut self, from: &[u8]) -> usize {
        let mut taken = 0;
        for piece in self.pieces.iter() {
            let n = piece.iov_len.min(from.len() - taken);
            // SAFETY: every piece came from an exclusive reference or a lease that `'a` keeps alive; `from` is a
            // plain reference and so overlaps none of them.
            unsafe { copy_shared(from[taken..].as_ptr(), piece.iov_base.cast::<u8>(), n) };
            taken += n;
        }
        taken
    }

    pub(crate) fn as_iovecs(&mut self) -> &mut [libc::iovec] {
        self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::RegisteredMemory;

    #[test]
    fn gathering_copies_the_pieces_in_order_up_to_the_limit() {
        let memory = RegisteredMemory::from((10..20_u8).collect::<Vec<_>>());
        let leased = memory.lease(2..8).unwrap();
        let mut pieces = IoVecs::new();
        let mut gather = pieces.gather();
        gather.push(&[1, 2, 3]);
        gather.push(&[]);
        gather.push_leased(&leased, 4);
        assert_eq!(gather.bytes(), 5);
        assert_eq!(gather.as_iovecs().len(), 2);
        let whole = [1, 2, 3, 16, 17];
        for limit in 0..8 {
            let mut to = vec![99];
            assert_eq!(gather.copy_to(&mut to, limit), limit.min(5));
            assert_eq!(to[1..], whole[..limit.min(5)]);
        }
    }

    #[test]
    fn scattering_fills_the_pieces_in_order() {
        let mut memory = RegisteredMemory::allocate(8);
        let leased = memory.lease(0..6).unwrap();
        let mut plain = [0_u8; 3];
        let mut pieces = IoVecs::new();
        let mut scatter = pieces.scatter();
        scatter.push(&mut plain);
        scatter.push_leased(&leased, 1);
        assert_eq!(scatter.bytes(), 8);
        assert_eq!(scatter.copy_from(&[1, 2, 3, 4, 5]), 5);
        drop(leased);
        assert_eq!(plain, [1, 2, 3]);
        assert_eq!(memory.bytes().unwrap(), [0, 4, 5, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn more_than_fits_is_left() {
        let mut plain = [0_u8; 2];
        let mut pieces = IoVecs::new();
        let mut scatter = pieces.scatter();
        scatter.push(&mut plain);
        assert_eq!(scatter.copy_from(&[1, 2, 3]), 2);
        assert_eq!(plain, [1, 2]);
    }

    #[test]
    fn scratch_is_empty_again_for_each_list() {
        let mut pieces = IoVecs::default();
        let bytes = vec![1_u8; 4];
        let mut gather = pieces.gather();
        for _ in 0..MAX_PIECES {
            assert!(gather.has_room());
            gather.push(&bytes);
        }
        assert!(!gather.has_room());
        assert_eq!(pieces.scatter().bytes(), 0);
    }
}
