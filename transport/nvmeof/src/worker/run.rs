//! What a worker does whenever it is driven: take what was handed over, move it, and say when it wants to be driven
//! next. Who drives it, and how that one sleeps, is [`super::seat`]'s business.

use super::inbox::{Inbox, Mail, Order};
use super::local_io::LocalIo;
use super::remote_lane::RemoteLane;
use super::{ENGINE_TOKEN, WAKE_TOKEN, WorkerPool, id_of};
use crate::attachment::{Attachment, AttachmentId, Latch};
use crate::host::local::LocalDevice;
use crate::host::userspace::control::ControlHandle;
use crate::host::userspace::queue_pair::Scratch;
use nvferry_engine::{Failure, Slice};
use nvferry_io::fast_paths::PathCounters;
use nvferry_io::poller::{Event, Poller};
use nvferry_io::{BufferPool, IoCompletion};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// What all targets of a worker share.
pub(super) struct Context {
    pub(super) worker: usize,
    pub(super) poller: Arc<Poller>,
    pub(super) scratch: Scratch,
    /// Bounce buffers.
    pub(super) pool: BufferPool,
    pub(super) control: ControlHandle,
    pub(super) local: LocalIo,
    /// Which paths data took.
    pub(super) taken: Arc<PathCounters>,
}

/// How a target's files are reached.
#[derive(Debug)]
enum Device {
    Remote(Box<RemoteLane>),
    Local(Box<LocalDevice>),
}

/// One target.
#[derive(Debug)]
struct Lane {
    attachment: Arc<Attachment>,
    device: Device,
    /// Another worker moves its slices.
    forward_to: Option<usize>,
    closing: Option<(Instant, Arc<Latch>)>,
    /// It stands in the list of those that have something to do.
    is_dirty: bool,
}

impl Lane {
    fn is_idle(&self) -> bool {
        match &self.device {
            Device::Remote(lane) => lane.queue.is_idle(),
            Device::Local(device) => device.is_idle(),
        }
    }

    fn load(&self) -> usize {
        match &self.device {
            Device::Remote(lane) => lane.queue.load(),
            Device::Local(device) => device.load(),
        }
    }

    fn submit(&mut self, slice: Slice) {
        match &mut self.device {
            Device::Remote(lane) => lane.queue.submit(slice),
            Device::Local(device) => device.submit(slice),
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let timer = match &self.device {
            Device::Remote(lane) => lane.queue.next_timer(),
            Device::Local(device) => device.next_timer(),
        };
        match (timer, &self.closing) {
            (Some(timer), Some((deadline, _))) => Some(timer.min(*deadline)),
            (timer, closing) => timer.or(closing.as_ref().map(|(deadline, _)| *deadline)),
        }
    }

    fn publish(&self, worker: usize) {
        let (counters, depths) = match &self.device {
            Device::Remote(lane) => (lane.queue.counters(), (lane.queue.in_flight(), lane.queue.waiting())),
            Device::Local(device) => (device.counters(), (device.in_flight(), device.waiting())),
        };
        self.attachment.publish(worker, counters, depths);
    }
}

/// When a worker wants to be driven again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// At once.
    None,
    /// When something is handed over or its poller tells of something, and at the given time at the latest.
    Until(Option<Instant>),
}

pub(super) struct Worker {
    context: Context,
    inbox: Arc<Inbox>,
    /// For handing slices to other workers.
    workers: Weak<WorkerPool>,
    mail: Mail,
    /// Scratch: ended operations on local files.
    completions: Vec<IoCompletion>,
    lanes: BTreeMap<AttachmentId, Lane>,
    /// Targets that have something to do.
    dirty: Vec<AttachmentId>,
    /// Scratch for the same.
    driving: Vec<AttachmentId>,
    /// No target's timer is before this.
    timer: Option<Instant>,
    stopping: bool,
}

impl Worker {
    pub(super) fn new(context: Context, inbox: Arc<Inbox>, workers: Weak<WorkerPool>) -> Self {
        Self {
            context,
            inbox,
            workers,
            mail: Mail::default(),
            completions: Vec::new(),
            lanes: BTreeMap::new(),
            dirty: Vec::new(),
            driving: Vec::new(),
            timer: None,
            stopping: false,
        }
    }

    /// Does all that can be done now.
    pub(super) fn work(&mut self, now: Instant) {
        self.take_mail(now);
        self.reap_local(now);
        if self.timer.is_some_and(|timer| timer <= now) {
            self.tick(now);
        }
        self.drive_dirty(now);
        self.context.local.flush();
        self.report_load();
    }

    /// When it wants to be driven again.
    pub(super) fn rest(&self) -> Rest {
        if !self.dirty.is_empty() || self.context.local.has_ended() { Rest::None } else { Rest::Until(self.timer) }
    }

    /// Whether slices wait or are under way.
    pub(super) fn is_loaded(&self) -> bool {
        self.lanes.values().any(|lane| lane.load() > 0)
    }

    /// Whether it has an engine of file I/O.
    pub(super) fn has_local_files(&self) -> bool {
        self.context.local.is_open()
    }

    /// Whether it was told to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Ends everything.
    pub(super) fn end(&mut self, now: Instant) {
        self.inbox.close();
        let left: Vec<_> = self.lanes.keys().copied().collect();
        left.into_iter().for_each(|id| self.forget(id, now));
    }

    /// Acts on what was handed over.
    fn take_mail(&mut self, now: Instant) {
        let mut mail = std::mem::take(&mut self.mail);
        self.inbox.take(&mut mail);
        for order in mail.orders.drain(..) {
            self.obey(order, now);
        }
        let mut slices = mail.slices.drain(..).peekable();
        while let Some((id, first)) = slices.next() {
            // Most slices go the same way as the one before.
            let rest = std::iter::from_fn(|| slices.next_if(|(next, _)| *next == id).map(|(_, slice)| slice));
            let run = std::iter::once(first).chain(rest);
            match self.lanes.get_mut(&id) {
                Some(Lane { forward_to: Some(to), .. }) => {
                    let to = *to;
                    forward(&self.workers, to, id, run);
                }
                Some(lane) => {
                    run.for_each(|slice| lane.submit(slice));
                    mark(&mut self.dirty, id, lane);
                }
                None => run.for_each(|slice| {
                    slice.fail(Failure::failed("it came after its segment was closed"));
                }),
            }
        }
        drop(slices);
        self.mail = mail;
    }

    fn obey(&mut self, order: Order, now: Instant) {
        match order {
            Order::OpenRemote(attachment) => {
                let device = Device::Remote(Box::new(RemoteLane::new(Arc::clone(&attachment), &self.context)));
                self.open(attachment, device);
            }
            Order::OpenLocal(attachment, files) => {
                if let Err(error) = self.context.local.open(&self.context.poller) {
                    // Slices will fail and say so.
                    tracing::error!(target: "nvferry::host", %error, "there is no I/O engine for local files");
                }
                let pool = self.context.pool.clone();
                let mut device = LocalDevice::new(attachment.id, files, pool);
                let latencies = attachment.latencies(self.context.worker);
                latencies.into_iter().for_each(|latencies| device.note_latencies_in(latencies));
                self.open(attachment, Device::Local(Box::new(device)));
            }
            Order::Connect { id, address, params } => self.with_lane(id, |lane, context| {
                lane.forward_to = None;
                if let Device::Remote(remote) = &mut lane.device {
                    remote.connect(address, params, context, now);
                }
            }),
            Order::Disconnect { id, error } => self.with_lane(id, |lane, context| {
                if let Device::Remote(remote) = &mut lane.device {
                    remote.disconnect(error, context, now);
                }
            }),
            Order::Namespaces { id, table } => self.with_lane(id, |lane, _| {
                if let Device::Remote(remote) = &mut lane.device {
                    remote.queue.set_namespaces(table);
                }
            }),
            Order::LocalFiles { id, files } => self.with_lane(id, |lane, _| {
                if let Device::Local(device) = &mut lane.device {
                    device.set_files(files);
                }
            }),
            Order::Forward { id, to } => {
                let workers = Weak::clone(&self.workers);
                self.with_lane(id, |lane, context| {
                    lane.forward_to = Some(to);
                    if let Device::Remote(remote) = &mut lane.device {
                        let slices = remote.evict(context, now);
                        forward(&workers, to, id, slices.into_iter());
                    }
                });
            }
            Order::Close { id, deadline, done } => {
                if !self.lanes.contains_key(&id) {
                    done.count_down();
                }
                self.with_lane(id, |lane, _| lane.closing = Some((deadline, done)));
                self.check_by(deadline);
            }
            Order::EndNow { id } => {
                self.with_lane(id, |lane, _| {
                    if let Some((deadline, _)) = &mut lane.closing {
                        *deadline = now;
                    }
                });
                self.check_by(now);
            }
            Order::Stop => self.stopping = true,
        }
    }

    fn open(&mut self, attachment: Arc<Attachment>, device: Device) {
        let lane = Lane { attachment, device, forward_to: None, closing: None, is_dirty: false };
        self.lanes.insert(lane.attachment.id, lane);
    }

    /// Does something to a target, which then has something to do.
    fn with_lane(&mut self, id: AttachmentId, act: impl FnOnce(&mut Lane, &mut Context)) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            act(lane, &mut self.context);
            mark(&mut self.dirty, id, lane);
        }
    }

    /// Lets all targets that have something to do, do it.
    fn drive_dirty(&mut self, now: Instant) {
        std::mem::swap(&mut self.dirty, &mut self.driving);
        let mut driving = std::mem::take(&mut self.driving);
        for id in driving.drain(..) {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            lane.is_dirty = false;
            let more = match &mut lane.device {
                Device::Remote(remote) => remote.drive(&mut self.context, now),
                Device::Local(device) => device.drive(&mut self.context.local, now),
            };
            if more {
                mark(&mut self.dirty, id, lane);
            }
            lane.publish(self.context.worker);
            let timer = lane.next_timer();
            if lane.closing.is_some() && lane.is_idle() {
                self.forget(id, now);
            }
            timer.into_iter().for_each(|timer| self.check_by(timer));
        }
        self.driving = driving;
    }

    /// Looks at all deadlines.
    fn tick(&mut self, now: Instant) {
        self.timer = None;
        let mut over = Vec::new();
        for (&id, lane) in &mut self.lanes {
            match &mut lane.device {
                Device::Remote(remote) => remote.tick(&mut self.context, now),
                Device::Local(device) => device.tick(now),
            }
            mark(&mut self.dirty, id, lane);
            if lane.closing.as_ref().is_some_and(|(deadline, _)| *deadline <= now) {
                over.push(id);
            }
        }
        over.into_iter().for_each(|id| self.forget(id, now));
    }

    /// Ends what is left of a target, and forgets it.
    fn forget(&mut self, id: AttachmentId, now: Instant) {
        let Some(mut lane) = self.lanes.remove(&id) else { return };
        let why = || Failure::canceled("its segment was closed before it was done");
        match &mut lane.device {
            Device::Remote(remote) => remote.close(&mut self.context, now, why),
            Device::Local(device) => device.close(why),
        }
        lane.publish(self.context.worker);
        if let Some((_, done)) = lane.closing {
            done.count_down();
        }
    }

    fn check_by(&mut self, at: Instant) {
        self.timer = Some(self.timer.map_or(at, |timer| timer.min(at)));
    }

    /// Hands what local files' operations gave back to their targets.
    fn reap_local(&mut self, now: Instant) {
        self.context.local.reap(&mut self.completions);
        if self.completions.is_empty() {
            return;
        }
        for completion in self.completions.drain(..) {
            // An operation whose target is forgotten only gives its memory back.
            if let Some(lane) = self.lanes.get_mut(&LocalDevice::owner(&completion))
                && let Device::Local(device) = &mut lane.device
            {
                device.completed(completion, now);
            }
        }
        // There is room for operations again, whosever these were.
        for (&id, lane) in &mut self.lanes {
            if matches!(lane.device, Device::Local(_)) && lane.load() > 0 || lane.closing.is_some() {
                mark(&mut self.dirty, id, lane);
            }
        }
    }

    fn report_load(&self) {
        self.inbox.set_load(self.lanes.values().map(Lane::load).sum());
    }

    /// Takes note of what the poller told.
    pub(super) fn note(&mut self, events: impl Iterator<Item = Event>) {
        for event in events {
            if event.token == WAKE_TOKEN || event.token == ENGINE_TOKEN {
                continue;
            }
            let id = id_of(event.token);
            if let Some(lane) = self.lanes.get_mut(&id) {
                if let Device::Remote(remote) = &mut lane.device {
                    remote.event(&event);
                }
                mark(&mut self.dirty, id, lane);
            }
        }
    }
}

#[cfg(feature = "simulation")]
impl Worker {
    /// What it holds, for a simulation that looks for what was not given back.
    pub(super) fn holdings(&self) -> crate::simulation::Holdings {
        let mut holdings = crate::simulation::Holdings {
            bounce_bytes: self.context.pool.stats().in_use_bytes,
            ..crate::simulation::Holdings::default()
        };
        for lane in self.lanes.values() {
            holdings.slices += lane.load();
            if let Device::Remote(remote) = &lane.device {
                holdings.commands += remote.queue.in_flight();
            }
        }
        holdings
    }
}

/// Puts a target on the list of those that have something to do.
fn mark(dirty: &mut Vec<AttachmentId>, id: AttachmentId, lane: &mut Lane) {
    if !std::mem::replace(&mut lane.is_dirty, true) {
        dirty.push(id);
    }
}

fn forward(workers: &Weak<WorkerPool>, to: usize, id: AttachmentId, slices: impl Iterator<Item = Slice>) {
    // Without the pool nobody is left; dropped slices end as failed.
    if let Some(workers) = workers.upgrade()
        && let Some(seat) = workers.seat(to)
    {
        seat.put(id, slices);
    }
}
