//! What all reactors share: the subsystem's name, its namespaces, its controllers, and who may connect.

use super::auth::Prover;
use super::connection::Ends;
use super::controller::{AddQueueError, Controller, ControllerKind};
use super::counters::{FaultCounters, IoCounters, count};
use super::hosts::Hosts;
use super::limits;
use super::table::NamespaceTable;
use crate::desired::AllowedHosts;
use nvferry_auth::ControllerTerms;
use nvferry_wire::fabrics::{Connect, ConnectData, ConnectInvalid};
use nvferry_wire::{ControllerId, Nqn, Nsid, Status, StatusCode, TransportId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The subsystem, and the discovery service beside it.
pub(crate) struct Subsystem {
    pub(crate) nqn: Nqn,
    pub(crate) serial: String,
    pub(crate) model: String,
    /// Where hosts find it.
    pub(crate) address: TransportId,
    pub(crate) allowed_hosts: AllowedHosts,
    pub(crate) prover: Prover,
    pub(crate) namespaces: NamespaceTable,
    pub(crate) faults: FaultCounters,
    pub(crate) hosts: Hosts,
    pub(crate) since: SystemTime,
    /// Open connections, over all reactors.
    pub(crate) connections: AtomicUsize,
    /// Those of them that are no strangers'.
    pub(crate) known_connections: AtomicUsize,
    /// Beyond these, hosts that connect a queue are told that the controller is busy.
    pub(crate) max_connections: usize,
    /// Set once: no new commands, and no new connections.
    pub(crate) draining: AtomicBool,
    controllers: Mutex<Controllers>,
}

#[derive(Default)]
struct Controllers {
    by_id: BTreeMap<ControllerId, Arc<Controller>>,
    /// Those whose admin queue is gone, until nothing that their hosts sent can begin any more.
    leaving: Vec<Arc<Controller>>,
    last_id: u16,
}

/// A Connect that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) result: u64,
}

impl From<ConnectInvalid> for Refusal {
    fn from(invalid: ConnectInvalid) -> Self {
        Self { status: Status::permanent(StatusCode::ConnectInvalidParameters), result: invalid.to_result() }
    }
}

impl From<StatusCode> for Refusal {
    fn from(code: StatusCode) -> Self {
        Self { status: Status::permanent(code), result: 0 }
    }
}

impl Subsystem {
    pub(crate) fn new(
        nqn: Nqn,
        serial: String,
        model: String,
        address: TransportId,
        allowed_hosts: AllowedHosts,
    ) -> Self {
        Self {
            nqn,
            serial,
            model,
            address,
            hosts: Hosts::new(&allowed_hosts),
            since: SystemTime::now(),
            allowed_hosts,
            prover: Prover::Here,
            namespaces: NamespaceTable::default(),
            faults: FaultCounters::default(),
            connections: AtomicUsize::new(0),
            known_connections: AtomicUsize::new(0),
            max_connections: limits::MAX_CONNECTIONS,
            draining: AtomicBool::new(false),
            controllers: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Controllers> {
        // Each change under the lock is one insertion or removal, so a poisoned lock is whole.
        self.controllers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// All controllers, to look at them without holding the lock.
    pub(crate) fn controllers(&self) -> Vec<Arc<Controller>> {
        self.lock().by_id.values().map(Arc::clone).collect()
    }

    /// The ids of all controllers that serve namespaces. One whose connection has ended is among them until nothing that
    /// came over it, and was not read, can begin any more: what had begun then holds up what it could undo (`orphans`). A
    /// host that lost a controller waits for that before it sends its commands again to another.
    pub(crate) fn controller_ids(&self) -> BTreeSet<ControllerId> {
        let mut controllers = self.lock();
        controllers.leaving.retain(|controller| !controller.is_quiet());
        let all = controllers.by_id.values().chain(&controllers.leaving);
        all.filter(|controller| controller.kind == ControllerKind::Io).map(|controller| controller.id).collect()
    }

    /// Ids of controllers begin after this one: not with the same after each start, so that a host of the target's last life
    /// does not take another's controller for the one that it had.
    pub(crate) fn give_ids_after(&self, id: u16) {
        self.lock().last_id = id;
    }

    /// What the host of this controller has to prove, if anything. Discovery is open to all.
    pub(crate) fn auth_terms(&self, controller: &Controller) -> Option<ControllerTerms> {
        if controller.kind == ControllerKind::Discovery {
            return None;
        }
        let auth = self.allowed_hosts.auth(&controller.host)?;
        Some(ControllerTerms {
            host: controller.host.clone(),
            subsystem: self.nqn.clone(),
            secret: auth.secret.clone(),
            controller_secret: auth.controller_secret.clone(),
            hash: auth.hash,
            group: auth.group,
        })
    }

    /// Tells all hosts that a namespace came, went or changed.
    pub(crate) fn announce(&self, nsid: Nsid) {
        for controller in self.controllers() {
            controller.namespace_changed(nsid);
        }
    }

    /// What both kinds of Connect must fulfil.
    fn check(&self, connect: &Connect, data: &ConnectData) -> Result<ControllerKind, Refusal> {
        if !(2..=u32::from(limits::MAX_QUEUE_ENTRIES)).contains(&connect.sq_entries) {
            return Err(ConnectInvalid::SQSIZE.into());
        }
        let kind = if data.subnqn.is_discovery() {
            ControllerKind::Discovery
        } else if data.subnqn == self.nqn {
            ControllerKind::Io
        } else {
            return Err(ConnectInvalid::SUBNQN.into());
        };
        if data.hostid.is_zero() {
            return Err(ConnectInvalid::HOSTID.into());
        }
        // Every host may ask the discovery service, which tells each only of what it may connect to.
        if kind == ControllerKind::Io && !self.allowed_hosts.allows(&data.hostnqn) {
            count(&self.faults.refused_hosts);
            tracing::warn!(target: "nvferry::target", host = %data.hostnqn, "refused a host that is not on the list of allowed hosts");
            return Err(StatusCode::ConnectInvalidHost.into());
        }
        // Those who connect at the same moment, or prove themselves at the same time, may be a few more.
        if kind == ControllerKind::Io && self.known_connections.load(Ordering::Relaxed) >= self.max_connections {
            count(&self.faults.refused_connections);
            tracing::warn!(target: "nvferry::target", host = %data.hostnqn, max = self.max_connections, "refused a connection: there are too many");
            return Err(Refusal { status: Status::new(StatusCode::ConnectControllerBusy), result: 0 });
        }
        Ok(kind)
    }

    /// Makes a controller for a host that connects its admin queue.
    pub(crate) fn connect_admin(
        &self,
        connect: &Connect,
        data: &ConnectData,
        ends: Ends,
    ) -> Result<Arc<Controller>, Refusal> {
        let kind = self.check(connect, data)?;
        if data.cntlid != ControllerId::DYNAMIC {
            return Err(ConnectInvalid::CNTLID.into());
        }
        let mut controllers = self.lock();
        if controllers.by_id.len() >= limits::MAX_CONTROLLERS + limits::MAX_STRANGERS || self.is_draining() {
            return Err(Refusal { status: Status::new(StatusCode::ConnectControllerBusy), result: 0 });
        }
        let id = controllers.next_id();
        let (host, hostid) = (data.hostnqn.clone(), data.hostid);
        // Discovery is open to all, and moves nothing.
        let record = if kind == ControllerKind::Io { self.hosts.of(&host) } else { self.hosts.nobody() };
        record.connected();
        count(&self.faults.created_controllers);
        let controller = Arc::new(Controller::new(id, kind, host, hostid, ends, connect.kato_ms, record));
        controllers.by_id.insert(id, Arc::clone(&controller));
        Ok(controller)
    }

    /// Finds the controller that a host connects an I/O queue to, and adds the queue.
    pub(crate) fn connect_io(
        &self,
        connect: &Connect,
        data: &ConnectData,
        counters: &Arc<IoCounters>,
    ) -> Result<Arc<Controller>, Refusal> {
        let kind = self.check(connect, data)?;
        if kind == ControllerKind::Discovery || connect.qid.0 > limits::MAX_IO_QUEUES {
            return Err(ConnectInvalid::QID.into());
        }
        let found = self.lock().by_id.get(&data.cntlid).map(Arc::clone);
        let controller = found.filter(|it| it.kind == kind).ok_or(ConnectInvalid::CNTLID)?;
        if controller.host != data.hostnqn {
            return Err(ConnectInvalid::HOSTNQN.into());
        }
        if controller.hostid != data.hostid {
            return Err(ConnectInvalid::HOSTID.into());
        }
        match controller.add_io_queue(connect.qid, Arc::clone(counters)) {
            Ok(()) => Ok(controller),
            Err(AddQueueError::NotReady) => Err(ConnectInvalid::CNTLID.into()),
            Err(AddQueueError::InUse) => Err(StatusCode::CommandSequenceError.into()),
        }
    }

    /// Ends a controller whose admin queue is gone: its I/O queues close, too.
    pub(crate) fn remove_controller(&self, controller: &Arc<Controller>) {
        {
            let mut controllers = self.lock();
            // Its id may be another's by now.
            if controllers.by_id.get(&controller.id).is_some_and(|there| Arc::ptr_eq(there, controller)) {
                controllers.by_id.remove(&controller.id);
                controllers.leaving.retain(|controller| !controller.is_quiet());
                controllers.leaving.push(Arc::clone(controller));
            }
        }
        controller.close();
    }
}

impl Controllers {
    /// The next id that is free; ids come round as late as possible, so that a late message finds nobody.
    fn next_id(&mut self) -> ControllerId {
        // Fewer controllers and connections than ids are allowed, so one is free.
        loop {
            self.last_id = if self.last_id >= ControllerId::MAX.0 { 1 } else { self.last_id + 1 };
            let id = ControllerId(self.last_id);
            if !self.by_id.contains_key(&id) && self.leaving.iter().all(|leaving| leaving.id != id) {
                return id;
            }
        }
    }
}
