//! A target in memory: one worker that runs whenever a host has nothing to read.

use super::host::{Host, SUBSYSTEM};
use crate::desired::{AllowedHosts, NamespaceSpec};
use crate::userspace::connection::{Connection, Ends};
use crate::userspace::mailbox::{ConnectionKey, Mailbox};
use crate::userspace::namespace::Namespace;
use crate::userspace::placement::Placement;
use crate::userspace::subsystem::Subsystem;
use crate::userspace::worker::Worker;
use nvferry_io::engine::{FaultControl, Faulty, ThreadsConfig, ThreadsEngine};
use nvferry_io::stream::{MemoryStream, memory_pair};
use nvferry_io::vector::IoVecs;
use nvferry_io::{IoEngine, Stream};
use nvferry_wire::pdu::{DataAlignment, Digests};
use nvferry_wire::{ControllerId, Nqn, Nsid, TransportId};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than the storage takes for anything that it does at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// What one direction of a stream holds.
const STREAM_BYTES: usize = 256 << 10;

/// A small generator (SplitMix64), so that a seed says everything.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// From 1 to 2^`bits`, small sizes as likely as large ones.
    pub(super) fn size(&mut self, bits: usize) -> usize {
        let bits = self.below(bits + 1);
        1 + self.below(1 << bits)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Says what was being done when a test panics.
pub(super) struct OnFailure(pub(super) String);

impl Drop for OnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failed at: {}", self.0);
        }
    }
}

/// The target.
pub(super) struct Sim {
    pub(super) worker: Worker<MemoryStream>,
    pub(super) subsystem: Arc<Subsystem>,
    pub(super) faults: FaultControl,
    pub(super) now: Instant,
    /// A connection of which the target does not notice that something has come.
    unread: Option<ConnectionKey>,
    dir: TempDir,
}

/// The target, shared with the hosts' ends of its streams.
#[derive(Clone)]
pub(super) struct Target(Rc<RefCell<Sim>>);

/// A host's end of a stream. Reading drives the target.
pub(super) struct Pipe {
    pub(super) stream: MemoryStream,
    pub(super) target: Target,
    scratch: IoVecs,
}

impl Target {
    pub(super) fn new() -> Self {
        Self::letting_in(AllowedHosts::Any)
    }

    pub(super) fn letting_in(allowed_hosts: AllowedHosts) -> Self {
        let faults = FaultControl::new(0);
        let engine =
            Faulty::new(ThreadsEngine::new(ThreadsConfig::with_capacity(64)).unwrap(), faults.clone()).unwrap();
        Self::with_engine(allowed_hosts, Box::new(engine), faults)
    }

    /// A target with this storage.
    pub(super) fn on(engine: Box<dyn IoEngine>) -> Self {
        Self::with_engine(AllowedHosts::Any, engine, FaultControl::new(0))
    }

    fn with_engine(allowed_hosts: AllowedHosts, engine: Box<dyn IoEngine>, faults: FaultControl) -> Self {
        let nqn = Nqn::new(SUBSYSTEM).unwrap();
        let address = TransportId::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 4420))).with_subnqn(nqn.clone());
        let (serial, model) = ("1".to_owned(), "test".to_owned());
        let subsystem = Arc::new(Subsystem::new(nqn, serial, model, address, allowed_hosts));
        let (mailbox, _sleeper) = Mailbox::new().unwrap();
        let worker = Worker::new(0, Arc::clone(&subsystem), Arc::new(Placement::new(1)), mailbox, engine);
        let dir = tempfile::tempdir().unwrap();
        Self(Rc::new(RefCell::new(Sim { worker, subsystem, faults, now: Instant::now(), unread: None, dir })))
    }

    pub(super) fn with<R>(&self, act: impl FnOnce(&mut Sim) -> R) -> R {
        act(&mut self.0.borrow_mut())
    }

    /// Offers a file with this content.
    pub(super) fn offer(&self, nsid: u32, content: &[u8]) {
        self.with(|sim| {
            let path = sim.dir.path().join(nsid.to_string());
            std::fs::write(&path, content).unwrap();
            let spec = NamespaceSpec { direct: false, ..NamespaceSpec::new(Nsid(nsid), path, content.len() as u64) };
            let namespace = Namespace::open(&spec, &sim.subsystem.nqn).unwrap();
            sim.subsystem.namespaces.insert(Arc::new(namespace)).unwrap();
        });
    }

    /// A namespace's file.
    pub(super) fn file(&self, nsid: u32) -> Vec<u8> {
        self.with(|sim| std::fs::read(sim.dir.path().join(nsid.to_string())).unwrap())
    }

    /// A new connection.
    pub(super) fn pipe(&self) -> Pipe {
        self.pipe_of(STREAM_BYTES)
    }

    /// A new connection of which each direction holds so many bytes.
    pub(super) fn pipe_of(&self, stream_bytes: usize) -> Pipe {
        let (ours, theirs) = memory_pair(stream_bytes);
        self.with(|sim| {
            let now = sim.now;
            sim.subsystem.connections.fetch_add(1, Ordering::Relaxed);
            sim.worker.accept(theirs, Ends::default(), now)
        });
        Pipe { stream: ours, target: self.clone(), scratch: IoVecs::new() }
    }

    /// An admin queue of an enabled controller.
    pub(super) fn admin(&self, kato_ms: u32) -> (Host<Pipe>, ControllerId) {
        let mut host = Host::plain(self.pipe());
        let cntlid = host.connect_admin(SUBSYSTEM, kato_ms);
        (host, cntlid)
    }

    /// An I/O queue.
    pub(super) fn io(&self, cntlid: ControllerId, qid: u16, digests: Digests, hpda: DataAlignment) -> Host<Pipe> {
        let mut host = Host::open(self.pipe(), digests, hpda);
        host.connect_io(cntlid, qid, 1024, true);
        host
    }

    /// The target does not get to read from the connection at this place: they are numbered as they came.
    pub(super) fn leave_unread(&self, place: u32) {
        self.with(|sim| sim.unread = sim.worker.connection(place).map(|connection| connection.key));
    }

    /// From now on it reads all.
    pub(super) fn read_all(&self) {
        self.with(|sim| sim.unread = None);
        self.turn_until_quiet();
    }

    /// Lets the target do all that it can without waiting for its storage. Tells whether it had anything to read.
    pub(super) fn turn(&self) -> bool {
        self.with(|sim| {
            let now = sim.now;
            sim.worker.on_mail(now);
            let mut any = false;
            for index in sim.worker.places() {
                let of = |sim: &Sim, ask: fn(&Connection<MemoryStream>, &MemoryStream) -> bool| {
                    let connection = sim.worker.connection(index);
                    connection.is_some_and(|it| it.stream.as_ref().is_some_and(|stream| ask(it, stream)))
                };
                if of(sim, |connection, stream| connection.wants_write() && stream.writable()) {
                    sim.worker.on_writable(index, now);
                    any = true;
                }
                let is_unread = sim.worker.connection(index).is_some_and(|it| Some(it.key) == sim.unread);
                if !is_unread && of(sim, |connection, stream| connection.wants_read() && stream.readable()) {
                    sim.worker.on_readable(index, now);
                    any = true;
                }
            }
            sim.worker.settle(now);
            // Streams in memory need no registration.
            sim.worker.touched(&mut Vec::new());
            any
        })
    }

    /// Lets the target do all that it can, as long as there is anything.
    pub(super) fn turn_until_quiet(&self) {
        while self.turn() {}
    }

    /// Lets time pass.
    pub(super) fn pass(&self, time: Duration) {
        self.turn_until_quiet();
        self.with(|sim| {
            sim.now += time;
            let now = sim.now;
            sim.worker.on_time(now);
            sim.worker.settle(now);
        });
        self.turn_until_quiet();
    }

    /// Lets the target finish everything that it has begun.
    pub(super) fn wait_until_idle(&self) {
        self.turn_until_quiet();
        while self.storage_is_busy() {
            self.wait_for_storage(PATIENCE);
            self.turn_until_quiet();
        }
    }

    fn storage_is_busy(&self) -> bool {
        self.with(|sim| sim.worker.core.engine.in_flight() > 0)
    }

    fn wait_for_storage(&self, time: Duration) {
        self.with(|sim| sim.worker.core.engine.wait(Some(time)).unwrap());
    }
}

impl Read for Pipe {
    /// Reads what the target has sent, letting it run as long as it has something to do.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut until = Instant::now() + PATIENCE;
        loop {
            let mut scatter = self.scratch.scatter();
            scatter.push(into);
            match self.stream.recv(&mut scatter) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if self.target.turn() || self.stream.readable() {
                until = Instant::now() + PATIENCE;
                continue;
            }
            if !self.target.storage_is_busy() || Instant::now() > until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the target has nothing to say"));
            }
            self.target.wait_for_storage(Duration::from_millis(100));
        }
    }
}

impl Write for Pipe {
    /// Writes, letting the target read where it must.
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        loop {
            let mut gather = self.scratch.gather();
            gather.push(from);
            match self.stream.send(&gather) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if !self.target.turn() && !self.stream.writable() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the target takes no more"));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
