//! The host side: how slices reach the files of another engine.
//!
//! - [`userspace`]: our own NVMe/TCP host.
//! - [`kernel`]: the kernel's own NVMe host, whose block devices are read and written.
//! - [`local`]: files and devices opened directly: the target's, where it is on the same machine, or the kernel's.
//! - [`namespaces`]: what is known of the files that can be reached; [`identity`]: which files they are.
//!
//! All move slices of any alignment; what comes before the device is the same for all: see [`crate::intake`].

pub(crate) mod identity;
pub(crate) mod kernel;
pub(crate) mod local;
pub mod namespaces;
pub mod userspace;

/// What is said where the kernel host driver is wanted and was not built.
pub(crate) const NO_KERNEL_DRIVER: &str = kernel::fabrics::NOT_BUILT;
