//! The state machine without sockets, threads or clocks: one worker, streams in memory, and a time that tests set.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod access;
#[allow(dead_code, reason = "the scenarios on real sockets use the rest")]
#[path = "../../../tests/common/auth.rs"]
mod auth;
mod backlog;
mod chopped;
mod given_up;
mod harness;
#[allow(dead_code, reason = "the scenarios on real sockets use the rest")]
#[path = "../../../tests/common/host.rs"]
mod host;
mod hostile;
mod malformed;
mod rounds;
mod stalled;
mod straight;
mod strangers;
mod time;
