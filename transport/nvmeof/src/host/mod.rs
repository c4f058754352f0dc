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
