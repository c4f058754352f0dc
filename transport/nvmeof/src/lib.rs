//! The NVMe-over-Fabrics transport: files of other machines, read and written by their segment's name.
//!
//! What comes in: files to offer, segments to reach, slices to move ([`nvferry_engine::Transport`]). What goes out: a
//! running target for the own files, NVMe commands to other targets, ended slices. It may use `wire`, `io`,
//! `target-setup` and the engine's interfaces; it knows no batches and no metadata service.
//!
//! ```text
//!  engine --slices--> remote --> worker: intake -> queue pair --> link ==TCP==> target
//!                       |          (a thread each)  or local files
//!                       '-----> control thread: session -> controller --> link ==TCP==> target
//!  engine --files---> offer ---> target driver
//! ```
//!
//! - [`config`]: what can be set. [`status`]: what it does and did.
//! - [`transport`]: the engine's way in. [`offer`]: the own files. [`remote`]: another engine's segment.
//! - [`worker`]: the threads that move slices. [`intake`]: what all slices go through before a device.
//! - [`host`]: the host drivers: [`host::userspace`], `kernel` and `local`.

mod attachment;
pub mod config;
pub mod host;
mod intake;
mod offer;
mod remote;
#[cfg(test)]
mod remote_tests;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
pub mod status;
#[cfg(test)]
mod testing;
mod transport;
mod trid;
mod worker;

pub use config::{HostDriver, NvmeofOptions, OptionsError, SUBNQN_PREFIX, TargetDriverKind};
pub use offer::desired_target;
pub use status::{AttachmentStatus, ConnectionState, Counters, DriverChoice, TargetTotals, TransportStatus};
pub use transport::{NvmeofFactory, NvmeofTransport, factory};

/// The transport's name, as in `install_transport` and in a segment's `protocol`.
pub const PROTOCOL: &str = "nvmeof_generic";
