//! Storage: an I/O engine with virtual completion times, whose operations end out of order, fail, come short and stall;
//! files that lose what was not flushed.

use crate::model::{self, BLOCK};
use crate::plan::{SECOND, StorageFaults};
use crate::random::Random;
use nvferry_io::file::FileIdentity;
use nvferry_io::simulation::{Direction, Progress, Step};
use nvferry_io::{IoBuf, IoCompletion, IoEngine, IoFile, IoKind, IoRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Linux's error numbers.
const EIO: i32 = 5;
const EINTR: i32 = 4;
const ENOSPC: i32 = 28;

/// A target's files.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// What was asked for that real storage could not do.
    pub(crate) misuse: Option<String>,
    files: BTreeMap<FileIdentity, DiskFile>,
}

#[derive(Debug)]
struct DiskFile {
    /// Its number over all targets.
    number: usize,
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Blocks that are not durable.
    dirty: BTreeSet<u64>,
}

impl DiskFile {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        tracing::debug!(file = self.number, start, end, "stored");
        self.now[start..end].copy_from_slice(bytes);
        self.dirty.extend(start as u64 / BLOCK..(end as u64).div_ceil(BLOCK));
    }

    fn sync(&mut self) {
        for block in std::mem::take(&mut self.dirty) {
            let start = (block * BLOCK) as usize;
            let end = (start + BLOCK as usize).min(self.now.len());
            self.durable[start..end].copy_from_slice(&self.now[start..end]);
        }
    }
}

impl Disk {
    /// A file that holds the model's beginning.
    pub(crate) fn add(&mut self, identity: FileIdentity, number: usize, size: u64) {
        let mut now = vec![0; size as usize];
        model::fill(number, 0, 0, &mut now);
        self.files.insert(identity, DiskFile { number, durable: now.clone(), now, dirty: BTreeSet::new() });
    }

    /// The power fails: each block that was not flushed is there, or as it was before.
    pub(crate) fn lose_power(&mut self, random: &mut Random) {
        let mut numbered: Vec<_> = self.files.values_mut().collect();
        numbered.sort_by_key(|file| file.number);
        for file in numbered {
            for block in std::mem::take(&mut file.dirty) {
                let start = (block * BLOCK) as usize;
                let end = (start + BLOCK as usize).min(file.now.len());
                if random.chance(50) {
                    file.now[start..end].copy_from_slice(&file.durable[start..end]);
                } else {
                    file.durable[start..end].copy_from_slice(&file.now[start..end]);
                }
            }
        }
    }

    /// What the files hold, by number.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.files.values().map(|file| (file.number, file.now.as_slice()))
    }
}

/// An operation under way.
struct Op {
    request: IoRequest,
    progress: Option<Progress>,
    /// It fails, after having done some of it.
    fails_with: Option<i32>,
}

/// What an engine and the simulation share.
pub(crate) struct EngineState {
    disk: Arc<Mutex<Disk>>,
    faults: StorageFaults,
    ops: Vec<Option<Op>>,
    /// Operations for which no time has been chosen.
    started: Vec<usize>,
    done: Vec<IoCompletion>,
}

/// One reactor's storage, from the simulation's side.
#[derive(Clone)]
pub(crate) struct EngineHandle(Arc<Mutex<EngineState>>);

/// One reactor's storage, from the target's side.
pub(crate) struct SimulatedEngine {
    handle: EngineHandle,
    /// Never readable.
    null: File,
}

impl EngineHandle {
    /// An engine on a disk.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(crate) fn new(disk: Arc<Mutex<Disk>>, faults: StorageFaults) -> io::Result<(Self, Box<dyn IoEngine>)> {
        let state = EngineState { disk, faults, ops: Vec::new(), started: Vec::new(), done: Vec::new() };
        let handle = Self(Arc::new(Mutex::new(state)));
        let engine = SimulatedEngine { handle: handle.clone(), null: File::open("/dev/null")? };
        Ok((handle, Box::new(engine)))
    }

    fn lock(&self) -> MutexGuard<'_, EngineState> {
        // One thread; a panic ends the simulation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations that have begun since this was last asked, and how long each takes.
    pub(crate) fn started(&self, random: &mut Random, healed: bool) -> Vec<(usize, u64)> {
        let state = &mut *self.lock();
        let (faults, ops) = (&state.faults, &mut state.ops);
        let mut timed = Vec::with_capacity(state.started.len());
        for index in state.started.drain(..) {
            if !healed
                && random.rarely(faults.errors)
                && let Some(op) = &mut ops[index]
            {
                op.fails_with = Some(if random.chance(70) { EIO } else { ENOSPC });
            }
            let stalls = !healed && random.rarely(faults.stalls);
            timed.push((
                index,
                if stalls { random.within(SECOND / 2, 40 * SECOND) } else { random.size(faults.latency) },
            ));
        }
        timed
    }

    /// An operation's time has come. Returns how long the rest takes, if it has not ended.
    pub(crate) fn act(&self, index: usize, random: &mut Random, healed: bool) -> Option<u64> {
        let state = &mut *self.lock();
        let op = state.ops.get_mut(index)?.as_mut()?;
        let short = !healed && random.rarely(state.faults.short);
        let result = {
            let mut disk = state.disk.lock().unwrap_or_else(PoisonError::into_inner);
            op.step(&mut disk, random, short)
        };
        let Some(result) = result else { return Some(random.size(state.faults.latency)) };
        let Op { request, .. } = state.ops[index].take()?;
        state.done.push(IoCompletion { token: request.token, result, buf: request.buf });
        None
    }

    /// The machine, or the program, dies: what is under way is done, in part, or not. Its ends are told to nobody.
    pub(crate) fn die(&self, random: &mut Random) {
        let state = &mut *self.lock();
        let mut disk = state.disk.lock().unwrap_or_else(PoisonError::into_inner);
        for op in state.ops.iter_mut().filter_map(Option::take) {
            let Op { request, progress, .. } = op;
            if request.kind == IoKind::Write {
                let from = progress.map_or(0, |progress| progress.done());
                tear(&mut disk, &request, from, random);
            }
        }
        state.done.clear();
    }

    /// Whether ends wait to be taken.
    #[must_use]
    pub(crate) fn has_done(&self) -> bool {
        !self.lock().done.is_empty()
    }
}

/// Writes some of the blocks of a request, from `from` on.
fn tear(disk: &mut Disk, request: &IoRequest, from: usize, random: &mut Random) {
    let IoBuf::Pool(buffer, len) = &request.buf else { return };
    let Some(file) = disk.files.get_mut(&request.file.identity()) else { return };
    let all = random.below(3);
    let mut at = from;
    while at < *len {
        let offset = request.offset + at as u64;
        let end = (at + (BLOCK - offset % BLOCK) as usize).min(*len);
        if all == 0 || (all == 1 && random.chance(50)) {
            file.write(offset, &buffer[at..end]);
        }
        at = end;
    }
}

impl Op {
    /// Makes one system call. The result, once it has ended.
    fn step(&mut self, disk: &mut Disk, random: &mut Random, short: bool) -> Option<io::Result<usize>> {
        let Self { request, progress, fails_with } = self;
        let Some(file) = disk.files.get_mut(&request.file.identity()) else {
            return Some(Err(io::Error::from_raw_os_error(EIO)));
        };
        let len = request.buf.len() as u64;
        let address = if let IoBuf::Pool(buffer, _) = &request.buf { buffer.as_ptr() as usize } else { 0 };
        let grows = request.kind == IoKind::Write && request.offset + len > file.now.len() as u64;
        if grows || !request.file.is_aligned(request.offset, len, address) {
            disk.misuse =
                Some(format!("{:?} of {len} bytes at {} of file {}", request.kind, request.offset, file.number));
            return Some(Err(io::Error::from_raw_os_error(EIO)));
        }
        let Some(progress) = progress else {
            if let Some(errno) = fails_with.take() {
                return Some(Err(io::Error::from_raw_os_error(errno)));
            }
            match request.kind {
                IoKind::SyncData => file.sync(),
                IoKind::WriteZeroes { len } => file.write(request.offset, &vec![0; len as usize]),
                IoKind::Read | IoKind::Write | IoKind::Deallocate { .. } => {}
            }
            return Some(Ok(0));
        };
        if let Some(errno) = *fails_with {
            if request.kind == IoKind::Write {
                let from = progress.done();
                tear(disk, request, from, random);
            }
            return Some(Err(io::Error::from_raw_os_error(errno)));
        }
        let (done, mut len) = (progress.done(), progress.remaining());
        let at = request.offset + done as u64;
        let result = if short && random.chance(20) {
            -i64::from(EINTR)
        } else {
            if short {
                // Storage changes in blocks.
                let blocks = random.within(1, (len as u64).div_ceil(BLOCK).max(1));
                len = len.min((blocks * BLOCK - at % BLOCK) as usize);
            }
            let left = file.now.len().saturating_sub(at as usize);
            match (&mut request.buf, request.kind) {
                (IoBuf::Pool(buffer, _), IoKind::Read) => {
                    len = len.min(left);
                    buffer[done..done + len].copy_from_slice(&file.now[at as usize..at as usize + len]);
                }
                (IoBuf::Pool(buffer, _), _) => file.write(at, &buffer[done..done + len]),
                _ => {}
            }
            len as i64
        };
        match progress.advance(result) {
            Step::Finished(result) => Some(result),
            Step::Again => None,
        }
    }
}

impl IoEngine for SimulatedEngine {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn capacity(&self) -> usize {
        self.handle.lock().faults.capacity
    }

    fn in_flight(&self) -> usize {
        let state = self.handle.lock();
        state.ops.iter().flatten().count() + state.done.len()
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        if self.in_flight() >= self.capacity() {
            return Err(request);
        }
        let mut state = self.handle.lock();
        let direction = match request.kind {
            IoKind::Read => Some(Direction::Read),
            IoKind::Write => Some(Direction::Write),
            _ => None,
        };
        // Calls on files that are opened for Direct I/O move whole units.
        let unit = if request.file.is_direct() { request.file.geometry().dio_offset_align_bytes } else { 1 };
        let progress = direction.map(|direction| Progress::new(direction, request.buf.len(), unit, usize::MAX));
        let op = Op { request, progress, fails_with: None };
        let index = match state.ops.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                state.ops.push(None);
                state.ops.len() - 1
            }
        };
        state.ops[index] = Some(op);
        state.started.push(index);
        Ok(())
    }

    /// As for a file in memory; it cannot fail.
    fn write_now(&mut self, file: &IoFile, offset: u64, bytes: &[u8]) -> Option<io::Result<usize>> {
        let state = self.handle.lock();
        if !state.faults.at_once || file.is_direct() {
            return None;
        }
        let mut disk = state.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let there = disk.files.get_mut(&file.identity())?;
        if offset + bytes.len() as u64 > there.now.len() as u64 {
            disk.misuse = Some(format!("a write of {} bytes at {offset}, at once", bytes.len()));
            return Some(Err(io::Error::from_raw_os_error(EIO)));
        }
        there.write(offset, bytes);
        Some(Ok(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        done.append(&mut self.handle.lock().done);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    fn wait(&mut self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}
