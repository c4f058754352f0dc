//! Both ends of an I/O queue over streams in memory, without system calls: a host's queue pair from slices to ended slices,
//! and a target from bytes to bytes. What stands at the other end says what was laid down before.

#[allow(dead_code, clippy::unwrap_used, reason = "made for tests, of which this needs the beginning of a conversation")]
#[path = "../../../target-setup/tests/common/host.rs"]
mod host;

use anyhow::{Context, Result, ensure};
use host::{Host, SUBSYSTEM};
use nvferry_engine::{Failure, FileBufferId, Operation, Slice, SliceSink};
use nvferry_io::pool::PoolConfig;
use nvferry_io::stream::{MemoryStream, memory_pair};
use nvferry_io::vector::IoVecs;
use nvferry_io::{
    BufferPool, IoBuf, IoCompletion, IoEngine, IoFile, IoKind, IoRequest, MemSlice, RegisteredMemory, Stream,
};
use nvferry_nvmeof::host::namespaces::{HostNamespace, NamespaceTable, Presence};
use nvferry_nvmeof::host::userspace::queue_pair::{QueuePair, QueueParams, Scratch};
use nvferry_target::NamespaceSpec;
use nvferry_target::userspace::simulation::SimulatedTarget;
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::pdu::{
    CapsuleCmd, CapsuleResp, DataAlignment, DataEnd, DataPdu, Digests, Framing, IcResp, MAX_HEADER_BYTES, PFV_1_0,
};
use nvferry_wire::{
    BlockCount, CommandId, ControllerId, Cqe, HostId, Lba, Nqn, Nsid, QueueId, SglDescriptor, TransferTag, TransportId,
};
use std::cell::RefCell;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Commands under way at once, so that they share calls as they do where it matters.
const TOGETHER: u64 = 16;
const BLOCK: usize = 512;
const STREAM_BYTES: usize = 1 << 20;
/// A command's capsule without data; a data PDU's header; a response.
const COMMAND_BYTES: usize = 72;
const HEADER_BYTES: usize = 24;
/// Where the identifier stands in these.
const CID_IN_COMMAND: usize = 10;
const CID_IN_DATA: usize = 8;

/// Counts slices that ended well.
#[derive(Default)]
struct Ends(AtomicU64);

impl SliceSink for Ends {
    fn slice_ended(&self, _request: u32, _len_bytes: u64, result: Result<(), Failure>) {
        self.0.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
    }
}

fn send(stream: &mut MemoryStream, vecs: &mut IoVecs, bytes: &[u8]) -> Result<()> {
    let mut list = vecs.gather();
    list.push(bytes);
    ensure!(stream.send(&list)? == bytes.len(), "the stream has room for it");
    Ok(())
}

fn receive(stream: &mut MemoryStream, vecs: &mut IoVecs, into: &mut [u8]) -> Result<usize> {
    let mut list = vecs.scatter();
    list.push(into);
    Ok(stream.recv(&mut list)?)
}

/// A host's I/O queue, and the target's end of its stream.
struct HostQueue {
    queue: QueuePair,
    scratch: Scratch,
    stream: MemoryStream,
    peer: MemoryStream,
    vecs: IoVecs,
    now: Instant,
}

impl HostQueue {
    fn new() -> Result<Self> {
        let namespace =
            HostNamespace { nsid: Nsid(1), block_shift: 9, blocks: 1024, nguid: None, presence: Presence::Present };
        let pool = BufferPool::new(PoolConfig::default());
        let mut queue = QueuePair::new(Arc::new(NamespaceTable::new(vec![namespace])), pool);
        queue.distrust_short_receives();
        let params = QueueParams {
            qid: QueueId(1),
            entries: 128,
            cntlid: ControllerId(1),
            subnqn: Nqn::new(SUBSYSTEM)?,
            host_nqn: Nqn::new(host::HOST)?,
            host_id: HostId([7; 16]),
            digests: Digests::NONE,
            in_capsule_bytes: 64 << 10,
            max_transfer_bytes: 1 << 20,
            secret: None,
            controller_secret: None,
        };
        let (stream, peer) = memory_pair(STREAM_BYTES);
        let now = Instant::now();
        let mut host = Self { queue, scratch: Scratch::new(), stream, peer, vecs: IoVecs::new(), now };
        host.queue.connecting(Arc::new(params), now);
        host.queue.connected(now);
        host.drive()?;
        let (mut said, mut out) = ([0; 4096], [0; MAX_HEADER_BYTES]);
        ensure!(receive(&mut host.peer, &mut host.vecs, &mut said)? == 128, "ICReq");
        let granted = IcResp { pfv: PFV_1_0, cpda: DataAlignment::NONE, digests: Digests::NONE, maxh2cdata: 1 << 20 };
        let len = granted.encode(&mut out);
        host.answer(&out[..len])?;
        ensure!(receive(&mut host.peer, &mut host.vecs, &mut said)? == COMMAND_BYTES + 1024, "Connect");
        let cid = CommandId(u16::from_le_bytes([said[CID_IN_COMMAND], said[CID_IN_COMMAND + 1]]));
        let len = CapsuleResp { cqe: Cqe::success(cid, 0xFFFF, 1) }.encode(&Framing::default(), &mut out);
        host.answer(&out[..len])?;
        ensure!(host.queue.is_ready(), "connected");
        Ok(host)
    }

    fn answer(&mut self, bytes: &[u8]) -> Result<()> {
        send(&mut self.peer, &mut self.vecs, bytes)?;
        self.drive()
    }

    fn drive(&mut self) -> Result<()> {
        loop {
            let readable = self.stream.readable();
            let driven = self.queue.drive(&mut self.stream, &mut self.scratch, self.now, readable);
            let driven = driven.ok().context("the connection ended")?;
            if !driven.more && !self.stream.readable() {
                return Ok(());
            }
        }
    }
}

/// Small reads through a host's queue pair.
pub(crate) fn host_reads(operations: u64) -> Result<()> {
    let mut host = HostQueue::new()?;
    let ends = Arc::new(Ends::default());
    let memory = RegisteredMemory::allocate(BLOCK * TOGETHER as usize);
    let slices: Vec<MemSlice> =
        (0..TOGETHER as usize).map(|n| memory.lease(n * BLOCK..(n + 1) * BLOCK)).collect::<Result<_, _>>()?;
    let mut commands = [0; COMMAND_BYTES * TOGETHER as usize];
    let mut header = [0; MAX_HEADER_BYTES];
    let end = DataEnd::LastWithSuccess;
    let pdu = DataPdu { cccid: CommandId(0), ttag: TransferTag(0), datao: 0, datal: BLOCK as u32, end };
    let len = pdu.encode_c2h(&Framing::default(), &mut header);
    ensure!(len == HEADER_BYTES, "a data PDU's header");
    let mut answers = vec![0x5a; (HEADER_BYTES + BLOCK) * TOGETHER as usize];
    for answer in answers.chunks_mut(HEADER_BYTES + BLOCK) {
        answer[..HEADER_BYTES].copy_from_slice(&header[..HEADER_BYTES]);
    }
    for _ in 0..operations / TOGETHER {
        for (n, memory) in slices.iter().enumerate() {
            let sink = Arc::clone(&ends) as Arc<dyn SliceSink>;
            let (offset, deadline) = ((n * BLOCK) as u64, host.now + Duration::from_secs(30));
            let slice = Slice::new(Operation::Read, FileBufferId(1), offset, memory.clone(), deadline, sink, n as u32);
            host.queue.submit(black_box(slice));
        }
        host.drive()?;
        ensure!(receive(&mut host.peer, &mut host.vecs, &mut commands)? == commands.len(), "all commands");
        for (command, answer) in commands.chunks(COMMAND_BYTES).zip(answers.chunks_mut(HEADER_BYTES + BLOCK)) {
            answer[CID_IN_DATA..CID_IN_DATA + 2].copy_from_slice(&command[CID_IN_COMMAND..CID_IN_COMMAND + 2]);
        }
        host.answer(&answers)?;
    }
    let ended = ends.0.load(Ordering::Relaxed);
    ensure!(ended == operations / TOGETHER * TOGETHER, "{ended} of {operations} reads ended well");
    Ok(())
}

/// Storage in memory that does everything within the call.
struct InMemory {
    bytes: Vec<u8>,
    done: Vec<IoCompletion>,
    /// Never readable.
    null: File,
}

impl IoEngine for InMemory {
    fn name(&self) -> &'static str {
        "in memory"
    }

    fn capacity(&self) -> usize {
        1024
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn submit(&mut self, mut request: IoRequest) -> Result<(), IoRequest> {
        let at = request.offset as usize;
        let result = match (request.kind, &mut request.buf) {
            (IoKind::Read, IoBuf::Pool(buffer, len)) => {
                buffer[..*len].copy_from_slice(&self.bytes[at..at + *len]);
                Ok(*len)
            }
            (IoKind::Write, IoBuf::Pool(buffer, len)) => {
                self.bytes[at..at + *len].copy_from_slice(&buffer[..*len]);
                Ok(*len)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        self.done.push(IoCompletion { token: request.token, result, buf: request.buf });
        Ok(())
    }

    fn write_now(&mut self, _file: &IoFile, offset: u64, bytes: &[u8]) -> Option<io::Result<usize>> {
        self.bytes[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Some(Ok(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        done.append(&mut self.done);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    fn wait(&mut self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

/// A target that takes its turns when somebody listens to it.
struct Target {
    target: SimulatedTarget,
    now: Instant,
}

/// A host's end of a connection.
struct Pipe {
    stream: MemoryStream,
    target: Rc<RefCell<Target>>,
    vecs: IoVecs,
}

impl Pipe {
    fn new(target: &Rc<RefCell<Target>>) -> Self {
        let (stream, theirs) = memory_pair(STREAM_BYTES);
        target.borrow_mut().target.accept(theirs);
        Self { stream, target: Rc::clone(target), vecs: IoVecs::new() }
    }

    fn turn(&self) {
        let Target { target, now } = &mut *self.target.borrow_mut();
        target.turn(0, *now);
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !self.stream.readable() {
            self.turn();
        }
        let mut list = self.vecs.scatter();
        list.push(into);
        self.stream.recv(&mut list)
    }
}

impl Write for Pipe {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut list = self.vecs.gather();
        list.push(from);
        self.stream.send(&list)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Small commands through a target: a capsule's bytes in, data's or a response's bytes out.
pub(crate) fn target_commands(operations: u64, opcode: NvmOpcode) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().set_len(1 << 20)?;
    let engine = InMemory { bytes: vec![0x5a; 1 << 20], done: Vec::new(), null: File::open("/dev/null")? };
    let subsystem = Nqn::new(SUBSYSTEM)?;
    let address = TransportId::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 4420))).with_subnqn(subsystem.clone());
    let target = SimulatedTarget::new(address, subsystem, vec![Box::new(engine)])?;
    let spec = NamespaceSpec { direct: false, ..NamespaceSpec::new(Nsid(1), file.path(), 1 << 20) };
    let block_bytes = target.add_namespace(&NamespaceSpec { block_bytes: Some(BLOCK as u32), ..spec })?.block_bytes;
    ensure!(block_bytes as usize == BLOCK, "a block is {block_bytes} bytes");
    let target = Rc::new(RefCell::new(Target { target, now: Instant::now() }));
    let mut admin = Host::plain(Pipe::new(&target));
    let cntlid = admin.connect_admin(SUBSYSTEM, 0);
    let mut host = Host::plain(Pipe::new(&target));
    host.connect_io(cntlid, 1, 128, true);

    let is_write = opcode == NvmOpcode::Write;
    let (data_bytes, answer_bytes) = if is_write { (BLOCK, HEADER_BYTES) } else { (0, HEADER_BYTES + BLOCK) };
    let mut capsules = Vec::new();
    for n in 0..TOGETHER {
        let (cid, length) = (CommandId(n as u16), BLOCK as u32);
        let sgl = match is_write {
            true => SglDescriptor::InCapsule { offset: 0, length },
            false => SglDescriptor::Transport { length },
        };
        let sqe = ReadWrite::new(Nsid(1), Lba(n), BlockCount(1)).sqe(opcode, cid, sgl);
        let mut out = [0; MAX_HEADER_BYTES];
        let len = CapsuleCmd { sqe, data_bytes: data_bytes as u32 }.encode(&Framing::default(), &mut out);
        capsules.extend_from_slice(&out[..len]);
        capsules.resize(capsules.len() + data_bytes, 0x5a);
    }
    let mut answers = vec![0; answer_bytes * TOGETHER as usize];
    for _ in 0..operations / TOGETHER {
        let Pipe { stream, vecs, .. } = &mut host.io;
        send(stream, vecs, black_box(&capsules))?;
        host.io.turn();
        let Pipe { stream, vecs, .. } = &mut host.io;
        ensure!(receive(stream, vecs, &mut answers)? == answers.len(), "all answers");
        black_box(&answers);
    }
    Ok(())
}
