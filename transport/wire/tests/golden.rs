//! Whole conversations, byte for byte.
//!
//! The files in `golden/` hold one PDU a line: its name, who sends it, and its bytes in hexadecimal,
//! where `00*112` is 112 zero bytes. They were put into a capture file, as TCP segments to and from port
//! 4420, and read with Wireshark 4.0's dissector (`tshark -V -o nvme-tcp.check_hdgst:TRUE
//! -o nvme-tcp.check_ddgst:TRUE`), which knows nothing of this code: each field below shows there with the
//! value that is given here, every digest is found correct, and nothing is marked malformed. (It shows
//! SMART's 128-bit counters with their bytes reversed, and does not know Compare's and Dataset
//! Management's fields by name.) Digests were computed once more with a bitwise CRC32C in another language.
//!
//! After a deliberate change of what is sent, `NVFERRY_WRITE_GOLDEN=1` writes the files anew; they then
//! have to be read with a dissector again.

#![allow(clippy::unwrap_used)]

use nvferry_wire::admin::{self, GetFeatures, GetLogPage, Identify, SetFeatures};
use nvferry_wire::async_event::AsyncEvent;
use nvferry_wire::fabrics::{
    Cap, Cc, Connect, ConnectData, ConnectInvalid, ConnectResult, Csts, Disconnect, Property, PropertyGet, PropertySet,
    Shn, Shst, Vs,
};
use nvferry_wire::feature::{AsyncEventConfig, FeatureId, NumberOfQueues};
use nvferry_wire::identify::{
    Cns, ControllerType, IdentifyController, IdentifyNamespace, NamespaceIds, SglSupport, Vwc, encode_nsid_list,
};
use nvferry_wire::log_page::{self, DiscoveryEntry, DiscoveryHeader, FirmwareSlots, LogPageId, SmartHealth};
use nvferry_wire::nvm::{DatasetManagement, DsmRange, Flush, NvmOpcode, ReadWrite, WriteZeroes};
use nvferry_wire::pdu::*;
use nvferry_wire::*;

mod conversation;

use conversation::{Conversation, check, decode_all, from_hex, to_hex};

fn subnqn() -> Nqn {
    Nqn::new("nqn.2016-06.io.mc:node7").unwrap()
}

fn connect_data(cntlid: ControllerId) -> [u8; 1024] {
    let data = ConnectData {
        hostid: HostId(*b"\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x01"),
        cntlid,
        subnqn: subnqn(),
        hostnqn: Nqn::from_uuid([0x42; 16]),
    };
    let mut bytes = [0xA5; 1024];
    data.encode(&mut bytes);
    assert_eq!(ConnectData::decode(&bytes), Ok(data));
    bytes
}

fn connect(qid: u16) -> Connect {
    Connect {
        qid: QueueId(qid),
        sq_entries: if qid == 0 { 32 } else { 128 },
        disable_sq_flow_control: true,
        individual_io_queue_deletion: false,
        kato_ms: if qid == 0 { 15_000 } else { 0 },
    }
}

fn controller() -> IdentifyController {
    IdentifyController {
        vid: 0x1234,
        ssvid: 0x5678,
        sn: "SERIAL-0001".into(),
        mn: "nvferry userspace target".into(),
        fr: "0.1.0".into(),
        rab: 6,
        cmic: IdentifyController::CMIC_MULTI_CONTROLLER,
        mdts: 8,
        cntlid: ControllerId(7),
        ver: Vs::V1_4,
        oaes: AsyncEventConfig::NAMESPACE_ATTRIBUTE,
        ctratt: IdentifyController::CTRATT_HOST_ID_128,
        cntrltype: ControllerType::Io,
        acl: 3,
        aerl: 3,
        frmw: 3,
        lpa: IdentifyController::LPA_EXTENDED,
        elpe: 127,
        kas_100ms: 10,
        sqes: 0x66,
        cqes: 0x44,
        maxcmd: 128,
        nn: 1024,
        oncs: IdentifyController::ONCS_COMPARE
            | IdentifyController::ONCS_DATASET_MANAGEMENT
            | IdentifyController::ONCS_WRITE_ZEROES,
        vwc: Vwc::PRESENT_FLUSH_ALL,
        awun: 1,
        awupf: 2,
        acwu: 3,
        sgls: SglSupport::TCP,
        subnqn: Some(subnqn()),
        ioccsz_16bytes: 4 + 16384 / 16,
        iorcsz_16bytes: 1,
        msdbd: 1,
        ofcs: 1,
        ..Default::default()
    }
}

fn admin() -> Conversation {
    let mut c = Conversation::new(Framing::default());
    let mut page = [0xA5; 4096];
    c.initialize(Digests::NONE, DataAlignment::NONE, DataAlignment::NONE);
    c.command("Connect", connect(0).sqe(CommandId(1)), &connect_data(ControllerId::DYNAMIC));
    let accepted =
        ConnectResult { cntlid: ControllerId(7), authentication_required: false, secure_channel_required: false };
    c.response("Connect response", Cqe::success(CommandId(1), 1, accepted.to_result()));

    c.command("Property Get CAP", PropertyGet::of(Property::Cap).sqe(CommandId(2)), &[]);
    c.response("Property Get CAP response", Cqe::success(CommandId(2), 2, Cap::fabrics(128, 15).0));
    c.command("Property Set CC", PropertySet::of(Property::Cc, Cc::enabled().0.into()).sqe(CommandId(3)), &[]);
    c.response("Property Set CC response", Cqe::success(CommandId(3), 3, 0));
    c.command("Property Get CSTS", PropertyGet::of(Property::Csts).sqe(CommandId(4)), &[]);
    let ready = Csts::new(true, false, Shst::Normal);
    c.response("Property Get CSTS response", Cqe::success(CommandId(4), 4, ready.0.into()));
    c.command("Property Get VS", PropertyGet::of(Property::Vs).sqe(CommandId(5)), &[]);
    c.response("Property Get VS response", Cqe::success(CommandId(5), 5, Vs::V1_4.0.into()));

    c.command("Identify Controller", Identify::controller().sqe(CommandId(6)), &[]);
    controller().encode(&mut page);
    assert_eq!(IdentifyController::decode(&page), Ok(controller()));
    c.c2h_data("Identify Controller data", 6, 0, &page, DataEnd::Last);
    c.response("Identify Controller response", Cqe::success(CommandId(6), 6, 0));

    c.command("Identify active list", Identify::of(Cns::ActiveNamespaceList, Nsid(0)).sqe(CommandId(7)), &[]);
    assert_eq!(encode_nsid_list([1, 2, 9].map(Nsid), &mut page), 3);
    c.c2h_data("Identify active list data", 7, 0, &page, DataEnd::LastWithSuccess);

    c.command("Identify Namespace", Identify::of(Cns::Namespace, Nsid(9)).sqe(CommandId(8)), &[]);
    let namespace = IdentifyNamespace {
        nsfeat: IdentifyNamespace::NSFEAT_OPTIMAL_IO,
        nmic: IdentifyNamespace::NMIC_SHARED,
        dlfeat: IdentifyNamespace::DLFEAT_ZEROES_WITH_DEALLOCATE,
        nacwu: 3,
        noiob: 8,
        npwg: 7,
        nguid: [0x99; 16],
        eui64: [0x88; 8],
        ..IdentifyNamespace::with_blocks(0x12_3456_789A, 9)
    };
    namespace.encode(&mut page);
    assert_eq!(IdentifyNamespace::decode(&page), Ok(namespace));
    c.c2h_data("Identify Namespace data", 8, 0, &page, DataEnd::LastWithSuccess);

    c.command(
        "Identify namespace descriptors",
        Identify::of(Cns::NamespaceDescriptors, Nsid(9)).sqe(CommandId(9)),
        &[],
    );
    let ids = NamespaceIds { eui64: Some([8; 8]), nguid: Some([9; 16]), uuid: Some([7; 16]), csi: Some(0) };
    ids.encode(&mut page);
    assert_eq!(NamespaceIds::decode(&page), Ok(ids));
    c.c2h_data("Identify namespace descriptors data", 9, 0, &page, DataEnd::LastWithSuccess);

    let queues = NumberOfQueues::pairs(8);
    c.command(
        "Set Features Number of Queues",
        SetFeatures::new(FeatureId::NumberOfQueues, queues.to_dword()).sqe(CommandId(10)),
        &[],
    );
    let granted = NumberOfQueues { submission: 4, completion: 6 };
    c.response("Set Features Number of Queues response", Cqe::success(CommandId(10), 10, granted.to_dword().into()));
    let events = AsyncEventConfig::NAMESPACE_ATTRIBUTE.with(AsyncEventConfig::SMART);
    c.command(
        "Set Features Async Event Config",
        SetFeatures::new(FeatureId::AsyncEventConfig, events.0).sqe(CommandId(11)),
        &[],
    );
    c.response("Set Features Async Event Config response", Cqe::success(CommandId(11), 11, 0));
    c.command("Get Features Keep Alive Timer", GetFeatures::current(FeatureId::KeepAliveTimer).sqe(CommandId(12)), &[]);
    c.response("Get Features Keep Alive Timer response", Cqe::success(CommandId(12), 12, 15_000));

    c.command("Get Log Page SMART", GetLogPage::new(LogPageId::Smart, 512).sqe(CommandId(13)), &[]);
    let smart = SmartHealth {
        critical_warning: 2,
        temperature_kelvin: 300,
        available_spare_percent: 100,
        spare_threshold_percent: 10,
        percentage_used: 1,
        data_units_read: 1000,
        data_units_written: 2000,
        host_read_commands: 3000,
        host_write_commands: 4000,
        busy_minutes: 5,
        power_cycles: 6,
        power_on_hours: 7,
        unsafe_shutdowns: 8,
        media_errors: 9,
        error_log_entries: 10,
    };
    let mut smart_page = [0xA5; 512];
    smart.encode(&mut smart_page);
    assert_eq!(SmartHealth::decode(&smart_page), Ok(smart));
    c.c2h_data("Get Log Page SMART data", 13, 0, &smart_page, DataEnd::LastWithSuccess);

    c.command("Get Log Page firmware", GetLogPage::new(LogPageId::Firmware, 512).sqe(CommandId(14)), &[]);
    let firmware = FirmwareSlots::single("0.1.0");
    firmware.encode(&mut smart_page);
    assert_eq!(FirmwareSlots::decode(&smart_page), Ok(firmware));
    c.c2h_data("Get Log Page firmware data", 14, 0, &smart_page, DataEnd::LastWithSuccess);

    c.command("Async Event Request", admin::async_event_request(CommandId(15)), &[]);
    c.command("Keep Alive", admin::keep_alive(CommandId(16)), &[]);
    c.response("Keep Alive response", Cqe::success(CommandId(16), 16, 0));
    let event = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED;
    c.response("Async Event Request response", Cqe::success(CommandId(15), 16, event.to_dword().into()));
    c.command(
        "Get Log Page changed namespaces",
        GetLogPage::new(LogPageId::ChangedNamespaces, 4096).sqe(CommandId(17)),
        &[],
    );
    log_page::encode_changed_namespaces(&[Nsid(2)], &mut page);
    c.c2h_data("Get Log Page changed namespaces data", 17, 0, &page, DataEnd::LastWithSuccess);

    c.command("Abort", admin::Abort { sqid: QueueId(1), cid: CommandId(0x55) }.sqe(CommandId(18)), &[]);
    c.response("Abort response", Cqe::success(CommandId(18), 18, admin::Abort::NOT_ABORTED));
    let shutdown = Cc::enabled().with_shn(Shn::Normal);
    c.command("Property Set CC shutdown", PropertySet::of(Property::Cc, shutdown.0.into()).sqe(CommandId(19)), &[]);
    c.response("Property Set CC shutdown response", Cqe::success(CommandId(19), 19, 0));
    c
}

fn discovery() -> Conversation {
    let mut c = Conversation::new(Framing::default());
    c.initialize(Digests::NONE, DataAlignment::NONE, DataAlignment::NONE);
    c.command("Connect", connect(0).sqe(CommandId(1)), &connect_data(ControllerId(3)));
    let refused = Cqe {
        result: ConnectInvalid::CNTLID.to_result(),
        ..Cqe::new(CommandId(1), 0, Status::permanent(StatusCode::ConnectInvalidParameters))
    };
    c.response("Connect refused", refused);
    let mut data = connect_data(ControllerId::DYNAMIC);
    data[256..512].copy_from_slice(&Nqn::discovery().to_wire());
    c.command("Connect", connect(0).sqe(CommandId(2)), &data);
    let accepted =
        ConnectResult { cntlid: ControllerId(1), authentication_required: true, secure_channel_required: false };
    c.response("Connect response", Cqe::success(CommandId(2), 0, accepted.to_result()));
    c.command("Get Log Page discovery", GetLogPage::new(LogPageId::Discovery, 2048).sqe(CommandId(3)), &[]);
    let header = DiscoveryHeader { genctr: 5, numrec: 1, recfmt: 0 };
    let at: TransportId = "traddr=10.0.0.7 trsvcid=4420".parse().unwrap();
    let entry = DiscoveryEntry::nvm(&at, subnqn(), 1, 32);
    let mut page = [0xA5; 2048];
    header.encode(page.first_chunk_mut().unwrap());
    entry.encode(page[1024..].first_chunk_mut().unwrap());
    assert_eq!(DiscoveryHeader::decode(&page), Ok(header));
    let decoded = DiscoveryEntry::decode(&page[1024..]).unwrap();
    assert_eq!(decoded.transport_id(), Ok(at.with_subnqn(subnqn())));
    assert_eq!(decoded, entry);
    c.c2h_data("Get Log Page discovery data", 3, 0, &page, DataEnd::LastWithSuccess);
    c
}

fn io(framing: Framing) -> Conversation {
    let mut c = Conversation::new(framing);
    // Initialisation itself has no digests and no padding, whatever it agrees on.
    c.initialize(framing.digests, framing.alignment, framing.alignment);
    c.command("Connect", connect(1).sqe(CommandId(1)), &connect_data(ControllerId(7)));
    c.response("Connect response", Cqe::success(CommandId(1), 0, 7));

    let (nsid, transport) = (Nsid(9), |length| SglDescriptor::Transport { length });
    let read = ReadWrite::new(nsid, Lba(0x1_2345_6789), BlockCount(2));
    let block: Vec<u8> = (0..1024).map(|i| (i % 251) as u8).collect();
    c.command("Read", read.sqe(NvmOpcode::Read, CommandId(2), transport(1024)), &[]);
    c.c2h_data("Read data 1", 2, 0, &block[..512], DataEnd::More);
    c.c2h_data("Read data 2", 2, 512, &block[512..], DataEnd::Last);
    c.response("Read response", Cqe::success(CommandId(2), 0, 0));
    c.command("Read", read.sqe(NvmOpcode::Read, CommandId(3), transport(1024)), &[]);
    c.c2h_data("Read data with success", 3, 0, &block, DataEnd::LastWithSuccess);

    let write = ReadWrite { fua: true, ..ReadWrite::new(nsid, Lba(8), BlockCount(1)) };
    let in_capsule = SglDescriptor::InCapsule { offset: 0, length: 512 };
    c.command("Write in capsule", write.sqe(NvmOpcode::Write, CommandId(4), in_capsule), &block[..512]);
    c.response("Write in capsule response", Cqe::success(CommandId(4), 0, 0));

    let write = ReadWrite { limited_retry: true, ..ReadWrite::new(nsid, Lba(16), BlockCount(2)) };
    c.command("Write", write.sqe(NvmOpcode::Write, CommandId(5), transport(1024)), &[]);
    let r2t = R2t { cccid: CommandId(5), ttag: TransferTag(0x77), r2to: 0, r2tl: 1024 };
    c.push("R2T", Role::Controller, &[], |framing, out| r2t.encode(framing, out));
    c.h2c_data("Write data 1", 5, 0x77, 0, &block[..600], DataEnd::More);
    c.h2c_data("Write data 2", 5, 0x77, 600, &block[600..], DataEnd::Last);
    let failed = Status { retry_delay: 2, more: true, ..Status::permanent(StatusCode::WriteFault) };
    c.response("Write response", Cqe::new(CommandId(5), 0, failed));

    c.command("Flush", Flush { nsid }.sqe(CommandId(6)), &[]);
    c.response("Flush response", Cqe::success(CommandId(6), 0, 0));
    let zeroes = WriteZeroes { nsid, slba: Lba(32), blocks: BlockCount(65536), deallocate: true, fua: false };
    c.command("Write Zeroes", zeroes.sqe(CommandId(7)), &[]);
    c.response("Write Zeroes response", Cqe::new(CommandId(7), 0, StatusCode::LbaOutOfRange));
    let dsm = DatasetManagement::deallocate(nsid, 2);
    let ranges = [
        DsmRange { context: 0, blocks: BlockCount(8), slba: Lba(64) },
        DsmRange { context: 0, blocks: BlockCount(16), slba: Lba(0x1_0000_0000) },
    ];
    let range_bytes = ranges.map(|range| range.encode()).concat();
    let in_capsule = SglDescriptor::InCapsule { offset: 0, length: 32 };
    c.command("Dataset Management", dsm.sqe(CommandId(8), in_capsule), &range_bytes);
    c.response("Dataset Management response", Cqe::success(CommandId(8), 0, 0));
    let compare = ReadWrite::new(nsid, Lba(8), BlockCount(1));
    let in_capsule = SglDescriptor::InCapsule { offset: 0, length: 512 };
    c.command("Compare", compare.sqe(NvmOpcode::Compare, CommandId(9), in_capsule), &block[..512]);
    c.response("Compare response", Cqe::new(CommandId(9), 0, StatusCode::CompareFailure));
    c.command("Disconnect", Disconnect.sqe(CommandId(10)), &[]);
    c.response("Disconnect response", Cqe::success(CommandId(10), 0, 0));
    c
}

#[test]
fn admin_conversation() {
    check(&admin(), "admin.txt", include_str!("golden/admin.txt"));
}

#[test]
fn discovery_conversation() {
    check(&discovery(), "discovery.txt", include_str!("golden/discovery.txt"));
}

#[test]
fn io_conversation() {
    check(&io(Framing::default()), "io.txt", include_str!("golden/io.txt"));
}

const DIGESTS: Framing = Framing { digests: Digests::BOTH, alignment: DataAlignment::NONE };

#[test]
fn io_conversation_with_digests() {
    check(&io(DIGESTS), "io-digests.txt", include_str!("golden/io-digests.txt"));
}

/// Data at multiples of 16 bytes: what comes before it is padded with zeros, PDO and PLEN say so, and
/// nothing else changes but the header digest, which covers them.
#[test]
fn padding_only_moves_data() {
    let aligned = Framing { alignment: DataAlignment::from_wire(3).unwrap(), ..DIGESTS };
    let (plain, padded) = (io(DIGESTS), io(aligned));
    let mut with_padding = 0;
    for (plain, padded) in plain.lines.iter().zip(&padded.lines).skip(2) {
        let (header_len, pdo) = (usize::from(plain.bytes[2]), usize::from(padded.bytes[3]));
        let data_at = usize::from(plain.bytes[3]);
        if data_at == 0 {
            assert_eq!(plain.bytes, padded.bytes, "{}", plain.name);
            continue;
        }
        with_padding += 1;
        assert_eq!(pdo, data_at.next_multiple_of(16), "{}", plain.name);
        assert_eq!(plain.bytes[8..header_len], padded.bytes[8..header_len], "{}", plain.name);
        assert_eq!(padded.bytes[header_len + 4..pdo], vec![0; pdo - data_at], "{}", plain.name);
        assert_eq!(plain.bytes[data_at..], padded.bytes[pdo..], "{}", plain.name);
    }
    assert_eq!(with_padding, 9);
}

#[test]
fn conversations_are_read_back() {
    let plain = decode_all(&io(Framing::default()), |_| Framing::default());
    let both = Framing { alignment: DataAlignment::MAX, ..DIGESTS };
    let mut with_digests = io(both);
    let rest = Conversation { framing: with_digests.framing, lines: with_digests.lines.split_off(2) };
    let digested = decode_all(&rest, |_| both);
    assert_eq!(plain[2..], digested[..], "digests and padding change nothing but the framing");

    let writes = |pdu: &Pdu| matches!(pdu, Pdu::CapsuleCmd(c) if c.sqe.opcode() == NvmOpcode::Write as u8);
    let Some(Pdu::CapsuleCmd(write)) = plain.iter().find(|pdu| writes(pdu)) else { panic!("no write") };
    assert_eq!(write.data_bytes, 512);
    let decoded = ReadWrite::decode(&write.sqe);
    assert_eq!(decoded, ReadWrite { fua: true, ..ReadWrite::new(Nsid(9), Lba(8), BlockCount(1)) });
    assert_eq!(write.sqe.sgl().unwrap().in_capsule_range(512), Ok(0..512));

    decode_all(&admin(), |_| Framing::default());
    decode_all(&discovery(), |_| Framing::default());
}

#[test]
fn termination_request() {
    let error = PduError::HeaderLength { pdu_type: PduType::CapsuleCmd, hlen: 70, expected: 72 };
    let offending = [0x04, 0, 70, 0, 72, 0, 0, 0];
    let mut out = [0xA5; TERM_REQ_MAX_LEN];
    let len = TermReq::for_error(&error).encode(Role::Controller, &offending, &mut out);
    let golden = "0300 1800 20000000 0100 02000000 00*10 0400460048000000";
    assert_eq!(to_hex(&out[..len]), to_hex(&from_hex(golden)));
    let common = CommonHeader::decode(out.first_chunk().unwrap(), &PduRules::initial(Role::Host)).unwrap();
    assert_eq!(common.layout().data_bytes, 8);
    let term = TermReq { fes: FatalErrorStatus::InvalidHeaderField, fei: 2 };
    assert_eq!(Pdu::decode(&common, &out), Ok(Pdu::C2hTermReq(term)));
}
