//! What arbitrary bytes may do to nvferry: entry functions that take an input, do with it what a peer could, and panic
//! where something happens that may not.
//!
//! A fuzzer calls them with inputs of its own (`libfuzzer/`, run by `scripts/fuzz`); the tests of this crate call them
//! with the corpus, without any fuzzer.
//!
//! - [`codec`]: the decoders of `wire`, each by itself.
//! - [`mod@target`]: a whole target, and what up to twelve connections say to it.
//! - [`host`]: a host's I/O queue and its admin queue, and what a target says to them.
//! - [`auth_exchange`], [`segment_json`], [`http`]: what their names say.
//! - [`record`]: inputs to begin with, from conversations of the real host with the real target.
//!
//! All but the HTTP server run on one thread, with a time that the input moves: an input does the same each time.

#![allow(clippy::unwrap_used, reason = "a panic is how it is told that something is wrong")]

mod auth_exchange;
mod codec;
mod host;
mod http;
mod input;
mod reader;
pub mod record;
mod segment_json;
mod storage;
mod target;

/// Something that inputs are given to.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What it is called, on the command line and in `corpus/`.
    pub name: &'static str,
    /// Takes an input. Panics when something happens that may not.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "pdu", run: codec::pdu::run },
    Target { name: "command", run: codec::command::run },
    Target { name: "identify_log", run: codec::identify_log::run },
    Target { name: "text", run: codec::text::run },
    Target { name: "auth_message", run: codec::auth_message::run },
    Target { name: "auth_exchange", run: auth_exchange::run },
    Target { name: "target", run: target::converse },
    Target { name: "host_queue", run: host::converse::<host::queue::Attack> },
    Target { name: "host_admin", run: host::converse::<host::admin::Attack> },
    Target { name: "segment_json", run: segment_json::run },
    Target { name: "http", run: http::run },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|target| target.name == name).copied()
}
