//! Every admin command, as a host asks it, and what it must not do.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::{HOST_ID, Host, SUBSYSTEM};
use common::{Running, buffered, make_file};
use nvferry_target::TargetDriver;
use nvferry_wire::admin::{
    Abort, AdminOpcode, FeatureSelect, GetFeatures, GetLogPage, Identify, SetFeatures, async_event_request, keep_alive,
};
use nvferry_wire::fabrics::{Cap, Cc, Disconnect, Property, PropertyGet, PropertySet, PropertySize, Shn, Shst, Vs};
use nvferry_wire::feature::{AsyncEventConfig, EXHID, FeatureId, NumberOfQueues, VolatileWriteCache};
use nvferry_wire::identify::{
    Cns, ControllerType, IdentifyController, IdentifyNamespace, NamespaceIds, NamespaceIndependent, nsid_list,
};
use nvferry_wire::log_page::{CommandEffects, DiscoveryEntry, DiscoveryHeader, ErrorEntry, LogPageId, SmartHealth};
use nvferry_wire::nvm::NvmOpcode;
use nvferry_wire::{CommandId, Nqn, Nsid, QueueId, SglDescriptor, Sqe, Status, StatusCode};
use std::net::TcpStream;

type Admin = Host<TcpStream>;

fn identify(admin: &mut Admin, cns: Cns, nsid: u32) -> Result<Vec<u8>, Status> {
    let cid = admin.cid();
    let ended = admin.execute(&Identify::of(cns, Nsid(nsid)).sqe(cid));
    if ended.status().is_success() { Ok(ended.data) } else { Err(ended.status()) }
}

fn log_page(admin: &mut Admin, page: &GetLogPage) -> Result<Vec<u8>, Status> {
    let cid = admin.cid();
    let ended = admin.execute(&page.sqe(cid));
    if ended.status().is_success() { Ok(ended.data) } else { Err(ended.status()) }
}

#[test]
fn properties_tell_what_the_controller_is_and_obey_the_host() {
    let running = Running::with_file(4096);
    let mut admin = Host::plain(running.tcp());
    let connect = nvferry_wire::fabrics::Connect {
        qid: QueueId::ADMIN,
        sq_entries: 32,
        disable_sq_flow_control: false,
        individual_io_queue_deletion: false,
        kato_ms: 0,
    };
    let data = common::host::connect_data(SUBSYSTEM, common::host::HOST, nvferry_wire::ControllerId::DYNAMIC);
    assert!(admin.connect(&connect, &data).status().is_success());

    let cap = Cap(admin.property(Property::Cap));
    assert!(cap.max_queue_entries() >= 128 && cap.nvm_command_set() && cap.contiguous_queues());
    assert_eq!(cap.min_page_bytes(), 4096);
    assert_eq!(Vs(admin.property(Property::Vs) as u32), Vs::V1_4);
    assert!(!admin.csts().ready());
    // Until it is enabled, a controller answers fabrics commands only.
    assert_eq!(
        identify(&mut admin, Cns::Controller, 0).unwrap_err(),
        Status::permanent(StatusCode::CommandSequenceError)
    );
    admin.enable();
    assert_eq!(admin.property(Property::Cc), Cc::enabled().0.into());
    assert!(identify(&mut admin, Cns::Controller, 0).is_ok());

    let invalid = Status::permanent(StatusCode::InvalidField);
    for get in [
        PropertyGet { size: PropertySize::Four, offset: Property::Cap as u32 },
        PropertyGet { size: PropertySize::Eight, offset: Property::Vs as u32 },
        PropertyGet { size: PropertySize::Four, offset: 0x1000 },
    ] {
        let cid = admin.cid();
        assert_eq!(admin.execute(&get.sqe(cid)).status(), invalid, "{get:?}");
    }
    for set in [
        PropertySet { size: PropertySize::Eight, offset: Property::Cc as u32, value: 1 },
        PropertySet::of(Property::Csts, 0),
        PropertySet::of(Property::Cc, 1 | 3 << 16 | 4 << 20),
    ] {
        let cid = admin.cid();
        assert_eq!(admin.execute(&set.sqe(cid)).status(), invalid, "{set:?}");
    }
    assert!(admin.csts().ready(), "what was refused changed nothing");
    running.stop();
}

#[test]
fn a_controller_shuts_down_and_is_reset() {
    let running = Running::with_file(4096);
    let (mut admin, cntlid) = running.admin();
    let mut io = Host::plain(running.tcp());
    io.connect_io(cntlid, 1, 16, false);
    assert!(admin.set_cc(Cc::enabled().with_shn(Shn::Normal)).is_success());
    // The I/O queue closes, and then the shutdown is complete.
    assert!(io.receive().is_none());
    while admin.csts().shst() == Shst::Occurring {}
    assert_eq!(admin.csts().shst(), Shst::Complete);
    let refused = Host::plain(running.tcp()).try_connect_io(cntlid, 1, 16, false);
    assert_eq!(refused.status().for_fabrics().code, StatusCode::ConnectInvalidParameters);

    assert!(admin.set_cc(Cc::default()).is_success());
    while admin.csts().ready() {}
    admin.enable();
    let mut io = Host::plain(running.tcp());
    io.connect_io(cntlid, 1, 16, false);
    assert!(io.read(1, 0, 1, 512).is_ok());
    for _ in 0..4 {
        let cid = admin.cid();
        admin.send_command(&async_event_request(cid), &[]);
    }
    // A reset closes I/O queues, too, and ends what waited for events.
    assert!(admin.set_cc(Cc::default()).is_success());
    assert!(io.receive().is_none());
    while admin.csts().ready() {}
    admin.enable();
    for _ in 0..4 {
        let cid = admin.cid();
        admin.send_command(&async_event_request(cid), &[]);
    }
    assert!(admin.csts().ready(), "none of them is one too many");
    running.stop();
}

#[test]
fn identify_tells_of_the_controller_and_its_namespaces() {
    let running = Running::with_file(12345);
    let path = make_file(running.dir.path(), "seven", 7, 8192);
    let read_only = nvferry_target::NamespaceSpec { read_only: true, ..buffered(7, path, 8000) };
    let info = running.target.add_namespace(read_only).unwrap();
    let (mut admin, cntlid) = running.admin();

    let page = IdentifyController::decode(&identify(&mut admin, Cns::Controller, 0).unwrap()).unwrap();
    assert_eq!((page.cntlid, page.cntrltype), (cntlid, ControllerType::Io));
    assert_eq!(page.subnqn, Some(Nqn::new(SUBSYSTEM).unwrap()));
    assert_eq!((page.mn.as_str(), page.sqes, page.cqes), ("nvferry", 0x66, 0x44));
    assert_eq!(page.sn.len(), 16);
    assert!(page.vwc.is_present() && page.kas_100ms == 10 && page.aerl == 3 && page.icdoff_16bytes == 0);
    assert!(page.oaes.contains(AsyncEventConfig::NAMESPACE_ATTRIBUTE));
    assert_eq!(page.oncs, 0b1101);
    assert!(page.maxcmd >= 128 && page.nn >= 7 && page.sgls.in_capsule_offset());

    let one = IdentifyNamespace::decode(&identify(&mut admin, Cns::Namespace, 1).unwrap()).unwrap();
    assert_eq!((one.nsze, one.ncap, one.nuse, one.nvmcap, one.nsattr), (25, 25, 25, 12345, 0));
    let seven = IdentifyNamespace::decode(&identify(&mut admin, Cns::Namespace, 7).unwrap()).unwrap();
    assert_eq!((seven.nsze, seven.nsattr), (16, IdentifyNamespace::NSATTR_WRITE_PROTECTED));
    assert_eq!(seven.nguid, info.uuid);
    let ids = NamespaceIds::decode(&identify(&mut admin, Cns::NamespaceDescriptors, 7).unwrap()).unwrap();
    assert_eq!((ids.uuid, ids.csi), (Some(info.uuid), Some(0)));
    let independent =
        NamespaceIndependent::decode(&identify(&mut admin, Cns::NamespaceIndependent, 7).unwrap()).unwrap();
    assert!(independent.ready && independent.nsattr == IdentifyNamespace::NSATTR_WRITE_PROTECTED);

    for cns in [Cns::ActiveNamespaceList, Cns::AllocatedNamespaceList, Cns::CommandSetActiveNamespaceList] {
        let list = |admin: &mut Admin, after| {
            let page = identify(admin, cns, after).unwrap();
            nsid_list(&page).unwrap().map(|nsid| nsid.0).collect::<Vec<_>>()
        };
        assert_eq!(list(&mut admin, 0), [1, 7], "{cns:?}");
        assert_eq!(list(&mut admin, 1), [7], "{cns:?}");
        assert_eq!(list(&mut admin, 7), [0; 0], "{cns:?}");
        let past_the_end = identify(&mut admin, cns, 0xFFFF_FFFE).unwrap_err();
        assert_eq!(past_the_end, Status::permanent(StatusCode::InvalidNamespace));
    }
    // Namespaces that are not there are all zeroes; ids that cannot be are errors.
    for cns in [Cns::Namespace, Cns::NamespaceIndependent, Cns::CommandSetNamespace, Cns::AllocatedNamespace] {
        assert_eq!(identify(&mut admin, cns, 5).unwrap(), [0; 4096], "{cns:?}");
        for nsid in [0, 0xFFFF_FFFF] {
            let status = identify(&mut admin, cns, nsid).unwrap_err();
            assert_eq!(status, Status::permanent(StatusCode::InvalidNamespace), "{cns:?} {nsid:#x}");
        }
    }
    assert!(identify(&mut admin, Cns::NamespaceDescriptors, 5).is_err());
    assert!(identify(&mut admin, Cns::CommandSetController, 0).is_ok());
    assert_eq!(identify(&mut admin, Cns::IoCommandSets, 0).unwrap()[0], 1);

    // Another command set, an unknown structure, a buffer of another length.
    let cid = admin.cid();
    let zoned = Identify { csi: 2, ..Identify::of(Cns::CommandSetNamespace, Nsid(1)) };
    assert_eq!(admin.execute(&zoned.sqe(cid)).status(), Status::permanent(StatusCode::InvalidField));
    let mut sqe = Identify::controller().sqe(CommandId(99));
    sqe.set_cdw10(0xEE);
    assert_eq!(admin.execute(&sqe).status(), Status::permanent(StatusCode::InvalidField));
    let sqe = Identify::controller().sqe(CommandId(99)).with_sgl(SglDescriptor::Transport { length: 512 });
    assert_eq!(admin.execute(&sqe).status(), Status::permanent(StatusCode::SglDataLengthInvalid));
    running.stop();
}

#[test]
fn features_are_set_and_told() {
    let running = Running::with_file(4096);
    let (mut admin, _) = running.admin();
    let get = |admin: &mut Admin, fid| {
        let cid = admin.cid();
        admin.execute(&GetFeatures::current(fid).sqe(cid)).cqe
    };
    let set = |admin: &mut Admin, fid, value| {
        let cid = admin.cid();
        admin.execute(&SetFeatures::new(fid, value).sqe(cid)).cqe
    };
    let asked = NumberOfQueues { submission: 64, completion: 70 };
    let granted = NumberOfQueues::from_dword(set(&mut admin, FeatureId::NumberOfQueues, asked.to_dword()).dw0());
    assert_eq!(granted, NumberOfQueues::pairs(64));
    let most = NumberOfQueues::pairs(65535).to_dword();
    let granted = NumberOfQueues::from_dword(set(&mut admin, FeatureId::NumberOfQueues, most).dw0());
    assert!((64..1000).contains(&granted.pair_count()), "{granted:?}");
    let forbidden = set(&mut admin, FeatureId::NumberOfQueues, 0xFFFF_FFFF).status;
    assert_eq!(forbidden, Status::permanent(StatusCode::InvalidField));

    assert!(set(&mut admin, FeatureId::KeepAliveTimer, 15_000).status.is_success());
    assert_eq!(get(&mut admin, FeatureId::KeepAliveTimer).dw0(), 15_000);
    let events = AsyncEventConfig::NAMESPACE_ATTRIBUTE;
    assert!(set(&mut admin, FeatureId::AsyncEventConfig, events.0).status.is_success());
    assert_eq!(get(&mut admin, FeatureId::AsyncEventConfig).dw0(), events.0);
    let impossible = set(&mut admin, FeatureId::AsyncEventConfig, AsyncEventConfig::ANA_CHANGE.0).status;
    assert_eq!(impossible, Status::permanent(StatusCode::InvalidField));

    assert!(VolatileWriteCache::from_dword(get(&mut admin, FeatureId::VolatileWriteCache).dw0()).enabled);
    let off = set(&mut admin, FeatureId::VolatileWriteCache, 0).status;
    assert_eq!(off, Status::permanent(StatusCode::FeatureNotChangeable));

    let cid = admin.cid();
    let host_id = GetFeatures { cdw11: EXHID, ..GetFeatures::current(FeatureId::HostIdentifier) };
    let sqe = host_id.sqe(cid).with_sgl(SglDescriptor::Transport { length: 16 });
    assert_eq!(admin.execute(&sqe).data, HOST_ID.0);

    let cid = admin.cid();
    let supported = GetFeatures { select: FeatureSelect::Supported, ..GetFeatures::current(FeatureId::KeepAliveTimer) };
    assert_eq!(admin.execute(&supported.sqe(cid)).cqe.dw0() & 0b100, 0b100);
    let cid = admin.cid();
    let saved = SetFeatures { save: true, ..SetFeatures::new(FeatureId::KeepAliveTimer, 1000) };
    assert_eq!(admin.execute(&saved.sqe(cid)).status(), Status::permanent(StatusCode::FeatureNotSaveable));
    for unknown in [FeatureId::Arbitration, FeatureId::Timestamp, FeatureId::ReservationPersistence] {
        assert_eq!(get(&mut admin, unknown).status, Status::permanent(StatusCode::InvalidField));
        assert_eq!(set(&mut admin, unknown, 1).status, Status::permanent(StatusCode::InvalidField));
    }
    running.stop();
}

#[test]
fn log_pages_are_read_in_whole_and_in_part() {
    let running = Running::with_file(1 << 20);
    let (mut admin, mut io) = running.queues();
    io.read(1, 0, 2048, 512).unwrap();
    io.read(1, 0, 1000, 512).unwrap();
    assert!(io.read(1, 5000, 1, 512).is_err());

    let smart = SmartHealth::decode(&log_page(&mut admin, &GetLogPage::new(LogPageId::Smart, 512)).unwrap()).unwrap();
    assert_eq!((smart.host_read_commands, smart.data_units_read), (2, 4));
    assert_eq!((smart.error_log_entries, smart.critical_warning), (1, 0));
    let errors = log_page(&mut admin, &GetLogPage::new(LogPageId::Error, 128)).unwrap();
    let entry = ErrorEntry::decode(&errors).unwrap();
    assert_eq!((entry.error_count, entry.sqid, entry.nsid), (1, QueueId(1), Nsid(1)));
    assert_eq!((entry.lba.0, entry.status.code), (5000, StatusCode::LbaOutOfRange));
    assert_eq!(errors[64..], [0; 64]);

    let firmware = log_page(&mut admin, &GetLogPage::new(LogPageId::Firmware, 512)).unwrap();
    assert_eq!(firmware[0], 1, "slot 1 is active");
    let effects = log_page(&mut admin, &GetLogPage::new(LogPageId::CommandsSupported, 4096)).unwrap();
    let effects = CommandEffects::decode(&effects).unwrap();
    assert!(effects.supports_io(NvmOpcode::Compare as u8) && !effects.supports_io(NvmOpcode::Copy as u8));
    assert!(effects.supports_admin(AdminOpcode::KeepAlive as u8));
    let part = GetLogPage { offset: 1024, ..GetLogPage::new(LogPageId::CommandsSupported, 8) };
    assert_eq!(log_page(&mut admin, &part).unwrap(), [1, 0, 0, 0, 3, 0, 0, 0], "Flush and Write");
    let at_the_end = GetLogPage { offset: 4096, ..part };
    assert_eq!(log_page(&mut admin, &at_the_end).unwrap(), [0; 8]);
    let beyond = log_page(&mut admin, &GetLogPage { offset: 4100, ..part }).unwrap_err();
    assert_eq!(beyond, Status::permanent(StatusCode::InvalidField));
    for page in [LogPageId::Ana, LogPageId::Discovery] {
        let status = log_page(&mut admin, &GetLogPage::new(page, 512)).unwrap_err();
        assert_eq!(status, Status::permanent(StatusCode::LogPageInvalid), "{page:?}");
    }
    let supported = log_page(&mut admin, &GetLogPage::new(LogPageId::SupportedPages, 1024)).unwrap();
    assert_eq!((supported[4], supported[4 * 0x0C]), (1, 0));
    running.stop();
}

#[test]
fn discovery_tells_where_the_subsystem_is() {
    let running = Running::with_file(4096);
    let mut discovery = Host::plain(running.tcp());
    discovery.connect_admin(nvferry_wire::nqn::DISCOVERY_NQN, 0);
    let page = identify(&mut discovery, Cns::Controller, 0).unwrap();
    let page = IdentifyController::decode(&page).unwrap();
    assert_eq!(page.cntrltype, ControllerType::Discovery);
    assert_eq!(page.subnqn, Some(Nqn::discovery()));
    assert!(page.lpa & IdentifyController::LPA_EXTENDED != 0);

    // The header first, then entries by offset, as hosts do it.
    let header = log_page(&mut discovery, &GetLogPage::new(LogPageId::Discovery, 16)).unwrap();
    let header = DiscoveryHeader::decode(&[header, vec![0; 16]].concat()).unwrap();
    assert_eq!(header.numrec, 1);
    let entries = GetLogPage { offset: 1024, ..GetLogPage::new(LogPageId::Discovery, 1024) };
    let entry = DiscoveryEntry::decode(&log_page(&mut discovery, &entries).unwrap()).unwrap();
    assert_eq!(entry.transport_id().unwrap(), running.target.address());
    let whole = log_page(&mut discovery, &GetLogPage::new(LogPageId::Discovery, 4096)).unwrap();
    assert_eq!(DiscoveryHeader::decode(&whole).unwrap(), header);
    assert_eq!(DiscoveryEntry::decode(&whole[1024..]).unwrap(), entry);

    // It has no namespaces and no I/O queues.
    assert!(identify(&mut discovery, Cns::ActiveNamespaceList, 0).is_err());
    let cid = discovery.cid();
    assert!(discovery.execute(&keep_alive(cid)).status().is_success());
    running.stop();
}

#[test]
fn events_are_limited_and_can_be_aborted() {
    let running = Running::with_file(4096);
    let (mut admin, _) = running.admin();
    let events: Vec<_> = (0..4).map(|_| admin.cid()).collect();
    for &cid in &events {
        admin.send_command(&async_event_request(cid), &[]);
    }
    let cid = admin.cid();
    let fifth = admin.execute(&async_event_request(cid)).status();
    assert_eq!(fifth, Status::permanent(StatusCode::AsyncEventLimitExceeded));

    let cid = admin.cid();
    admin.send_command(&Abort { sqid: QueueId::ADMIN, cid: events[2] }.sqe(cid), &[]);
    let aborted = admin.finish(events[2], &[], 0);
    assert_eq!(aborted.status().code, StatusCode::AbortRequested);
    let abort = admin.finish(cid, &[], 0);
    assert!(abort.status().is_success() && abort.cqe.dw0() == 0, "the completion says that it was aborted");
    let cid = admin.cid();
    let nothing = admin.execute(&Abort { sqid: QueueId(1), cid: CommandId(77) }.sqe(cid));
    assert!(nothing.status().is_success() && nothing.cqe.result == Abort::NOT_ABORTED);
    running.stop();
}

#[test]
fn commands_that_there_are_not_are_refused() {
    let running = Running::with_file(4096);
    let (mut admin, mut io) = running.queues();
    for opcode in [0x00, 0x01, 0x05, 0x0D, 0x15, 0x80, 0xC0, 0xFF] {
        let cid = admin.cid();
        let status = admin.execute(&Sqe::new(opcode, cid, Nsid(1))).status();
        assert_eq!(status, Status::permanent(StatusCode::InvalidOpcode), "admin {opcode:#04x}");
    }
    for opcode in [0x04, 0x0C, 0x0D, 0x19, 0x55, 0x80] {
        let cid = io.cid();
        let status = io.execute(&Sqe::new(opcode, cid, Nsid(1))).status();
        assert_eq!(status, Status::permanent(StatusCode::InvalidOpcode), "I/O {opcode:#04x}");
    }
    let cid = admin.cid();
    let status = admin.execute(&Disconnect.sqe(cid)).status();
    assert_eq!(status, Status::permanent(StatusCode::DisconnectInvalidQueueType));
    // A PRP where fabrics have SGLs.
    let cid = io.cid();
    let mut sqe = Sqe::new(NvmOpcode::Flush as u8, cid, Nsid(1));
    sqe.as_bytes_mut()[1] = 0;
    assert_eq!(io.execute(&sqe).status(), Status::permanent(StatusCode::InvalidField));
    running.stop();
}

#[test]
fn disconnect_ends_an_io_queue_and_nothing_else() {
    let running = Running::with_file(4096);
    let (mut admin, cntlid) = running.admin();
    let mut io = Host::plain(running.tcp());
    io.connect_io(cntlid, 1, 16, false);
    let cid = io.cid();
    assert!(io.execute(&Disconnect.sqe(cid)).status().is_success());
    drop(io);
    assert!(admin.csts().ready());
    // Its id is free again as soon as the connection is gone.
    let mut again = Host::plain(running.tcp());
    while !again.try_connect_io(cntlid, 1, 16, false).status().is_success() {
        again = Host::plain(running.tcp());
    }
    assert!(again.read(1, 0, 8, 512).is_ok());
    running.stop();
}
