//! The wire: connections in memory whose bytes arrive when the scheduler says, in pieces, and that are cut, silenced and
//! corrupted.

use crate::plan::{MS, SECOND, US, WireFaults};
use crate::random::Random;
use nvferry_io::pages::Pages;
use nvferry_io::poller::Event;
use nvferry_io::simulation::Socket;
use nvferry_io::stream::{Cut, LinkState, MemoryLink, MemoryStream, Stream, memory_pair};
use nvferry_io::{Gather, Scatter};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of ICReq and ICResp, which no digest covers.
const IC_BYTES: u64 = 128;

/// Where a connection stands, for the host's end of it.
const CONNECTING: u8 = 0;
const CONNECTED: u8 = 1;
const REFUSED: u8 = 2;
/// The host has closed its end.
const CLOSED: u8 = 3;

/// The host's end of a connection.
#[derive(Debug)]
pub(crate) struct HostEnd {
    stream: MemoryStream,
    state: Arc<AtomicU8>,
}

impl Stream for HostEnd {
    fn recv(&mut self, into: &mut Scatter<'_>) -> io::Result<usize> {
        self.stream.recv(into)
    }

    fn send(&mut self, from: &Gather<'_>) -> io::Result<usize> {
        self.stream.send(from)
    }

    fn send_pages(&mut self, pages: &mut Pages, more: bool) -> io::Result<usize> {
        self.stream.send_pages(pages, more)
    }
}

impl Socket for HostEnd {
    fn is_connected(&mut self) -> io::Result<bool> {
        match self.state.load(Ordering::Relaxed) {
            CONNECTING => Ok(false),
            CONNECTED => Ok(true),
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Drop for HostEnd {
    fn drop(&mut self) {
        self.state.store(CLOSED, Ordering::Relaxed);
    }
}

/// One way of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the host.
    ToTarget,
    /// From the target.
    ToHost,
}

/// What has happened to a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    /// Nothing can happen on it any more.
    pub(crate) is_over: bool,
    /// Bytes wait on this way that no delivery is on its way for: to the target, and to the host.
    pub(crate) deliver: [bool; 2],
    /// It has just become silent: the kernels on both sides will take the other for dead.
    pub(crate) falls_silent: bool,
    /// The host's poller has something to tell besides bytes that arrived: room, or the end.
    pub(crate) tells_host: bool,
}

/// A connection.
pub(crate) struct Connection {
    /// The host's part that made it.
    pub(crate) owner: (usize, usize),
    token: u64,
    /// Where it leads.
    pub(crate) address: SocketAddr,
    /// The target that has it, once it has been accepted.
    pub(crate) target: Option<usize>,
    state: Arc<AtomicU8>,
    /// The target's end, until it is accepted.
    target_end: Option<MemoryStream>,
    links: [MemoryLink; 2],
    /// A delivery is on its way.
    delivering: [bool; 2],
    was_writable: bool,
    was_ended: bool,
    /// It is silent, and the kernels have begun to count.
    is_counted: bool,
}

impl Connection {
    /// A connection that is being made.
    pub(crate) fn new(
        owner: (usize, usize),
        token: u64,
        address: SocketAddr,
        faults: &WireFaults,
        random: &mut Random,
        healed: bool,
    ) -> (Self, HostEnd) {
        let (host, target) = memory_pair(faults.capacity);
        let links = [host.outgoing(), host.incoming()];
        links.iter().for_each(MemoryLink::hold);
        let state = Arc::new(AtomicU8::new(CONNECTING));
        let end = HostEnd { stream: host, state: Arc::clone(&state) };
        let connection = Self {
            owner,
            token,
            address,
            target: None,
            state,
            target_end: Some(target),
            links,
            delivering: [false; 2],
            was_writable: true,
            was_ended: false,
            is_counted: false,
        };
        if !healed {
            connection.plan_faults(faults, random);
        }
        (connection, end)
    }

    fn plan_faults(&self, faults: &WireFaults, random: &mut Random) {
        for link in &self.links {
            if random.chance(faults.cuts) {
                let cut = match random.below(if faults.silence { 3 } else { 2 }) {
                    0 => Cut::Close,
                    1 => Cut::Reset,
                    _ => Cut::Silence,
                };
                link.cut_at(random.size(1 << 20), cut);
            }
            while random.chance(faults.flips) {
                link.flip_bit(IC_BYTES + random.size(1 << 18), random.below(8) as u8);
            }
        }
    }

    /// Faults are over.
    pub(crate) fn heal(&self) {
        self.links.iter().for_each(MemoryLink::forget_plans);
    }

    /// The host still has its end.
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) != CLOSED
    }

    /// It is made: the target's end, to be accepted.
    pub(crate) fn establish(&mut self, target: usize) -> Option<MemoryStream> {
        self.target = Some(target);
        // A host that has closed its end meanwhile has still made a connection.
        let _ = self.state.compare_exchange(CONNECTING, CONNECTED, Ordering::Relaxed, Ordering::Relaxed);
        self.target_end.take()
    }

    /// It cannot be made.
    pub(crate) fn refuse(&mut self) {
        let _ = self.state.compare_exchange(CONNECTING, REFUSED, Ordering::Relaxed, Ordering::Relaxed);
        self.target_end = None;
    }

    /// Cuts it now.
    pub(crate) fn cut(&self, cut: Cut) {
        match cut {
            Cut::Silence => self.links.iter().for_each(|link| link.cut(cut)),
            Cut::Close | Cut::Reset => self.links[0].cut(cut),
        }
    }

    /// Looks at what has happened to it since this was last asked.
    pub(crate) fn look(&mut self) -> News {
        let [out, back] = self.links[0].states();
        let is_quiet = |state: &LinkState| state.ended && state.held_bytes == 0;
        let is_open = self.is_open();
        let mut is_due = |way: Way, state: &LinkState| {
            let due = !self.delivering[way as usize] && state.held_bytes > 0;
            self.delivering[way as usize] |= due;
            due
        };
        let deliver = [is_due(Way::ToTarget, &out), is_due(Way::ToHost, &back)];
        let silent = out.silent || back.silent;
        let falls_silent = silent && !std::mem::replace(&mut self.is_counted, silent);
        let (writable, ended) = (out.can_send, is_quiet(&back));
        let news = (writable && !self.was_writable) || (ended && !self.was_ended);
        (self.was_writable, self.was_ended) = (writable, ended);
        News {
            is_over: !is_open && self.target_end.is_none() && is_quiet(&out) && is_quiet(&back),
            deliver,
            falls_silent,
            tells_host: news && is_open && self.state.load(Ordering::Relaxed) != CONNECTING,
        }
    }

    /// Lets bytes arrive, and tells how many did.
    pub(crate) fn deliver(&mut self, way: Way, faults: &WireFaults, random: &mut Random) -> usize {
        self.delivering[way as usize] = false;
        let bytes = match faults.chunk_bytes {
            0 => usize::MAX,
            most => random.size(most) as usize,
        };
        self.links[way as usize].deliver(bytes)
    }

    /// What the host's poller tells.
    pub(crate) fn event(&self) -> Event {
        let [out, back] = self.links[0].states();
        let refused = self.state.load(Ordering::Relaxed) == REFUSED;
        Event {
            token: self.token,
            readable: back.can_recv || refused,
            writable: out.can_send || refused,
            closed: refused,
            ending: (back.ended && back.held_bytes == 0) || refused,
        }
    }
}

/// How long bytes take.
pub(crate) fn latency(faults: &WireFaults, random: &mut Random, healed: bool) -> u64 {
    if !healed && random.rarely(faults.stalls) {
        return random.within(100 * MS, 20 * SECOND);
    }
    5 * US + random.size(faults.latency)
}
