//! The transport as the engine sees it: a factory that it installs, and what comes of that.

use crate::PROTOCOL;
use crate::attachment::{Attachment, AttachmentId, View};
use crate::config::{Environment, HostDriver, NvmeofOptions, Settings};
use crate::host::local::{self, LocalFiles};
use crate::host::namespaces::NamespaceTable;
use crate::host::userspace::control::{Control, Destination};
use crate::offer::Offer;
use crate::remote::Remote;
use crate::status::{Counters, TransportStatus};
use crate::trid::{self, TRID_FIELD};
use crate::worker::WorkerPool;
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{
    EngineError, FileBufferDesc, FileBufferId, RemoteSegment, SegmentDesc, Transport, TransportContext,
    TransportFactory,
};
use nvferry_target::TargetDriver;
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Makes NVMe-over-Fabrics transports with these options.
#[must_use]
pub fn factory(options: NvmeofOptions) -> NvmeofFactory {
    NvmeofFactory { options, installed: Arc::default() }
}

/// Makes transports, and remembers them for those who want to know their [status](NvmeofTransport::status). Clones
/// are the same factory.
#[derive(Debug, Clone)]
pub struct NvmeofFactory {
    options: NvmeofOptions,
    installed: Arc<Mutex<Vec<Weak<NvmeofTransport>>>>,
}

impl NvmeofFactory {
    /// The transports that it made and that are still in use.
    #[must_use]
    pub fn installed(&self) -> Vec<Arc<NvmeofTransport>> {
        self.installed.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// As [`TransportFactory::install`].
    ///
    /// # Errors
    /// When the text or the environment cannot be understood.
    pub fn install_transport(
        &self,
        server_name: &str,
        args: Option<&str>,
    ) -> Result<Arc<NvmeofTransport>, EngineError> {
        let environment = Environment::read()?;
        let settings = Settings::resolve(self.options.clone(), args, &environment, server_name)?;
        let offer = Offer::new(settings.offer.clone(), settings.target_driver, settings.direct, server_name);
        let transport = Arc::new(NvmeofTransport {
            settings,
            offer,
            host: Mutex::new(None),
            next_attachment: AtomicU32::new(0),
            attached: Mutex::default(),
            past: Mutex::default(),
        });
        let mut installed = self.installed.lock();
        installed.retain(|transport| transport.strong_count() > 0);
        installed.push(Arc::downgrade(&transport));
        Ok(transport)
    }
}

impl TransportFactory for NvmeofFactory {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn install(&self, context: &TransportContext, args: Option<&str>) -> Result<Arc<dyn Transport>, EngineError> {
        Ok(self.install_transport(&context.server_name, args)?)
    }
}

/// The threads of the host side, started with the first segment.
#[derive(Clone)]
struct Host {
    pool: Arc<WorkerPool>,
    control: Arc<Control>,
}

/// An installed NVMe-over-Fabrics transport.
pub struct NvmeofTransport {
    settings: Settings,
    offer: Offer,
    host: Mutex<Option<Host>>,
    next_attachment: AtomicU32,
    attached: Mutex<Vec<Weak<Remote>>>,
    /// What went through segments that have been let go of.
    past: Mutex<Counters>,
}

impl std::fmt::Debug for NvmeofTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NvmeofTransport").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl NvmeofTransport {
    /// What it does and did.
    #[must_use]
    pub fn status(&self) -> TransportStatus {
        let attachments: Vec<_> =
            self.attached.lock().iter().filter_map(Weak::upgrade).map(|remote| remote.attachment().status()).collect();
        let mut counters = *self.past.lock();
        attachments.iter().for_each(|attachment| counters += attachment.counters);
        let pool = self.host.lock().as_ref().map(|host| Arc::clone(&host.pool));
        let (workers, driven_waits) = pool.map_or((0, 0), |pool| (pool.len(), pool.driven_waits()));
        TransportStatus { workers, driven_waits, attachments, counters }
    }

    /// The target that offers this engine's files, once a file has been registered.
    #[must_use]
    pub fn target(&self) -> Option<Arc<dyn TargetDriver>> {
        self.offer.target()
    }

    fn host(&self) -> Result<Host, EngineError> {
        let mut host = self.host.lock();
        if let Some(host) = &*host {
            return Ok(host.clone());
        }
        let failed = |error: io::Error| {
            let message = format!("cannot start the threads of the {PROTOCOL} transport: {error}");
            EngineError::new(ErrorKind::Context, message)
        };
        let control = Control::start().map_err(failed)?;
        let pool = WorkerPool::start(self.settings.workers, self.settings.spin, control.handle()).map_err(failed)?;
        tracing::info!(target: "nvferry::host", workers = pool.len(), "host threads started");
        Ok(host.insert(Host { pool, control: Arc::new(control) }).clone())
    }

    fn new_attachment(&self, target: String, view: View, workers: usize) -> Arc<Attachment> {
        let id = AttachmentId(self.next_attachment.fetch_add(1, Ordering::Relaxed));
        Arc::new(Attachment::new(id, target.into(), view, workers))
    }

    fn attach_userspace(&self, segment: &SegmentDesc, deadline: Instant) -> Result<Remote, EngineError> {
        let (trid, subnqn) = trid::read(segment)?;
        let destination = Destination { address: trid.socket_addr(), subnqn };
        let host = self.host()?;
        let target = format!("{} ({})", destination.address, destination.subnqn);
        let view = View { table: Arc::new(NamespaceTable::default()), max_transfer_bytes: u32::MAX, queues: 1 };
        let attachment = self.new_attachment(target, view, host.pool.len());
        let control = host.control.handle().clone();
        Remote::attach(attachment, host.pool, control, destination, self.settings.host.clone(), deadline)
    }

    fn attach_local(&self, segment: &SegmentDesc) -> Result<Remote, EngineError> {
        let files = LocalFiles::open(segment, self.settings.direct, None)?;
        let host = self.host()?;
        let view = View {
            table: Arc::clone(&files.table),
            max_transfer_bytes: local::MAX_TRANSFER_BYTES,
            queues: host.pool.len(),
        };
        let target = format!("local files of {}", segment.name);
        let attachment = self.new_attachment(target, view, host.pool.len());
        attachment.set_state(crate::status::ConnectionState::Connected);
        Ok(Remote::open_local(attachment, host.pool, files, self.settings.direct))
    }
}

impl Transport for NvmeofTransport {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn register_file(&self, id: FileBufferId, path: &Path, size_bytes: u64) -> Result<FileBufferDesc, EngineError> {
        self.offer.register(id, path, size_bytes)
    }

    fn unregister_file(&self, id: FileBufferId, deadline: Instant) -> Result<(), EngineError> {
        self.offer.unregister(id, deadline)
    }

    fn serves(&self, segment: &SegmentDesc) -> bool {
        segment.protocol == PROTOCOL || segment.extra.contains_key(TRID_FIELD)
    }

    fn describe(&self, segment: &mut SegmentDesc) {
        self.offer.describe(segment);
    }

    fn attach(&self, segment: &SegmentDesc, deadline: Instant) -> Result<Arc<dyn RemoteSegment>, EngineError> {
        let remote = match self.settings.host_driver {
            HostDriver::Auto | HostDriver::Userspace => self.attach_userspace(segment, deadline)?,
            HostDriver::Local => self.attach_local(segment)?,
        };
        let remote = Arc::new(remote);
        let mut attached = self.attached.lock();
        attached.retain(|remote| remote.strong_count() > 0);
        attached.push(Arc::downgrade(&remote));
        Ok(remote)
    }

    fn uninstall(&self, deadline: Instant) {
        let attached: Vec<_> = std::mem::take(&mut *self.attached.lock()).iter().filter_map(Weak::upgrade).collect();
        for remote in &attached {
            remote.close(deadline);
            *self.past.lock() += remote.attachment().status().counters;
        }
        drop(attached);
        if let Some(Host { pool, control }) = self.host.lock().take() {
            pool.stop();
            control.stop();
        }
        self.offer.stop(deadline);
    }
}

impl Drop for NvmeofTransport {
    fn drop(&mut self) {
        self.uninstall(Instant::now());
    }
}
