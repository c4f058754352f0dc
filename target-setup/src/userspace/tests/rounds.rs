//! Reads begin in rounds, and what has ended is sent between them: in which order, how much at a time, and that nothing is
//! left behind.

use super::harness::{Pipe, Target};
use super::host::Host;
use crate::userspace::limits::{LONG_ROUND_COMMANDS, ROUND_BYTES, SHORT_ROUND_COMMANDS};
use nvferry_io::fast_paths::{FastPaths, Force};
use nvferry_io::stream::MemoryLink;
use nvferry_io::vector::IoVecs;
use nvferry_io::{IoBuf, IoCompletion, IoEngine, IoKind, IoRequest, Stream};
use nvferry_wire::pdu::{CapsuleCmd, DataAlignment, DataEnd, Digests, MAX_HEADER_BYTES, Pdu};
use nvferry_wire::{CommandId, Sqe, Status, StatusCode};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BLOCK: u32 = 512;
/// A data PDU's header, and a response.
const HEADER_BYTES: u64 = 24;
/// Room for everything that a test has sent.
const PLENTY: usize = 64 << 20;

/// A read that has begun: where, and what the target had sent before.
type Begun = (u64, u64);

#[derive(Default)]
struct State {
    /// What the target sends.
    sent: Option<MemoryLink>,
    begun: Vec<Begun>,
    /// How many reads had begun when each write began.
    reads_before_writes: Vec<usize>,
    /// Offsets of reads that fail.
    failing: Vec<u64>,
    done: Vec<IoCompletion>,
    capacity: usize,
}

/// Storage that does everything within the call, and remembers when that was.
#[derive(Clone, Default)]
struct Storage(Arc<Mutex<State>>);

struct Engine {
    storage: Storage,
    /// Never readable.
    null: File,
}

impl IoEngine for Engine {
    fn name(&self) -> &'static str {
        "immediate"
    }

    fn capacity(&self) -> usize {
        self.storage.0.lock().unwrap().capacity
    }

    fn in_flight(&self) -> usize {
        self.storage.0.lock().unwrap().done.len()
    }

    fn submit(&mut self, mut request: IoRequest) -> Result<(), IoRequest> {
        let mut state = self.storage.0.lock().unwrap();
        if state.done.len() >= state.capacity {
            return Err(request);
        }
        let result = match (request.kind, &mut request.buf) {
            (IoKind::Read, IoBuf::Pool(..)) if state.failing.contains(&request.offset) => {
                Err(io::Error::from_raw_os_error(5))
            }
            (IoKind::Read, IoBuf::Pool(buffer, len)) => request.file.read_at(&mut buffer[..*len], request.offset),
            (IoKind::Write, IoBuf::Pool(buffer, len)) => {
                request.file.write_at(&buffer[..*len], request.offset).map(|()| *len)
            }
            _ => Ok(0),
        };
        if request.kind == IoKind::Read {
            let sent = state.sent.as_ref().map_or(0, MemoryLink::sent_bytes);
            state.begun.push((request.offset, sent));
        } else if request.kind == IoKind::Write {
            let reads = state.begun.len();
            state.reads_before_writes.push(reads);
        }
        state.done.push(IoCompletion { token: request.token, result, buf: request.buf });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        done.append(&mut self.storage.0.lock().unwrap().done);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    fn wait(&mut self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

/// A target, an I/O queue to it, and what its storage saw.
struct Rig {
    target: Target,
    storage: Storage,
    _admin: Host<Pipe>,
    io: Host<Pipe>,
    content: Vec<u8>,
    /// Sent before any read.
    sent_before: u64,
    asked: Vec<(CommandId, u64, u32)>,
    bytes: Vec<u8>,
}

impl Rig {
    fn new(stream_bytes: usize, capacity: usize) -> Self {
        let storage = Storage::default();
        storage.0.lock().unwrap().capacity = capacity;
        let engine = Engine { storage: storage.clone(), null: File::open("/dev/null").unwrap() };
        let target = Target::on(Box::new(engine));
        let content: Vec<u8> = (0..4 << 20).map(|at: u32| (at.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
        for nsid in 1..=2 {
            target.offer(nsid, &content);
        }
        let (admin, cntlid) = target.admin(0);
        let mut io = Host::open(target.pipe_of(stream_bytes), Digests::NONE, DataAlignment::NONE);
        io.connect_io(cntlid, 1, 1024, true);
        let sent = io.io.stream.incoming();
        let sent_before = sent.sent_bytes();
        storage.0.lock().unwrap().sent = Some(sent);
        Self { target, storage, _admin: admin, io, content, sent_before, asked: Vec::new(), bytes: Vec::new() }
    }

    /// Adds a command to what will arrive at once.
    fn add(&mut self, sqe: &Sqe, data: &[u8]) {
        let mut out = [0; MAX_HEADER_BYTES];
        let len = CapsuleCmd { sqe: *sqe, data_bytes: data.len() as u32 }.encode(&self.io.framing, &mut out);
        self.bytes.extend_from_slice(&out[..len]);
        self.bytes.extend_from_slice(data);
    }

    /// Adds `count` reads of `len` bytes, one after the other in the file.
    fn add_reads(&mut self, nsid: u32, count: u64, len: u32) {
        for n in 0..count {
            let offset = n * u64::from(len) % self.content.len() as u64;
            let sqe = self.io.read_sqe(nsid, offset / u64::from(BLOCK), len / BLOCK, BLOCK);
            self.asked.push((sqe.cid(), offset, len));
            self.add(&sqe, &[]);
        }
    }

    /// Lets all that was added arrive in one receive, and the target take one turn.
    fn turn(&mut self) {
        let mut scratch = IoVecs::new();
        let mut gather = scratch.gather();
        gather.push(&self.bytes);
        assert_eq!(self.io.io.stream.send(&gather).unwrap(), self.bytes.len());
        self.bytes.clear();
        self.target.turn();
    }

    /// The reads that began together, as often as something was sent between them: how many, and how many bytes had been
    /// sent before.
    fn rounds(&self) -> Vec<(usize, u64)> {
        let mut rounds: Vec<(usize, u64)> = Vec::new();
        for (_, sent) in &self.storage.0.lock().unwrap().begun {
            let sent = sent - self.sent_before;
            match rounds.last_mut() {
                Some((count, before)) if *before == sent => *count += 1,
                _ => rounds.push((1, sent)),
            }
        }
        rounds
    }

    fn sizes(&self) -> Vec<usize> {
        self.rounds().into_iter().map(|(count, _)| count).collect()
    }

    /// Takes all answers, in the order in which the reads were asked for; `failing` of them have failed.
    fn take_answers(&mut self, failing: &[u64]) {
        for (cid, offset, len) in std::mem::take(&mut self.asked) {
            let received = self.io.receive().expect("the connection stays");
            match received.pdu {
                Pdu::C2hData(pdu) => {
                    assert_eq!((pdu.cccid, pdu.datal, pdu.end), (cid, len, DataEnd::LastWithSuccess));
                    assert!(received.data == self.content[offset as usize..][..len as usize], "bytes at {offset}");
                    assert!(!failing.contains(&offset));
                }
                Pdu::CapsuleResp(response) => {
                    assert_eq!(response.cqe.cid, cid);
                    assert_eq!(response.cqe.status, Status::new(StatusCode::UnrecoveredReadError));
                    assert!(failing.contains(&offset));
                }
                other => panic!("{other:?}"),
            }
        }
        self.check_nothing_is_left();
    }

    fn check_nothing_is_left(&self) {
        self.target.turn_until_quiet();
        assert!(!self.io.io.stream.readable(), "no more answers than questions");
        self.target.with(|sim| {
            assert_eq!(sim.worker.busy(), 0, "commands");
            assert_eq!(sim.worker.core.lanes.turns(), 0, "lanes with something to do");
            assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0, "buffers");
            assert_eq!(sim.worker.core.capsule_pool.stats().in_use_bytes, 0, "buffers");
        });
    }
}

/// Where rounds are forced to be of another kind.
fn is_forced() -> bool {
    let paths = FastPaths::of_this_process();
    let forced = paths.rounds != Force::Auto || paths.success_flag != Force::Auto;
    if forced {
        println!("skipped: NVFERRY_TEST_PATHS forces rounds of another kind, or other answers");
    }
    forced
}

#[test]
fn few_reads_begin_by_sixteens_and_each_sixteen_is_sent_before_the_next() {
    if is_forced() {
        return;
    }
    for count in [1, 15, 16, 17, 31, 32] {
        let mut rig = Rig::new(PLENTY, 1024);
        rig.add_reads(1, count, 4096);
        rig.turn();
        let (size, whole) = (SHORT_ROUND_COMMANDS as u64, count / SHORT_ROUND_COMMANDS as u64);
        let answer_bytes = HEADER_BYTES + 4096;
        let mut expected: Vec<_> = (0..whole).map(|round| (size as usize, round * size * answer_bytes)).collect();
        expected.extend((count % size > 0).then_some(((count % size) as usize, whole * size * answer_bytes)));
        assert_eq!(rig.rounds(), expected, "{count} reads");
        rig.take_answers(&[]);
    }
}

#[test]
fn many_reads_begin_by_sixty_fours() {
    if is_forced() {
        return;
    }
    for (count, sizes) in [(33, vec![33]), (64, vec![64]), (65, vec![64, 1]), (200, vec![64, 64, 64, 8])] {
        let mut rig = Rig::new(PLENTY, 1024);
        rig.add_reads(1, count, BLOCK);
        rig.turn();
        assert_eq!(rig.sizes(), sizes, "{count} reads");
        assert_eq!(rig.sizes()[0].min(64), LONG_ROUND_COMMANDS.min(count as usize));
        rig.take_answers(&[]);
    }
}

#[test]
fn a_round_has_a_mebibyte_and_the_last_read_may_go_beyond() {
    if is_forced() {
        return;
    }
    // 1 MiB is two whole reads of 400 KiB and a part of the third.
    for (len, together) in [(256 << 10, 4), (1 << 20, 1), (400 << 10, 3)] {
        assert_eq!(together, ROUND_BYTES.div_ceil(len as usize));
        let mut rig = Rig::new(PLENTY, 1024);
        rig.add_reads(1, 10, len);
        rig.turn();
        let mut sizes = vec![together; 10 / together];
        sizes.extend((10 % together > 0).then_some(10 % together));
        assert_eq!(rig.sizes(), sizes, "reads of {len} bytes");
        rig.take_answers(&[]);
    }
}

#[test]
fn namespaces_share_a_round() {
    if is_forced() {
        return;
    }
    let mut rig = Rig::new(PLENTY, 1024);
    rig.add_reads(1, 10, 4096);
    rig.add_reads(2, 10, 4096);
    rig.turn();
    // The first has its turn, the second what is left of the round; its rest comes in the next.
    assert_eq!(rig.sizes(), [SHORT_ROUND_COMMANDS, 20 - SHORT_ROUND_COMMANDS]);
    rig.take_answers(&[]);
}

#[test]
fn a_read_that_fails_takes_its_place_in_the_round() {
    if is_forced() {
        return;
    }
    let failing = [0, 5 * 4096, 15 * 4096, 16 * 4096, 29 * 4096];
    let mut rig = Rig::new(PLENTY, 1024);
    rig.storage.0.lock().unwrap().failing = failing.to_vec();
    rig.add_reads(1, 30, 4096);
    rig.turn();
    // Three of the first sixteen brought a response instead of data.
    let before_second = 13 * (HEADER_BYTES + 4096) + 3 * HEADER_BYTES;
    assert_eq!(rig.rounds(), [(16, 0), (14, before_second)]);
    rig.take_answers(&failing);
}

#[test]
fn a_write_in_a_capsule_begins_with_the_next_round() {
    if is_forced() {
        return;
    }
    let mut rig = Rig::new(PLENTY, 1024);
    rig.add_reads(1, 20, 4096);
    let mut sqe = rig.io.write_sqe(2, 0, 1);
    sqe.set_sgl(nvferry_wire::SglDescriptor::InCapsule { offset: 0, length: BLOCK });
    rig.add(&sqe, &[7; BLOCK as usize]);
    rig.turn();
    // The first round is the first namespace's; then it is the second one's turn.
    assert_eq!(rig.storage.0.lock().unwrap().reads_before_writes, [SHORT_ROUND_COMMANDS]);
    let mut responses = 0;
    for _ in 0..21 {
        responses += usize::from(matches!(rig.io.receive().unwrap().pdu, Pdu::CapsuleResp(_)));
    }
    assert_eq!(responses, 1, "the write's");
    assert_eq!(rig.target.file(2)[..BLOCK as usize], [7; BLOCK as usize]);
    rig.check_nothing_is_left();
}

/// The engine has room for fewer than a round, so that every round is cut short.
#[test]
fn p01_nothing_is_left_behind_when_a_round_is_cut_short() {
    for capacity in [1, 3, 15, 16, 17] {
        for len in [BLOCK, 64 << 10] {
            let failing = [0, 2 * u64::from(len), 17 * u64::from(len)];
            let mut rig = Rig::new(PLENTY, capacity);
            rig.storage.0.lock().unwrap().failing = failing.to_vec();
            rig.add_reads(1, 60, len);
            rig.turn();
            let begun = rig.storage.0.lock().unwrap().begun.iter().map(|(offset, _)| *offset).collect::<Vec<_>>();
            assert!(begun.iter().copied().eq((0..60).map(|n| n * u64::from(len))), "in order, capacity {capacity}");
            if !is_forced() {
                rig.take_answers(&failing);
            }
        }
    }
}

/// The host takes little at a time, so that reads wait for it between rounds.
#[test]
fn p01_nothing_is_left_behind_when_the_host_is_slow_or_goes() {
    if is_forced() {
        return;
    }
    for goes in [false, true] {
        let mut rig = Rig::new(20 << 10, 1024);
        rig.add_reads(1, 100, 64 << 10);
        rig.turn();
        rig.target.turn_until_quiet();
        if goes {
            // After the first answer.
            let first = rig.asked.remove(0).0;
            assert!(matches!(rig.io.receive().unwrap().pdu, Pdu::C2hData(pdu) if pdu.cccid == first));
            rig.io.io.stream.close_send();
            rig.io.io.stream.incoming().cut(nvferry_io::stream::Cut::Reset);
            rig.target.turn_until_quiet();
            rig.target.with(|sim| {
                assert_eq!((sim.worker.busy(), sim.worker.core.data_pool.stats().in_use_bytes), (0, 0));
            });
        } else {
            // Those for which there was room in the meantime come before those that had to wait.
            let mut asked: HashMap<_, _> = rig.asked.drain(..).map(|(cid, offset, _)| (cid, offset as usize)).collect();
            while !asked.is_empty() {
                let received = rig.io.receive().unwrap();
                let Pdu::C2hData(pdu) = received.pdu else { panic!("{:?}", received.pdu) };
                let offset = asked.remove(&pdu.cccid).expect("each is answered once");
                assert!(received.data == rig.content[offset..][..64 << 10], "bytes at {offset}");
            }
            rig.check_nothing_is_left();
        }
    }
}
