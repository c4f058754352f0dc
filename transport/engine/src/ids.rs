//! Ids, operations and statuses: the small types that every call of the engine speaks in.

use std::fmt;

/// Names an open segment within one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub i32);

/// Names a registered file within its segment, from 1 up. It is the NVMe namespace id of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct FileBufferId(pub u32);

impl fmt::Display for FileBufferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// From the remote file into local memory.
    Read,
    /// From local memory into the remote file.
    Write,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// Where a request stands. The numbers are the original engine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum TransferState {
    /// Not yet submitted.
    Waiting = 0,
    /// Under way.
    Pending = 1,
    /// Refused: nothing of it has started.
    Invalid = 2,
    /// Given up by the caller.
    Canceled = 3,
    /// All bytes moved.
    Completed = 4,
    /// Its deadline passed.
    Timeout = 5,
    /// It failed; the error says why.
    Failed = 6,
}

impl TransferState {
    /// Whether it will not change any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Waiting | Self::Pending)
    }
}
