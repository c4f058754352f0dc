//! The kernel's target as a [`TargetDriver`].

use super::backing::{self, Identity};
use super::debugfs;
use super::error::NvmetError;
use super::modules::{self, Roots};
use super::observe::{Observed, Owner};
use super::paths::{self, Kind};
use super::plan::{self, PortOptions};
use super::record::{self, Record, Snapshot};
use super::step::{self, Step, StepError};
use super::tree::{KernelTree, Tree};
use super::undo;
use crate::desired::{AllowedHosts, NamespaceSpec, TargetSpec};
use crate::driver::{
    AllowedHostStatus, FaultTotals, NamespaceInfo, NamespaceStatus, PoolTotals, TargetDriver, TargetStatus,
};
use crate::error::TargetError;
use crate::guard::{self, Claim};
use nvferry_wire::trid::TrType;
use nvferry_wire::{Nqn, Nsid, TransportId};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long a target that is dropped without having been stopped waits for the kernel.
const DROP_TIME: Duration = Duration::from_secs(5);
/// How long the kernel may take to offer a namespace: it waits there for others that it is taking away.
const ADD_TIME: Duration = Duration::from_secs(30);
/// How often a port's id or a free TCP port is chosen anew when another program is quicker.
const ATTEMPTS: usize = 16;

/// How to use the kernel's target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NvmetOptions {
    /// Where the machine's trees are.
    pub roots: Roots,
    /// What is chosen about the port.
    pub port: PortOptions,
}

/// A target in the kernel. It serves as long as this lives; dropping it takes down what it made.
pub struct NvmetTarget {
    shared: Arc<Shared>,
}

struct Shared {
    tree: Box<dyn Tree>,
    roots: Roots,
    record: Record,
    subsystem: Nqn,
    /// With the port that it really has, once it is set up.
    address: Mutex<TransportId>,
    namespaces: Mutex<BTreeMap<u32, Offered>>,
    /// Held while objects are made, and while all of them are taken down: that waits for a set-up that was given up.
    changing: Mutex<()>,
    stopped: AtomicBool,
    since: SystemTime,
}

struct Offered {
    info: NamespaceInfo,
    identity: Identity,
    since: SystemTime,
    /// On its way out: hosts do not have it any more, or soon.
    leaving: bool,
    _claim: Claim,
}

impl NvmetTarget {
    /// Sets up the kernel's target as described.
    ///
    /// What a dead engine left of the same subsystem is removed first.
    ///
    /// # Errors
    /// What stands in the way. What was made up to there is removed again.
    pub fn start(spec: TargetSpec, options: NvmetOptions) -> Result<Arc<Self>, TargetError> {
        modules::prepare(&options.roots, spec.transport.trtype)?;
        let tree = Box::new(KernelTree::new(options.roots.nvmet()));
        Self::start_on(tree, spec, options)
    }

    pub(super) fn start_on(
        tree: Box<dyn Tree>,
        mut spec: TargetSpec,
        options: NvmetOptions,
    ) -> Result<Arc<Self>, TargetError> {
        let roots = options.roots;
        let record = Record::take(&roots.records, &spec.subsystem, &roots.boot_id())?;
        if let Err(left) = undo::run(&record, &*tree) {
            // What others hold on to is used again where it fits.
            tracing::warn!(target: "nvferry::nvmet", error = %left, "what a dead process left is not all gone");
        }
        spec.allowed_hosts.warn_if_wide_open(&spec.transport);
        let (subsystem, address) = (spec.subsystem.clone(), Mutex::new(spec.transport.clone()));
        let (namespaces, stopped) = (Mutex::default(), AtomicBool::new(false));
        let (changing, since) = (Mutex::default(), SystemTime::now());
        let shared = Shared { tree, roots, record, subsystem, address, namespaces, changing, stopped, since };
        // From here on dropping it takes everything down again.
        let target = Self { shared: Arc::new(shared) };
        let shared = Arc::clone(&target.shared);
        let infos =
            spec.namespaces.iter_mut().map(|namespace| shared.prepare(namespace)).collect::<Result<Vec<_>, _>>()?;
        within(Instant::now() + ADD_TIME, "setting up the kernel's target".to_owned(), move || {
            let _changing = shared.changing();
            shared.set_up(spec, options.port)
        })?;
        infos.iter().for_each(tell);
        tracing::info!(target: "nvferry::nvmet", address = %target.address(), "the kernel's target is set up");
        Ok(Arc::new(target))
    }
}

fn tell(info: &NamespaceInfo) {
    tracing::info!(
        target: "nvferry::nvmet", nsid = info.nsid.0, path = %info.path.display(), size_bytes = info.size_bytes,
        block_bytes = info.block_bytes, direct = info.direct, "namespace offered"
    );
}

/// Hosts that another of our engines made are removed by whichever of us ends last, so they stand in both records.
fn share_hosts(spec: &TargetSpec, observed: &Observed, tree: &dyn Tree, record: &Record) -> Result<(), NvmetError> {
    let AllowedHosts::Only(hosts) = &spec.allowed_hosts else { return Ok(()) };
    for host in hosts {
        let path = paths::host(&host.nqn);
        if let Some(Owner::Engine(_)) = observed.hosts.get(host.nqn.as_str())
            && let Ok(inode) = tree.inode(&path)
        {
            record.made(&path, inode).map_err(|source| StepError { step: Step::make(path), source })?;
        }
    }
    Ok(())
}

/// Another program was quicker: with the port's id, or with a free TCP port.
fn was_outrun(failed: &StepError, any_port: bool) -> bool {
    let errno = failed.source.raw_os_error().map(Errno::from_raw_os_error);
    match (errno, paths::kind(failed.step.path())) {
        (Some(Errno::EXIST), Some(Kind::Port | Kind::Host)) => true,
        (Some(Errno::ADDRINUSE), Some(Kind::PortLink)) => any_port,
        _ => false,
    }
}

fn free_tcp_port(at: &TransportId) -> Result<u16, TargetError> {
    let free = TcpListener::bind(at.socket_addr()).and_then(|listener| listener.local_addr());
    match free {
        Ok(address) => Ok(address.port()),
        Err(source) => Err(TargetError::Os { action: "find a free port at that address", source }),
    }
}

/// The records of all other engines.
pub(super) fn others(roots: &Roots, subsystem: &Nqn) -> Vec<Snapshot> {
    let own = paths::subsystem(subsystem);
    let mut records = record::read_all(&roots.records, &roots.boot_id());
    records.retain(|record| record.entries.iter().all(|entry| entry.path != own));
    records
}

fn close(record: &Record) {
    if let Err(error) = record.close() {
        tracing::warn!(target: "nvferry::nvmet", %error, "an empty record could not be removed");
    }
}

impl Shared {
    fn namespaces(&self) -> MutexGuard<'_, BTreeMap<u32, Offered>> {
        // Nothing under the lock can panic half way, so a poisoned lock is whole.
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the plan, anew where another program was quicker.
    fn set_up(&self, mut spec: TargetSpec, options: PortOptions) -> Result<(), TargetError> {
        let (tree, record) = (&*self.tree, &self.record);
        let any_port = spec.transport.trsvcid == 0 && spec.transport.trtype != TrType::Loop;
        for attempt in 1.. {
            if any_port {
                spec.transport.trsvcid = free_tcp_port(&spec.transport)?;
            }
            let others = others(&self.roots, &spec.subsystem);
            let own = Snapshot { pid: None, alive: true, entries: record.entries() };
            let result = Observed::look(tree, &spec.subsystem, &own, &others)
                .and_then(|observed| {
                    share_hosts(&spec, &observed, tree, record)?;
                    plan::plan(&observed, &spec, options)
                })
                .and_then(|steps| Ok(step::apply_all(&steps, tree, record)?));
            let Err(error) = result else { break };
            let outrun = match &error {
                NvmetError::Step(failed) => was_outrun(failed, any_port),
                NvmetError::PortTaken { .. } => any_port,
                _ => false,
            };
            if !outrun || attempt == ATTEMPTS || undo::run(record, tree).is_err() {
                return Err(error.into());
            }
        }
        spec.namespaces.iter().for_each(|namespace| guard::mark_served(&namespace.path));
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = spec.transport;
        Ok(())
    }

    /// Looks at what shall be offered, and reserves it.
    fn prepare(&self, spec: &mut NamespaceSpec) -> Result<NamespaceInfo, TargetError> {
        if spec.nsid.0 == 0 || spec.nsid.0 == u32::MAX {
            return Err(TargetError::InvalidNsid { path: spec.path.clone(), nsid: spec.nsid, max: u32::MAX - 1 });
        }
        let (info, identity) = backing::examine(spec, &self.subsystem, &self.roots)?;
        let claim = guard::check(spec, &guard::Machine::at(&self.roots.proc, &self.roots.sys))?;
        self.reserve(&info, identity, claim)?;
        // The kernel opens it by this path, and as seen from the thread that writes it.
        if let Ok(path) = std::path::absolute(&spec.path) {
            spec.path = path;
        }
        Ok(info)
    }

    /// Reserves the id and the file. They are given back when the kernel refuses.
    fn reserve(&self, info: &NamespaceInfo, identity: Identity, claim: Claim) -> Result<(), TargetError> {
        let path = || info.path.clone();
        let mut namespaces = self.namespaces();
        if let Some(other) = namespaces.get(&info.nsid.0) {
            let offered_as = other.info.path.clone();
            return Err(TargetError::NsidInUse { path: path(), nsid: info.nsid, offered_as });
        }
        if let Some(other) = namespaces.values().find(|other| other.identity == identity) {
            let (nsid, offered_as) = (other.info.nsid, other.info.path.clone());
            return Err(TargetError::AlreadyOffered { path: path(), nsid, offered_as });
        }
        let (info, since) = (info.clone(), SystemTime::now());
        namespaces.insert(info.nsid.0, Offered { info, identity, since, leaving: false, _claim: claim });
        Ok(())
    }

    fn add(&self, spec: &NamespaceSpec) -> Result<(), NvmetError> {
        let steps = plan::add_namespace(&self.subsystem, spec, None);
        let result = step::apply_all(&steps, &*self.tree, &self.record);
        if let Err(error) = result {
            let path = paths::namespace(&self.subsystem, spec.nsid);
            if self.record.names(&path) {
                let _ = self.take_down(&path);
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// As the kernel has it now: others may have changed it. A subsystem that is gone lets nobody in.
    fn allowed_hosts(&self) -> Option<Vec<AllowedHostStatus>> {
        let subsystem = paths::subsystem(&self.subsystem);
        if self.tree.read(&format!("{subsystem}/attr_allow_any_host")).is_ok_and(|value| value == "1") {
            return None;
        }
        let has = |host: &Nqn, attribute: &str| {
            let key = self.tree.read(&format!("{}/{attribute}", paths::host(host)));
            key.is_ok_and(|key| key.starts_with("DHHC-1:"))
        };
        let names = self.tree.list(&format!("{subsystem}/allowed_hosts")).unwrap_or_default();
        let status = |host: Nqn| AllowedHostStatus {
            has_secret: has(&host, "dhchap_key"),
            has_controller_secret: has(&host, "dhchap_ctrl_key"),
            host,
        };
        // The kernel takes names that are none, too.
        Some(names.iter().filter_map(|name| name.parse().ok()).map(status).collect())
    }

    fn take_down(&self, path: &str) -> Result<(), StepError> {
        let enabled = self.tree.read(&format!("{path}/enable")).is_ok_and(|value| value == "1");
        step::apply_all(&plan::remove_namespace(path, enabled), &*self.tree, &self.record)
    }
}

impl TargetDriver for NvmetTarget {
    fn add_namespace(&self, mut spec: NamespaceSpec) -> Result<NamespaceInfo, TargetError> {
        let shared = Arc::clone(&self.shared);
        if shared.stopped.load(Ordering::Acquire) {
            return Err(TargetError::Stopped);
        }
        let info = shared.prepare(&mut spec)?;
        let nsid = info.nsid;
        let action = format!("offering namespace {nsid} ({})", info.path.display());
        let adder = Arc::clone(&shared);
        within(Instant::now() + ADD_TIME, action, move || {
            let _changing = adder.changing();
            // Stopped meanwhile, and all is taken down.
            let stopped = adder.stopped.load(Ordering::Acquire);
            let result = if stopped { Err(TargetError::Stopped) } else { adder.add(&spec).map_err(Into::into) };
            match &result {
                Ok(()) => guard::mark_served(&spec.path),
                Err(_) => drop(adder.namespaces().remove(&nsid.0)),
            }
            result
        })?;
        tell(&info);
        Ok(info)
    }

    fn remove_namespace(&self, nsid: Nsid, deadline: Instant) -> Result<(), TargetError> {
        let shared = Arc::clone(&self.shared);
        let path = {
            let mut namespaces = shared.namespaces();
            let namespace = namespaces.get_mut(&nsid.0).filter(|it| !it.leaving);
            let namespace = namespace.ok_or(TargetError::UnknownNamespace { nsid })?;
            namespace.leaving = true;
            namespace.info.path.clone()
        };
        let action = format!("removing namespace {nsid} ({})", path.display());
        within(deadline, action, move || {
            let result = shared.take_down(&paths::namespace(&shared.subsystem, nsid));
            match &result {
                Ok(()) => drop(shared.namespaces().remove(&nsid.0)),
                Err(_) => {
                    if let Some(namespace) = shared.namespaces().get_mut(&nsid.0) {
                        namespace.leaving = false;
                    }
                }
            }
            result.map_err(NvmetError::from)
        })
    }

    fn address(&self) -> TransportId {
        let address = self.shared.address.lock().unwrap_or_else(PoisonError::into_inner).clone();
        address.with_subnqn(self.shared.subsystem.clone())
    }

    /// The kernel tells nothing of I/O, and of hosts only what debugfs has.
    fn status(&self) -> TargetStatus {
        let namespaces = self.shared.namespaces();
        TargetStatus {
            address: self.address(),
            since: self.shared.since,
            draining: self.shared.stopped.load(Ordering::Acquire),
            accounts: false,
            connections: 0,
            allowed_hosts: self.shared.allowed_hosts(),
            controllers: debugfs::controllers(&self.shared.roots.sys, &self.shared.subsystem),
            namespaces: namespaces
                .values()
                .map(|it| NamespaceStatus::not_accounted(it.info.clone(), it.since))
                .collect(),
            hosts: Vec::new(),
            pools: PoolTotals::default(),
            reactors: Vec::new(),
            faults: FaultTotals::default(),
        }
    }

    fn stop(&self, deadline: Instant) -> Result<(), TargetError> {
        if self.shared.stopped.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        within(deadline, "taking down the kernel's target".to_owned(), move || {
            let _changing = shared.changing();
            undo::run(&shared.record, &*shared.tree).map_err(NvmetError::Left)?;
            shared.namespaces().clear();
            close(&shared.record);
            Ok::<_, NvmetError>(())
        })
    }
}

impl Drop for NvmetTarget {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Instant::now() + DROP_TIME) {
            tracing::warn!(target: "nvferry::nvmet", %error, "a kernel target was dropped and is not all gone");
        }
    }
}

/// Does something that the kernel may take long for, in a thread of its own; it goes on beyond the deadline.
fn within<E: Into<TargetError> + Send + 'static>(
    deadline: Instant,
    action: String,
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), TargetError> {
    let (done, wait) = mpsc::sync_channel(1);
    let run = move || {
        // Nobody waits any more after the deadline.
        let _ = done.send(work());
    };
    let thread = std::thread::Builder::new().name("nvf-nvmet".into()).spawn(run);
    thread.map_err(|source| TargetError::Os { action: "start a thread", source })?;
    match wait.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(result) => result.map_err(Into::into),
        Err(RecvTimeoutError::Timeout) => Err(NvmetError::Slow { action }.into()),
        Err(RecvTimeoutError::Disconnected) => {
            Err(TargetError::Os { action: "configure nvmet", source: std::io::Error::other("its thread ended early") })
        }
    }
}

/// What starting would do, in order, as people read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// What would be loaded and mounted.
    pub preparation: Vec<String>,
    /// The living process that has this subsystem; starting would be refused.
    pub owner: Option<u32>,
    /// What a dead process left and would be removed.
    pub leftovers: Vec<Step>,
    /// The steps to what is desired.
    pub steps: Vec<Step>,
}

/// Looks what [`NvmetTarget::start`] would do; changes nothing, and needs no rights.
///
/// # Errors
/// What would stand in its way.
pub fn preview(spec: &TargetSpec, options: &NvmetOptions) -> Result<Preview, TargetError> {
    let roots = &options.roots;
    let tree = KernelTree::new(roots.nvmet());
    for namespace in &spec.namespaces {
        backing::examine(namespace, &spec.subsystem, roots)?;
        // Who serves it now holds it; that is told by the owner below.
        let machine = guard::Machine::at(&roots.proc, &roots.sys);
        let in_use_by_us = |error: &guard::GuardError| error.is_claimed();
        if let Err(error) = guard::check(namespace, &machine)
            && !in_use_by_us(&error)
        {
            return Err(error.into());
        }
    }
    let own = record::read(&record::file_of(&roots.records, &spec.subsystem), &roots.boot_id()).unwrap_or_default();
    let mut observed =
        Observed::look(&tree, &spec.subsystem, &own, &others(roots, &spec.subsystem)).map_err(TargetError::from)?;
    let leftovers = if own.alive { Vec::new() } else { undo::plan(&own.entries, &tree) };
    for step in &leftovers {
        observed.without(step);
    }
    Ok(Preview {
        preparation: modules::missing(roots, spec.transport.trtype),
        owner: own.pid.filter(|_| own.alive),
        steps: plan::plan(&observed, spec, options.port)?,
        leftovers,
    })
}
