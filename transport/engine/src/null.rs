//! A transport that moves nothing: every slice completes at once. It measures what the engine itself costs.
//!
//! Any path can be registered with it, and no file is touched. Memory keeps what it held.

use crate::error::EngineError;
use crate::ids::FileBufferId;
use crate::segment::{FileBufferDesc, SegmentDesc};
use crate::slice::Slice;
use crate::transport::{FileLimits, RemoteSegment, Transport, TransportContext, TransportFactory};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What it calls itself.
pub const PROTOCOL: &str = "null";

/// Makes null transports.
#[derive(Debug, Clone, Copy)]
pub struct NullTransportFactory {
    /// What every file allows.
    pub limits: FileLimits,
}

impl Default for NullTransportFactory {
    /// Limits like those of a usual NVMe target.
    fn default() -> Self {
        Self { limits: FileLimits { max_slice_bytes: 1 << 20, block_bytes: 512 } }
    }
}

impl TransportFactory for NullTransportFactory {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn install(&self, _context: &TransportContext, _args: Option<&str>) -> Result<Arc<dyn Transport>, EngineError> {
        Ok(Arc::new(Null { limits: self.limits }))
    }
}

struct Null {
    limits: FileLimits,
}

impl Transport for Null {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn register_file(&self, id: FileBufferId, path: &Path, size_bytes: u64) -> Result<FileBufferDesc, EngineError> {
        let path = path.to_string_lossy();
        Ok(FileBufferDesc::new(id, path, size_bytes, self.limits.block_bytes.into()))
    }

    fn unregister_file(&self, _id: FileBufferId, _deadline: Instant) -> Result<(), EngineError> {
        Ok(())
    }

    fn describe(&self, _segment: &mut SegmentDesc) {}

    fn attach(&self, _segment: &SegmentDesc, _deadline: Instant) -> Result<Arc<dyn RemoteSegment>, EngineError> {
        Ok(Arc::new(NullSegment { limits: self.limits }))
    }

    fn uninstall(&self, _deadline: Instant) {}
}

struct NullSegment {
    limits: FileLimits,
}

impl RemoteSegment for NullSegment {
    fn file_limits(&self, _file: FileBufferId) -> Option<FileLimits> {
        Some(self.limits)
    }

    fn update(&self, _segment: &SegmentDesc, _deadline: Instant) -> Result<(), EngineError> {
        Ok(())
    }

    fn submit(&self, slices: &mut Vec<Slice>) {
        for slice in slices.drain(..) {
            slice.complete();
        }
    }

    fn close(&self, _deadline: Instant) {}

    fn target(&self) -> String {
        "nowhere".into()
    }
}
