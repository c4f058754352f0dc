//! What a batch shares with its slices: the slots, the counts, the errors, and who waits.
//!
//! Ending a slice takes three atomic operations and no lock: the slot's word, the permits owed, the counts. A lock is
//! taken only to note a failure or to wake someone whose condition has come true.

use super::slot::{About, Slot};
use crate::engine::segments::OpenSegment;
use crate::ids::TransferState;
use crate::permits::{Alone, Permits, Share};
use crate::slice::{Failure, SliceSink};
use crate::transfer_error::TransferError;
use nvferry_io::clock;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

/// How long after a request's deadline the batch itself declares that the transport did not answer. Transports end
/// their slices at the deadline; what they say is better than what the batch could.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// In `earliest_ns`: nothing has a deadline.
const NEVER_NS: u64 = u64::MAX;

/// Slices that have not ended count in the upper half of `counts`, requests that have not ended in the lower.
const ONE_SLICE: u64 = 1 << 32;

pub(crate) struct Shared {
    slots: Box<[Slot]>,
    /// Changed by every slice that ends.
    busy: Alone<Busy>,
    /// How many slots hold requests.
    submitted: AtomicU32,
    /// Waiters are to be woken when fewer requests than this have not ended; 0 when nobody waits.
    wake_below: AtomicU32,
    /// No request's deadline is earlier; may be earlier than all of them.
    earliest_ns: AtomicU64,
    failed: AtomicU32,
    /// Whether the engine's ticker looks after its deadlines, because someone awaits it.
    pub(crate) ticked: AtomicBool,
    waiters: Mutex<Vec<Waker>>,
    ended: Condvar,
    errors: Mutex<Errors>,
    /// The segments that its requests are or were about, the last one first.
    segments: Mutex<Vec<Arc<Known>>>,
    permits: Arc<Permits>,
    /// Permits owed are returned in lots of this many slices.
    permit_lot: u32,
    epoch: Instant,
}

/// A segment, as one batch refers to it: threads that wait for other batches do not count references in the same place.
pub(super) struct Known(Arc<OpenSegment>);

impl Deref for Known {
    type Target = OpenSegment;

    fn deref(&self) -> &OpenSegment {
        &self.0
    }
}

#[derive(Default)]
struct Busy {
    counts: AtomicU64,
    /// Permits of slices that have ended and are not returned yet.
    owed: AtomicU64,
}

#[derive(Default)]
struct Errors {
    first: Option<Arc<TransferError>>,
    by_request: HashMap<u32, Arc<TransferError>>,
}

impl Errors {
    fn note(&mut self, request: u32, error: impl FnOnce() -> TransferError) {
        let error = self.by_request.entry(request).or_insert_with(|| Arc::new(error()));
        self.first.get_or_insert_with(|| Arc::clone(error));
    }
}

impl Shared {
    pub(super) fn new(capacity: u32, permits: Arc<Permits>) -> Self {
        Self {
            slots: (0..capacity).map(|_| Slot::default()).collect(),
            busy: Alone::default(),
            submitted: AtomicU32::new(0),
            wake_below: AtomicU32::new(0),
            earliest_ns: AtomicU64::new(NEVER_NS),
            failed: AtomicU32::new(0),
            ticked: AtomicBool::new(false),
            waiters: Mutex::default(),
            ended: Condvar::new(),
            errors: Mutex::default(),
            segments: Mutex::default(),
            // Small enough that what batches withhold never matters to the limit.
            permit_lot: (permits.limit().slices() / 1024).clamp(1, 64),
            permits,
            epoch: clock::now(),
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        // Lossless: made from a u32.
        self.slots.len() as u32
    }

    pub(super) fn permits(&self) -> &Permits {
        &self.permits
    }

    pub(super) fn submitted(&self) -> u32 {
        self.submitted.load(Ordering::SeqCst)
    }

    /// Requests that have not ended.
    pub(crate) fn pending(&self) -> u32 {
        self.busy.0.counts.load(Ordering::SeqCst) as u32
    }

    /// Slices that the transports have not let go of.
    pub(super) fn slices_under_way(&self) -> u32 {
        (self.busy.0.counts.load(Ordering::SeqCst) >> 32) as u32
    }

    /// Requests that have ended. May lag behind while others submit.
    pub(super) fn ended(&self) -> u32 {
        let submitted = self.submitted();
        submitted.saturating_sub(self.pending())
    }

    pub(super) fn failed(&self) -> u32 {
        self.failed.load(Ordering::SeqCst)
    }

    pub(super) fn slot(&self, request: u32) -> Option<&Slot> {
        (request < self.submitted()).then(|| self.slots.get(request as usize)).flatten()
    }

    pub(super) fn to_ns(&self, instant: Instant) -> u64 {
        // 2^64 nanoseconds are 584 years.
        instant.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    pub(super) fn error(&self, request: u32) -> Option<Arc<TransferError>> {
        self.errors.lock().by_request.get(&request).cloned()
    }

    pub(super) fn first_error(&self) -> Option<Arc<TransferError>> {
        self.errors.lock().first.clone()
    }

    /// Remembers a segment that requests are about: for their errors, and for whoever waits.
    pub(super) fn remember(&self, segment: &Arc<OpenSegment>) {
        let mut segments = self.segments.lock();
        match segments.iter().position(|known| Arc::ptr_eq(&known.0, segment)) {
            Some(0) => {}
            Some(at) => segments[..=at].rotate_right(1),
            None => segments.insert(0, Arc::new(Known(Arc::clone(segment)))),
        }
    }

    /// The segment that its last requests are about, one of them if there are several.
    pub(super) fn segment(&self) -> Option<Arc<Known>> {
        self.segments.lock().first().cloned()
    }

    /// Takes in requests: fills the next slots, from each `(about, slices)`; without slices the request waits.
    /// The caller makes sure that they fit, and holds the batch's submit lock.
    pub(super) fn take_in(&self, requests: impl Iterator<Item = (About, Option<u32>)>) {
        let first = self.submitted.load(Ordering::Relaxed);
        let (mut filled, mut pending, mut slices, mut earliest_ns) = (0, 0, 0, NEVER_NS);
        for ((about, slices_of_it), slot) in requests.zip(&self.slots[first as usize..]) {
            filled += 1;
            let (state, count) = match slices_of_it {
                None => (TransferState::Waiting, 0),
                // A request of no bytes has ended.
                Some(0) => (TransferState::Completed, 0),
                Some(count) => (TransferState::Pending, count),
            };
            slot.start(&about, state, count);
            if state != TransferState::Completed {
                pending += 1;
                earliest_ns = earliest_ns.min(about.deadline_ns);
            }
            slices += u64::from(count);
        }
        self.busy.0.counts.fetch_add(slices * ONE_SLICE + pending, Ordering::SeqCst);
        self.submitted.store(first + filled, Ordering::SeqCst);
        // After `submitted`: `expire` relies on it.
        self.earliest_ns.fetch_min(earliest_ns, Ordering::SeqCst);
        // Whoever waits for "fewer than now" has to count anew.
        if self.wake_below.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
    }

    /// Starts a request that waited, with this many slices. Returns false when it was given up meanwhile.
    pub(super) fn begin(&self, request: u32, slices: u32) -> bool {
        let Some(slot) = self.slot(request) else { return false };
        // Counted before it can end.
        self.busy.0.counts.fetch_add(u64::from(slices) * ONE_SLICE, Ordering::SeqCst);
        let begun = slot.begin(slices);
        if !begun {
            self.busy.0.counts.fetch_sub(u64::from(slices) * ONE_SLICE, Ordering::SeqCst);
        } else if slices == 0 && slot.complete_empty() {
            self.requests_ended(1);
        }
        begun
    }

    /// Gives up all requests that `which` picks and that have not ended. Returns how many it ended.
    pub(super) fn give_up(&self, which: impl Fn(&Slot) -> bool, failure: impl Fn() -> Failure) -> u32 {
        let mut count = 0;
        for (request, slot) in (0..).zip(&self.slots[..self.submitted() as usize]) {
            if slot.state().is_terminal() || !which(slot) {
                continue;
            }
            let mut errors = self.errors.lock();
            // Looked at again under the lock, which `reset` takes too: the slot may have been taken by a new request.
            if !which(slot) {
                continue;
            }
            let failure = failure();
            if slot.give_up(failure.state) {
                errors.note(request, || self.describe(slot, failure));
                count += 1;
            }
        }
        self.failed.fetch_add(count, Ordering::SeqCst);
        if count > 0 {
            self.requests_ended(count);
        }
        count
    }

    /// Gives up one request that has not ended.
    pub(super) fn give_up_one(&self, request: u32, failure: Failure) {
        let Some(slot) = self.slot(request) else { return };
        let mut errors = self.errors.lock();
        if slot.give_up(failure.state) {
            errors.note(request, || self.describe(slot, failure));
            drop(errors);
            self.failed.fetch_add(1, Ordering::SeqCst);
            self.requests_ended(1);
        }
    }

    /// Declares those requests timed out whose deadline passed more than [`GRACE`] before `now`.
    pub(crate) fn expire(&self, now: Instant) {
        let Some(latest) = now.checked_sub(GRACE) else { return };
        let latest_ns = self.to_ns(latest);
        if latest <= self.epoch || self.earliest_ns.load(Ordering::Relaxed) > latest_ns {
            return;
        }
        let (before, seen) = (self.earliest_ns.load(Ordering::SeqCst), self.submitted());
        self.give_up(
            |slot| slot.deadline_ns() <= latest_ns,
            || Failure::timed_out("its deadline passed and the transport has not answered"),
        );
        let earliest_of = |slots: &[Slot]| {
            let pending = slots.iter().filter(|slot| !slot.state().is_terminal());
            pending.map(Slot::deadline_ns).min().unwrap_or(NEVER_NS)
        };
        let left = earliest_of(&self.slots[..seen as usize]);
        if self.earliest_ns.compare_exchange(before, left, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            // What came in meanwhile found `before` lower than its own; what comes from now on lowers `left` itself.
            let now = self.submitted().max(seen);
            self.earliest_ns.fetch_min(earliest_of(&self.slots[seen as usize..now as usize]), Ordering::SeqCst);
        }
    }

    /// When [`Shared::expire`] should look next; `None` when nothing has a deadline.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        match self.earliest_ns.load(Ordering::SeqCst) {
            NEVER_NS => None,
            ns => Some(self.epoch + Duration::from_nanos(ns) + GRACE + Duration::from_micros(1)),
        }
    }

    /// Makes all slots free again. Nothing may be under way.
    pub(super) fn reset(&self) {
        // The lock keeps `give_up` from ending the next request in the place of the last.
        let mut errors = self.errors.lock();
        self.submitted.store(0, Ordering::SeqCst);
        self.earliest_ns.store(NEVER_NS, Ordering::SeqCst);
        if self.failed.swap(0, Ordering::SeqCst) > 0 {
            *errors = Errors::default();
        }
        self.segments.lock().retain(|segment| !segment.is_closed());
    }

    fn describe(&self, slot: &Slot, cause: Failure) -> TransferError {
        let about = slot.about();
        let segments = self.segments.lock();
        let segment = segments.iter().find(|segment| segment.id() == about.segment);
        TransferError {
            operation: about.operation,
            segment_name: segment.map_or_else(|| "?".into(), |segment| Arc::clone(segment.name())),
            segment: about.segment,
            file: about.file,
            path: segment.and_then(|segment| segment.path_of(about.file)),
            offset: about.offset,
            length: about.len_bytes,
            target: segment.map_or_else(|| "".into(), |segment| segment.target()),
            cause,
        }
    }

    /// Counts requests that have ended, and wakes those who waited for that.
    fn requests_ended(&self, count: u32) {
        let before = self.busy.0.counts.fetch_sub(u64::from(count), Ordering::SeqCst);
        self.wake_if_below(before as u32 - count);
    }

    fn wake_if_below(&self, pending: u32) {
        if pending < self.wake_below.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let mut waiters = self.waiters.lock();
        self.wake_below.store(0, Ordering::SeqCst);
        let wakers = std::mem::take(&mut *waiters);
        self.ended.notify_all();
        drop(waiters);
        for waker in wakers {
            waker.wake();
        }
    }

    /// Registers for a wake-up when fewer than `below` requests have not ended. The guard must be held from here until
    /// the condition was looked at again and the wait begins.
    fn register(&self, below: u32) -> MutexGuard<'_, Vec<Waker>> {
        let waiters = self.waiters.lock();
        self.wake_below.fetch_max(below, Ordering::SeqCst);
        waiters
    }

    /// Sleeps until fewer than `below` requests have not ended, something was submitted, or `until`.
    pub(super) fn sleep(&self, below: u32, until: Instant) {
        let mut waiters = self.register(below);
        if self.pending() < below {
            return;
        }
        if clock::is_simulated() {
            drop(waiters);
            // Whoever wakes sets this back.
            return clock::simulated_wait(until, &mut || self.wake_below.load(Ordering::SeqCst) == 0);
        }
        self.ended.wait_until(&mut waiters, until);
    }

    /// Has `waker` called when fewer than `below` requests have not ended. Returns false when that is so already.
    pub(super) fn wake_when_below(&self, below: u32, waker: &Waker) -> bool {
        let mut waiters = self.register(below);
        if self.pending() < below {
            return false;
        }
        if !waiters.iter().any(|known| known.will_wake(waker)) {
            waiters.push(waker.clone());
        }
        true
    }

    fn return_permits(&self) {
        let owed = self.busy.0.owed.swap(0, Ordering::AcqRel);
        if owed > 0 {
            self.permits.release(Share::from_word(owed));
        }
    }
}

impl SliceSink for Shared {
    fn slice_ended(&self, request: u32, len_bytes: u64, result: Result<(), Failure>) {
        let Some(slot) = self.slots.get(request as usize) else { return };
        let ended = match result {
            Ok(()) => slot.end_slice(len_bytes, None),
            Err(failure) => self.slice_failed(request, slot, len_bytes, failure),
        };
        // The permits first: whoever sees the request ended finds them owed at least.
        let one = Share::new(1, len_bytes).unwrap_or_default();
        let owed = Share::from_word(self.busy.0.owed.fetch_add(one.word(), Ordering::AcqRel) + one.word());
        if ended.is_some_and(|state| state != TransferState::Completed) {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
        let change = ONE_SLICE + u64::from(ended.is_some());
        let after = self.busy.0.counts.fetch_sub(change, Ordering::SeqCst) - change;
        if owed.slices() >= self.permit_lot || after < ONE_SLICE || self.permits.has_waiters() {
            self.return_permits();
        }
        if ended.is_some() {
            self.wake_if_below(after as u32);
        }
    }
}

impl Shared {
    #[cold]
    fn slice_failed(&self, request: u32, slot: &Slot, len_bytes: u64, failure: Failure) -> Option<TransferState> {
        let verdict = match failure.state {
            state @ (TransferState::Timeout | TransferState::Canceled) => state,
            _ => TransferState::Failed,
        };
        let mut errors = self.errors.lock();
        errors.note(request, || self.describe(slot, Failure { state: verdict, ..failure }));
        slot.end_slice(len_bytes, Some(verdict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{FileBufferId, Operation, SegmentId};

    fn shared() -> Shared {
        Shared::new(8, Arc::new(Permits::new(Share::new(100, 1000).unwrap())))
    }

    fn take_in(shared: &Shared, count: usize) {
        let about = About {
            operation: Operation::Read,
            segment: SegmentId(1),
            file: FileBufferId(1),
            offset: 0,
            len_bytes: 10,
            deadline_ns: u64::MAX - 1,
        };
        shared.take_in(std::iter::repeat_n((about, Some(1)), count));
    }

    fn until_someone_sleeps(shared: &Shared) {
        while shared.wake_below.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        // Who sleeps holds this lock until it does.
        drop(shared.waiters.lock());
    }

    #[test]
    fn a_waiter_sleeps_until_few_enough_are_left() {
        let shared = shared();
        take_in(&shared, 3);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| shared.sleep(2, Instant::now() + Duration::from_secs(60)));
            until_someone_sleeps(&shared);
            shared.slice_ended(0, 10, Ok(()));
            assert_eq!(shared.wake_below.load(Ordering::SeqCst), 2, "woken too early");
            shared.slice_ended(2, 10, Ok(()));
            waiter.join().unwrap();
        });
        assert_eq!((shared.pending(), shared.ended(), shared.slices_under_way()), (1, 2, 1));
    }

    #[test]
    fn a_waiter_is_woken_to_count_anew_when_more_comes_in() {
        let shared = shared();
        take_in(&shared, 1);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| shared.sleep(1, Instant::now() + Duration::from_secs(60)));
            until_someone_sleeps(&shared);
            take_in(&shared, 2);
            waiter.join().unwrap();
        });
        assert_eq!(shared.pending(), 3);
    }

    #[test]
    fn permits_are_returned_in_lots_and_the_rest_with_the_last_slice() {
        let limit = Share::new(1 << 16, 1 << 40).unwrap();
        let shared = Shared::new(100, Arc::new(Permits::new(limit)));
        let one = Share::new(1, 10).unwrap();
        assert_eq!(shared.permits.try_take(std::iter::repeat_n(one, 70)), 70);
        take_in(&shared, 70);
        let missing = || limit.slices() - shared.permits.available().slices();
        (0..63).for_each(|request| shared.slice_ended(request, 10, Ok(())));
        assert_eq!(missing(), 70);
        shared.slice_ended(63, 10, Ok(()));
        assert_eq!(missing(), 6);
        (64..70).for_each(|request| shared.slice_ended(request, 10, Ok(())));
        assert_eq!(shared.permits.available(), limit);
    }

    #[test]
    fn only_what_is_overdue_expires() {
        let shared = shared();
        let about = |deadline_ns| About {
            operation: Operation::Read,
            segment: SegmentId(1),
            file: FileBufferId(1),
            offset: 0,
            len_bytes: 10,
            deadline_ns,
        };
        let ms = 1_000_000;
        shared.take_in([(about(10 * ms), Some(1)), (about(30 * ms), Some(1)), (about(20 * ms), None)].into_iter());
        let at = |ms: u64| shared.epoch + GRACE + Duration::from_millis(ms);
        let states = || [0, 1, 2].map(|request| shared.slot(request).unwrap().state());
        assert!(shared.next_expiry().unwrap() > at(10));
        shared.expire(at(9));
        assert_eq!(states(), [TransferState::Pending, TransferState::Pending, TransferState::Waiting]);
        shared.expire(shared.next_expiry().unwrap());
        assert_eq!(states(), [TransferState::Timeout, TransferState::Pending, TransferState::Waiting]);
        assert!(shared.next_expiry().unwrap() > at(20) && shared.next_expiry().unwrap() < at(21));
        shared.expire(at(40));
        assert_eq!(states(), [TransferState::Timeout; 3]);
        assert_eq!((shared.next_expiry(), shared.failed(), shared.pending()), (None, 3, 0));
        // The transport still has two slices in hand.
        assert_eq!(shared.slices_under_way(), 2);
    }
}
