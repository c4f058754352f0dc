//! The scheduler: virtual time, one queue of events, and everybody's turns.
//!
//! Threads become parts that take turns: when their waker was used, one of their sockets is ready, or their timer is due,
//! and a little later than that, as threads are. So a wake-up that is forgotten is missed here, too.

use crate::app::App;
use crate::machines::{HostMachine, HostPart, TargetMachine};
use crate::metadata::Store;
use crate::model::{Model, WriteId};
use crate::net::{Connection, HostEnd, Way, latency};
use crate::plan::{MS, Plan, SECOND, US};
use crate::random::{Random, mix};
use nvferry_io::simulation::{SimulatedFile, Socket, World};
use nvferry_nvmeof::simulation::{Next, take_started};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Something that takes turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Actor {
    /// A thread of a host.
    Part { host: usize, part: usize },
    /// A reactor of a target, in one of that target's lives.
    Reactor { target: usize, life: u32, reactor: usize },
}

/// What happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// Somebody takes a turn.
    Turn(Actor),
    /// A connection is made, or not.
    Connect { connection: usize },
    /// Bytes arrive.
    Deliver { connection: usize, to_target: bool },
    /// The kernels take each other for dead.
    TakenForDead { connection: usize },
    /// A step of an operation on storage ends.
    Storage { target: usize, life: u32, reactor: usize, operation: usize },
    /// A target starts.
    Start { target: usize },
    /// A target is told to end.
    Stop { target: usize },
    /// A target that was told to end has had the time for it.
    StopNow { target: usize, life: u32, must_end: bool },
    /// Something may go wrong.
    Chaos,
    /// A host's application does something, or only looks at what it has under way.
    App { host: usize, acts: bool },
    /// A host other than ours comes, so many times more.
    Stranger { times: u64 },
    /// A host that must not get in tries it, so many times more.
    Intruder { host: usize, times: u64 },
    /// Nothing goes wrong from here on.
    Heal,
}

impl Event {
    fn code(self) -> u64 {
        match self {
            Self::Turn(Actor::Part { host, part }) => 1 << 56 | (host as u64) << 8 | part as u64,
            Self::Turn(Actor::Reactor { target, life, reactor }) => {
                2 << 56 | u64::from(life) << 16 | (target as u64) << 8 | reactor as u64
            }
            Self::Connect { connection } => 3 << 56 | connection as u64,
            Self::Deliver { connection, to_target } => 4 << 56 | (connection as u64) << 1 | u64::from(to_target),
            Self::Storage { target, reactor, operation, .. } => {
                5 << 56 | (target as u64) << 32 | (reactor as u64) << 24 | operation as u64
            }
            Self::Start { target } => 6 << 56 | target as u64,
            Self::Chaos => 7 << 56,
            Self::App { host, acts } => 8 << 56 | (host as u64) << 1 | u64::from(acts),
            Self::Stranger { times } => 14 << 56 | times,
            Self::Intruder { host, .. } => 13 << 56 | host as u64,
            Self::Heal => 9 << 56,
            Self::Stop { target } => 12 << 56 | target as u64,
            Self::StopNow { target, life, .. } => 11 << 56 | u64::from(life) << 16 | target as u64,
            Self::TakenForDead { connection } => 10 << 56 | connection as u64,
        }
    }
}

/// When a kernel takes a silent peer for dead, at the latest: as the default of `TcpOptions` says.
const DEAD_AFTER: u64 = 15 * SECOND;

/// The most events of one simulation: one that goes on for longer than that spins.
const MAX_EVENTS: u64 = 3_000_000;

/// A simulated world.
pub(crate) struct Sim {
    /// What the seed means.
    pub(crate) plan: Plan,
    base: Instant,
    now: Cell<u64>,
    queue: RefCell<BinaryHeap<Reverse<(u64, u64, Event)>>>,
    sequence: Cell<u64>,
    events: Cell<u64>,
    trace: Cell<u64>,
    /// Whoever needs chance takes it from here.
    pub(crate) random: RefCell<Random>,
    /// The wire.
    pub(crate) net: RefCell<Vec<Connection>>,
    /// Connections on which something can still happen.
    pub(crate) live: RefCell<Vec<usize>>,
    /// Machines that read and write.
    pub(crate) hosts: RefCell<Vec<HostMachine>>,
    /// Machines that hold files.
    pub(crate) targets: RefCell<Vec<TargetMachine>>,
    /// Whose sockets are told of by which poller: the host and the part.
    pollers: RefCell<BTreeMap<RawFd, (usize, usize)>>,
    /// The targets' files.
    pub(crate) files: RefCell<BTreeMap<PathBuf, SimulatedFile>>,
    /// The application's thread that calls now, where that is not left to chance.
    pub(crate) thread: Cell<Option<usize>>,
    /// The host whose application calls its engine.
    pub(crate) calling: Cell<usize>,
    /// Somebody waits within a call: applications pause.
    nested: Cell<u32>,
    deferred: RefCell<Vec<Event>>,
    /// Faults are over.
    pub(crate) healed: Cell<bool>,
    /// What went wrong.
    pub(crate) failure: RefCell<Option<String>>,
    /// What the files may hold, by number.
    pub(crate) models: RefCell<Vec<Model>>,
    writes: Cell<WriteId>,
    /// Targets that lost power, and when.
    pub(crate) power_losses: RefCell<Vec<(usize, u64)>>,
    /// Applications, but for the one that acts.
    pub(crate) apps: RefCell<Vec<Option<App>>>,
    /// The metadata service.
    pub(crate) store: Arc<Store>,
}

impl Sim {
    /// A world without machines.
    #[must_use]
    pub(crate) fn new(plan: Plan, mut random: Random) -> Self {
        let store = Store::new(plan.metadata.clone(), random.fork());
        Self {
            store,
            models: RefCell::default(),
            writes: Cell::new(0),
            power_losses: RefCell::default(),
            apps: RefCell::default(),
            plan,
            base: Instant::now(),
            now: Cell::new(0),
            queue: RefCell::default(),
            sequence: Cell::new(0),
            events: Cell::new(0),
            trace: Cell::new(0),
            random: RefCell::new(random),
            net: RefCell::default(),
            live: RefCell::default(),
            hosts: RefCell::default(),
            targets: RefCell::default(),
            pollers: RefCell::default(),
            files: RefCell::default(),
            thread: Cell::new(None),
            calling: Cell::new(0),
            nested: Cell::new(0),
            deferred: RefCell::default(),
            healed: Cell::new(false),
            failure: RefCell::default(),
        }
    }

    /// Nanoseconds since the beginning.
    #[must_use]
    pub(crate) fn now_ns(&self) -> u64 {
        self.now.get()
    }

    /// That many nanoseconds since the beginning, as an instant.
    #[must_use]
    pub(crate) fn at(&self, ns: u64) -> Instant {
        self.base + Duration::from_nanos(ns)
    }

    fn ns(&self, instant: Instant) -> u64 {
        // Fewer than 584 years.
        instant.saturating_duration_since(self.base).as_nanos() as u64
    }

    /// A hash of all that happened.
    #[must_use]
    pub(crate) fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Events so far.
    #[must_use]
    pub(crate) fn events(&self) -> u64 {
        self.events.get()
    }

    /// Notes something in the trace.
    pub(crate) fn note(&self, what: u64) {
        self.trace.set(mix(self.trace.get() ^ what).wrapping_add(self.now.get()));
    }

    /// Notes that something is wrong; the first such thing counts.
    pub(crate) fn fail(&self, what: String) {
        let mut failure = self.failure.borrow_mut();
        if failure.is_none() {
            *failure = Some(format!("at {:.6} s: {what}", self.now.get() as f64 / 1e9));
        }
    }

    /// Whether something was wrong.
    #[must_use]
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// A write that there was none of before.
    pub(crate) fn next_write(&self) -> WriteId {
        self.writes.set(self.writes.get() + 1);
        self.writes.get()
    }

    /// The last one of them.
    #[must_use]
    pub(crate) fn last_write(&self) -> WriteId {
        self.writes.get()
    }

    /// Lets something happen in `after` nanoseconds.
    pub(crate) fn schedule(&self, after: u64, event: Event) {
        self.sequence.set(self.sequence.get() + 1);
        self.queue.borrow_mut().push(Reverse((self.now.get() + after, self.sequence.get(), event)));
    }

    /// Lets the next thing happen, unless that is later than `until`. Tells whether something did.
    pub(crate) fn step(&self, until: u64) -> bool {
        let event = {
            let mut queue = self.queue.borrow_mut();
            match queue.peek() {
                Some(Reverse((at, _, _))) if *at <= until => queue.pop(),
                _ => None,
            }
        };
        let Some(Reverse((at, _, event))) = event else { return false };
        self.now.set(at);
        self.events.set(self.events.get() + 1);
        if self.events.get() > MAX_EVENTS {
            self.fail("too many events: somebody spins".into());
        }
        if self.nested.get() > 0 && matches!(event, Event::App { .. } | Event::Intruder { .. } | Event::Stranger { .. })
        {
            self.deferred.borrow_mut().push(event);
            return true;
        }
        self.happen(event);
        true
    }

    /// Lets the world go on for so long, whatever happens.
    pub(crate) fn run_for(&self, time: u64) {
        let until = self.now.get() + time;
        while !self.has_failed() && self.step(until) {}
        self.now.set(self.now.get().max(until));
    }

    fn happen(&self, event: Event) {
        match event {
            Event::Turn(actor) => {
                if !self.turn(actor) {
                    return;
                }
            }
            Event::Connect { connection } => self.connect_now(connection),
            Event::Deliver { connection, to_target } => {
                let way = if to_target { Way::ToTarget } else { Way::ToHost };
                let late_until = self.net.borrow()[connection].late_until(way);
                if late_until > self.now.get() {
                    return self.schedule(late_until - self.now.get(), event);
                }
                let (arrived, owner) = {
                    let connection = &mut self.net.borrow_mut()[connection];
                    (
                        connection.deliver(way, &self.plan.wire, &mut self.random.borrow_mut(), self.healed.get()),
                        connection.owner,
                    )
                };
                if way == Way::ToHost && arrived > 0 {
                    self.tell(owner, connection);
                }
            }
            Event::TakenForDead { connection } => self.net.borrow()[connection].is_taken_for_dead(),
            Event::Storage { target, life, reactor, operation } => self.storage(target, life, reactor, operation),
            Event::Start { target } => self.start_target(target),
            Event::Stop { target } => self.stop(target, crate::run::DRAIN),
            Event::StopNow { target, life, must_end } => self.stop_now(target, life, must_end),
            Event::Chaos => self.chaos(),
            Event::App { host, acts } => self.app(host, acts),
            Event::Stranger { times } => self.stranger(times),
            Event::Intruder { host, times } => self.intrude(host, times),
            Event::Heal => self.heal(),
        }
        self.note(event.code());
        tracing::trace!(now = self.now.get(), ?event);
        self.look_around();
    }

    /// The connections that hosts have open.
    pub(crate) fn open_connections(&self) -> Vec<usize> {
        let net = self.net.borrow();
        self.live.borrow().iter().copied().filter(|&index| net[index].is_open()).collect()
    }

    /// A part's poller has something to tell of a connection.
    pub(crate) fn tell(&self, owner: (usize, usize), connection: usize) {
        if let Some(part) = self.hosts.borrow_mut()[owner.0].parts.get_mut(owner.1)
            && !part.news.contains(&connection)
        {
            part.news.push(connection);
        }
        self.wake(Actor::Part { host: owner.0, part: owner.1 });
    }

    /// Sees who has something to do.
    fn look_around(&self) {
        let started = take_started();
        if !started.is_empty() {
            let host = self.calling.get();
            let parts = &mut self.hosts.borrow_mut()[host].parts;
            for part in started {
                self.pollers.borrow_mut().insert(part.poller_fd(), (host, parts.len()));
                parts.push(HostPart::new(part));
            }
        }
        let (mut told, mut stranded) = (Vec::new(), None);
        let mut live = self.live.borrow_mut();
        let mut net = self.net.borrow_mut();
        live.retain(|&index| {
            let news = net[index].look();
            for (_, to_target) in news.deliver.into_iter().zip([true, false]).filter(|(due, _)| *due) {
                let after = latency(&self.plan.wire, &mut self.random.borrow_mut(), self.healed.get());
                self.schedule(after, Event::Deliver { connection: index, to_target });
            }
            if news.falls_silent {
                let after = self.random.borrow_mut().within(DEAD_AFTER / 2, DEAD_AFTER);
                self.schedule(after, Event::TakenForDead { connection: index });
            }
            if news.is_stranded {
                stranded = Some(index);
            }
            if news.tells_host {
                told.push((net[index].owner, index));
            }
            !news.is_over
        });
        drop((live, net));
        stranded.into_iter().for_each(|connection| self.strand(connection));
        told.into_iter().for_each(|(owner, connection)| self.tell(owner, connection));
        let mut awake = Vec::new();
        for (host, machine) in self.hosts.borrow().iter().enumerate() {
            awake.extend(machine.rung().map(|part| Actor::Part { host, part }));
        }
        for (target, machine) in self.targets.borrow().iter().enumerate() {
            for (reactor, operation, time) in machine.started(&mut self.random.borrow_mut(), self.healed.get()) {
                self.schedule(time, Event::Storage { target, life: machine.life, reactor, operation });
            }
            let life = machine.life;
            awake.extend(machine.awake().map(|reactor| Actor::Reactor { target, life, reactor }));
        }
        awake.into_iter().for_each(|actor| self.wake(actor));
    }

    /// How long a thread takes to run once it may.
    fn lateness(&self) -> u64 {
        let mut random = self.random.borrow_mut();
        if !self.healed.get() && random.chance(self.plan.slow_threads) {
            random.size(20 * MS)
        } else {
            random.size(20 * US)
        }
    }

    /// Somebody has something to do, and does it soon.
    fn wake(&self, actor: Actor) {
        if self.turn_at(actor, |turn_at| turn_at.is_some_and(|at| at <= self.now.get() + 20 * US)) != Some(false) {
            return;
        }
        let after = self.lateness();
        self.plan_turn(actor, self.now.get() + after);
    }

    fn plan_turn(&self, actor: Actor, at: u64) {
        let sooner = self.turn_at(actor, |turn_at| {
            let sooner = turn_at.is_none_or(|before| at < before);
            if sooner {
                *turn_at = Some(at);
            }
            sooner
        });
        if sooner == Some(true) {
            self.schedule(at.saturating_sub(self.now.get()), Event::Turn(actor));
        }
    }

    /// Looks at when an actor's next turn is; nothing if it is no more.
    fn turn_at<R>(&self, actor: Actor, look: impl FnOnce(&mut Option<u64>) -> R) -> Option<R> {
        match actor {
            Actor::Part { host, part } => {
                let mut hosts = self.hosts.borrow_mut();
                let part = hosts[host].parts.get_mut(part)?;
                (!part.ended).then(|| look(&mut part.turn_at))
            }
            Actor::Reactor { target, life, reactor } => {
                let machine = &mut self.targets.borrow_mut()[target];
                (machine.life == life).then(|| machine.turn_at.get_mut(reactor).map(look)).flatten()
            }
        }
    }

    /// Somebody's turn, if it is still due. Tells whether it was.
    fn turn(&self, actor: Actor) -> bool {
        let due = self.turn_at(actor, |turn_at| turn_at.take_if(|at| *at == self.now.get()).is_some());
        if due != Some(true) {
            return false;
        }
        let now = self.at(self.now.get());
        match actor {
            Actor::Part { host, part } => {
                let news = std::mem::take(&mut self.hosts.borrow_mut()[host].parts[part].news);
                let events: Vec<_> = {
                    let net = self.net.borrow();
                    news.iter().map(|&index| &net[index]).filter(|it| it.is_open()).map(Connection::event).collect()
                };
                let next = self.hosts.borrow_mut()[host].parts[part].turn(now, &events);
                self.look_at_ended(host);
                match next {
                    Next::Now => self.plan_turn(actor, self.now.get() + US),
                    Next::By(Some(at)) => {
                        let late = self.lateness();
                        self.plan_turn(actor, self.ns(at).max(self.now.get()) + late);
                    }
                    Next::By(None) => {}
                    Next::Never => self.hosts.borrow_mut()[host].parts[part].ended = true,
                }
            }
            Actor::Reactor { target, reactor, .. } => {
                let deadline = self.targets.borrow_mut()[target].turn(reactor, now);
                if self.has_drained(target) {
                    self.drained(target);
                } else if let Some(at) = deadline {
                    let late = self.lateness();
                    self.plan_turn(actor, self.ns(at).max(self.now.get()) + late);
                }
            }
        }
        true
    }

    /// A connection that was begun is made, or not.
    fn connect_now(&self, index: usize) {
        let mut net = self.net.borrow_mut();
        let connection = &mut net[index];
        let mut targets = self.targets.borrow_mut();
        let target = targets.iter().position(|target| target.is_at(connection.address));
        let refused = !self.healed.get() && self.random.borrow_mut().chance(self.plan.wire.refusals);
        match target.filter(|_| !refused) {
            Some(target) => {
                if let Some(stream) = connection.establish(target) {
                    targets[target].accept(stream);
                }
            }
            None => connection.refuse(),
        }
        let owner = connection.owner;
        drop((net, targets));
        self.tell(owner, index);
    }

    fn storage(&self, target: usize, life: u32, reactor: usize, operation: usize) {
        let targets = self.targets.borrow();
        if targets[target].life != life {
            return;
        }
        let rest = targets[target].storage(reactor, operation, &mut self.random.borrow_mut(), self.healed.get());
        if let Some(wrong) = targets[target].misuse() {
            self.fail(format!("the storage of target {target} was asked for what it cannot do: {wrong}"));
        }
        if let Some(after) = rest {
            self.schedule(after, Event::Storage { target, life, reactor, operation });
        }
    }
}

impl Sim {
    fn begin_connect(&self, owner: (usize, usize), token: u64, to: SocketAddr) -> HostEnd {
        let random = &mut self.random.borrow_mut();
        let (connection, end) = Connection::new(owner, token, to, &self.plan.wire, random, self.healed.get());
        let mut net = self.net.borrow_mut();
        net.push(connection);
        self.live.borrow_mut().push(net.len() - 1);
        let after = latency(&self.plan.wire, random, self.healed.get());
        self.schedule(after, Event::Connect { connection: net.len() - 1 });
        end
    }

    /// Begins a connection that nobody is told of.
    pub(crate) fn connect_stranger(&self, to: SocketAddr) -> HostEnd {
        self.begin_connect((0, usize::MAX), 0, to)
    }
}

impl World for Sim {
    fn now(&self) -> Instant {
        self.at(self.now.get())
    }

    fn wait(&self, until: Instant, is_over: &mut dyn FnMut() -> bool) {
        let until = self.ns(until);
        self.nested.set(self.nested.get() + 1);
        self.look_around();
        while !is_over() && !self.has_failed() {
            if !self.step(until) {
                self.now.set(self.now.get().max(until));
                let _ = is_over();
                break;
            }
        }
        if self.has_failed() {
            // Nothing more happens, but for the time.
            self.now.set(self.now.get().max(until));
        }
        self.nested.set(self.nested.get() - 1);
        if self.nested.get() == 0 {
            for event in std::mem::take(&mut *self.deferred.borrow_mut()) {
                self.schedule(0, event);
            }
        }
    }

    fn connect(&self, to: SocketAddr, poller: RawFd, token: u64) -> io::Result<Box<dyn Socket>> {
        let owner = self.pollers.borrow().get(&poller).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(self.begin_connect(owner, token, to)))
    }

    fn thread(&self) -> usize {
        self.thread.get().unwrap_or_else(|| self.random.borrow_mut().below(4) as usize)
    }

    fn file(&self, path: &Path) -> Option<SimulatedFile> {
        self.files.borrow().get(path).copied()
    }
}
