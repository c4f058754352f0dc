//! Doing at once what cannot block, in front of another engine.
//!
//! Files in memory (tmpfs) are read and written by a plain call when the operation is submitted. For buffered files,
//! what the page cache has is tried first (`RWF_NOWAIT`); what it does not have, and everything on devices, goes to
//! the inner engine. A queue would only add latency to the first two.

use super::operation::Operation;
use super::progress::{MAX_BYTES_PER_CALL, Step};
use super::{IoCompletion, IoEngine, IoKind, IoRequest, blocking};
use crate::fast_paths::{FastPaths, Force};
use crate::file::IoFile;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// What of a file in memory may be zeroed or given back at once, in bytes; more would hold up the thread.
const MAX_INLINE_ALLOCATE_BYTES: u64 = 1 << 20;

/// Does at once what cannot block, and leaves the rest to an inner engine.
///
/// [`IoEngine::wake_fd`] is the inner engine's: operations that ended at once are reaped before sleeping, in the
/// order that [`IoEngine`] documents.
#[derive(Debug)]
pub struct InlineFirst<E> {
    inner: E,
    ended: Vec<IoCompletion>,
    stats: InlineStats,
    force: Force,
}

/// How operations were done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InlineStats {
    /// At once.
    pub inline: u64,
    /// By the inner engine.
    pub passed_on: u64,
}

impl<E: IoEngine> InlineFirst<E> {
    /// Puts itself in front of `inner`.
    #[must_use]
    pub fn new(inner: E) -> Self {
        Self { inner, ended: Vec::new(), stats: InlineStats::default(), force: FastPaths::of_this_process().inline }
    }

    /// How operations were done so far.
    #[must_use]
    pub fn stats(&self) -> InlineStats {
        self.stats
    }

    /// The result, if the operation could be done without waiting.
    fn try_now(&self, request: &IoRequest) -> Option<io::Result<usize>> {
        let file = &request.file;
        let transfers = matches!(request.kind, IoKind::Read | IoKind::Write);
        if self.force.is_off() {
            return None;
        }
        if file.is_memory_backed() || self.force == Force::On {
            let small = match request.kind {
                IoKind::WriteZeroes { len } | IoKind::Deallocate { len } => len <= MAX_INLINE_ALLOCATE_BYTES,
                IoKind::Read | IoKind::Write | IoKind::SyncData => true,
            };
            return small.then(|| blocking::run(request, MAX_BYTES_PER_CALL));
        }
        if !transfers || file.is_direct() || !file.may_try_nowait() {
            return None;
        }
        let mut operation = match Operation::begin(request, MAX_BYTES_PER_CALL) {
            Ok(Some(operation)) => operation,
            Ok(None) => return Some(Ok(0)),
            Err(error) => return Some(Err(error)),
        };
        loop {
            // SAFETY: the call is this request's, which stays borrowed, and with it its memory.
            let result = unsafe { blocking::make(file, operation.call(request), libc::RWF_NOWAIT) };
            if result == -i64::from(libc::EAGAIN) {
                return None;
            }
            if result == -i64::from(libc::EOPNOTSUPP) || result == -i64::from(libc::ENOSYS) {
                file.never_try_nowait();
                return None;
            }
            if let Step::Finished(result) = operation.advance(request, MAX_BYTES_PER_CALL, result) {
                return Some(result);
            }
        }
    }
}

impl<E: IoEngine> IoEngine for InlineFirst<E> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.ended.len()
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        if self.in_flight() >= self.capacity() {
            return Err(request);
        }
        match self.try_now(&request) {
            Some(result) => {
                self.stats.inline += 1;
                self.ended.push(IoCompletion { token: request.token, result, buf: request.buf });
                Ok(())
            }
            None => {
                self.inner.submit(request)?;
                self.stats.passed_on += 1;
                Ok(())
            }
        }
    }

    fn write_now(&mut self, file: &IoFile, offset: u64, bytes: &[u8]) -> Option<io::Result<usize>> {
        if self.force.is_off() || !file.is_memory_backed() {
            return None;
        }
        self.stats.inline += 1;
        Some(blocking::write(file, offset, bytes))
    }

    fn inline_stats(&self) -> InlineStats {
        self.stats
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        done.append(&mut self.ended);
        if self.inner.in_flight() > 0 {
            self.inner.reap(done);
        }
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inner.wake_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.ended.is_empty() { self.inner.wait(timeout) } else { self.inner.flush() }
    }
}
