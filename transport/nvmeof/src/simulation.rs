//! The host without threads: a simulation takes each thread's turns itself.
//!
//! Built only with the feature `simulation`. On a thread that lives in a [`World`](nvferry_io::simulation::World) the
//! transport starts no threads; what they would do waits in [`take_started`], and whatever would wait for them lets the
//! world go on instead.

use crate::host::userspace::control::ControlLoop;
use crate::worker::{Rest, Seat};
use nvferry_engine::{EngineError, SegmentDesc};
use nvferry_io::poller::Event;
use nvferry_io::simulation::world;
use nvferry_wire::TransportId;
use std::cell::RefCell;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

/// What a thread of the host would do.
pub struct Part(Kind);

enum Kind {
    Control(Box<ControlLoop>),
    Worker(Arc<Seat>),
}

/// When a part wants its next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// When its waker or one of its sockets says so, and at this time at the latest.
    By(Option<Instant>),
    /// Never: it has ended.
    Never,
}

/// What a worker has not given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Slices, or parts of them, that wait or are under way.
    pub slices: usize,
    /// Command identifiers in use.
    pub commands: usize,
    /// Bytes of bounce buffers.
    pub bounce_bytes: usize,
}

/// Where a description says that its segment is.
///
/// # Errors
/// What is wrong with it.
pub fn destination(segment: &SegmentDesc) -> Result<TransportId, EngineError> {
    crate::trid::read(segment).map(|(trid, _)| trid)
}

thread_local! {
    static STARTED: RefCell<Vec<Part>> = const { RefCell::new(Vec::new()) };
}

/// The parts that were started since this was last called: the control part first, then workers.
#[must_use]
pub fn take_started() -> Vec<Part> {
    STARTED.take()
}

impl Part {
    /// Whether it runs the admin queues.
    #[must_use]
    pub fn is_control(&self) -> bool {
        matches!(self.0, Kind::Control(_))
    }

    /// Takes its turn: `events` are those of its sockets since the last one.
    pub fn turn(&mut self, now: Instant, events: &[Event]) -> Next {
        match &mut self.0 {
            Kind::Control(control) => control.turn(now, events).map_or(Next::Never, Next::By),
            Kind::Worker(seat) => match seat.simulated_turn(now, events) {
                None => Next::Never,
                Some(Rest::None) => Next::Now,
                Some(Rest::Until(timer)) => Next::By(timer),
            },
        }
    }

    /// Whether its waker was used since this was last asked.
    #[must_use]
    pub fn is_rung(&self) -> bool {
        match &self.0 {
            Kind::Control(control) => control.is_rung(),
            Kind::Worker(seat) => seat.is_rung(),
        }
    }

    /// The descriptor of its poller, under which it connects.
    #[must_use]
    pub fn poller_fd(&self) -> RawFd {
        match &self.0 {
            Kind::Control(control) => control.poller_fd(),
            Kind::Worker(seat) => seat.poller_fd(),
        }
    }

    /// What it holds.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        match &self.0 {
            Kind::Control(_) => Holdings::default(),
            Kind::Worker(seat) => seat.holdings(),
        }
    }
}

/// Takes the control part over, or gives it back where there is no simulation.
pub(crate) fn adopt_control(control: ControlLoop) -> Option<ControlLoop> {
    if world().is_none() {
        return Some(control);
    }
    STARTED.with_borrow_mut(|started| started.push(Part(Kind::Control(Box::new(control)))));
    None
}

/// Takes the workers over; `false` where there is no simulation.
pub(crate) fn adopt_workers(seats: &[Arc<Seat>]) -> bool {
    let simulated = world().is_some();
    if simulated {
        let parts = seats.iter().map(|seat| Part(Kind::Worker(Arc::clone(seat))));
        STARTED.with_borrow_mut(|started| started.extend(parts));
    }
    simulated
}

/// Waits in the simulation; `false` where there is none.
pub(crate) fn wait(until: Instant, mut is_over: impl FnMut() -> bool) -> bool {
    world().map(|world| world.wait(until, &mut is_over)).is_some()
}

/// As [`Receiver::recv_timeout`], with a deadline, and in the simulation where there is one.
pub(crate) fn receive<T>(from: &Receiver<T>, deadline: Instant) -> Result<T, RecvTimeoutError> {
    let Some(world) = world() else {
        return from.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    };
    let mut received = Err(RecvTimeoutError::Timeout);
    world.wait(deadline, &mut || match from.try_recv() {
        Ok(answer) => {
            received = Ok(answer);
            true
        }
        Err(TryRecvError::Disconnected) => {
            received = Err(RecvTimeoutError::Disconnected);
            true
        }
        Err(TryRecvError::Empty) => false,
    });
    received
}
