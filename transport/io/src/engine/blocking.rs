//! One operation done on this thread by plain system calls: what the threads engine's threads do, and what the other
//! engines do where the kernel has no asynchronous form.

use super::progress::{Direction, Progress, Step};
use super::{IoBuf, IoKind, IoRequest};
use crate::file::IoFile;
use crate::sys::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Zeroes to write from, aligned for every device.
#[repr(align(4096))]
pub(crate) struct ZeroBlock([u8; ZERO_BLOCK_BYTES]);

/// How much of it there is, in bytes.
pub(crate) const ZERO_BLOCK_BYTES: usize = 64 << 10;

pub(crate) static ZEROES: ZeroBlock = ZeroBlock([0; ZERO_BLOCK_BYTES]);

impl ZeroBlock {
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

/// Where a request's bytes are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawParts {
    pub(crate) ptr: *mut u8,
    pub(crate) len: usize,
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// The memory of a read or write.
///
/// # Errors
/// `EINVAL` when the request names more bytes than its buffer has.
pub(crate) fn raw_parts(buf: &IoBuf) -> io::Result<RawParts> {
    match buf {
        IoBuf::None => Ok(RawParts { ptr: std::ptr::NonNull::dangling().as_ptr(), len: 0 }),
        IoBuf::Pool(buffer, len) if *len <= buffer.len() => Ok(RawParts { ptr: buffer.as_ptr(), len: *len }),
        IoBuf::Pool(..) => Err(invalid()),
        IoBuf::Leased(slice) => Ok(RawParts { ptr: slice.as_ptr(), len: slice.len() }),
    }
}

/// The unit in which calls on this file go on.
pub(crate) fn unit_bytes(file: &IoFile) -> u32 {
    if file.is_direct() { file.geometry().dio_offset_align_bytes } else { 1 }
}

/// A range as the kernel's signed offsets.
///
/// # Errors
/// `EINVAL` when it does not fit them.
pub(crate) fn signed_range(offset: u64, len: u64) -> io::Result<(i64, i64)> {
    let end = offset.checked_add(len).ok_or_else(invalid)?;
    i64::try_from(end).map_err(|_| invalid())?;
    Ok((i64::try_from(offset).map_err(|_| invalid())?, i64::try_from(len).map_err(|_| invalid())?))
}

/// The file system's way to make a range zero: extends the file as writing would.
pub(crate) const ZERO_RANGE: libc::c_int = libc::FALLOC_FL_ZERO_RANGE;

/// The file system's way to take a range back.
pub(crate) const PUNCH_HOLE: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// Does the whole operation.
pub(crate) fn run(request: &IoRequest, max_per_call: usize) -> io::Result<usize> {
    let file = &request.file;
    match request.kind {
        IoKind::Read => transfer(file, Direction::Read, request.offset, &request.buf, max_per_call),
        IoKind::Write => transfer(file, Direction::Write, request.offset, &request.buf, max_per_call),
        IoKind::SyncData => sync_data(file),
        IoKind::WriteZeroes { len } => write_zeroes(file, request.offset, len, max_per_call),
        IoKind::Deallocate { len } => fallocate(file, PUNCH_HOLE, request.offset, len),
    }
}

fn transfer(file: &IoFile, direction: Direction, offset: u64, buf: &IoBuf, max_per_call: usize) -> io::Result<usize> {
    let parts = raw_parts(buf)?;
    let (offset, _) = signed_range(offset, parts.len as u64)?;
    let mut progress = Progress::new(direction, parts.len, unit_bytes(file), max_per_call);
    let fd = file.as_fd().as_raw_fd();
    loop {
        let (done, len) = (progress.done(), progress.remaining());
        let at = offset + done as i64;
        // SAFETY: `done + len` is at most the buffer's length, and `buf` keeps it alive; leased memory may change
        // meanwhile, which the kernel's copy tolerates.
        let result = unsafe {
            match direction {
                Direction::Read => libc::pread64(fd, parts.ptr.add(done).cast(), len, at),
                Direction::Write => libc::pwrite64(fd, parts.ptr.add(done).cast_const().cast(), len, at),
            }
        };
        if let Step::Finished(result) = progress.advance(result_or_errno(result as i64)) {
            return result;
        }
    }
}

/// Turns -1 into the negative error number, as io_uring and AIO give results.
pub(crate) fn result_or_errno(result: i64) -> i64 {
    if result >= 0 {
        return result;
    }
    -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn sync_data(file: &IoFile) -> io::Result<usize> {
    loop {
        // SAFETY: an open descriptor.
        match check(unsafe { libc::fdatasync(file.as_fd().as_raw_fd()) }) {
            Ok(_) => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn fallocate(file: &IoFile, mode: libc::c_int, offset: u64, len: u64) -> io::Result<usize> {
    let (at, size) = signed_range(offset, len)?;
    if len == 0 {
        return Ok(0);
    }
    loop {
        // SAFETY: an open descriptor.
        match check(unsafe { libc::fallocate64(file.as_fd().as_raw_fd(), mode, at, size) }) {
            Ok(_) => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_zeroes(file: &IoFile, offset: u64, len: u64, max_per_call: usize) -> io::Result<usize> {
    match fallocate(file, ZERO_RANGE, offset, len) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            write_zero_bytes(file, offset, len, max_per_call)
        }
        other => other,
    }
}

/// Writes zeroes where the file system has no better way.
pub(crate) fn write_zero_bytes(file: &IoFile, offset: u64, len: u64, max_per_call: usize) -> io::Result<usize> {
    signed_range(offset, len)?;
    let fd = file.as_fd().as_raw_fd();
    let mut left = len;
    while left > 0 {
        let total = left.min(ZERO_BLOCK_BYTES as u64) as usize;
        let start = offset + (len - left);
        let mut progress = Progress::new(Direction::Write, total, unit_bytes(file), max_per_call);
        loop {
            let at = (start + progress.done() as u64) as i64;
            // SAFETY: reads at most the zero block's length from a static; zeroes are the same wherever they start.
            let result = unsafe { libc::pwrite64(fd, ZEROES.as_ptr().cast(), progress.remaining(), at) };
            if let Step::Finished(result) = progress.advance(result_or_errno(result as i64)) {
                result?;
                break;
            }
        }
        left -= total as u64;
    }
    Ok(0)
}
