//! File I/O behind one trait.

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
    /// Make `len` bytes read as zeroes, with the file system's help where it has any.
    WriteZeroes {
        /// Bytes to zero.
        len: u64,
    },
    /// Give `len` bytes back to the file system; they then read as zeroes.
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
    /// Bytes moved. Short I/O was continued: fewer than asked means the end of the file (reads only).
    pub result: io::Result<usize>,
    /// The request's memory.
    pub buf: IoBuf,
}

/// An engine of asynchronous file I/O, owned by one thread.
///
/// The order of use is: [`submit`](Self::submit) any number, [`flush`](Self::flush), [`reap`](Self::reap) what has
/// ended; before sleeping on [`wake_fd`](Self::wake_fd), reap once after the last flush, as operations may have
/// ended at once.
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

    /// Hands everything submitted to the kernel.
    ///
    /// # Errors
    /// When the engine itself has failed; its operations then end with errors.
    fn flush(&mut self) -> io::Result<()>;

    /// Appends what has ended to `done`, without waiting.
    fn reap(&mut self, done: &mut Vec<IoCompletion>);

    /// Readable while operations have ended that were not reaped. To be polled.
    fn wake_fd(&self) -> BorrowedFd<'_>;

    /// Waits until something can be reaped or the time is over.
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

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
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
