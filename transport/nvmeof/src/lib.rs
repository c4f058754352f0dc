//! The NVMe-over-Fabrics transport.
pub mod config;
mod edges;
pub mod host;
mod split;
#[cfg(test)]
mod testing;
pub use config::{HostDriver, NvmeofOptions, OptionsError, TargetDriverKind};
