//! What a transport is to the engine. NVMe over Fabrics is one; `null`, which moves nothing, is another.

use crate::error::EngineError;
use crate::ids::FileBufferId;
use crate::segment::{FileBufferDesc, SegmentDesc};
use crate::slice::Slice;
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// What the engine tells a transport when it is installed.
#[derive(Debug, Clone)]
pub struct TransportContext {
    /// The engine's server name; its segment's name.
    pub server_name: String,
}

/// Makes a transport when the engine is asked to install it by name.
pub trait TransportFactory: Send + Sync {
    /// The name, as in `install_transport` and in a segment's `protocol`.
    fn protocol(&self) -> &'static str;

    /// Installs it. `args` is the transport's own text; `None` means that this engine offers nothing of its own.
    ///
    /// # Errors
    /// When the text is wrong or what it asks for cannot be had; nothing is left behind then.
    fn install(&self, context: &TransportContext, args: Option<&str>) -> Result<Arc<dyn Transport>, EngineError>;
}

/// An installed transport.
pub trait Transport: Send + Sync {
    /// The name, as in a segment's `protocol`.
    fn protocol(&self) -> &'static str;

    /// Offers a local file under `id`, of which `size_bytes` can be reached. When this returns, hosts can use it.
    ///
    /// # Errors
    /// When the file cannot be offered; nothing has changed then.
    fn register_file(&self, id: FileBufferId, path: &Path, size_bytes: u64) -> Result<FileBufferDesc, EngineError>;

    /// Takes a file back: what is under way drains first, new requests are refused.
    ///
    /// # Errors
    /// When there is no such file, or it did not drain in time (it is then gone all the same).
    fn unregister_file(&self, id: FileBufferId, deadline: Instant) -> Result<(), EngineError>;

    /// Whether it could reach this segment. Several may be able to; the one that the segment's `protocol` names goes
    /// first. A transport that writes a field of its own in [`Transport::describe`] looks for that instead, because
    /// another transport may have published under the same name first and set `protocol`.
    fn serves(&self, segment: &SegmentDesc) -> bool {
        segment.protocol == self.protocol()
    }

    /// Writes into this engine's own segment what another engine needs to find it.
    fn describe(&self, segment: &mut SegmentDesc);

    /// Prepares to reach another engine's segment. Does not wait for a dead peer beyond the deadline.
    ///
    /// # Errors
    /// When the segment lacks what this transport needs, or its target cannot be reached.
    fn attach(&self, segment: &SegmentDesc, deadline: Instant) -> Result<Arc<dyn RemoteSegment>, EngineError>;

    /// Ends it: what is under way ends by the deadline, with a status.
    fn uninstall(&self, deadline: Instant);
}

/// What a remote file allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileLimits {
    /// The longest slice that it takes, in bytes.
    pub max_slice_bytes: u64,
    /// Cuts between slices should fall on multiples of this many bytes of the file.
    pub block_bytes: u32,
}

/// What a thread waits for.
pub trait Waiting {
    /// Whether the wait is over.
    fn is_over(&self) -> bool;

    /// Has `waker` called when it is. `false` when it is already.
    fn wake_by(&self, waker: &Waker) -> bool;
}

/// Another engine's segment, reached through a transport.
pub trait RemoteSegment: Send + Sync {
    /// What a file allows; `None` when the target does not have it (yet). Asked for nearly every request: it must be
    /// cheap, and must not block.
    fn file_limits(&self, file: FileBufferId) -> Option<FileLimits>;

    /// Takes over a newer description: files that came or went, a target that moved.
    ///
    /// # Errors
    /// When the description lacks what this transport needs, or its target cannot be reached.
    fn update(&self, segment: &SegmentDesc, deadline: Instant) -> Result<(), EngineError>;

    /// Takes all slices out of the list and moves them. Never blocks: the engine's permits bound what is under way.
    ///
    /// Slices may be ended on any thread, also before this returns. Ending one calls nothing of the transport; it may
    /// call the waker of a task that awaits the batch. Those left in the list end as failed.
    fn submit(&self, slices: &mut Vec<Slice>);

    /// Moves what is under way on the calling thread, which waits for it, until that wait is over, or `until`. `false`
    /// when the transport does not want that: its own threads do it, and the caller sleeps.
    fn help(&self, waiting: &dyn Waiting, until: Instant) -> bool {
        let _ = (waiting, until);
        false
    }

    /// Where the segment is reached, for people, such as a transport id. Asked after `attach` and `update` only.
    fn target(&self) -> String {
        String::new()
    }

    /// Lets go of the target; what is under way ends by the deadline, with a status.
    fn close(&self, deadline: Instant);
}
