//! Why a request, or a wait for requests, did not end well.

use crate::error::{EngineError, ErrorKind};
use crate::ids::{FileBufferId, Operation, SegmentId, TransferState};
use crate::slice::Failure;
use std::sync::Arc;

/// Why a request did not complete: what was attempted, on which range of which file of which segment, reached where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferError {
    /// Which way.
    pub operation: Operation,
    /// The segment's name.
    pub segment_name: Arc<str>,
    /// The segment.
    pub segment: SegmentId,
    /// The file in the segment.
    pub file: FileBufferId,
    /// The file's path on its own node, where the description tells it.
    pub path: Option<Box<str>>,
    /// Where the request starts in the file, in bytes.
    pub offset: u64,
    /// How many bytes it asked for.
    pub length: u64,
    /// What the transport says that the segment is reached through, such as a transport id; may be empty.
    pub target: Box<str>,
    /// The first failure among its slices.
    pub cause: Failure,
}

impl std::fmt::Display for TransferError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes at {} of file {}", self.operation, self.length, self.offset, self.file)?;
        if let Some(path) = &self.path {
            write!(f, " ({path})")?;
        }
        write!(f, " of segment {}", self.segment_name)?;
        if !self.target.is_empty() {
            write!(f, " at {}", self.target)?;
        }
        write!(f, ": {}", self.cause.message)
    }
}

impl std::error::Error for TransferError {}

impl TransferError {
    /// The state that the request ended in.
    #[must_use]
    pub fn state(&self) -> TransferState {
        self.cause.state
    }
}

/// Why waiting for a batch did not end with all its requests completed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The wait's own deadline passed first. The requests go on.
    #[error("{pending} of {submitted} requests are still under way: wait longer, or cancel the batch")]
    UnderWay {
        /// Requests that have not ended.
        pending: usize,
        /// Requests that were submitted.
        submitted: usize,
    },
    /// All have ended, and some did not complete.
    #[error("{failed} of {submitted} requests failed; the first: {first}")]
    Failed {
        /// Requests that ended otherwise than completed.
        failed: usize,
        /// Requests that were submitted.
        submitted: usize,
        /// The first failure.
        first: Arc<TransferError>,
    },
}

impl From<WaitError> for EngineError {
    fn from(error: WaitError) -> Self {
        let kind = match &error {
            WaitError::UnderWay { .. } => ErrorKind::BatchBusy,
            WaitError::Failed { .. } => ErrorKind::Endpoint,
        };
        Self::new(kind, error.to_string())
    }
}
