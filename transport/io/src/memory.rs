//! Aligned buffers, registered memory and the slices leased from it.
//!
//! A transfer's memory is written and read by worker threads and by the kernel while the caller goes on. So
//! registered memory is either the caller's (exclusive access through [`RegisteredMemory::bytes`]) or the
//! transfers' (any number of [`MemSlice`]s); a slice keeps the memory alive until the transport is really done
//! with it, also when the caller has given up.

use crate::copy::copy_shared;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The alignment that suits every device and file system met so far, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// Why memory could not be used as asked.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// A range reaches beyond the memory.
    #[error("range {start}..{end} is outside the memory of {len} bytes")]
    OutOfRange {
        /// First byte asked for.
        start: usize,
        /// One past the last byte asked for.
        end: usize,
        /// Bytes there are.
        len: usize,
    },
    /// Transfers still use the memory.
    #[error("transfers still use this memory: wait for their batch first")]
    Leased,
}

/// An owned, zeroed buffer whose address is a multiple of its alignment.
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer is owned memory without interior sharing, like a `Box<[u8]>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above: shared references give reads only.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// Allocates `len_bytes` zeroed bytes aligned to `align_bytes` (a power of two; smaller values are raised to 1).
    ///
    /// # Panics
    /// When the size overflows the address space, as `Vec` does.
    #[must_use]
    pub fn zeroed(len_bytes: usize, align_bytes: usize) -> Self {
        let align = align_bytes.max(1).next_power_of_two();
        let layout = Layout::from_size_align(len_bytes.max(1), align).expect("capacity overflow");
        // SAFETY: the layout's size is not zero.
        let Some(ptr) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        // `len` is kept in the layout; a zero-length buffer holds one byte that nobody sees.
        let layout = Layout::from_size_align(len_bytes, align).expect("smaller than the layout above");
        Self { ptr, layout }
    }

    /// Allocates `len_bytes` zeroed bytes aligned to [`PAGE_BYTES`].
    #[must_use]
    pub fn pages(len_bytes: usize) -> Self {
        Self::zeroed(len_bytes, PAGE_BYTES)
    }

    /// The address of the first byte, for the kernel; it stays when the value moves.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.layout.size().max(1), self.layout.align()).expect("as allocated");
        // SAFETY: allocated in `zeroed` with this very layout.
        unsafe { dealloc(self.ptr.as_ptr(), layout) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `size` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.layout.size()) }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes, aligned to {})", self.layout.size(), self.layout.align())
    }
}

/// What keeps the bytes alive. Never read: its drop is what matters.
enum Owner {
    Buffer { _buffer: AlignedBuf },
    Vec { _vec: Vec<u8> },
    Caller,
}

/// Memory from this size on is leased by many threads at once, most likely.
const SHARED_BYTES: usize = 1 << 20;
/// Places where leases of such memory are counted.
const PLACES: usize = 16;

/// Where leases of memory are counted, alone on its cache lines: threads that each count in a place of their own do not wait
/// for each other.
#[repr(align(128))]
struct Leases {
    start: NonNull<u8>,
    _owner: Arc<Owner>,
}

// SAFETY: it only hands out raw copies and addresses; exclusive access needs the sole `Arc` of all places.
unsafe impl Send for Leases {}
// SAFETY: as above.
unsafe impl Sync for Leases {}

/// A number for each thread that asks, counted from 0.
fn this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static THREAD: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    THREAD.with(|thread| *thread)
}

/// Memory that transfers may read and write. One owner holds it; transfers lease slices of it.
pub struct RegisteredMemory {
    start: NonNull<u8>,
    len: usize,
    /// At least one.
    places: Box<[Arc<Leases>]>,
}

// SAFETY: as of `Leases`: bytes are given out to whoever holds `&mut`, and only while nothing is leased.
unsafe impl Send for RegisteredMemory {}
// SAFETY: as above.
unsafe impl Sync for RegisteredMemory {}

impl RegisteredMemory {
    /// Allocates zeroed, page-aligned memory.
    #[must_use]
    pub fn allocate(len_bytes: usize) -> Self {
        Self::from(AlignedBuf::pages(len_bytes))
    }

    /// Registers memory that something else owns, such as a host application's through the C interface.
    ///
    /// # Safety
    /// `start..start + len` must stay valid for reads and writes until this value and every slice leased from it
    /// are gone, and nothing may hold Rust references to these bytes while transfers use them.
    #[must_use]
    pub unsafe fn from_raw(start: NonNull<u8>, len: usize) -> Self {
        Self::new(start, len, Owner::Caller)
    }

    fn new(start: NonNull<u8>, len: usize, owner: Owner) -> Self {
        let owner = Arc::new(owner);
        let leases = || Arc::new(Leases { start, _owner: Arc::clone(&owner) });
        let places = if len >= SHARED_BYTES { PLACES } else { 1 };
        Self { start, len, places: (0..places).map(|_| leases()).collect() }
    }

    /// Bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, as a number.
    #[must_use]
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// The bytes, for the caller alone.
    ///
    /// # Errors
    /// [`MemoryError::Leased`] while a transfer still uses any part.
    pub fn bytes(&mut self) -> Result<&mut [u8], MemoryError> {
        // One place after the other: what has none leased stays so, as new leases need `&self` or a lease of that place.
        if !self.places.iter_mut().all(|place| Arc::get_mut(place).is_some()) {
            return Err(MemoryError::Leased);
        }
        // SAFETY: the owner has (or the memory's maker vouches for) `len` bytes at `start`; `get_mut` proved that no
        // slice exists, and `&mut self` keeps new ones from being leased while the reference lives.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }

    /// Whether a transfer still uses any part.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.places.iter().any(|place| Arc::strong_count(place) > 1)
    }

    /// Leases a range to a transfer.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] when the range is not inside.
    pub fn lease(&self, range: Range<usize>) -> Result<MemSlice, MemoryError> {
        if range.start > range.end || range.end > self.len {
            return Err(MemoryError::OutOfRange { start: range.start, end: range.end, len: self.len });
        }
        let place = if self.places.len() == 1 { 0 } else { this_thread() % self.places.len() };
        let leases = Arc::clone(&self.places[place]);
        Ok(MemSlice { leases, offset: range.start, len: range.end - range.start })
    }
}

impl From<AlignedBuf> for RegisteredMemory {
    fn from(buffer: AlignedBuf) -> Self {
        let (start, len) = (buffer.ptr, buffer.len());
        Self::new(start, len, Owner::Buffer { _buffer: buffer })
    }
}

impl From<Vec<u8>> for RegisteredMemory {
    fn from(mut vec: Vec<u8>) -> Self {
        let len = vec.len();
        let start = NonNull::new(vec.as_mut_ptr()).unwrap_or(NonNull::dangling());
        Self::new(start, len, Owner::Vec { _vec: vec })
    }
}

impl std::fmt::Debug for RegisteredMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegisteredMemory({} bytes)", self.len)
    }
}

/// A leased range of registered memory: what a transfer reads or fills.
///
/// It gives no references to its bytes, only copies in and out and (inside this crate) addresses for the kernel:
/// two transfers told to fill the same bytes leave them unspecified, as two devices would.
#[derive(Clone)]
pub struct MemSlice {
    leases: Arc<Leases>,
    offset: usize,
    len: usize,
}

impl MemSlice {
    /// Bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, as a number: for alignment checks.
    #[must_use]
    pub fn address(&self) -> usize {
        self.as_ptr() as usize
    }

    /// A part of this slice, with its own lease.
    ///
    /// # Panics
    /// When the range is not inside, as slicing does.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is outside {} bytes", self.len);
        Self { leases: Arc::clone(&self.leases), offset: self.offset + range.start, len: range.end - range.start }
    }

    /// Copies `from` into the slice at `at`.
    ///
    /// # Panics
    /// When it does not fit, as slicing does.
    pub fn copy_from(&self, at: usize, from: &[u8]) {
        assert!(at <= self.len && from.len() <= self.len - at, "{} bytes at {at} do not fit {}", from.len(), self.len);
        // SAFETY: bounds checked above; the region is alive; `from` is a Rust reference and so no part of the
        // region (references to it exist only while nothing is leased).
        unsafe { copy_shared(from.as_ptr(), self.as_ptr().add(at), from.len()) }
    }

    /// Copies from the slice at `at` into `to`.
    ///
    /// # Panics
    /// When there are not that many bytes, as slicing does.
    pub fn copy_to(&self, at: usize, to: &mut [u8]) {
        assert!(at <= self.len && to.len() <= self.len - at, "{} bytes at {at} are not in {}", to.len(), self.len);
        // SAFETY: as in `copy_from`.
        unsafe { copy_shared(self.as_ptr().add(at), to.as_mut_ptr(), to.len()) }
    }

    /// The bytes, copied out.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.copy_to(0, &mut bytes);
        bytes
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `offset` is within the memory, by construction.
        unsafe { self.leases.start.as_ptr().add(self.offset) }
    }
}

impl std::fmt::Debug for MemSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemSlice({}..{})", self.offset, self.offset + self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_buffers_are_aligned_zeroed_and_as_long_as_asked() {
        for (len, align) in [(0, 1), (1, 512), (4096, 4096), (12_345, 4096), (65_536, 65_536), (10, 3)] {
            let mut buffer = AlignedBuf::zeroed(len, align);
            assert_eq!(buffer.len(), len);
            assert!((buffer.as_ptr() as usize).is_multiple_of(align.next_power_of_two()));
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn the_caller_sees_its_bytes_only_while_nothing_is_leased() {
        let mut memory = RegisteredMemory::from(vec![1_u8; 100]);
        memory.bytes().unwrap()[10] = 5;
        let slice = memory.lease(10..20).unwrap();
        let part = slice.slice(0..1);
        assert_eq!(memory.bytes(), Err(MemoryError::Leased));
        drop(slice);
        assert!(memory.is_leased());
        assert_eq!(part.to_vec(), [5]);
        part.copy_from(0, &[6]);
        drop(part);
        assert_eq!(memory.bytes().unwrap()[10], 6);
    }

    #[test]
    fn large_memory_is_leased_as_long_as_any_thread_has_a_part() {
        let mut memory = RegisteredMemory::allocate(2 * SHARED_BYTES);
        assert_eq!(memory.places.len(), PLACES);
        let lease = |at: usize| memory.lease(at..at + 1).unwrap();
        let slices: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2 * PLACES).map(|at| scope.spawn(move || lease(at))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for slice in slices {
            assert!(memory.is_leased());
            assert_eq!(memory.bytes(), Err(MemoryError::Leased));
            drop(slice);
        }
        assert!(!memory.is_leased());
        assert_eq!(memory.bytes().unwrap().len(), 2 * SHARED_BYTES);
    }

    #[test]
    fn ranges_outside_are_refused() {
        let memory = RegisteredMemory::allocate(4096);
        assert!(memory.lease(0..4096).is_ok() && memory.lease(4096..4096).is_ok());
        for range in [0..4097, 4097..4097, Range { start: 2, end: 1 }, usize::MAX..usize::MAX] {
            let refused = memory.lease(range.clone());
            assert!(matches!(refused, Err(MemoryError::OutOfRange { len: 4096, .. })), "{range:?}");
        }
        assert_eq!(memory.address() % PAGE_BYTES, 0);
    }

    #[test]
    fn a_slice_outlives_its_memory() {
        let memory = RegisteredMemory::from(vec![3_u8; 10]);
        let slice = memory.lease(2..8).unwrap();
        drop(memory);
        slice.copy_from(1, &[9, 9]);
        let mut out = [0; 4];
        slice.copy_to(0, &mut out);
        assert_eq!(out, [3, 9, 9, 3]);
    }

    #[test]
    fn threads_may_race_for_the_same_bytes() {
        let memory = RegisteredMemory::allocate(256);
        std::thread::scope(|scope| {
            for value in [1_u8, 2] {
                let slice = memory.lease(0..256).unwrap();
                scope.spawn(move || {
                    for _ in 0..20 {
                        slice.copy_from(0, &[value; 256]);
                        assert_eq!(slice.to_vec().len(), 256);
                    }
                });
            }
        });
        assert!(memory.lease(0..256).unwrap().to_vec().iter().all(|byte| [1, 2].contains(byte)));
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn copying_beyond_a_slice_panics() {
        RegisteredMemory::allocate(8).lease(0..4).unwrap().copy_from(2, &[0; 3]);
    }

    #[test]
    #[should_panic(expected = "is outside")]
    fn slicing_beyond_a_slice_panics() {
        let _ = RegisteredMemory::allocate(8).lease(0..4).unwrap().slice(0..5);
    }
}
