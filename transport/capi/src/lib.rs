//! The C interface: libnvferry. What its functions mean stands in `include/nvferry.h` and `docs/c-api.md`.
//!
//! - `entries`: the functions themselves. Each goes through `entry::guard`: no panic crosses, and the text of the last
//!   error stays with its thread.
//! - `handles`: an application's handles are numbers that are never given out twice, so a stale or foreign one is an
//!   error and nothing else. They also decide when a batch and an engine may go.
//! - `layout`: what is handed over, and all that is read from addresses or written to them.
#![allow(unsafe_code)]

mod entries;
mod entry;
mod handles;
mod layout;
#[cfg(test)]
mod tests;
