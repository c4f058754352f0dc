//! The target without threads and sockets: a simulation takes each reactor's turns itself.
//!
//! Built only with the feature `simulation`. It does what `reactor` does, with streams in memory in place of sockets
//! and with what a [`MemoryStream`] says of itself in place of a poller.

use super::connection::{Connection, Ends};
use super::mailbox::{Letter, Mailbox};
use super::placement::Placement;
use super::subsystem::Subsystem;
use super::target::open;
use super::worker::Worker;
use crate::desired::{AllowedHosts, NamespaceSpec};
use crate::driver::NamespaceInfo;
use crate::error::TargetError;
use nvferry_io::IoEngine;
use nvferry_io::poller::{Interest, Sleeper};
use nvferry_io::stream::MemoryStream;
use nvferry_wire::{Nqn, Nsid, TransportId};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

enum Arrival {
    Accepted(MemoryStream),
    Moved(Box<Connection<MemoryStream>>),
}

struct Reactor {
    worker: Worker<MemoryStream>,
    mailbox: Arc<Mailbox>,
    sleeper: Sleeper,
    arrivals: Vec<Arrival>,
    /// What each connection's stream is registered for.
    interests: Vec<Option<Interest>>,
    touched: Vec<u32>,
}

/// A target of which a simulation takes the turns.
pub struct SimulatedTarget {
    subsystem: Arc<Subsystem>,
    reactors: Vec<Reactor>,
    next_reactor: usize,
}

/// What a target has not given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Connections, as the subsystem counts them.
    pub connections: usize,
    /// Controllers, those included that only wait for their last commands.
    pub controllers: usize,
    /// Commands under way.
    pub commands: usize,
    /// Operations of the I/O engines.
    pub operations: usize,
    /// Bytes of buffers for data, and for data in capsules.
    pub buffer_bytes: usize,
    /// Bytes that wait to be sent, those in such buffers included.
    pub unsent_bytes: usize,
    /// Bytes that were received and not looked at yet.
    pub unread_bytes: usize,
}

impl SimulatedTarget {
    /// A target at `address`, with a reactor for each engine.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(address: TransportId, subsystem: Nqn, engines: Vec<Box<dyn IoEngine>>) -> io::Result<Self> {
        Self::with_hosts(address, subsystem, AllowedHosts::Any, engines)
    }

    /// As [`Self::new`], for these hosts only. What they prove is computed by the turn that receives it.
    ///
    /// # Errors
    /// As there.
    pub fn with_hosts(
        address: TransportId,
        subsystem: Nqn,
        hosts: AllowedHosts,
        engines: Vec<Box<dyn IoEngine>>,
    ) -> io::Result<Self> {
        let (serial, model) = ("simulated".to_owned(), "simulated".to_owned());
        let subsystem = Arc::new(Subsystem::new(subsystem, serial, model, address, hosts));
        let placement = Arc::new(Placement::new(engines.len()));
        let mut reactors = Vec::new();
        for (index, engine) in engines.into_iter().enumerate() {
            let (mailbox, sleeper) = Mailbox::new()?;
            let (subsystem, placement) = (Arc::clone(&subsystem), Arc::clone(&placement));
            let worker = Worker::new(index, subsystem, placement, Arc::clone(&mailbox), engine);
            let (arrivals, interests, touched) = (Vec::new(), Vec::new(), Vec::new());
            reactors.push(Reactor { worker, mailbox, sleeper, arrivals, interests, touched });
        }
        Ok(Self { subsystem, reactors, next_reactor: 0 })
    }

    /// Ids of controllers begin after this one.
    pub fn give_controller_ids_after(&self, id: u16) {
        self.subsystem.give_ids_after(id);
    }

    /// How many reactors there are.
    #[must_use]
    pub fn reactors(&self) -> usize {
        self.reactors.len()
    }

    /// Takes a new connection; reactors get them in turn.
    pub fn accept(&mut self, stream: MemoryStream) {
        self.subsystem.connections.fetch_add(1, Ordering::Relaxed);
        let count = self.reactors.len();
        let reactor = &mut self.reactors[self.next_reactor % count];
        self.next_reactor += 1;
        reactor.arrivals.push(Arrival::Accepted(stream));
        reactor.mailbox.wake();
    }

    /// As `UserspaceTarget::add_namespace`.
    ///
    /// # Errors
    /// As there.
    pub fn add_namespace(&self, spec: &NamespaceSpec) -> Result<NamespaceInfo, TargetError> {
        let info = open(&self.subsystem, spec)?;
        self.refresh(spec.nsid);
        Ok(info)
    }

    /// As `UserspaceTarget::remove_namespace`, without the wait for commands that are under way.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn remove_namespace(&self, nsid: Nsid) -> Result<(), TargetError> {
        self.subsystem.namespaces.remove(nsid)?;
        self.refresh(nsid);
        Ok(())
    }

    /// Takes no more commands, and lets those under way end, as `UserspaceTarget::stop` does. Connect nobody any more.
    pub fn drain(&self) {
        self.subsystem.draining.store(true, Ordering::Release);
        self.reactors.iter().for_each(|reactor| reactor.mailbox.wake());
    }

    /// Whether that has been done, and nothing is left.
    #[must_use]
    pub fn has_drained(&self) -> bool {
        let has_ended = |reactor: &Reactor| reactor.worker.len() == 0 && reactor.arrivals.is_empty();
        self.subsystem.is_draining() && self.reactors.iter().all(has_ended)
    }

    fn refresh(&self, nsid: Nsid) {
        for reactor in &self.reactors {
            reactor.mailbox.post(Letter::Refresh);
        }
        self.subsystem.announce(nsid);
    }

    /// Whether a reactor's waker was used since this was last asked.
    #[must_use]
    pub fn is_rung(&self, reactor: usize) -> bool {
        self.reactors[reactor].sleeper.woke()
    }

    /// Whether a stream is ready for what its connection is registered for.
    #[must_use]
    pub fn is_ready(&self, reactor: usize) -> bool {
        let reactor = &self.reactors[reactor];
        (0..reactor.interests.len() as u32).any(|index| reactor.readiness(index) != Interest::NONE)
    }

    /// When a reactor's next deadline is.
    #[must_use]
    pub fn next_deadline(&self, reactor: usize) -> Option<Instant> {
        self.reactors[reactor].worker.next_deadline()
    }

    /// Takes a reactor's turn.
    pub fn turn(&mut self, reactor: usize, now: Instant) {
        self.reactors[reactor].turn(now);
        for (to, connection) in self.reactors[reactor].send_away() {
            self.reactors[to].arrivals.push(Arrival::Moved(connection));
            self.reactors[to].mailbox.wake();
        }
        self.reactors[reactor].register();
    }

    /// What all reactors hold.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let mut holdings = Holdings {
            connections: self.subsystem.connections.load(Ordering::Relaxed),
            controllers: self.subsystem.controllers().len(),
            ..Holdings::default()
        };
        for Reactor { worker, .. } in &self.reactors {
            holdings.commands += worker.busy();
            holdings.operations += worker.core.engine.in_flight();
            holdings.buffer_bytes += worker.core.data_pool.stats().in_use_bytes;
            holdings.buffer_bytes += worker.core.capsule_pool.stats().in_use_bytes;
            for connection in worker.places().filter_map(|place| worker.connection(place)) {
                holdings.unsent_bytes += connection.sending.waiting_bytes();
                holdings.unread_bytes += connection.leftover.len() + connection.carry_bytes;
            }
        }
        holdings
    }
}

impl Reactor {
    /// What an epoll that is level-triggered would say of a connection.
    fn readiness(&self, index: u32) -> Interest {
        let registered = self.interests.get(index as usize).copied().flatten();
        let stream = self.worker.connection(index).and_then(|connection| connection.stream.as_ref());
        match (registered, stream) {
            (Some(wanted), Some(stream)) => {
                Interest { read: wanted.read && stream.readable(), write: wanted.write && stream.writable() }
            }
            _ => Interest::NONE,
        }
    }

    fn turn(&mut self, now: Instant) {
        for index in 0..self.interests.len() as u32 {
            let ready = self.readiness(index);
            if ready.write {
                self.worker.on_writable(index, now);
            }
            if ready.read {
                self.worker.on_readable(index, now);
            }
        }
        for arrival in std::mem::take(&mut self.arrivals) {
            match arrival {
                Arrival::Accepted(stream) => self.worker.accept(stream, Ends::default(), now),
                Arrival::Moved(connection) => self.worker.adopt(connection, now),
            };
        }
        self.worker.on_mail(now);
        self.worker.on_time(now);
        self.worker.settle(now);
    }

    fn send_away(&mut self) -> Vec<(usize, Box<Connection<MemoryStream>>)> {
        let departures = self.worker.departures();
        for (_, connection) in &departures {
            if let Some(interest) = self.interests.get_mut(connection.key.index as usize) {
                *interest = None;
            }
        }
        departures
    }

    /// Registers streams for what their connections want now.
    fn register(&mut self) {
        self.worker.touched(&mut self.touched);
        for index in self.touched.drain(..) {
            let place = index as usize;
            if place >= self.interests.len() {
                self.interests.resize(place + 1, None);
            }
            let connection = self.worker.connection(index).filter(|connection| connection.stream.is_some());
            self.interests[place] = connection
                .map(|connection| Interest { read: connection.wants_read(), write: connection.wants_write() });
        }
    }
}
