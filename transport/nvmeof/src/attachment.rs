//! An attached target: what its callers, the workers and the control thread share about it.

use crate::host::namespaces::NamespaceTable;
use crate::status::{AttachmentStatus, CommandLatencies, ConnectionState, Counters, DriverChoice, TargetTotals};
use arc_swap::ArcSwap;
use nvferry_io::tally::Counter;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

/// Names an attached target within one transport. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AttachmentId(pub(crate) u32);

/// What callers need to know before they hand slices over.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The files that can be reached.
    pub(crate) table: Arc<NamespaceTable>,
    /// The longest operation in bytes.
    pub(crate) max_transfer_bytes: u32,
    /// Workers that have, or may have, a way to the target, counted from the attachment's first.
    pub(crate) queues: usize,
}

/// An attached target.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    /// The target, for people.
    pub(crate) target: Arc<str>,
    driver: DriverChoice,
    /// Read by every submit of every thread, changed seldom: reading it writes nothing that threads share.
    view: ArcSwap<View>,
    /// Held while it is changed.
    changing: Mutex<()>,
    closed: AtomicBool,
    state: Mutex<ConnectionState>,
    /// When it came to stand so.
    since: Mutex<SystemTime>,
    reconnects: AtomicU64,
    /// What went through each worker.
    cells: Box<[CounterCell]>,
}

/// One worker's counters. Only that worker writes, so that no cache line wanders between workers.
#[derive(Debug, Default)]
#[repr(align(128))]
struct CounterCell {
    counters: [Counter; Counters::COUNT],
    in_flight: Counter,
    waiting: Counter,
    latencies: Arc<CommandLatencies>,
}

impl Attachment {
    pub(crate) fn new(id: AttachmentId, target: Arc<str>, driver: DriverChoice, view: View, workers: usize) -> Self {
        Self {
            id,
            target,
            driver,
            view: ArcSwap::from_pointee(view),
            changing: Mutex::default(),
            closed: AtomicBool::new(false),
            state: Mutex::new(ConnectionState::Connecting),
            since: Mutex::new(SystemTime::now()),
            reconnects: AtomicU64::new(0),
            cells: (0..workers).map(|_| CounterCell::default()).collect(),
        }
    }

    pub(crate) fn view(&self) -> View {
        View::clone(&self.view.load())
    }

    /// Looks at the view without copying it.
    pub(crate) fn with_view<R>(&self, look: impl FnOnce(&View) -> R) -> R {
        look(&self.view.load())
    }

    pub(crate) fn change_view(&self, change: impl FnOnce(&mut View)) {
        let _turn = self.changing.lock();
        let mut view = self.view();
        change(&mut view);
        self.view.store(Arc::new(view));
    }

    /// Closes it; tells whether it was open.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn set_state(&self, state: ConnectionState) {
        let mut current = self.state.lock();
        // Another reason is not another state.
        if std::mem::discriminant(&*current) != std::mem::discriminant(&state) {
            *self.since.lock() = SystemTime::now();
        }
        *current = state;
    }

    pub(crate) fn count_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// Says what went through a worker so far, and how many operations are under way and wait. Called by that worker
    /// only.
    pub(crate) fn publish(&self, worker: usize, counters: Counters, (in_flight, waiting): (usize, usize)) {
        if let Some(cell) = self.cells.get(worker) {
            for (slot, value) in cell.counters.iter().zip(counters.to_array()) {
                slot.set(value);
            }
            cell.in_flight.set(in_flight as u64);
            cell.waiting.set(waiting as u64);
        }
    }

    /// Where a worker notes how long its operations take.
    pub(crate) fn latencies(&self, worker: usize) -> Option<Arc<CommandLatencies>> {
        self.cells.get(worker).map(|cell| Arc::clone(&cell.latencies))
    }

    /// What it did so far.
    pub(crate) fn totals(&self) -> TargetTotals {
        let mut totals =
            TargetTotals { reconnects: self.reconnects.load(Ordering::Relaxed), ..TargetTotals::default() };
        for cell in &self.cells {
            totals.counters += Counters::from_array(std::array::from_fn(|i| cell.counters[i].get()));
            let CommandLatencies { operations, slices } = &*cell.latencies;
            for (sum, noted) in totals.operations.iter_mut().zip(operations) {
                *sum += noted.totals();
            }
            for (sum, noted) in totals.slices.iter_mut().zip(slices) {
                *sum += noted.totals();
            }
        }
        totals
    }

    pub(crate) fn status(&self) -> AttachmentStatus {
        let (queues, files) = self.with_view(|view| (view.queues, view.table.iter().count()));
        AttachmentStatus {
            target: self.target.to_string(),
            driver: self.driver,
            state: self.state.lock().clone(),
            queues,
            files,
            in_flight: self.cells.iter().map(|cell| cell.in_flight.get()).sum(),
            waiting: self.cells.iter().map(|cell| cell.waiting.get()).sum(),
            since: *self.since.lock(),
            totals: self.totals(),
        }
    }
}

/// Counts down to nothing, and lets a caller wait for that.
#[derive(Debug)]
pub(crate) struct Latch {
    left: Mutex<usize>,
    done: Condvar,
}

impl Latch {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(count), done: Condvar::new() })
    }

    pub(crate) fn count_down(&self) {
        let mut left = self.left.lock();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.done.notify_all();
        }
    }

    /// Waits until nothing is left, or the deadline; tells whether nothing is.
    pub(crate) fn wait(&self, deadline: Instant) -> bool {
        #[cfg(feature = "simulation")]
        if crate::simulation::wait(deadline, || *self.left.lock() == 0) {
            return *self.left.lock() == 0;
        }
        let mut left = self.left.lock();
        while *left > 0 {
            if self.done.wait_until(&mut left, deadline).timed_out() {
                return *left == 0;
            }
        }
        true
    }
}
