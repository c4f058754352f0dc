//! What a host has given up is not carried out after what it sent instead.

use super::harness::{Pipe, Target};
use super::host::{Host, Way};
use nvferry_io::engine::{Fault, FaultRule};
use nvferry_wire::admin::Identify;
use nvferry_wire::identify::{Cns, controller_list};
use nvferry_wire::pdu::{DataAlignment, Digests};
use nvferry_wire::{ControllerId, Nsid, SglDescriptor, StatusCode};

const OLD: [u8; 4096] = [0xAA; 4096];
const NEW: [u8; 4096] = [0xBB; 4096];

/// The target, with a file of zeroes.
fn target() -> Target {
    let target = Target::new();
    target.offer(1, &[0; 64 << 10]);
    target
}

fn io(target: &Target, cntlid: ControllerId, qid: u16) -> Host<Pipe> {
    target.io(cntlid, qid, Digests::NONE, DataAlignment::NONE)
}

/// Sends a write of eight blocks, and waits for nothing.
fn send_write(io: &mut Host<Pipe>, slba: u64, data: &[u8]) {
    let mut sqe = io.write_sqe(1, slba, data.len() as u32 / 512);
    sqe.set_sgl(SglDescriptor::InCapsule { offset: 0, length: data.len() as u32 });
    io.send_command(&sqe, data);
}

/// The controllers from this one on.
fn controllers(admin: &mut Host<Pipe>, from: ControllerId) -> Vec<ControllerId> {
    let cid = admin.cid();
    let identify = Identify { cntid: from, ..Identify::of(Cns::ControllerList, Nsid::NONE) };
    let ended = admin.execute(&identify.sqe(cid));
    assert!(ended.status().is_success(), "{}", ended.status());
    controller_list(&ended.data).unwrap().collect()
}

#[test]
fn p08_a_controller_is_listed_until_nothing_that_its_host_sent_can_begin() {
    let target = target();
    let (admin, old) = target.admin(0);
    let mut old_io = io(&target, old, 1);
    let (mut new_admin, new) = target.admin(0);
    assert_eq!(controllers(&mut new_admin, ControllerId(0)), [old, new]);
    // A write comes that the target does not get to read, and the host gives the association up.
    target.leave_unread(1);
    send_write(&mut old_io, 0, &OLD);
    drop(admin);
    // The same turn finds the end of the admin queue and this question; the I/O queue is told to close with the next.
    assert_eq!(controllers(&mut new_admin, old), [old, new]);
    assert_eq!(controllers(&mut new_admin, old), [new]);
    let mut new_io = io(&target, new, 1);
    assert!(new_io.write(1, 0, &NEW, 512, Way::InCapsule).is_success());
    target.read_all();
    target.wait_until_idle();
    assert!(target.file(1)[..4096] == NEW);
    // The discovery service's controllers are of another subsystem, and its hosts are not told of these.
    assert_eq!(controllers(&mut new_admin, ControllerId(new.0 + 1)), []);
}

#[test]
fn p08_a_queue_that_is_connected_anew_ends_the_one_before_unread() {
    let target = target();
    let (_admin, cntlid) = target.admin(0);
    let mut old_io = io(&target, cntlid, 1);
    target.leave_unread(1);
    send_write(&mut old_io, 0, &OLD);
    // The old connection has not ended, for all that the target knows.
    let mut new_io = Host::plain(target.pipe());
    assert_eq!(new_io.try_connect_io(cntlid, 1, 16, true).status().code, StatusCode::CommandSequenceError);
    let mut new_io = Host::plain(target.pipe());
    assert!(new_io.try_connect_io(cntlid, 1, 16, true).status().is_success());
    assert!(new_io.write(1, 0, &NEW, 512, Way::InCapsule).is_success());
    target.read_all();
    target.wait_until_idle();
    assert!(target.file(1)[..4096] == NEW);
}

#[test]
fn p07_what_waits_for_an_orphan_holds_up_nothing_else_of_the_file() {
    let target = target();
    let (_admin, cntlid) = target.admin(0);
    let mut old_io = io(&target, cntlid, 1);
    target.with(|sim| sim.faults.add_rule(FaultRule::always(Fault::Stall)));
    send_write(&mut old_io, 0, &OLD);
    target.turn_until_quiet();
    target.with(|sim| sim.faults.clear());
    drop(old_io);
    target.turn_until_quiet();
    let mut new_io = io(&target, cntlid, 2);
    // The first block of the second is the last of the old one.
    send_write(&mut new_io, 7, &NEW);
    assert!(new_io.read(1, 0, 1, 512).is_ok(), "reads do not wait");
    let mut other_io = io(&target, cntlid, 3);
    assert!(other_io.write(1, 8 + 7, &NEW, 512, Way::InCapsule).is_success());
    assert!(target.file(1)[7 * 512..8 * 512] == [0; 512], "it waits");
    target.with(|sim| sim.faults.release_stalled());
    target.wait_until_idle();
    // The reactor finds the letter that tells of the orphan's end.
    target.wait_until_idle();
    let file = target.file(1);
    assert!(file[..7 * 512] == OLD[..7 * 512]);
    assert!(file[7 * 512..23 * 512] == [NEW, NEW].concat());
}
