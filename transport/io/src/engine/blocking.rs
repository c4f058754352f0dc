//! One operation done on this thread by plain system calls: what the threads engine's threads do, and what other
//! engines do where waiting cannot happen.

use super::IoRequest;
use super::operation::{Call, Operation, unit_bytes};
use super::progress::{Direction, MAX_BYTES_PER_CALL, Progress, Step};
use crate::file::IoFile;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Does the whole operation.
pub(crate) fn run(request: &IoRequest, max_per_call: usize) -> io::Result<usize> {
    match Operation::begin(request, max_per_call)? {
        Some(operation) => go_on(operation, request, max_per_call),
        None => Ok(0),
    }
}

/// Does what is left of an operation.
pub(crate) fn go_on(mut operation: Operation, request: &IoRequest, max_per_call: usize) -> io::Result<usize> {
    loop {
        // SAFETY: the call is this request's, which stays borrowed, and with it its memory.
        let result = unsafe { make(&request.file, operation.call(request), 0) };
        if let Step::Finished(result) = operation.advance(request, max_per_call, result) {
            return result;
        }
    }
}

/// Writes all of `bytes`, from `offset` on.
pub(crate) fn write(file: &IoFile, offset: u64, bytes: &[u8]) -> io::Result<usize> {
    let mut progress = Progress::new(Direction::Write, bytes.len(), unit_bytes(file), MAX_BYTES_PER_CALL);
    loop {
        let (done, len) = (progress.done(), progress.remaining());
        let call = Call::Write { ptr: bytes[done..done + len].as_ptr(), len, at: offset + done as u64 };
        // SAFETY: the call reads those bytes, which stay borrowed.
        if let Step::Finished(result) = progress.advance(unsafe { make(file, call, 0) }) {
            return result;
        }
    }
}

/// Makes one call and gives its result as io_uring and AIO do: a count, or a negative error number. `rwf` are
/// preadv2(2)'s flags, for reads and writes.
///
/// # Safety
/// The call's address must be valid for its length, for as long as this takes.
pub(crate) unsafe fn make(file: &IoFile, call: Call, rwf: libc::c_int) -> i64 {
    let fd = file.as_fd().as_raw_fd();
    let result = match call {
        Call::Read { ptr, len, at } if rwf == 0 => {
            // SAFETY: the caller's promise.
            unsafe { libc::pread64(fd, ptr.cast(), len, at as i64) as i64 }
        }
        Call::Write { ptr, len, at } if rwf == 0 => {
            // SAFETY: the caller's promise.
            unsafe { libc::pwrite64(fd, ptr.cast(), len, at as i64) as i64 }
        }
        Call::Read { ptr, len, at } => {
            let piece = libc::iovec { iov_base: ptr.cast(), iov_len: len };
            // SAFETY: the caller's promise; the piece lives during the call.
            unsafe { libc::preadv2(fd, &raw const piece, 1, at as i64, rwf) as i64 }
        }
        Call::Write { ptr, len, at } => {
            let piece = libc::iovec { iov_base: ptr.cast_mut().cast(), iov_len: len };
            // SAFETY: as above; writing only reads the memory.
            unsafe { libc::pwritev2(fd, &raw const piece, 1, at as i64, rwf) as i64 }
        }
        // SAFETY: an open descriptor.
        Call::SyncData => unsafe { i64::from(libc::fdatasync(fd)) },
        // SAFETY: an open descriptor.
        Call::Allocate { mode, at, len } => unsafe { i64::from(libc::fallocate64(fd, mode, at as i64, len as i64)) },
    };
    if result >= 0 {
        return result;
    }
    -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
