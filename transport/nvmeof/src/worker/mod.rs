//! The worker pool: threads that move slices, each alone with its sockets, queue pairs, buffers and I/O engine.
//!
//! What comes in: slices and [`Order`]s, through each worker's [`Inbox`] (one short lock and at most one wake-up for a
//! batch). What goes out: ended slices. Workers share no lock with each other, and use no processor time when idle.
//!
//! - [`inbox`]: what others hand to a worker.
//! - [`run`]: what a worker does when it is driven.
//! - [`seat`]: who drives it: its own thread, or for a while one that waits for it.
//! - [`remote_lane`]: its way to one target over NVMe/TCP; [`local_io`]: its engine for files on this machine.

mod inbox;
mod local_io;
mod remote_lane;
mod run;
mod seat;

pub(crate) use inbox::Order;
pub(crate) use local_io::LocalIo;
#[cfg(feature = "simulation")]
pub(crate) use run::Rest;
pub(crate) use seat::{Seat, current_thread};

use crate::attachment::AttachmentId;
use crate::host::userspace::control::ControlHandle;
use crate::host::userspace::queue_pair::Scratch;
use inbox::Inbox;
use nvferry_io::BufferPool;
use nvferry_io::fast_paths::{FastPaths, PathCounters, PathTotals};
use nvferry_io::poller::{AdaptiveSpin, Poller, Waker};
use nvferry_io::pool::{PoolConfig, PoolStats};
use parking_lot::Mutex;
use run::{Context, Worker};
use seat::Driver;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// The poller's token of the worker's waker.
const WAKE_TOKEN: u64 = u64::MAX;
/// The poller's token of the worker's I/O engine.
const ENGINE_TOKEN: u64 = u64::MAX - 1;

/// The poller's token of a target's socket.
fn token(id: AttachmentId) -> u64 {
    id.0.into()
}

fn id_of(token: u64) -> AttachmentId {
    // Tokens of sockets were made from 32 bits.
    AttachmentId(token as u32)
}

/// All workers of a transport.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    seats: Box<[Arc<Seat>]>,
    /// The workers' bounce buffers, to tell how much they are.
    bounce: Box<[BufferPool]>,
    /// Which paths each worker's data took.
    taken: Box<[Arc<PathCounters>]>,
    /// What tests force.
    pub(crate) paths: FastPaths,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl WorkerPool {
    /// Starts `count` workers, named `nvferry-io-N`.
    ///
    /// # Errors
    /// When threads or descriptors cannot be had; none is left then.
    pub(crate) fn start(count: usize, spin: Duration, control: &ControlHandle) -> io::Result<Arc<Self>> {
        let paths = FastPaths::of_this_process();
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            let (waker, sleeper) = Waker::new()?;
            let poller = Poller::new()?;
            poller.add_sleeper(&sleeper, WAKE_TOKEN)?;
            parts.push((Arc::new(Inbox::new(waker)), sleeper, Arc::new(poller)));
        }
        let bounce: Box<[_]> = (0..count).map(|_| BufferPool::new(PoolConfig::default())).collect();
        let taken: Box<[Arc<PathCounters>]> = (0..count).map(|_| Arc::default()).collect();
        let pool = Arc::new_cyclic(|workers: &WeakPool| {
            let seats = parts.into_iter().enumerate().map(|(worker, (inbox, sleeper, poller))| {
                let context = Context {
                    worker,
                    poller: Arc::clone(&poller),
                    scratch: Scratch::new(),
                    pool: bounce[worker].clone(),
                    control: control.clone(),
                    local: LocalIo::default(),
                    taken: Arc::clone(&taken[worker]),
                };
                let spin = AdaptiveSpin::new(paths.spin(spin));
                let driver = Driver::new(poller, sleeper, spin, Arc::clone(&taken[worker]));
                let worker = Worker::new(context, Arc::clone(&inbox), Weak::clone(workers));
                Arc::new(Seat::new(inbox, worker, driver, paths.lend))
            });
            let (seats, bounce, taken) = (seats.collect(), bounce.clone(), taken.clone());
            Self { seats, bounce, taken, paths, threads: Mutex::default() }
        });
        #[cfg(feature = "simulation")]
        if crate::simulation::adopt_workers(&pool.seats) {
            return Ok(pool);
        }
        for (worker, seat) in pool.seats.iter().enumerate() {
            let seat = Arc::clone(seat);
            let thread = std::thread::Builder::new().name(format!("nvferry-io-{worker}")).spawn(move || seat.run());
            match thread {
                Ok(thread) => pool.threads.lock().push(thread),
                Err(error) => {
                    pool.stop();
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Waits of callers that drove a worker themselves.
    pub(crate) fn driven_waits(&self) -> u64 {
        self.seats.iter().map(|seat| seat.visits()).sum()
    }

    /// What the bounce buffers of all workers hold.
    pub(crate) fn bounce_stats(&self) -> PoolStats {
        self.bounce.iter().map(BufferPool::stats).fold(PoolStats::default(), |sum, pool| PoolStats {
            in_use_bytes: sum.in_use_bytes + pool.in_use_bytes,
            free_bytes: sum.free_bytes + pool.free_bytes,
            ..sum
        })
    }

    /// Which paths each worker's data took.
    pub(crate) fn paths_taken(&self) -> Vec<PathTotals> {
        self.taken.iter().map(|taken| taken.totals()).collect()
    }

    pub(crate) fn seat(&self, worker: usize) -> Option<&Seat> {
        self.seats.get(worker).map(Arc::as_ref)
    }

    /// Gives every worker an order.
    pub(crate) fn order_all(&self, mut order: impl FnMut() -> Order) {
        self.seats.iter().for_each(|seat| seat.order(order()));
    }

    /// Ends the workers. Slices of targets that have not been closed before end as given up.
    pub(crate) fn stop(&self) {
        self.order_all(|| Order::Stop);
        let here = std::thread::current().id();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A slice's end may drop the last handle on the pool, on one of its own threads.
            if thread.thread().id() != here && thread.join().is_err() {
                tracing::error!(target: "nvferry::host", "a worker panicked");
            }
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A pool that may be gone.
pub(crate) type WeakPool = Weak<WorkerPool>;
