//! A TCP proxy between host and target, which does to their connections what networks do.

use crate::Random;
use socket2::SockRef;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What happens to what passes in one direction. Places are random, so many bytes apart on average, and follow from the
/// proxy's seed, the number of the connection and the direction; 0 bytes are never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// The connection is cut: half of the time in order, half of the time with a reset.
    pub cut_every_bytes: u64,
    /// A bit is flipped.
    pub flip_every_bytes: u64,
    /// Nothing passes for [`Faults::stall`].
    pub stall_every_bytes: u64,
    /// How long a stall lasts.
    pub stall: Duration,
    /// Each piece is held so long before it passes.
    pub delay: Duration,
    /// No more passes than this; 0 for no limit.
    pub bytes_per_second: u64,
    /// Pieces are no longer than this, wherever PDUs end; 0 for as they come.
    pub piece_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToTarget,
    ToHost,
}

/// Through which connections nothing passes.
#[derive(Debug, Default)]
struct Frozen {
    all: bool,
    some: BTreeSet<usize>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    seed: u64,
    to_target: Mutex<Faults>,
    to_host: Mutex<Faults>,
    frozen: Mutex<Frozen>,
    thawed: Condvar,
    /// Directions of connections that hold something because they are frozen.
    held: AtomicUsize,
    connections: Mutex<BTreeMap<usize, [TcpStream; 2]>>,
    accepted: AtomicUsize,
    cuts: AtomicU64,
    flips: AtomicU64,
    stopped: AtomicBool,
}

/// A TCP proxy, from a free port of loopback to a target. It ends with this value.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy that passes everything on until it is told otherwise. Its faults follow from `NVFERRY_TEST_SEED`, else from
    /// the clock; the seed is printed when the test fails.
    #[must_use]
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            seed: Random::new().seed(),
            to_target: Mutex::default(),
            to_host: Mutex::default(),
            frozen: Mutex::default(),
            thawed: Condvar::new(),
            held: AtomicUsize::new(0),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            cuts: AtomicU64::new(0),
            flips: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    /// What happens from now on to what the host sends.
    pub fn to_target(&self, faults: Faults) {
        *self.shared.to_target.lock().unwrap() = faults;
    }

    /// What happens from now on to what the target sends.
    pub fn to_host(&self, faults: Faults) {
        *self.shared.to_host.lock().unwrap() = faults;
    }

    /// What happens from now on in both directions.
    pub fn both(&self, faults: Faults) {
        self.to_target(faults);
        self.to_host(faults);
    }

    /// Nothing passes any more, and nobody is told. The kernel still takes what fits its buffers, and answers its peers'.
    pub fn freeze(&self) {
        self.shared.frozen.lock().unwrap().all = true;
    }

    /// The same for one connection, by its number: 0 was accepted first.
    pub fn freeze_connection(&self, number: usize) {
        self.shared.frozen.lock().unwrap().some.insert(number);
    }

    /// What comes over this one passes again, unless all are frozen.
    pub fn thaw_connection(&self, number: usize) {
        self.shared.frozen.lock().unwrap().some.remove(&number);
        self.shared.thawed.notify_all();
    }

    /// Everything passes again.
    pub fn thaw(&self) {
        *self.shared.frozen.lock().unwrap() = Frozen::default();
        self.shared.thawed.notify_all();
    }

    /// Ends all connections.
    pub fn cut(&self) {
        for streams in self.shared.connections.lock().unwrap().values() {
            for stream in streams {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Ends all connections for the host alone: through those that are frozen the target hears nothing of it.
    pub fn cut_hosts(&self) {
        for [host, _] in self.shared.connections.lock().unwrap().values() {
            let _ = host.shutdown(Shutdown::Both);
        }
    }

    /// Directions of connections that hold something back, as they are frozen: bytes, or the end of the connection.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Connections from now on lead there.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections that [`Faults::cut_every_bytes`] has cut so far.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// Bits flipped so far.
    #[must_use]
    pub fn flips(&self) -> u64 {
        self.shared.flips.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the proxy's faults followed from NVFERRY_TEST_SEED={}", self.shared.seed);
        }
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.thaw();
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

/// When something that happens every so many bytes happens next.
#[derive(Debug, Default)]
struct Next {
    every_bytes: u64,
    in_bytes: u64,
}

impl Next {
    /// Whether it happens within the next `bytes`, and after how many of them.
    fn within(&mut self, every_bytes: u64, bytes: usize, random: &mut Random) -> Option<usize> {
        if every_bytes != self.every_bytes {
            *self = Self { every_bytes, in_bytes: 0 };
        }
        if every_bytes == 0 {
            return None;
        }
        if self.in_bytes == 0 {
            self.in_bytes = 1 + random.below(2 * every_bytes);
        }
        let at = usize::try_from(self.in_bytes).ok().filter(|&at| at <= bytes);
        // Drawn anew once it has happened.
        self.in_bytes = if at.is_some() { 0 } else { self.in_bytes - bytes as u64 };
        at
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while let Ok((host, _)) = listener.accept() {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let number = self.accepted.fetch_add(1, Ordering::Relaxed);
            // Where nobody listens, the host's connection ends.
            let Ok(target) = TcpStream::connect(*self.target.lock().unwrap()) else { continue };
            for stream in [&host, &target] {
                stream.set_nodelay(true).unwrap();
            }
            let both = [host.try_clone().unwrap(), target.try_clone().unwrap()];
            self.connections.lock().unwrap().insert(number, both);
            let left = Arc::new(AtomicUsize::new(2));
            let ways = [
                (host.try_clone().unwrap(), target.try_clone().unwrap(), Direction::ToTarget),
                (target, host, Direction::ToHost),
            ];
            for (from, to, direction) in ways {
                let (shared, left) = (Arc::clone(&self), Arc::clone(&left));
                std::thread::spawn(move || {
                    shared.pump(number, from, to, direction);
                    if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                        shared.connections.lock().unwrap().remove(&number);
                    }
                });
            }
        }
    }

    fn pump(&self, number: usize, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
        let salt = (number as u64) << 1 | u64::from(direction == Direction::ToHost);
        let mut random = Random::seeded(self.seed ^ salt.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let (mut cut, mut flip, mut stall) = (Next::default(), Next::default(), Next::default());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let faults = *if direction == Direction::ToHost { &self.to_host } else { &self.to_target }.lock().unwrap();
            let most = if faults.piece_bytes > 0 { faults.piece_bytes.min(buffer.len()) } else { buffer.len() };
            let Ok(mut len @ 1..) = from.read(&mut buffer[..most]) else { break };
            if let Some(at) = flip.within(faults.flip_every_bytes, len, &mut random) {
                buffer[at - 1] ^= 1 << random.below(8);
                self.flips.fetch_add(1, Ordering::Relaxed);
            }
            let is_cut = cut.within(faults.cut_every_bytes, len, &mut random);
            len = is_cut.unwrap_or(len);
            if stall.within(faults.stall_every_bytes, len, &mut random).is_some() {
                std::thread::sleep(faults.stall);
            }
            let pace = (len as u64 * 1_000_000_000).checked_div(faults.bytes_per_second).unwrap_or(0);
            std::thread::sleep(faults.delay + Duration::from_nanos(pace));
            self.wait_thawed(number);
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
            if is_cut.is_some() {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                if random.below(2) == 0 {
                    // With this, closing is a reset; who still holds the sockets lets go of them when they see the end.
                    let _ = SockRef::from(&from).set_linger(Some(Duration::ZERO));
                    let _ = SockRef::from(&to).set_linger(Some(Duration::ZERO));
                }
                let _ = to.shutdown(Shutdown::Both);
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
        self.wait_thawed(number);
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }

    /// Waits as long as a connection is frozen.
    fn wait_thawed(&self, number: usize) {
        let is_frozen = |frozen: &mut Frozen| frozen.all || frozen.some.contains(&number);
        let mut frozen = self.frozen.lock().unwrap();
        if is_frozen(&mut frozen) {
            self.held.fetch_add(1, Ordering::Relaxed);
            drop(self.thawed.wait_while(frozen, is_frozen).unwrap());
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
