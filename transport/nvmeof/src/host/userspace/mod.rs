//! Our own NVMe/TCP host: state machines without threads, sockets or clocks, and the one thread that runs the admin
//! queues.
//!
//! - [`link`]: one connection: PDUs, command slots, digests.
//! - [`queue_pair`]: one I/O queue: slices in, commands out; deadlines, retries, fair shares.
//! - [`controller`]: one admin queue: from Connect to namespaces, keep-alive and events.

mod connect;
pub mod controller;
pub(crate) mod link;
pub mod queue_pair;

pub use link::LinkError;
