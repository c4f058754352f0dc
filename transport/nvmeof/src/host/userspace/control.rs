//! The control thread: runs the admin queues of all targets of a transport, away from the workers.
//!
//! It makes and keeps up the [sessions](super::session), hands workers what they need to connect their I/O queues, and
//! hears from them when those break. When nothing is due it sleeps.

use super::left_behind::LeftBehind;
use super::link::LinkError;
use super::session::Session;
use crate::attachment::{Attachment, AttachmentId, Latch};
use crate::config::HostSettings;
use crate::host::identity::Described;
use crate::worker::WeakPool;
use nvferry_engine::EngineError;
use nvferry_io::poller::{Event, Events, Poller, Sleeper, Waker};
use nvferry_wire::Nqn;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::Instant;

/// The poller's token of the waker.
const WAKE_TOKEN: u64 = u64::MAX;

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) address: SocketAddr,
    pub(crate) subnqn: Nqn,
}

/// Tells a caller how it went. It has room for one answer, and may be dropped.
pub(crate) type Reply = SyncSender<Result<(), EngineError>>;

/// What the control thread is told.
#[derive(Debug)]
pub(crate) enum ControlMessage {
    /// Connect to a target.
    Attach {
        attachment: Arc<Attachment>,
        destination: Destination,
        /// Which files its namespaces are.
        described: Described,
        settings: HostSettings,
        pool: WeakPool,
        reply: Reply,
    },
    /// The target is there now. Answered when it is connected, and its namespaces have been looked at.
    Update { id: AttachmentId, destination: Destination, described: Described, reply: Reply },
    /// A file was asked for that is not known: look again.
    Rescan { id: AttachmentId },
    /// A worker has slices and no I/O queue.
    QueueWanted { id: AttachmentId, worker: usize },
    /// A worker's I/O queue stands.
    QueueUp { id: AttachmentId, worker: usize },
    /// A worker's I/O queue broke, or could not be made.
    QueueLost { id: AttachmentId, worker: usize, worked: bool, error: LinkError },
    /// Shut the controller down, by the deadline, and forget the target.
    Close { id: AttachmentId, deadline: Instant, done: Arc<Latch> },
    /// End.
    Stop,
}

/// The way to the control thread.
#[derive(Debug, Clone)]
pub(crate) struct ControlHandle {
    inbox: Arc<Mutex<Vec<ControlMessage>>>,
    waker: Waker,
}

impl ControlHandle {
    pub(crate) fn send(&self, message: ControlMessage) {
        self.inbox.lock().push(message);
        self.waker.wake();
    }
}

/// The control thread.
#[derive(Debug)]
pub(crate) struct Control {
    handle: ControlHandle,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Control {
    /// Starts it, named `nvferry-host-ctl`.
    ///
    /// # Errors
    /// When a thread or descriptors cannot be had.
    pub(crate) fn start() -> io::Result<Self> {
        let (waker, sleeper) = Waker::new()?;
        let poller = Poller::new()?;
        poller.add_sleeper(&sleeper, WAKE_TOKEN)?;
        let handle = ControlHandle { inbox: Arc::default(), waker };
        let inbox = Arc::clone(&handle.inbox);
        let events = Events::with_capacity(64);
        let loop_ = ControlLoop {
            inbox,
            poller,
            sleeper,
            events,
            sessions: BTreeMap::new(),
            left_behind: LeftBehind::default(),
        };
        #[cfg(feature = "simulation")]
        let Some(loop_) = crate::simulation::adopt_control(loop_) else {
            return Ok(Self { handle, thread: Mutex::default() });
        };
        let thread = std::thread::Builder::new().name("nvferry-host-ctl".into()).spawn(move || loop_.run())?;
        Ok(Self { handle, thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn handle(&self) -> &ControlHandle {
        &self.handle
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        self.handle.send(ControlMessage::Stop);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(target: "nvferry::host", "the control thread panicked");
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) struct ControlLoop {
    inbox: Arc<Mutex<Vec<ControlMessage>>>,
    poller: Poller,
    sleeper: Sleeper,
    events: Events,
    sessions: BTreeMap<AttachmentId, Session>,
    left_behind: LeftBehind,
}

impl ControlLoop {
    fn run(mut self) {
        while self.work(Instant::now()) {
            if self.sleeper.prepare_sleep() {
                let timer = self.next_timer();
                let timeout = timer.map(|timer| timer.saturating_duration_since(Instant::now()));
                if let Err(error) = self.poller.wait(&mut self.events, timeout) {
                    tracing::error!(target: "nvferry::host", %error, "the control thread cannot wait for its sockets");
                }
                self.sleeper.woke();
                for event in self.events.iter() {
                    note(&mut self.sessions, &event);
                }
            }
        }
    }

    /// Does all that is due; `false` when it was told to end.
    fn work(&mut self, now: Instant) -> bool {
        let messages = std::mem::take(&mut *self.inbox.lock());
        for message in messages {
            if matches!(message, ControlMessage::Stop) {
                return false;
            }
            self.act(message, now);
        }
        for session in self.sessions.values_mut() {
            session.tick(&self.poller, now);
        }
        let left_behind = &mut self.left_behind;
        self.sessions.retain(|_, session| {
            let is_over = session.is_over();
            if is_over {
                session.leave(left_behind, now);
            }
            !is_over
        });
        true
    }

    /// When something is due next.
    fn next_timer(&self) -> Option<Instant> {
        self.sessions.values().filter_map(Session::next_timer).min()
    }

    fn act(&mut self, message: ControlMessage, now: Instant) {
        match message {
            ControlMessage::Attach { attachment, destination, described, settings, pool, reply } => {
                let id = attachment.id;
                let left = self.left_behind.of(&destination, now);
                let mut session = Session::new(attachment, destination, &described, settings, pool, reply, now);
                session.wait_for(left);
                self.sessions.insert(id, session);
            }
            ControlMessage::Update { id, destination, described, reply } => match self.sessions.get_mut(&id) {
                Some(session) => session.update(destination, &described, reply, now),
                // The caller sees that nobody answers.
                None => drop(reply),
            },
            ControlMessage::Rescan { id } => self.with(id, |session| session.rescan(now)),
            ControlMessage::QueueWanted { id, worker } => self.with(id, |session| session.queue_wanted(worker, now)),
            ControlMessage::QueueUp { id, worker } => self.with(id, |session| session.queue_up(worker, now)),
            ControlMessage::QueueLost { id, worker, worked, error } => {
                self.with(id, |session| session.queue_lost(worker, worked, &error, now));
            }
            ControlMessage::Close { id, deadline, done } => match self.sessions.get_mut(&id) {
                Some(session) => session.close(deadline, done, now),
                None => done.count_down(),
            },
            ControlMessage::Stop => {}
        }
    }

    fn with(&mut self, id: AttachmentId, act: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&id) {
            act(session);
        }
    }
}

/// The poller told of a session's socket.
fn note(sessions: &mut BTreeMap<AttachmentId, Session>, event: &Event) {
    // Tokens of sockets were made from 32 bits; the waker's names no session.
    if let Some(session) = sessions.get_mut(&AttachmentId(event.token as u32))
        && event.token != WAKE_TOKEN
    {
        session.ready(event);
    }
}

#[cfg(feature = "simulation")]
impl ControlLoop {
    /// One turn, for a simulation; `None` when it has ended, otherwise when the next one is due.
    pub(crate) fn turn(&mut self, now: Instant, events: &[Event]) -> Option<Option<Instant>> {
        events.iter().for_each(|event| note(&mut self.sessions, event));
        self.work(now).then(|| self.next_timer())
    }

    /// Whether somebody wants it to look, since this was last asked.
    pub(crate) fn is_rung(&self) -> bool {
        self.sleeper.woke()
    }

    /// The descriptor of its poller, which tells whose sockets are whose.
    pub(crate) fn poller_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::{AsFd, AsRawFd};
        self.poller.as_fd().as_raw_fd()
    }
}
