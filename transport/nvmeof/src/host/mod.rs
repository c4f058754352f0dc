//! The host side: how slices reach the files of another engine.
//!
//! - [`userspace`]: our own NVMe/TCP host.
//! - [`local`]: the target's files opened directly, where target and host are the same machine.
//! - [`namespaces`]: what is known of the files that can be reached.
//!
//! Both move slices of any alignment; what comes before the device is the same for both: see [`crate::intake`].

pub(crate) mod local;
pub mod namespaces;
pub mod userspace;

use nvferry_engine::{Failure, Slice};
use std::fmt::Display;

/// What was attempted, on what, and why it did not work: the sentence of a failed slice.
pub(crate) fn sentence(slice: &Slice, target: &str, why: impl Display) -> String {
    format!("{} of {} bytes at {} of file {} at {target}: {why}", slice.op, slice.len(), slice.offset, slice.file)
}

/// A failure of that slice.
pub(crate) fn failed(slice: &Slice, target: &str, why: impl Display) -> Failure {
    Failure::failed(sentence(slice, target, why))
}

/// A slice whose deadline has passed.
pub(crate) fn timed_out(slice: &Slice, target: &str, why: impl Display) -> Failure {
    Failure::timed_out(sentence(slice, target, why))
}

/// A slice that was given up.
pub(crate) fn canceled(slice: &Slice, target: &str, why: impl Display) -> Failure {
    Failure::canceled(sentence(slice, target, why))
}
