//! Namespaces that come and go while hosts are connected.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::{Host, Way};
use common::{PATIENCE, Running, buffered, make_file, pattern};
use nvferry_io::engine::{Fault, FaultControl, FaultOn, FaultRule, Faulty, ThreadsConfig, ThreadsEngine};
use nvferry_target::{TargetDriver, TargetError, UserspaceOptions};
use nvferry_wire::admin::{GetLogPage, Identify, SetFeatures, async_event_request};
use nvferry_wire::async_event::AsyncEvent;
use nvferry_wire::feature::{AsyncEventConfig, FeatureId};
use nvferry_wire::identify::{Cns, nsid_list};
use nvferry_wire::log_page::LogPageId;
use nvferry_wire::pdu::Pdu;
use nvferry_wire::{CommandId, Nsid, Status, StatusCode};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Admin = Host<TcpStream>;

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn want_events(admin: &mut Admin) {
    let cid = admin.cid();
    let wanted = AsyncEventConfig::NAMESPACE_ATTRIBUTE.0;
    assert!(admin.execute(&SetFeatures::new(FeatureId::AsyncEventConfig, wanted).sqe(cid)).status().is_success());
}

fn ask_for_event(admin: &mut Admin) -> CommandId {
    let cid = admin.cid();
    admin.send_command(&async_event_request(cid), &[]);
    cid
}

fn changed(admin: &mut Admin, retain: bool) -> Vec<u32> {
    let cid = admin.cid();
    let page = GetLogPage { rae: retain, ..GetLogPage::new(LogPageId::ChangedNamespaces, 4096) };
    let data = admin.execute(&page.sqe(cid)).data;
    nsid_list(&data).unwrap().map(|nsid| nsid.0).collect()
}

fn active(admin: &mut Admin) -> Vec<u32> {
    let cid = admin.cid();
    let data = admin.execute(&Identify::of(Cns::ActiveNamespaceList, Nsid(0)).sqe(cid)).data;
    nsid_list(&data).unwrap().map(|nsid| nsid.0).collect()
}

/// The target's engines, with faults that the test controls.
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
fn p06_a_namespace_that_is_added_is_announced_and_usable_at_once() {
    let running = Running::with_file(4096);
    let (mut admin, mut io) = running.queues();
    want_events(&mut admin);
    let event = ask_for_event(&mut admin);
    assert_eq!(io.read(5, 0, 1, 512), Err(Status::permanent(StatusCode::InvalidNamespace)));

    let path = make_file(running.dir.path(), "five", 5, 8192);
    let info = running.target.add_namespace(buffered(5, &path, 8192)).unwrap();
    assert_eq!((info.nsid, info.size_bytes, info.block_bytes, info.blocks), (Nsid(5), 8192, 512, 16));
    assert_eq!(io.read(5, 0, 16, 512).unwrap(), pattern(5, 8192), "usable as soon as it was added");
    let told = admin.finish(event, &[], 0);
    assert_eq!(told.cqe.dw0(), AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());

    // Until the log page is read, no more events come, but changes are kept.
    let second = ask_for_event(&mut admin);
    let path = make_file(running.dir.path(), "six", 6, 4096);
    running.target.add_namespace(buffered(6, path, 4096)).unwrap();
    assert_eq!(active(&mut admin), [1, 5, 6]);
    assert_eq!(changed(&mut admin, true), [5, 6], "retained");
    assert_eq!(changed(&mut admin, false), [5, 6], "read and cleared");
    assert_eq!(changed(&mut admin, false), [0; 0]);
    // Now the next one comes.
    running.target.remove_namespace(Nsid(5), soon()).unwrap();
    assert_eq!(admin.finish(second, &[], 0).cqe.dw0(), AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    assert_eq!(changed(&mut admin, false), [5]);
    assert_eq!(active(&mut admin), [1, 6]);
    running.stop();
}

#[test]
fn p06_an_event_that_nobody_waited_for_is_told_to_the_next_who_does() {
    let running = Running::with_file(4096);
    let (mut admin, _io) = running.queues();
    let path = make_file(running.dir.path(), "two", 2, 4096);
    // Not wanted yet: kept in the list, but not told.
    running.target.add_namespace(buffered(2, path, 4096)).unwrap();
    want_events(&mut admin);
    let event = ask_for_event(&mut admin);
    running.target.remove_namespace(Nsid(2), soon()).unwrap();
    assert!(admin.finish(event, &[], 0).status().is_success());
    assert_eq!(changed(&mut admin, false), [2]);
    let path = make_file(running.dir.path(), "three", 3, 4096);
    running.target.add_namespace(buffered(3, path, 4096)).unwrap();
    let late = ask_for_event(&mut admin);
    assert!(admin.finish(late, &[], 0).status().is_success());
    assert_eq!(changed(&mut admin, false), [3]);
    running.stop();
}

#[test]
fn p06_removing_drains_first_and_then_refuses() {
    let (faults, options) = faulty();
    let running = Running::start(1 << 20, options);
    let (_admin, mut io) = running.queues();
    faults.add_rule(FaultRule { on: FaultOn::Read, times: 3, ..FaultRule::always(Fault::Stall) });
    let sqes: Vec<_> = (0..3)
        .map(|at| {
            let sqe = io.read_sqe(1, at * 8, 8, 512);
            io.send_command(&sqe, &[]);
            sqe
        })
        .collect();
    // The stalled commands are under way before the removal begins.
    while running.target.status().namespaces[0].in_flight < 3 {
        std::thread::yield_now();
    }
    let target = Arc::clone(&running.target);
    let removal = std::thread::spawn(move || target.remove_namespace(Nsid(1), soon()));
    // From then on, new commands are refused...
    let mut refused = io.read(1, 0, 8, 512);
    while refused.is_ok() {
        refused = io.read(1, 0, 8, 512);
    }
    assert_eq!(refused, Err(Status::permanent(StatusCode::InvalidNamespace)));
    assert!(!removal.is_finished(), "commands are still under way");
    // ... and those under way end well.
    faults.release_stalled();
    let mut left: Vec<_> = sqes.iter().map(|sqe| sqe.cid()).collect();
    while !left.is_empty() {
        let received = io.receive().unwrap();
        let Pdu::C2hData(data) = received.pdu else { panic!("{:?}", received.pdu) };
        left.retain(|&cid| cid != data.cccid);
    }
    removal.join().unwrap().unwrap();
    // The file is closed: nothing of this process holds it any more.
    let path = running.dir.path().join("one").canonicalize().unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    assert_eq!(open.filter(|file| *file == path).count(), 0);
    // It can be offered again, also under another id.
    running.target.add_namespace(buffered(9, &path, 1 << 20)).unwrap();
    assert!(io.read(9, 0, 8, 512).is_ok());
    running.stop();
}

#[test]
fn p06_removing_gives_up_at_its_deadline_and_says_so() {
    let (faults, options) = faulty();
    let running = Running::start(1 << 20, options);
    let (_admin, mut io) = running.queues();
    faults.add_rule(FaultRule::once(Fault::Stall));
    let sqe = io.read_sqe(1, 0, 8, 512);
    io.send_command(&sqe, &[]);
    while running.target.status().namespaces[0].in_flight < 1 {
        std::thread::yield_now();
    }
    let error = running.target.remove_namespace(Nsid(1), Instant::now() + Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, TargetError::StillBusy { commands: 1, .. }), "{error}");
    assert_eq!(io.read(1, 0, 8, 512), Err(Status::permanent(StatusCode::InvalidNamespace)), "withdrawn all the same");
    faults.release_stalled();
    assert_eq!(io.finish(sqe.cid(), &[], 0).data, pattern(1, 4096), "the late command is answered");
    running.stop();
}

#[test]
fn p07_a_stalled_file_does_not_slow_another_on_real_sockets() {
    let (faults, options) = faulty();
    let running = Running::start(1 << 20, options);
    let path = make_file(running.dir.path(), "two", 2, 1 << 20);
    running.target.add_namespace(buffered(2, &path, 1 << 20)).unwrap();
    let slow = nvferry_io::IoFile::open(&path, nvferry_io::file::FileOptions { direct: false, write: false }).unwrap();
    faults.add_rule(FaultRule { file: Some(slow.identity()), ..FaultRule::always(Fault::Stall) });
    let (_admin, mut io) = running.queues();
    let stalled: Vec<_> = (0..100)
        .map(|_| {
            let sqe = io.read_sqe(2, 0, 128, 512);
            io.send_command(&sqe, &[]);
            sqe.cid()
        })
        .collect();
    for _ in 0..100 {
        assert_eq!(io.read(1, 8, 8, 512).unwrap(), pattern(1, 8192)[4096..]);
        assert!(io.write(1, 64, &[1; 65536], 512, Way::Asked(usize::MAX)).is_success());
    }
    faults.clear();
    faults.release_stalled();
    let mut left = stalled;
    while !left.is_empty() {
        let received = io.receive().unwrap();
        let Pdu::C2hData(data) = received.pdu else { panic!("{:?}", received.pdu) };
        left.retain(|&cid| cid != data.cccid);
    }
    running.stop();
}

#[test]
fn p07_errors_of_one_file_are_told_as_what_they_are() {
    let (faults, options) = faulty();
    let running = Running::start(1 << 20, options);
    let (_admin, mut io) = running.queues();
    // errno values of Linux.
    const EIO: i32 = 5;
    const EROFS: i32 = 30;
    const ENOSPC: i32 = 28;
    const ENOMEM: i32 = 12;
    const ENODATA: i32 = 61;
    const EILSEQ: i32 = 84;
    const EREMOTEIO: i32 = 121;
    let cases = [
        (FaultOn::Read, EIO, Status::new(StatusCode::UnrecoveredReadError)),
        (FaultOn::Read, ENODATA, Status::permanent(StatusCode::UnrecoveredReadError)),
        (FaultOn::Read, EILSEQ, Status::permanent(StatusCode::UnrecoveredReadError)),
        (FaultOn::Read, EREMOTEIO, Status::permanent(StatusCode::UnrecoveredReadError)),
        (FaultOn::Read, ENOMEM, Status::new(StatusCode::InternalError)),
        (FaultOn::Write, ENODATA, Status::permanent(StatusCode::WriteFault)),
        (FaultOn::Write, EIO, Status::new(StatusCode::WriteFault)),
        (FaultOn::Write, ENOSPC, Status::permanent(StatusCode::CapacityExceeded)),
        (FaultOn::Write, EROFS, Status::permanent(StatusCode::NamespaceWriteProtected)),
    ];
    for (on, errno, expected) in cases {
        faults.clear();
        faults.add_rule(FaultRule { on, ..FaultRule::once(Fault::Error(errno)) });
        let status = match on {
            FaultOn::Read => io.read(1, 0, 8, 512).unwrap_err(),
            _ => io.write(1, 0, &pattern(1, 4096), 512, Way::InCapsule),
        };
        assert_eq!(status, expected, "{on:?}, errno {errno}");
    }
    assert_eq!(running.target.status().namespaces[0].totals.errors.total(), cases.len() as u64);
    assert_eq!(io.read(1, 0, 8, 512).unwrap(), pattern(1, 4096), "and then all is well again");
    running.stop();
}
