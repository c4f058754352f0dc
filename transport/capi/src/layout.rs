//! What applications hand over and get back, as it lies in memory: `include/nvferry.h` in Rust.

use crate::entry::invalid;
use nvferry_engine::EngineError;
use nvferry_io::RegisteredMemory;
use std::ffi::{c_int, c_void};
use std::mem::{offset_of, size_of};
use std::ptr::NonNull;

/// `transfer_request`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(unreachable_pub)] // Part of exported signatures.
pub struct TransferRequest {
    pub(crate) opcode: c_int,
    pub(crate) source: *mut c_void,
    pub(crate) target_id: i32,
    pub(crate) file_id: u32,
    pub(crate) target_offset: u64,
    pub(crate) length: u64,
}

/// `transfer_status`.
#[repr(C)]
#[allow(unreachable_pub)]
pub struct TransferStatus {
    pub(crate) status: c_int,
    pub(crate) transferred_bytes: u64,
}

/// `buffer_entry`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(unreachable_pub)]
pub struct BufferEntry {
    pub(crate) addr: *mut c_void,
    pub(crate) length: usize,
}

// The same numbers stand in tests/c/signatures.c, for the header.
const _: () = {
    assert!(size_of::<TransferRequest>() == 40 && offset_of!(TransferRequest, opcode) == 0);
    assert!(offset_of!(TransferRequest, source) == 8 && offset_of!(TransferRequest, target_id) == 16);
    assert!(offset_of!(TransferRequest, file_id) == 20 && offset_of!(TransferRequest, target_offset) == 24);
    assert!(offset_of!(TransferRequest, length) == 32);
    assert!(size_of::<TransferStatus>() == 16 && offset_of!(TransferStatus, status) == 0);
    assert!(offset_of!(TransferStatus, transferred_bytes) == 8);
    assert!(size_of::<BufferEntry>() == 16 && offset_of!(BufferEntry, addr) == 0);
    assert!(offset_of!(BufferEntry, length) == 8);
};

/// `count` values at `start`, which may be NULL when there are none.
///
/// # Safety
/// When `start` is not NULL, that many values stand there and stay as they are for `'a`.
pub(crate) unsafe fn list<'a, T>(start: *const T, count: usize, what: &str) -> Result<&'a [T], EngineError> {
    if count == 0 {
        return Ok(&[]);
    }
    if start.is_null() || !start.is_aligned() || count > isize::MAX as usize / size_of::<T>() {
        return Err(invalid(format!("{what}: {count} entries cannot stand at {start:p}")));
    }
    // SAFETY: not NULL, aligned, of a possible size; the caller vouches for what stands there.
    Ok(unsafe { std::slice::from_raw_parts(start, count) })
}

/// A place to write a `T` to, found out before anything is done that would have to be undone.
pub(crate) fn place<T>(to: *mut T, what: &str) -> Result<NonNull<T>, EngineError> {
    let place = NonNull::new(to).filter(|to| to.is_aligned());
    place.ok_or_else(|| invalid(format!("{what} cannot be written to {to:p}")))
}

/// The caller's memory, for the engine to hold.
///
/// # Safety
/// The memory stays valid until it is unregistered, or its engine is destroyed; so the header obliges applications.
pub(crate) unsafe fn memory(addr: *mut c_void, length: usize) -> Result<RegisteredMemory, EngineError> {
    let start = NonNull::new(addr.cast::<u8>()).ok_or_else(|| invalid("registering memory: its address is NULL"))?;
    if length > isize::MAX as usize || addr.addr().checked_add(length).is_none() {
        return Err(invalid(format!("registering memory: {length} bytes do not fit at {addr:p}")));
    }
    // SAFETY: the caller vouches for it.
    Ok(unsafe { RegisteredMemory::from_raw(start, length) })
}
