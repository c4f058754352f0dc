//! The userspace target: NVMe/TCP served by our own threads; no root, no kernel module.
//!
//! ```text
//!   hosts ==TCP==> reactor (a thread)                          files
//!                    worker: connections -> lanes -> I/O engine ==> namespaces
//!                  reactor ...                  |
//!                        \__ shared: subsystem (namespace table, controllers), placement
//! ```
//!
//! Outside in:
//! - [`UserspaceTarget`] starts and stops everything; [`UserspaceOptions`] say how, [`limits`] how much.
//! - `reactor`: a thread with a poller; the only place that knows sockets and the time.
//! - `worker` and `core`: the connections of a reactor, its buffers and its I/O engine. Together with everything below, it is a
//!   state machine over streams, an engine and a time that it is told: a simulation drives the same code.
//! - `connection`, `receive`, `dispatch`, `complete`, `send`: a queue pair, from bytes to commands and back.
//! - `lane`, `command`: what I/O commands do, and how namespaces share a reactor. No lock on this way.
//! - `auth`: hosts prove who they are, and the thread that computes it.
//! - `admin`: what controllers answer; `controller`, `subsystem`, `table`, `namespace`: what all reactors share; `hosts`: what each host did;
//!   `strangers`: those who have not shown who they are.

mod admin;
mod auth;
mod command;
mod complete;
mod connection;
mod controller;
mod core;
mod counters;
mod dispatch;
mod hosts;
mod lane;
pub mod limits;
mod mailbox;
mod namespace;
mod options;
mod orphans;
mod placement;
mod reactor;
mod receive;
mod send;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod straight;
mod strangers;
mod subsystem;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod worker;

pub use options::{EngineFactory, UserspaceOptions};
pub use target::UserspaceTarget;
