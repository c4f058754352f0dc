//! Files and block devices of this machine, opened directly. Two host drivers use it.
//!
//! `local`: target and host are the same machine, and files are found by the paths in the segment's description.
//! `kernel`: the kernel's NVMe devices, which [`super::kernel`] finds. Such a device may go and come back; when an error
//! may come from that, the operation is tried again a few times, and waits where its device is found to be away.
//!
//! Only as many bytes are reached as the segment's description names. I/O goes through the worker's engine, past the page
//! cache where that is asked for; what is not aligned goes through bounce buffers. A slice that times out while the
//! system works on it ends in time, but its memory stays leased until the system is done with it.

use super::kernel::{Doorbell, KernelDevice, errno};
use super::namespaces::{HostNamespace, NamespaceTable, Presence};
use crate::attachment::AttachmentId;
use crate::intake::Intake;
use crate::intake::edges::{BlockPlace, EdgeId};
use crate::intake::lanes::{Job, LaneId};
use crate::status::{CommandLatencies, Counters};
use crate::worker::LocalIo;
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{EngineError, Failure, FileBufferDesc, FileBufferId, Operation, SegmentDesc, Slice};
use nvferry_io::file::{FileKind, FileOptions};
use nvferry_io::{BufferPool, IoBuf, IoCompletion, IoFile, IoKind, IoRequest};
use nvferry_wire::{Nguid, Nsid};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest operation.
pub(crate) const MAX_TRANSFER_BYTES: u32 = 1 << 20;
/// How often an operation is tried on a kernel device, before an error that may mean a lost device is believed.
const TRIES: u8 = 4;
/// The wait before it is tried again, times the number of tries so far: the time to find out what became of the device.
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// The number of tries that counts for that at most.
const MAX_WAITS: u8 = 5;
/// The wait for a bounce buffer that others of the worker have.
const POOL_RETRY: Duration = Duration::from_millis(1);

/// A file of the segment, opened.
#[derive(Debug)]
struct LocalFile {
    path: String,
    size_bytes: u64,
    file: Arc<IoFile>,
    /// For the last block, where the registered size ends within it: opened buffered, so that nothing beyond the size
    /// is written.
    tail: Option<Arc<IoFile>>,
    /// The kernel's NVMe device that it is.
    device: Option<KernelDevice>,
}

/// Why there is no device for a file.
#[derive(Debug)]
pub(crate) enum NoDevice {
    /// It is not there, or cannot be used yet, in words.
    Missing(String),
    /// Its target has another file in its place, which had that NGUID and has this one.
    Replaced { was: Nguid, now: Option<Nguid> },
}

/// The files of a segment on this machine.
#[derive(Debug)]
pub(crate) struct LocalFiles {
    pub(crate) table: Arc<NamespaceTable>,
    /// The longest operation.
    pub(crate) max_transfer_bytes: u32,
    files: HashMap<FileBufferId, Arc<LocalFile>>,
    /// Rung when an error says that a kernel device may be gone; the `local` driver has none.
    doorbell: Option<Arc<Doorbell>>,
}

impl LocalFiles {
    /// Opens what the segment describes. Files that `before` has open already stay open.
    ///
    /// # Errors
    /// A file that is not here, cannot be opened, or is smaller than described.
    pub(crate) fn open(segment: &SegmentDesc, direct: bool, before: Option<&Self>) -> Result<Self, EngineError> {
        let mut files = HashMap::new();
        for desc in &segment.file_buffers {
            let known = before.and_then(|before| before.files.get(&desc.id));
            let known = known.filter(|file| file.path == desc.path && file.size_bytes == desc.size);
            let file = match known {
                Some(file) => Arc::clone(file),
                None => Arc::new(LocalFile::open(desc, direct).map_err(|why| {
                    let message = format!(
                        "file {} of segment {} cannot be reached by the local driver: {why}; is the segment's target \
                         on this machine?",
                        desc.id, segment.name
                    );
                    EngineError::new(ErrorKind::DeviceNotFound, message)
                })?),
            };
            files.insert(desc.id, file);
        }
        let namespaces = files.iter().map(|(id, file)| file.namespace(*id)).collect();
        let table = Arc::new(NamespaceTable::new(namespaces));
        Ok(Self { table, max_transfer_bytes: MAX_TRANSFER_BYTES, files, doorbell: None })
    }

    /// No device yet.
    pub(crate) fn of_no_devices(doorbell: Arc<Doorbell>) -> Self {
        let (table, files) = (Arc::default(), HashMap::new());
        Self { table, max_transfer_bytes: MAX_TRANSFER_BYTES, files, doorbell: Some(doorbell) }
    }

    /// Opens the devices that were found for what a segment describes. Those that are open already stay open; those that
    /// were there `before` and are not now are awaited; one that is here and cannot be used is left out, as is one that
    /// never came. Returns what is missing, and why.
    pub(crate) fn of_devices(
        found: Vec<(FileBufferDesc, Result<KernelDevice, NoDevice>)>,
        direct: bool,
        before: &Self,
    ) -> (Self, Vec<(FileBufferId, String)>) {
        let (mut files, mut missing, mut namespaces) = (HashMap::new(), Vec::new(), Vec::new());
        let mut max_transfer_bytes = MAX_TRANSFER_BYTES;
        for (desc, device) in found {
            let known = before.files.get(&desc.id);
            let file = device.and_then(|device| match known {
                Some(file) if file.device.as_ref() == Some(&device) && file.size_bytes == desc.size => {
                    Ok(Arc::clone(file))
                }
                _ => LocalFile::open_device(&desc, device, direct).map(Arc::new).map_err(NoDevice::Missing),
            });
            match file {
                Ok(file) => {
                    namespaces.push(file.namespace(desc.id));
                    let most = file.device.as_ref().map_or(u32::MAX, |device| device.max_transfer_bytes);
                    max_transfer_bytes = max_transfer_bytes.min(most);
                    files.insert(desc.id, file);
                }
                Err(NoDevice::Missing(why)) => {
                    let was = before.table.get(desc.id);
                    namespaces.extend(was.map(|was| HostNamespace { presence: Presence::Awaited, ..*was }));
                    missing.push((desc.id, why));
                }
                Err(NoDevice::Replaced { was, now: nguid }) => {
                    let (nsid, presence) = (Nsid(desc.id.0), Presence::Replaced { was });
                    // Nothing is moved: what its blocks are like is of no account.
                    namespaces.push(HostNamespace { nsid, block_shift: 0, blocks: desc.size, nguid, presence });
                }
            }
        }
        let table = Arc::new(NamespaceTable::new(namespaces));
        (Self { table, max_transfer_bytes, files, doorbell: before.doorbell.clone() }, missing)
    }

    /// Whether both are the same open files.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let same = |(id, file): (&FileBufferId, &Arc<LocalFile>)| {
            other.files.get(id).is_some_and(|other| Arc::ptr_eq(file, other))
        };
        self.table == other.table && self.files.len() == other.files.len() && self.files.iter().all(same)
    }
}

impl LocalFile {
    fn open(desc: &FileBufferDesc, direct: bool) -> Result<Self, String> {
        let open = |direct| IoFile::open(&desc.path, FileOptions { direct, write: true });
        let file = open(direct).map_err(|error| error.to_string())?;
        let has = file.size_bytes().map_err(|error| error.to_string())?;
        if has < desc.size {
            return Err(format!("{} has {has} bytes, not the {} that are described", desc.path, desc.size));
        }
        let unit = u64::from(unit_bytes(&file));
        let tail =
            if desc.size.is_multiple_of(unit) { None } else { Some(open(false).map_err(|error| error.to_string())?) };
        let (file, tail) = (Arc::new(file), tail.map(Arc::new));
        Ok(Self { path: desc.path.clone(), size_bytes: desc.size, file, tail, device: None })
    }

    /// Opens a kernel device. Where the file's size ends within its last block, that block is written whole: the device
    /// has all of it.
    fn open_device(desc: &FileBufferDesc, device: KernelDevice, direct: bool) -> Result<Self, String> {
        let path = device.path.display().to_string();
        let file =
            IoFile::open(&device.path, FileOptions { direct, write: true }).map_err(|error| error.to_string())?;
        if device_number(&file) != Some(device.number) {
            return Err(format!("{path} was another device when it was opened"));
        }
        let has = file.size_bytes().map_err(|error| error.to_string())?;
        if has < desc.size {
            return Err(format!(
                "{path} has {has} bytes, not the {} that are described: a kernel target offers whole blocks only, so \
                 register a size that is a multiple of its block, or a longer file",
                desc.size
            ));
        }
        Ok(Self { path, size_bytes: desc.size, file: Arc::new(file), tail: None, device: Some(device) })
    }

    fn namespace(&self, id: FileBufferId) -> HostNamespace {
        let unit = unit_bytes(&self.file);
        HostNamespace {
            nsid: Nsid(id.0),
            block_shift: unit.trailing_zeros() as u8,
            blocks: self.size_bytes.div_ceil(u64::from(unit)),
            nguid: self.device.as_ref().and_then(|device| device.nguid),
            presence: Presence::Present,
        }
    }

    /// What does I/O on that block: its file, and how many of its bytes there are.
    fn of_block(&self, place: BlockPlace) -> (&Arc<IoFile>, usize) {
        match &self.tail {
            Some(tail) if place.start + u64::from(place.len) > self.size_bytes => {
                (tail, (self.size_bytes - place.start) as usize)
            }
            _ => (&self.file, place.len as usize),
        }
    }
}

/// The number of a block device that was opened.
fn device_number(file: &IoFile) -> Option<u64> {
    match file.kind() {
        FileKind::BlockDevice => Some(file.identity().device),
        // Tests have no devices; files with number 0 stand for them.
        FileKind::Regular => cfg!(test).then_some(0),
    }
}

/// The unit in which a file takes I/O: one byte through the page cache.
fn unit_bytes(file: &IoFile) -> u32 {
    if file.is_direct() { file.geometry().dio_offset_align_bytes.max(1) } else { 1 }
}

/// How long after so many tries an operation is tried again.
fn wait(attempts: u8) -> Duration {
    RETRY_WAIT * u32::from(attempts.saturating_add(1).min(MAX_WAITS))
}

/// What an operation under way is for.
#[derive(Debug)]
enum Op {
    /// Moves a slice, which is gone if it timed out. In a bounce buffer it begins at `skip`.
    Slice {
        slice: Option<Slice>,
        skip: usize,
        attempts: u8,
        op: Operation,
        begun_us: u32,
    },
    EdgeRead(EdgeId, u8),
    EdgeWrite(EdgeId, u8),
}

/// One worker's way to the files of one segment on this machine.
#[derive(Debug)]
pub(crate) struct LocalDevice {
    id: AttachmentId,
    intake: Intake,
    files: Arc<LocalFiles>,
    pool: BufferPool,
    /// Operations under way, by the low half of their token.
    ops: Vec<Option<(LaneId, Op)>>,
    free: Vec<u32>,
}

impl LocalDevice {
    pub(crate) fn new(id: AttachmentId, files: Arc<LocalFiles>, pool: BufferPool) -> Self {
        let mut intake = Intake::new(Arc::clone(&files.table));
        intake.set_max_transfer(files.max_transfer_bytes);
        Self { id, intake, files, pool, ops: Vec::new(), free: Vec::new() }
    }

    /// Whose operation it was.
    pub(crate) fn owner(completion: &IoCompletion) -> AttachmentId {
        AttachmentId((completion.token >> 32) as u32)
    }

    pub(crate) fn submit(&mut self, slice: Slice) {
        let file = self.files.files.get(&slice.file);
        // The last block may reach beyond the file's registered size; the slice may not.
        if let Some(size) = file.map(|file| file.size_bytes)
            && slice.offset.checked_add(slice.len() as u64).is_none_or(|end| end > size)
        {
            return self.intake.fail(slice, format_args!("it reaches beyond the file's {size} bytes"));
        }
        self.intake.submit(slice);
    }

    pub(crate) fn set_files(&mut self, files: Arc<LocalFiles>) {
        self.intake.set_max_transfer(files.max_transfer_bytes);
        self.intake.set_namespaces(Arc::clone(&files.table));
        self.files = files;
    }

    pub(crate) fn counters(&self) -> Counters {
        self.intake.counters
    }

    /// Operations under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.ops.len() - self.free.len()
    }

    /// Slices, or parts of them, that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.intake.waiting()
    }

    /// Slices, or parts of them, that wait or are under way.
    pub(crate) fn load(&self) -> usize {
        self.waiting() + self.in_flight()
    }

    /// Notes there how long operations take.
    pub(crate) fn note_latencies_in(&mut self, latencies: Arc<CommandLatencies>) {
        self.intake.latencies = latencies;
    }

    /// Whether no slice is here. Operations whose slices have ended may still be under way.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = |op: &Option<(LaneId, Op)>| {
            matches!(op, Some((_, Op::Slice { slice: Some(_), .. } | Op::EdgeRead(..) | Op::EdgeWrite(..))))
        };
        self.intake.is_empty() && !self.ops.iter().any(waits)
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.intake.next_check()
    }

    /// Begins what can be begun. Always `false`: what is left waits for completions, or for the time.
    pub(crate) fn drive(&mut self, io: &mut LocalIo, now: Instant) -> bool {
        let begun_us = self.intake.micros(now);
        while io.room() > 0 {
            let Some((lane, namespace, job)) = self.intake.next_job(io.room(), now) else { break };
            if let Err(job) = self.begin(lane, &namespace, job, io, begun_us) {
                // Bounce buffers come back when operations end; those of other segments tell nobody here.
                self.intake.lanes.push_front(lane, job);
                self.intake.check_by(now + POOL_RETRY);
                break;
            }
        }
        false
    }

    /// Makes a job an operation, or gives it back for want of a bounce buffer.
    fn begin(
        &mut self,
        lane: LaneId,
        namespace: &HostNamespace,
        job: Job,
        io: &mut LocalIo,
        begun_us: u32,
    ) -> Result<(), Job> {
        let Some(file) = self.files.files.get(&self.intake.lanes.get(lane).file).cloned() else {
            let why = crate::intake::lanes::WITHDRAWN;
            self.intake.fail_job(lane, job, || Failure::failed(why));
            return Ok(());
        };
        let (op, io_file, kind, offset, buf) = match job {
            Job::Slice(slice, attempts) => {
                let (kind, offset, buf) = match self.slice_io(&file.file, namespace, &slice) {
                    Some(io) => io,
                    None => return Err(Job::Slice(slice, attempts)),
                };
                let skip = (slice.offset - offset) as usize;
                let op = slice.op;
                (Op::Slice { slice: Some(slice), skip, attempts, op, begun_us }, &file.file, kind, offset, buf)
            }
            Job::EdgeRead(edge, attempts) => {
                let place = self.intake.edges.place(edge);
                let (io_file, len) = file.of_block(place);
                let Some(buf) = self.pool.get(place.len as usize) else { return Err(job) };
                (Op::EdgeRead(edge, attempts), io_file, IoKind::Read, place.start, IoBuf::Pool(buf, len))
            }
            Job::EdgeWrite(edge, attempts) => {
                let place = self.intake.edges.place(edge);
                let (io_file, len) = file.of_block(place);
                let Some(buf) = self.intake.edges.take_merged(edge) else { return Ok(()) };
                (Op::EdgeWrite(edge, attempts), io_file, IoKind::Write, place.start, IoBuf::Pool(buf, len))
            }
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.ops.push(None);
            self.ops.len() as u32 - 1
        });
        self.ops[index as usize] = Some((lane, op));
        self.intake.lanes.get_mut(lane).in_flight += 1;
        let token = u64::from(self.id.0) << 32 | u64::from(index);
        io.submit(IoRequest { token, file: Arc::clone(io_file), kind, offset, buf });
        Ok(())
    }

    /// How a slice is moved: straight, or through a bounce buffer.
    fn slice_io(&self, file: &IoFile, namespace: &HostNamespace, slice: &Slice) -> Option<(IoKind, u64, IoBuf)> {
        let kind = match slice.op {
            Operation::Read => IoKind::Read,
            Operation::Write => IoKind::Write,
        };
        if file.is_aligned(slice.offset, slice.len() as u64, slice.memory.address()) {
            return Some((kind, slice.offset, IoBuf::Leased(slice.memory.clone())));
        }
        let mask = u64::from(namespace.block_bytes()) - 1;
        let first = slice.offset & !mask;
        let len = ((slice.offset + slice.len() as u64 + mask) & !mask) - first;
        // A job is at most one operation long.
        let mut buf = self.pool.get(len as usize)?;
        if slice.op == Operation::Write {
            // Writes come in whole blocks here, so nothing stands before or behind the slice.
            slice.memory.copy_to(0, &mut buf[..slice.len()]);
        }
        Some((kind, first, IoBuf::Pool(buf, len as usize)))
    }

    /// An operation has ended.
    pub(crate) fn completed(&mut self, completion: IoCompletion, now: Instant) {
        let index = completion.token as u32;
        let Some((lane, op)) = self.ops.get_mut(index as usize).and_then(Option::take) else { return };
        self.free.push(index);
        self.intake.lanes.get_mut(lane).in_flight -= 1;
        let IoCompletion { result, buf, .. } = completion;
        if let Op::Slice { op, begun_us, .. } = op {
            self.intake.note_took(op, begun_us, now);
        }
        match op {
            Op::Slice { slice: Some(slice), skip, attempts, .. } => {
                // A read that ends early on a device of a fixed size: it is being removed.
                let short = matches!(result, Ok(n) if n < skip + slice.len());
                if self.is_tried_again(attempts, result.as_ref().err(), short, now) {
                    // The operation's lease ends before the slice does.
                    drop(buf);
                    return self.intake.try_again(
                        lane,
                        Job::Slice(slice, attempts.saturating_add(1)),
                        wait(attempts),
                        now,
                    );
                }
                self.slice_ended(slice, skip, result, buf, now);
            }
            Op::Slice { slice: None, .. } => {}
            Op::EdgeRead(edge, attempts) => match (result, buf) {
                (Ok(n), IoBuf::Pool(mut block, len)) if self.files.doorbell.is_none() || n == len => {
                    // What the file does not have reads as zeroes.
                    block[n..].fill(0);
                    let (step, merged_bytes) = self.intake.edges.read(edge, block);
                    self.intake.counters.bounced_bytes += merged_bytes as u64;
                    self.intake.edge_step(lane, step);
                }
                (result, _) => {
                    self.edge_trouble(lane, Job::EdgeRead(edge, attempts.saturating_add(1)), attempts, result, now)
                }
            },
            Op::EdgeWrite(edge, attempts) => match (result, buf) {
                (Ok(n), IoBuf::Pool(_, len)) if n == len => self.intake.edge_written(lane, edge, now),
                (result, buf) => {
                    if let IoBuf::Pool(block, _) = buf {
                        self.intake.edges.put_merged(edge, block);
                    }
                    self.edge_trouble(lane, Job::EdgeWrite(edge, attempts.saturating_add(1)), attempts, result, now);
                }
            },
        }
    }

    /// Whether an operation's trouble may come from its device's going, and it is to be tried again: a few times, and as long
    /// as the device may be one of a connection that was lost. Whoever watches the devices hears of it.
    fn is_tried_again(&self, attempts: u8, error: Option<&io::Error>, short: bool, now: Instant) -> bool {
        let Some(doorbell) = &self.files.doorbell else { return false };
        let errno = error.and_then(io::Error::raw_os_error);
        let suspicious = short || errno.is_some_and(errno::may_be_gone);
        if suspicious {
            doorbell.ring();
        }
        suspicious && (attempts + 1 < TRIES || doorbell.is_in_doubt(now))
    }

    fn slice_ended(&mut self, slice: Slice, skip: usize, result: io::Result<usize>, buf: IoBuf, now: Instant) {
        let outcome = match result {
            Err(error) => Err(self.failure_of(&error, slice.op)),
            Ok(n) if n < skip + slice.len() => {
                let n = n.saturating_sub(skip);
                let why = format!("the file ended after {n} bytes of them: it was made smaller");
                Err(Failure::failed(why))
            }
            Ok(_) => {
                if let IoBuf::Pool(block, _) = &buf {
                    self.intake.counters.bounced_bytes += slice.len() as u64;
                    if slice.op == Operation::Read {
                        slice.memory.copy_from(0, &block[skip..skip + slice.len()]);
                    }
                }
                Ok(())
            }
        };
        // The operation's lease ends before the slice does: whoever is woken finds the memory free.
        drop(buf);
        match outcome {
            Ok(()) => self.intake.complete(slice, now),
            Err(failure) => self.intake.fail_with(slice, failure),
        }
    }

    /// Reading or writing a block that is changed in part has failed; `job` is the next try.
    fn edge_trouble(&mut self, lane: LaneId, job: Job, attempts: u8, result: io::Result<usize>, now: Instant) {
        if self.is_tried_again(attempts, result.as_ref().err(), result.is_ok(), now) {
            return self.intake.try_again(lane, job, wait(attempts), now);
        }
        let error = result.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
        let op = if matches!(job, Job::EdgeRead(..)) { Operation::Read } else { Operation::Write };
        let failure = self.failure_of(&error, op);
        self.intake.fail_job(lane, job, || failure.clone());
    }

    fn failure_of(&self, error: &io::Error, op: Operation) -> Failure {
        if self.files.doorbell.is_some() {
            return errno::failure(error, op);
        }
        Failure { errno: error.raw_os_error(), ..Failure::failed(error.to_string()) }
    }

    /// Looks at deadlines.
    pub(crate) fn tick(&mut self, now: Instant) {
        const WHY: &str = "the deadline passed before the file was done";
        if !self.intake.expire(now, || WHY.to_owned()) {
            return;
        }
        for op in &mut self.ops {
            let Some((_, Op::Slice { slice: slot, .. })) = op else { continue };
            match slot {
                Some(slice) if slice.deadline <= now => {
                    if let Some(slice) = slot.take() {
                        self.intake.time_out(slice, WHY);
                    }
                }
                Some(slice) => self.intake.check_by(slice.deadline),
                None => {}
            }
        }
    }

    /// Ends everything.
    pub(crate) fn close(&mut self, why: impl Fn() -> Failure) {
        for op in &mut self.ops {
            if let Some((_, Op::Slice { slice: slot, .. })) = op
                && let Some(slice) = slot.take()
            {
                self.intake.fail_with(slice, why());
            }
        }
        self.intake.close(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_io::pool::PoolConfig;

    #[test]
    fn p08_errors_of_a_device_whose_connection_was_lost_are_waited_out() {
        let bell = Arc::new(Doorbell::default());
        let files = Arc::new(LocalFiles::of_no_devices(Arc::clone(&bell)));
        let device = LocalDevice::new(AttachmentId(1), files, BufferPool::new(PoolConfig::default()));
        let now = Instant::now();
        // Linux's EIO and ENODATA: a device that may be gone, and a medium that has lost something.
        let (gone, lost) = (io::Error::from_raw_os_error(5), io::Error::from_raw_os_error(61));
        let again = |attempts, error: &io::Error, now| device.is_tried_again(attempts, Some(error), false, now);
        assert!(again(0, &gone, now) && again(2, &gone, now));
        assert!(!again(3, &gone, now), "it is believed");
        bell.doubt_until(now + Duration::from_secs(10));
        assert!(again(200, &gone, now + Duration::from_secs(9)) && !again(200, &gone, now + Duration::from_secs(10)));
        assert!(!again(0, &lost, now));
        assert_eq!([wait(0), wait(1), wait(200)].map(|wait| wait.as_millis()), [100, 200, 500]);
    }
}
