//! The target: what should be offered, as plain data, and the drivers that make it so.
//!
//! What comes in: a [`TargetSpec`] (one subsystem on one port, its namespaces, who may connect), then namespaces that
//! come and go. What goes out: a running NVMe/TCP target behind [`TargetDriver`]. May use `wire`, `auth` and `io`.
//!
//! - [`desired`]: the desired target, as plain data that every driver understands.
//! - [`driver`]: what every driver can do, and what it tells about itself.
//! - [`guard`]: files and devices that hold something are not offered by mistake.
//! - [`configfs`]: the kernel's target, nvmet.
//! - [`userspace`]: our own target: threads, sockets and files; no root, no kernel module.

pub mod configfs;
pub mod desired;
pub mod driver;
mod error;
pub mod guard;
mod servable;
pub mod userspace;

pub use configfs::{NvmetOptions, NvmetTarget};
pub use desired::{AllowedHost, AllowedHosts, HostAuth, NamespaceSpec, TargetSpec};
pub use driver::{
    AllowedHostStatus, CommandKind, ControllerStatus, ErrorClass, HostProof, HostStatus, IoTotals, NamespaceInfo,
    NamespaceStatus, ReactorStatus, TargetDriver, TargetStatus,
};
pub use error::TargetError;
pub use servable::{FileIdentity, NotServable, ServableFile, check_servable};
pub use userspace::{UserspaceOptions, UserspaceTarget};
