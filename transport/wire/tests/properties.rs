//! What holds for all values: decoding what was encoded gives the same, and no bytes and no text make a decoder panic.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use nvferry_wire::admin::{Abort, AdminOpcode, FeatureSelect, GetFeatures, GetLogPage, Identify, SetFeatures};
use nvferry_wire::async_event::AsyncEvent;
use nvferry_wire::fabrics::{
    Connect, ConnectData, ConnectInvalid, ConnectResult, FabricsType, Property, PropertyGet, PropertySet, PropertySize,
};
use nvferry_wire::feature::{FeatureId, NumberOfQueues};
use nvferry_wire::identify::*;
use nvferry_wire::log_page::*;
use nvferry_wire::nvm::{DatasetManagement, DsmRange, NvmOpcode, ReadWrite, WriteZeroes};
use nvferry_wire::pdu::*;
use nvferry_wire::trid::TrType;
use nvferry_wire::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn framing() -> impl Strategy<Value = Framing> {
    (any::<bool>(), any::<bool>(), 0u8..=31).prop_map(|(header, data, pda)| Framing {
        digests: Digests { header, data },
        alignment: DataAlignment::from_wire(pda).unwrap(),
    })
}

fn nqn() -> impl Strategy<Value = Nqn> {
    "nqn\\.20[0-9]{2}-(0[1-9]|1[0-2])(\\.[a-z0-9]{1,8}){1,3}:[!-~äß]{1,60}".prop_map(|name| Nqn::new(name).unwrap())
}

fn text(max_len: usize) -> impl Strategy<Value = String> {
    vec(b'!'..=b'~', 0..=max_len).prop_map(|bytes| String::from_utf8(bytes).unwrap())
}

fn sgl() -> impl Strategy<Value = SglDescriptor> {
    prop_oneof![
        (any::<u64>(), any::<u32>()).prop_map(|(offset, length)| SglDescriptor::InCapsule { offset, length }),
        any::<u32>().prop_map(|length| SglDescriptor::Transport { length }),
        (any::<u64>(), 0u32..1 << 24, any::<u32>(), any::<bool>())
            .prop_map(|(address, length, key, invalidate)| SglDescriptor::Keyed { address, length, key, invalidate }),
    ]
}

/// The rules under which a receiver takes what a sender with `framing` sends.
fn rules(receiver: Role, framing: Framing) -> PduRules {
    PduRules { receiver, framing, max_capsule_data_bytes: u32::MAX, max_data_bytes: u32::MAX }
}

/// Takes a PDU's header apart as its receiver does, and checks that the layout of both sides is the same.
fn receive(header: &[u8], pdu_type: PduType, data_bytes: u32, framing: Framing) -> Pdu {
    let common = CommonHeader::decode(header.first_chunk().unwrap(), &rules(pdu_type.receiver(), framing)).unwrap();
    let layout = common.layout();
    assert_eq!(layout, PduLayout::to_send(pdu_type, data_bytes, &framing));
    assert_eq!(layout.data_offset(), header.len());
    layout.check_header_digest(header).unwrap();
    Pdu::decode(&common, header).unwrap()
}

/// Each number that has a name is that name's number, and as many have one as the enumeration has names.
macro_rules! numbers {
    ($($kind:ty, $from:expr, $count:literal;)*) => {$(
        let named: Vec<(u32, u32)> =
            (0..=255).filter_map(|n| $from(n).map(|value: $kind| (n, value as u32))).collect();
        assert!(named.iter().all(|(n, value)| n == value), "{}: {named:?}", stringify!($kind));
        assert_eq!(named.len(), $count, "{}", stringify!($kind));
    )*};
}

#[test]
fn numbers_and_names() {
    let byte = |n: u32| n as u8;
    numbers! {
        PduType, |n| PduType::from_u8(byte(n)), 9;
        AdminOpcode, |n| AdminOpcode::from_u8(byte(n)), 14;
        NvmOpcode, |n| NvmOpcode::from_u8(byte(n)), 9;
        FabricsType, |n| FabricsType::from_u8(byte(n)), 6;
        Property, Property::from_offset, 6;
        Cns, |n| Cns::from_u8(byte(n)), 13;
        LogPageId, |n| LogPageId::from_u8(byte(n)), 8;
        FeatureId, |n| FeatureId::from_u8(byte(n)), 18;
    }
}

#[test]
fn the_longest_data_does_not_overflow() {
    let framing = Framing { digests: Digests::BOTH, alignment: DataAlignment::MAX };
    let end = DataEnd::Last;
    let pdu = DataPdu { cccid: CommandId(1), ttag: TransferTag(1), datao: u32::MAX, datal: u32::MAX, end };
    let mut out = [0; MAX_HEADER_BYTES];
    assert_eq!(pdu.encode_h2c(&framing, &mut out), 128);
    assert_eq!(out[4..8], [0xFF; 4]);
}

proptest! {
    #[test]
    fn capsules(
        framing in framing(), halves in any::<[[u8; 32]; 2]>(), data_bytes in 0u32..1 << 30, result: u64, status: u16,
    ) {
        let sqe = halves.concat().try_into().unwrap();
        let command = CapsuleCmd { sqe: Sqe::from_bytes(sqe), data_bytes };
        let mut out = [0xA5; MAX_HEADER_BYTES];
        let len = command.encode(&framing, &mut out);
        let received = receive(&out[..len], PduType::CapsuleCmd, data_bytes, framing);
        prop_assert_eq!(received, Pdu::CapsuleCmd(command));

        let cqe = Cqe { result, ..Cqe::new(CommandId(status), status, Status::from_wire(status)) };
        let response = CapsuleResp { cqe };
        let len = response.encode(&framing, &mut out);
        prop_assert_eq!(receive(&out[..len], PduType::CapsuleResp, 0, framing), Pdu::CapsuleResp(response));
    }

    #[test]
    fn data_pdus(framing in framing(), ids: [u16; 2], datao: u32, datal in 0u32..1 << 30, end in 0..3usize) {
        let end = [DataEnd::More, DataEnd::Last, DataEnd::LastWithSuccess][end];
        let pdu = DataPdu { cccid: CommandId(ids[0]), ttag: TransferTag(ids[1]), datao, datal, end };
        let mut out = [0xA5; MAX_HEADER_BYTES];
        let len = pdu.encode_c2h(&framing, &mut out);
        let expected = DataPdu { ttag: TransferTag(0), ..pdu };
        prop_assert_eq!(receive(&out[..len], PduType::C2hData, datal, framing), Pdu::C2hData(expected));
        let len = pdu.encode_h2c(&framing, &mut out);
        let expected = DataPdu { end: if end.is_last() { DataEnd::Last } else { DataEnd::More }, ..pdu };
        prop_assert_eq!(receive(&out[..len], PduType::H2cData, datal, framing), Pdu::H2cData(expected));

        let r2t = R2t { cccid: CommandId(ids[0]), ttag: TransferTag(ids[1]), r2to: datao, r2tl: datal + 1 };
        let len = r2t.encode(&framing, &mut out);
        prop_assert_eq!(receive(&out[..len], PduType::R2t, 0, framing), Pdu::R2t(r2t));
    }

    #[test]
    fn initialisation(framing in framing(), maxr2t in 1u32.., dwords in 1024u32..1 << 30) {
        let request = IcReq { pfv: 0, hpda: framing.alignment, digests: framing.digests, maxr2t };
        let mut out = [0xA5; MAX_HEADER_BYTES];
        let len = request.encode(&mut out);
        let before = PduRules::initial(Role::Controller).framing;
        prop_assert_eq!(receive(&out[..len], PduType::IcReq, 0, before), Pdu::IcReq(request));
        let response =
            IcResp { pfv: 0, cpda: framing.alignment, digests: framing.digests, maxh2cdata: dwords * 4 };
        let len = response.encode(&mut out);
        prop_assert_eq!(receive(&out[..len], PduType::IcResp, 0, before), Pdu::IcResp(response));
    }

    #[test]
    fn a_changed_header_never_passes_its_digest(byte in 0usize..28, bit in 0u8..8, cccid: u16, r2to: u32) {
        let framing = Framing { digests: Digests::BOTH, alignment: DataAlignment::NONE };
        let r2t = R2t { cccid: CommandId(cccid), ttag: TransferTag(1), r2to, r2tl: 4096 };
        let mut out = [0; MAX_HEADER_BYTES];
        let len = r2t.encode(&framing, &mut out);
        prop_assert_eq!(len, 28);
        out[byte] ^= 1 << bit;
        let layout = PduLayout::to_send(PduType::R2t, 0, &framing);
        let refused = layout.check_header_digest(&out).unwrap_err();
        prop_assert_eq!(refused.fes(), FatalErrorStatus::HeaderDigestError);
        prop_assert_eq!(refused.fei(), u32::from_le_bytes(*out[24..].first_chunk().unwrap()));
    }

    #[test]
    fn any_common_header_is_taken_apart_without_panic(bytes: [u8; 8], framing in framing(), host: bool, limit: u32) {
        let receiver = if host { Role::Host } else { Role::Controller };
        let rules = PduRules { receiver, framing, max_capsule_data_bytes: limit, max_data_bytes: limit };
        match CommonHeader::decode(&bytes, &rules) {
            Ok(common) => {
                let layout = common.layout();
                // Saturated only at lengths that no limit of use allows.
                prop_assert_eq!(u64::from(layout.total_bytes()), u64::from(common.plen));
                prop_assert!(layout.data_bytes <= limit.max(TERM_REQ_MAX_DATA_LEN as u32));
                prop_assert!(layout.data_offset() <= MAX_HEADER_BYTES);
            }
            Err(error) => { prop_assert!(!error.to_string().is_empty()); }
        }
    }

    #[test]
    fn fabrics_commands(qid: u16, sq_entries in 2u32..=65536, flags: [bool; 2], kato_ms: u32, value: u64, offset: u32) {
        let connect = Connect {
            qid: QueueId(qid), sq_entries,
            disable_sq_flow_control: flags[0], individual_io_queue_deletion: flags[1], kato_ms,
        };
        prop_assert_eq!(Connect::decode(&connect.sqe(CommandId(1))), Ok(connect));
        let get = PropertyGet { size: PropertySize::Eight, offset };
        prop_assert_eq!(PropertyGet::decode(&get.sqe(CommandId(1))), Ok(get));
        let set = PropertySet { size: PropertySize::Eight, offset, value };
        prop_assert_eq!(PropertySet::decode(&set.sqe(CommandId(1))), Ok(set));
        let set = PropertySet { size: PropertySize::Four, offset, value: value & 0xFFFF_FFFF };
        prop_assert_eq!(PropertySet::decode(&set.sqe(CommandId(1))), Ok(set));
        let accepted = ConnectResult {
            cntlid: ControllerId(qid), authentication_required: flags[0], secure_channel_required: flags[1],
        };
        prop_assert_eq!(ConnectResult::from_result(accepted.to_result()), accepted);
        let refused = ConnectInvalid { offset: qid, in_data: flags[0] };
        prop_assert_eq!(ConnectInvalid::from_result(refused.to_result()), refused);
    }

    #[test]
    fn connect_data(hostid: [u8; 16], cntlid: u16, subnqn in nqn(), hostnqn in nqn()) {
        let data = ConnectData { hostid: HostId(hostid), cntlid: ControllerId(cntlid), subnqn, hostnqn };
        let mut bytes = [0xA5; 1024];
        data.encode(&mut bytes);
        prop_assert_eq!(ConnectData::decode(&bytes), Ok(data));
        prop_assert!(ConnectData::decode(&bytes[..1023]).is_err());
    }

    #[test]
    fn io_commands(nsid: u32, slba: u64, blocks in 1u32..=65536, flags: [bool; 2], sgl in sgl(), range: [u32; 3]) {
        let (nsid, slba, blocks) = (Nsid(nsid), Lba(slba), BlockCount(blocks));
        let read = ReadWrite { nsid, slba, blocks, fua: flags[0], limited_retry: flags[1] };
        let sqe = read.sqe(NvmOpcode::Read, CommandId(7), sgl);
        prop_assert_eq!((sqe.opcode(), sqe.cid(), sqe.uses_sgl()), (2, CommandId(7), true));
        prop_assert_eq!(sqe.sgl(), Ok(sgl));
        prop_assert_eq!(ReadWrite::decode(&sqe), read);
        let zeroes = WriteZeroes { nsid, slba, blocks, deallocate: flags[0], fua: flags[1] };
        prop_assert_eq!(WriteZeroes::decode(&zeroes.sqe(CommandId(7))), zeroes);

        let ranges = 1 + range[0] % 256;
        let dsm = DatasetManagement {
            nsid, ranges, deallocate: flags[0], integral_write: flags[1], integral_read: flags[0],
        };
        prop_assert_eq!(DatasetManagement::decode(&dsm.sqe(CommandId(7), sgl)), dsm);
        let one = DsmRange { context: range[1], blocks: BlockCount(range[2]), slba };
        let data = one.encode().repeat(ranges as usize);
        prop_assert!(dsm.ranges_in(&data).unwrap().eq(std::iter::repeat_n(one, ranges as usize)));
        prop_assert!(dsm.ranges_in(&data[1..]).is_err());
    }

    #[test]
    fn admin_commands(nsid: u32, small: [u8; 4], cntid: u16, dwords: [u32; 2], offset: u64, flag: bool) {
        let nsid = Nsid(nsid);
        if let Some(cns) = Cns::from_u8(small[0]) {
            let identify = Identify { nsid, cns, cntid: ControllerId(cntid), csi: small[1] };
            prop_assert_eq!(Identify::decode(&identify.sqe(CommandId(1))), Ok(identify));
        }
        let log = GetLogPage {
            nsid, lid: small[0], lsp: small[1] & 0x7F, rae: flag, length_bytes: (u64::from(dwords[0]) + 1) * 4,
            offset: offset & !3, index_offset: flag, lsi: cntid, csi: small[2],
        };
        prop_assert_eq!(GetLogPage::decode(&log.sqe(CommandId(1))), Ok(log));
        let select = [
            FeatureSelect::Current, FeatureSelect::Default, FeatureSelect::Saved, FeatureSelect::Supported,
        ][usize::from(small[3] % 4)];
        let get = GetFeatures { nsid, fid: small[0], select, cdw11: dwords[0] };
        prop_assert_eq!(GetFeatures::decode(&get.sqe(CommandId(1))), Ok(get));
        let set = SetFeatures { nsid, fid: small[0], save: flag, cdw11: dwords[0], cdw12: dwords[1] };
        prop_assert_eq!(SetFeatures::decode(&set.sqe(CommandId(1))), set);
        let abort = Abort { sqid: QueueId(cntid), cid: CommandId(cntid ^ 0x5555) };
        prop_assert_eq!(Abort::decode(&abort.sqe(CommandId(1))), abort);
        let queues = NumberOfQueues { submission: u32::from(cntid).max(1), completion: u32::from(small[0]).max(1) };
        prop_assert_eq!(NumberOfQueues::from_dword(queues.to_dword()), queues);
        let event = AsyncEvent::from_dword(dwords[0] & 0x00FF_FF07);
        prop_assert_eq!(event.to_dword(), dwords[0] & 0x00FF_FF07);
    }

    #[test]
    fn any_command_is_decoded_without_panic(bytes in vec(any::<u8>(), 64)) {
        let sqe = Sqe::from_bytes(bytes.try_into().unwrap());
        let _ = (sqe.sgl(), sqe.fuse(), sqe.uses_sgl(), format!("{sqe:?}"));
        let _ = (Connect::decode(&sqe), PropertyGet::decode(&sqe), PropertySet::decode(&sqe));
        let _ = (Identify::decode(&sqe), GetLogPage::decode(&sqe), GetFeatures::decode(&sqe));
        prop_assert!((1..=65536).contains(&ReadWrite::decode(&sqe).blocks.0));
        prop_assert!((1..=256).contains(&DatasetManagement::decode(&sqe).ranges));
    }

    #[test]
    fn any_page_is_decoded_and_what_is_kept_stays(seed in vec(any::<u8>(), 512), zeros: bool) {
        // Bytes that repeat, or that are zero after the first 512: both reach every field.
        let mut page = seed.repeat(8);
        if zeros { page[512..].fill(0); }
        let mut out = [0; 4096];

        let controller = IdentifyController::decode(&page).unwrap();
        controller.encode(&mut out);
        prop_assert_eq!(IdentifyController::decode(&out).unwrap(), controller);
        let namespace = IdentifyNamespace::decode(&page).unwrap();
        namespace.encode(&mut out);
        prop_assert_eq!(IdentifyNamespace::decode(&out).unwrap(), namespace);
        let independent = NamespaceIndependent::decode(&page).unwrap();
        independent.encode(&mut out);
        prop_assert_eq!(NamespaceIndependent::decode(&out).unwrap(), independent);
        let of_set = NvmIdentifyController::decode(&page).unwrap();
        of_set.encode(&mut out);
        prop_assert_eq!(NvmIdentifyController::decode(&out).unwrap(), of_set);
        let of_set = NvmIdentifyNamespace::decode(&page).unwrap();
        of_set.encode(&mut out);
        prop_assert_eq!(NvmIdentifyNamespace::decode(&out).unwrap(), of_set);
        let effects = CommandEffects::decode(&page).unwrap();
        effects.encode(&mut out);
        prop_assert_eq!(CommandEffects::decode(&out).unwrap(), effects);
        if let Ok(ids) = NamespaceIds::decode(&page) {
            ids.encode(&mut out);
            prop_assert_eq!(NamespaceIds::decode(&out).unwrap(), ids);
        }
        let nsids: Vec<Nsid> = nsid_list(&page).unwrap().collect();
        prop_assert_eq!(encode_nsid_list(nsids.iter().copied(), &mut out), nsids.len());
        prop_assert!(nsid_list(&out).unwrap().eq(nsids));

        let mut short = [0; 512];
        let smart = SmartHealth::decode(&page).unwrap();
        smart.encode(&mut short);
        prop_assert_eq!(SmartHealth::decode(&short).unwrap(), smart);
        let firmware = FirmwareSlots::decode(&page).unwrap();
        firmware.encode(&mut short);
        prop_assert_eq!(FirmwareSlots::decode(&short).unwrap(), firmware);
        let mut entry = [0; 64];
        let error = ErrorEntry::decode(&page).unwrap();
        error.encode(&mut entry);
        prop_assert_eq!(ErrorEntry::decode(&entry).unwrap(), error);
        let mut kilobyte = [0; 1024];
        if let Ok(entry) = DiscoveryEntry::decode(&page) {
            entry.encode(&mut kilobyte);
            prop_assert_eq!(DiscoveryEntry::decode(&kilobyte).unwrap(), entry);
        }
        prop_assert!(AnaGroupReader::new(&page).unwrap().count() <= 65535);
    }

    #[test]
    fn identify_controller(
        texts in (text(20), text(40), text(8)), subnqn in nqn(), mdts: u8, cntlid: u16, ioccsz: u32,
    ) {
        let (sn, mn, fr) = texts;
        let controller = IdentifyController {
            sn, mn, fr, subnqn: Some(subnqn), mdts, cntlid: ControllerId(cntlid), ioccsz_16bytes: ioccsz,
            ..Default::default()
        };
        let mut page = [0xA5; 4096];
        controller.encode(&mut page);
        prop_assert_eq!(IdentifyController::decode(&page), Ok(controller.clone()));
        prop_assert!(IdentifyController::decode(&page[1..]).is_err());
        let _ = (controller.max_transfer_bytes(4096), controller.max_in_capsule_bytes());
    }

    #[test]
    fn namespace_ids(eui64: Option<[u8; 8]>, nguid: Option<[u8; 16]>, uuid: Option<[u8; 16]>, csi: Option<u8>) {
        let ids = NamespaceIds { eui64, nguid, uuid, csi };
        let mut page = [0xA5; 4096];
        ids.encode(&mut page);
        prop_assert_eq!(NamespaceIds::decode(&page), Ok(ids));
    }

    #[test]
    fn ana_pages(
        change_count: u64,
        groups in vec((any::<u32>(), any::<u64>(), 0u8..=15, vec(any::<u32>(), 0..20)), 0..8),
    ) {
        let groups: Vec<AnaGroup> = groups
            .into_iter()
            .map(|(id, change_count, state, nsids)| {
                let mut state_page = [0; 48];
                state_page[8] = 1; // one group
                state_page[32] = state;
                let state = AnaGroupReader::new(&state_page).unwrap().next().unwrap().unwrap().state;
                AnaGroup { id, change_count, state, nsids: nsids.into_iter().map(Nsid).collect() }
            })
            .collect();
        let mut page = vec![0xA5; 4096];
        let len = encode_ana(change_count, &groups, &mut page).unwrap();
        let header = AnaHeader { change_count, groups: groups.len() as u16 };
        prop_assert_eq!(AnaHeader::decode(&page), Ok(header));
        let read: Result<Vec<AnaGroup>, _> = AnaGroupReader::new(&page[..len]).unwrap().collect();
        prop_assert_eq!(read, Ok(groups.clone()));
        if !groups.is_empty() {
            let cut: Result<Vec<AnaGroup>, _> = AnaGroupReader::new(&page[..len - 1]).unwrap().collect();
            prop_assert!(cut.is_err());
        }
        prop_assert!(encode_ana(change_count, &groups, &mut page[..len - 1]).is_err());
    }

    #[test]
    fn transport_ids(address: IpAddr, trsvcid: u16, rdma: bool, subnqn in proptest::option::of(nqn())) {
        let trtype = if rdma { TrType::Rdma } else { TrType::Tcp };
        let trid = TransportId { trtype, traddr: address, trsvcid, subnqn };
        prop_assert_eq!(trid.to_string().parse(), Ok(trid.clone()));
        let fields = trid.fields();
        let fields = fields.iter().map(|(key, value)| (*key, value.as_str()));
        prop_assert_eq!(TransportId::from_fields(fields), Ok(trid));
    }

    #[test]
    fn discovery_entries(address: IpAddr, trsvcid: u16, subnqn in nqn(), portid: u16) {
        let at = TransportId { trtype: TrType::Tcp, traddr: address, trsvcid, subnqn: None };
        let entry = DiscoveryEntry::nvm(&at, subnqn.clone(), portid, 32);
        let mut page = [0xA5; 1024];
        entry.encode(&mut page);
        let read = DiscoveryEntry::decode(&page).unwrap();
        prop_assert_eq!(read.transport_id(), Ok(at.with_subnqn(subnqn)));
        prop_assert_eq!(read, entry);
    }

    #[test]
    fn any_text_is_parsed_without_panic(text: String, words in vec("(tr|ad|sub)[a-z]{0,6}=[^ ]{0,8}", 0..6)) {
        let _ = text.parse::<TransportId>();
        let _ = words.join(" ").parse::<TransportId>();
        if let Ok(nqn) = Nqn::new(text.as_str()) {
            prop_assert_eq!(nqn.as_str(), text);
        }
    }

    #[test]
    fn any_field_is_read_as_a_name_or_refused(bytes in vec(any::<u8>(), 256)) {
        let field: [u8; 256] = bytes.try_into().unwrap();
        if let Ok(nqn) = Nqn::from_wire(&field) {
            prop_assert!(field.starts_with(nqn.as_str().as_bytes()));
            prop_assert_eq!(Nqn::from_wire(&nqn.to_wire()), Ok(nqn));
        }
    }
}
