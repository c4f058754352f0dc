//! Starting and stopping a userspace target.

use super::auth::Prover;
use super::limits;
use super::mailbox::{Letter, Mailbox};
use super::namespace::Namespace;
use super::options::UserspaceOptions;
use super::placement::Placement;
use super::reactor::{Inbox, Reactor, Shared};
use super::subsystem::Subsystem;
use super::worker::Worker;
use crate::desired::{NamespaceSpec, TargetSpec};
use crate::driver::{NamespaceInfo, PoolTotals, ReactorStatus, TargetDriver, TargetStatus};
use crate::error::TargetError;
use crate::guard;
use nvferry_io::BufferPool;
use nvferry_io::fast_paths::{FastPaths, PathCounters};
use nvferry_io::poller::AdaptiveSpin;
use nvferry_io::stream::Listener;
use nvferry_wire::trid::TrType;
use nvferry_wire::{ControllerId, Nsid, TransportId};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a target that is dropped without having been stopped lets commands end.
const DROP_TIME: Duration = Duration::from_secs(5);
/// How long reactors have to notice that they are forced to end.
const FORCED_TIME: Duration = Duration::from_millis(200);

/// A running userspace target. Dropping it stops it.
pub struct UserspaceTarget {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The reactors' memory, to tell how much it is.
    pools: Mutex<Vec<[BufferPool; 2]>>,
    /// Each reactor's engine, and which paths its data took.
    taken: Vec<(&'static str, Arc<PathCounters>)>,
}

impl UserspaceTarget {
    /// Starts a target as described: opens its files, listens, and serves.
    ///
    /// # Errors
    /// Anything wrong with the files, the address or the machine. Nothing runs then.
    pub fn start(spec: TargetSpec, options: UserspaceOptions) -> Result<Arc<Self>, TargetError> {
        check(&spec)?;
        FastPaths::check().map_err(io::Error::other).map_err(os("start the target"))?;
        let listener = Listener::bind(spec.transport.socket_addr(), options.tcp)?;
        let address = TransportId::tcp(listener.local_addr()).with_subnqn(spec.subsystem.clone());
        spec.allowed_hosts.warn_if_wide_open(&address);
        let has_secrets = spec.allowed_hosts.has_secrets();
        let mut subsystem = Subsystem::new(spec.subsystem, spec.serial, spec.model, address, spec.allowed_hosts);
        subsystem.max_connections = options.max_connections;
        // Each `RandomState` has random keys from the operating system.
        let random = RandomState::new().hash_one(std::process::id());
        subsystem.give_ids_after((random % u64::from(ControllerId::MAX.0)) as u16);
        if has_secrets {
            subsystem.prover = Prover::start().map_err(os("start the authentication thread"))?;
        }
        let subsystem = Arc::new(subsystem);
        for namespace in &spec.namespaces {
            open(&subsystem, namespace)?;
        }

        let count = options.reactors.unwrap_or_else(default_reactors).max(1);
        let placement = Arc::new(Placement::new(count));
        let mut inboxes = Vec::with_capacity(count);
        let mut sleepers = Vec::with_capacity(count);
        for _ in 0..count {
            let (mailbox, sleeper) = Mailbox::new().map_err(os("make a reactor's mailbox"))?;
            inboxes.push(Inbox::new(mailbox));
            sleepers.push(sleeper);
        }
        let shared = Arc::new(Shared::new(subsystem, inboxes));

        let mut reactors = Vec::with_capacity(count);
        let (mut pools, mut taken) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut listener = Some(listener);
        for (index, sleeper) in sleepers.into_iter().enumerate() {
            let engine = options.open_engine(index).map_err(os("open an I/O engine"))?;
            let subsystem = Arc::clone(&shared.subsystem);
            let mailbox = Arc::clone(&shared.inboxes[index].mailbox);
            let mut worker = Worker::new(index, subsystem, Arc::clone(&placement), mailbox, engine);
            if options.sends_pages() {
                worker.core.send_pages();
            }
            pools.push([worker.core.data_pool.clone(), worker.core.capsule_pool.clone()]);
            taken.push((worker.core.engine.name(), Arc::clone(&worker.core.taken)));
            let spin = AdaptiveSpin::new(worker.core.paths.spin(options.spin));
            let reactor = Reactor::new(index, Arc::clone(&shared), worker, sleeper, listener.take(), spin);
            reactors.push(reactor.map_err(os("make a reactor"))?);
        }
        // From here on threads run: if one cannot be started, the target's drop ends the others.
        let target = Self { shared, threads: Mutex::default(), pools: Mutex::new(pools), taken };
        let mut threads = Vec::with_capacity(count);
        let mut failed = None;
        for reactor in reactors {
            let name = format!("nvf-target-{}", reactor.index);
            if failed.is_some() {
                break;
            }
            match std::thread::Builder::new().name(name).spawn(move || reactor.run()) {
                Ok(thread) => threads.push(thread),
                // This reactor is gone with its closure, as those after it are with the list.
                Err(error) => failed = Some(error),
            }
        }
        target.threads.lock().unwrap_or_else(PoisonError::into_inner).append(&mut threads);
        match failed {
            Some(error) => Err(os("start a reactor's thread")(error)),
            None => {
                tracing::info!(target: "nvferry::target", address = %target.address(), reactors = count, "target started");
                Ok(Arc::new(target))
            }
        }
    }

    fn subsystem(&self) -> &Subsystem {
        &self.shared.subsystem
    }

    fn pool_totals(&self) -> PoolTotals {
        let mut totals = PoolTotals::default();
        for pool in self.pools.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten() {
            let stats = pool.stats();
            totals.in_use_bytes += stats.in_use_bytes as u64;
            totals.free_bytes += stats.free_bytes as u64;
        }
        totals
    }

    /// Makes every reactor take up the namespace table.
    fn refresh(&self) {
        for inbox in &self.shared.inboxes {
            inbox.mailbox.post(Letter::Refresh);
        }
    }
}

impl TargetDriver for UserspaceTarget {
    fn add_namespace(&self, spec: NamespaceSpec) -> Result<NamespaceInfo, TargetError> {
        if self.subsystem().is_draining() {
            return Err(TargetError::Stopped);
        }
        let info = open(self.subsystem(), &spec)?;
        self.refresh();
        self.subsystem().announce(spec.nsid);
        Ok(info)
    }

    fn remove_namespace(&self, nsid: Nsid, deadline: Instant) -> Result<(), TargetError> {
        let namespace = self.subsystem().namespaces.remove(nsid)?;
        self.refresh();
        self.subsystem().announce(nsid);
        if namespace.wait_unused(deadline) {
            return Ok(());
        }
        let action = format!("removing namespace {nsid} ({})", namespace.info.path.display());
        Err(TargetError::StillBusy { action, commands: namespace.in_flight() })
    }

    fn address(&self) -> TransportId {
        self.subsystem().address.clone()
    }

    fn status(&self) -> TargetStatus {
        let subsystem = self.subsystem();
        TargetStatus {
            address: self.address(),
            since: subsystem.since,
            draining: subsystem.is_draining(),
            accounts: true,
            connections: subsystem.connections.load(Ordering::Relaxed),
            allowed_hosts: subsystem.allowed_hosts.status(),
            controllers: Some(subsystem.controllers().iter().map(|controller| controller.status()).collect()),
            namespaces: subsystem.namespaces.snapshot().1.values().map(|namespace| namespace.status()).collect(),
            hosts: subsystem.hosts.status(),
            pools: self.pool_totals(),
            reactors: self
                .taken
                .iter()
                .map(|(engine, taken)| ReactorStatus { engine, paths: taken.totals() })
                .collect(),
            faults: subsystem.faults.totals(),
        }
    }

    fn stop(&self, deadline: Instant) -> Result<(), TargetError> {
        let begun = Instant::now();
        let was_draining = self.subsystem().draining.load(Ordering::Acquire);
        if !was_draining {
            let connections = self.subsystem().connections.load(Ordering::Relaxed);
            tracing::info!(target: "nvferry::target", address = %self.address(), connections, "draining");
        }
        self.shared.drain();
        let drained = self.shared.wait_ended(deadline);
        if !was_draining {
            let took_ms = begun.elapsed().as_millis() as u64;
            let given_up = self.shared.given_up();
            tracing::info!(target: "nvferry::target", address = %self.address(), drained, given_up, took_ms, "drained");
        }
        if !drained {
            self.shared.force();
            self.shared.wait_ended(Instant::now() + FORCED_TIME);
        }
        // Their memory goes with the reactors.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // One that hangs in the system is left to itself: its sockets are closed.
            if thread.is_finished() || drained {
                let _ = thread.join();
            }
        }
        if drained {
            return Ok(());
        }
        Err(TargetError::StillBusy { action: "stopping the target".to_owned(), commands: self.shared.given_up() })
    }
}

impl Drop for UserspaceTarget {
    fn drop(&mut self) {
        if let Err(error) = self.stop(Instant::now() + DROP_TIME) {
            tracing::warn!(target: "nvferry::target", %error, "a target was dropped with commands under way");
        }
    }
}

pub(super) fn open(subsystem: &Subsystem, spec: &NamespaceSpec) -> Result<NamespaceInfo, TargetError> {
    if !(1..=limits::MAX_NSID).contains(&spec.nsid.0) {
        return Err(TargetError::InvalidNsid { path: spec.path.clone(), nsid: spec.nsid, max: limits::MAX_NSID });
    }
    let namespace = Namespace::open(spec, &subsystem.nqn)?;
    let info = namespace.info.clone();
    subsystem.namespaces.insert(Arc::new(namespace))?;
    if !spec.read_only {
        guard::mark_served(&spec.path);
    }
    tracing::info!(
        target: "nvferry::target", nsid = spec.nsid.0, path = %info.path.display(), size_bytes = info.size_bytes,
        block_bytes = info.block_bytes, direct = info.direct, "namespace offered"
    );
    Ok(info)
}

/// What can be wrong with a description before anything is opened.
fn check(spec: &TargetSpec) -> Result<(), TargetError> {
    if spec.transport.trtype != TrType::Tcp {
        return Err(TargetError::Transport { transport: spec.transport.clone() });
    }
    if spec.subsystem.is_discovery() {
        return Err(TargetError::SubsystemName { subsystem: spec.subsystem.clone() });
    }
    for (field, value, max) in [("serial number", &spec.serial, 20), ("model number", &spec.model, 40)] {
        let text = |why| Err(TargetError::Text { field, value: value.clone(), why });
        if !value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return text("only printable ASCII characters are allowed");
        }
        if value.len() > max {
            return text(if max == 20 {
                "at most 20 characters are allowed"
            } else {
                "at most 40 characters are allowed"
            });
        }
    }
    Ok(())
}

fn os(action: &'static str) -> impl Fn(io::Error) -> TargetError {
    move |source| TargetError::Os { action, source }
}

fn default_reactors() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get()).min(limits::DEFAULT_REACTORS)
}
