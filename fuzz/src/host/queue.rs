//! An I/O queue under attack: requests of an application on one side, what the input makes a target say on the other.
//!
//! Each request ends exactly once, by its deadline; a read that completes holds what the target sent for it; memory is
//! free when its request has ended, and nothing is written beside it; the host says nothing that may not be said.

use super::peer::Peer;
use super::{Host, settings};
use crate::input::Input;
use crate::target::{BEGINNING, SUBSYSTEM};
use nvferry_engine::{Failure, FileBufferId, Operation, Slice, SliceSink};
use nvferry_io::pool::PoolConfig;
use nvferry_io::stream::{MemoryStream, Stream};
use nvferry_io::{BufferPool, RegisteredMemory};
use nvferry_nvmeof::host::namespaces::{HostNamespace, NamespaceTable, Presence};
use nvferry_nvmeof::host::userspace::queue_pair::{QueuePair, QueueParams, Scratch};
use nvferry_wire::fabrics::{ConnectResult, FABRICS_OPCODE};
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::pdu::{DataEnd, Digests};
use nvferry_wire::{ControllerId, Nqn, Nsid, QueueId, Sqe, StatusCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Blocks, and the block's size as a power of two, of each file. The last has more than can be addressed.
const FILES: [(u64, u8); 3] = [(256, 9), (64, 12), (u64::MAX, 9)];
const MAX_REQUESTS: usize = 40;
const UNUSED: u8 = 0xA5;
/// Bytes around a request's memory.
const MARGIN: usize = 16;

/// How requests ended, by number.
#[derive(Default)]
struct Ends(Mutex<Vec<(u32, Result<(), Failure>)>>);

impl SliceSink for Ends {
    fn slice_ended(&self, request: u32, _len_bytes: u64, result: Result<(), Failure>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((request, result));
    }
}

struct Request {
    operation: Operation,
    file: u32,
    offset: u64,
    memory: RegisteredMemory,
    deadline: Instant,
    ended: bool,
}

pub(crate) struct Attack {
    queue: QueuePair,
    pool: BufferPool,
    scratch: Scratch,
    stream: Option<MemoryStream>,
    peer: Peer,
    params: Arc<QueueParams>,
    ends: Arc<Ends>,
    requests: Vec<Request>,
    now: Instant,
    /// Data came from the target that is not what the file holds.
    is_tainted: bool,
    table: u8,
}

/// What a file holds.
fn held(file: u32, at: u64) -> u8 {
    ((at as u32).wrapping_mul(0x9E37_79B1) >> 23) as u8 ^ file as u8
}

/// What requests write.
fn written(file: u32, at: u64) -> u8 {
    !held(file, at)
}

fn table(which: u8) -> Arc<NamespaceTable> {
    let presence = if which & 8 == 0 { Presence::Present } else { Presence::Awaited };
    let files = FILES.iter().zip(1..).filter(|&(_, nsid)| which >> (nsid - 1) & 1 == 0);
    let entry =
        |(&(blocks, block_shift), nsid)| HostNamespace { nsid: Nsid(nsid), block_shift, blocks, nguid: None, presence };
    Arc::new(NamespaceTable::new(files.map(entry).collect()))
}

impl Host for Attack {
    const RAW: u8 = 13;

    fn begin(setup: u8) -> Self {
        let digests = Digests { header: setup & 1 != 0, data: setup & 2 != 0 };
        let pool = BufferPool::new(PoolConfig { max_bytes: 1 << 20, ..PoolConfig::default() });
        let mut queue = QueuePair::new(table(0), pool.clone());
        queue.distrust_short_receives();
        let settings = settings(digests, setup & 4 != 0);
        let params = QueueParams {
            qid: QueueId(1),
            entries: 16,
            cntlid: ControllerId(1),
            subnqn: Nqn::new(SUBSYSTEM).unwrap(),
            host_nqn: settings.host_nqn,
            host_id: settings.host_id,
            digests,
            in_capsule_bytes: 8192,
            max_transfer_bytes: 64 << 10,
            secret: settings.secret,
            controller_secret: settings.controller_secret,
        };
        let mut attack = Self {
            queue,
            pool,
            scratch: Scratch::new(),
            stream: None,
            peer: Peer::new(1).0,
            params: Arc::new(params),
            ends: Arc::default(),
            requests: Vec::new(),
            now: *BEGINNING,
            is_tainted: false,
            table: 0,
        };
        attack.connect(1 << 20);
        attack
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.u8() % 20 {
            0..=3 => self.submit(input),
            4 => {
                self.peer.say_icresp(input);
                self.drive();
            }
            5 | 6 => self.complete(input),
            7..=9 => self.send_data(input),
            10 | 11 => self.ask(input),
            12 => self.serve(),
            13 => {
                self.is_tainted = true;
                self.peer.say_raw(input.chunk());
                self.drive();
            }
            14 => self.pass(Duration::from_millis(input.pick(&[1, 10, 100, 1000, 5000, 30_000]))),
            15 => {
                self.peer.leave(input.u8());
                self.drive();
            }
            16 => self.connect(input.pick(&[1 << 20, 4096, 65_536, 300])),
            17 => self.peer.split(input),
            18 => {
                self.table = input.u8();
                self.queue.set_namespaces(table(self.table));
                self.drive();
            }
            _ => {
                self.peer.say_term(input);
                self.drive();
            }
        }
        self.look();
    }

    fn drive(&mut self) {
        for _ in 0..10_000 {
            let Some(stream) = &mut self.stream else { return };
            let readable = stream.readable();
            let Ok(driven) = self.queue.drive(stream, &mut self.scratch, self.now, readable) else {
                self.stream = None;
                self.hear();
                return;
            };
            let again = self.stream.as_ref().is_some_and(|stream| stream.readable()) || driven.more;
            self.hear();
            let unblocked = driven.blocked && self.stream.as_ref().is_some_and(MemoryStream::writable);
            if !(again || unblocked) {
                return;
            }
        }
        panic!("the host does not come to rest");
    }

    fn said(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.peer.tape)
    }

    fn end(mut self) {
        for time in [5, 30] {
            self.pass(Duration::from_secs(time));
        }
        assert!(self.requests.iter().all(|request| request.ended));
        self.queue.close(&mut self.scratch, self.now, || Failure::canceled("the end"));
        self.look();
        assert_eq!(self.queue.in_flight(), 0, "commands were kept");
        drop(self.queue);
        assert_eq!(self.pool.stats().in_use_bytes, 0, "bounce buffers were kept");
    }
}

impl Attack {
    fn connect(&mut self, capacity_bytes: usize) {
        if !self.queue.is_down() {
            return;
        }
        let (peer, stream) = Peer::new(capacity_bytes);
        self.peer = peer;
        self.stream = Some(stream);
        self.queue.connecting(Arc::clone(&self.params), self.now);
        self.queue.connected(self.now);
        self.drive();
    }

    /// What the host writes is what requests write, or what was there around it.
    fn hear(&mut self) {
        self.is_tainted |= self.peer.is_muddled;
        for (sqe, at, data) in self.peer.hear() {
            if sqe.opcode() == FABRICS_OPCODE || self.is_tainted {
                continue;
            }
            assert_eq!(NvmOpcode::from_u8(sqe.opcode()), Some(NvmOpcode::Write), "{sqe:?}");
            let (file, start) = place(&sqe);
            for (at, &byte) in (start + u64::from(at)..).zip(&data) {
                assert!(byte == held(file, at) || byte == written(file, at), "byte {at} of file {file} is {byte:#x}");
            }
        }
    }

    fn submit(&mut self, input: &mut Input<'_>) {
        let operation = input.pick(&[Operation::Read, Operation::Write]);
        let file = 1 + u32::from(input.u8()) % 4;
        let offset = match input.u8() {
            edge @ 250..=255 => [131_071, 131_072, 262_143, u64::MAX, u64::MAX - 512, 1 << 60][usize::from(edge - 250)],
            low => u64::from(low) * u64::from(input.pick(&[1_u16, 512, 509])),
        };
        let len = 1 + usize::from(input.u16());
        let time = Duration::from_millis(input.pick(&[30_000, 1000, 10, 5000]));
        if self.requests.len() >= MAX_REQUESTS {
            return;
        }
        let mut bytes = vec![UNUSED; len + 2 * MARGIN];
        if operation == Operation::Write {
            for (at, byte) in bytes[MARGIN..MARGIN + len].iter_mut().enumerate() {
                *byte = written(file, offset.wrapping_add(at as u64));
            }
        }
        let memory = RegisteredMemory::from(bytes);
        let lease = memory.lease(MARGIN..MARGIN + len).unwrap();
        let deadline = self.now + time;
        let sink = Arc::clone(&self.ends) as Arc<dyn SliceSink>;
        let number = self.requests.len() as u32;
        self.requests.push(Request { operation, file, offset, memory, deadline, ended: false });
        self.queue.submit(Slice::new(operation, FileBufferId(file), offset, lease, deadline, sink, number));
        self.drive();
    }

    /// Looks at the requests that have ended.
    fn look(&mut self) {
        // Half of a PDU was said: what came after it was taken for the rest.
        self.is_tainted |= self.peer.is_muddled;
        let ends = std::mem::take(&mut *self.ends.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (number, result) in ends {
            let request = &mut self.requests[number as usize];
            assert!(!std::mem::replace(&mut request.ended, true), "request {number} ended twice");
            let (file, offset, operation) = (request.file, request.offset, request.operation);
            let bytes = request.memory.bytes().expect("memory is free when its request has ended");
            let (inside, after) =
                bytes.len().checked_sub(2 * MARGIN).map(|len| (MARGIN..MARGIN + len, MARGIN + len)).unwrap();
            assert!(bytes[..MARGIN].iter().chain(&bytes[after..]).all(|&byte| byte == UNUSED), "beside the memory");
            for (at, &byte) in (offset..=u64::MAX).zip(&bytes[inside]) {
                let expected = match operation {
                    Operation::Write => byte == written(file, at),
                    Operation::Read if self.is_tainted => true,
                    Operation::Read => byte == held(file, at) || (result.is_err() && byte == UNUSED),
                };
                assert!(expected, "request {number}, {operation:?}, {result:?}: byte {at} of file {file} is {byte:#x}");
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if let Err(error) = self.queue.tick(None, self.now) {
            let stream = self.stream.as_mut().map(|stream| stream as &mut dyn Stream);
            self.queue.lost(error, stream, &mut self.scratch, self.now);
            self.stream = None;
        }
        self.drive();
        self.look();
        for (number, request) in self.requests.iter().enumerate() {
            assert!(request.ended || request.deadline > self.now, "request {number} has not ended by its deadline");
        }
        assert!(self.queue.next_timer().is_none_or(|at| at > self.now), "a timer that is due stays due");
    }

    fn complete(&mut self, input: &mut Input<'_>) {
        let at = self.peer.which(input);
        let status = match input.u8() {
            sc @ 240..=255 => StatusCode::from_raw(sc & 7, input.u8()),
            _ => StatusCode::Success,
        };
        let flags = input.u8();
        let result = match at.filter(|&at| self.peer.commands[at].sqe.opcode() == FABRICS_OPCODE) {
            Some(_) if flags & 2 == 0 => connected(),
            _ => u64::from(flags),
        };
        self.peer.complete(at.filter(|_| flags & 0xF0 != 0xF0), status, flags & 1 != 0, result, input.u16());
        self.drive();
    }

    fn send_data(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.peer.which(input) else { return };
        let command = &self.peer.commands[at];
        let (sqe, moved, left) = (command.sqe, command.moved, command.len().saturating_sub(command.moved));
        let how = input.u8();
        let (mut datao, mut len) = (moved, left);
        match how & 7 {
            0 => len = left.min(1 + u32::from(input.u16())),
            1 => datao = input.u32(),
            2 => len = input.u32() & 0x1_FFFF,
            3 => self.peer.corrupt_next(),
            _ => {}
        }
        let end = match how >> 3 & 3 {
            0 if how & 7 == 0 && len < left => DataEnd::More,
            0 => DataEnd::LastWithSuccess,
            1 => DataEnd::Last,
            2 => DataEnd::LastWithSuccess,
            _ => DataEnd::More,
        };
        let (file, start) = place(&sqe);
        let data: Vec<u8> =
            (0..u64::from(len)).map(|at| held(file, start.wrapping_add(datao.into()).wrapping_add(at))).collect();
        self.peer.say_data(at, datao, &data, end);
        self.drive();
    }

    fn ask(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.peer.which(input) else { return };
        let command = &self.peer.commands[at];
        let how = input.u8();
        let (mut r2to, mut r2tl) = (command.moved, command.len().saturating_sub(command.moved));
        match how & 7 {
            1 => r2tl = r2tl.min(1 + u32::from(input.u16())),
            2 => r2to = input.u32(),
            3 => r2tl = input.u32(),
            _ => {}
        }
        self.peer.say_r2t(at, input.u16(), r2to, r2tl);
        self.drive();
    }

    /// Answers everything as it should be.
    fn serve(&mut self) {
        for _ in 0..8 {
            self.drive();
            let mut at = 0;
            while at < self.peer.commands.len() {
                let command = &self.peer.commands[at];
                let (sqe, moved, left) = (command.sqe, command.moved, command.len().saturating_sub(command.moved));
                match NvmOpcode::from_u8(sqe.opcode()) {
                    Some(NvmOpcode::Read) => {
                        let (file, start) = place(&sqe);
                        let from = start.wrapping_add(moved.into());
                        let data: Vec<u8> = (0..u64::from(left)).map(|at| held(file, from.wrapping_add(at))).collect();
                        self.peer.say_data(at, moved, &data, DataEnd::LastWithSuccess);
                    }
                    Some(NvmOpcode::Write) if command.data.is_empty() && left > 0 => {
                        self.peer.say_r2t(at, 1, moved, left);
                        at += 1;
                    }
                    _ => {
                        let result = if sqe.opcode() == FABRICS_OPCODE { connected() } else { 0 };
                        self.peer.complete(Some(at), StatusCode::Success, false, result, 0);
                    }
                }
            }
        }
        self.drive();
    }
}

fn connected() -> u64 {
    ConnectResult { cntlid: ControllerId(1), authentication_required: false, secure_channel_required: false }
        .to_result()
}

/// The file of a command, and where in it.
fn place(sqe: &Sqe) -> (u32, u64) {
    let command = ReadWrite::decode(sqe);
    let shift = FILES.get(command.nsid.0.wrapping_sub(1) as usize).map_or(9, |&(_, shift)| shift);
    (command.nsid.0, command.slba.0.wrapping_shl(shift.into()))
}
