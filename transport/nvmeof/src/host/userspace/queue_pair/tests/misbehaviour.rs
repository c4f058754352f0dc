//! A target that breaks the protocol loses its connection, and nothing else: no slice ends wrongly, none is forgotten,
//! and all complete on the next connection (P1, P14).

use super::super::super::LinkError;
use crate::testing::rig::{Rig, memory, store};
use crate::testing::scripted::ScriptedTarget;
use nvferry_io::RegisteredMemory;
use nvferry_io::stream::Cut;
use nvferry_wire::pdu::{
    CapsuleCmd, DataEnd, DataPdu, FatalErrorStatus, Framing, MAX_HEADER_BYTES, Pdu, Role, TERM_REQ_MAX_LEN, TermReq,
};
use nvferry_wire::{CommandId, Cqe, Nsid, Sqe, StatusCode, TransferTag};

/// A rig with a read and a large write under way, and their identifiers.
struct UnderWay {
    rig: Rig,
    read: (u32, CommandId),
    write: (u32, CommandId),
    memory: RegisteredMemory,
}

const READ_BYTES: usize = 20_480;
const WRITE_BYTES: usize = 32_768;
/// Beyond what is read: the scripted target has one store for all files.
const WRITE_AT: usize = 65_536;

fn under_way() -> UnderWay {
    let mut rig = Rig::ready();
    let memory = memory(READ_BYTES);
    let read = rig.read(1, 0, &memory);
    let write = rig.write(2, WRITE_AT as u64, &RegisteredMemory::from(vec![9; WRITE_BYTES]));
    let heard = rig.hear();
    let cids: Vec<_> = heard.iter().map(|one| one.command().unwrap().cid()).collect();
    UnderWay { rig, read: (read, cids[0]), write: (write, cids[1]), memory }
}

/// The target does that; the connection ends with these words, and both requests complete on the next one.
fn breaks(words: &str, act: impl FnOnce(&mut ScriptedTarget, CommandId, CommandId)) -> LinkError {
    let UnderWay { mut rig, read, write, mut memory } = under_way();
    act(&mut rig.target, read.1, write.1);
    let error = rig.drive().expect_err(words);
    assert!(error.to_string().contains(words), "{error}");
    rig.assert_pending(read.0);
    rig.assert_pending(write.0);
    assert!(rig.queue.is_down());
    let mut store = store(1);
    rig.connect(16 << 20);
    rig.open();
    rig.serve(&mut store);
    rig.assert_completed(read.0);
    rig.assert_completed(write.0);
    assert!(*memory.bytes().unwrap() == store[..READ_BYTES]);
    assert!(store[WRITE_AT..WRITE_AT + WRITE_BYTES].iter().all(|&b| b == 9));
    error
}

fn other(cid: CommandId) -> CommandId {
    CommandId(cid.0 ^ 0x40)
}

#[test]
fn p14_a_completion_for_nothing() {
    breaks("not under way", |target, read, _| target.complete(other(read), StatusCode::Success));
    // The same slot, used before: a completion from the past.
    breaks("not under way", |target, read, _| {
        target.complete(CommandId(read.0.wrapping_sub(128)), StatusCode::Success)
    });
}

#[test]
fn p14_a_completion_twice() {
    let UnderWay { mut rig, read, write, .. } = under_way();
    rig.target.complete(write.1, StatusCode::Success);
    rig.target.complete(write.1, StatusCode::Success);
    let error = rig.drive().unwrap_err();
    assert!(error.to_string().contains("not under way"), "{error}");
    rig.assert_completed(write.0);
    rig.assert_pending(read.0);
}

#[test]
fn p14_a_completion_twice_while_data_is_leaving() {
    let mut rig = Rig::new();
    rig.connect(4096);
    rig.open();
    let request = rig.write(1, 0, &RegisteredMemory::from(vec![1; 65_536]));
    let cid = rig.hear_one().command().unwrap().cid();
    rig.target.say_r2t(cid, 1, 0, 65_536);
    rig.drive().unwrap();
    // Most of the data has not left: the command ends when it has, and cannot end again.
    rig.target.complete(cid, StatusCode::Success);
    rig.target.complete(cid, StatusCode::CapacityExceeded);
    let error = rig.drive().unwrap_err();
    assert!(error.to_string().contains("completed twice"), "{error}");
    rig.assert_pending(request);
}

#[test]
fn p14_data_pdus_without_data_are_not_taken_for_ever() {
    let error = breaks("no data came", |target, read, _| target.say_data(read, 0, &[], DataEnd::More));
    assert!(matches!(error, LinkError::Protocol { fes: FatalErrorStatus::DataOutOfRange, .. }));
    breaks("no data came", |target, read, _| target.say_data(read, 0, &[], DataEnd::Last));
    // All of the data, and then a last PDU that only says so.
    let UnderWay { mut rig, read, .. } = under_way();
    rig.target.say_data(read.1, 0, &[1; READ_BYTES], DataEnd::More);
    rig.target.say_data(read.1, READ_BYTES as u32, &[], DataEnd::LastWithSuccess);
    rig.drive().unwrap();
    rig.assert_completed(read.0);
}

/// The submission queue's head means nothing to a host without flow control, and there is no phase over fabrics.
#[test]
fn p14_a_wrong_head_or_phase_in_a_completion_means_nothing() {
    let UnderWay { mut rig, read, write, .. } = under_way();
    let mut cqe = Cqe::success(write.1, 0xBEEF, 0).encode();
    cqe[14] |= 1;
    let mut pdu = vec![5, 0, 24, 0, 24, 0, 0, 0];
    pdu.extend_from_slice(&cqe);
    rig.target.say_raw(&pdu);
    rig.drive().unwrap();
    rig.assert_completed(write.0);
    rig.assert_pending(read.0);
}

#[test]
fn p14_nonsense_in_icresp_is_told_by_its_field() {
    type Spoil = fn(&mut [u8; MAX_HEADER_BYTES]);
    let invalid = FatalErrorStatus::InvalidHeaderField;
    let cases: [(&str, Spoil, FatalErrorStatus, u32); 8] = [
        ("another version", |pdu| pdu[8] = 1, FatalErrorStatus::UnsupportedParameter, 8),
        ("an alignment that there is not", |pdu| pdu[10] = 32, invalid, 10),
        ("less data than must be taken", |pdu| pdu[12..16].copy_from_slice(&4092_u32.to_le_bytes()), invalid, 12),
        ("no data at all", |pdu| pdu[12..16].fill(0), invalid, 12),
        ("data not in dwords", |pdu| pdu[12] = 1, invalid, 12),
        ("a header of another length", |pdu| pdu[2] = 24, invalid, 2),
        ("more than its header", |pdu| pdu[4] = 0xFF, invalid, 4),
        ("a digest on what has none", |pdu| pdu[1] = 1, invalid, 1),
    ];
    for (what, spoil, fes, fei) in cases {
        let mut rig = Rig::new();
        rig.connect(1 << 20);
        rig.target.hear();
        let mut pdu = [0; MAX_HEADER_BYTES];
        let n = rig.target.grants.encode(&mut pdu);
        spoil(&mut pdu);
        rig.target.say_raw(&pdu[..n]);
        rig.drive().expect_err(what);
        let heard = rig.target.hear();
        let Some(Pdu::H2cTermReq(term)) = heard.last().map(|one| one.pdu) else { panic!("{what}: {heard:?}") };
        assert_eq!((term.fes, term.fei), (fes, fei), "{what}");
        assert!(rig.queue.is_down());
    }
}

#[test]
fn p14_before_icresp_nothing_else_may_come() {
    let mut out = [0; TERM_REQ_MAX_LEN];
    let n =
        TermReq { fes: FatalErrorStatus::UnsupportedParameter, fei: 8 }.encode(Role::Controller, &[0; 24], &mut out);
    let mut rig = Rig::new();
    rig.connect(1 << 20);
    rig.target.say_raw(&out[..n]);
    assert_eq!(rig.drive().unwrap_err(), LinkError::Terminated(FatalErrorStatus::UnsupportedParameter));
    for act in [
        (|target: &mut ScriptedTarget| target.complete(CommandId(0), StatusCode::Success)) as fn(&mut ScriptedTarget),
        |target| target.say_r2t(CommandId(0), 0, 0, 512),
        |target| target.say_data(CommandId(0), 0, &[1; 512], DataEnd::Last),
    ] {
        let mut rig = Rig::new();
        rig.connect(1 << 20);
        rig.target.hear();
        act(&mut rig.target);
        let error = rig.drive().unwrap_err();
        assert!(matches!(error, LinkError::Protocol { .. } | LinkError::NotNvmeTcp(_)), "{error:?}");
    }
}

/// A byte a second is no connection.
#[test]
fn p14_an_opening_that_comes_drop_by_drop_is_given_up() {
    let mut rig = Rig::new();
    rig.connect(1 << 20);
    rig.target.hear();
    let mut pdu = [0; MAX_HEADER_BYTES];
    let n = rig.target.grants.encode(&mut pdu);
    let mut seconds = 0;
    let error = loop {
        assert!(seconds < n as u64, "the connection was not given up");
        rig.target.say_raw(&pdu[seconds as usize..=seconds as usize]);
        seconds += 1;
        if let Err(error) = rig.pass(std::time::Duration::from_secs(1)) {
            break error;
        }
    };
    assert!(error.to_string().contains("ICReq was not answered in time") && seconds <= 5, "{error}, {seconds} s");
}

#[test]
fn p14_data_for_nothing_or_for_a_write() {
    breaks("is not under way", |target, read, _| target.say_data(other(read), 0, &[1; 512], DataEnd::Last));
    breaks("asked for none", |target, _, write| target.say_data(write, 0, &[1; 512], DataEnd::Last));
}

#[test]
fn p14_data_beyond_or_beside_what_was_asked_for() {
    let too_much = vec![1; READ_BYTES + 512];
    breaks("came for byte 0", |target, read, _| target.say_data(read, 0, &too_much, DataEnd::Last));
    breaks("came for byte 20480", |target, read, _| target.say_data(read, READ_BYTES as u32, &[1; 4], DataEnd::Last));
    breaks("came for byte 512", |target, read, _| target.say_data(read, 512, &[1; 512], DataEnd::More));
    breaks("came for byte 0", |target, read, _| {
        target.say_data(read, 0, &[1; 512], DataEnd::More);
        target.say_data(read, 0, &[1; 512], DataEnd::More);
    });
    breaks("came for byte 4294967295", |target, read, _| target.say_data(read, u32::MAX, &[1; 512], DataEnd::Last));
}

#[test]
fn p14_r2ts_that_may_not_be() {
    breaks("is not under way", |target, read, _| target.say_r2t(other(read), 1, 0, 512));
    breaks("has no data to give", |target, read, _| target.say_r2t(read, 1, 0, 512));
    breaks("R2T for 33280 bytes", |target, _, write| target.say_r2t(write, 1, 0, WRITE_BYTES as u32 + 512));
    breaks("R2T for 1024 bytes at 32256", |target, _, write| target.say_r2t(write, 1, 32_256, 1024));
    breaks("at 4294967295", |target, _, write| target.say_r2t(write, 1, u32::MAX, u32::MAX));
    breaks("must ask for at least one byte", |target, _, write| target.say_r2t(write, 1, 0, 0));
    // Two at once, where one was allowed.
    breaks("a second R2T", |target, _, write| {
        target.say_r2t(write, 1, 0, 512);
        target.say_r2t(write, 2, 512, 512);
    });
    // The same data again, after it was sent.
    let UnderWay { mut rig, write, .. } = under_way();
    rig.target.say_r2t(write.1, 1, 0, 512);
    assert_eq!(rig.hear().len(), 1);
    rig.target.say_r2t(write.1, 2, 0, 512);
    assert!(rig.drive().unwrap_err().to_string().contains("were asked for before"));
}

#[test]
fn p14_pdus_that_may_not_come() {
    let mut out = [0; MAX_HEADER_BYTES];
    let n = DataPdu { cccid: CommandId(1), ttag: TransferTag(1), datao: 0, datal: 0, end: DataEnd::Last }
        .encode_h2c(&Framing::default(), &mut out);
    breaks("cannot be sent to a Host", |target, _, _| target.say_raw(&out[..n]));
    let sqe = Sqe::new(2, CommandId(1), Nsid(1));
    let n = CapsuleCmd { sqe, data_bytes: 0 }.encode(&Framing::default(), &mut out);
    breaks("cannot be sent to a Host", |target, _, _| target.say_raw(&out[..n]));
    breaks("IcResp PDU came where none may be", |target, _, _| target.say_icresp());
    breaks("PDU type 0x47", |target, _, _| target.say_raw(b"GET / HTTP/1.1\r\n"));
    breaks("HLEN is 255", |target, _, _| target.say_raw(&[5, 0, 255, 0, 24, 0, 0, 0]));
    breaks("PLEN is 4294967295", |target, _, _| target.say_raw(&[5, 0, 24, 0, 255, 255, 255, 255]));
}

#[test]
fn p14_a_peer_that_is_no_nvme_target_is_named_so() {
    for answer in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], &[0; 200], &[0xFF; 200]] {
        let mut rig = Rig::new();
        rig.connect(1 << 20);
        rig.target.say_raw(answer);
        let error = rig.drive().unwrap_err();
        assert!(error.to_string().contains("not an NVMe/TCP target"), "{error}");
    }
}

#[test]
fn the_target_is_told_what_it_did_wrong() {
    let UnderWay { mut rig, read, .. } = under_way();
    rig.target.hear();
    rig.target.say_data(read.1, 4096, &[1; 512], DataEnd::More);
    rig.drive().unwrap_err();
    let heard = rig.target.hear();
    let Some(Pdu::H2cTermReq(term)) = heard.last().map(|one| one.pdu) else { panic!("{heard:?}") };
    assert_eq!(term.fes, FatalErrorStatus::DataOutOfRange);
}

#[test]
fn a_target_that_ends_the_connection_says_why() {
    let mut out = [0; TERM_REQ_MAX_LEN];
    let n = TermReq { fes: FatalErrorStatus::PduSequenceError, fei: 0 }.encode(Role::Controller, &[4; 72], &mut out);
    let error = breaks("PDU Sequence Error", |target, _, _| target.say_raw(&out[..n]));
    assert!(matches!(error, LinkError::Terminated(_)));
}

#[test]
fn p01_a_connection_that_closes_anywhere() {
    // In the middle of every PDU of a read's answer, at each byte.
    let mut whole = Vec::new();
    {
        let UnderWay { rig, read, .. } = under_way();
        whole.extend(rig.target.data_pdu(read.1, 0, &vec![3; 10_000], DataEnd::More));
        whole.extend(rig.target.data_pdu(read.1, 10_000, &vec![3; READ_BYTES - 10_000], DataEnd::Last));
    }
    let interesting = (0..200).chain(9_990..10_100).chain(whole.len() - 30..whole.len());
    for at in interesting {
        let error = breaks("the target closed the connection", |target, _, _| {
            target.say_raw(&whole[..at]);
            target.stream.outgoing().cut(Cut::Close);
        });
        assert_eq!(error, LinkError::Closed);
    }
    breaks("the connection broke", |target, _, _| target.stream.outgoing().cut(Cut::Reset));
}

#[test]
fn p15_success_without_all_data_is_no_success() {
    let UnderWay { mut rig, read, .. } = under_way();
    let mut cid = read.1;
    // Again and again, until the host gives up.
    for _ in 0..10 {
        rig.target.say_data(cid, 0, &[1; 512], DataEnd::Last);
        rig.target.complete(cid, StatusCode::Success);
        match rig.hear().first() {
            Some(again) => cid = again.command().unwrap().cid(),
            None => break,
        }
    }
    rig.assert_ended(read.0, nvferry_engine::TransferState::Failed, "less data than was asked for");
}
