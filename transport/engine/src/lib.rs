//! The transfer engine: segments, batches of requests, transports behind one trait, and metadata clients.
//!
//! What comes in: calls of an application (`register_local_file`, `open_segment`, `submit`). What goes out: slices
//! to a [`Transport`], descriptions to a metadata service. It knows no NVMe.

pub mod error;
pub mod ids;
pub mod segment;
pub mod slice;
pub mod transport;

pub use error::EngineError;
pub use ids::{FileBufferId, Operation, SegmentId, TransferState};
pub use segment::{FileBufferDesc, SegmentDesc};
pub use slice::{Failure, Slice, SliceSink};
pub use transport::{FileLimits, RemoteSegment, Transport, TransportContext, TransportFactory};
