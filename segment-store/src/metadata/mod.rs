//! The HTTP metadata server: where nodes publish what they offer and find what others offer.
//!
//! Byte-compatible with the original engine's server (`GET`, `PUT`, `DELETE` of `<path>?key=<key>`), with
//! additions that travel in headers and query parameters that the original ignores: owners that expire, a
//! version that readers can wait on, a listing by prefix.
//!
//! Top down: [`server`] is the face and owns the threads; `connections` accepts, bounds and times connections;
//! `tls` lets clients know that it is this server, and `access` decides who is answered;
//! `http` turns requests into answers; `writer` is the one thread that changes anything; `directory` decides what a
//! change does (no I/O, no clock); `disk` makes it durable; `view` is what readers see. A change is decided, made
//! durable, shown to readers, and only then acknowledged, in that order.

mod access;
mod connections;
mod directory;
mod disk;
mod http;
mod limits;
mod metrics;
mod query;
pub mod server;
mod tls;
mod view;
mod writer;

pub use access::{Token, TokenError};
pub use limits::Limits;
pub use server::{MetadataServer, MetadataServerOptions, StartError};
pub use tls::TlsFiles;

/// Names who a `PUT` or `DELETE` comes from: 1 to 128 visible ASCII characters. A node makes one up when it starts.
pub const OWNER_HEADER: &str = "x-nvferry-owner";
/// For how many milliseconds the owner lives on without another `PUT`.
pub const TTL_HEADER: &str = "x-nvferry-ttl-ms";
/// Grows with every change; on every answer about a key.
pub const VERSION_HEADER: &str = "x-nvferry-version";
