//! Memory that transfers may use.

use super::Engine;
use crate::entry::code;
use crate::handles;
use crate::layout::{BufferEntry, list, memory};
use std::ffi::{c_char, c_int, c_void};

/// Registers memory.
///
/// # Safety
/// The memory stays valid until it was unregistered with 0, or its engine is gone.
#[unsafe(no_mangle)] // SAFETY: here and below, the name is this library's own, as its header says.
pub unsafe extern "C" fn registerLocalMemory(
    engine: Engine,
    addr: *mut c_void,
    length: usize,
    _location: *const c_char,
    _remote_accessible: c_int,
) -> c_int {
    // SAFETY: the caller vouches for the memory.
    code(|| handles::engine(engine)?.register_memory_by_address(vec![unsafe { memory(addr, length) }?]))
}

/// Takes memory back, by its first address.
#[unsafe(no_mangle)]
pub extern "C" fn unregisterLocalMemory(engine: Engine, addr: *mut c_void) -> c_int {
    code(|| handles::engine(engine)?.unregister_memory_by_address(addr.addr()).map(drop))
}

/// Registers a list of memory, all or none.
///
/// # Safety
/// `buffer_list` has `buffer_len` entries, each as for [`registerLocalMemory`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn registerLocalMemoryBatch(
    engine: Engine,
    buffer_list: *mut BufferEntry,
    buffer_len: usize,
    _location: *const c_char,
) -> c_int {
    code(|| {
        // SAFETY: the caller vouches for the list.
        let buffers = unsafe { list(buffer_list, buffer_len, "the list of buffers") }?;
        // SAFETY: the caller vouches for the memory.
        let memories = buffers.iter().map(|buffer| unsafe { memory(buffer.addr, buffer.length) });
        handles::engine(engine)?.register_memory_by_address(memories.collect::<Result<_, _>>()?)
    })
}

/// Takes a list of memory back: tries all, and tells the first error.
///
/// # Safety
/// `addr_list` has `addr_len` entries.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unregisterLocalMemoryBatch(
    engine: Engine,
    addr_list: *mut *mut c_void,
    addr_len: usize,
) -> c_int {
    code(|| {
        let engine = handles::engine(engine)?;
        // SAFETY: the caller vouches for the list.
        let addresses = unsafe { list(addr_list, addr_len, "the list of addresses") }?;
        let each = addresses.iter().map(|addr| engine.unregister_memory_by_address(addr.addr()).map(drop));
        each.fold(Ok(()), Result::and)
    })
}
