//! A transport that does as it is told: its files are bytes in memory, and a script decides what becomes of each slice.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test uses a part of this; failing is what tests do.

use nvferry_engine::metadata::memory::MemoryStore;
use nvferry_engine::{
    EngineError, ErrorKind, Failure, FileBufferDesc, FileBufferId, FileLimits, Operation, RemoteSegment, SegmentDesc,
    Slice, TransferEngine, TransferEngineBuilder, Transport, TransportContext, TransportFactory,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// What becomes of a slice.
pub enum Fate {
    /// Its bytes are moved.
    Complete,
    Fail(Failure),
    /// It is dropped without a word.
    Drop,
    /// It is not touched at all: it stays in the list that it came in.
    LeaveInList,
    /// It is kept until [`Script::let_go`].
    Hold,
}

type Decide = Box<dyn FnMut(&Slice) -> Fate + Send>;

/// What the transport does, and what was done with it. Shared by all engines that install it: what one offers, the
/// others can reach.
pub struct Script {
    protocol: &'static str,
    limits: FileLimits,
    decide: Mutex<Decide>,
    held: Mutex<Vec<Slice>>,
    came: Condvar,
    files: Mutex<BTreeMap<FileBufferId, Vec<u8>>>,
    /// Files that `file_limits` does not know until the next `update`.
    not_yet: Mutex<Vec<FileBufferId>>,
    refuses_files: Mutex<Option<EngineError>>,
    log: Mutex<Vec<String>>,
}

impl Script {
    pub fn new() -> Arc<Self> {
        Self::with(FileLimits { max_slice_bytes: 64 << 10, block_bytes: 4096 })
    }

    pub fn with(limits: FileLimits) -> Arc<Self> {
        Self::named("scripted", limits)
    }

    pub fn named(protocol: &'static str, limits: FileLimits) -> Arc<Self> {
        Arc::new(Self {
            protocol,
            limits,
            decide: Mutex::new(Box::new(|_| Fate::Complete)),
            held: Mutex::default(),
            came: Condvar::new(),
            files: Mutex::default(),
            not_yet: Mutex::default(),
            refuses_files: Mutex::default(),
            log: Mutex::default(),
        })
    }

    pub fn decide(&self, decide: impl FnMut(&Slice) -> Fate + Send + 'static) {
        *self.decide.lock().unwrap() = Box::new(decide);
    }

    pub fn refuse_files(&self, error: Option<EngineError>) {
        *self.refuses_files.lock().unwrap() = error;
    }

    /// The target does not have this file until hosts look again.
    pub fn hide_until_update(&self, file: FileBufferId) {
        self.not_yet.lock().unwrap().push(file);
    }

    pub fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    pub fn take_held(&self) -> Vec<Slice> {
        std::mem::take(&mut *self.held.lock().unwrap())
    }

    /// Any one of those that are held, as soon as there is one; `None` when none comes for a while.
    pub fn take_one(&self, random: &mut Random) -> Option<Slice> {
        let held = self.held.lock().unwrap();
        let (mut held, _) =
            self.came.wait_timeout_while(held, Duration::from_millis(20), |held| held.is_empty()).unwrap();
        let len = held.len() as u64;
        (len > 0).then(|| held.swap_remove(random.below(len) as usize))
    }

    /// Completes all slices that are held.
    pub fn let_go(&self) {
        for slice in self.take_held() {
            self.complete(slice);
        }
    }

    pub fn fill(&self, file: FileBufferId, bytes: Vec<u8>) {
        self.files.lock().unwrap().insert(file, bytes);
    }

    pub fn bytes_of(&self, file: FileBufferId) -> Option<Vec<u8>> {
        self.files.lock().unwrap().get(&file).cloned()
    }

    /// The files that are offered now.
    pub fn files(&self) -> Vec<FileBufferId> {
        self.files.lock().unwrap().keys().copied().collect()
    }

    /// What was done with it, in order, and since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    pub fn complete(&self, slice: Slice) {
        let mut files = self.files.lock().unwrap();
        let at = usize::try_from(slice.offset).unwrap();
        let Some(bytes) = files.get_mut(&slice.file).and_then(|file| file.get_mut(at..at + slice.len())) else {
            drop(files);
            return slice.fail(Failure::failed("outside the file"));
        };
        match slice.op {
            Operation::Read => slice.memory.copy_from(0, bytes),
            Operation::Write => slice.memory.copy_to(0, bytes),
        }
        drop(files);
        slice.complete();
    }
}

pub struct Factory(pub Arc<Script>);

impl TransportFactory for Factory {
    fn protocol(&self) -> &'static str {
        self.0.protocol
    }

    fn install(&self, context: &TransportContext, args: Option<&str>) -> Result<Arc<dyn Transport>, EngineError> {
        if args == Some("refuse") {
            return Err(EngineError::new(ErrorKind::Context, "install: told to refuse"));
        }
        self.0.note(format!("install for {}", context.server_name));
        Ok(Arc::new(Scripted(Arc::clone(&self.0), args.unwrap_or("here").to_owned())))
    }
}

struct Scripted(Arc<Script>, String);

impl Transport for Scripted {
    fn protocol(&self) -> &'static str {
        self.0.protocol
    }

    fn register_file(&self, id: FileBufferId, path: &Path, size_bytes: u64) -> Result<FileBufferDesc, EngineError> {
        if let Some(error) = self.0.refuses_files.lock().unwrap().clone() {
            return Err(error);
        }
        self.0.note(format!("register {id}"));
        self.0.fill(id, vec![0; usize::try_from(size_bytes).unwrap()]);
        Ok(FileBufferDesc::new(id, path.to_str().unwrap(), size_bytes, u64::from(self.0.limits.block_bytes)))
    }

    fn unregister_file(&self, id: FileBufferId, _deadline: Instant) -> Result<(), EngineError> {
        self.0.note(format!("unregister {id}"));
        self.0.files.lock().unwrap().remove(&id);
        Ok(())
    }

    fn describe(&self, segment: &mut SegmentDesc) {
        segment.extra.insert(format!("{}_trid", self.0.protocol), serde_json::json!({"at": self.1}));
    }

    fn serves(&self, segment: &SegmentDesc) -> bool {
        segment.extra.contains_key(&format!("{}_trid", self.0.protocol))
    }

    fn attach(&self, segment: &SegmentDesc, _deadline: Instant) -> Result<Arc<dyn RemoteSegment>, EngineError> {
        self.0.note(format!("attach {}", segment.name));
        Ok(Arc::new(ScriptedSegment(Arc::clone(&self.0))))
    }

    fn uninstall(&self, _deadline: Instant) {
        self.0.note("uninstall");
    }
}

struct ScriptedSegment(Arc<Script>);

impl RemoteSegment for ScriptedSegment {
    fn file_limits(&self, file: FileBufferId) -> Option<FileLimits> {
        let is_hidden = self.0.not_yet.lock().unwrap().contains(&file);
        (!is_hidden).then_some(self.0.limits)
    }

    fn update(&self, _segment: &SegmentDesc, _deadline: Instant) -> Result<(), EngineError> {
        self.0.note("update");
        self.0.not_yet.lock().unwrap().clear();
        Ok(())
    }

    fn submit(&self, slices: &mut Vec<Slice>) {
        let mut left = Vec::new();
        for slice in slices.drain(..) {
            let fate = (self.0.decide.lock().unwrap())(&slice);
            match fate {
                Fate::Complete => self.0.complete(slice),
                Fate::Fail(failure) => slice.fail(failure),
                Fate::Drop => drop(slice),
                Fate::LeaveInList => left.push(slice),
                Fate::Hold => {
                    self.0.held.lock().unwrap().push(slice);
                    self.0.came.notify_one();
                }
            }
        }
        *slices = left;
    }

    fn close(&self, _deadline: Instant) {
        self.0.note("close");
    }

    fn target(&self) -> String {
        "here".into()
    }
}

pub const NAME: &str = "127.0.0.1:8081";

pub fn builder(script: &Arc<Script>, store: &Arc<MemoryStore>, name: &str) -> TransferEngineBuilder {
    TransferEngine::builder()
        .metadata(Arc::clone(store))
        .server_name(name)
        .cluster_id(None)
        .transport(Factory(Arc::clone(script)))
}

/// An engine that offers files and opens segments through the scripted transport.
pub fn engine(script: &Arc<Script>) -> TransferEngine {
    let engine = builder(script, &MemoryStore::new(), NAME).build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine
}

pub fn secs(secs: u64) -> nvferry_engine::Deadline {
    nvferry_engine::Deadline::after(Duration::from_secs(secs))
}

pub fn millis(ms: u64) -> nvferry_engine::Deadline {
    nvferry_engine::Deadline::after(Duration::from_millis(ms))
}

/// Looks again and again until it is so; for what another thread does in its own time. Ten seconds are never too short.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = secs(10);
    while !is_so() {
        assert!(!deadline.has_passed(), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A generator of repeatable randomness (`SplitMix64`).
pub struct Random(u64);

impl Random {
    /// With the seed in `NVFERRY_SEED`, or one from the clock. Print it when something fails.
    pub fn seeded() -> (Self, u64) {
        let from_clock = || std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos() as u64);
        let seed = std::env::var("NVFERRY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(from_clock);
        (Self(seed), seed)
    }

    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
