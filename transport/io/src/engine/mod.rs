//! File I/O behind one trait.
//!
//! In come requests to read, write, flush, zero or give back a range of an [`IoFile`]; out come their ends, each with
//! the memory that it was given. Three engines do the work, and [`open`] chooses by trying: io_uring
//! ([`UringEngine`]), Linux AIO ([`AioEngine`]) and a pool of threads ([`ThreadsEngine`]). All turn a request into the
//! same sequence of system calls (`operation.rs`), so short I/O, retries and zeroing behave alike, and one suite tests
//! them all (`tests/engine_suite.rs`).
//!
//! Wrappers add what every engine may need: [`InlineFirst`] does at once what cannot block, [`Counting`] counts, and
//! [`Faulty`] lets things go wrong on purpose.
//!
//! The kernel owns a request's memory until its end. An engine that is dropped waits a while for what is under way;
//! what then still has not ended stays allocated and leased for ever, rather than be used by two.

mod aio;
mod blocking;
mod counting;
mod faulty;
mod inline;
mod operation;
mod probe;
mod progress;
mod signal;
mod slots;
mod threads;
mod uring;

pub use aio::{AioConfig, AioEngine};
pub use counting::{Counting, IoCounters, IoCounts};
pub use faulty::{Fault, FaultControl, FaultOn, FaultRates, FaultRule, Faulty};
pub use inline::{InlineFirst, InlineStats};
pub use probe::{EngineChoice, EngineError, EngineReport, Trial, open};
pub use progress::{Direction, Progress, Step};
pub use threads::{ThreadsConfig, ThreadsEngine};
pub use uring::{UringConfig, UringEngine};

use crate::file::IoFile;
use crate::memory::MemSlice;
use crate::pool::PoolBuf;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// What to do with the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoKind {
    /// Fill the buffer from the file.
    Read,
    /// Write the buffer to the file.
    Write,
    /// Make everything written so far durable (`fdatasync`).
    SyncData,
    /// Make `len` bytes read as zeroes, with the file system's help where it has any, otherwise by writing them.
    WriteZeroes {
        /// Bytes to zero.
        len: u64,
    },
    /// Give `len` bytes back to the file system; they then read as zeroes. Ends with `EOPNOTSUPP` where the file
    /// system cannot, and the bytes are as they were: whether that is a failure is for the caller to say, as NVMe's
    /// Deallocate is advisory.
    Deallocate {
        /// Bytes to give back.
        len: u64,
    },
}

/// The memory of one operation. The engine owns it until the completion gives it back.
#[derive(Debug)]
pub enum IoBuf {
    /// The operation needs none.
    None,
    /// The first `len` bytes of a pool's buffer.
    Pool(PoolBuf, usize),
    /// Memory that a caller leased to a transfer.
    Leased(MemSlice),
}

impl IoBuf {
    /// Bytes to move.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Pool(_, len) => *len,
            Self::Leased(slice) => slice.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One operation on one file.
#[derive(Debug)]
pub struct IoRequest {
    /// Comes back with the completion; the engine makes nothing of it.
    pub token: u64,
    /// The file.
    pub file: Arc<IoFile>,
    /// What to do.
    pub kind: IoKind,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// From or into what memory.
    pub buf: IoBuf,
}

/// The end of one operation.
#[derive(Debug)]
pub struct IoCompletion {
    /// As in the request.
    pub token: u64,
    /// Bytes read or written; 0 for everything else. Short I/O was continued: fewer than asked means the end of the
    /// file (reads only). Requests that make no sense (more bytes than the buffer has, offsets beyond what files can
    /// have, Direct I/O out of alignment) end with `EINVAL`.
    pub result: io::Result<usize>,
    /// The request's memory.
    pub buf: IoBuf,
}

/// An engine of asynchronous file I/O, owned by one thread.
///
/// The order of use is: [`submit`](Self::submit) any number, [`flush`](Self::flush), [`reap`](Self::reap) what has
/// ended; before sleeping on [`wake_fd`](Self::wake_fd), reap once after the last flush, as operations may have
/// ended at once.
///
/// An engine may move to another thread. What a thread had under way when it ended may end with `ECANCELED`.
pub trait IoEngine: Send {
    /// The engine's name, for reports: "io_uring", "libaio", "threads".
    fn name(&self) -> &'static str;

    /// Operations that may be under way at once.
    fn capacity(&self) -> usize;

    /// Operations under way: submitted and not reaped.
    fn in_flight(&self) -> usize;

    /// Takes an operation, or gives it back when [`capacity`](Self::capacity) are under way.
    ///
    /// # Errors
    /// The request itself, untouched.
    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest>;

    /// Writes all of `bytes` to the file, from `offset` on, if this engine would do that within [`submit`](Self::submit)
    /// anyway: without waiting for anything. Nothing has happened otherwise.
    fn write_now(&mut self, _file: &IoFile, _offset: u64, _bytes: &[u8]) -> Option<io::Result<usize>> {
        None
    }

    /// Hands everything submitted to the kernel.
    ///
    /// # Errors
    /// When the engine itself has failed; its operations then end with errors.
    fn flush(&mut self) -> io::Result<()>;

    /// How operations were done, where some may be done at once.
    fn inline_stats(&self) -> InlineStats {
        InlineStats::default()
    }

    /// Appends what has ended to `done`, without waiting.
    fn reap(&mut self, done: &mut Vec<IoCompletion>);

    /// Readable while operations have ended that were not reaped, except for those that ended within
    /// [`submit`](Self::submit). To be polled, level- or edge-triggered; never to be read. A wait may be interrupted
    /// when operations end: reap also after a wait that gave no event.
    fn wake_fd(&self) -> BorrowedFd<'_>;

    /// Flushes and waits until something can be reaped or the time is over. May return early, as for a signal; returns
    /// at once when nothing is under way.
    ///
    /// # Errors
    /// When waiting itself fails.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

impl<E: IoEngine + ?Sized> IoEngine for Box<E> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn capacity(&self) -> usize {
        (**self).capacity()
    }

    fn in_flight(&self) -> usize {
        (**self).in_flight()
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        (**self).submit(request)
    }

    fn write_now(&mut self, file: &IoFile, offset: u64, bytes: &[u8]) -> Option<io::Result<usize>> {
        (**self).write_now(file, offset, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }

    fn inline_stats(&self) -> InlineStats {
        (**self).inline_stats()
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        (**self).reap(done);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        (**self).wake_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        (**self).wait(timeout)
    }
}
