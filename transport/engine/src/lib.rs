//! The transfer engine: segments, batches of requests, transports behind one trait, and metadata clients.
//!
//! What comes in: calls of an application (`register_local_file`, `open_segment`, `submit`). What goes out: slices
//! to a [`Transport`], descriptions to a metadata service. It knows no NVMe.
//!
//! Top down:
//!
//! - [`engine`]: [`TransferEngine`], its settings, what it offers and what it has opened.
//! - [`batch`] and [`request`]: what is to be moved, and what became of it.
//! - [`memory`]: the memory that transfers may use.
//! - [`transport`] and [`slice`](mod@slice): what a transport is to the engine. [`null`] is one that moves nothing.
//! - [`segment`], [`keys`], [`metadata`]: what is published, where, and how.
//! - [`ids`], [`deadline`], [`error`], [`transfer_error`]: the small types.
//!
//! ```
//! use nvferry_engine::{Deadline, Request, TransferEngine, null::NullTransportFactory};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = TransferEngine::builder()
//!     .metadata("memory:example")
//!     .server_name("127.0.0.1:8081")
//!     .transport(NullTransportFactory::default())
//!     .build()?;
//! engine.install_transport("null", "")?;
//! let file = engine.register_local_file("/no/such/file", 1 << 20)?;
//!
//! let segment = engine.open_segment("127.0.0.1:8081")?;
//! let memory = engine.register_memory(vec![0; 65536])?;
//! let batch = engine.batch(16)?;
//! batch.submit(&[Request::read(&memory, 0..65536, segment, file, 4096)])?;
//! batch.wait(Deadline::after(Duration::from_secs(5)))?;
//! # Ok(())
//! # }
//! ```

pub mod batch;
mod control_runtime;
pub mod deadline;
pub mod engine;
pub mod error;
pub mod ids;
pub mod keys;
pub mod memory;
pub mod metadata;
pub mod null;
mod permits;
pub mod request;
pub mod segment;
pub mod slice;
pub mod transfer_error;
pub mod transport;

pub use batch::{Batch, RequestStatus};
pub use deadline::Deadline;
pub use engine::builder::TransferEngineBuilder;
pub use engine::{TransferEngine, UnderWay};
pub use error::{EngineError, ErrorKind};
pub use ids::{FileBufferId, Operation, SegmentId, TransferState};
pub use memory::Memory;
pub use metadata::MetadataStore;
pub use request::{Request, Source};
pub use segment::{FileBufferDesc, SegmentDesc};
pub use slice::{Failure, Slice, SliceSink};
pub use transfer_error::{TransferError, WaitError};
pub use transport::{FileLimits, RemoteSegment, Transport, TransportContext, TransportFactory, Waiting};
