//! The NVMe-over-Fabrics transport.
pub mod config;
pub mod host;
mod intake;
pub mod status;
#[cfg(test)]
mod testing;
pub use config::{HostDriver, NvmeofOptions, OptionsError, TargetDriverKind};
