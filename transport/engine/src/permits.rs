//! The bound on what is under way in one engine: permits for slices and for bytes (P2).
//!
//! Both counts stand in one word, so that taking and returning them is one atomic operation. Whoever finds too few
//! may wait in line; as long as someone waits, nobody passes by.

use crate::deadline::Deadline;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of the word that count bytes; the rest counts slices.
const BYTE_BITS: u32 = 44;
/// The most slices that the word can hold.
pub(crate) const MOST_SLICES: u32 = (1 << (64 - BYTE_BITS)) - 1;
/// The most bytes that the word can hold.
pub(crate) const MOST_BYTES: u64 = (1 << BYTE_BITS) - 1;

/// A number of slices and bytes that is within [`MOST_SLICES`] and [`MOST_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Share(u64);

impl Share {
    pub(crate) fn new(slices: u32, bytes: u64) -> Option<Self> {
        (slices <= MOST_SLICES && bytes <= MOST_BYTES).then_some(Self(u64::from(slices) << BYTE_BITS | bytes))
    }

    /// Both together, where that still fits.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        Self::new(self.slices() + other.slices(), self.bytes() + other.bytes())
    }

    pub(crate) fn slices(self) -> u32 {
        // Lossless: 20 bits are left.
        (self.0 >> BYTE_BITS) as u32
    }

    pub(crate) fn bytes(self) -> u64 {
        self.0 & MOST_BYTES
    }

    /// As the word that counts it.
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    pub(crate) fn from_word(word: u64) -> Self {
        Self(word)
    }

    fn covers(self, need: Self) -> bool {
        self.slices() >= need.slices() && self.bytes() >= need.bytes()
    }
}

/// A value alone on its cache line, so that threads that change it do not slow those that read its neighbours.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(pub(crate) T);

pub(crate) struct Permits {
    available: Alone<AtomicU64>,
    /// How many stand in `line`; read by every release, changed rarely.
    waiting: Alone<AtomicU32>,
    line: Mutex<Line>,
    moved: Condvar,
    limit: Share,
}

#[derive(Default)]
struct Line {
    tickets: VecDeque<u64>,
    next_ticket: u64,
}

impl Permits {
    pub(crate) fn new(limit: Share) -> Self {
        Self {
            available: Alone(AtomicU64::new(limit.word())),
            waiting: Alone::default(),
            line: Mutex::default(),
            moved: Condvar::new(),
            limit,
        }
    }

    pub(crate) fn limit(&self) -> Share {
        self.limit
    }

    /// How much is free now.
    pub(crate) fn available(&self) -> Share {
        Share(self.available.0.load(Ordering::Relaxed))
    }

    /// Takes permits for as many needs from the front as there are now, unless someone waits in line.
    /// Returns how many needs were served.
    pub(crate) fn try_take(&self, needs: impl Iterator<Item = Share> + Clone) -> usize {
        if self.waiting.0.load(Ordering::SeqCst) > 0 { 0 } else { self.take_prefix(needs) }
    }

    fn take_prefix(&self, needs: impl Iterator<Item = Share> + Clone) -> usize {
        let mut now = self.available.0.load(Ordering::SeqCst);
        loop {
            let (mut count, mut sum) = (0, Share::default());
            for need in needs.clone() {
                match sum.plus(need) {
                    Some(more) if Share(now).covers(more) => sum = more,
                    _ => break,
                }
                count += 1;
            }
            // Both parts of `now` are at least those of `sum`, so that no borrow crosses between them.
            match self.available.0.compare_exchange_weak(now, now - sum.0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return count,
                Err(newer) => now = newer,
            }
        }
    }

    /// Stands in line until at least the first need can be served, and serves as many from the front as can be then.
    /// Returns 0 when the deadline passed first.
    pub(crate) fn take(&self, needs: impl Iterator<Item = Share> + Clone, deadline: Deadline) -> usize {
        let mut line = self.line.lock();
        let ticket = line.next_ticket;
        line.next_ticket += 1;
        line.tickets.push_back(ticket);
        self.waiting.0.fetch_add(1, Ordering::SeqCst);
        let taken = loop {
            if line.tickets.front() == Some(&ticket) {
                let taken = self.take_prefix(needs.clone());
                if taken > 0 {
                    break taken;
                }
            }
            if self.moved.wait_until(&mut line, deadline.instant()).timed_out() {
                // One look more: what was returned in the meantime may be for this very ticket.
                break if line.tickets.front() == Some(&ticket) { self.take_prefix(needs) } else { 0 };
            }
        };
        line.tickets.retain(|other| *other != ticket);
        self.waiting.0.fetch_sub(1, Ordering::SeqCst);
        self.moved.notify_all();
        taken
    }

    /// Whether someone waits in line.
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiting.0.load(Ordering::SeqCst) > 0
    }

    /// Returns permits.
    pub(crate) fn release(&self, share: Share) {
        self.available.0.fetch_add(share.0, Ordering::SeqCst);
        if self.has_waiters() {
            // Taking the lock orders this wake-up after the waiter's own look at `available`.
            drop(self.line.lock());
            self.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter::{once, repeat_n};
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    fn share(slices: u32, bytes: u64) -> Share {
        Share::new(slices, bytes).unwrap()
    }

    #[test]
    fn shares_beyond_the_word_are_refused() {
        assert!(Share::new(MOST_SLICES, MOST_BYTES).is_some());
        assert!(Share::new(MOST_SLICES + 1, 0).is_none());
        assert!(Share::new(0, MOST_BYTES + 1).is_none());
        assert!(share(MOST_SLICES, 0).plus(share(1, 0)).is_none());
        assert!(share(0, MOST_BYTES).plus(share(0, 1)).is_none());
    }

    #[test]
    fn the_longest_prefix_that_fits_is_taken() {
        let permits = Permits::new(share(10, 100));
        assert_eq!(permits.try_take(repeat_n(share(1, 30), 5)), 3);
        assert_eq!(permits.available(), share(7, 10));
        assert_eq!(permits.try_take(once(share(8, 1))), 0);
        assert_eq!(permits.try_take(once(share(7, 10))), 1);
        permits.release(share(10, 100));
        assert_eq!(permits.available(), permits.limit());
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_leaves_the_line() {
        let permits = Permits::new(share(1, 10));
        assert_eq!(permits.try_take(once(share(1, 1))), 1);
        assert_eq!(permits.take(once(share(1, 1)), Deadline::after(Duration::from_millis(5))), 0);
        assert!(!permits.has_waiters());
        permits.release(share(1, 1));
        assert_eq!(permits.take(once(share(1, 1)), Deadline::after(Duration::from_secs(10))), 1);
    }

    #[test]
    fn nobody_passes_those_who_wait() {
        let permits = Permits::new(share(2, 10));
        assert_eq!(permits.try_take(once(share(1, 1))), 1);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| permits.take(once(share(2, 2)), Deadline::after(Duration::from_secs(60))));
            while !permits.has_waiters() {
                std::thread::yield_now();
            }
            assert_eq!(permits.try_take(once(share(1, 1))), 0);
            permits.release(share(1, 1));
            assert_eq!(waiter.join().unwrap(), 1);
        });
        assert_eq!(permits.available(), share(0, 8));
    }

    #[test]
    fn many_threads_never_hold_more_than_the_limit_and_lose_nothing() {
        let permits = Arc::new(Permits::new(share(5, 50)));
        let held = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..8_u64)
            .map(|thread| {
                let (permits, held) = (Arc::clone(&permits), Arc::clone(&held));
                std::thread::spawn(move || {
                    for round in 0..2000_u64 {
                        let need = share(1 + ((thread + round) % 3) as u32, 1 + (thread * 7 + round) % 25);
                        let deadline = Deadline::after(Duration::from_secs(60));
                        assert_eq!(permits.take(once(need), deadline), 1);
                        let now = held.fetch_add(need.word(), Ordering::SeqCst) + need.word();
                        assert!(Share(now).slices() <= 5 && Share(now).bytes() <= 50, "{:?}", Share(now));
                        held.fetch_sub(need.word(), Ordering::SeqCst);
                        permits.release(need);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(permits.available(), permits.limit());
    }
}
