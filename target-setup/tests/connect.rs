//! Who may connect, to what, and how often.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::{HOST, Host, SUBSYSTEM, connect_data};
use common::{PATIENCE, Running, buffered, make_file, spec};
use nvferry_target::{AllowedHosts, TargetDriver, UserspaceOptions, UserspaceTarget};
use nvferry_wire::fabrics::{Connect, ConnectData, ConnectInvalid, Property, PropertyGet};
use nvferry_wire::{ControllerId, HostId, Nqn, QueueId, Status, StatusCode};
use std::net::TcpStream;
use std::time::Instant;

const ADMIN: Connect = Connect {
    qid: QueueId::ADMIN,
    sq_entries: 32,
    disable_sq_flow_control: false,
    individual_io_queue_deletion: false,
    kato_ms: 0,
};

fn admin_data() -> ConnectData {
    connect_data(SUBSYSTEM, HOST, ControllerId::DYNAMIC)
}

#[test]
fn a_wrong_connect_is_told_which_parameter_is_wrong() {
    let running = Running::with_file(4096);
    let (_admin, cntlid) = running.admin();
    let io = Connect { qid: QueueId(1), ..ADMIN };
    let io_data = || connect_data(SUBSYSTEM, HOST, cntlid);
    let other_host = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000002";
    let cases = [
        (ADMIN, connect_data("nqn.2016-06.io.mc:other", HOST, ControllerId::DYNAMIC), ConnectInvalid::SUBNQN),
        (ADMIN, connect_data(SUBSYSTEM, HOST, ControllerId(1)), ConnectInvalid::CNTLID),
        (ADMIN, ConnectData { hostid: HostId::default(), ..admin_data() }, ConnectInvalid::HOSTID),
        (Connect { sq_entries: 1, ..ADMIN }, admin_data(), ConnectInvalid::SQSIZE),
        (Connect { sq_entries: 1025, ..ADMIN }, admin_data(), ConnectInvalid::SQSIZE),
        (Connect { sq_entries: 65536, ..io }, io_data(), ConnectInvalid::SQSIZE),
        (Connect { qid: QueueId(60_000), ..io }, io_data(), ConnectInvalid::QID),
        (io, connect_data(SUBSYSTEM, HOST, ControllerId(cntlid.0 + 1)), ConnectInvalid::CNTLID),
        (io, connect_data(SUBSYSTEM, other_host, cntlid), ConnectInvalid::HOSTNQN),
        (io, ConnectData { hostid: HostId([1; 16]), ..io_data() }, ConnectInvalid::HOSTID),
    ];
    // One connection may try again and again.
    let mut host = Host::plain(running.tcp());
    for (connect, data, invalid) in cases {
        let ended = host.connect(&connect, &data);
        let status = ended.status().for_fabrics();
        assert_eq!(status, Status::permanent(StatusCode::ConnectInvalidParameters), "{connect:?} {data:?}");
        assert_eq!(ConnectInvalid::from_result(ended.cqe.result), invalid, "{connect:?} {data:?}");
    }
    host.connect_io(cntlid, 1, 1024, false);
    assert!(host.read(1, 0, 1, 512).is_ok());
    // Connect on a queue that is connected, and the same queue twice, by which the host says that it has given the first up.
    let again = host.try_connect_io(cntlid, 2, 16, false);
    assert_eq!(again.status().code, StatusCode::CommandSequenceError);
    let twice = Host::plain(running.tcp()).try_connect_io(cntlid, 1, 16, false);
    assert_eq!(twice.status().code, StatusCode::CommandSequenceError);
    assert!(host.receive().is_none(), "it is closed");
    running.stop();
}

#[test]
fn before_connect_there_is_nothing_else() {
    let running = Running::with_file(4096);
    let mut host = Host::plain(running.tcp());
    let cid = host.cid();
    let early = host.execute(&PropertyGet::of(Property::Cap).sqe(cid)).status();
    assert_eq!(early, Status::permanent(StatusCode::CommandSequenceError));
    let sqe = host.read_sqe(1, 0, 1, 512);
    assert_eq!(host.execute(&sqe).status(), Status::permanent(StatusCode::CommandSequenceError));
    assert!(host.connect(&ADMIN, &admin_data()).status().is_success());
    // An I/O queue needs a controller that is enabled.
    let id = ControllerId(running.target.status().controllers.unwrap()[0].cntlid.0);
    let early = Host::plain(running.tcp()).try_connect_io(id, 1, 16, false).status();
    assert_eq!(early.for_fabrics().code, StatusCode::ConnectInvalidParameters);
    running.stop();
}

#[test]
fn flow_control_is_done_without_when_the_host_asks() {
    let running = Running::with_file(4096);
    let (_admin, cntlid) = running.admin();
    for (qid, off) in [(1, true), (2, false)] {
        let mut io = Host::plain(running.tcp());
        let connected = io.try_connect_io(cntlid, qid, 4, off);
        assert_eq!(connected.cqe.sqhd, if off { 0xFFFF } else { 1 });
        let heads: Vec<_> = (0..4)
            .map(|_| {
                let sqe = io.read_sqe(1, 0, 1, 512);
                let ended = io.execute(&sqe);
                assert_eq!(ended.by_success_flag, off);
                ended.cqe.sqhd
            })
            .collect();
        assert_eq!(heads, if off { [0; 4] } else { [2, 3, 0, 1] });
    }
    running.stop();
}

#[test]
fn p13_only_hosts_on_the_list_may_connect() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec();
    spec.namespaces.push(buffered(1, make_file(dir.path(), "one", 1, 4096), 4096));
    let stranger = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-00000000beef";
    spec.allowed_hosts = AllowedHosts::Only(vec![Nqn::new(HOST).unwrap().into()]);
    let running = Running { target: UserspaceTarget::start(spec, UserspaceOptions::default()).unwrap(), dir };

    let refused = Status::permanent(StatusCode::ConnectInvalidHost);
    let mut host = Host::plain(running.tcp());
    let data = connect_data(SUBSYSTEM, stranger, ControllerId::DYNAMIC);
    assert_eq!(host.connect(&ADMIN, &data).status(), refused);
    let (_admin, cntlid) = running.admin();
    let io = Connect { qid: QueueId(1), ..ADMIN };
    let data = connect_data(SUBSYSTEM, stranger, cntlid);
    assert_eq!(Host::plain(running.tcp()).connect(&io, &data).status(), refused);
    assert_eq!(running.target.status().faults.refused_hosts, 2);

    // Discovery tells a stranger of nothing.
    let numrec = |hostnqn| {
        use nvferry_wire::log_page::{DiscoveryHeader, LogPageId};
        let mut discovery = Host::plain(running.tcp());
        let data = connect_data(nvferry_wire::nqn::DISCOVERY_NQN, hostnqn, ControllerId::DYNAMIC);
        assert!(discovery.connect(&ADMIN, &data).status().is_success());
        discovery.enable();
        let page = nvferry_wire::admin::GetLogPage::new(LogPageId::Discovery, 1024);
        let cid = discovery.cid();
        DiscoveryHeader::decode(&discovery.execute(&page.sqe(cid)).data).unwrap().numrec
    };
    assert_eq!((numrec(stranger), numrec(HOST)), (0, 1));
    running.stop();
}

#[test]
fn sixty_four_io_queues_of_one_host_work_at_once() {
    let running = Running::start(1 << 20, with_reactors(3));
    let (_admin, cntlid) = running.admin();
    let file = common::pattern(1, 1 << 20);
    let mut queues: Vec<Host<TcpStream>> = (1..=64)
        .map(|qid| {
            let mut io = Host::plain(running.tcp());
            io.connect_io(cntlid, qid, 128, true);
            io
        })
        .collect();
    // All send before any receives.
    let sqes: Vec<_> = queues
        .iter_mut()
        .enumerate()
        .map(|(at, io)| {
            let sqe = io.read_sqe(1, at as u64 * 32, 32, 512);
            io.send_command(&sqe, &[]);
            sqe
        })
        .collect();
    for (at, (io, sqe)) in queues.iter_mut().zip(&sqes).enumerate() {
        assert_eq!(io.finish(sqe.cid(), &[], 0).data, file[at * 16384..(at + 1) * 16384]);
    }
    let status = running.target.status();
    assert_eq!(status.controllers.as_ref().unwrap()[0].io_queues, 64);
    assert_eq!(status.controllers.as_ref().unwrap()[0].totals.reads, 64);
    assert_eq!(status.controllers.as_ref().unwrap()[0].totals.read_bytes, 1 << 20);
    assert_eq!(status.namespaces[0].totals.reads, 64);
    assert_eq!((status.connections, status.namespaces[0].in_flight), (65, 0));
    assert_eq!(status.controllers.as_ref().unwrap()[0].host.as_str(), HOST);
    running.stop();
}

fn with_reactors(reactors: usize) -> UserspaceOptions {
    let mut options = UserspaceOptions::default();
    options.reactors = Some(reactors);
    options
}

#[test]
fn p02_newcomers_beyond_the_limit_are_refused_and_the_rest_are_served() {
    let mut options = UserspaceOptions::default();
    options.max_connections = 3;
    let running = Running::start(4096, options);
    let (mut admin, mut io) = running.queues();
    let (mut third, _) = running.admin();
    let busy = Status::new(StatusCode::ConnectControllerBusy);
    for refused in 1..=3 {
        let mut fourth = Host::plain(running.tcp());
        let status = fourth.connect(&ADMIN, &admin_data()).status().for_fabrics();
        assert_eq!(status, busy, "it may try again");
        assert_eq!(running.target.status().faults.refused_connections, refused);
        assert!(admin.csts().ready() && third.csts().ready() && io.read(1, 0, 1, 512).is_ok());
    }
    drop(third);
    // As soon as one is gone, there is room again; a crowd that says nothing takes none of it.
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut host = Host::plain(running.tcp());
            let status = host.connect(&ADMIN, &admin_data()).status();
            if status.is_success() {
                break;
            }
            assert_eq!(status.for_fabrics(), busy);
            assert!(Instant::now() < patience, "there is never room again");
        }
        crowd.extend((0..100).map(|_| running.tcp()));
    }
    assert!(admin.csts().ready() && io.read(1, 0, 1, 512).is_ok());
    running.stop();
}
