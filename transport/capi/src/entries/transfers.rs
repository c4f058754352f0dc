//! Batches of requests.

use super::{BatchNumber, Engine};
use crate::entry::{code, guard, invalid, keep_text, text_of};
use crate::handles::{self, HeldEngine};
use crate::layout::{TransferRequest, TransferStatus, list, place};
use nvferry_engine::{
    Deadline, EngineError, FileBufferId, Operation, Request, RequestStatus, SegmentId, TransferState, WaitError,
};
use std::ffi::{c_char, c_int};
use std::time::Duration;

/// In a request's `target_id`: the engine's own segment.
const LOCAL_SEGMENT: i32 = 0;
/// What `allocateBatchID` returns when there is no batch.
const INVALID_BATCH: BatchNumber = u64::MAX;

/// Makes a batch.
#[unsafe(no_mangle)] // SAFETY: here and below, the name is this library's own, as its header says.
pub extern "C" fn allocateBatchID(engine: Engine, batch_size: usize) -> BatchNumber {
    guard(|| handles::add_batch(engine, handles::engine(engine)?.batch(batch_size)?)).unwrap_or(INVALID_BATCH)
}

fn request(engine: &HeldEngine, entry: &TransferRequest) -> Result<Request<'static>, EngineError> {
    let operation = match entry.opcode {
        0 => Operation::Read,
        1 => Operation::Write,
        other => return Err(invalid(format!("opcode {other}: it is 0 to read or 1 to write"))),
    };
    let segment = match entry.target_id {
        LOCAL_SEGMENT => engine.own_segment()?,
        other => SegmentId(other),
    };
    let (length, file) = (entry.length as usize, FileBufferId(entry.file_id));
    Ok(Request::by_address(operation, entry.source.addr(), length, segment, file, entry.target_offset))
}

/// Submits requests, all or none.
///
/// # Safety
/// `entries` has `count` entries. Nothing else uses their memory until they have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn submitTransfer(
    engine: Engine,
    batch_id: BatchNumber,
    entries: *mut TransferRequest,
    count: usize,
) -> c_int {
    code(|| {
        let (batch, engine) = (handles::batch(engine, batch_id)?, handles::engine(engine)?);
        // SAFETY: the caller vouches for the list.
        let entries = unsafe { list(entries, count, "the list of requests") }?;
        let requests = entries.iter().map(|entry| request(&engine, entry)).collect::<Result<Vec<_>, _>>()?;
        match batch.request_deadline() {
            Some(deadline) => batch.submit_by(&requests, deadline).map(drop),
            None => batch.submit(&requests).map(drop),
        }
    })
}

/// Sets how long after their submission requests must have ended; 0 for the engine's default.
#[unsafe(no_mangle)]
pub extern "C" fn nvferry_set_batch_timeout(engine: Engine, batch_id: BatchNumber, timeout_ms: u64) -> c_int {
    code(|| handles::batch(engine, batch_id).map(|batch| batch.set_request_timeout_ms(timeout_ms)))
}

fn status(engine: Engine, batch_id: BatchNumber, task_id: usize) -> Result<RequestStatus, EngineError> {
    let batch = handles::batch(engine, batch_id)?;
    let submitted = batch.submitted();
    if task_id >= submitted {
        return Err(invalid(format!("request {task_id} of batch {batch_id}: {submitted} were submitted")));
    }
    batch.status(task_id)
}

/// Says where a request stands.
///
/// # Safety
/// `status` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getTransferStatus(
    engine: Engine,
    batch_id: BatchNumber,
    task_id: usize,
    status: *mut TransferStatus,
) -> c_int {
    code(|| {
        let to = place(status, "the status")?;
        let status = self::status(engine, batch_id, task_id)?;
        // SAFETY: not NULL, aligned, and the caller vouches that it may be written.
        unsafe { to.write(TransferStatus { status: status.state as c_int, transferred_bytes: status.bytes }) };
        Ok(())
    })
}

/// Says why a request did not complete.
#[unsafe(no_mangle)]
pub extern "C" fn nvferry_transfer_error(engine: Engine, batch_id: BatchNumber, task_id: usize) -> *const c_char {
    guard(|| {
        let error = status(engine, batch_id, task_id)?.error;
        Ok(error.map_or(c"".as_ptr(), |error| keep_text(text_of(&*error))))
    })
    .unwrap_or(std::ptr::null())
}

/// Says where a batch stands: pending while any request is under way, then completed, or what became of the first
/// that failed.
///
/// # Safety
/// `status` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getBatchTransferStatus(
    engine: Engine,
    batch_id: BatchNumber,
    status: *mut TransferStatus,
) -> c_int {
    code(|| {
        let to = place(status, "the status")?;
        let batch = handles::batch(engine, batch_id)?;
        let state = match batch.wait(Deadline::after(Duration::ZERO)) {
            Ok(()) => TransferState::Completed,
            Err(WaitError::Failed { first, .. }) => first.state(),
            Err(_) => TransferState::Pending,
        };
        // SAFETY: not NULL, aligned, and the caller vouches that it may be written.
        unsafe { to.write(TransferStatus { status: state as c_int, transferred_bytes: batch.bytes() }) };
        Ok(())
    })
}

/// Waits for a batch.
#[unsafe(no_mangle)]
pub extern "C" fn nvferry_wait_batch(engine: Engine, batch_id: BatchNumber, timeout_ms: u64) -> c_int {
    code(|| Ok(handles::batch(engine, batch_id)?.wait(Deadline::after(Duration::from_millis(timeout_ms)))?))
}

/// Gives up what is under way in a batch.
#[unsafe(no_mangle)]
pub extern "C" fn nvferry_cancel_batch(engine: Engine, batch_id: BatchNumber) -> c_int {
    code(|| {
        let _given_up = handles::batch(engine, batch_id)?.cancel();
        Ok(())
    })
}

/// Frees a batch.
#[unsafe(no_mangle)]
pub extern "C" fn freeBatchID(engine: Engine, batch_id: BatchNumber) -> c_int {
    code(|| handles::free_batch(engine, batch_id))
}
