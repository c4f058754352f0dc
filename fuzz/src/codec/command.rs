//! Commands and completions of arbitrary bytes: decoded without panic, and what was decoded is encoded to the same.

use nvferry_wire::admin::{Abort, AdminOpcode, GetFeatures, GetLogPage, Identify, SetFeatures};
use nvferry_wire::async_event::AsyncEvent;
use nvferry_wire::fabrics::*;
use nvferry_wire::nvm::{DatasetManagement, NvmOpcode, ReadWrite, WriteZeroes};
use nvferry_wire::{CommandId, Cqe, SglDescriptor, Sqe};

/// One input.
pub(crate) fn run(input: &[u8]) {
    let Some((command, data)) = input.split_first_chunk::<64>() else { return };
    let sqe = Sqe::from_bytes(*command);
    assert!(!format!("{sqe:?}").is_empty());
    match sqe.sgl() {
        Ok(sgl) => {
            assert_eq!(SglDescriptor::decode(&sgl.encode()), Ok(sgl));
            if let Ok(range) = sgl.in_capsule_range(data.len() as u32) {
                assert_eq!(data[range].len(), sgl.length_bytes() as usize);
            }
        }
        Err(error) => assert!(!error.status().is_success()),
    }

    fabrics(&sqe, data);
    admin(&sqe);
    io(&sqe, data);

    if let Some(entry) = command.first_chunk() {
        let cqe = Cqe::decode(entry);
        assert_eq!(Cqe::decode(&cqe.encode()), cqe);
        assert!(!cqe.status.to_string().is_empty());
        let _ = (cqe.status.retry(), cqe.status.for_fabrics());
        let event = AsyncEvent::from_dword(cqe.dw0());
        assert_eq!(AsyncEvent::from_dword(event.to_dword()), event);
        let accepted = ConnectResult::from_result(cqe.result);
        assert_eq!(ConnectResult::from_result(accepted.to_result()), accepted);
        let refused = ConnectInvalid::from_result(cqe.result);
        assert_eq!(ConnectInvalid::from_result(refused.to_result()), refused);
    }
}

fn fabrics(sqe: &Sqe, data: &[u8]) {
    let cid = CommandId(1);
    let Ok(fctype) = FabricsType::of(sqe) else { return };
    match fctype {
        FabricsType::Connect => {
            if let Ok(connect) = Connect::decode(sqe) {
                assert_eq!(Connect::decode(&connect.sqe(cid)), Ok(connect));
            }
            if let Ok(connect) = ConnectData::decode(data) {
                let mut out = [0xA5; CONNECT_DATA_LEN];
                connect.encode(&mut out);
                assert_eq!(ConnectData::decode(&out), Ok(connect));
            }
        }
        FabricsType::PropertyGet => {
            if let Ok(get) = PropertyGet::decode(sqe) {
                assert_eq!(PropertyGet::decode(&get.sqe(cid)), Ok(get));
            }
        }
        FabricsType::PropertySet => {
            if let Ok(set) = PropertySet::decode(sqe) {
                assert_eq!(PropertySet::decode(&set.sqe(cid)), Ok(set));
                let cc = Cc(set.value as u32);
                assert_eq!(cc.with_shn(cc.shn()).with_enable(cc.enable()), cc);
                let cap = Cap(set.value);
                let _ = (cc.page_bytes(), cap.min_page_bytes(), cap.ready_timeout_ms(), Csts(cc.0).shst());
            }
        }
        FabricsType::Disconnect => drop(Disconnect::decode(sqe)),
        FabricsType::AuthSend | FabricsType::AuthReceive => {}
    }
}

fn admin(sqe: &Sqe) {
    let cid = CommandId(1);
    match AdminOpcode::from_u8(sqe.opcode()) {
        Some(AdminOpcode::Identify) => {
            if let Ok(identify) = Identify::decode(sqe) {
                assert_eq!(Identify::decode(&identify.sqe(cid)), Ok(identify));
            }
        }
        Some(AdminOpcode::GetLogPage) => {
            if let Ok(log) = GetLogPage::decode(sqe) {
                assert_eq!(GetLogPage::decode(&log.sqe(cid)), Ok(log));
            }
        }
        Some(AdminOpcode::GetFeatures) => {
            if let Ok(get) = GetFeatures::decode(sqe) {
                assert_eq!(GetFeatures::decode(&get.sqe(cid)), Ok(get));
            }
        }
        Some(AdminOpcode::SetFeatures) => {
            let set = SetFeatures::decode(sqe);
            assert_eq!(SetFeatures::decode(&set.sqe(cid)), set);
        }
        Some(AdminOpcode::Abort) => {
            let abort = Abort::decode(sqe);
            assert_eq!(Abort::decode(&abort.sqe(cid)), abort);
        }
        _ => {}
    }
}

fn io(sqe: &Sqe, data: &[u8]) {
    let (cid, sgl) = (CommandId(1), SglDescriptor::Transport { length: 0 });
    match NvmOpcode::from_u8(sqe.opcode()) {
        Some(opcode @ (NvmOpcode::Read | NvmOpcode::Write | NvmOpcode::Compare)) => {
            let command = ReadWrite::decode(sqe);
            assert_eq!(ReadWrite::decode(&command.sqe(opcode, cid, sgl)), command);
            assert!(command.data_bytes(u32::MAX) >= u64::from(u32::MAX));
        }
        Some(NvmOpcode::WriteZeroes) => {
            let command = WriteZeroes::decode(sqe);
            assert_eq!(WriteZeroes::decode(&command.sqe(cid)), command);
        }
        Some(NvmOpcode::DatasetManagement) => {
            let command = DatasetManagement::decode(sqe);
            assert_eq!(DatasetManagement::decode(&command.sqe(cid, sgl)), command);
            if let Ok(ranges) = command.ranges_in(data) {
                assert_eq!(ranges.count(), command.ranges as usize);
            }
        }
        _ => {}
    }
}
