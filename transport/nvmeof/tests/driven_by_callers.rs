//! Threads that wait in quick succession drive the worker themselves: nothing is lost on the way there and back.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Random, make_file, pattern, temp_dir};
use nvferry_engine::{Batch, Deadline, FileBufferId, Memory, Request, SegmentId, TransferEngine, TransferState};
use nvferry_io::RegisteredMemory;
use nvferry_nvmeof::{NvmeofFactory, NvmeofOptions, PROTOCOL, factory};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const BLOCKS: usize = 64;
const FILE: FileBufferId = FileBufferId(1);

/// An engine that reads its own file over a real socket, with this many workers.
struct Loop {
    engine: TransferEngine,
    factory: NvmeofFactory,
    segment: SegmentId,
    bytes: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Loop {
    fn new(name: &str, workers: usize) -> Self {
        Self::with(name, workers, Duration::ZERO)
    }

    /// The same, with threads on both sides that spin for so long before they sleep.
    fn with(name: &str, workers: usize, spin: Duration) -> Self {
        let dir = temp_dir();
        let bytes = pattern(BLOCK * BLOCKS, 7);
        let path = make_file(dir.path(), "a", &bytes);
        let factory = factory(NvmeofOptions::new().workers(workers).spin(spin));
        let engine = TransferEngine::builder()
            .metadata(format!("memory:{name}"))
            .server_name(name)
            .transport(factory.clone())
            .build()
            .unwrap();
        engine.install_transport(PROTOCOL, "traddr=127.0.0.1 trsvcid=0").unwrap();
        engine.register_local_file(&path, bytes.len() as u64).unwrap();
        let segment = engine.open_segment(name).unwrap();
        Self { engine, factory, segment, bytes, _dir: dir }
    }

    fn memory(&self) -> Memory {
        self.engine.register_memory(RegisteredMemory::allocate(BLOCK)).unwrap()
    }

    fn submit(&self, batch: &Batch, memory: &Memory, block: usize) {
        let request = Request::read(memory, 0..BLOCK, self.segment, FILE, (block * BLOCK) as u64);
        batch.submit(&[request]).unwrap();
    }

    /// Reads blocks one by one, each compared.
    fn read_one_by_one(&self, count: usize, seed: u64) {
        let mut random = Random::seeded(seed);
        let (mut memory, mut batch) = (self.memory(), self.engine.batch(1).unwrap());
        for i in 0..count {
            let block = random.below(BLOCKS as u64) as usize;
            memory.bytes().unwrap().fill(0xEE);
            self.submit(&batch, &memory, block);
            batch.wait(Deadline::after(Duration::from_secs(10))).unwrap();
            let expected = &self.bytes[block * BLOCK..][..BLOCK];
            assert!(memory.bytes().unwrap() == expected, "seed {seed}, read {i}, block {block}");
            batch.reset().unwrap();
        }
    }

    /// Reads until waits are driven by their caller. When exactly that begins is a matter of time.
    fn until_driven(&self) {
        let (before, until) = (self.driven_waits(), Instant::now() + Duration::from_secs(60));
        while self.driven_waits() == before {
            assert!(Instant::now() < until, "no wait was driven by its caller");
            self.read_one_by_one(50, 0);
        }
    }

    fn driven_waits(&self) -> u64 {
        self.factory.installed().iter().map(|transport| transport.status().driven_waits).sum()
    }
}

#[test]
fn a_thread_that_waits_all_the_time_drives_the_worker() {
    let looped = Loop::new("driven-one", 1);
    looped.until_driven();
    looped.read_one_by_one(1000, 1);
}

#[test]
fn the_same_with_threads_that_spin() {
    let looped = Loop::with("driven-spinning", 1, Duration::from_micros(50));
    looped.until_driven();
    looped.read_one_by_one(1000, 2);
}

#[test]
fn p01_what_such_a_thread_leaves_under_way_ends_all_the_same() {
    let looped = Loop::new("driven-left", 1);
    for round in 0..20 {
        looped.until_driven();
        let (memory, batch) = (looped.memory(), looped.engine.batch(1).unwrap());
        looped.submit(&batch, &memory, 3);
        // Nobody waits: somebody else has to see to it.
        let until = Instant::now() + Duration::from_secs(10);
        while !batch.is_done() {
            assert!(Instant::now() < until, "round {round}: {batch:?}");
            std::thread::yield_now();
        }
        assert_eq!(batch.status(0).unwrap().state, TransferState::Completed);
    }
}

#[test]
fn several_threads_share_few_workers() {
    for workers in [1, 2] {
        let looped = Loop::new(&format!("driven-shared-{workers}"), workers);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let looped = &looped;
                scope.spawn(move || {
                    // Alone, together, alone again: the worker changes hands all the time.
                    for part in 0..5 {
                        looped.read_one_by_one(100, thread * 10 + part);
                        std::thread::sleep(Duration::from_millis(thread));
                    }
                });
            }
        });
    }
}

#[test]
fn an_engine_that_is_shut_down_ends_waits_that_drive_its_worker() {
    for round in 0..10 {
        let looped = Loop::new(&format!("driven-stop-{round}"), 1);
        std::thread::scope(|scope| {
            let (looped, (tell, told)) = (&looped, std::sync::mpsc::channel());
            scope.spawn(move || {
                let (memory, mut batch) = (looped.memory(), looped.engine.batch(1).unwrap());
                for i in 0.. {
                    let request = Request::read(&memory, 0..BLOCK, looped.segment, FILE, 0);
                    if batch.submit(&[request]).is_err()
                        || batch.wait(Deadline::after(Duration::from_secs(10))).is_err()
                    {
                        break;
                    }
                    batch.reset().unwrap();
                    if i == 100 {
                        tell.send(()).unwrap();
                    }
                }
            });
            told.recv().unwrap();
            looped.engine.shutdown(Deadline::after(Duration::from_secs(5))).unwrap();
        });
    }
}
