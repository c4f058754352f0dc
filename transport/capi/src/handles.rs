//! The handles that applications hold. A number is given out once, so one that is stale is never another's.

use crate::entry::invalid;
use nvferry_engine::{Batch, EngineError, ErrorKind, TransferEngine};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

static NEXT: AtomicU64 = AtomicU64::new(1);
static ENGINES: LazyLock<RwLock<HashMap<u64, Arc<TransferEngine>>>> = LazyLock::new(RwLock::default);
static BATCHES: LazyLock<RwLock<HashMap<u64, Owned>>> = LazyLock::new(RwLock::default);

struct Owned {
    engine: u64,
    batch: Arc<Batch>,
}

/// Odd, so that no object's address is mistaken for one.
fn fresh() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed) * 2 + 1
}

fn no_engine() -> EngineError {
    invalid("this engine does not exist: it was never created, or was destroyed")
}

pub(crate) fn add_engine(engine: TransferEngine) -> *mut c_void {
    let id = fresh();
    ENGINES.write().insert(id, Arc::new(engine));
    std::ptr::without_provenance_mut(id as usize)
}

pub(crate) fn engine(handle: *mut c_void) -> Result<Arc<TransferEngine>, EngineError> {
    ENGINES.read().get(&(handle.addr() as u64)).cloned().ok_or_else(no_engine)
}

/// Takes the engine and all its batches out: every later call with them is an error.
pub(crate) fn remove_engine(handle: *mut c_void) -> Result<Arc<TransferEngine>, EngineError> {
    let id = handle.addr() as u64;
    let engine = ENGINES.write().remove(&id).ok_or_else(no_engine)?;
    BATCHES.write().retain(|_, owned| owned.engine != id);
    Ok(engine)
}

pub(crate) fn add_batch(handle: *mut c_void, batch: Batch) -> Result<u64, EngineError> {
    let (id, engine) = (fresh(), handle.addr() as u64);
    // Held while the batch goes in, so that none is left behind by an engine that is destroyed meanwhile.
    let engines = ENGINES.read();
    if !engines.contains_key(&engine) {
        return Err(no_engine());
    }
    BATCHES.write().insert(id, Owned { engine, batch: Arc::new(batch) });
    Ok(id)
}

pub(crate) fn batch(handle: *mut c_void, id: u64) -> Result<Arc<Batch>, EngineError> {
    let batches = BATCHES.read();
    let owned = batches.get(&id).filter(|owned| owned.engine == handle.addr() as u64);
    owned.map(|owned| Arc::clone(&owned.batch)).ok_or_else(|| {
        invalid(format!("batch {id} does not exist in this engine: it was never allocated here, or was freed"))
    })
}

pub(crate) fn free_batch(handle: *mut c_void, id: u64) -> Result<(), EngineError> {
    let batch = batch(handle, id)?;
    if !batch.is_done() {
        let message = format!("freeing batch {id}: requests of it are under way; wait for it or cancel it");
        return Err(EngineError::new(ErrorKind::BatchBusy, message));
    }
    BATCHES.write().remove(&id).map(drop).ok_or_else(|| invalid(format!("batch {id} was freed by another thread")))
}
