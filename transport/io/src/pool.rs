//! Tiered pools of page-aligned buffers.
//!
//! A pool belongs to one worker, so its lock is free when it is taken; buffers may be returned from any thread. What
//! a pool holds, lent and idle together, never exceeds its limit: at the limit [`BufferPool::get`] gives nothing and
//! the caller waits for one of its own buffers to come back. Memory that is used anew all the time should not be the
//! system's in between, which clears it page by page: [`BufferPool::decay`] gives back only what was not needed of late.

use crate::memory::{AlignedBuf, PAGE_BYTES};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sizes that a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// Size of the smallest buffers, in bytes; raised to whole pages.
    pub first_bytes: usize,
    /// How many sizes there are; at least 1.
    pub tiers: usize,
    /// Each size is this many times the one before; at least 2.
    pub multiple: usize,
    /// The most bytes that buffers may hold, lent and idle together.
    pub max_bytes: usize,
    /// The most bytes that idle buffers may hold; what comes back beyond that is freed.
    pub max_idle_bytes: usize,
}

impl Default for PoolConfig {
    /// 4 KiB, 16 KiB, 64 KiB, 256 KiB, 1 MiB; 64 MiB in all, 16 MiB of them idle.
    fn default() -> Self {
        Self { first_bytes: PAGE_BYTES, tiers: 5, multiple: 4, max_bytes: 64 << 20, max_idle_bytes: 16 << 20 }
    }
}

/// What a pool holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Bytes in buffers that are lent.
    pub in_use_bytes: usize,
    /// Bytes in buffers that wait to be lent again.
    pub free_bytes: usize,
    /// The most bytes that were ever lent at once.
    pub peak_bytes: usize,
    /// Buffers that had to be allocated, ever.
    pub allocations: u64,
}

/// A pool of page-aligned buffers in a few sizes. Clones are the same pool.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    /// Sizes of the tiers in bytes, ascending.
    sizes: Box<[usize]>,
    max_bytes: usize,
    max_idle_bytes: usize,
    state: Mutex<State>,
}

struct State {
    /// Idle buffers, by tier.
    free: Box<[Vec<AlignedBuf>]>,
    stats: PoolStats,
    /// The most bytes that were lent at once since the last decay.
    recent_peak_bytes: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code under the lock can panic between two states that disagree, so a poisoned lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BufferPool {
    /// An empty pool; buffers are allocated as they are asked for.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        let first = config.first_bytes.max(1).next_multiple_of(PAGE_BYTES);
        let multiple = config.multiple.max(2);
        let sizes: Box<[usize]> =
            std::iter::successors(Some(first), |size| size.checked_mul(multiple)).take(config.tiers.max(1)).collect();
        let state = State {
            free: sizes.iter().map(|_| Vec::new()).collect(),
            stats: PoolStats::default(),
            recent_peak_bytes: 0,
        };
        Self {
            shared: Arc::new(Shared {
                sizes,
                max_bytes: config.max_bytes,
                max_idle_bytes: config.max_idle_bytes,
                state: Mutex::new(state),
            }),
        }
    }

    /// The size of the largest buffers, in bytes.
    #[must_use]
    pub fn largest_bytes(&self) -> usize {
        self.shared.sizes.last().copied().unwrap_or(0)
    }

    /// Lends a buffer of at least `len_bytes`, or nothing: at the limit, or beyond [`Self::largest_bytes`].
    ///
    /// Its bytes are initialised, but may be what an earlier user left.
    #[must_use]
    pub fn get(&self, len_bytes: usize) -> Option<PoolBuf> {
        let tier = self.shared.sizes.iter().position(|&size| size >= len_bytes)?;
        let size = self.shared.sizes[tier];
        let mut evicted = Vec::new();
        let idle = {
            let mut state = self.shared.lock();
            let idle = state.free[tier].pop();
            if idle.is_some() {
                state.stats.free_bytes -= size;
            } else {
                self.make_room(&mut state, size, &mut evicted)?;
                state.stats.allocations += 1;
            }
            state.stats.in_use_bytes += size;
            if state.stats.in_use_bytes > state.recent_peak_bytes {
                state.recent_peak_bytes = state.stats.in_use_bytes;
                state.stats.peak_bytes = state.stats.peak_bytes.max(state.recent_peak_bytes);
            }
            idle
        };
        let buffer = idle.unwrap_or_else(|| AlignedBuf::pages(size));
        Some(PoolBuf { buffer: Some(buffer), tier, shared: Arc::clone(&self.shared) })
    }

    /// Frees idle buffers of other sizes until `size` more bytes fit the limit.
    fn make_room(&self, state: &mut State, size: usize, evicted: &mut Vec<AlignedBuf>) -> Option<()> {
        let room = self.shared.max_bytes.checked_sub(size)?;
        let may_be_free = room.checked_sub(state.stats.in_use_bytes)?;
        self.keep(state, may_be_free, evicted);
        Some(())
    }

    /// Takes idle buffers out, the largest first, until no more than so many bytes are left.
    fn keep(&self, state: &mut State, may_be_free: usize, evicted: &mut Vec<AlignedBuf>) {
        for tier in (0..self.shared.sizes.len()).rev() {
            while state.stats.free_bytes > may_be_free {
                let Some(buffer) = state.free[tier].pop() else { break };
                state.stats.free_bytes -= self.shared.sizes[tier];
                evicted.push(buffer);
            }
        }
    }

    /// Gives idle memory back to the system that was not needed since the last call, but for `keep_bytes`. To be called
    /// now and then; a second call after the last use leaves no more than that.
    pub fn decay(&self, keep_bytes: usize) {
        let mut evicted = Vec::new();
        let mut state = self.shared.lock();
        let in_use = state.stats.in_use_bytes;
        let recently_free = std::mem::replace(&mut state.recent_peak_bytes, in_use).saturating_sub(in_use);
        self.keep(&mut state, recently_free.max(keep_bytes), &mut evicted);
        drop(state);
        drop(evicted);
    }

    /// Gives all idle memory back to the system and tells how many bytes that were.
    pub fn trim(&self) -> usize {
        let mut freed = Vec::new();
        let mut state = self.shared.lock();
        for list in &mut state.free {
            freed.append(list);
        }
        let bytes = std::mem::take(&mut state.stats.free_bytes);
        drop(state);
        drop(freed);
        bytes
    }

    /// What the pool holds now.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.shared.lock().stats
    }
}

impl std::fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufferPool").field("sizes", &self.shared.sizes).field("stats", &self.stats()).finish()
    }
}

/// A buffer lent by a pool, to which it returns when dropped. It derefs to all bytes that its size has.
pub struct PoolBuf {
    /// Present until the drop.
    buffer: Option<AlignedBuf>,
    tier: usize,
    shared: Arc<Shared>,
}

impl PoolBuf {
    /// The address of the first byte, for the kernel. Valid while the buffer is not dropped, also when it moves.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.buffer.as_ref().map_or(std::ptr::null_mut(), AlignedBuf::as_ptr)
    }
}

impl Deref for PoolBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        let size = self.shared.sizes[self.tier];
        let mut state = self.shared.lock();
        state.stats.in_use_bytes -= size;
        if state.stats.free_bytes + size <= self.shared.max_idle_bytes {
            state.stats.free_bytes += size;
            state.free[self.tier].extend(self.buffer.take());
        }
    }
}

impl std::fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolBuf({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(max_bytes: usize, max_idle_bytes: usize) -> BufferPool {
        BufferPool::new(PoolConfig { first_bytes: 4096, tiers: 3, multiple: 4, max_bytes, max_idle_bytes })
    }

    /// Bytes lent, idle, and lent at most.
    fn bytes(pool: &BufferPool) -> (usize, usize, usize) {
        let stats = pool.stats();
        (stats.in_use_bytes, stats.free_bytes, stats.peak_bytes)
    }

    #[test]
    fn a_buffer_has_the_smallest_size_that_fits_and_is_page_aligned() {
        let pool = pool(1 << 20, 1 << 20);
        assert_eq!(pool.largest_bytes(), 65_536);
        for (asked, size) in [(0, 4096), (1, 4096), (4096, 4096), (4097, 16_384), (16_385, 65_536), (65_536, 65_536)] {
            let mut buffer = pool.get(asked).unwrap();
            assert_eq!(buffer.len(), size, "{asked}");
            assert_eq!(buffer.as_ptr() as usize % PAGE_BYTES, 0);
            buffer.fill(1);
        }
        assert!(pool.get(65_537).is_none());
    }

    #[test]
    fn at_the_limit_it_gives_nothing_until_something_comes_back() {
        let pool = pool(3 * 4096, 3 * 4096);
        let held: Vec<_> = (0..3).map(|_| pool.get(1).unwrap()).collect();
        assert!(pool.get(1).is_none());
        assert_eq!(bytes(&pool), (12_288, 0, 12_288));
        drop(held);
        assert_eq!(bytes(&pool), (0, 12_288, 12_288));
        assert!(pool.get(1).is_some());
        assert!(pool.get(4097).is_none(), "a size beyond the whole limit");
    }

    #[test]
    fn buffers_are_used_again() {
        let pool = pool(1 << 20, 1 << 20);
        let first = pool.get(5000).unwrap().as_ptr();
        assert_eq!(pool.get(6000).unwrap().as_ptr(), first);
    }

    #[test]
    fn idle_buffers_of_one_size_make_room_for_another() {
        let pool = pool(65_536, 65_536);
        drop((0..4).map(|_| pool.get(16_384).unwrap()).collect::<Vec<_>>());
        assert_eq!(bytes(&pool), (0, 65_536, 65_536));
        let _large = pool.get(65_536).unwrap();
        assert_eq!(bytes(&pool), (65_536, 0, 65_536));
    }

    #[test]
    fn no_more_stays_idle_than_allowed_and_trimming_frees_all() {
        let pool = pool(1 << 20, 2 * 4096);
        drop((0..5).map(|_| pool.get(1).unwrap()).collect::<Vec<_>>());
        assert_eq!(bytes(&pool), (0, 8192, 20_480));
        assert_eq!(pool.trim(), 8192);
        assert_eq!(pool.trim(), 0);
        assert_eq!(bytes(&pool), (0, 0, 20_480));
    }

    #[test]
    fn what_is_used_again_and_again_stays_and_the_rest_decays() {
        let pool = pool(1 << 20, 1 << 20);
        let use_it = |buffers: usize| drop((0..buffers).map(|_| pool.get(65_536).unwrap()).collect::<Vec<_>>());
        for _ in 0..10 {
            use_it(8);
            pool.decay(65_536);
        }
        assert_eq!(pool.stats().allocations, 8);
        // Half as much: what was needed before stays once more, and then what is needed now.
        use_it(4);
        pool.decay(65_536);
        assert_eq!(pool.stats().free_bytes, 4 * 65_536);
        let held = pool.get(65_536).unwrap();
        pool.decay(0);
        assert_eq!(bytes(&pool), (65_536, 0, 8 * 65_536), "nothing but what is lent was needed");
        drop(held);
        pool.decay(65_536);
        pool.decay(65_536);
        assert_eq!(pool.stats().free_bytes, 65_536, "so much is kept");
        pool.decay(0);
        assert_eq!(pool.stats().free_bytes, 0);
    }

    #[test]
    fn buffers_come_back_from_other_threads_and_after_the_pool() {
        let pool = pool(1 << 20, 1 << 20);
        let buffer = pool.get(1).unwrap();
        let last = pool.get(1).unwrap();
        std::thread::spawn(move || drop(buffer)).join().unwrap();
        assert_eq!(bytes(&pool), (4096, 4096, 8192));
        drop(pool);
        assert_eq!(last.len(), 4096);
    }

    #[test]
    fn odd_sizes_are_made_good() {
        let config = PoolConfig { first_bytes: 1, tiers: 0, multiple: 0, max_bytes: 8192, max_idle_bytes: 0 };
        let pool = BufferPool::new(config);
        assert_eq!(pool.largest_bytes(), 4096);
        let huge = PoolConfig { first_bytes: 1 << 62, tiers: 9, multiple: 1 << 40, max_bytes: 8192, max_idle_bytes: 0 };
        assert!(BufferPool::new(huge).get(1).is_none());
    }
}
