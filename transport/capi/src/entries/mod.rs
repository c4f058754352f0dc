//! The functions of `include/nvferry.h`, one by one. The header and `docs/c-api.md` say what they mean; here stands what
//! the caller owes beyond that, which is always the same: texts are NULL or end with a zero byte, lists are NULL or as
//! long as was said, and places to write to are NULL or may be written. NULL where something is needed is an error.
//!
//! `tests/header.rs` compares each signature with the header's, by the names of its types.
#![allow(non_snake_case, unreachable_pub)] // The names are the original's, and exported.

mod engine;
mod memory;
mod segments;
mod transfers;

use std::ffi::c_void;

/// `transfer_engine_t`.
type Engine = *mut c_void;
/// `transport_t`.
type Transport = *mut c_void;
/// `segment_id_t`.
type SegmentNumber = i32;
/// `file_id_t`.
type FileNumber = u32;
/// `batch_id_t`.
type BatchNumber = u64;

#[cfg(test)]
pub(crate) use {engine::*, memory::*, segments::*, transfers::*};
