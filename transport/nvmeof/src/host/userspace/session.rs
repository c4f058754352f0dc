//! One target, from attaching to letting go: its controller, its connection, and what the workers are told about it.
//!
//! A controller that was connected once is tried again for ever (0.1 s doubling to 5 s) until the target is let go
//! of. What a new association means for the namespaces is decided here: those that were there before are awaited.

use super::control::{Destination, Reply};
use super::controller::{Association, Controller, ControllerEvent, queue_params};
use super::left_behind::LeftBehind;
use super::link::LinkError;
use super::queue_pair::backoff;
use super::reconnect::Reconnect;
use super::socket::{HostSocket, Progress};
use crate::attachment::{Attachment, Latch};
use crate::config::HostSettings;
use crate::host::identity::{Described, Identities};
use crate::host::namespaces::{HostNamespace, NamespaceTable, Presence};
use crate::status::ConnectionState;
use crate::worker::{Order, WeakPool};
use nvferry_engine::EngineError;
use nvferry_engine::error::ErrorKind;
use nvferry_io::poller::{Event, Poller};
use nvferry_wire::{ControllerId, QueueId, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rounds of receiving, acting and sending before the other targets have their turn.
const ROUNDS_PER_TURN: usize = 32;

/// Between the first two looks whether the controller of a former association is still there. It doubles.
const FENCE_PACE: Duration = Duration::from_millis(1);
/// Up to this.
const FENCE_MAX_PACE: Duration = Duration::from_millis(64);
/// Beyond the keep-alive timeout: the time that a target has to end a controller.
const FENCE_GRACE: Duration = Duration::from_secs(2);

/// How long a controller may take to shut down. Nothing is under way any more then: it is a courtesy.
const SHUTDOWN_TIME: Duration = Duration::from_secs(2);

/// Who waits for a scan.
#[derive(Debug)]
struct ScanWaiter {
    /// Asked of the present association; `None` while there is none.
    ticket: Option<u64>,
    reply: Reply,
}

/// Why I/O queues are not connected yet: what was sent to the controller of a former association may still be carried out,
/// after what is sent now. It cannot any more once the subsystem does not list that controller.
#[derive(Debug)]
struct Fence {
    /// When to look again; nothing while an answer is awaited.
    look_at: Option<Instant>,
    pace: Duration,
    /// By then the target has ended any controller whose host is silent.
    until: Instant,
    /// It has been said that requests wait for this.
    was_told: bool,
}

#[derive(Debug)]
enum Life {
    /// Nobody has been connected yet: the first failure ends it.
    Attaching(Reply),
    Attached,
    Closing {
        deadline: Instant,
        done: Arc<Latch>,
    },
    Over,
}

#[derive(Debug)]
pub(super) struct Session {
    attachment: Arc<Attachment>,
    destination: Destination,
    settings: HostSettings,
    pool: WeakPool,
    controller: Controller,
    socket: HostSocket,
    association: Option<Association>,
    /// Controllers of former associations that had I/O queues, but those that are known to be gone: the last is looked for.
    former: Vec<ControllerId>,
    fence: Option<Fence>,
    identities: Identities,
    /// The next list of namespaces is the first of its association.
    first_scan: bool,
    failures: u8,
    retry_at: Option<Instant>,
    /// Its turn ended before there was nothing left to do.
    goes_on_at: Option<Instant>,
    queues: Vec<Reconnect>,
    waiters: Vec<ScanWaiter>,
    life: Life,
}

impl Session {
    pub(super) fn new(
        attachment: Arc<Attachment>,
        destination: Destination,
        described: &Described,
        settings: HostSettings,
        pool: WeakPool,
        reply: Reply,
        now: Instant,
    ) -> Self {
        let mut identities = Identities::default();
        identities.learn(described);
        let workers = pool.upgrade().map_or(0, |pool| pool.len());
        let controller = Controller::new(settings.clone(), destination.subnqn.clone(), workers as u32, now);
        Self {
            attachment,
            destination,
            settings,
            pool,
            controller,
            socket: HostSocket::default(),
            association: None,
            former: Vec::new(),
            fence: None,
            identities,
            first_scan: true,
            failures: 0,
            retry_at: Some(now),
            goes_on_at: None,
            queues: vec![Reconnect::default(); workers],
            waiters: Vec::new(),
            life: Life::Attaching(reply),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.life, Life::Over)
    }

    /// Controllers that were left behind at its target by others.
    pub(super) fn wait_for(&mut self, controllers: Vec<ControllerId>) {
        self.former = controllers;
    }

    /// It is over: what it leaves behind.
    pub(super) fn leave(&self, left_behind: &mut LeftBehind, now: Instant) {
        left_behind.add(&self.destination, &self.former, now + self.settings.kato + FENCE_GRACE, now);
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        let closing = match &self.life {
            Life::Closing { deadline, .. } => Some(*deadline),
            Life::Attaching(_) | Life::Attached | Life::Over => None,
        };
        let queues = self.queues.iter().filter_map(Reconnect::timer);
        let queues = if self.association.is_some() && self.fence.is_none() { queues.min() } else { None };
        let fence = self.fence.as_ref().and_then(|fence| fence.look_at);
        let times = [self.controller.next_timer(), self.retry_at, self.goes_on_at, closing, queues, fence];
        times.into_iter().flatten().min()
    }

    /// The socket says that there is something to do; [`Self::tick`] does it.
    pub(super) fn ready(&mut self, event: &Event) {
        self.socket.event(event);
    }

    /// Does all that is due.
    pub(super) fn tick(&mut self, poller: &Poller, now: Instant) {
        self.goes_on_at = None;
        if self.retry_at.is_some_and(|at| at <= now) {
            self.connect(poller, now);
        }
        if let Some(fence) = &mut self.fence
            && fence.look_at.is_some_and(|at| at <= now)
            && let Some(&former) = self.former.last()
        {
            fence.look_at = None;
            self.controller.look_for(former, now);
        }
        if let Err(error) = self.controller.tick(now) {
            self.lost(&error, now);
        } else {
            self.drive(now);
        }
        for worker in 0..self.queues.len() {
            if self.queues[worker].is_due(now) {
                self.connect_queue(worker);
            }
        }
        if let Life::Closing { deadline, .. } = &self.life
            && *deadline <= now
        {
            self.end();
        }
    }

    fn connect(&mut self, poller: &Poller, now: Instant) {
        self.retry_at = None;
        self.controller.connecting(now);
        match HostSocket::connect(self.destination.address, poller, self.attachment.id.0.into()) {
            Ok(socket) => self.socket = socket,
            Err(error) => self.lost(&error.into(), now),
        }
    }

    fn drive(&mut self, now: Instant) {
        match self.socket.progress() {
            Ok(Progress::Waiting) => return,
            Ok(Progress::JustConnected) => self.controller.connected(now),
            Ok(Progress::Connected) => {}
            Err(error) => return self.lost(&error.into(), now),
        }
        for _ in 0..ROUNDS_PER_TURN {
            let readable = self.socket.take_readable();
            let Some(stream) = self.socket.stream() else { return };
            let more = match self.controller.drive(stream, now, readable) {
                Ok(more) => more,
                Err(error) => return self.lost(&error, now),
            };
            let again = readable && self.socket.received(more);
            let events = self.controller.take_events();
            if events.is_empty() && !again {
                return;
            }
            // What an event leads to may be a command, which the next round sends.
            for event in events {
                match event {
                    ControllerEvent::Ready(association) => self.associated(association, now),
                    ControllerEvent::Namespaces { namespaces, ticket } => self.scanned(namespaces, ticket, now),
                    ControllerEvent::Listed(is_there) => self.former_controller_listed(is_there, now),
                    ControllerEvent::ShutDown => self.end(),
                }
            }
        }
        self.goes_on_at = Some(now);
    }

    /// The controller is ready for I/O queues.
    fn associated(&mut self, association: Association, now: Instant) {
        let again = matches!(self.life, Life::Attached);
        tracing::info!(
            target: "nvferry::host",
            peer = %self.attachment.target,
            host = %self.settings.host_nqn,
            cntlid = association.cntlid.0,
            io_queues = association.io_queues,
            entries = association.entries,
            max_transfer_bytes = association.max_transfer_bytes,
            serial = association.serial,
            again,
            "connected"
        );
        if again {
            self.attachment.count_reconnect();
        }
        self.failures = 0;
        self.first_scan = true;
        let queues = (association.io_queues as usize).clamp(1, self.queues.len().max(1));
        self.attachment.change_view(|view| {
            view.max_transfer_bytes = association.max_transfer_bytes;
            view.queues = queues;
        });
        self.attachment.set_state(ConnectionState::Connected);
        // A target that gives this one its id has nothing of the last one any more.
        self.former.retain(|former| *former != association.cntlid);
        if let Some(&former) = self.former.last() {
            self.controller.look_for(former, now);
            let until = now + self.settings.kato + FENCE_GRACE;
            self.fence = Some(Fence { look_at: None, pace: FENCE_PACE, until, was_told: false });
        }
        self.association = Some(association);
        self.queues.iter_mut().for_each(Reconnect::forget);
    }

    /// The target says whether it still has the controller that was looked for.
    fn former_controller_listed(&mut self, is_there: Option<bool>, now: Instant) {
        let Some(fence) = &mut self.fence else { return };
        let (peer, cntlid) = (&self.attachment.target, self.former.last().map(|former| former.0));
        if is_there == Some(true) && now < fence.until {
            fence.look_at = Some(now + fence.pace);
            fence.pace = (fence.pace * 2).min(FENCE_MAX_PACE);
            if fence.pace == FENCE_MAX_PACE && !std::mem::replace(&mut fence.was_told, true) {
                let at_most_ms = (fence.until - now).as_millis() as u64;
                tracing::info!(
                    target: "nvferry::host", %peer, last = cntlid, at_most_ms,
                    "requests wait until the target has given up the connection that was lost"
                );
            }
            return;
        }
        self.former.pop();
        match is_there {
            Some(false) => {}
            Some(true) => tracing::warn!(
                target: "nvferry::host", %peer, last = cntlid, "the target still lists the controller that was lost; going on without it"
            ),
            None => {
                tracing::debug!(target: "nvferry::host", %peer, last = cntlid, "the target does not tell which controllers it has");
                self.former.clear();
            }
        }
        if let Some(&former) = self.former.last() {
            self.controller.look_for(former, now);
            return;
        }
        self.fence = None;
        self.connect_wanted();
    }

    fn connect_wanted(&mut self) {
        for worker in 0..self.queues.len() {
            if self.queues[worker].wanted {
                self.connect_queue(worker);
            }
        }
    }

    /// The namespaces are known.
    fn scanned(&mut self, mut namespaces: Vec<HostNamespace>, ticket: u64, now: Instant) {
        self.identities.check(&mut namespaces);
        let fresh = NamespaceTable::new(namespaces);
        let before = self.attachment.view().table;
        let first = std::mem::replace(&mut self.first_scan, false);
        let attaching = matches!(self.life, Life::Attaching(_));
        let table = match (attaching, first) {
            (true, _) => fresh,
            (false, true) => before.after_reconnect(&fresh),
            (false, false) => before.after_change(&fresh),
        };
        if table != *before {
            let table = Arc::new(table);
            tracing::debug!(target: "nvferry::host", peer = %self.attachment.target, files = table.iter().count(), "namespaces");
            let is_new = |entry: &&HostNamespace| !before.iter().any(|known| known == *entry);
            for entry in table.iter().filter(is_new) {
                if let Presence::Replaced { was } = entry.presence {
                    let now = entry.nguid.map(|nguid| nguid.to_string());
                    tracing::warn!(
                        target: "nvferry::host", peer = %self.attachment.target, nsid = entry.nsid.0, %was, now,
                        "the target has another file there than it had: requests for it are refused"
                    );
                }
            }
            self.attachment.change_view(|view| view.table = Arc::clone(&table));
            let id = self.attachment.id;
            self.order_all(|| Order::Namespaces { id, table: Arc::clone(&table) });
        }
        if attaching && let Life::Attaching(reply) = std::mem::replace(&mut self.life, Life::Attached) {
            // A caller who no longer waits lets go of the target in another way.
            let _ = reply.try_send(Ok(()));
        }
        self.waiters.retain(|waiter| {
            let answered = waiter.ticket.is_some_and(|asked| asked <= ticket);
            if answered {
                let _ = waiter.reply.try_send(Ok(()));
            }
            !answered
        });
        // Those who asked while there was no association.
        if self.waiters.iter().any(|waiter| waiter.ticket.is_none()) {
            let ticket = Some(self.controller.rescan(now));
            self.waiters.iter_mut().filter(|waiter| waiter.ticket.is_none()).for_each(|waiter| waiter.ticket = ticket);
        }
        self.connect_wanted();
    }

    /// The association is no more, or could not be made.
    fn lost(&mut self, error: &LinkError, now: Instant) {
        self.controller.lost(error, self.socket.stream());
        self.socket.close();
        let association = self.association.take();
        // One that had to wait for the last one has no I/O queues.
        if let Some(association) = &association
            && self.fence.take().is_none()
        {
            self.former.push(association.cntlid);
        }
        let was_associated = association.is_some();
        if was_associated || matches!(self.life, Life::Attached) {
            let id = self.attachment.id;
            self.order_all(|| Order::Disconnect { id, error: error.clone() });
        }
        match std::mem::replace(&mut self.life, Life::Over) {
            Life::Attaching(reply) => {
                let _ = reply.try_send(Err(self.unreachable(error)));
                self.attachment.set_state(ConnectionState::Closed);
            }
            Life::Closing { done, .. } => done.count_down(),
            Life::Over => {}
            Life::Attached => {
                self.life = Life::Attached;
                let delay = backoff(self.failures);
                self.failures = self.failures.saturating_add(1);
                self.retry_at = Some(now + delay);
                self.attachment.set_state(ConnectionState::Reconnecting(error.to_string()));
                self.waiters.iter_mut().for_each(|waiter| waiter.ticket = None);
                let (peer, host, retry_ms) =
                    (&self.attachment.target, &self.settings.host_nqn, delay.as_millis() as u64);
                match association {
                    Some(Association { cntlid, .. }) => tracing::warn!(
                        target: "nvferry::host", %peer, %host, cntlid = cntlid.0, reason = %error, retry_ms, "connection lost"
                    ),
                    None => tracing::debug!(
                        target: "nvferry::host", %peer, %host, reason = %error, retry_ms, "reconnect failed"
                    ),
                }
            }
        }
    }

    /// Why attaching failed, for the caller.
    fn unreachable(&self, error: &LinkError) -> EngineError {
        let kind = match error {
            LinkError::Refused { .. } | LinkError::NoSecret | LinkError::Auth(_) => ErrorKind::RejectHandshake,
            LinkError::Io(_) | LinkError::Closed | LinkError::GivenUp(_) => ErrorKind::Socket,
            _ => ErrorKind::Endpoint,
        };
        EngineError::new(kind, format!("cannot attach to {}: {error}", self.attachment.target))
    }

    /// The target is there now.
    pub(super) fn update(&mut self, destination: Destination, described: &Described, reply: Reply, now: Instant) {
        self.identities.learn(described);
        if destination != self.destination {
            tracing::info!(target: "nvferry::host", peer = %self.attachment.target, to = %destination.address, "the target moved");
            let subnqn = destination.subnqn.clone();
            self.destination = destination;
            self.lost(&LinkError::GivenUp("the target moved".into()), now);
            // Another target knows nothing of it.
            self.former.clear();
            self.controller = Controller::new(self.settings.clone(), subnqn, self.queues.len() as u32, now);
            self.failures = 0;
            self.retry_at = Some(now);
        }
        let ticket = self.controller.is_live().then(|| self.controller.rescan(now));
        self.waiters.push(ScanWaiter { ticket, reply });
    }

    /// A file was asked for that is not known.
    pub(super) fn rescan(&mut self, now: Instant) {
        if self.controller.is_live() {
            self.controller.rescan(now);
        }
    }

    /// The worker's number among those that may have a queue, counted from the attachment's first.
    fn rank(&self, worker: usize) -> usize {
        rank_of(worker, self.attachment.id.0, self.queues.len())
    }

    fn connect_queue(&mut self, worker: usize) {
        if self.fence.is_some() {
            return;
        }
        let Some(association) = &self.association else { return };
        let Some(pool) = self.pool.upgrade() else { return };
        let Some(seat) = pool.seat(worker) else { return };
        let (rank, id) = (self.rank(worker), self.attachment.id);
        let queues = self.attachment.with_view(|view| view.queues);
        if rank < queues {
            // Queue 0 is the admin queue. At most as many queues as workers, so 16 bits suffice.
            let qid = QueueId(rank as u16 + 1);
            let params = Arc::new(queue_params(association, &self.settings, &self.destination.subnqn, qid));
            seat.order(Order::Connect { id, address: self.destination.address, params });
        } else {
            seat.order(Order::Forward { id, to: worker_of(rank % queues, id.0, self.queues.len()) });
        }
        self.queues[worker].wanted = false;
    }

    /// A worker has slices and no queue.
    pub(super) fn queue_wanted(&mut self, worker: usize, now: Instant) {
        let Some(queue) = self.queues.get_mut(worker) else { return };
        queue.wanted = true;
        if queue.is_due(now) {
            self.connect_queue(worker);
        }
    }

    pub(super) fn queue_up(&mut self, worker: usize, now: Instant) {
        if let Some(queue) = self.queues.get_mut(worker) {
            queue.up(now);
        }
        let (qid, cntlid) = (self.rank(worker) + 1, self.association.as_ref().map(|it| it.cntlid.0));
        tracing::info!(target: "nvferry::host", peer = %self.attachment.target, cntlid, qid, worker, "queue connected");
    }

    /// A worker's queue broke; `worked` tells whether it had moved data.
    pub(super) fn queue_lost(&mut self, worker: usize, worked: bool, error: &LinkError, now: Instant) {
        let rank = self.rank(worker);
        let Some(queue) = self.queues.get_mut(worker) else { return };
        queue.lost(worked, now);
        if let Some(Association { cntlid, .. }) = &self.association {
            let (peer, qid) = (&self.attachment.target, rank + 1);
            tracing::warn!(
                target: "nvferry::host", %peer, cntlid = cntlid.0, qid, worker, reason = %error, "queue lost"
            );
        }
        let stale =
            matches!(error, LinkError::Refused { status, .. } if status.code == StatusCode::ConnectInvalidParameters);
        if stale && self.association.is_some() {
            // The target has forgotten the controller, perhaps by a restart that the admin queue has not seen yet.
            self.lost(error, now);
            self.failures = 0;
            self.retry_at.get_or_insert(now);
        }
    }

    /// Shuts the controller down.
    pub(super) fn close(&mut self, deadline: Instant, done: Arc<Latch>, now: Instant) {
        let deadline = deadline.min(now + SHUTDOWN_TIME);
        self.life = Life::Closing { deadline, done };
        self.waiters.clear();
        self.retry_at = None;
        if self.controller.is_live() && deadline > now {
            self.controller.shut_down(now);
        } else {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Life::Closing { done, .. } = std::mem::replace(&mut self.life, Life::Over) {
            self.controller.lost(&LinkError::GivenUp("the target was let go of".into()), None);
            self.socket.close();
            if let Some(association) = self.association.take()
                && self.fence.is_none()
            {
                self.former.push(association.cntlid);
            }
            self.attachment.set_state(ConnectionState::Closed);
            let (peer, host) = (&self.attachment.target, &self.settings.host_nqn);
            tracing::info!(target: "nvferry::host", %peer, %host, reason = "the segment was let go of", "disconnected");
            done.count_down();
        }
    }

    fn order_all(&self, order: impl FnMut() -> Order) {
        if let Some(pool) = self.pool.upgrade() {
            pool.order_all(order);
        }
    }
}

/// A worker's rank for an attachment: attachments begin with different workers, so that targets that grant few queues
/// don't all load the same.
pub(crate) fn rank_of(worker: usize, attachment: u32, workers: usize) -> usize {
    (worker + workers - attachment as usize % workers) % workers
}

/// The worker of a rank.
pub(crate) fn worker_of(rank: usize, attachment: u32, workers: usize) -> usize {
    (rank + attachment as usize) % workers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_workers_are_each_others_inverse() {
        for workers in 1..9 {
            for attachment in 0..20 {
                for worker in 0..workers {
                    let rank = rank_of(worker, attachment, workers);
                    assert!(rank < workers);
                    assert_eq!(worker_of(rank, attachment, workers), worker);
                }
            }
        }
    }
}
