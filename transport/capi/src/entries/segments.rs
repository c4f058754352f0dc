//! Segments that are opened, and files that are offered.

use super::{Engine, FileNumber, SegmentNumber};
use crate::entry::{code, guard, text};
use crate::handles;
use crate::layout::place;
use nvferry_engine::{FileBufferId, SegmentId};
use std::ffi::{c_char, c_int};

/// Opens a segment.
///
/// # Safety
/// `segment_name` is NULL or ends with a zero byte.
#[unsafe(no_mangle)] // SAFETY: here and below, the name is this library's own, as its header says.
pub unsafe extern "C" fn openSegment(engine: Engine, segment_name: *const c_char) -> SegmentNumber {
    // SAFETY: the caller vouches for the text.
    guard(|| Ok(handles::engine(engine)?.open_segment(unsafe { text(segment_name, "the segment's name") }?)?.0))
        .unwrap_or_else(|code| code)
}

/// Opens a segment by what the metadata service says of it now.
///
/// # Safety
/// `segment_name` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openSegmentNoCache(engine: Engine, segment_name: *const c_char) -> SegmentNumber {
    guard(|| {
        // SAFETY: the caller vouches for the text.
        let (engine, name) = (handles::engine(engine)?, unsafe { text(segment_name, "the segment's name") }?);
        let segment = engine.open_segment(name)?;
        if let Err(error) = engine.sync_segment_cache(name) {
            // What was opened for nothing; that it is gone already is no other error.
            let _closed = engine.close_segment(segment);
            return Err(error);
        }
        Ok(segment.0)
    })
    .unwrap_or_else(|code| code)
}

/// Closes a segment once.
#[unsafe(no_mangle)]
pub extern "C" fn closeSegment(engine: Engine, segment_id: SegmentNumber) -> c_int {
    code(|| handles::engine(engine)?.close_segment(SegmentId(segment_id)))
}

/// Withdraws the engine's own segment, or closes another.
///
/// # Safety
/// `segment_name` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn removeLocalSegment(engine: Engine, segment_name: *const c_char) -> c_int {
    // SAFETY: the caller vouches for the text.
    code(|| handles::engine(engine)?.remove_local_segment(unsafe { text(segment_name, "the segment's name") }?))
}

/// Fetches the descriptions of all open segments anew.
#[unsafe(no_mangle)]
pub extern "C" fn syncSegmentCache(engine: Engine) -> c_int {
    code(|| handles::engine(engine)?.sync_segment_cache(None))
}

/// Offers a file.
///
/// # Safety
/// `path` is NULL or ends with a zero byte; `id` is NULL or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn registerLocalFile(
    engine: Engine,
    path: *const c_char,
    size: usize,
    id: *mut FileNumber,
) -> c_int {
    code(|| {
        let to = place(id, "the file's id")?;
        // SAFETY: the caller vouches for the text.
        let path = unsafe { text(path, "the file's path") }?;
        let FileBufferId(given) = handles::engine(engine)?.register_local_file(path, size as u64)?;
        // SAFETY: not NULL, aligned, and the caller vouches that it may be written.
        unsafe { to.write(given) };
        Ok(())
    })
}

/// Takes a file back.
///
/// # Safety
/// `path` is NULL or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unregisterLocalFile(engine: Engine, path: *const c_char) -> c_int {
    // SAFETY: the caller vouches for the text.
    code(|| handles::engine(engine)?.unregister_local_file(unsafe { text(path, "the file's path") }?))
}
