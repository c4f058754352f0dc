//! What goes on without being asked: descriptions that changed are fetched anew, and batches that are awaited have
//! someone who looks at the clock. Both start when first needed, and sleep when there is nothing to do.

use super::Core;
use super::segments::Refresh;
use crate::batch::shared::Shared;
use crate::control_runtime::control_runtime;
use crate::ids::SegmentId;
use crate::metadata::Watch;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Fetches the descriptions of those segments anew that the metadata service says have changed. It has a thread of its
/// own because taking over a description may mean to connect.
#[derive(Default)]
pub(super) struct Refresher {
    state: Mutex<RefresherState>,
    changed: Condvar,
}

#[derive(Default)]
struct RefresherState {
    changed: Vec<SegmentId>,
    thread: Option<JoinHandle<()>>,
    stopped: bool,
}

impl Refresher {
    fn mark(self: &Arc<Self>, core: &Weak<Core>, id: SegmentId) {
        let mut state = self.state.lock();
        if state.stopped {
            return;
        }
        if !state.changed.contains(&id) {
            state.changed.push(id);
        }
        if state.thread.is_none() {
            let (refresher, core) = (Arc::clone(self), Weak::clone(core));
            let spawned =
                std::thread::Builder::new().name("nvferry-refresh".into()).spawn(move || refresher.run(&core));
            match spawned {
                Ok(thread) => state.thread = Some(thread),
                // The next change tries again; a request that misses a file refreshes by itself.
                Err(error) => tracing::warn!(%error, "no thread to refresh descriptions with"),
            }
        }
        self.changed.notify_one();
    }

    fn run(&self, core: &Weak<Core>) {
        let mut state = self.state.lock();
        while !state.stopped {
            let Some(id) = state.changed.pop() else {
                self.changed.wait(&mut state);
                continue;
            };
            drop(state);
            if let Some(core) = core.upgrade()
                && let Some(segment) = core.segments.get(id)
            {
                match core.refresh(&segment, Refresh::IfChanged, core.control_deadline()) {
                    Ok(()) => tracing::debug!(segment = %segment.name(), "took over a newer description"),
                    Err(error) => tracing::debug!(segment = %segment.name(), %error, "kept the old description"),
                }
            }
            state = self.state.lock();
        }
    }

    /// Ends it; a refresh that is under way ends by its own deadline first.
    pub(super) fn stop(&self) {
        let thread = {
            let mut state = self.state.lock();
            state.stopped = true;
            self.changed.notify_one();
            state.thread.take()
        };
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the thread that refreshes descriptions has panicked");
        }
    }
}

impl Core {
    /// Keeps an open segment's description fresh.
    pub(super) fn watch_segment(self: &Arc<Self>, id: SegmentId, key: &str, known: Option<u64>) -> Option<Watch> {
        let (refresher, core) = (Arc::clone(&self.refresher), Arc::downgrade(self));
        self.store.watch(key, known, Arc::new(move || refresher.mark(&core, id)))
    }
}

/// Looks at the clock for batches that are awaited.
#[derive(Default)]
pub(crate) struct Ticker {
    batches: Arc<Mutex<Ticked>>,
}

#[derive(Default)]
struct Ticked {
    batches: Vec<Weak<Shared>>,
    is_running: bool,
}

/// How often it looks.
const TICK: Duration = Duration::from_millis(100);

impl Ticker {
    /// Looks after a batch until it has ended. The caller has set its `ticked`.
    pub(crate) fn watch(&self, batch: &Arc<Shared>) {
        let mut ticked = self.batches.lock();
        ticked.batches.push(Arc::downgrade(batch));
        if ticked.is_running {
            return;
        }
        match control_runtime() {
            Ok(runtime) => {
                ticked.is_running = true;
                runtime.spawn(tick(Arc::clone(&self.batches)));
            }
            Err(error) => tracing::error!(%error, "awaited batches end only when their transport says so"),
        }
    }
}

async fn tick(batches: Arc<Mutex<Ticked>>) {
    loop {
        tokio::time::sleep(TICK).await;
        let looked_at = std::mem::take(&mut batches.lock().batches);
        let now = Instant::now();
        let still_under_way = |batch: &Weak<Shared>| {
            let Some(batch) = batch.upgrade() else { return false };
            batch.expire(now);
            // First the flag, then the look: whoever awaits anew from here on either finds the flag down or is seen.
            batch.ticked.store(false, Ordering::SeqCst);
            batch.pending() > 0 && !batch.ticked.swap(true, Ordering::SeqCst)
        };
        let mut left: Vec<_> = looked_at.into_iter().filter(still_under_way).collect();
        let mut ticked = batches.lock();
        ticked.batches.append(&mut left);
        if ticked.batches.is_empty() {
            ticked.is_running = false;
            return;
        }
    }
}
