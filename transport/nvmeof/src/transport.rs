//! The transport as the engine sees it: a factory that it installs, and what comes of that.

use crate::PROTOCOL;
use crate::attachment::{Attachment, AttachmentId, View};
use crate::config::{Environment, HostDriver, NvmeofOptions, Settings};
use crate::host::kernel::fabrics::Libnvme;
use crate::host::kernel::session::KernelTarget;
use crate::host::kernel::sysfs::Sysfs;
use crate::host::local::LocalFiles;
use crate::host::namespaces::NamespaceTable;
use crate::host::userspace::control::{Control, Destination};
use crate::offer::Offer;
use crate::remote::{KernelPlan, Remote};
use crate::status::{DriverChoice, TargetTotals, TransportStatus};
use crate::trid::{self, TRID_FIELD};
use crate::worker::WorkerPool;
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{
    EngineError, FileBufferDesc, FileBufferId, RemoteSegment, SegmentDesc, Transport, TransportContext,
    TransportFactory,
};
use nvferry_target::TargetDriver;
use nvferry_wire::trid::TrType;
use parking_lot::Mutex;
use std::collections::BTreeMap;
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
        let offer = Offer::new(&settings, server_name);
        let transport = Arc::new(NvmeofTransport {
            settings,
            offer,
            host: Mutex::new(None),
            next_attachment: AtomicU32::new(0),
            attached: Mutex::default(),
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

/// Targets whose figures are kept apart when they have been let go of; those of further ones are kept together.
const MAX_TARGETS_TOLD_APART: usize = 64;

/// The segments that are attached, and what went through those that were.
#[derive(Default)]
struct Attached {
    now: Vec<(Weak<Remote>, Arc<Attachment>)>,
    past: BTreeMap<Option<String>, TargetTotals>,
}

impl Attached {
    /// Adds up what went through segments that have been let go of.
    fn settle(&mut self) {
        for (_, attachment) in self.now.extract_if(.., |(remote, _)| remote.strong_count() == 0) {
            add(&mut self.past, &attachment.target, attachment.totals());
        }
    }
}

fn add(targets: &mut BTreeMap<Option<String>, TargetTotals>, target: &str, totals: TargetTotals) {
    let name = Some(target.to_owned())
        .filter(|name| targets.contains_key(&Some(name.clone())) || targets.len() < MAX_TARGETS_TOLD_APART);
    *targets.entry(name).or_default() += totals;
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
    attached: Mutex<Attached>,
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
        let (attachments, targets) = {
            let mut attached = self.attached.lock();
            attached.settle();
            let mut targets = attached.past.clone();
            let attachments: Vec<_> = attached.now.iter().map(|(_, attachment)| attachment.status()).collect();
            for attachment in &attachments {
                add(&mut targets, &attachment.target, attachment.totals);
            }
            (attachments, targets)
        };
        let pool = self.host.lock().as_ref().map(|host| Arc::clone(&host.pool));
        let (workers, driven_waits) = pool.as_ref().map_or((0, 0), |pool| (pool.len(), pool.driven_waits()));
        let worker_paths = pool.as_ref().map(|pool| pool.paths_taken()).unwrap_or_default();
        let bounce = pool.map(|pool| pool.bounce_stats()).unwrap_or_default();
        TransportStatus {
            workers,
            driven_waits,
            worker_paths,
            attachments,
            targets,
            bounce_in_use_bytes: bounce.in_use_bytes as u64,
            bounce_free_bytes: bounce.free_bytes as u64,
        }
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

    fn new_attachment(&self, target: String, driver: DriverChoice, view: View, workers: usize) -> Arc<Attachment> {
        tracing::info!(
            target: "nvferry::host", to = target, driver = ?driver.driver, why = driver.why, "attaching a segment"
        );
        let id = AttachmentId(self.next_attachment.fetch_add(1, Ordering::Relaxed));
        Arc::new(Attachment::new(id, target.into(), driver, view, workers))
    }

    fn attach_userspace(
        &self,
        segment: &SegmentDesc,
        driver: DriverChoice,
        deadline: Instant,
    ) -> Result<Remote, EngineError> {
        let destination = userspace_destination(segment)?;
        let host = self.host()?;
        let target = format!("{} ({})", destination.address, destination.subnqn);
        let view = View { table: Arc::new(NamespaceTable::default()), max_transfer_bytes: u32::MAX, queues: 1 };
        let attachment = self.new_attachment(target, driver, view, host.pool.len());
        let control = host.control.handle().clone();
        Remote::attach(attachment, host.pool, control, segment, self.settings.host.clone(), deadline)
    }

    fn attach_kernel(
        &self,
        segment: &SegmentDesc,
        driver: DriverChoice,
        deadline: Instant,
    ) -> Result<Remote, EngineError> {
        let host = self.host()?;
        let plan = KernelPlan::new(&self.settings, host.pool.len());
        let request = plan.request(segment)?;
        let target = format!("{}:{} ({}) by the kernel's host", request.traddr, request.trsvcid, request.subsysnqn);
        let view = View { table: Arc::default(), max_transfer_bytes: u32::MAX, queues: host.pool.len() };
        let attachment = self.new_attachment(target, driver, view, host.pool.len());
        let sysfs = Sysfs::of_this_machine();
        let kernel = KernelTarget { sysfs, fabrics: Arc::new(Libnvme), request, direct: self.settings.direct };
        Remote::attach_kernel(attachment, host.pool, plan, kernel, segment, deadline)
    }

    fn attach_local(&self, segment: &SegmentDesc, driver: DriverChoice) -> Result<Remote, EngineError> {
        let files = LocalFiles::open(segment, self.settings.direct, None)?;
        let host = self.host()?;
        let view = View {
            table: Arc::clone(&files.table),
            max_transfer_bytes: files.max_transfer_bytes,
            queues: host.pool.len(),
        };
        let target = format!("local files of {}", segment.name);
        let attachment = self.new_attachment(target, driver, view, host.pool.len());
        attachment.set_state(crate::status::ConnectionState::Connected);
        Ok(Remote::open_local(attachment, host.pool, files, self.settings.direct))
    }
}

/// Where the userspace host connects to.
///
/// # Errors
/// The description lacks it, or it is over a fabric that only the kernel has.
pub(crate) fn userspace_destination(segment: &SegmentDesc) -> Result<Destination, EngineError> {
    let (trid, subnqn) = trid::read(segment)?;
    if trid.trtype != TrType::Tcp {
        let why = format!(
            "segment {} is offered over {}, which the userspace host does not have; use host_driver=kernel",
            segment.name, trid.trtype
        );
        return Err(EngineError::new(ErrorKind::NotImplemented, why));
    }
    Ok(Destination { address: trid.socket_addr(), subnqn })
}

/// Which driver reaches a segment.
fn choose(setting: HostDriver, segment: &SegmentDesc) -> Result<DriverChoice, EngineError> {
    let (driver, why) = match setting {
        HostDriver::Auto => match trid::read(segment)?.0.trtype {
            TrType::Tcp => (HostDriver::Userspace, "automatic: it does tcp, and needs neither root nor modules"),
            TrType::Rdma => (HostDriver::Kernel, "automatic: only the kernel's host does rdma"),
            TrType::Loop => (HostDriver::Kernel, "automatic: loop is within the kernel"),
        },
        asked => (asked, "asked for"),
    };
    Ok(DriverChoice { driver, why })
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
        let choice = choose(self.settings.host_driver, segment)?;
        let remote = match choice.driver {
            HostDriver::Kernel => self.attach_kernel(segment, choice, deadline)?,
            HostDriver::Local => self.attach_local(segment, choice)?,
            HostDriver::Auto | HostDriver::Userspace => self.attach_userspace(segment, choice, deadline)?,
        };
        let remote = Arc::new(remote);
        let mut attached = self.attached.lock();
        attached.settle();
        attached.now.push((Arc::downgrade(&remote), Arc::clone(remote.attachment())));
        Ok(remote)
    }

    fn uninstall(&self, deadline: Instant) {
        let remotes: Vec<_> = self.attached.lock().now.iter().filter_map(|(remote, _)| remote.upgrade()).collect();
        for remote in remotes {
            remote.close(deadline);
        }
        if let Some(Host { pool, control }) = self.host.lock().take() {
            pool.stop();
            control.stop();
        }
        self.offer.stop(deadline);
    }
}

impl Drop for NvmeofTransport {
    fn drop(&mut self) {
        self.uninstall(nvferry_io::clock::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_wire::TransportId;

    fn segment(trtype: &str) -> SegmentDesc {
        let mut segment = SegmentDesc::new("node7", PROTOCOL);
        let trid: TransportId =
            format!("trtype={trtype} traddr=10.0.0.7 subnqn=nqn.2016-06.io.mc:node7").parse().unwrap();
        trid::describe(&mut segment, &trid);
        segment
    }

    #[test]
    fn auto_is_userspace_for_tcp_and_the_kernel_for_rdma() {
        for (setting, trtype, driver, why) in [
            (HostDriver::Auto, "tcp", HostDriver::Userspace, "automatic"),
            (HostDriver::Auto, "rdma", HostDriver::Kernel, "automatic"),
            (HostDriver::Kernel, "tcp", HostDriver::Kernel, "asked for"),
            (HostDriver::Local, "rdma", HostDriver::Local, "asked for"),
        ] {
            let choice = choose(setting, &segment(trtype)).unwrap();
            assert_eq!(choice.driver, driver);
            assert!(choice.why.contains(why), "{}", choice.why);
        }
        let refused = userspace_destination(&segment("rdma")).unwrap_err().to_string();
        assert!(refused.contains("rdma") && refused.contains("host_driver=kernel"), "{refused}");
    }
}
