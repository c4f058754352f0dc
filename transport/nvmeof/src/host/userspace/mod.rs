//! Our own NVMe/TCP host: state machines without threads, sockets or clocks, and the one thread that runs the admin
//! queues.
//!
//! State machines:
//! - [`link`]: one connection: PDUs, command slots, digests.
//! - [`queue_pair`]: one I/O queue: slices in, commands out; deadlines, retries, fair shares.
//! - [`controller`]: one admin queue: from Connect to namespaces, keep-alive and events.
//!
//! What drives them over real sockets, besides the [workers](crate::worker):
//! - [`control`]: the thread that runs all admin queues; [`session`]: one target, kept up;
//!   [`reconnect`]: when its I/O queues are made again; [`left_behind`]: what the next one has to wait for.

mod auth;
mod connect;
pub(crate) mod control;
pub mod controller;
mod left_behind;
pub(crate) mod link;
pub mod queue_pair;
mod reconnect;
pub(crate) mod session;
pub(crate) mod socket;

pub use link::LinkError;
