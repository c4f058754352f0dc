//! What can be wrong with bytes or text that claim to be NVMe.

use crate::nqn::NqnError;
use crate::pdu::PduError;
use crate::sgl::SglError;
use crate::trid::TridError;

/// Why bytes could not be decoded, or did not fit where they were to be encoded.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the structure does.
    #[error("{what} needs {needed} bytes where only {available} are left")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Bytes that the next field or structure takes.
        needed: usize,
        /// Bytes that were there.
        available: usize,
    },
    /// The caller's buffer ends before the structure does.
    #[error("{what} needs {needed} bytes more in a buffer that has {available} left")]
    BufferTooSmall {
        /// The structure.
        what: &'static str,
        /// Bytes to be written next.
        needed: usize,
        /// Bytes left in the buffer.
        available: usize,
    },
    /// A field holds a value that its structure does not allow.
    #[error("{what}: {field} is {value:#x}, which {why}")]
    InvalidField {
        /// The structure.
        what: &'static str,
        /// The field, by its NVMe name.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What is wrong with that.
        why: &'static str,
    },
    /// A PDU that breaks the rules of NVMe/TCP; the connection has to end.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// A data pointer that this transport does not have.
    #[error(transparent)]
    Sgl(#[from] SglError),
    /// A name that is no NVMe qualified name.
    #[error(transparent)]
    Nqn(#[from] NqnError),
    /// A text that is no transport id.
    #[error(transparent)]
    Trid(#[from] TridError),
}
