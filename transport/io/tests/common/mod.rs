//! What the tests of engines share: places for files, engines by name, and running requests to their end.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use nvferry_io::engine::{
    AioConfig, AioEngine, Counting, FaultControl, Faulty, InlineFirst, ThreadsConfig, ThreadsEngine, UringConfig,
    UringEngine,
};
use nvferry_io::file::{FileError, FileOptions};
use nvferry_io::pool::PoolConfig;
use nvferry_io::{BufferPool, IoBuf, IoCompletion, IoEngine, IoFile, IoKind, IoRequest};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than any operation here takes on any machine; a hang ends the test instead of stopping all others.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The engines that the suite runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Uring,
    Libaio,
    Threads,
    InlineUring,
    InlineThreads,
    CountingUring,
    FaultyThreads,
    /// Every call moves at most 4 KiB, so that all longer operations take several.
    SmallUring,
    SmallLibaio,
    SmallThreads,
}

impl Kind {
    /// The engine, or nothing (and a word about it) where this machine has none.
    pub fn open(self, capacity: usize) -> Option<Box<dyn IoEngine>> {
        let max_bytes_per_call = match self {
            Self::SmallUring | Self::SmallLibaio | Self::SmallThreads => 4096,
            _ => usize::MAX,
        };
        let uring = || UringEngine::new(UringConfig { max_bytes_per_call, ..UringConfig::with_capacity(capacity) });
        let threads =
            || ThreadsEngine::new(ThreadsConfig { max_bytes_per_call, ..ThreadsConfig::with_capacity(capacity) });
        let aio = || AioEngine::new(AioConfig { max_bytes_per_call, ..AioConfig::with_capacity(capacity) });
        let engine: io::Result<Box<dyn IoEngine>> = match self {
            Self::Uring | Self::SmallUring => uring().map(|e| Box::new(e) as _),
            Self::Libaio | Self::SmallLibaio => aio().map(|e| Box::new(e) as _),
            Self::Threads | Self::SmallThreads => threads().map(|e| Box::new(e) as _),
            Self::InlineUring => uring().map(|e| Box::new(InlineFirst::new(e)) as _),
            Self::InlineThreads => threads().map(|e| Box::new(InlineFirst::new(e)) as _),
            Self::CountingUring => uring().map(|e| Box::new(Counting::new(e)) as _),
            Self::FaultyThreads => threads().and_then(|e| Ok(Box::new(Faulty::new(e, FaultControl::new(1))?) as _)),
        };
        match engine {
            Ok(engine) => Some(engine),
            // Threads always work: their failure is a failure.
            Err(error)
                if matches!(self, Self::Threads | Self::SmallThreads | Self::InlineThreads | Self::FaultyThreads) =>
            {
                panic!("{self:?}: {error}")
            }
            Err(error) => {
                println!("skipped: {self:?} does not work on this machine: {error}");
                None
            }
        }
    }
}

/// Where a test's file lies, and how it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    DiskDirect,
    DiskBuffered,
    ShmDirect,
    ShmBuffered,
    Memory,
}

pub const PLACES: [Place; 5] =
    [Place::DiskDirect, Place::DiskBuffered, Place::ShmDirect, Place::ShmBuffered, Place::Memory];

/// A file that goes away with its value.
pub struct TestFile {
    pub file: Arc<IoFile>,
    pub path: Option<PathBuf>,
    _dir: Option<TempDir>,
}

impl Place {
    /// A file with this content, or nothing (and a word about it) where this machine has no such place.
    pub fn file(self, content: &[u8]) -> Option<TestFile> {
        if self == Self::Memory {
            let file = IoFile::in_memory("nvferry-test", content.len() as u64).unwrap();
            file.write_at(content, 0).unwrap();
            return Some(TestFile { file: Arc::new(file), path: None, _dir: None });
        }
        let dir = match self {
            Self::DiskDirect | Self::DiskBuffered => tempfile::tempdir().unwrap(),
            Self::ShmDirect | Self::ShmBuffered | Self::Memory => match tempfile::tempdir_in("/dev/shm") {
                Ok(dir) => dir,
                Err(error) => {
                    println!("skipped: {self:?}: no directory in /dev/shm: {error}");
                    return None;
                }
            },
        };
        let path = dir.path().join("file");
        std::fs::write(&path, content).unwrap();
        let direct = matches!(self, Self::DiskDirect | Self::ShmDirect);
        match IoFile::open(&path, FileOptions { direct, write: true }) {
            Ok(file) => Some(TestFile { file: Arc::new(file), path: Some(path), _dir: Some(dir) }),
            Err(error @ FileError::DirectUnsupported { .. }) => {
                println!("skipped: {self:?}: {error}");
                None
            }
            Err(error) => panic!("{self:?}: {error}"),
        }
    }
}

impl TestFile {
    /// The content, read by other means than the file under test.
    pub fn content(&self) -> Vec<u8> {
        match &self.path {
            Some(path) => std::fs::read(path).unwrap(),
            None => {
                let mut bytes = vec![0; self.file.size_bytes().unwrap() as usize];
                assert_eq!(self.file.read_at(&mut bytes, 0).unwrap(), bytes.len());
                bytes
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap()
    }
}

pub fn pool() -> BufferPool {
    BufferPool::new(PoolConfig { first_bytes: 4096, tiers: 7, multiple: 4, max_bytes: 256 << 20, max_idle_bytes: 0 })
}

/// A request to read, into a fresh buffer that holds something else than any file here.
pub fn read(token: u64, file: &Arc<IoFile>, offset: u64, len: usize) -> IoRequest {
    let mut buffer = pool().get(len).unwrap();
    buffer.fill(0xa5);
    IoRequest { token, file: Arc::clone(file), kind: IoKind::Read, offset, buf: IoBuf::Pool(buffer, len) }
}

pub fn write(token: u64, file: &Arc<IoFile>, offset: u64, bytes: &[u8]) -> IoRequest {
    let mut buffer = pool().get(bytes.len()).unwrap();
    buffer[..bytes.len()].copy_from_slice(bytes);
    IoRequest { token, file: Arc::clone(file), kind: IoKind::Write, offset, buf: IoBuf::Pool(buffer, bytes.len()) }
}

pub fn other(token: u64, file: &Arc<IoFile>, kind: IoKind, offset: u64) -> IoRequest {
    IoRequest { token, file: Arc::clone(file), kind, offset, buf: IoBuf::None }
}

/// Reaps until so many operations have ended.
pub fn finish(engine: &mut dyn IoEngine, count: usize) -> Vec<IoCompletion> {
    let deadline = Instant::now() + PATIENCE;
    let mut done = Vec::new();
    engine.flush().unwrap();
    loop {
        engine.reap(&mut done);
        if done.len() >= count {
            assert_eq!(done.len(), count, "more ends than operations");
            return done;
        }
        assert!(Instant::now() < deadline, "{} of {count} operations ended in {PATIENCE:?}", done.len());
        engine.wait(Some(PATIENCE)).unwrap();
    }
}

/// Does one operation.
pub fn run(engine: &mut dyn IoEngine, request: IoRequest) -> IoCompletion {
    engine.submit(request).expect("an idle engine has room");
    finish(engine, 1).pop().unwrap()
}

/// The first `n` bytes of a completion's buffer.
pub fn bytes(completion: &IoCompletion, n: usize) -> Vec<u8> {
    match &completion.buf {
        IoBuf::None => Vec::new(),
        IoBuf::Pool(buffer, _) => buffer[..n].to_vec(),
        IoBuf::Leased(slice) => slice.to_vec()[..n].to_vec(),
    }
}

/// Bytes that tell their position.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|at| ((at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A small generator (SplitMix64), for choices that a seed repeats.
pub struct Random(pub u64);

impl Random {
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
