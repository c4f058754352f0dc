//! What single fields and values mean, where encoding and decoding alone would not tell.

#![allow(clippy::unwrap_used)]

use nvferry_wire::admin::{AdminOpcode, GetLogPage, Identify};
use nvferry_wire::async_event::{AsyncEvent, AsyncEventKind};
use nvferry_wire::fabrics::{
    Cap, Cc, Connect, ConnectData, ConnectInvalid, Csts, FabricsType, PropertyGet, Shn, Shst, Vs,
};
use nvferry_wire::feature::NumberOfQueues;
use nvferry_wire::identify::*;
use nvferry_wire::log_page::*;
use nvferry_wire::nvm::NvmOpcode;
use nvferry_wire::*;

#[test]
fn limits_of_a_controller() {
    let mut controller = IdentifyController { ioccsz_16bytes: 4 + 1024, ..Default::default() };
    assert_eq!(controller.max_in_capsule_bytes(), 16384);
    controller.icdoff_16bytes = 24;
    assert_eq!(controller.max_in_capsule_bytes(), 16000);
    controller.ioccsz_16bytes = 3;
    assert_eq!(controller.max_in_capsule_bytes(), 0);
    controller.ioccsz_16bytes = u32::MAX;
    assert_eq!(controller.max_in_capsule_bytes(), u32::MAX);

    assert_eq!(controller.max_transfer_bytes(4096), None);
    controller.mdts = 8;
    assert_eq!(controller.max_transfer_bytes(4096), Some(1 << 20));
    controller.mdts = 255;
    assert_eq!(controller.max_transfer_bytes(4096), Some(u64::MAX));
}

#[test]
fn the_format_in_use() {
    let mut namespace = IdentifyNamespace::with_blocks(100, 12);
    assert_eq!(namespace.format().block_bytes(), Some(4096));
    assert_eq!(namespace.nvmcap, 100 * 4096);
    assert!(namespace.is_active() && !IdentifyNamespace::default().is_active());
    // Format 16 + 2: the upper bits of the index stand apart from the lower ones.
    namespace.lbaf[18] = LbaFormat { ms: 8, lbads: 9, rp: 2 };
    namespace.flbas = 0x22;
    assert_eq!(namespace.format(), namespace.lbaf[18]);
    for (lbads, bytes) in [(0, None), (8, None), (9, Some(512)), (31, Some(1 << 31)), (32, None), (255, None)] {
        assert_eq!(LbaFormat { ms: 0, lbads, rp: 0 }.block_bytes(), bytes, "{lbads}");
    }
}

#[test]
fn namespace_descriptors_are_read_tolerantly_but_in_bounds() {
    let mut page = [0; 4096];
    page[..28].copy_from_slice(&[
        9, 3, 0, 0, 1, 2, 3, // a kind that does not exist
        4, 1, 0xFF, 0xFF, 2, // the command set, with reserved bytes set
        1, 8, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, // EUI64
        0, 0, 0, 0, // the end
    ]);
    // What stands after the end does not count.
    page[28..32].copy_from_slice(&[4, 1, 0, 0]);
    let ids = NamespaceIds { eui64: Some([1; 8]), csi: Some(2), ..Default::default() };
    assert_eq!(NamespaceIds::decode(&page), Ok(ids));
    // The first of a kind counts.
    page[24..29].copy_from_slice(&[4, 1, 0, 0, 7]);
    assert_eq!(NamespaceIds::decode(&page), Ok(ids));
    // Lengths that do not fit the kind, or the page.
    assert!(matches!(NamespaceIds::decode(&[3, 8, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]), Err(WireError::InvalidField { .. })));
    assert!(matches!(NamespaceIds::decode(&[3, 16, 0, 0, 1, 1]), Err(WireError::Truncated { .. })));
}

#[test]
fn more_changed_namespaces_than_fit() {
    let nsids: Vec<Nsid> = (1..=1025).map(Nsid).collect();
    let mut page = [0xA5; CHANGED_NAMESPACES_LEN];
    encode_changed_namespaces(&nsids[..1024], &mut page);
    assert!(nsid_list(&page).unwrap().eq(nsids[..1024].iter().copied()));
    encode_changed_namespaces(&nsids, &mut page);
    assert!(nsid_list(&page).unwrap().eq([Nsid::ALL]));
    encode_changed_namespaces(&[], &mut page);
    assert_eq!(page, [0; CHANGED_NAMESPACES_LEN]);
}

#[test]
fn effects_of_commands() {
    let io = [NvmOpcode::Read, NvmOpcode::Write, NvmOpcode::WriteZeroes, NvmOpcode::DatasetManagement];
    let effects = CommandEffects::of(&[AdminOpcode::Identify, AdminOpcode::KeepAlive], &io);
    let supported: Vec<u8> = (0..=255).filter(|&opcode| effects.supports_admin(opcode)).collect();
    assert_eq!(supported, [0x06, 0x18]);
    let io: Vec<(u8, u32)> = (0..=255).zip(effects.io).filter(|(_, effects)| *effects != 0).collect();
    assert_eq!(io, [(0x01, 0b11), (0x02, 0b01), (0x08, 0b11), (0x09, 0b11)]);
    assert!(effects.supports_io(0x02) && !effects.supports_io(0x05));

    let mut page = [0xA5; SUPPORTED_PAGES_LEN];
    encode_supported_pages(&[LogPageId::Smart, LogPageId::Discovery], &mut page);
    let set: Vec<usize> = (0..page.len()).filter(|&i| page[i] != 0).collect();
    assert_eq!(set, [0x02 * 4, 0x70 * 4]);
}

#[test]
fn data_units_are_thousands_of_sectors_rounded_up() {
    for (bytes, units) in [(0, 0), (1, 1), (512_000, 1), (512_001, 2)] {
        assert_eq!(SmartHealth::data_units(bytes), units, "{bytes}");
    }
}

#[test]
fn an_nguid_is_written_as_a_uuid_and_read_in_any_grouping() {
    let text = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    let nguid = Nguid::from_text(text).unwrap();
    assert_eq!(nguid.to_string(), text);
    assert_eq!(Nguid::from_text(&text.replace('-', "").to_uppercase()), Some(nguid));
    assert_eq!(Nguid::new([0; 16]), None);
    for wrong in ["", "0a1b", &text[1..], &format!("{text}0"), &text.replace('0', "g"), &text.replace(|_| true, "0")] {
        assert_eq!(Nguid::from_text(wrong), None, "{wrong}");
    }
}

#[test]
fn controller_lists_have_a_count_and_an_end() {
    let mut page = [0; IDENTIFY_LEN];
    assert_eq!(encode_controller_list([3, 7].map(ControllerId), &mut page), 2);
    assert_eq!(page[..8], [2, 0, 3, 0, 7, 0, 0, 0]);
    assert_eq!(controller_list(&page).unwrap().collect::<Vec<_>>(), [3, 7].map(ControllerId));
    assert_eq!(encode_controller_list((1..9000).map(ControllerId), &mut page), 2047);
    assert_eq!(controller_list(&page).unwrap().last(), Some(ControllerId(2047)));
    // One that claims more than there is room for.
    page[..2].copy_from_slice(&[0xFF, 0xFF]);
    assert_eq!(controller_list(&page).unwrap().count(), 2047);
    assert!(controller_list(&page[1..]).is_err());
}

#[test]
fn registers() {
    let cc = Cc::enabled();
    assert_eq!((cc.enable(), cc.iosqes(), cc.iocqes(), cc.css(), cc.ams(), cc.page_bytes()), (true, 6, 4, 0, 0, 4096));
    assert_eq!(cc.shn(), Shn::None);
    let abrupt = cc.with_shn(Shn::Normal).with_shn(Shn::Abrupt);
    assert_eq!((abrupt.shn(), abrupt.with_shn(Shn::None)), (Shn::Abrupt, cc));
    assert_eq!(cc.with_enable(false).0, cc.0 - 1);
    for shst in [Shst::Normal, Shst::Occurring, Shst::Complete] {
        let csts = Csts::new(false, true, shst);
        assert_eq!((csts.ready(), csts.fatal(), csts.shst()), (false, true, shst));
    }
    let cap = Cap::fabrics(128, 15);
    assert_eq!((cap.max_queue_entries(), cap.ready_timeout_ms(), cap.min_page_bytes()), (128, 7500, 4096));
    assert!(cap.contiguous_queues() && cap.nvm_command_set() && !cap.io_command_sets());
    assert_eq!(Cap::fabrics(1 << 20, 0).max_queue_entries(), 65536);
    assert_eq!((Vs::V1_4.to_string().as_str(), Vs::V1_4 < Vs::V2_0), ("1.4.0", true));
}

#[test]
fn queues_come_in_pairs() {
    assert_eq!(NumberOfQueues { submission: 8, completion: 3 }.pair_count(), 3);
    assert_eq!(NumberOfQueues { submission: 3, completion: 8 }.pair_count(), 3);
    assert_eq!(NumberOfQueues::pairs(0).to_dword(), 0);
    assert_eq!(NumberOfQueues::pairs(1 << 20).to_dword(), 0xFFFE_FFFE);
}

#[test]
fn a_refused_connect_says_which_parameter() {
    let data = ConnectData {
        hostid: HostId([1; 16]),
        cntlid: ControllerId::DYNAMIC,
        subnqn: Nqn::discovery(),
        hostnqn: Nqn::discovery(),
    };
    let mut bytes = [0; 1024];
    data.encode(&mut bytes);
    let refused = |at: usize, value: u8| {
        let mut bytes = bytes;
        bytes[at] = value;
        ConnectData::decode(&bytes).unwrap_err()
    };
    assert_eq!((refused(256, 0), refused(256, 0).parameter()), (ConnectInvalid::SUBNQN, Some("SUBNQN")));
    assert_eq!(refused(512, 0xFF), ConnectInvalid::HOSTNQN);
    assert_eq!(ConnectData::decode(&bytes[..600]), Err(ConnectInvalid { offset: 600, in_data: true }));
    assert_eq!(ConnectInvalid::QID.to_string(), "invalid parameter at byte 42 of the Connect command");

    let connect = Connect {
        qid: QueueId(1),
        sq_entries: 128,
        disable_sq_flow_control: true,
        individual_io_queue_deletion: false,
        kato_ms: 0,
    };
    let mut sqe = connect.sqe(CommandId(1));
    assert_eq!((sqe.opcode(), FabricsType::of(&sqe)), (0x7F, Ok(FabricsType::Connect)));
    sqe.as_bytes_mut()[40] = 1; // another record format
    assert_eq!(Connect::decode(&sqe), Err(StatusCode::ConnectIncompatibleFormat));
}

#[test]
fn commands_that_do_not_exist_are_refused_with_a_status() {
    let mut sqe = Identify::controller().sqe(CommandId(1));
    assert_eq!(FabricsType::of(&sqe), Err(StatusCode::InvalidOpcode));
    sqe.set_cdw10(0xFF);
    assert_eq!(Identify::decode(&sqe), Err(StatusCode::InvalidField));
    let mut sqe = PropertyGet { size: fabrics::PropertySize::Four, offset: 0 }.sqe(CommandId(1));
    sqe.as_bytes_mut()[40] = 2;
    assert_eq!(PropertyGet::decode(&sqe), Err(StatusCode::InvalidField));
    let mut sqe = GetLogPage::new(LogPageId::Smart, 512).sqe(CommandId(1));
    sqe.set_cdw12(2);
    assert_eq!(GetLogPage::decode(&sqe), Err(StatusCode::InvalidField));
}

#[test]
fn lengths_of_log_pages_are_whole_dwords() {
    let length = |bytes| GetLogPage::decode(&GetLogPage::new(LogPageId::Smart, bytes).sqe(CommandId(1))).unwrap();
    for (asked, sent) in [(0, 4), (1, 4), (4, 4), (5, 8), (u32::MAX, 1 << 32)] {
        assert_eq!(length(asked).length_bytes, sent, "{asked}");
    }
    let sqe = GetLogPage::new(LogPageId::Smart, 513).sqe(CommandId(1));
    assert_eq!(sqe.sgl(), Ok(SglDescriptor::Transport { length: 516 }));
}

#[test]
fn events() {
    for (dword, event) in [
        (0x0004_0002, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED),
        (0x000C_0302, AsyncEvent::ANA_CHANGE),
        (0x0070_F002, AsyncEvent::DISCOVERY_LOG_CHANGE),
        (0x0001_0500, AsyncEvent { kind: AsyncEventKind::Error(5), log_page: 1 }),
        (0x0002_0101, AsyncEvent { kind: AsyncEventKind::Health(1), log_page: 2 }),
    ] {
        assert_eq!((event.to_dword(), AsyncEvent::from_dword(dword)), (dword, event));
    }
}

#[test]
fn discovery_text_may_end_with_spaces_or_nuls() {
    let at: TransportId = "traddr=10.0.0.7 trsvcid=4420".parse().unwrap();
    let mut page = [0; 1024];
    DiscoveryEntry::nvm(&at, Nqn::new("nqn.2016-06.io.mc:a").unwrap(), 1, 32).encode(&mut page);
    assert!(page[32..64].starts_with(b"4420    "), "padded with spaces, as the specification has it");
    let with_spaces = DiscoveryEntry::decode(&page).unwrap();
    // The Linux target pads with NULs, and may name a subsystem freely.
    for field in [32..64, 512..768] {
        page[field].iter_mut().filter(|b| **b == b' ').for_each(|b| *b = 0);
    }
    assert_eq!(DiscoveryEntry::decode(&page).unwrap(), with_spaces);
    page[256..262].copy_from_slice(b"disks\0");
    let trid = DiscoveryEntry::decode(&page).unwrap().transport_id().unwrap();
    assert_eq!(trid.subnqn.unwrap().as_str(), "disks");
    // Of an address that is none, and of a fabric that is not spoken here.
    page[0] = 2;
    assert!(DiscoveryEntry::decode(&page).unwrap().transport_id().is_err());
    page[0] = 3;
    page[512] = b'x';
    assert!(DiscoveryEntry::decode(&page).unwrap().transport_id().is_err());
}

#[test]
fn text_fields_hold_printable_characters() {
    let controller =
        IdentifyController { sn: "0123456789012345678901234".into(), mn: "größe\n".into(), ..Default::default() };
    let mut page = [0; 4096];
    controller.encode(&mut page);
    assert_eq!(&page[4..24], b"01234567890123456789");
    assert_eq!(&page[24..32], b"gr??e?  ");
    page[64..72].copy_from_slice(b"a\xFF\0b\0\0 \0");
    let read = IdentifyController::decode(&page).unwrap();
    assert_eq!((read.fr.as_str(), read.mn.as_str(), read.subnqn), ("a??b", "gr??e?", None));
}

#[test]
fn names_for_people() {
    let hostid = HostId(*b"\xf8\x1d\x4f\xae\x7d\xec\x11\xd0\xa7\x65\x00\xa0\xc9\x1e\x6b\xf6");
    assert_eq!(hostid.to_string(), "f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
    let nqn = Nqn::from_uuid(hostid.0);
    assert_eq!(Nqn::new(nqn.as_str()), Ok(nqn));
    assert!(HostId::default().is_zero() && !hostid.is_zero());
    assert!(Nsid(1).is_valid() && !Nsid::ALL.is_valid() && !Nsid::NONE.is_valid());
}
