//! The etcd client against a real etcd, which each test starts for itself on loopback. Where there is none, the tests
//! say that they were skipped.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // Failing is what tests do, and saying what they skip.

mod access;
#[path = "../common/mod.rs"]
mod common;
mod engines;
mod failing;
mod server;
mod store;
