//! The handles that applications hold. A number is given out once, so one that is stale is never another's.

use crate::entry::invalid;
use nvferry_engine::{Batch, Deadline, EngineError, ErrorKind, SegmentId, TransferEngine};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

static NEXT: AtomicU64 = AtomicU64::new(1);
static ENGINES: LazyLock<RwLock<HashMap<u64, Arc<HeldEngine>>>> = LazyLock::new(RwLock::default);
static BATCHES: LazyLock<RwLock<HashMap<u64, Owned>>> = LazyLock::new(RwLock::default);

/// An engine that an application holds.
pub(crate) struct HeldEngine {
    engine: TransferEngine,
    /// Its own segment, opened when a request first names it by `LOCAL_SEGMENT`.
    own_segment: Mutex<Option<SegmentId>>,
    /// Held by the thread that ends it.
    ending: Mutex<()>,
}

impl std::ops::Deref for HeldEngine {
    type Target = TransferEngine;

    fn deref(&self) -> &TransferEngine {
        &self.engine
    }
}

impl HeldEngine {
    /// This engine's own segment, opened.
    pub(crate) fn own_segment(&self) -> Result<SegmentId, EngineError> {
        let mut own = self.own_segment.lock();
        match *own {
            Some(segment) if self.is_segment_open(segment) => Ok(segment),
            _ => Ok(*own.insert(self.open_segment(self.server_name())?)),
        }
    }
}

/// A batch that an application holds.
pub(crate) struct HeldBatch {
    batch: Batch,
    /// 0: the engine's default.
    request_timeout_ms: AtomicU64,
}

impl std::ops::Deref for HeldBatch {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl HeldBatch {
    /// For the requests submitted from now on; 0 is the engine's default.
    pub(crate) fn set_request_timeout_ms(&self, timeout_ms: u64) {
        self.request_timeout_ms.store(timeout_ms, Ordering::Relaxed);
    }

    /// By when requests submitted now must have ended; `None` is the engine's default.
    pub(crate) fn request_deadline(&self) -> Option<Deadline> {
        let timeout_ms = self.request_timeout_ms.load(Ordering::Relaxed);
        (timeout_ms > 0).then(|| Deadline::after(Duration::from_millis(timeout_ms)))
    }
}

struct Owned {
    engine: u64,
    batch: Arc<HeldBatch>,
}

/// Odd, so that no object's address is mistaken for one.
fn fresh() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed) * 2 + 1
}

fn no_engine() -> EngineError {
    invalid("this engine does not exist: it was never created, or was destroyed")
}

fn no_batch(id: u64) -> EngineError {
    invalid(format!("batch {id} does not exist in this engine: it was never allocated here, or was freed"))
}

fn busy(message: String) -> EngineError {
    EngineError::new(ErrorKind::BatchBusy, message)
}

pub(crate) fn add_engine(engine: TransferEngine) -> *mut c_void {
    let id = fresh();
    let held = HeldEngine { engine, own_segment: Mutex::default(), ending: Mutex::default() };
    ENGINES.write().insert(id, Arc::new(held));
    std::ptr::without_provenance_mut(id as usize)
}

pub(crate) fn engine(handle: *mut c_void) -> Result<Arc<HeldEngine>, EngineError> {
    ENGINES.read().get(&(handle.addr() as u64)).cloned().ok_or_else(no_engine)
}

/// Ends an engine. When its memory is the application's again, the engine and all its batches are gone, and every
/// later call with them is an error.
///
/// # Errors
/// `BatchBusy` when a transfer still uses memory at the deadline, or another thread is at it: the engine stays known, to
/// be asked again. With any other error it is gone.
pub(crate) fn end_engine(handle: *mut c_void, deadline: Deadline) -> Result<(), EngineError> {
    let held = engine(handle)?;
    let Some(_turn) = held.ending.try_lock_until(deadline.instant()) else {
        return Err(busy("destroying an engine: another thread has not finished doing so".into()));
    };
    let ended = held.shutdown(deadline);
    held.unregister_all_memory_by_address(deadline).map_err(|error| {
        busy(format!("the engine has ended, but not all memory is the caller's again: {error}; destroy it once more"))
    })?;
    let id = handle.addr() as u64;
    let removed = ENGINES.write().remove(&id);
    let batches: Vec<_> = BATCHES.write().extract_if(|_, owned| owned.engine == id).collect();
    drop(batches);
    // `None` when another thread was faster.
    removed.ok_or_else(no_engine).and(ended)
}

pub(crate) fn add_batch(handle: *mut c_void, batch: Batch) -> Result<u64, EngineError> {
    let (id, engine) = (fresh(), handle.addr() as u64);
    // Held while the batch goes in, so that none is left behind by an engine that is destroyed meanwhile.
    let engines = ENGINES.read();
    if !engines.contains_key(&engine) {
        return Err(no_engine());
    }
    let batch = Arc::new(HeldBatch { batch, request_timeout_ms: AtomicU64::new(0) });
    BATCHES.write().insert(id, Owned { engine, batch });
    Ok(id)
}

pub(crate) fn batch(handle: *mut c_void, id: u64) -> Result<Arc<HeldBatch>, EngineError> {
    let batches = BATCHES.read();
    let owned = batches.get(&id).filter(|owned| owned.engine == handle.addr() as u64);
    owned.map(|owned| Arc::clone(&owned.batch)).ok_or_else(|| no_batch(id))
}

/// A request's status can be seen a moment before its batch has counted it. Whoever has seen the last one shall find
/// the batch done.
fn settle(batch: &Batch) {
    /// The other thread needs some instructions, if it is running.
    const A_MOMENT: Duration = Duration::from_secs(1);
    let has_ended = |request| batch.status(request).is_ok_and(|status| status.state.is_terminal());
    if !batch.is_done() && (0..batch.submitted()).all(has_ended) {
        let _counted = batch.wait(Deadline::after(A_MOMENT));
    }
}

/// Frees a batch that no thread uses and of which no request is under way.
pub(crate) fn free_batch(handle: *mut c_void, id: u64) -> Result<(), EngineError> {
    settle(&*batch(handle, id)?);
    let mut batches = BATCHES.write();
    let owned = match batches.entry(id) {
        Entry::Occupied(owned) if owned.get().engine == handle.addr() as u64 => owned,
        _ => return Err(no_batch(id)),
    };
    // Whoever uses it holds a reference, and while this lock is held nobody gets a new one: what another thread
    // submits is either seen here, or refused because the batch is gone.
    if Arc::strong_count(&owned.get().batch) > 1 {
        return Err(busy(format!("freeing batch {id}: another thread's call uses it")));
    }
    if !owned.get().batch.is_done() {
        return Err(busy(format!("freeing batch {id}: requests of it are under way; wait for it or cancel it")));
    }
    let gone = owned.remove();
    // Its slots may be many: they are given back outside the lock.
    drop(batches);
    drop(gone);
    Ok(())
}
