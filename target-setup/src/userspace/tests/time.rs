//! Every wait for a host ends: keep-alive, handshake, hosts that owe bytes, hosts that take none.

use super::harness::Target;
use super::host::{Host, Way};
use crate::userspace::limits;
use nvferry_io::stream::Cut;
use nvferry_wire::SglDescriptor;
use nvferry_wire::admin::keep_alive;
use nvferry_wire::pdu::{DataAlignment, Digests, Pdu};
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn a_silent_host_loses_its_controller_and_all_its_queues() {
    let target = Target::new();
    target.offer(1, &[1; 4096]);
    let (mut admin, cntlid) = target.admin(10_000);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    target.pass(Duration::from_secs(10) - MOMENT);
    assert_eq!(io.read(1, 0, 1, 512).unwrap(), [1; 512]);
    // I/O does not count, a Keep Alive does.
    let cid = admin.cid();
    assert!(admin.execute(&keep_alive(cid)).status().is_success());
    target.pass(Duration::from_secs(10) - MOMENT);
    assert_eq!(io.read(1, 0, 1, 512).unwrap(), [1; 512]);
    target.pass(MOMENT);
    assert!(admin.receive().is_none(), "the admin queue is closed");
    assert!(io.receive().is_none(), "so are the I/O queues");
    target.with(|sim| {
        assert!(sim.subsystem.controllers().is_empty());
        assert_eq!(sim.worker.len(), 0);
        assert_eq!(sim.subsystem.faults.totals().timeouts, 1);
    });
}

#[test]
fn without_a_keep_alive_timeout_a_host_may_be_silent() {
    let target = Target::new();
    let (mut admin, _) = target.admin(0);
    target.pass(Duration::from_secs(100_000));
    assert!(admin.csts().ready());
}

#[test]
fn the_keep_alive_timeout_is_rounded_up_to_seconds_and_can_be_changed() {
    use nvferry_wire::admin::{GetFeatures, SetFeatures};
    use nvferry_wire::feature::FeatureId;
    let target = Target::new();
    let (mut admin, _) = target.admin(1);
    let cid = admin.cid();
    let kato = |admin: &mut Host<_>| {
        let cid = admin.cid();
        admin.execute(&GetFeatures::current(FeatureId::KeepAliveTimer).sqe(cid)).cqe.dw0()
    };
    assert_eq!(kato(&mut admin), 1000);
    admin.execute(&SetFeatures::new(FeatureId::KeepAliveTimer, 5001).sqe(cid));
    assert_eq!(kato(&mut admin), 6000);
    target.pass(Duration::from_secs(6) - MOMENT);
    assert!(admin.csts().ready());
    target.pass(Duration::from_secs(6));
    assert!(admin.receive().is_none());
}

#[test]
fn a_handshake_that_does_not_come_to_an_end_is_given_up() {
    let target = Target::new();
    let mut nothing = target.pipe();
    let mut only_icreq = Host::plain(target.pipe());
    let (mut connected, _) = target.admin(0);
    target.pass(limits::HANDSHAKE_TIMEOUT - MOMENT);
    target.with(|sim| assert_eq!(sim.worker.len(), 3));
    target.pass(MOMENT);
    assert_eq!(std::io::Read::read(&mut nothing, &mut [0]).unwrap(), 0);
    assert!(only_icreq.receive().is_none());
    assert!(connected.csts().ready());
}

#[test]
fn a_host_that_does_not_send_the_rest_of_a_pdu_is_given_up() {
    let target = Target::new();
    let (mut admin, _) = target.admin(0);
    admin.send_raw(&[0x04, 0, 72]).unwrap();
    target.pass(limits::RECEIVE_STALL_TIMEOUT - MOMENT);
    target.with(|sim| assert_eq!(sim.worker.len(), 1));
    target.pass(MOMENT);
    assert!(admin.receive().is_none());
}

#[test]
fn a_host_that_does_not_send_what_an_r2t_asked_for_is_given_up() {
    let target = Target::new();
    target.offer(1, &[0; 1 << 20]);
    let (_admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    let mut sqe = io.write_sqe(1, 0, 2048);
    sqe.set_sgl(SglDescriptor::Transport { length: 1 << 20 });
    io.send_command(&sqe, &[]);
    assert!(matches!(io.receive().unwrap().pdu, Pdu::R2t(r2t) if r2t.r2tl == 1 << 20));
    target.with(|sim| assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 1 << 20));
    target.pass(limits::RECEIVE_STALL_TIMEOUT);
    assert!(io.receive().is_none());
    target.with(|sim| {
        assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0, "the buffer is back");
        assert_eq!(sim.worker.len(), 1, "only the admin queue is left");
    });
}

#[test]
fn a_host_that_takes_nothing_is_given_up() {
    let target = Target::new();
    target.offer(1, &[0; 1 << 20]);
    let (_admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    let link = io.io.stream.incoming();
    for _ in 0..4 {
        let sqe = io.read_sqe(1, 0, 2048, 512);
        io.send_command(&sqe, &[]);
    }
    target.wait_until_idle();
    assert!(!link.can_send(), "the stream is full");
    assert!(target.with(|sim| sim.worker.core.data_pool.stats().in_use_bytes) > 0);
    target.pass(limits::SEND_STALL_TIMEOUT);
    target.with(|sim| {
        assert_eq!(sim.worker.core.data_pool.stats().in_use_bytes, 0, "all buffers are back");
        assert_eq!(sim.worker.len(), 1, "only the admin queue is left");
    });
}

#[test]
fn a_connection_that_is_cut_leaves_nothing_behind() {
    let target = Target::new();
    target.offer(1, &[0; 1 << 20]);
    let (admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    assert!(io.write(1, 0, &[5; 8192], 512, Way::InCapsule).is_success());
    admin.io.stream.outgoing().cut(Cut::Reset);
    target.turn_until_quiet();
    assert!(io.receive().is_none(), "an I/O queue does not outlive its controller");
    target.with(|sim| {
        assert!(sim.subsystem.controllers().is_empty());
        assert_eq!(sim.worker.len(), 0);
    });
    // The host comes back as if nothing had been.
    let (mut admin, _) = target.admin(0);
    assert!(admin.csts().ready());
}
