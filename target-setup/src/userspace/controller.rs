//! A controller: what one host has connected to. Its queues may be on several reactors; they share this.
//!
//! Only admin commands, and queues that come and go, take the lock here; I/O never does.

use super::connection::Ends;
use super::counters::IoCounters;
use super::hosts::HostRecord;
use super::limits;
use super::mailbox::{ConnectionKey, Letter, Mailbox};
use crate::driver::{ControllerStatus, HostProof, IoTotals};
use nvferry_wire::async_event::AsyncEvent;
use nvferry_wire::fabrics::{Cc, Csts, Shn, Shst};
use nvferry_wire::feature::AsyncEventConfig;
use nvferry_wire::{ControllerId, HostId, Nqn, Nsid, QueueId, Status};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The most namespaces that the changed namespace list can name.
const MAX_CHANGED: usize = 1024;

/// What a controller is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControllerKind {
    /// Serves namespaces.
    Io,
    /// Tells where subsystems are.
    Discovery,
}

/// Where a queue's connection lives.
#[derive(Debug, Clone)]
pub(crate) struct QueueHandle {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) key: ConnectionKey,
}

/// A controller.
pub(crate) struct Controller {
    pub(crate) id: ControllerId,
    pub(crate) kind: ControllerKind,
    pub(crate) host: Nqn,
    pub(crate) hostid: HostId,
    pub(crate) ends: Ends,
    since: SystemTime,
    /// What its host did, ever.
    record: Arc<HostRecord>,
    state: Mutex<State>,
}

/// How far the report of one kind of event has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Report {
    /// Nothing to report.
    #[default]
    None,
    /// Something happened; no Asynchronous Event Request has told it yet.
    Due,
    /// Told. Nothing more of this kind is told until the host has read the log page.
    Told,
}

/// One command that failed, for the error log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    /// Counts failures of the controller, from 1.
    pub(crate) number: u64,
    pub(crate) qid: QueueId,
    pub(crate) cid: nvferry_wire::CommandId,
    pub(crate) status: Status,
    pub(crate) nsid: Nsid,
    pub(crate) lba: u64,
}

struct IoQueue {
    /// Where it lives; unknown while it moves to its reactor.
    handle: Option<QueueHandle>,
    /// Nothing more is read from it. Commands that had begun may still be under way.
    closed: bool,
    counters: Arc<IoCounters>,
}

impl IoQueue {
    /// Tells its connection to close.
    fn close(&self) {
        if let Some(handle) = &self.handle {
            handle.mailbox.post(Letter::CloseQueue(handle.key));
        }
    }
}

struct State {
    cc: Cc,
    fatal: bool,
    /// No more queues; those that are there were told to close.
    closing: bool,
    proof: HostProof,
    kato: Option<Duration>,
    events_wanted: AsyncEventConfig,
    namespace_report: Report,
    changed: BTreeSet<Nsid>,
    admin: Option<QueueHandle>,
    io_queues: BTreeMap<QueueId, IoQueue>,
    /// Of queues that have gone.
    past_totals: IoTotals,
    failures: VecDeque<Failure>,
    failure_count: u64,
}

/// Why an I/O queue cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddQueueError {
    /// The controller is not enabled, or is going.
    NotReady,
    /// There is a queue of that id.
    InUse,
}

impl Controller {
    pub(crate) fn new(
        id: ControllerId,
        kind: ControllerKind,
        host: Nqn,
        hostid: HostId,
        ends: Ends,
        kato_ms: u32,
        record: Arc<HostRecord>,
    ) -> Self {
        let state = State {
            cc: Cc::default(),
            fatal: false,
            closing: false,
            proof: HostProof::NotAsked,
            kato: keep_alive(kato_ms),
            events_wanted: AsyncEventConfig::default(),
            namespace_report: Report::None,
            changed: BTreeSet::new(),
            admin: None,
            io_queues: BTreeMap::new(),
            past_totals: IoTotals::default(),
            failures: VecDeque::new(),
            failure_count: 0,
        };
        Self { id, kind, host, hostid, ends, since: SystemTime::now(), record, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CC, as the host set it last.
    pub(crate) fn cc(&self) -> Cc {
        self.state().cc
    }

    /// CSTS. A controller that was disabled stays ready, and one that is shutting down stays busy with that, until its
    /// last I/O queue is gone: after that nothing of the host's can change data any more.
    pub(crate) fn csts(&self) -> Csts {
        let state = self.state();
        let draining = !state.io_queues.is_empty();
        let ready = state.cc.enable() || draining;
        let shst = match state.cc.shn() {
            Shn::None | Shn::Reserved => Shst::Normal,
            Shn::Normal | Shn::Abrupt if draining => Shst::Occurring,
            Shn::Normal | Shn::Abrupt => Shst::Complete,
        };
        Csts::new(ready && !state.fatal, state.fatal, shst)
    }

    /// Whether admin commands other than fabrics commands are taken.
    pub(crate) fn is_ready(&self) -> bool {
        let state = self.state();
        state.cc.enable() && !state.fatal
    }

    /// Sets CC. Disabling and shutting down close the I/O queues; disabling also forgets what hosts set.
    pub(crate) fn set_cc(&self, cc: Cc) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.cc, cc);
        let disabled = before.enable() && !cc.enable();
        let shut_down = matches!(cc.shn(), Shn::Normal | Shn::Abrupt) && before.shn() != cc.shn();
        if disabled {
            state.events_wanted = AsyncEventConfig::default();
            state.namespace_report = Report::None;
            state.changed.clear();
        }
        if disabled || shut_down {
            state.close_io_queues();
        }
    }

    /// The keep-alive timeout, where there is one.
    pub(crate) fn kato(&self) -> Option<Duration> {
        self.state().kato
    }

    pub(crate) fn set_kato(&self, kato_ms: u32) {
        self.state().kato = keep_alive(kato_ms);
    }

    /// How far the host is in proving who it is.
    pub(crate) fn set_proof(&self, proof: HostProof) {
        self.state().proof = proof;
    }

    pub(crate) fn events_wanted(&self) -> AsyncEventConfig {
        self.state().events_wanted
    }

    pub(crate) fn set_events_wanted(&self, wanted: AsyncEventConfig) {
        self.state().events_wanted = wanted;
    }

    /// Says where the admin queue lives.
    pub(crate) fn set_admin_queue(&self, handle: QueueHandle) {
        self.state().admin = Some(handle);
    }

    /// Adds an I/O queue.
    pub(crate) fn add_io_queue(&self, qid: QueueId, counters: Arc<IoCounters>) -> Result<(), AddQueueError> {
        let mut state = self.state();
        if state.closing || state.fatal || !state.cc.enable() || state.cc.shn() != Shn::None {
            return Err(AddQueueError::NotReady);
        }
        if let Some(queue) = state.io_queues.get(&qid) {
            // Its host has given the old one up: what of it has not been read is not carried out any more. The host tries
            // again, and finds the id free when the last command of the old one has ended.
            queue.close();
            return Err(AddQueueError::InUse);
        }
        self.record.queue_added(&counters);
        state.io_queues.insert(qid, IoQueue { handle: None, closed: false, counters });
        Ok(())
    }

    /// Says where an I/O queue lives; `false` when the controller is going and the queue has to close.
    pub(crate) fn place_io_queue(&self, qid: QueueId, handle: QueueHandle) -> bool {
        let mut state = self.state();
        let open = !state.closing && state.cc.enable() && state.cc.shn() == Shn::None;
        if let Some(queue) = state.io_queues.get_mut(&qid) {
            queue.handle = Some(handle);
        }
        open
    }

    /// Nothing more is read from an I/O queue.
    pub(crate) fn io_queue_closed(&self, qid: QueueId) {
        if let Some(queue) = self.state().io_queues.get_mut(&qid) {
            queue.closed = true;
        }
    }

    /// Whether it has ended, and nothing that its host sent can begin any more.
    pub(crate) fn is_quiet(&self) -> bool {
        let state = self.state();
        state.closing && state.io_queues.values().all(|queue| queue.closed)
    }

    /// Forgets an I/O queue, whose last command has ended.
    pub(crate) fn remove_io_queue(&self, qid: QueueId) {
        let mut state = self.state();
        if let Some(queue) = state.io_queues.remove(&qid) {
            state.past_totals += queue.counters.totals();
            self.record.queue_removed(&queue.counters);
        }
        if state.io_queues.is_empty() {
            // The admin queue may wait for this, when the target stops.
            state.announce();
        }
    }

    /// Whether there are I/O queues, or what is left of them.
    pub(crate) fn has_io_queues(&self) -> bool {
        !self.state().io_queues.is_empty()
    }

    /// Closes all I/O queues and takes no more: the admin queue is gone.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        state.admin = None;
        state.close_io_queues();
    }

    /// The host was silent for too long: the controller fails.
    pub(crate) fn fail(&self) {
        self.state().fatal = true;
    }

    /// Notes that a namespace came, went or changed, and tells the host if it wants to know.
    pub(crate) fn namespace_changed(&self, nsid: Nsid) {
        if self.kind != ControllerKind::Io {
            return;
        }
        let mut state = self.state();
        if !state.cc.enable() {
            return;
        }
        // One more than the list can name, so that it is known to have overflowed.
        if state.changed.len() <= MAX_CHANGED {
            state.changed.insert(nsid);
        }
        if state.events_wanted.contains(AsyncEventConfig::NAMESPACE_ATTRIBUTE) && state.namespace_report == Report::None
        {
            state.namespace_report = Report::Due;
            state.announce();
        }
    }

    /// The next event to report, which counts as told from here on.
    pub(crate) fn next_event(&self) -> Option<AsyncEvent> {
        let mut state = self.state();
        if state.namespace_report != Report::Due {
            return None;
        }
        state.namespace_report = Report::Told;
        Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED)
    }

    /// The changed namespaces in order; `None` when they are more than the list can name. Reading clears the list and
    /// lets the next event come, unless `retain`.
    pub(crate) fn changed_namespaces(&self, retain: bool) -> Option<Vec<Nsid>> {
        let mut state = self.state();
        let list = (state.changed.len() <= MAX_CHANGED).then(|| state.changed.iter().copied().collect());
        if !retain {
            state.changed.clear();
            state.namespace_report = Report::None;
        }
        list
    }

    /// Notes a command that failed.
    pub(crate) fn note_failure(
        &self,
        qid: QueueId,
        cid: nvferry_wire::CommandId,
        status: Status,
        nsid: Nsid,
        lba: u64,
    ) {
        let mut state = self.state();
        state.failure_count += 1;
        let number = state.failure_count;
        state.failures.push_front(Failure { number, qid, cid, status, nsid, lba });
        state.failures.truncate(limits::ERROR_LOG_ENTRIES);
    }

    /// The latest failures, newest first, and how many there were ever.
    pub(crate) fn failures(&self) -> (Vec<Failure>, u64) {
        let state = self.state();
        (state.failures.iter().copied().collect(), state.failure_count)
    }

    /// What went through the I/O queues, those that have gone included.
    pub(crate) fn totals(&self) -> IoTotals {
        self.state().totals()
    }

    pub(crate) fn status(&self) -> ControllerStatus {
        let state = self.state();
        ControllerStatus {
            cntlid: self.id,
            host: self.host.clone(),
            discovery: self.kind == ControllerKind::Discovery,
            peer: self.ends.peer,
            since: self.since,
            authentication: state.proof,
            io_queues: state.io_queues.len(),
            totals: state.totals(),
        }
    }
}

impl State {
    fn totals(&self) -> IoTotals {
        let mut totals = self.past_totals;
        for queue in self.io_queues.values() {
            totals += queue.counters.totals();
        }
        totals
    }

    fn close_io_queues(&self) {
        self.io_queues.values().for_each(IoQueue::close);
    }

    fn announce(&self) {
        if let Some(admin) = &self.admin {
            admin.mailbox.post(Letter::AsyncEvents(admin.key));
        }
    }
}

/// KATO as a time, rounded up to the granularity that Identify Controller tells; 0 is none.
fn keep_alive(kato_ms: u32) -> Option<Duration> {
    let granularity_ms = u64::from(limits::KEEP_ALIVE_GRANULARITY_100MS) * 100;
    (kato_ms > 0).then(|| Duration::from_millis(u64::from(kato_ms).next_multiple_of(granularity_ms)))
}
