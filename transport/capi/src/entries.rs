//! The functions of `include/nvferry.h`, one by one.
#![allow(non_snake_case, clippy::missing_safety_doc, missing_docs, unreachable_pub)] // Names are the original's; the header documents them.

use crate::entry::{code, guard, invalid, last_error, text};
use crate::handles;
use nvferry_engine::{
    Deadline, EngineError, FileBufferId, Operation, Request, SegmentId, TransferEngine, TransferState, WaitError,
};
use nvferry_io::RegisteredMemory;
use nvferry_nvmeof::{NvmeofOptions, factory};
use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;
use std::time::Duration;

type Engine = *mut c_void;

/// `transfer_request`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TransferRequest {
    opcode: c_int,
    source: *mut c_void,
    target_id: i32,
    file_id: u32,
    target_offset: u64,
    length: u64,
}

/// `transfer_status`.
#[repr(C)]
pub struct TransferStatus {
    status: c_int,
    transferred_bytes: u64,
}

/// `buffer_entry`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BufferEntry {
    addr: *mut c_void,
    length: usize,
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<TransferRequest>() == 40 && offset_of!(TransferRequest, opcode) == 0);
    assert!(offset_of!(TransferRequest, source) == 8 && offset_of!(TransferRequest, target_id) == 16);
    assert!(offset_of!(TransferRequest, file_id) == 20 && offset_of!(TransferRequest, target_offset) == 24);
    assert!(offset_of!(TransferRequest, length) == 32);
    assert!(size_of::<TransferStatus>() == 16 && offset_of!(TransferStatus, status) == 0);
    assert!(offset_of!(TransferStatus, transferred_bytes) == 8);
    assert!(size_of::<BufferEntry>() == 16 && offset_of!(BufferEntry, addr) == 0);
    assert!(offset_of!(BufferEntry, length) == 8);
};

/// How long `destroyTransferEngine` waits for what is under way.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(30);

/// `count` values at `start`, which may be NULL when there are none.
unsafe fn list<'a, T>(start: *const T, count: usize, what: &str) -> Result<&'a [T], EngineError> {
    if count == 0 {
        return Ok(&[]);
    }
    if start.is_null() || !start.is_aligned() || count > isize::MAX as usize / size_of::<T>() {
        return Err(invalid(format!("{what}: {count} entries cannot stand at {start:p}")));
    }
    // SAFETY: not NULL, aligned, of a possible size; the caller vouches for what stands there.
    Ok(unsafe { std::slice::from_raw_parts(start, count) })
}

fn memory(addr: *mut c_void, length: usize) -> Result<RegisteredMemory, EngineError> {
    let start = NonNull::new(addr.cast::<u8>()).ok_or_else(|| invalid("registering memory: its address is NULL"))?;
    if length > isize::MAX as usize || addr.addr().checked_add(length).is_none() {
        return Err(invalid(format!("registering memory: {length} bytes do not fit at {addr:p}")));
    }
    // SAFETY: the header obliges the caller to keep the memory until it is unregistered or its engine destroyed.
    Ok(unsafe { RegisteredMemory::from_raw(start, length) })
}

unsafe fn put<T>(to: *mut T, value: T, what: &str) -> Result<(), EngineError> {
    if to.is_null() || !to.is_aligned() {
        return Err(invalid(format!("{what} cannot be written to {to:p}")));
    }
    // SAFETY: not NULL and aligned; the caller vouches that it may be written.
    unsafe { to.write(value) };
    Ok(())
}

// SAFETY (of every export): the name is this library's own, as its header says.

#[unsafe(no_mangle)]
pub unsafe extern "C" fn createTransferEngine(
    metadata: *const c_char,
    server_name: *const c_char,
    _ip_or_host_name: *const c_char,
    _rpc_port: u64,
    _auto_discover: c_int,
) -> Engine {
    guard(|| {
        // SAFETY: the header asks for strings.
        let (metadata, name) = unsafe { (text(metadata, "the metadata address")?, text(server_name, "the name")?) };
        let engine = TransferEngine::builder().metadata(metadata).server_name(name);
        Ok(handles::add_engine(engine.transport(factory(NvmeofOptions::new())).build()?))
    })
    .unwrap_or(std::ptr::null_mut())
}

#[unsafe(no_mangle)]
pub extern "C" fn destroyTransferEngine(engine: Engine) {
    let _code = code(|| handles::remove_engine(engine)?.shutdown(Deadline::after(DESTROY_TIMEOUT)));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn installTransport(engine: Engine, proto: *const c_char, args: *mut *mut c_void) -> *mut c_void {
    guard(|| {
        // SAFETY: the header asks for a string, and for NULL or an array whose first entry is NULL or a string.
        let (proto, args) = unsafe {
            let first = if args.is_null() { std::ptr::null_mut() } else { *args };
            let args = if first.is_null() { None } else { Some(text(first.cast(), "args[0]")?) };
            (text(proto, "the protocol")?, args)
        };
        handles::engine(engine)?.install_transport(proto, args)?;
        Ok(engine)
    })
    .unwrap_or(std::ptr::null_mut())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn uninstallTransport(engine: Engine, proto: *const c_char) -> c_int {
    // SAFETY: the header asks for a string.
    code(|| handles::engine(engine)?.uninstall_transport(unsafe { text(proto, "the protocol")? }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn openSegment(engine: Engine, name: *const c_char) -> i32 {
    // SAFETY: the header asks for a string.
    guard(|| Ok(handles::engine(engine)?.open_segment(unsafe { text(name, "the segment's name")? })?.0))
        .unwrap_or_else(|code| code)
}

#[unsafe(no_mangle)]
pub extern "C" fn closeSegment(engine: Engine, segment: i32) -> c_int {
    code(|| handles::engine(engine)?.close_segment(SegmentId(segment)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn removeLocalSegment(engine: Engine, name: *const c_char) -> c_int {
    // SAFETY: the header asks for a string.
    code(|| handles::engine(engine)?.remove_local_segment(unsafe { text(name, "the segment's name")? }))
}

#[unsafe(no_mangle)]
pub extern "C" fn syncSegmentCache(engine: Engine) -> c_int {
    code(|| handles::engine(engine)?.sync_segment_cache(None))
}

#[unsafe(no_mangle)]
pub extern "C" fn registerLocalMemory(
    engine: Engine,
    addr: *mut c_void,
    length: usize,
    _location: *const c_char,
    _remote_accessible: c_int,
) -> c_int {
    code(|| handles::engine(engine)?.register_memory_by_address(vec![memory(addr, length)?]))
}

#[unsafe(no_mangle)]
pub extern "C" fn unregisterLocalMemory(engine: Engine, addr: *mut c_void) -> c_int {
    code(|| handles::engine(engine)?.unregister_memory_by_address(addr.addr()).map(drop))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn registerLocalMemoryBatch(
    engine: Engine,
    buffers: *mut BufferEntry,
    count: usize,
    _location: *const c_char,
) -> c_int {
    code(|| {
        // SAFETY: the header asks for `count` entries.
        let buffers = unsafe { list(buffers, count, "the list of buffers")? };
        let memories = buffers.iter().map(|b| memory(b.addr, b.length)).collect::<Result<_, _>>()?;
        handles::engine(engine)?.register_memory_by_address(memories)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unregisterLocalMemoryBatch(engine: Engine, addrs: *mut *mut c_void, count: usize) -> c_int {
    code(|| {
        let engine = handles::engine(engine)?;
        // SAFETY: the header asks for `count` entries.
        let each = unsafe { list(addrs, count, "the list of addresses")? };
        // All are tried; the first error is told.
        each.iter().map(|a| engine.unregister_memory_by_address(a.addr()).map(drop)).fold(Ok(()), Result::and)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn registerLocalFile(engine: Engine, path: *const c_char, size: usize, id: *mut u32) -> c_int {
    code(|| {
        if id.is_null() || !id.is_aligned() {
            return Err(invalid("registering a file: there is no place for its id"));
        }
        // SAFETY: the header asks for a string.
        let path = unsafe { text(path, "the file's path")? };
        let FileBufferId(given) = handles::engine(engine)?.register_local_file(path, size as u64)?;
        // SAFETY: the header asks for a place to write the id to.
        unsafe { put(id, given, "the file's id") }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn unregisterLocalFile(engine: Engine, path: *const c_char) -> c_int {
    // SAFETY: the header asks for a string.
    code(|| handles::engine(engine)?.unregister_local_file(unsafe { text(path, "the file's path")? }))
}

#[unsafe(no_mangle)]
pub extern "C" fn allocateBatchID(engine: Engine, capacity: usize) -> u64 {
    guard(|| handles::add_batch(engine, handles::engine(engine)?.batch(capacity)?)).unwrap_or(u64::MAX)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn submitTransfer(engine: Engine, batch: u64, entries: *mut TransferRequest, n: usize) -> c_int {
    code(|| {
        let batch = handles::batch(engine, batch)?;
        // SAFETY: the header asks for `n` entries.
        let entries = unsafe { list(entries, n, "the list of requests")? };
        let requests = entries.iter().map(|e| {
            let operation = match e.opcode {
                0 => Operation::Read,
                1 => Operation::Write,
                other => return Err(invalid(format!("opcode {other}: it is 0 to read or 1 to write"))),
            };
            let (segment, file) = (SegmentId(e.target_id), FileBufferId(e.file_id));
            Ok(Request::by_address(operation, e.source.addr(), e.length as usize, segment, file, e.target_offset))
        });
        batch.submit(&requests.collect::<Result<Vec<_>, _>>()?).map(drop)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getTransferStatus(engine: Engine, batch: u64, task: usize, to: *mut TransferStatus) -> c_int {
    code(|| {
        let status = handles::batch(engine, batch)?.status(task)?;
        let value = TransferStatus { status: status.state as c_int, transferred_bytes: status.bytes };
        // SAFETY: the header asks for a place to write to.
        unsafe { put(to, value, "the status") }
    })
}

/// The batch's state is that of the wait for it: pending, completed, or what became of its first failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getBatchTransferStatus(engine: Engine, batch: u64, to: *mut TransferStatus) -> c_int {
    code(|| {
        let batch = handles::batch(engine, batch)?;
        let state = match batch.wait(Deadline::after(Duration::ZERO)) {
            Ok(()) => TransferState::Completed,
            Err(WaitError::Failed { first, .. }) => first.state(),
            Err(_) => TransferState::Pending,
        };
        // SAFETY: the header asks for a place to write to.
        unsafe { put(to, TransferStatus { status: state as c_int, transferred_bytes: batch.bytes() }, "the status") }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn freeBatchID(engine: Engine, batch: u64) -> c_int {
    code(|| handles::free_batch(engine, batch))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvferry_wait_batch(engine: Engine, batch: u64, timeout_ms: u64) -> c_int {
    code(|| Ok(handles::batch(engine, batch)?.wait(Deadline::after(Duration::from_millis(timeout_ms)))?))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvferry_cancel_batch(engine: Engine, batch: u64) -> c_int {
    code(|| {
        handles::batch(engine, batch).map(|batch| {
            batch.cancel();
        })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvferry_last_error() -> *const c_char {
    last_error()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvferry_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
