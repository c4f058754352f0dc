//! Starting, stopping, starting again.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::{Host, SUBSYSTEM, Way};
use common::{PATIENCE, Running, buffered, make_file, pattern, spec};
use nvferry_io::engine::{Fault, FaultControl, FaultRule, Faulty, ThreadsConfig, ThreadsEngine};
use nvferry_target::{TargetDriver, TargetError, TargetSpec, UserspaceOptions, UserspaceTarget};
use nvferry_wire::pdu::Pdu;
use nvferry_wire::{CommandId, Nsid, SglDescriptor, StatusCode};
use std::collections::HashSet;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

fn faulty() -> (FaultControl, UserspaceOptions) {
    let faults = FaultControl::new(0);
    let control = faults.clone();
    let mut options = UserspaceOptions::default();
    options.engine = Some(Arc::new(move |_| {
        let engine = ThreadsEngine::new(ThreadsConfig::with_capacity(64))?;
        Ok(Box::new(Faulty::new(engine, control.clone())?))
    }));
    (faults, options)
}

#[test]
fn stopping_lets_commands_under_way_end_and_takes_no_new_ones() {
    let (faults, options) = faulty();
    let running = Running::start(MIB, options);
    let (mut admin, mut io) = running.queues();
    faults.add_rule(FaultRule::once(Fault::Stall));
    let read = io.read_sqe(1, 0, 8, 512);
    io.send_command(&read, &[]);
    let mut write = io.write_sqe(1, 8, 2040);
    write.set_sgl(SglDescriptor::Transport { length: 2040 * 512 });
    io.send_command(&write, &[]);
    let Some(Pdu::R2t(r2t)) = io.receive().map(|received| received.pdu) else { panic!("an R2T") };

    assert!(!running.target.status().draining);
    let target = Arc::clone(&running.target);
    let stop = std::thread::spawn(move || target.stop(Instant::now() + PATIENCE));
    // New commands are handed back, to be tried elsewhere.
    let sqe = io.read_sqe(1, 0, 8, 512);
    let mut ended = io.execute(&sqe);
    while ended.status().is_success() {
        let sqe = io.read_sqe(1, 0, 8, 512);
        ended = io.execute(&sqe);
    }
    assert_eq!(ended.status().code, StatusCode::AbortedQueueDeleted);
    assert!(!ended.status().do_not_retry);
    // The write that was asked for its data ends well, and so does the read.
    let data = pattern(3, 2040 * 512);
    io.answer(&r2t, &data, usize::MAX);
    assert!(io.finish(write.cid(), &[], 0).status().is_success());
    assert!(!stop.is_finished(), "a command is still under way");
    let status = running.target.status();
    assert!(status.draining && status.namespaces[0].in_flight == 1 && status.connections > 0, "{status:?}");
    faults.release_stalled();
    assert_eq!(io.finish(read.cid(), &[], 0).data, pattern(1, 4096));
    assert!(io.receive().is_none() && admin.receive().is_none(), "and then all connections end");
    stop.join().unwrap().unwrap();
    assert_eq!(std::fs::read(running.dir.path().join("one")).unwrap()[4096..], data);

    let refused = TcpStream::connect(running.target.address().socket_addr());
    assert!(refused.is_err(), "nobody listens any more");
    let path = running.dir.path().join("one");
    assert!(matches!(running.target.add_namespace(buffered(2, path, 512)), Err(TargetError::Stopped)));
    running.target.stop(Instant::now()).unwrap();
}

#[test]
fn stopping_ends_at_its_deadline_whatever_hangs() {
    let (faults, options) = faulty();
    let running = Running::start(MIB, options);
    let (_admin, mut io) = running.queues();
    faults.add_rule(FaultRule::always(Fault::Stall));
    for at in 0..5 {
        let sqe = io.read_sqe(1, at, 1, 512);
        io.send_command(&sqe, &[]);
    }
    while running.target.status().namespaces[0].in_flight < 5 {
        std::thread::yield_now();
    }
    let error = running.target.stop(Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, TargetError::StillBusy { commands: 5, .. }), "{error}");
    assert!(io.receive().is_none(), "the connection is closed");
    faults.release_stalled();
}

/// What storage has in hand when a connection ends is carried out late, but never over what came after it.
#[test]
fn p08_a_write_whose_connection_has_ended_undoes_nothing_that_came_later() {
    let (faults, options) = faulty();
    let running = Running::start(MIB, options);
    let write = |io: &mut Host<TcpStream>, slba: u64, byte: u8| {
        let mut sqe = io.write_sqe(1, slba, 8);
        sqe.set_sgl(SglDescriptor::InCapsule { offset: 0, length: 4096 });
        io.send_command(&sqe, &[byte; 4096]);
        sqe.cid()
    };
    let (_admin, mut io) = running.queues();
    faults.add_rule(FaultRule::once(Fault::Stall));
    write(&mut io, 8, 1);
    while faults.injected() == 0 {
        std::thread::yield_now();
    }
    io.io.shutdown(Shutdown::Write).unwrap();
    assert!(io.receive().is_none(), "the target ends the connection, too");
    let (_admin, mut io) = running.queues();
    // All that touches a byte of it waits; what is beside it does not.
    let over = [write(&mut io, 15, 2), write(&mut io, 1, 2)];
    let beside = [write(&mut io, 100, 3), write(&mut io, 200, 3)];
    let answers = |io: &mut Host<TcpStream>| -> HashSet<CommandId> {
        let answer = |_| match io.receive().unwrap().pdu {
            Pdu::CapsuleResp(response) if response.cqe.status.is_success() => response.cqe.cid,
            other => panic!("{other:?}"),
        };
        (0..2).map(answer).collect()
    };
    assert_eq!(answers(&mut io), HashSet::from(beside));
    faults.release_stalled();
    assert_eq!(answers(&mut io), HashSet::from(over));
    let there = io.read(1, 1, 22, 512).unwrap();
    assert!(there[..4096] == [2; 4096] && there[4096..14 * 512] == [1; 6 * 512] && there[14 * 512..] == [2; 4096]);
    running.stop();
}

#[test]
fn p09_a_target_starts_again_on_its_port_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = make_file(dir.path(), "one", 1, MIB);
    let mut again: TargetSpec = spec();
    again.namespaces.push(buffered(1, path, MIB as u64));
    let mut uuids = Vec::new();
    for round in 0..5 {
        let target = UserspaceTarget::start(again.clone(), UserspaceOptions::default()).unwrap();
        again.transport = target.address();
        uuids.push(target.status().namespaces[0].info.uuid);
        let stream = TcpStream::connect(target.address().socket_addr()).unwrap();
        let mut admin = Host::plain(stream);
        let cntlid = admin.connect_admin(SUBSYSTEM, 0);
        let mut io = Host::plain(TcpStream::connect(target.address().socket_addr()).unwrap());
        io.connect_io(cntlid, 1, 16, false);
        assert!(io.write(1, round, &[round as u8; 512], 512, Way::InCapsule).is_success());
        if round % 2 == 0 {
            target.stop(Instant::now() + PATIENCE).unwrap();
        }
        // Otherwise it is just dropped, with its host still there.
        drop(target);
        assert!(admin.receive().is_none());
    }
    uuids.dedup();
    assert_eq!(uuids.len(), 1, "hosts know a namespace again");
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let mut options = UserspaceOptions::default();
    // Pages need pipes, of which a reactor keeps as many as it ever needed at once.
    options.send_pages = false;
    let running = Running::start(MIB, options);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = None;
    for round in 0..300 {
        let (mut admin, mut io) = running.queues();
        assert!(io.read(1, 0, 8, 512).is_ok());
        // Some leave in the middle of something.
        if round % 3 == 0 {
            let sqe = io.read_sqe(1, 0, 2048, 512);
            io.send_command(&sqe, &[]);
        } else {
            assert!(admin.csts().ready());
        }
        drop((admin, io));
        if round == 10 {
            before = Some(descriptors());
        }
    }
    while running.target.status().connections > 0 {
        std::thread::yield_now();
    }
    let status = running.target.status();
    assert!(status.controllers.as_ref().unwrap().is_empty());
    assert_eq!(status.namespaces[0].in_flight, 0);
    assert!(descriptors() <= before.unwrap(), "descriptors leaked");
    running.stop();
}

#[test]
fn a_namespace_outlives_its_name() {
    let running = Running::with_file(MIB);
    let (_admin, mut io) = running.queues();
    std::fs::remove_file(running.dir.path().join("one")).unwrap();
    assert_eq!(io.read(1, 0, 2048, 512).unwrap(), pattern(1, MIB), "the file is open, whatever became of its name");
    running.target.remove_namespace(Nsid(1), Instant::now() + PATIENCE).unwrap();
    running.stop();
}
