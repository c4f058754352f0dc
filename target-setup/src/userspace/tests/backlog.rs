//! Hosts that ask and do not listen: memory stays bounded, and nothing is lost when they listen again.

use super::harness::Target;
use super::host::Host;
use crate::userspace::limits;
use nvferry_io::Stream;
use nvferry_io::vector::IoVecs;
use nvferry_wire::admin::GetLogPage;
use nvferry_wire::log_page::LogPageId;
use nvferry_wire::pdu::{CapsuleCmd, DataAlignment, Digests, MAX_HEADER_BYTES, Pdu};

const MIB: usize = 1 << 20;

#[test]
fn p14_admin_answers_that_nobody_takes_are_bounded() {
    let target = Target::new();
    let (mut admin, _) = target.admin(0);
    // A thousand commands that ask for a mebibyte each, in one go.
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        let cid = admin.cid();
        let mut out = [0; MAX_HEADER_BYTES];
        let sqe = GetLogPage::new(LogPageId::Error, MIB as u32).sqe(cid);
        let len = CapsuleCmd { sqe, data_bytes: 0 }.encode(&admin.framing, &mut out);
        bytes.extend_from_slice(&out[..len]);
    }
    let mut scratch = IoVecs::new();
    let mut gather = scratch.gather();
    gather.push(&bytes);
    assert_eq!(admin.io.stream.send(&gather).unwrap(), bytes.len());
    target.turn_until_quiet();
    target.with(|sim| {
        let waiting = sim.worker.connection(0).unwrap().sending.waiting_bytes();
        assert!(waiting > limits::SEND_BACKLOG_BYTES && waiting < limits::SEND_BACKLOG_BYTES + 2 * MIB, "{waiting}");
    });
    let mut answered = 0;
    while answered < 1000 {
        if let Pdu::CapsuleResp(response) = admin.receive().unwrap().pdu {
            assert!(response.cqe.status.is_success());
            answered += 1;
        }
    }
    assert!(admin.csts().ready());
}

#[test]
fn p07_a_host_that_does_not_listen_leaves_buffers_for_others() {
    let target = Target::new();
    target.offer(1, &vec![1; MIB]);
    let (_admin, cntlid) = target.admin(0);
    let deaf: Vec<Host<_>> = (1..=3)
        .map(|qid| {
            let mut io = target.io(cntlid, qid, Digests::NONE, DataAlignment::NONE);
            for _ in 0..200 {
                let sqe = io.read_sqe(1, 0, 2048, 512);
                io.send_command(&sqe, &[]);
            }
            io
        })
        .collect();
    let mut listening = target.io(cntlid, 4, Digests::NONE, DataAlignment::NONE);
    for _ in 0..20 {
        assert_eq!(listening.read(1, 0, 2048, 512).unwrap(), vec![1; MIB]);
    }
    target.with(|sim| assert!(sim.worker.core.data_pool.stats().peak_bytes <= limits::DATA_POOL_BYTES));
    for mut io in deaf {
        for _ in 0..200 {
            assert_eq!(io.receive().unwrap().data.len(), MIB);
        }
    }
    target.with(|sim| assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0));
}

/// Memory that is used anew all the time is not taken from the system each time; when nothing is done it goes back.
#[test]
fn p14_buffers_are_kept_while_they_are_used_and_given_back_after() {
    let target = Target::new();
    target.offer(1, &vec![1; MIB]);
    let (_admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    let mut rounds = |rounds: usize| {
        for _ in 0..rounds {
            for _ in 0..32 {
                let sqe = io.read_sqe(1, 0, 2048, 512);
                io.send_command(&sqe, &[]);
            }
            for _ in 0..32 {
                assert_eq!(io.receive().unwrap().data.len(), MIB);
            }
            target.pass(limits::POOL_DECAY / 3);
        }
    };
    let stats = || target.with(|sim| sim.worker.core.data_pool.stats());
    rounds(1);
    let first = stats();
    assert!(first.peak_bytes > limits::DATA_POOL_IDLE_BYTES, "too few to mean anything: {first:?}");
    rounds(20);
    let later = stats();
    // What a round needs at most depends on how far the host is behind; no round needs all of it anew.
    assert!(later.allocations <= 32 + first.allocations, "{first:?}, then {later:?}");

    target.pass(limits::POOL_DECAY);
    target.pass(limits::POOL_DECAY);
    let idle = stats();
    assert!(idle.free_bytes <= limits::DATA_POOL_IDLE_BYTES, "{idle:?}");
    target.with(|sim| assert_eq!(sim.worker.core.decay_at, None, "an idle reactor sleeps"));
    rounds(1);
}
