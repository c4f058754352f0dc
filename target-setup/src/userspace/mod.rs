//! The userspace target: NVMe/TCP served by our own threads; no root, no kernel module.

pub mod limits;
mod options;

pub use options::{EngineFactory, UserspaceOptions};

use crate::desired::{NamespaceSpec, TargetSpec};
use crate::driver::{NamespaceInfo, TargetDriver, TargetStatus};
use crate::error::TargetError;
use nvferry_wire::{Nsid, TransportId};
use std::sync::Arc;
use std::time::Instant;

/// A running userspace target. Dropping it stops it.
pub struct UserspaceTarget {}

impl UserspaceTarget {
    /// Starts a target as described: opens its files, listens, and serves.
    ///
    /// # Errors
    /// Anything wrong with the files, the address or the machine. Nothing runs then.
    pub fn start(spec: TargetSpec, options: UserspaceOptions) -> Result<Arc<Self>, TargetError> {
        let _ = (spec, options);
        Err(TargetError::Stopped)
    }
}

impl TargetDriver for UserspaceTarget {
    fn add_namespace(&self, spec: NamespaceSpec) -> Result<NamespaceInfo, TargetError> {
        let _ = spec;
        Err(TargetError::Stopped)
    }
    fn remove_namespace(&self, nsid: Nsid, deadline: Instant) -> Result<(), TargetError> {
        let _ = (nsid, deadline);
        Err(TargetError::Stopped)
    }
    fn address(&self) -> TransportId {
        unreachable!("not started")
    }
    fn status(&self) -> TargetStatus {
        unreachable!("not started")
    }
    fn stop(&self, deadline: Instant) -> Result<(), TargetError> {
        let _ = deadline;
        Ok(())
    }
}
