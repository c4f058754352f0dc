//! How an engine is made, and its settings.

use super::{Core, TransferEngine};
use crate::error::{EngineError, ErrorKind};
use crate::keys::Keys;
use crate::metadata::MetadataSource;
use crate::permits::{MOST_BYTES, MOST_SLICES, Share};
use crate::transport::TransportFactory;
use std::sync::Arc;
use std::time::Duration;

/// The original's variable for the cluster's id.
const CLUSTER_ID_VARIABLE: &str = "MC_METADATA_CLUSTER_ID";

/// Collects an engine's settings.
#[must_use = "nothing happens before `build`"]
pub struct TransferEngineBuilder {
    metadata: Option<MetadataSource>,
    server_name: String,
    cluster_id: Option<String>,
    factories: Vec<Arc<dyn TransportFactory>>,
    limits: Limits,
    pub(super) times: Times,
}

struct Limits {
    slices: u32,
    bytes: u64,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// A request, unless its batch or submit says otherwise.
    pub(super) request: Duration,
    /// A call of the control plane.
    pub(super) control: Duration,
    /// How long what was published lives without being published again.
    pub(super) ttl: Duration,
}

impl Default for TransferEngineBuilder {
    fn default() -> Self {
        Self {
            metadata: None,
            server_name: String::new(),
            cluster_id: std::env::var(CLUSTER_ID_VARIABLE).ok(),
            factories: Vec::new(),
            limits: Limits { slices: 1 << 16, bytes: 64 << 30 },
            times: Times {
                request: Duration::from_secs(30),
                control: Duration::from_secs(10),
                ttl: Duration::from_secs(30),
            },
        }
    }
}

impl TransferEngineBuilder {
    /// The metadata service: its address, or one that the caller made. Must be set.
    pub fn metadata(mut self, metadata: impl Into<MetadataSource>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// The name under which this engine publishes its segment, usually `host:port`. Must be set.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = name.into();
        self
    }

    /// The cluster whose keys are used. Without this call, `MC_METADATA_CLUSTER_ID` says it.
    pub fn cluster_id(mut self, id: Option<&str>) -> Self {
        self.cluster_id = id.map(str::to_owned);
        self
    }

    /// A transport that can be installed by its name. May be called several times.
    pub fn transport(self, factory: impl TransportFactory + 'static) -> Self {
        self.transport_factory(Arc::new(factory))
    }

    /// As [`TransferEngineBuilder::transport`], for a factory that is shared.
    pub fn transport_factory(mut self, factory: Arc<dyn TransportFactory>) -> Self {
        self.factories.push(factory);
        self
    }

    /// How many slices may be under way in this engine at once. The default is 65,536.
    pub fn max_slices(mut self, slices: u32) -> Self {
        self.limits.slices = slices;
        self
    }

    /// How many bytes may be under way in this engine at once. The default is 64 GiB, which is as many slices of 1 MiB as
    /// there may be: the bytes are the callers' memory, and this bound is for those who want a smaller one.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// How long after its submission a request must have ended. The default is 30 s; batches can have their own.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.times.request = timeout;
        self
    }

    /// How long a call of the control plane may take (open, register, install, and their like). The default is 10 s.
    pub fn control_timeout(mut self, timeout: Duration) -> Self {
        self.times.control = timeout;
        self
    }

    /// How long what this engine published stays after it has died. The default is 30 s; it is renewed at a third of that.
    pub fn metadata_ttl(mut self, ttl: Duration) -> Self {
        self.times.ttl = ttl;
        self
    }

    /// Makes the engine. Nothing is connected or published yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for settings that are missing or make no sense, [`ErrorKind::NotImplemented`] for a
    /// metadata service that this build has no client for.
    pub fn build(self) -> Result<TransferEngine, EngineError> {
        let refused = |why: &str| Err(EngineError::new(ErrorKind::InvalidArgument, format!("make an engine: {why}")));
        if self.server_name.is_empty() {
            return refused("it has no server name; give it one, such as this machine's address and a port");
        }
        if self.server_name.chars().any(char::is_control) {
            return refused("its server name holds control characters");
        }
        let Some(metadata) = self.metadata else {
            return refused("it has no metadata service; give it one, such as http://host:8080/metadata");
        };
        for (index, factory) in self.factories.iter().enumerate() {
            if self.factories[..index].iter().any(|other| other.protocol() == factory.protocol()) {
                return refused(&format!("two transports are named {}", factory.protocol()));
            }
        }
        let limit = match Share::new(self.limits.slices, self.limits.bytes) {
            Some(limit) if limit.slices() > 0 && limit.bytes() > 0 => limit,
            _ => {
                return refused(&format!(
                    "{} slices and {} bytes under way: both must be at least 1, and at most {MOST_SLICES} slices and \
                     {MOST_BYTES} bytes",
                    self.limits.slices, self.limits.bytes
                ));
            }
        };
        if self.times.ttl < Duration::from_millis(3) {
            return refused("what it publishes must live at least 3 ms");
        }
        let store = metadata.open()?;
        let keys = Keys::new(self.cluster_id.as_deref());
        Ok(TransferEngine::start(Core::new(self.server_name, store, keys, self.factories, limit, self.times)))
    }
}
