//! The `kernel` host driver: the kernel's own NVMe host connects to the target, and the workers read and write the block
//! devices that come of it.
//!
//! What comes in: where a segment's target is and which files it offers. What goes out: open devices for the workers
//! ([`super::local`] does the I/O). libnvme is used for connecting only; everything else is read in sysfs.
//!
//! - [`session`]: the thread of one attachment: connects, waits for devices, notices when they go and come back.
//! - [`connection`]: reuses the kernel's controller for a target or makes one, and removes what it made.
//! - [`fabrics`]: one attempt to connect, and what to tell a person when it fails.
//! - [`sysfs`]: controllers, namespaces and devices as the kernel shows them.
//! - [`errno`]: what an error of such a device says. [`doorbell`]: wakes the thread.

pub(crate) mod connection;
pub(crate) mod doorbell;
pub(crate) mod errno;
pub(crate) mod fabrics;
pub(crate) mod session;
#[cfg(test)]
mod session_tests;
pub(crate) mod sysfs;
#[cfg(test)]
mod sysfs_tests;

pub(crate) use doorbell::Doorbell;
pub(crate) use sysfs::KernelDevice;
