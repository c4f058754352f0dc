//! The segment store. For now one service of it stands: the metadata server, which keeps what nodes publish.
//!
//! What comes in: HTTP requests on small values by key. What goes out: the same bytes, as long as their owner lives.
//! It knows nothing of NVMe, and takes the values as they are.

pub mod metadata;

pub use metadata::{MetadataServer, MetadataServerOptions, StartError};
