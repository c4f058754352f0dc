//! One request as the sequence of system calls that it takes.
//!
//! All engines do the same thing with it: make the [`Call`] it asks for, in whatever way the engine has, and hand the
//! result back, until it has ended. Short I/O, interrupted calls and zeroing where the file system cannot help are
//! dealt with here once.

use super::progress::{Direction, Progress, Step};
use super::{IoBuf, IoKind, IoRequest};
use crate::file::IoFile;
use std::io;

/// How many zeroes one call writes, in bytes.
const ZERO_BLOCK_BYTES: usize = 64 << 10;

/// Zeroes to write from, aligned for every device.
#[repr(align(4096))]
struct ZeroBlock([u8; ZERO_BLOCK_BYTES]);

static ZEROES: ZeroBlock = ZeroBlock([0; ZERO_BLOCK_BYTES]);

/// The file system's way to make a range zero: extends the file as writing would.
const ZERO_RANGE: libc::c_int = libc::FALLOC_FL_ZERO_RANGE;

/// The file system's way to take a range back.
const PUNCH_HOLE: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// A system call on the request's file. Addresses stay valid while the request lives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    /// `pread`: `ptr` is valid for writes of `len` bytes.
    Read { ptr: *mut u8, len: usize, at: u64 },
    /// `pwrite`: `ptr` is valid for reads of `len` bytes.
    Write { ptr: *const u8, len: usize, at: u64 },
    /// `fdatasync`.
    SyncData,
    /// `fallocate`.
    Allocate { mode: libc::c_int, at: u64, len: u64 },
}

/// How far a request has come.
#[derive(Debug)]
pub(crate) enum Operation {
    /// Reading or writing the buffer.
    Transfer(Direction, Progress),
    SyncData,
    /// Asking the file system for zeroes.
    ZeroRange {
        len: u64,
    },
    /// Writing zeroes, as the file system cannot: `left` bytes of `len` including the present block.
    ZeroFill {
        len: u64,
        left: u64,
        block: Progress,
    },
    PunchHole {
        len: u64,
    },
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// The unit in which calls on this file go on.
pub(super) fn unit_bytes(file: &IoFile) -> u32 {
    if file.is_direct() { file.geometry().dio_offset_align_bytes } else { 1 }
}

fn start_of(buf: &IoBuf) -> *mut u8 {
    match buf {
        IoBuf::None => std::ptr::NonNull::dangling().as_ptr(),
        IoBuf::Pool(buffer, _) => buffer.as_ptr(),
        IoBuf::Leased(slice) => slice.as_ptr(),
    }
}

fn zero_block(file: &IoFile, left: u64, max_per_call: usize) -> Progress {
    let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(ZERO_BLOCK_BYTES);
    Progress::new(Direction::Write, bytes, unit_bytes(file), max_per_call)
}

impl Operation {
    /// The beginning of a request; nothing if there is nothing to do.
    ///
    /// # Errors
    /// `EINVAL` when the request names more bytes than its buffer has, or a range beyond what offsets can tell.
    pub(crate) fn begin(request: &IoRequest, max_per_call: usize) -> io::Result<Option<Self>> {
        let len = match request.kind {
            IoKind::Read | IoKind::Write => request.buf.len() as u64,
            IoKind::SyncData => return Ok(Some(Self::SyncData)),
            IoKind::WriteZeroes { len } | IoKind::Deallocate { len } => len,
        };
        let end = request.offset.checked_add(len).ok_or_else(invalid)?;
        if i64::try_from(end).is_err() {
            return Err(invalid());
        }
        if matches!(&request.buf, IoBuf::Pool(buffer, len) if *len > buffer.len()) {
            return Err(invalid());
        }
        if len == 0 {
            return Ok(None);
        }
        let transfer = |direction| {
            let progress = Progress::new(direction, request.buf.len(), unit_bytes(&request.file), max_per_call);
            Self::Transfer(direction, progress)
        };
        Ok(Some(match request.kind {
            IoKind::Read => transfer(Direction::Read),
            IoKind::Write => transfer(Direction::Write),
            IoKind::SyncData => Self::SyncData,
            IoKind::WriteZeroes { len } => Self::ZeroRange { len },
            IoKind::Deallocate { len } => Self::PunchHole { len },
        }))
    }

    /// The call to make now. `request` is the one that this began with.
    pub(crate) fn call(&self, request: &IoRequest) -> Call {
        match self {
            Self::Transfer(direction, progress) => {
                let (done, len) = (progress.done(), progress.remaining());
                // Within the buffer: `begin` checked its length, and `done + len` never exceeds it.
                let ptr = start_of(&request.buf).wrapping_add(done);
                let at = request.offset + done as u64;
                match direction {
                    Direction::Read => Call::Read { ptr, len, at },
                    Direction::Write => Call::Write { ptr, len, at },
                }
            }
            Self::SyncData => Call::SyncData,
            Self::ZeroRange { len } => Call::Allocate { mode: ZERO_RANGE, at: request.offset, len: *len },
            Self::ZeroFill { len, left, block } => {
                // Zeroes are the same wherever in the block they start, so a short write goes on from its beginning,
                // which also keeps the alignment.
                let at = request.offset + (len - left) + block.done() as u64;
                Call::Write { ptr: ZEROES.0.as_ptr(), len: block.remaining(), at }
            }
            Self::PunchHole { len } => Call::Allocate { mode: PUNCH_HOLE, at: request.offset, len: *len },
        }
    }

    /// Takes the call's result: a count, or a negative error number as io_uring and AIO give it.
    pub(crate) fn advance(&mut self, request: &IoRequest, max_per_call: usize, result: i64) -> Step {
        match self {
            Self::Transfer(_, progress) => progress.advance(result),
            Self::ZeroRange { len } if result == -i64::from(libc::EOPNOTSUPP) => {
                let (len, left) = (*len, *len);
                let block = zero_block(&request.file, left, max_per_call);
                *self = Self::ZeroFill { len, left, block };
                Step::Again
            }
            Self::ZeroFill { left, block, .. } => match block.advance(result) {
                Step::Finished(Ok(written)) => {
                    *left -= written as u64;
                    if *left == 0 {
                        return Step::Finished(Ok(0));
                    }
                    *block = zero_block(&request.file, *left, max_per_call);
                    Step::Again
                }
                other => other,
            },
            Self::SyncData | Self::ZeroRange { .. } | Self::PunchHole { .. } => {
                if result == -i64::from(libc::EINTR) {
                    return Step::Again;
                }
                if result < 0 {
                    let errno = i32::try_from(-result).unwrap_or(libc::EIO);
                    return Step::Finished(Err(io::Error::from_raw_os_error(errno)));
                }
                Step::Finished(Ok(0))
            }
        }
    }
}
