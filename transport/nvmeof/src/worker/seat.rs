//! Who drives a worker: its own thread, or, for a while, a thread that waits for what the worker moves.
//!
//! A thread that submits a little, waits for it and submits again would wake the worker's thread each time, and be woken
//! by it: on one processor that costs more than the I/O itself. So a thread that waits in quick succession is *lent*
//! the worker. While it waits it does what the worker's thread would do, and what it submits is sent at once, on its
//! own time. The worker's own thread meanwhile sleeps, looks after its worker every [`LEASE`], and takes it back when
//! nobody came since; or at once when a second thread wants something of the worker. So what a thread leaves under
//! way when it waits no more is delayed by two leases at most, once.
//!
//! Two locks: `driver` belongs to whoever may sleep on the worker's poller, and is held over that sleep; `worker` is
//! held only while something is done. Whoever holds `worker` never waits for `driver`.
//!
//! A worker that has an engine of file I/O is not lent: the kernel finishes an operation in the context of the
//! thread that submitted it, which must not be one that may go away and compute.

use super::inbox::{Inbox, Order};
use super::run::{Rest, Worker};
use crate::attachment::AttachmentId;
use nvferry_engine::{Slice, Waiting};
use nvferry_io::clock;
use nvferry_io::fast_paths::{Force, Path, PathCounters};
use nvferry_io::poller::{AdaptiveSpin, Events, Poller, Sleeper};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::task::Waker;
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long a worker's own thread sleeps while the worker is lent.
const LEASE: Duration = Duration::from_millis(2);
/// The same while a thread drives it: only a precaution.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Waits of one thread that follow each other within a lease before the worker is lent to it.
const REGULAR_WAITS: u32 = 8;

/// A number for each thread that asks, counted from 0.
pub(crate) fn current_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    #[cfg(feature = "simulation")]
    if let Some(world) = nvferry_io::simulation::world() {
        return world.thread();
    }
    thread_local!(static THREAD: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    THREAD.with(|thread| *thread)
}

/// What it takes to sleep for a worker.
pub(super) struct Driver {
    poller: Arc<Poller>,
    sleeper: Sleeper,
    events: Events,
    spin: AdaptiveSpin,
    taken: Arc<PathCounters>,
}

impl Driver {
    pub(super) fn new(poller: Arc<Poller>, sleeper: Sleeper, spin: AdaptiveSpin, taken: Arc<PathCounters>) -> Self {
        Self { poller, sleeper, events: Events::with_capacity(256), spin, taken }
    }

    /// Asks the poller, for `timeout` at most; `None` is without limit.
    fn poll(&mut self, timeout: Option<Duration>) {
        if let Err(error) = self.poller.wait(&mut self.events, timeout) {
            // Only a programming error gets here; without readiness nothing would ever move again.
            tracing::error!(target: "nvferry::host", %error, "a worker cannot wait for its sockets");
        }
    }
}

/// Who waited last, and how often in quick succession.
#[derive(Debug, Default)]
struct Regular {
    thread: Option<usize>,
    at: Option<Instant>,
    waits: u32,
}

/// A worker, and its place for whoever drives it.
pub(crate) struct Seat {
    inbox: Arc<Inbox>,
    /// Rings the inbox.
    waker: Waker,
    worker: Mutex<Worker>,
    driver: Mutex<Driver>,
    is_lent: AtomicBool,
    /// Whether tests force that.
    lend: Force,
    /// It has an engine of file I/O.
    has_local_files: AtomicBool,
    /// Waits of threads that it was lent to.
    visits: AtomicU64,
    regular: Mutex<Regular>,
    /// The worker's own thread, once it runs.
    own_thread: Mutex<Option<Thread>>,
    /// It is to be woken by whoever leaves the driver's place.
    own_thread_sleeps: AtomicBool,
    #[cfg(feature = "simulation")]
    simulated: Mutex<Simulated>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("is_lent", &self.is_lent).finish_non_exhaustive()
    }
}

impl Seat {
    pub(super) fn new(inbox: Arc<Inbox>, worker: Worker, driver: Driver, lend: Force) -> Self {
        Self {
            waker: Arc::clone(&inbox).into(),
            inbox,
            worker: Mutex::new(worker),
            driver: Mutex::new(driver),
            is_lent: AtomicBool::new(false),
            lend,
            has_local_files: AtomicBool::new(false),
            visits: AtomicU64::new(0),
            regular: Mutex::default(),
            own_thread: Mutex::default(),
            own_thread_sleeps: AtomicBool::new(false),
            #[cfg(feature = "simulation")]
            simulated: Mutex::default(),
        }
    }

    /// What the worker's own thread does, until it is told to stop.
    pub(super) fn run(&self) {
        *self.own_thread.lock() = Some(std::thread::current());
        loop {
            let mut driver = self.driver.lock();
            while !self.is_lent() {
                if !self.turn(&mut driver, None) {
                    return self.worker.lock().end(Instant::now());
                }
            }
            drop(driver);
            let mut seen = self.visits.load(Ordering::Relaxed);
            while self.is_lent() {
                std::thread::park_timeout(LEASE);
                if self.is_driven() {
                    // However long it takes: whoever leaves says so.
                    std::thread::park_timeout(LONGEST_SLEEP);
                }
                let visits = self.visits.load(Ordering::Relaxed);
                if visits == seen && !self.driver.is_locked() {
                    self.is_lent.store(false, Ordering::Release);
                }
                seen = visits;
            }
        }
    }

    /// Gives the worker an order.
    pub(crate) fn order(&self, order: Order) {
        self.inbox.order(order);
    }

    /// Gives it slices: with one lock, and with at most one wake-up or, while it is lent, on the caller's time.
    pub(crate) fn put(&self, id: AttachmentId, slices: impl Iterator<Item = Slice>) {
        self.inbox.put(id, slices);
        if self.is_lent() { self.work_off_mail() } else { self.inbox.ring() }
    }

    /// Slices that it has, about.
    pub(crate) fn load(&self) -> usize {
        self.inbox.load()
    }

    /// Drives the worker until what the caller waits for is over, or `until`, if it is lent to the caller. `false` when
    /// it is not, or not any more: then the caller had better sleep.
    pub(crate) fn help(&self, waiting: &dyn Waiting, until: Instant) -> bool {
        if !self.lend(clock::now()) {
            return false;
        }
        #[cfg(feature = "simulation")]
        if clock::is_simulated() {
            return self.simulated_help(waiting, until);
        }
        // Its own thread is on its way out of there.
        let Some(mut driver) = self.driver.try_lock_for(LEASE) else {
            self.take_back();
            return false;
        };
        self.visits.fetch_add(1, Ordering::Relaxed);
        let mut goes_on = true;
        while goes_on && self.is_lent() && !waiting.is_over() && Instant::now() < until {
            goes_on = self.turn(&mut driver, Some((waiting, until)));
        }
        drop(driver);
        fence(Ordering::SeqCst);
        if self.own_thread_sleeps.swap(false, Ordering::Relaxed) {
            self.wake_own_thread();
        }
        if !goes_on {
            self.take_back();
        }
        // What came while this thread was in its last turn.
        self.work_off_mail();
        self.is_lent()
    }

    /// Waits of threads that it was lent to, so far.
    pub(super) fn visits(&self) -> u64 {
        self.visits.load(Ordering::Relaxed)
    }

    fn is_lent(&self) -> bool {
        self.is_lent.load(Ordering::Acquire)
    }

    /// Decides whether the calling thread, which begins to wait, is lent the worker.
    fn lend(&self, now: Instant) -> bool {
        if self.lend.is_off() {
            return false;
        }
        let thread = current_thread();
        let mut regular = self.regular.lock();
        let soon = regular.at.is_some_and(|at| now.saturating_duration_since(at) < LEASE) || self.lend == Force::On;
        regular.at = Some(now);
        if regular.thread != Some(thread) || !soon {
            regular.waits = 0;
            let another = regular.thread.replace(thread) != Some(thread);
            drop(regular);
            if another && self.is_lent() {
                self.take_back();
            }
            return self.is_lent();
        }
        regular.waits = regular.waits.saturating_add(1);
        let is_regular = regular.waits >= REGULAR_WAITS || self.lend == Force::On;
        drop(regular);
        if is_regular && !self.is_lent() && !self.has_local_files.load(Ordering::Relaxed) {
            self.is_lent.store(true, Ordering::Release);
            // Its own thread leaves the driver's place.
            self.inbox.ring();
        }
        self.is_lent()
    }

    /// Gives the worker back to its own thread.
    fn take_back(&self) {
        self.is_lent.store(false, Ordering::Release);
        // Whoever sleeps in the driver's place leaves it.
        self.inbox.ring();
        self.wake_own_thread();
    }

    fn wake_own_thread(&self) {
        if let Some(thread) = &*self.own_thread.lock() {
            thread.unpark();
        }
    }

    /// Whether a thread is in the driver's place. If so it wakes the worker's own thread when it leaves.
    fn is_driven(&self) -> bool {
        self.own_thread_sleeps.store(true, Ordering::Relaxed);
        // Either this sees that the place is free, or whoever leaves it sees the store.
        fence(Ordering::SeqCst);
        let is_driven = self.driver.is_locked();
        if !is_driven {
            self.own_thread_sleeps.store(false, Ordering::Relaxed);
        }
        is_driven
    }

    /// Does what was handed over, on the calling thread.
    fn work_off_mail(&self) {
        while self.is_lent() && self.inbox.has_mail() {
            // Whoever is at work looks again before it sleeps.
            let Some(mut worker) = self.worker.try_lock() else { return self.inbox.ring() };
            let before = worker.rest();
            worker.work(clock::now());
            let after = worker.rest();
            let is_sooner = match (before, after) {
                (Rest::Until(Some(before)), Rest::Until(Some(after))) => after < before,
                (_, Rest::Until(None)) => false,
                _ => true,
            };
            drop(worker);
            if is_sooner {
                // Whoever sleeps would sleep too long.
                return self.inbox.ring();
            }
        }
    }

    /// Does what there is to do, then waits for more: without end, or as long as what the caller waits for is not over.
    /// `false` when the worker was told to stop.
    fn turn(&self, driver: &mut Driver, waiting: Option<(&dyn Waiting, Instant)>) -> bool {
        let now = Instant::now();
        let mut worker = self.worker.lock();
        worker.note(driver.events.iter());
        driver.events.clear();
        worker.work(now);
        if worker.is_stopping() {
            return false;
        }
        let (rest, is_loaded) = (worker.rest(), worker.is_loaded());
        let has_local_files = worker.has_local_files();
        drop(worker);
        if has_local_files {
            self.has_local_files.store(true, Ordering::Relaxed);
            if waiting.is_some() {
                self.take_back();
                return true;
            }
        }
        let is_over = || waiting.is_some_and(|(waiting, _)| waiting.is_over());
        if is_over() {
            return true;
        }
        let timer = match rest {
            Rest::None => {
                driver.poll(Some(Duration::ZERO));
                return true;
            }
            Rest::Until(timer) => timer,
        };
        if is_loaded && self.spin(driver, is_over) {
            return true;
        }
        let until = match (timer, waiting) {
            (timer, None) => timer,
            (timer, Some((waiting, until))) => {
                if !waiting.wake_by(&self.waker) {
                    return true;
                }
                Some(timer.map_or(until, |timer| timer.min(until)))
            }
        };
        if driver.sleeper.prepare_sleep() {
            driver.poll(until.map(|until| until.saturating_duration_since(now)));
            driver.sleeper.woke();
        }
        true
    }

    /// Looks again for a short while, where that has paid. Tells whether something came.
    fn spin(&self, driver: &mut Driver, is_over: impl Fn() -> bool) -> bool {
        let budget = driver.spin.budget();
        if budget.is_zero() {
            return false;
        }
        driver.taken.add(Path::Spins, 1);
        let until = Instant::now() + budget;
        loop {
            driver.poll(Some(Duration::ZERO));
            let found = !driver.events.is_empty() || self.inbox.has_mail() || is_over();
            if found || Instant::now() >= until {
                driver.spin.ended(found);
                return found;
            }
        }
    }
}

/// What stands for threads in a simulation, which takes turns for whoever drives the worker.
#[cfg(feature = "simulation")]
#[derive(Debug, Default)]
struct Simulated {
    /// A thread is in the driver's place.
    is_driven: bool,
    /// Turns that were taken.
    turns: u64,
    /// While nobody is there: when the worker's own thread looks next, and the visits that it saw.
    look: Option<(Instant, u64)>,
}

#[cfg(feature = "simulation")]
impl Seat {
    /// One turn, for a simulation; `None` when the worker has ended, otherwise when it wants to be driven next.
    pub(crate) fn simulated_turn(&self, now: Instant, events: &[nvferry_io::poller::Event]) -> Option<Rest> {
        let mut worker = self.worker.lock();
        worker.note(events.iter().copied());
        if let Some(look) = self.is_away(now) {
            return Some(Rest::Until(Some(look)));
        }
        self.simulated.lock().turns += 1;
        worker.work(now);
        if worker.is_stopping() {
            worker.end(now);
            return None;
        }
        Some(worker.rest())
    }

    /// When the worker's own thread looks next, while it is lent to a thread that does something else. Takes it back when
    /// that thread has not come since.
    fn is_away(&self, now: Instant) -> Option<Instant> {
        let mut simulated = self.simulated.lock();
        if !self.is_lent() || simulated.is_driven {
            simulated.look = None;
            return None;
        }
        let visits = self.visits();
        match simulated.look {
            Some((look, _)) if now < look => return Some(look),
            Some((_, seen)) if seen == visits => {
                self.is_lent.store(false, Ordering::Release);
                simulated.look = None;
                return None;
            }
            _ => simulated.look = Some((now + LEASE, visits)),
        }
        simulated.look.map(|(look, _)| look)
    }

    /// As [`Self::help`]: while the caller waits the simulation takes its turns, after each of which it looks around.
    fn simulated_help(&self, waiting: &dyn Waiting, until: Instant) -> bool {
        self.visits.fetch_add(1, Ordering::Relaxed);
        self.simulated.lock().is_driven = true;
        // Its first turn.
        self.inbox.ring();
        while self.is_lent() && !waiting.is_over() && clock::now() < until && waiting.wake_by(&self.waker) {
            let turns = self.simulated.lock().turns;
            clock::simulated_wait(until, &mut || self.simulated.lock().turns != turns);
        }
        self.simulated.lock().is_driven = false;
        self.work_off_mail();
        // Its own thread is asked to look after the worker from here on.
        self.inbox.ring();
        self.is_lent()
    }

    /// Whether somebody wants the worker to look, since this was last asked.
    pub(crate) fn is_rung(&self) -> bool {
        self.driver.lock().sleeper.woke()
    }

    /// The descriptor of its poller, which tells whose sockets are whose.
    pub(crate) fn poller_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::{AsFd, AsRawFd};
        self.driver.lock().poller.as_fd().as_raw_fd()
    }

    /// What the worker holds.
    pub(crate) fn holdings(&self) -> crate::simulation::Holdings {
        self.worker.lock().holdings()
    }
}
