//! Another engine's segment: cuts slices where its device needs it, and chooses the workers.

use crate::attachment::{Attachment, Latch};
use crate::config::{HostSettings, KernelSettings, MAX_WORKERS, Settings};
use crate::host::identity::described;
use crate::host::kernel::session::{KernelHost, KernelTarget, no_thread};
use crate::host::local::LocalFiles;
use crate::host::userspace::control::{ControlHandle, ControlMessage};
use crate::host::userspace::session::worker_of;
use crate::intake::split::{CutRules, cut};
use crate::transport::userspace_destination;
use crate::trid;
use crate::worker::{Order, Seat, WorkerPool, current_thread};
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{
    EngineError, Failure, FileBufferId, FileLimits, Operation, RemoteSegment, SegmentDesc, Slice, Waiting,
};
use nvferry_io::clock;
use nvferry_io::fast_paths::Force;
use nvferry_libnvme_sys::{ConnectOptions, ConnectRequest};
use nvferry_wire::trid::TrType;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Instant;

/// Bytes that one worker is given before the next one gets any: little work stays together, so that it is sent in few
/// system calls, and much work spreads.
const BYTES_PER_WORKER: u64 = 1 << 20;
/// The same in slices.
const SLICES_PER_WORKER: u64 = 64;

/// How the segment's files are reached.
#[derive(Debug)]
pub(crate) enum Way {
    /// Over NVMe/TCP.
    Userspace(ControlHandle),
    /// As the kernel's NVMe devices.
    Kernel { host: KernelHost, plan: KernelPlan },
    /// As files of this machine.
    Local { files: Mutex<Arc<LocalFiles>>, direct: bool },
}

/// How this host wants the kernel to connect, whatever the target.
#[derive(Debug, Clone)]
pub(crate) struct KernelPlan {
    host: HostSettings,
    kernel: KernelSettings,
    queues: usize,
}

impl KernelPlan {
    /// One I/O queue for each worker, as far as the kernel has use for them.
    pub(crate) fn new(settings: &Settings, workers: usize) -> Self {
        Self { host: settings.host.clone(), kernel: settings.kernel, queues: workers.clamp(1, MAX_WORKERS) }
    }

    /// What to ask of the kernel to reach a segment's target.
    ///
    /// # Errors
    /// The description does not say where that is.
    pub(crate) fn request(&self, segment: &SegmentDesc) -> Result<ConnectRequest, EngineError> {
        let (trid, subnqn) = trid::read(segment)?;
        let is_tcp = trid.trtype == TrType::Tcp;
        Ok(ConnectRequest {
            transport: trid.trtype.to_string(),
            traddr: trid.traddr.to_string(),
            trsvcid: trid.trsvcid.to_string(),
            subsysnqn: subnqn.to_string(),
            hostnqn: self.host.host_nqn.to_string(),
            hostid: self.host.host_id.to_string(),
            secret: self.host.secret.clone(),
            controller_secret: self.host.controller_secret.clone(),
            options: ConnectOptions {
                nr_io_queues: Some(self.queues as u16),
                queue_size: Some(self.host.queue_depth.clamp(KERNEL_QUEUE_SIZE.0, KERNEL_QUEUE_SIZE.1)),
                // The kernel counts whole seconds, and takes 0 for "none".
                keep_alive_tmo_s: Some(self.host.kato.as_millis().div_ceil(1000) as u32),
                reconnect_delay_s: Some(self.kernel.reconnect_delay_s),
                ctrl_loss_tmo_s: Some(self.kernel.ctrl_loss_tmo_s),
                // Only NVMe/TCP has any.
                hdr_digest: is_tcp && self.host.digests.header,
                data_digest: is_tcp && self.host.digests.data,
            },
        })
    }
}

/// The least and the most entries of a queue that the kernel takes (NVMF_MIN_QUEUE_SIZE, NVMF_MAX_QUEUE_SIZE).
const KERNEL_QUEUE_SIZE: (u16, u16) = (16, 1024);

/// Another engine's segment.
#[derive(Debug)]
pub(crate) struct Remote {
    attachment: Arc<Attachment>,
    pool: Arc<WorkerPool>,
    way: Way,
}

impl Remote {
    /// Connects to a segment's target.
    ///
    /// # Errors
    /// It cannot be reached by the deadline.
    pub(crate) fn attach(
        attachment: Arc<Attachment>,
        pool: Arc<WorkerPool>,
        control: ControlHandle,
        segment: &SegmentDesc,
        settings: HostSettings,
        deadline: Instant,
    ) -> Result<Self, EngineError> {
        let destination = userspace_destination(segment)?;
        pool.order_all(|| Order::OpenRemote(Arc::clone(&attachment)));
        let (reply, answer) = sync_channel(1);
        control.send(ControlMessage::Attach {
            attachment: Arc::clone(&attachment),
            destination,
            described: described(&segment.file_buffers),
            settings,
            pool: Arc::downgrade(&pool),
            reply,
        });
        let remote = Self { attachment, pool, way: Way::Userspace(control) };
        // On failure the drop lets go of everything.
        wait(&answer, deadline, &remote.attachment)?;
        Ok(remote)
    }

    /// Has the kernel connect to a segment's target, and opens the devices.
    ///
    /// # Errors
    /// The kernel cannot connect, or no device comes by the deadline.
    pub(crate) fn attach_kernel(
        attachment: Arc<Attachment>,
        pool: Arc<WorkerPool>,
        plan: KernelPlan,
        target: KernelTarget,
        segment: &SegmentDesc,
        deadline: Instant,
    ) -> Result<Self, EngineError> {
        let (reply, answer) = sync_channel(1);
        let files = segment.file_buffers.clone();
        let host = KernelHost::start(Arc::clone(&attachment), Arc::downgrade(&pool), target, files, reply);
        let host = host.map_err(|error| no_thread(&error))?;
        let remote = Self { attachment, pool, way: Way::Kernel { host, plan } };
        // On failure the drop lets go of everything.
        wait(&answer, deadline, &remote.attachment)?;
        Ok(remote)
    }

    /// Opens a segment's files.
    pub(crate) fn open_local(
        attachment: Arc<Attachment>,
        pool: Arc<WorkerPool>,
        files: LocalFiles,
        direct: bool,
    ) -> Self {
        let files = Arc::new(files);
        pool.order_all(|| Order::OpenLocal(Arc::clone(&attachment), Arc::clone(&files)));
        Self { attachment, pool, way: Way::Local { files: Mutex::new(files), direct } }
    }

    pub(crate) fn attachment(&self) -> &Arc<Attachment> {
        &self.attachment
    }

    /// Hands a run of slices to a worker.
    fn put(&self, rank: usize, slices: impl Iterator<Item = Slice>) {
        if let Some(seat) = self.seat(rank) {
            seat.put(self.attachment.id, slices);
        }
    }

    fn load(&self, rank: usize) -> usize {
        self.seat(rank).map_or(0, Seat::load)
    }

    fn seat(&self, rank: usize) -> Option<&Seat> {
        self.pool.seat(worker_of(rank, self.attachment.id.0, self.pool.len()))
    }

    /// Workers that have a way to the target.
    fn queues(&self) -> usize {
        self.attachment.with_view(|view| view.queues).clamp(1, self.pool.len().min(MAX_WORKERS))
    }

    /// Spreads slices over `queues` workers. Each thread begins with another worker, so that threads that work side by
    /// side meet as late as possible.
    fn spread(&self, slices: &mut Vec<Slice>, queues: usize) {
        if queues == 1 {
            return self.put(0, slices.drain(..));
        }
        let first = current_thread();
        let rank_of = |i: usize| (first + i) % queues;
        let bytes: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        let per_worker = match self.pool.paths.spread {
            Force::Auto => slices_per_worker(bytes, slices.len() as u64),
            Force::On => 1,
            Force::Off => usize::MAX,
        };
        let counts = shares(slices.len(), per_worker, queues, |i| self.load(rank_of(i)));
        // From the end, so that nothing moves up.
        for (i, &count) in counts[..queues].iter().enumerate().rev() {
            if count > 0 {
                self.put(rank_of(i), slices.drain(slices.len() - count..));
            }
        }
    }

    /// Cuts what has to be cut before a worker is chosen: partly covered blocks go where they are locked.
    fn cut_edges(&self, slices: &mut Vec<Slice>, queues: usize) {
        self.attachment.with_view(|view| {
            let rules_of = |slice: &Slice| {
                let namespace = view.table.get(slice.file)?;
                let max_bytes = namespace.max_command_bytes(view.max_transfer_bytes);
                Some(CutRules { block_bytes: namespace.block_bytes(), max_bytes })
            };
            let is_plain = |slice: &Slice| {
                // Files that are not known are the worker's to refuse.
                let Some(rules) = rules_of(slice) else { return true };
                rules.fits(slice) && (slice.op == Operation::Read || rules.is_whole(slice.offset, slice.len()))
            };
            let mut i = 0;
            while i < slices.len() {
                if is_plain(&slices[i]) {
                    i += 1;
                    continue;
                }
                let slice = slices.swap_remove(i);
                let Some(rules) = rules_of(&slice) else { continue };
                cut(slice, rules, |part| {
                    if part.op == Operation::Read || rules.is_whole(part.offset, part.len()) {
                        slices.push(part);
                    } else {
                        let rank = rank_of_block(part.file, part.offset / u64::from(rules.block_bytes), queues);
                        self.put(rank, std::iter::once(part));
                    }
                });
            }
        });
    }

    /// Whether its target is known to be gone. The kernel keeps that to itself, and holds what is under way.
    fn is_lost(&self) -> bool {
        matches!(self.way, Way::Userspace(_))
            && matches!(self.attachment.status().state, crate::status::ConnectionState::Reconnecting(_))
    }

    fn let_go(&self, deadline: Instant) {
        if !self.attachment.close() {
            return;
        }
        let done = Latch::new(self.pool.len());
        let id = self.attachment.id;
        self.pool.order_all(|| Order::Close { id, deadline, done: Arc::clone(&done) });
        // Workers end what is left at the deadline; they are given a moment to do it. Where the connection is lost, or is found
        // to be lost meanwhile, nothing is waited for.
        while !done.wait((deadline + CLOSE_GRACE).min(clock::now() + CLOSE_LOOK))
            && clock::now() < deadline + CLOSE_GRACE
        {
            if self.is_lost() {
                self.pool.order_all(|| Order::EndNow { id });
                done.wait(clock::now() + CLOSE_GRACE);
                break;
            }
        }
        let done = Latch::new(1);
        match &self.way {
            Way::Userspace(control) => {
                control.send(ControlMessage::Close { id, deadline, done: Arc::clone(&done) });
            }
            Way::Kernel { host, .. } => host.close(Arc::clone(&done)),
            Way::Local { .. } => return,
        }
        done.wait(deadline + CLOSE_GRACE);
    }
}

/// Between two looks whether the target of a segment that is being closed is still there.
const CLOSE_LOOK: std::time::Duration = std::time::Duration::from_millis(50);
/// Beyond a closing deadline: the time to end what did not end by itself.
const CLOSE_GRACE: std::time::Duration = std::time::Duration::from_millis(500);

impl RemoteSegment for Remote {
    fn file_limits(&self, file: FileBufferId) -> Option<FileLimits> {
        let limits = self.attachment.with_view(|view| {
            let namespace = view.table.get(file)?;
            let max_slice_bytes = namespace.max_command_bytes(view.max_transfer_bytes).into();
            Some(FileLimits { max_slice_bytes, block_bytes: namespace.block_bytes() })
        });
        if limits.is_none() {
            match &self.way {
                Way::Userspace(control) => control.send(ControlMessage::Rescan { id: self.attachment.id }),
                Way::Kernel { host, .. } => host.look(),
                Way::Local { .. } => {}
            }
        }
        limits
    }

    fn update(&self, segment: &SegmentDesc, deadline: Instant) -> Result<(), EngineError> {
        match &self.way {
            Way::Userspace(control) => {
                let (reply, answer) = sync_channel(1);
                let destination = userspace_destination(segment)?;
                control.send(ControlMessage::Update {
                    id: self.attachment.id,
                    destination,
                    described: described(&segment.file_buffers),
                    reply,
                });
                wait(&answer, deadline, &self.attachment)
            }
            Way::Kernel { host, plan } => {
                let (reply, answer) = sync_channel(1);
                host.update(plan.request(segment)?, segment.file_buffers.clone(), reply);
                wait(&answer, deadline, &self.attachment)
            }
            Way::Local { files, direct } => {
                let mut current = files.lock();
                let files = Arc::new(LocalFiles::open(segment, *direct, Some(&current))?);
                *current = Arc::clone(&files);
                self.attachment.change_view(|view| view.table = Arc::clone(&files.table));
                let id = self.attachment.id;
                self.pool.order_all(|| Order::LocalFiles { id, files: Arc::clone(&files) });
                Ok(())
            }
        }
    }

    fn submit(&self, slices: &mut Vec<Slice>) {
        if self.attachment.is_closed() {
            for slice in slices.drain(..) {
                let failure = Failure::canceled("its segment has been closed");
                slice.fail(failure);
            }
            return;
        }
        let queues = self.queues();
        self.cut_edges(slices, queues);
        if !slices.is_empty() {
            self.spread(slices, queues);
        }
    }

    fn help(&self, waiting: &dyn Waiting, until: Instant) -> bool {
        let first = current_thread();
        let queues = self.queues();
        let busy = (0..queues).map(|i| (first + i) % queues).find(|&rank| self.load(rank) > 0);
        busy.and_then(|rank| self.seat(rank)).is_some_and(|seat| seat.help(waiting, until))
    }

    fn target(&self) -> String {
        self.attachment.target.to_string()
    }

    fn close(&self, deadline: Instant) {
        self.let_go(deadline);
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.let_go(clock::now());
    }
}

/// Waits for the control thread's answer.
fn wait(
    answer: &std::sync::mpsc::Receiver<Result<(), EngineError>>,
    deadline: Instant,
    attachment: &Attachment,
) -> Result<(), EngineError> {
    #[cfg(feature = "simulation")]
    let answered = crate::simulation::receive(answer, deadline);
    #[cfg(not(feature = "simulation"))]
    let answered = answer.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    let why = match answered {
        Ok(result) => return result,
        Err(RecvTimeoutError::Timeout) => match attachment.status().state {
            crate::status::ConnectionState::Reconnecting(error) => format!("it cannot be reached: {error}"),
            _ => "it did not answer in time".to_owned(),
        },
        Err(RecvTimeoutError::Disconnected) => "it is no longer attached".to_owned(),
    };
    Err(EngineError::new(ErrorKind::Socket, format!("cannot attach to {}: {why}", attachment.target)))
}

/// How many slices a worker is given before the next one gets any.
fn slices_per_worker(bytes: u64, slices: u64) -> usize {
    let average = (bytes / slices.max(1)).max(1);
    (BYTES_PER_WORKER / average).clamp(1, SLICES_PER_WORKER) as usize
}

/// How many of `count` slices each of `workers` gets, given what each has: up to `per_worker` of the first ones that
/// have less, and equal parts of what is beyond that.
fn shares(count: usize, per_worker: usize, workers: usize, load: impl Fn(usize) -> usize) -> [usize; MAX_WORKERS] {
    let mut counts = [0; MAX_WORKERS];
    let workers = workers.clamp(1, MAX_WORKERS);
    let mut left = count;
    for (rank, share) in counts[..workers].iter_mut().enumerate() {
        if left == 0 {
            break;
        }
        *share = per_worker.saturating_sub(load(rank)).min(left);
        left -= *share;
    }
    for (rank, share) in counts[..workers].iter_mut().enumerate() {
        *share += left / workers + usize::from(rank < left % workers);
    }
    counts
}

/// The worker that locks a block.
fn rank_of_block(file: FileBufferId, block: u64, queues: usize) -> usize {
    let mixed = (block ^ u64::from(file.0).rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed >> 32) as usize) % queues.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: usize, per_worker: usize, loads: &[usize]) -> Vec<usize> {
        let counts = shares(count, per_worker, loads.len(), |rank| loads[rank]);
        assert_eq!(counts.iter().sum::<usize>(), count, "nothing is lost");
        counts[..loads.len()].to_vec()
    }

    #[test]
    fn little_work_stays_together_and_much_spreads() {
        assert_eq!(counts(32, 64, &[0, 0, 0, 0]), [32, 0, 0, 0]);
        assert_eq!(counts(1, 64, &[64, 3, 0, 0]), [0, 1, 0, 0], "the first has enough");
        assert_eq!(counts(4096, 16, &[0, 0, 0, 0]), [1024, 1024, 1024, 1024]);
        assert_eq!(counts(5, 2, &[9, 9]), [3, 2], "all have enough");
    }

    #[test]
    fn enough_is_a_matter_of_bytes_and_slices() {
        assert_eq!(slices_per_worker(32 * 4096, 32), 64);
        assert_eq!(slices_per_worker(32 << 16, 32), 16);
        assert_eq!(slices_per_worker(8 << 20, 8), 1);
        assert_eq!(slices_per_worker(512, 1), 64);
    }

    #[test]
    fn blocks_are_spread_over_all_workers() {
        let mut hits = [0; 4];
        (0..4000).for_each(|block| hits[rank_of_block(FileBufferId(1), block, 4)] += 1);
        assert!(hits.iter().all(|&n| (800..1200).contains(&n)), "{hits:?}");
    }
}
