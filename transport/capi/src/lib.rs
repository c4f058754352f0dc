//! The C interface: libnvferry. What its functions mean stands in `include/nvferry.h`.
//!
//! An application's handles are numbers that are never given out twice (`handles`), so a stale or foreign one is an
//! error and nothing else. Every entry (`entries`) goes through `entry::guard`: no panic crosses, and the text of the
//! last error stays with its thread.
#![allow(unsafe_code)]

mod entries;
mod entry;
mod handles;
