//! A queue pair with a scripted target at the other end, and a clock that only the test moves.

use super::scripted::{BLOCK, Heard, ScriptedTarget};
use super::{Outcomes, Random};
use crate::host::namespaces::{HostNamespace, NamespaceTable, Presence};
use crate::host::userspace::LinkError;
use crate::host::userspace::queue_pair::{QueuePair, QueueParams, Scratch};
use nvferry_engine::{Failure, FileBufferId, Operation, Slice, SliceSink, TransferState};
use nvferry_io::pool::PoolConfig;
use nvferry_io::stream::{MemoryStream, memory_pair};
use nvferry_io::{BufferPool, RegisteredMemory};
use nvferry_wire::pdu::Digests;
use nvferry_wire::{ControllerId, HostId, Nqn, Nsid, QueueId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Blocks of each file.
pub(crate) const BLOCKS: u64 = 4096;

pub(crate) struct Rig {
    pub(crate) queue: QueuePair,
    pub(crate) stream: Option<MemoryStream>,
    pub(crate) target: ScriptedTarget,
    pub(crate) scratch: Scratch,
    pub(crate) now: Instant,
    pub(crate) outcomes: Arc<Outcomes>,
    pub(crate) params: QueueParams,
    requests: u32,
}

pub(crate) fn table(files: u32) -> Arc<NamespaceTable> {
    let (blocks, presence) = (BLOCKS, Presence::Present);
    let entry = |file| HostNamespace { nsid: Nsid(file), block_shift: 9, blocks, nguid: None, presence };
    Arc::new(NamespaceTable::new((1..=files).map(entry).collect()))
}

impl Rig {
    /// A queue pair to a target with two files; not yet connected.
    pub(crate) fn new() -> Self {
        let pool = BufferPool::new(PoolConfig::default());
        let mut queue = QueuePair::new(table(2), pool);
        queue.distrust_short_receives();
        let (_, other) = memory_pair(1);
        Self {
            queue,
            stream: None,
            target: ScriptedTarget::new(other),
            scratch: Scratch::new(),
            now: Instant::now(),
            outcomes: Outcomes::new(),
            params: QueueParams {
                qid: QueueId(1),
                entries: 128,
                cntlid: ControllerId(1),
                subnqn: Nqn::new("nqn.2016-06.io.mc:target").unwrap(),
                host_nqn: Nqn::new("nqn.2016-06.io.mc:host").unwrap(),
                host_id: HostId([1; 16]),
                digests: Digests::NONE,
                in_capsule_bytes: 8192,
                max_transfer_bytes: 1 << 20,
                secret: None,
                controller_secret: None,
            },
            requests: 0,
        }
    }

    /// Connects streams that hold that much, up to where ICReq is sent.
    pub(crate) fn connect(&mut self, capacity_bytes: usize) {
        let (stream, other) = memory_pair(capacity_bytes);
        let grants = self.target.grants;
        self.target = ScriptedTarget::new(other);
        self.target.grants = grants;
        self.stream = Some(stream);
        self.queue.connecting(Arc::new(self.params.clone()), self.now);
        self.queue.connected(self.now);
        self.drive().unwrap();
    }

    /// A rig whose queue is ready.
    pub(crate) fn ready() -> Self {
        let mut rig = Self::new();
        rig.connect(16 << 20);
        rig.open();
        rig
    }

    /// Answers ICReq and Connect.
    pub(crate) fn open(&mut self) {
        while !self.queue.is_ready() {
            let heard = self.target.hear();
            assert!(!heard.is_empty(), "the host says what it wants");
            for one in heard {
                assert!(self.target.open(&one), "{one:?}");
            }
            self.drive().unwrap();
        }
    }

    /// Drives the queue pair until nothing moves.
    pub(crate) fn drive(&mut self) -> Result<(), LinkError> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            let readable = stream.readable();
            let driven = match self.queue.drive(stream, &mut self.scratch, self.now, readable) {
                Ok(driven) => driven,
                Err(error) => {
                    self.stream = None;
                    return Err(error);
                }
            };
            let stream = self.stream.as_ref().unwrap();
            let goes_on = stream.readable() || driven.blocked && stream.writable();
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// What the target hears after the host was driven.
    pub(crate) fn hear(&mut self) -> Vec<Heard> {
        self.drive().unwrap();
        self.target.hear()
    }

    /// Hears exactly one.
    pub(crate) fn hear_one(&mut self) -> Heard {
        let mut heard = self.hear();
        assert_eq!(heard.len(), 1, "{heard:?}");
        heard.remove(0)
    }

    /// Lets a target that behaves well serve, until nobody has anything to say.
    pub(crate) fn serve(&mut self, store: &mut [u8]) {
        self.serve_with(store, usize::MAX, true);
    }

    pub(crate) fn serve_with(&mut self, store: &mut [u8], max_data: usize, success: bool) {
        loop {
            let heard = self.hear();
            if heard.is_empty() {
                return;
            }
            heard.iter().for_each(|one| self.target.serve(one, store, max_data, success));
        }
    }

    /// Submits a request for all of `memory`; returns its number.
    pub(crate) fn submit(
        &mut self,
        op: Operation,
        file: u32,
        offset: u64,
        memory: &RegisteredMemory,
        time: Duration,
    ) -> u32 {
        self.requests += 1;
        let lease = memory.lease(0..memory.len()).unwrap();
        let sink = Arc::clone(&self.outcomes) as Arc<dyn SliceSink>;
        let deadline = self.now + time;
        let mut slice = Slice::new(op, FileBufferId(file), offset, lease, deadline, sink, self.requests);
        slice.begun = Some(self.now);
        self.queue.submit(slice);
        self.requests
    }

    pub(crate) fn read(&mut self, file: u32, offset: u64, memory: &RegisteredMemory) -> u32 {
        self.submit(Operation::Read, file, offset, memory, Duration::from_secs(30))
    }

    pub(crate) fn write(&mut self, file: u32, offset: u64, memory: &RegisteredMemory) -> u32 {
        self.submit(Operation::Write, file, offset, memory, Duration::from_secs(30))
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), LinkError> {
        self.now += time;
        if let Err(error) = self.queue.tick(None, self.now) {
            let stream = self.stream.as_mut().map(|stream| stream as &mut dyn nvferry_io::Stream);
            self.queue.lost(error.clone(), stream, &mut self.scratch, self.now);
            self.stream = None;
            return Err(error);
        }
        self.drive()
    }

    /// How a request ended, if it did.
    pub(crate) fn outcome(&self, request: u32) -> Option<Result<(), Failure>> {
        self.outcomes.ended().into_iter().find(|(ended, _)| *ended == request).map(|(_, result)| result)
    }

    pub(crate) fn assert_completed(&self, request: u32) {
        assert_eq!(self.outcome(request), Some(Ok(())), "request {request}");
    }

    pub(crate) fn assert_pending(&self, request: u32) {
        assert_eq!(self.outcome(request), None, "request {request}");
    }

    pub(crate) fn assert_ended(&self, request: u32, state: TransferState, words: &str) {
        let failure = self.outcome(request).expect("it has ended").expect_err("it has failed");
        assert_eq!(failure.state, state, "{failure:?}");
        assert!(failure.message.contains(words), "{failure:?}");
    }
}

/// A file's content.
pub(crate) fn store(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCKS as usize * BLOCK];
    Random::seeded(seed).fill(&mut bytes);
    bytes
}

/// Memory filled with bytes that nobody else writes.
pub(crate) fn memory(len: usize) -> RegisteredMemory {
    RegisteredMemory::from(vec![0xA5; len])
}
