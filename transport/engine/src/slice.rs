//! A slice: the part of a request that a transport moves in one piece, and how it reports the end.

use crate::ids::{FileBufferId, Operation, TransferState};
use nvferry_io::MemSlice;
use std::sync::Arc;
use std::time::Instant;

/// Why a slice did not move all its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The state its request ends in: `Timeout`, `Canceled` or `Failed`.
    pub state: TransferState,
    /// Why not, for people. The engine says beside it what was attempted, and on what.
    pub message: Box<str>,
    /// The operating system's error number, where it was that.
    pub errno: Option<i32>,
    /// The device's own status code, where it gave one (for NVMe: status code type << 8 | status code).
    pub device_status: Option<u16>,
}

impl Failure {
    /// A failure with a message only.
    #[must_use]
    pub fn failed(message: impl Into<Box<str>>) -> Self {
        Self { state: TransferState::Failed, message: message.into(), errno: None, device_status: None }
    }

    /// The deadline passed; the message says while waiting for what.
    #[must_use]
    pub fn timed_out(message: impl Into<Box<str>>) -> Self {
        Self { state: TransferState::Timeout, ..Self::failed(message) }
    }

    /// The caller gave up.
    #[must_use]
    pub fn canceled(message: impl Into<Box<str>>) -> Self {
        Self { state: TransferState::Canceled, ..Self::failed(message) }
    }
}

/// Who counts slices into their requests: a batch, or a test.
pub trait SliceSink: Send + Sync {
    /// Called exactly once for each slice, from any thread, with the bytes that the slice asked for.
    /// Must not block.
    fn slice_ended(&self, request: u32, len_bytes: u64, result: Result<(), Failure>);
}

/// One contiguous range of one file and the memory it goes to or comes from. Any alignment.
///
/// Whoever holds it must end it with [`Slice::complete`] or [`Slice::fail`]; one that is dropped counts as failed,
/// so that no request is ever forgotten (P1).
pub struct Slice {
    /// Which way.
    pub op: Operation,
    /// Which file of the segment.
    pub file: FileBufferId,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// The local memory; its length is the slice's.
    pub memory: MemSlice,
    /// When it must have ended.
    pub deadline: Instant,
    /// When its request was submitted, where that is told: for those who measure how long requests take.
    pub begun: Option<Instant>,
    sink: Option<Arc<dyn SliceSink>>,
    request: u32,
}

impl Slice {
    /// A slice that reports to `sink` as part of request number `request`.
    #[must_use]
    pub fn new(
        op: Operation,
        file: FileBufferId,
        offset: u64,
        memory: MemSlice,
        deadline: Instant,
        sink: Arc<dyn SliceSink>,
        request: u32,
    ) -> Self {
        Self { op, file, offset, memory, deadline, begun: None, sink: Some(sink), request }
    }

    /// Bytes to move.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Ends it: all its bytes were moved.
    pub fn complete(self) {
        self.end(Ok(()));
    }

    /// Ends it: not all its bytes were moved.
    pub fn fail(self, failure: Failure) {
        self.end(Err(failure));
    }

    fn end(mut self, result: Result<(), Failure>) {
        let Some(sink) = self.sink.take() else { return };
        let (request, len) = (self.request, self.memory.len() as u64);
        // The memory's lease ends before the request does: whoever is woken finds the memory free.
        drop(self);
        sink.slice_ended(request, len, result);
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            let message = format!(
                "{} of {} bytes at {} of file {}: the transport stopped before it was done",
                self.op,
                self.memory.len(),
                self.offset,
                self.file
            );
            sink.slice_ended(self.request, self.memory.len() as u64, Err(Failure::failed(message)));
        }
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({} {} bytes at {} of file {})", self.op, self.memory.len(), self.offset, self.file)
    }
}
