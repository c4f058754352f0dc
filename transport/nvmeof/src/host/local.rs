//! The `local` host driver: the target's files opened directly, where target and host are the same machine.
//!
//! Files are found by the paths in the segment's description, and only as many bytes as it names are reached. I/O
//! goes through the worker's engine, past the page cache where that is asked for; what is not aligned goes through
//! bounce buffers. A slice that times out while the system works on it ends in time, but its memory stays leased
//! until the system is done with it.

use super::namespaces::{HostNamespace, NamespaceTable, Presence};
use crate::attachment::AttachmentId;
use crate::intake::Intake;
use crate::intake::edges::{BlockPlace, EdgeId};
use crate::intake::lanes::{Job, LaneId};
use crate::status::Counters;
use crate::worker::LocalIo;
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{EngineError, Failure, FileBufferDesc, FileBufferId, Operation, SegmentDesc, Slice};
use nvferry_io::file::FileOptions;
use nvferry_io::{BufferPool, IoBuf, IoCompletion, IoFile, IoKind, IoRequest};
use nvferry_wire::Nsid;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest operation.
pub(crate) const MAX_TRANSFER_BYTES: u32 = 1 << 20;
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
}

/// The files of a segment on this machine.
#[derive(Debug)]
pub(crate) struct LocalFiles {
    pub(crate) table: Arc<NamespaceTable>,
    files: HashMap<FileBufferId, Arc<LocalFile>>,
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
        Ok(Self { table: Arc::new(NamespaceTable::new(namespaces)), files })
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
        Ok(Self { path: desc.path.clone(), size_bytes: desc.size, file: Arc::new(file), tail: tail.map(Arc::new) })
    }

    fn namespace(&self, id: FileBufferId) -> HostNamespace {
        let unit = unit_bytes(&self.file);
        HostNamespace {
            nsid: Nsid(id.0),
            block_shift: unit.trailing_zeros() as u8,
            blocks: self.size_bytes.div_ceil(u64::from(unit)),
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

/// The unit in which a file takes I/O: one byte through the page cache.
fn unit_bytes(file: &IoFile) -> u32 {
    if file.is_direct() { file.geometry().dio_offset_align_bytes.max(1) } else { 1 }
}

/// What an operation under way is for.
#[derive(Debug)]
enum Op {
    /// Moves a slice, which is gone if it timed out. In a bounce buffer it begins at `skip`.
    Slice {
        slice: Option<Slice>,
        skip: usize,
    },
    EdgeRead(EdgeId),
    EdgeWrite(EdgeId),
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
        intake.set_max_transfer(MAX_TRANSFER_BYTES);
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
        self.intake.set_namespaces(Arc::clone(&files.table));
        self.files = files;
    }

    pub(crate) fn counters(&self) -> Counters {
        self.intake.counters
    }

    /// Slices, or parts of them, that wait or are under way.
    pub(crate) fn load(&self) -> usize {
        self.intake.waiting() + self.ops.len() - self.free.len()
    }

    /// Whether no slice is here. Operations whose slices have ended may still be under way.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = |op: &Option<(LaneId, Op)>| {
            matches!(op, Some((_, Op::Slice { slice: Some(_), .. } | Op::EdgeRead(_) | Op::EdgeWrite(_))))
        };
        self.intake.is_empty() && !self.ops.iter().any(waits)
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.intake.next_check()
    }

    /// Begins what can be begun. Always `false`: what is left waits for completions, or for the time.
    pub(crate) fn drive(&mut self, io: &mut LocalIo, now: Instant) -> bool {
        while io.room() > 0 {
            let Some((lane, namespace, job)) = self.intake.next_job(io.room(), now) else { break };
            if let Err(job) = self.begin(lane, &namespace, job, io) {
                // Bounce buffers come back when operations end; those of other segments tell nobody here.
                self.intake.lanes.push_front(lane, job);
                self.intake.check_by(now + POOL_RETRY);
                break;
            }
        }
        false
    }

    /// Makes a job an operation, or gives it back for want of a bounce buffer.
    fn begin(&mut self, lane: LaneId, namespace: &HostNamespace, job: Job, io: &mut LocalIo) -> Result<(), Job> {
        let Some(file) = self.files.files.get(&self.intake.lanes.get(lane).file).cloned() else {
            let why = crate::intake::WITHDRAWN;
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
                (Op::Slice { slice: Some(slice), skip }, &file.file, kind, offset, buf)
            }
            Job::EdgeRead(edge, _) => {
                let place = self.intake.edges.place(edge);
                let (io_file, len) = file.of_block(place);
                let Some(buf) = self.pool.get(place.len as usize) else { return Err(job) };
                (Op::EdgeRead(edge), io_file, IoKind::Read, place.start, IoBuf::Pool(buf, len))
            }
            Job::EdgeWrite(edge, _) => {
                let place = self.intake.edges.place(edge);
                let (io_file, len) = file.of_block(place);
                let Some(buf) = self.intake.edges.take_merged(edge) else { return Ok(()) };
                (Op::EdgeWrite(edge), io_file, IoKind::Write, place.start, IoBuf::Pool(buf, len))
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
    pub(crate) fn completed(&mut self, completion: IoCompletion, _now: Instant) {
        let index = completion.token as u32;
        let Some((lane, op)) = self.ops.get_mut(index as usize).and_then(Option::take) else { return };
        self.free.push(index);
        self.intake.lanes.get_mut(lane).in_flight -= 1;
        let IoCompletion { result, buf, .. } = completion;
        match op {
            Op::Slice { slice: Some(slice), skip } => self.slice_ended(slice, skip, result, buf),
            Op::Slice { slice: None, .. } => {}
            Op::EdgeRead(edge) => match (result, buf) {
                (Ok(n), IoBuf::Pool(mut block, _)) => {
                    // What the file does not have reads as zeroes.
                    block[n..].fill(0);
                    let (step, merged_bytes) = self.intake.edges.read(edge, block);
                    self.intake.counters.bounced_bytes += merged_bytes as u64;
                    self.intake.edge_step(lane, step);
                }
                (result, _) => self.edge_failed(lane, Job::EdgeRead(edge, 0), result),
            },
            Op::EdgeWrite(edge) => match (result, buf) {
                (Ok(n), IoBuf::Pool(_, len)) if n == len => self.intake.edge_written(lane, edge),
                (result, _) => self.edge_failed(lane, Job::EdgeWrite(edge, 0), result),
            },
        }
    }

    fn slice_ended(&mut self, slice: Slice, skip: usize, result: io::Result<usize>, buf: IoBuf) {
        let outcome = match result {
            Err(error) => Err(failure_of(&error)),
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
            Ok(()) => self.intake.complete(slice),
            Err(failure) => self.intake.fail_with(slice, failure),
        }
    }

    fn edge_failed(&mut self, lane: LaneId, job: Job, result: io::Result<usize>) {
        let error = result.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
        self.intake.fail_job(lane, job, || failure_of(&error));
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

fn failure_of(error: &io::Error) -> Failure {
    Failure { errno: error.raw_os_error(), ..Failure::failed(error.to_string()) }
}
