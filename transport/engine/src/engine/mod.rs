//! The engine: what an application calls, and the state behind it.
//!
//! - `builder`: settings.
//! - `own`: what this engine offers and publishes.
//! - `segments`: what it has opened.
//! - `background`: what goes on without being asked.
//!
//! Everything here is the control plane: calls may take a lock and wait for the network, but always for a limited time.
//! Requests go through [`crate::batch`].

mod background;
pub mod builder;
mod own;
pub(crate) mod segments;

use crate::batch::Batch;
use crate::deadline::Deadline;
use crate::error::{EngineError, ErrorKind};
use crate::ids::{FileBufferId, SegmentId};
use crate::keys::Keys;
use crate::memory::{Memory, Registry};
use crate::metadata::MetadataStore;
use crate::permits::{Permits, Share};
use crate::segment::SegmentDesc;
use crate::transport::{Transport, TransportContext, TransportFactory};
use background::{Refresher, Ticker};
use builder::{Times, TransferEngineBuilder};
use nvferry_io::RegisteredMemory;
use own::Own;
use parking_lot::{Mutex, RwLock};
use segments::{Refresh, Segments};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A transport that was installed.
struct Installed {
    transport: Arc<dyn Transport>,
    /// Whether it was given what it needs to offer files.
    offers: bool,
}

/// What the engine's handles, batches and threads share.
pub(crate) struct Core {
    server_name: String,
    store: Arc<dyn MetadataStore>,
    keys: Keys,
    factories: Vec<Arc<dyn TransportFactory>>,
    times: Times,
    transports: RwLock<Vec<Installed>>,
    /// Held while a transport is installed or uninstalled.
    installing: Mutex<()>,
    own: Own,
    refresher: Arc<Refresher>,
    is_shut_down: AtomicBool,
    pub(crate) segments: Segments,
    pub(crate) memory: Arc<Registry>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) ticker: Ticker,
}

impl Core {
    fn new(
        server_name: String,
        store: Arc<dyn MetadataStore>,
        keys: Keys,
        factories: Vec<Arc<dyn TransportFactory>>,
        limit: Share,
        times: Times,
    ) -> Self {
        Self {
            own: Own::new(&server_name, times.ttl),
            server_name,
            store,
            keys,
            factories,
            times,
            transports: RwLock::default(),
            installing: Mutex::new(()),
            refresher: Arc::default(),
            is_shut_down: AtomicBool::new(false),
            segments: Segments::default(),
            memory: Arc::default(),
            permits: Arc::new(Permits::new(limit)),
            ticker: Ticker::default(),
        }
    }

    pub(crate) fn control_deadline(&self) -> Deadline {
        Deadline::after(self.times.control)
    }

    pub(crate) fn check_open(&self) -> Result<(), EngineError> {
        if self.is_shut_down.load(Ordering::SeqCst) {
            return Err(EngineError::new(ErrorKind::Context, "the engine has been shut down"));
        }
        Ok(())
    }

    fn installed(&self, protocol: &str) -> Option<Arc<dyn Transport>> {
        let transports = self.transports.read();
        let found = transports.iter().find(|installed| installed.transport.protocol() == protocol)?;
        Some(Arc::clone(&found.transport))
    }

    /// The transport that reaches a segment: the one that its `protocol` names, else the first that can.
    fn transport_for(&self, desc: &SegmentDesc) -> Result<Arc<dyn Transport>, EngineError> {
        let transports = self.transports.read();
        let named = |installed: &&Installed| installed.transport.protocol() == desc.protocol;
        let serves = |installed: &&Installed| installed.transport.serves(desc);
        let found = transports.iter().filter(serves).find(named).or_else(|| transports.iter().find(serves));
        found.map(|installed| Arc::clone(&installed.transport)).ok_or_else(|| {
            let names: Vec<_> = transports.iter().map(|installed| installed.transport.protocol()).collect();
            let message = format!(
                "segment {}: it is for transport '{}'; installed here: {}",
                desc.name,
                desc.protocol,
                if names.is_empty() { "none".into() } else { names.join(", ") }
            );
            EngineError::new(ErrorKind::DeviceNotFound, message)
        })
    }

    fn install(&self, protocol: &str, args: Option<&str>) -> Result<(), EngineError> {
        self.check_open()?;
        let refused = |kind, why: String| Err(EngineError::new(kind, format!("install transport {protocol}: {why}")));
        let Some(_turn) = self.installing.try_lock_for(self.times.control) else {
            return refused(ErrorKind::TooManyRequests, "another installation has not ended in time".into());
        };
        let Some(factory) = self.factories.iter().find(|factory| factory.protocol() == protocol) else {
            let known: Vec<_> = self.factories.iter().map(|factory| factory.protocol()).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return refused(ErrorKind::DeviceNotFound, format!("there is no such transport; known here: {known}"));
        };
        if self.installed(protocol).is_some() {
            return refused(ErrorKind::InvalidArgument, "it is installed already".into());
        }
        let transport = factory.install(&TransportContext { server_name: self.server_name.clone() }, args)?;
        self.transports.write().push(Installed { transport, offers: args.is_some() });
        Ok(())
    }

    fn uninstall(self: &Arc<Self>, protocol: &str, deadline: Deadline) -> Result<(), EngineError> {
        let refused = |kind, why: &str| EngineError::new(kind, format!("uninstall transport {protocol}: {why}"));
        let Some(_turn) = self.installing.try_lock_until(deadline.instant()) else {
            return Err(refused(ErrorKind::TooManyRequests, "another installation has not ended in time"));
        };
        let transport =
            self.installed(protocol).ok_or_else(|| refused(ErrorKind::DeviceNotFound, "it is not installed"))?;
        self.transports.write().retain(|installed| installed.transport.protocol() != protocol);
        let mut result = self.take_files_back(Some(protocol), deadline);
        for id in self.segments.through(protocol) {
            result = result.and(self.close_segment(id, true, deadline));
        }
        transport.uninstall(deadline.instant());
        result
    }

    /// Who offers a file: the transport of this name, or the first that can offer.
    fn offering(&self, protocol: Option<&str>) -> Result<Arc<dyn Transport>, EngineError> {
        let transports = self.transports.read();
        let fits = |installed: &&Installed| match protocol {
            Some(protocol) => installed.transport.protocol() == protocol,
            None => installed.offers,
        };
        let found = transports.iter().find(fits).map(|installed| Arc::clone(&installed.transport));
        found.ok_or_else(|| {
            let why = match protocol {
                Some(protocol) => format!("register file: transport {protocol} is not installed"),
                None => "register file: no installed transport can offer files: install one with its address".into(),
            };
            EngineError::new(ErrorKind::Context, why)
        })
    }

    fn shut_down(self: &Arc<Self>, deadline: Deadline) -> Result<(), EngineError> {
        if self.is_shut_down.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.stop_publisher(deadline);
        let mut result = self.take_files_back(None, deadline);
        for segment in self.segments.all() {
            result = result.and(self.close_segment(segment.id(), true, deadline));
        }
        self.refresher.stop();
        let transports = std::mem::take(&mut *self.transports.write());
        for Installed { transport, .. } in transports {
            transport.uninstall(deadline.instant());
        }
        result
    }
}

/// A transfer engine: offers local files to other nodes, and reads and writes files that others offer.
///
/// Cheap to clone; all clones are one engine. When the last one is dropped, the engine is shut down as by
/// [`TransferEngine::shutdown`]. Calls that may wait return within the control timeout (10 s unless set otherwise).
#[derive(Clone)]
pub struct TransferEngine {
    handle: Arc<Handle>,
}

/// Ends the engine when the last clone goes.
struct Handle {
    core: Arc<Core>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Err(error) = self.core.shut_down(self.core.control_deadline()) {
            tracing::warn!(%error, server_name = self.core.server_name, "shutting an engine down");
        }
    }
}

/// What transports have in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderWay {
    /// Slices that have not ended.
    pub slices: u32,
    /// Their bytes.
    pub bytes: u64,
}

impl TransferEngine {
    /// Starts to make an engine.
    pub fn builder() -> TransferEngineBuilder {
        TransferEngineBuilder::default()
    }

    fn start(core: Core) -> Self {
        Self { handle: Arc::new(Handle { core: Arc::new(core) }) }
    }

    fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }

    /// The name under which it publishes its segment.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.core().server_name
    }

    /// Installs a transport by its name. `args` is the transport's own text; without it, this engine offers no files
    /// through that transport.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceNotFound`] for a name that no factory has, [`ErrorKind::InvalidArgument`] when it is installed
    /// already, and what the transport itself says.
    pub fn install_transport<'a>(&self, protocol: &str, args: impl Into<Option<&'a str>>) -> Result<(), EngineError> {
        self.core().install(protocol, args.into())
    }

    /// Uninstalls a transport: withdraws and takes back the files offered through it, closes the segments reached through
    /// it, and ends what is under way, with a status.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceNotFound`] when it is not installed. When something did not end in time, the transport is gone
    /// all the same.
    pub fn uninstall_transport(&self, protocol: &str) -> Result<(), EngineError> {
        self.core().uninstall(protocol, self.core().control_deadline())
    }

    /// Offers the first `size_bytes` bytes of a local file or block device, and publishes that. What it held may be
    /// overwritten by any node from here on.
    ///
    /// The id is unique within this run of the engine, from 1 up.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a size of 0, a file that is registered already, or one that the transport refuses;
    /// [`ErrorKind::Context`] when no installed transport can offer files; [`ErrorKind::Metadata`] when it could not be
    /// published. The file is neither offered nor published then.
    pub fn register_local_file(&self, path: impl AsRef<Path>, size_bytes: u64) -> Result<FileBufferId, EngineError> {
        let core = self.core();
        core.register_local_file(&core.offering(None)?, path.as_ref(), size_bytes, core.control_deadline())
    }

    /// As [`TransferEngine::register_local_file`], through the transport of this name.
    ///
    /// # Errors
    /// As there, and [`ErrorKind::InvalidArgument`] when this engine offers files through another transport already: a
    /// segment has one protocol.
    pub fn register_local_file_through(
        &self,
        protocol: &str,
        path: impl AsRef<Path>,
        size_bytes: u64,
    ) -> Result<FileBufferId, EngineError> {
        let core = self.core();
        core.register_local_file(&core.offering(Some(protocol))?, path.as_ref(), size_bytes, core.control_deadline())
    }

    /// Takes a file back: withdraws it from the description, lets what is under way on it drain, and refuses new requests.
    /// When the metadata service cannot be reached, the file is taken back all the same, and withdrawn as soon as it can.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceNotFound`] when it is not registered; what the transport says when it did not drain in time (it
    /// is gone all the same).
    pub fn unregister_local_file(&self, path: impl AsRef<Path>) -> Result<(), EngineError> {
        self.core().unregister_local_file(path.as_ref(), self.core().control_deadline())
    }

    /// Opens another engine's segment (or this one's) by its server name. Opening it again gives the same id; each open
    /// wants a [`TransferEngine::close_segment`].
    ///
    /// # Errors
    /// [`ErrorKind::DeviceNotFound`] when nothing of that name is published, or no installed transport reaches it;
    /// [`ErrorKind::Metadata`], [`ErrorKind::MalformedJson`] when the service fails or answers nonsense; what the transport
    /// says when the target cannot be reached.
    pub fn open_segment(&self, name: &str) -> Result<SegmentId, EngineError> {
        self.open_segment_by(name, self.core().control_deadline())
    }

    /// As [`TransferEngine::open_segment`], with a deadline.
    ///
    /// # Errors
    /// As there.
    pub fn open_segment_by(&self, name: &str, deadline: Deadline) -> Result<SegmentId, EngineError> {
        self.core().open_segment(name, deadline)
    }

    /// Closes a segment once; after as many closes as opens the engine lets go of it, and what is under way ends: by itself
    /// as long as its target is connected, and within the time limit for calls; as canceled where the target is gone.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceNotFound`] when it is not open.
    pub fn close_segment(&self, segment: SegmentId) -> Result<(), EngineError> {
        self.core().close_segment(segment, false, self.core().control_deadline())
    }

    /// Forgets a segment whatever its users: this engine's own is withdrawn from the metadata service (its files are still
    /// served to those who have it open), another's is closed.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceNotFound`] when it is neither this engine's own nor open; [`ErrorKind::Metadata`] when it could
    /// not be withdrawn.
    pub fn remove_local_segment(&self, name: &str) -> Result<(), EngineError> {
        let core = self.core();
        let opened = core.segments.by_name(name);
        if let Some(segment) = &opened {
            core.close_segment(segment.id(), true, core.control_deadline())?;
        }
        if name == core.server_name {
            return core.withdraw(core.control_deadline());
        }
        opened.map(drop).ok_or_else(|| {
            let message = format!("remove segment {name}: it is neither this engine's own nor open");
            EngineError::new(ErrorKind::DeviceNotFound, message)
        })
    }

    /// Fetches the description of an open segment anew, or of all with `None`, and takes it over, also where it has other
    /// files under the ids that others had when the segment was opened. In that case the segment is attached anew, for
    /// all who have it open, and what is under way in it is canceled.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceNotFound`] when it is not open or not published any more; otherwise as
    /// [`TransferEngine::open_segment`]. The old description stays then.
    pub fn sync_segment_cache<'a>(&self, name: impl Into<Option<&'a str>>) -> Result<(), EngineError> {
        let core = self.core();
        let deadline = core.control_deadline();
        match name.into() {
            Some(name) => {
                let segment = core.segments.by_name(name).ok_or_else(|| {
                    EngineError::new(ErrorKind::DeviceNotFound, format!("sync segment {name}: it is not open"))
                })?;
                core.refresh(&segment, Refresh::Anew, deadline)
            }
            None => {
                let mut result = Ok(());
                for segment in core.segments.all() {
                    let refreshed = core.refresh(&segment, Refresh::Anew, deadline);
                    result = result.and(refreshed);
                }
                result
            }
        }
    }

    /// The description of an open segment, as it is cached.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceNotFound`] when it is not open.
    pub fn segment_desc(&self, segment: SegmentId) -> Result<SegmentDesc, EngineError> {
        let open = self.core().segments.get(segment);
        open.map(|open| open.current().desc.clone()).ok_or_else(|| {
            EngineError::new(ErrorKind::DeviceNotFound, format!("description of segment {segment}: it is not open"))
        })
    }

    /// Whether a segment is open.
    #[must_use]
    pub fn is_segment_open(&self, segment: SegmentId) -> bool {
        self.core().segments.get(segment).is_some()
    }

    /// What this engine itself publishes; `None` when it offers nothing.
    #[must_use]
    pub fn own_segment(&self) -> Option<SegmentDesc> {
        self.core().own_segment()
    }

    /// Registers memory for transfers. The handle owns it; dropping the handle unregisters it.
    ///
    /// # Errors
    /// [`ErrorKind::AddressOverlapped`] when any of its bytes is registered already; [`ErrorKind::InvalidArgument`] when it
    /// is empty.
    pub fn register_memory(&self, memory: impl Into<RegisteredMemory>) -> Result<Memory, EngineError> {
        let registered = self.register_memory_batch(vec![memory.into()])?;
        registered.into_iter().next().ok_or_else(|| EngineError::new(ErrorKind::Memory, "nothing was registered"))
    }

    /// Registers all of these, or none.
    ///
    /// # Errors
    /// As [`TransferEngine::register_memory`].
    pub fn register_memory_batch(&self, memories: Vec<RegisteredMemory>) -> Result<Vec<Memory>, EngineError> {
        self.core().check_open()?;
        self.core().memory.register(memories)
    }

    /// Registers memory that requests name by address ([`crate::Request::by_address`]); the engine holds it until
    /// [`TransferEngine::unregister_memory_by_address`]. For host applications behind the C interface. All or none.
    ///
    /// # Errors
    /// As [`TransferEngine::register_memory`].
    pub fn register_memory_by_address(&self, memories: Vec<RegisteredMemory>) -> Result<(), EngineError> {
        self.core().check_open()?;
        self.core().memory.register_by_address(memories)
    }

    /// Takes memory back that was registered for use by address, by the address of its first byte.
    ///
    /// # Errors
    /// [`ErrorKind::AddressNotRegistered`] when none starts there, [`ErrorKind::BatchBusy`] while transfers use it.
    pub fn unregister_memory_by_address(&self, start: usize) -> Result<RegisteredMemory, EngineError> {
        self.core().memory.unregister_by_address(start)
    }

    /// Takes all memory back that was registered for use by address: as soon as no transfer uses it, and what nothing
    /// uses at once. For the end of an engine, after [`TransferEngine::shutdown`].
    ///
    /// # Errors
    /// [`ErrorKind::BatchBusy`] when a transfer still uses some at the deadline, such as a device that does not answer.
    /// That memory stays registered, and must stay valid.
    pub fn unregister_all_memory_by_address(&self, deadline: Deadline) -> Result<(), EngineError> {
        /// A lease ends without telling anyone.
        const PAUSE: Duration = Duration::from_millis(5);
        loop {
            let taken_back = self.core().memory.unregister_idle_by_address();
            let left = deadline.remaining();
            if taken_back.is_ok() || left.is_zero() {
                return taken_back;
            }
            std::thread::sleep(left.min(PAUSE));
        }
    }

    /// Makes a batch with room for this many requests.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for no requests, or more than 2^20.
    pub fn batch(&self, capacity: usize) -> Result<Batch, EngineError> {
        /// 64 bytes each are allocated at once.
        const MOST_REQUESTS: usize = 1 << 20;
        self.core().check_open()?;
        match u32::try_from(capacity) {
            Ok(requests) if (1..=MOST_REQUESTS).contains(&capacity) => {
                Ok(Batch::new(Arc::clone(self.core()), requests, self.core().times.request))
            }
            _ => {
                let message = format!("a batch for {capacity} requests: it must be 1 to {MOST_REQUESTS}");
                Err(EngineError::new(ErrorKind::InvalidArgument, message))
            }
        }
    }

    /// How much transports have in hand now, for those who watch. May count a little too much.
    #[must_use]
    pub fn under_way(&self) -> UnderWay {
        let permits = &self.core().permits;
        let (limit, free) = (permits.limit(), permits.available());
        UnderWay { slices: limit.slices() - free.slices(), bytes: limit.bytes() - free.bytes() }
    }

    /// Ends the engine: withdraws its segment, takes its files back, closes what it has open, uninstalls its transports.
    /// What is under way ends by the deadline, with a status. Every later call fails; a second shutdown does nothing.
    ///
    /// # Errors
    /// The first thing that did not go as it should; everything was ended all the same.
    pub fn shutdown(&self, deadline: Deadline) -> Result<(), EngineError> {
        self.core().shut_down(deadline)
    }
}

impl std::fmt::Debug for TransferEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TransferEngine({} at {})", self.core().server_name, self.core().store.location())
    }
}
