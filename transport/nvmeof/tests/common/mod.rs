//! What the end-to-end tests share: a target with files, a host attached to it, and a sink that can be waited on.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this")]

use nvferry_engine::{
    Failure, FileBufferDesc, FileBufferId, Operation, RemoteSegment, SegmentDesc, Slice, SliceSink, Transport,
};
use nvferry_io::RegisteredMemory;
use nvferry_nvmeof::{NvmeofOptions, NvmeofTransport, PROTOCOL, factory};
pub use nvferry_testing::Random;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Long enough for anything that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Where the files of tests are: in memory where possible, as Direct I/O on it never waits.
pub fn temp_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub fn make_file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Bytes that tell where they are.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::seeded(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// A transport, installed under a name.
pub fn install(name: &str, options: NvmeofOptions, args: Option<&str>) -> Arc<NvmeofTransport> {
    factory(options).install_transport(name, args).unwrap()
}

/// One engine's offering: its transport, and the description that it would publish.
pub struct Node {
    pub transport: Arc<NvmeofTransport>,
    pub name: String,
    pub files: Vec<FileBufferDesc>,
}

impl Node {
    /// A node that offers these files, on a free port of loopback.
    pub fn serving(name: &str, files: &[&Path]) -> Self {
        Self::serving_at(name, "trtype=tcp traddr=127.0.0.1 trsvcid=0", files)
    }

    pub fn serving_at(name: &str, args: &str, files: &[&Path]) -> Self {
        let mut node =
            Self { transport: install(name, NvmeofOptions::new(), Some(args)), name: name.into(), files: vec![] };
        files.iter().for_each(|path| {
            node.offer(path);
        });
        node
    }

    pub fn offer(&mut self, path: &Path) -> FileBufferId {
        let id = FileBufferId(self.files.iter().map(|file| file.id.0).max().unwrap_or(0) + 1);
        let size = std::fs::metadata(path).unwrap().len();
        self.files.push(self.transport.register_file(id, path, size).unwrap());
        id
    }

    pub fn describe(&self) -> SegmentDesc {
        let mut segment = SegmentDesc::new(&self.name, "");
        self.transport.describe(&mut segment);
        assert_eq!(segment.protocol, PROTOCOL);
        segment.file_buffers = self.files.clone();
        segment
    }
}

/// Collects the ends of requests.
#[derive(Default)]
pub struct Ends {
    ended: Mutex<HashMap<u32, Result<(), Failure>>>,
    changed: Condvar,
}

impl SliceSink for Ends {
    fn slice_ended(&self, request: u32, _len_bytes: u64, result: Result<(), Failure>) {
        let before = self.ended.lock().unwrap().insert(request, result);
        assert!(before.is_none(), "request {request} ended twice");
        self.changed.notify_all();
    }
}

impl Ends {
    /// Waits for the end of a request, and takes it.
    pub fn wait(&self, request: u32) -> Result<(), Failure> {
        let deadline = soon();
        let mut ended = self.ended.lock().unwrap();
        loop {
            if let Some(result) = ended.remove(&request) {
                return result;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "request {request} never ended");
            ended = self.changed.wait_timeout(ended, left).unwrap().0;
        }
    }

    pub fn has_ended(&self, request: u32) -> bool {
        self.ended.lock().unwrap().contains_key(&request)
    }
}

/// One request: a slice for a remote segment, cut as the engine would cut it.
pub struct Transfer {
    pub op: Operation,
    pub file: FileBufferId,
    pub offset: u64,
    pub deadline: Instant,
}

impl Transfer {
    pub fn read(file: FileBufferId, offset: u64) -> Self {
        Self { op: Operation::Read, file, offset, deadline: soon() }
    }

    pub fn write(file: FileBufferId, offset: u64) -> Self {
        Self { op: Operation::Write, ..Self::read(file, offset) }
    }

    pub fn by(self, deadline: Instant) -> Self {
        Self { deadline, ..self }
    }
}

/// A segment, and the numbering of requests on it.
pub struct Host {
    pub transport: Arc<NvmeofTransport>,
    pub segment: Arc<dyn RemoteSegment>,
    pub ends: Arc<Ends>,
    next: std::sync::atomic::AtomicU32,
}

impl Host {
    /// A host with these options, attached to a segment.
    pub fn attach(options: NvmeofOptions, segment: &SegmentDesc) -> Self {
        Self::with(install("host", options, None), segment)
    }

    pub fn with(transport: Arc<NvmeofTransport>, segment: &SegmentDesc) -> Self {
        let segment = transport.attach(segment, soon()).unwrap();
        Self { transport, segment, ends: Arc::default(), next: std::sync::atomic::AtomicU32::new(0) }
    }

    /// Starts a transfer of a part of `memory`; the number is what to wait for.
    pub fn start(&self, transfer: &Transfer, memory: &RegisteredMemory, range: std::ops::Range<usize>) -> u32 {
        let request = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let memory = memory.lease(range).unwrap();
        let sink = Arc::clone(&self.ends) as Arc<dyn SliceSink>;
        let slice = Slice::new(transfer.op, transfer.file, transfer.offset, memory, transfer.deadline, sink, request);
        let mut slices = vec![slice];
        self.segment.submit(&mut slices);
        assert!(slices.is_empty(), "submit takes all slices");
        request
    }

    pub fn read(&self, file: FileBufferId, offset: u64, len: usize) -> Result<Vec<u8>, Failure> {
        let mut memory = RegisteredMemory::allocate(len);
        let request = self.start(&Transfer::read(file, offset), &memory, 0..len);
        self.ends.wait(request)?;
        Ok(memory.bytes().expect("nothing is leased after the end").to_vec())
    }

    pub fn write(&self, file: FileBufferId, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let memory = RegisteredMemory::from(bytes.to_vec());
        let request = self.start(&Transfer::write(file, offset), &memory, 0..bytes.len());
        self.ends.wait(request)
    }
}
