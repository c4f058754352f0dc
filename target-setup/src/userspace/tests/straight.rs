//! Writes that are carried out from the receive buffer: what is simple enough is, and all others do the same by the long way.

use super::harness::{Pipe, Target};
use super::host::{Host, Way};
use crate::driver::CommandKind;
use nvferry_io::engine::{Fault, FaultControl, FaultRule, Faulty, ThreadsConfig, ThreadsEngine};
use nvferry_io::fast_paths::Path;
use nvferry_io::{IoCompletion, IoEngine, IoFile, IoRequest};
use nvferry_wire::nvm::{NvmOpcode, ReadWrite};
use nvferry_wire::pdu::{DataAlignment, Digests, FatalErrorStatus, Pdu};
use nvferry_wire::{ControllerId, Nsid, SglDescriptor, Sqe, Status, StatusCode};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

const BLOCK: u32 = 512;
const FILE_BYTES: usize = 64 << 10;

/// [`AtOnce`] passes everything on.
const NEVER: i32 = -1;
/// It writes.
const WELL: i32 = 0;

/// Storage that does writes within the call if it is told to, and else what it is in front of does.
pub(super) struct AtOnce {
    inner: Faulty<ThreadsEngine>,
    /// [`NEVER`], [`WELL`], or the error that writes end with.
    ending: Arc<AtomicI32>,
}

impl AtOnce {
    pub(super) fn new(faults: &FaultControl) -> (Self, Arc<AtomicI32>) {
        let threads = ThreadsEngine::new(ThreadsConfig::with_capacity(64)).unwrap();
        let ending = Arc::new(AtomicI32::new(WELL));
        (Self { inner: Faulty::new(threads, faults.clone()).unwrap(), ending: Arc::clone(&ending) }, ending)
    }
}

impl IoEngine for AtOnce {
    fn name(&self) -> &'static str {
        "at once"
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        self.inner.submit(request)
    }

    fn write_now(&mut self, file: &IoFile, offset: u64, bytes: &[u8]) -> Option<io::Result<usize>> {
        match self.ending.load(Ordering::Relaxed) {
            NEVER => None,
            WELL => Some(file.write_at(bytes, offset).map(|()| bytes.len())),
            errno => Some(Err(io::Error::from_raw_os_error(errno))),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        self.inner.reap(done);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inner.wake_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.wait(timeout)
    }
}

/// A target with a file of zeroes, and an I/O queue to it.
struct Rig {
    target: Target,
    faults: FaultControl,
    ending: Arc<AtomicI32>,
    _admin: Host<Pipe>,
    cntlid: ControllerId,
    io: Host<Pipe>,
}

impl Rig {
    fn new(digests: Digests, entries: u32) -> Self {
        let faults = FaultControl::new(0);
        let (engine, ending) = AtOnce::new(&faults);
        let target = Target::on(Box::new(engine));
        target.offer(1, &[0; FILE_BYTES]);
        let (admin, cntlid) = target.admin(0);
        let mut io = Host::open(target.pipe(), digests, DataAlignment::NONE);
        io.connect_io(cntlid, 1, entries, true);
        Self { target, faults, ending, _admin: admin, cntlid, io }
    }

    fn straight(&self) -> u64 {
        self.target.with(|sim| sim.worker.core.taken.totals().get(Path::Straight))
    }

    /// A write of `data` whose capsule holds it behind `before` other bytes.
    fn command(&mut self, slba: u64, data: &[u8], before: u64) -> Sqe {
        let mut sqe = self.io.write_sqe(1, slba, data.len() as u32 / BLOCK);
        sqe.set_sgl(SglDescriptor::InCapsule { offset: before, length: data.len() as u32 });
        sqe
    }
}

#[test]
fn what_came_whole_is_written_from_the_receive_buffer() {
    for digests in [Digests::NONE, Digests { header: true, data: true }] {
        let mut rig = Rig::new(digests, 64);
        let mut model = vec![0; FILE_BYTES];
        // More than the receive buffer holds, of all lengths; what follows each is looked at as well.
        let mut sent = Vec::new();
        for n in 0..60_usize {
            let blocks = n * 7 % 8 + 1;
            let data = vec![n as u8 + 1; blocks * BLOCK as usize];
            let slba = n * 31 % (FILE_BYTES / BLOCK as usize - 8);
            model[slba * BLOCK as usize..][..data.len()].copy_from_slice(&data);
            let sqe = rig.command(slba as u64, &data, 0);
            rig.io.send_command(&sqe, &data);
            sent.push(sqe.cid());
        }
        for cid in sent {
            assert!(rig.io.finish(cid, &[], 0).status().is_success());
        }
        assert_eq!(rig.straight(), 60);
        assert!(rig.target.file(1) == model);
        rig.target.with(|sim| {
            assert_eq!(sim.worker.core.engine.in_flight() + sim.worker.busy(), 0);
            assert_eq!(sim.worker.core.data_pool.stats().peak_bytes, 0);
            let peak = sim.worker.core.capsule_pool.stats().peak_bytes;
            assert!(peak <= 4096, "{peak} bytes in buffers, more than Connect took");
        });
    }
}

#[test]
fn what_is_not_so_simple_goes_the_long_way() {
    let mut rig = Rig::new(Digests::NONE, 64);
    let data = [0x5A; 4096];
    // Data that begins further on in the capsule.
    let sqe = rig.command(0, &data, 512);
    rig.io.send_command(&sqe, &[vec![0xEE; 512], data.to_vec()].concat());
    assert!(rig.io.finish(sqe.cid(), &[], 0).status().is_success());
    // A capsule that brings more than the command wants.
    let sqe = rig.command(8, &data, 0);
    rig.io.send_command(&sqe, &[data.to_vec(), vec![0xEE; 512]].concat());
    assert!(rig.io.finish(sqe.cid(), &[], 0).status().is_success());
    // To be durable at once.
    let mut sqe = rig.command(16, &data, 0);
    let durable = ReadWrite { fua: true, ..ReadWrite::decode(&sqe) };
    sqe = durable.sqe(NvmOpcode::Write, sqe.cid(), SglDescriptor::InCapsule { offset: 0, length: 4096 });
    rig.io.send_command(&sqe, &data);
    assert!(rig.io.finish(sqe.cid(), &[], 0).status().is_success());
    // Asked for, and not in the capsule.
    assert!(rig.io.write(1, 24, &data, BLOCK, Way::Asked(1000)).is_success());
    // Its last bytes come later.
    let sqe = rig.command(32, &data, 0);
    rig.io.io.stream.outgoing().set_max_bytes_per_call(4000);
    rig.io.send_command(&sqe, &data);
    assert!(rig.io.finish(sqe.cid(), &[], 0).status().is_success());
    rig.io.io.stream.outgoing().set_max_bytes_per_call(usize::MAX);
    // Where storage does not do that.
    rig.ending.store(NEVER, Ordering::Relaxed);
    assert!(rig.io.write(1, 40, &data, BLOCK, Way::InCapsule).is_success());
    assert_eq!(rig.straight(), 0);
    let file = rig.target.file(1);
    assert!(file[..48 * 512].iter().all(|&byte| byte == 0x5A) && file[48 * 512..].iter().all(|&byte| byte == 0));
}

#[test]
fn p05_an_error_of_the_storage_reaches_the_write_that_it_ends() {
    let mut rig = Rig::new(Digests::NONE, 64);
    let data = [0x5A; 4096];
    let expected = [
        (Errno::NOSPC, Status::permanent(StatusCode::CapacityExceeded)),
        (Errno::IO, Status::new(StatusCode::WriteFault)),
    ];
    for (errno, status) in expected {
        rig.ending.store(errno.raw_os_error(), Ordering::Relaxed);
        assert_eq!(rig.io.write(1, 0, &data, BLOCK, Way::InCapsule), status);
    }
    rig.ending.store(WELL, Ordering::Relaxed);
    assert!(rig.io.write(1, 0, &data, BLOCK, Way::InCapsule).is_success());
    let totals = rig.target.with(|sim| {
        let lanes = &sim.worker.core.lanes;
        lanes.find(Nsid(1)).and_then(|lane| lanes.get(lane)).unwrap().counters.io.totals()
    });
    assert_eq!((totals.writes, totals.written_bytes), (1, 4096));
    let failed: u64 = totals.errors.0[CommandKind::Write as usize].iter().sum();
    assert_eq!(failed, 2);
}

#[test]
fn p15_data_that_was_changed_on_its_way_is_not_written_from_the_receive_buffer_either() {
    let mut rig = Rig::new(Digests { header: false, data: true }, 64);
    let data = [0x5A; 4096];
    let sqe = rig.command(0, &data, 0);
    rig.io.corrupt_next_data = true;
    rig.io.send_command(&sqe, &data);
    let status = rig.io.finish(sqe.cid(), &[], 0).status();
    assert_eq!(status, Status::new(StatusCode::TransientTransportError));
    assert_eq!(rig.straight(), 0);
    assert!(rig.target.file(1).iter().all(|&byte| byte == 0));
}

#[test]
fn p08_what_waits_for_an_orphan_is_not_written_before_it_has_ended() {
    let mut rig = Rig::new(Digests::NONE, 64);
    rig.ending.store(NEVER, Ordering::Relaxed);
    rig.faults.add_rule(FaultRule::always(Fault::Stall));
    let old = rig.command(0, &[0xAA; 4096], 0);
    rig.io.send_command(&old, &[0xAA; 4096]);
    rig.target.turn_until_quiet();
    rig.faults.clear();
    rig.ending.store(WELL, Ordering::Relaxed);
    // The connection ends; another takes its place.
    rig.io = Host::plain(rig.target.pipe());
    rig.target.turn_until_quiet();
    rig.io.connect_io(rig.cntlid, 2, 64, true);
    let sqe = rig.command(7, &[0xBB; 4096], 0);
    rig.io.send_command(&sqe, &[0xBB; 4096]);
    let beside = rig.command(32, &[0xCC; 4096], 0);
    rig.io.send_command(&beside, &[0xCC; 4096]);
    assert!(rig.io.finish(beside.cid(), &[], 0).status().is_success());
    assert!(rig.target.file(1)[7 * 512..15 * 512].iter().all(|&byte| byte == 0), "it waits");
    rig.faults.release_stalled();
    rig.target.wait_until_idle();
    rig.target.wait_until_idle();
    assert!(rig.io.finish(sqe.cid(), &[], 0).status().is_success());
    let file = rig.target.file(1);
    assert!(
        file[..7 * 512].iter().all(|&byte| byte == 0xAA) && file[7 * 512..15 * 512].iter().all(|&byte| byte == 0xBB)
    );
    assert_eq!(rig.straight(), 1, "the one beside");
}

#[test]
fn more_commands_than_the_queue_has_entries_end_the_connection_however_simple_they_are() {
    let mut rig = Rig::new(Digests::NONE, 2);
    rig.ending.store(NEVER, Ordering::Relaxed);
    rig.faults.add_rule(FaultRule::always(Fault::Stall));
    for slba in [0, 8] {
        let sqe = rig.command(slba, &[0xAA; 4096], 0);
        rig.io.send_command(&sqe, &[0xAA; 4096]);
    }
    rig.target.turn_until_quiet();
    rig.ending.store(WELL, Ordering::Relaxed);
    let sqe = rig.command(16, &[0xBB; 4096], 0);
    rig.io.send_command(&sqe, &[0xBB; 4096]);
    let told = rig.io.receive().expect("a termination request");
    let Pdu::C2hTermReq(reason) = told.pdu else { panic!("{:?}", told.pdu) };
    assert_eq!(reason.fes, FatalErrorStatus::PduSequenceError);
    assert_eq!(rig.straight(), 0);
    rig.faults.clear();
    rig.faults.release_stalled();
    rig.target.wait_until_idle();
    assert!(rig.target.file(1)[16 * 512..].iter().all(|&byte| byte == 0));
}
