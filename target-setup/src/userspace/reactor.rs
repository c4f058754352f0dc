//! A reactor: the thread that drives a worker. It waits for sockets, the engine and other threads, and knows the time.

use super::connection::{Connection, Ends};
use super::counters::count;
use super::limits;
use super::mailbox::Mailbox;
use super::subsystem::Subsystem;
use super::worker::Worker;
use nvferry_io::fast_paths::Path;
use nvferry_io::poller::{AdaptiveSpin, Events, Interest, Poller, Sleeper, Trigger};
use nvferry_io::stream::{Listener, TcpStream};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LISTENER: u64 = u64::MAX;
const SLEEPER: u64 = u64::MAX - 1;
const ENGINE: u64 = u64::MAX - 2;
/// Events of one wait.
const EVENTS: usize = 256;

/// A connection that comes to a reactor.
pub(crate) enum Arrival {
    /// It was just accepted.
    Accepted(TcpStream, Ends),
    /// It was connected as a queue on another reactor.
    Moved(Box<Connection<TcpStream>>),
}

/// How connections get to a reactor.
pub(crate) struct Inbox {
    arrivals: Mutex<Vec<Arrival>>,
    pub(crate) mailbox: Arc<Mailbox>,
}

impl Inbox {
    pub(crate) fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { arrivals: Mutex::default(), mailbox }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arrival>> {
        // A push or a take is whole before anything that could panic.
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, arrival: Arrival) {
        self.lock().push(arrival);
        self.mailbox.wake();
    }

    fn take(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.lock())
    }
}

/// What the target and all its reactors share about running and stopping.
pub(crate) struct Shared {
    pub(crate) subsystem: Arc<Subsystem>,
    pub(crate) inboxes: Vec<Inbox>,
    /// The reactor for the next new connection.
    next_reactor: AtomicUsize,
    /// Stop at once, whatever is under way.
    forced: AtomicBool,
    running: Mutex<Running>,
    /// Notified when a reactor has ended.
    ended: Condvar,
}

struct Running {
    reactors: usize,
    /// Commands that reactors gave up when they were forced to end.
    given_up: u64,
}

impl Shared {
    pub(crate) fn new(subsystem: Arc<Subsystem>, inboxes: Vec<Inbox>) -> Self {
        let running = Running { reactors: inboxes.len(), given_up: 0 };
        Self {
            subsystem,
            inboxes,
            next_reactor: AtomicUsize::new(0),
            forced: AtomicBool::new(false),
            running: Mutex::new(running),
            ended: Condvar::new(),
        }
    }

    pub(crate) fn wake_all(&self) {
        for inbox in &self.inboxes {
            inbox.mailbox.wake();
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // Counters only; whole at any time.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets no more commands in, and lets those under way end.
    pub(crate) fn drain(&self) {
        self.subsystem.draining.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Ends everything at once.
    pub(crate) fn force(&self) {
        self.forced.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Waits until all reactors have ended, and tells whether that came about by the deadline.
    pub(crate) fn wait_ended(&self, deadline: Instant) -> bool {
        let mut running = self.running();
        while running.reactors > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            running = self.ended.wait_timeout(running, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Commands that were given up.
    pub(crate) fn given_up(&self) -> u64 {
        self.running().given_up
    }
}

/// A thread that serves connections.
pub(crate) struct Reactor {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: Worker<TcpStream>,
    poller: Poller,
    sleeper: Sleeper,
    events: Events,
    listener: Option<Listener>,
    /// The listener rests until then.
    accept_again: Option<Instant>,
    /// What each connection's socket is registered for.
    interests: Vec<Option<Interest>>,
    /// An empty list whose room is used again.
    touched: Vec<u32>,
    spin: AdaptiveSpin,
    end: EndGuard,
}

/// Counts a reactor as ended when it ends, also by a panic or because its thread could not be started.
struct EndGuard {
    shared: Arc<Shared>,
    busy: u64,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let mut running = self.shared.running();
        running.reactors -= 1;
        running.given_up += self.busy;
        self.shared.ended.notify_all();
    }
}

impl Reactor {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        worker: Worker<TcpStream>,
        sleeper: Sleeper,
        listener: Option<Listener>,
        spin: AdaptiveSpin,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add_sleeper(&sleeper, SLEEPER)?;
        poller.add(worker.core.engine.wake_fd(), ENGINE, Interest::READ, Trigger::Level)?;
        if let Some(listener) = &listener {
            poller.add(listener.as_fd(), LISTENER, Interest::READ, Trigger::Level)?;
        }
        let end = EndGuard { shared: Arc::clone(&shared), busy: 0 };
        Ok(Self {
            index,
            shared,
            end,
            worker,
            poller,
            sleeper,
            events: Events::with_capacity(EVENTS),
            listener,
            accept_again: None,
            interests: Vec::new(),
            touched: Vec::new(),
            spin,
        })
    }

    /// Serves until the target is stopped.
    pub(crate) fn run(mut self) {
        nvferry_io::pages::survive_broken_connections();
        loop {
            self.worker.settle(Instant::now());
            self.send_away();
            self.register();
            if self.is_over() {
                break;
            }
            self.sleep();
            self.take_events();
        }
        self.end.busy = self.worker.busy() as u64;
        // The listener and the sockets close first, and the reactor counts as ended, whatever the engine still waits for.
        self.listener = None;
        self.worker.close_all();
        let Self { end, worker, .. } = self;
        drop(end);
        drop(worker);
    }

    fn is_over(&self) -> bool {
        let drained = self.shared.subsystem.is_draining()
            && self.worker.len() == 0
            && self.shared.inboxes[self.index].lock().is_empty();
        drained || self.shared.forced.load(Ordering::Acquire)
    }

    /// Waits for something to do: looks for it a while where that has paid, once each time that something came, and
    /// then sleeps.
    fn sleep(&mut self) {
        if !self.events.is_empty() && self.spin() {
            return;
        }
        let now = Instant::now();
        let next = [self.worker.next_deadline(), self.accept_again].into_iter().flatten().min();
        let mut timeout = next.map(|next| next.saturating_duration_since(now));
        let sleeping = self.sleeper.prepare_sleep();
        if !sleeping {
            timeout = Some(Duration::ZERO);
        }
        self.poll(timeout);
        if sleeping {
            self.sleeper.woke();
        }
    }

    /// Tells whether something came.
    fn spin(&mut self) -> bool {
        let budget = self.spin.budget();
        if budget.is_zero() {
            return false;
        }
        self.worker.core.taken.add(Path::Spins, 1);
        let until = Instant::now() + budget;
        loop {
            self.poll(Some(Duration::ZERO));
            let found = !self.events.is_empty();
            if found || Instant::now() >= until {
                self.spin.ended(found);
                return found;
            }
        }
    }

    fn poll(&mut self, timeout: Option<Duration>) {
        if let Err(error) = self.poller.wait(&mut self.events, timeout) {
            tracing::error!(target: "nvferry::target", %error, "a reactor cannot wait for its sockets");
        }
    }

    fn take_events(&mut self) {
        let now = Instant::now();
        let mut incoming = false;
        for event in self.events.iter() {
            match event.token {
                LISTENER => incoming = true,
                // The worker looks after its engine and its mail in any case.
                SLEEPER | ENGINE => {}
                index => {
                    // Tokens of connections are their places, 32 bits.
                    let index = index as u32;
                    if event.writable {
                        self.worker.on_writable(index, now);
                    }
                    if event.readable {
                        self.worker.on_readable(index, now);
                    }
                }
            }
        }
        if incoming || self.accept_again.is_some_and(|again| again <= now) {
            self.accept(now);
        }
        for arrival in self.shared.inboxes[self.index].take() {
            match arrival {
                Arrival::Accepted(stream, ends) => self.worker.accept(stream, ends, now),
                Arrival::Moved(connection) => self.worker.adopt(connection, now),
            };
        }
        self.worker.on_mail(now);
        self.worker.on_time(now);
        if self.shared.subsystem.is_draining() {
            self.listener = None;
            self.accept_again = None;
        }
    }

    /// Takes waiting connections, and deals them out to the reactors.
    fn accept(&mut self, now: Instant) {
        let Some(listener) = &self.listener else { return };
        if self.accept_again.take().is_some() {
            // It was taken out for a rest.
            let _ = self.poller.add(listener.as_fd(), LISTENER, Interest::READ, Trigger::Level);
        }
        for _ in 0..limits::ACCEPTS_PER_TURN {
            match listener.accept() {
                Ok(None) => return,
                Ok(Some((stream, peer))) => {
                    let subsystem = &self.shared.subsystem;
                    // Strangers that have to go are closed by their reactors: this counts where these do not keep up.
                    let max = subsystem.max_connections.saturating_add(2 * limits::MAX_STRANGERS);
                    if subsystem.connections.fetch_add(1, Ordering::Relaxed) >= max {
                        subsystem.connections.fetch_sub(1, Ordering::Relaxed);
                        count(&subsystem.faults.refused_connections);
                        tracing::warn!(target: "nvferry::target", %peer, max, "closed a connection: there are too many");
                        continue;
                    }
                    count(&subsystem.faults.accepted_connections);
                    let ends = Ends { peer: Some(peer), local: stream.local_addr().ok() };
                    let to = self.shared.next_reactor.fetch_add(1, Ordering::Relaxed) % self.shared.inboxes.len();
                    self.shared.inboxes[to].push(Arrival::Accepted(stream, ends));
                }
                Err(error) => {
                    tracing::warn!(target: "nvferry::target", %error, "cannot accept connections for the moment");
                    let _ = self.poller.remove(listener.as_fd());
                    self.accept_again = Some(now + limits::ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Sends queues to the reactors that they are to live on.
    fn send_away(&mut self) {
        for (to, connection) in self.worker.departures() {
            if let Some(slot) = self.interests.get_mut(connection.key.index as usize)
                && slot.take().is_some()
                && let Some(stream) = &connection.stream
            {
                let _ = self.poller.remove(stream.as_fd());
            }
            self.shared.inboxes[to].push(Arrival::Moved(connection));
        }
    }

    /// Registers sockets for what their connections want now.
    fn register(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        self.worker.touched(&mut touched);
        for index in touched.drain(..) {
            let place = index as usize;
            if place >= self.interests.len() {
                self.interests.resize(place + 1, None);
            }
            let connection = self.worker.connection(index);
            let Some((connection, stream)) = connection.and_then(|it| Some((it, it.stream.as_ref()?))) else {
                // A closed socket has left the poller by itself.
                self.interests[place] = None;
                continue;
            };
            let wanted = Interest { read: connection.wants_read(), write: connection.wants_write() };
            let registered = match self.interests[place] {
                Some(now) if now == wanted => continue,
                Some(_) => self.poller.modify(stream.as_fd(), index.into(), wanted, Trigger::Level),
                None => self.poller.add(stream.as_fd(), index.into(), wanted, Trigger::Level),
            };
            match registered {
                Ok(()) => self.interests[place] = Some(wanted),
                Err(error) => {
                    tracing::error!(target: "nvferry::target", %error, "cannot wait for a connection; its deadline will end it")
                }
            }
        }
        self.touched = touched;
    }
}
