//! PDUs that break the rules: the host is told which rule, its connection ends, and the target serves everyone else.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::Running;
use common::host::Host;
use nvferry_wire::pdu::{
    CapsuleCmd, DataAlignment, DataEnd, DataPdu, Digests, FatalErrorStatus, IcReq, MAX_HEADER_BYTES, Pdu, PduField,
    PduRules, R2t, Role, TermReq,
};
use nvferry_wire::{SglDescriptor, TransferTag};
use std::io::{Read, Write};
use std::net::TcpStream;

const MIB: u32 = 1 << 20;

/// What the controller says when it ends a connection, and that it then really ends.
fn ending(host: &mut Host<TcpStream>) -> TermReq {
    let Some(Pdu::C2hTermReq(reason)) = host.receive().map(|received| received.pdu) else {
        panic!("the host is told why its connection ends");
    };
    // The host closes its side, as it has to, and the controller its own.
    host.io.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(host.io.read(&mut [0]).unwrap_or(0), 0);
    reason
}

fn invalid(field: PduField) -> TermReq {
    TermReq { fes: FatalErrorStatus::InvalidHeaderField, fei: field.0.into() }
}

fn sequence() -> TermReq {
    TermReq { fes: FatalErrorStatus::PduSequenceError, fei: 0 }
}

/// A command capsule as it should be, to be spoilt.
fn capsule(host: &mut Host<TcpStream>) -> Vec<u8> {
    let sqe = host.read_sqe(1, 0, 1, 512);
    let mut out = [0; MAX_HEADER_BYTES];
    let len = CapsuleCmd { sqe, data_bytes: 0 }.encode(&host.framing, &mut out);
    out[..len].to_vec()
}

#[test]
fn p14_each_broken_header_is_told_by_its_field() {
    let running = Running::with_file(MIB as usize);
    let (mut admin, mut bystander) = running.queues();
    let cntlid = nvferry_target::TargetDriver::status(&*running.target).controllers.unwrap()[0].cntlid;
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(&str, Spoil, TermReq); 10] = [
        ("an unknown type", |pdu| pdu[0] = 0x44, invalid(PduField::PDU_TYPE)),
        ("a type that only controllers send", |pdu| pdu[0] = 0x05, sequence()),
        ("ICReq in the middle", |pdu| *pdu = icreq(0), sequence()),
        ("a wrong header length", |pdu| pdu[2] = 73, invalid(PduField::HLEN)),
        ("a digest that was not agreed on", |pdu| pdu[1] = 1, invalid(PduField::FLAGS)),
        ("a PDU shorter than its header", |pdu| pdu[3..8].copy_from_slice(&[72, 71, 0, 0, 0]), invalid(PduField::PLEN)),
        ("a PDU of 4 GiB", |pdu| pdu[3..8].copy_from_slice(&[72, 255, 255, 255, 255]), invalid(PduField::PLEN)),
        (
            "more data than a capsule may bring",
            |pdu| {
                pdu[3] = 72;
                pdu[4..8].copy_from_slice(&(72 + 65537_u32).to_le_bytes());
            },
            invalid(PduField::PLEN),
        ),
        (
            "data that begins inside the header",
            |pdu| {
                pdu[3] = 8;
                pdu[4..8].copy_from_slice(&(72 + 512_u32).to_le_bytes());
            },
            invalid(PduField::PDO),
        ),
        ("data that nobody asked for", |pdu| *pdu = h2c(7, 512), invalid(PduField::TTAG)),
    ];
    for (at, (what, spoil, expected)) in cases.into_iter().enumerate() {
        let mut host = Host::plain(running.tcp());
        host.connect_io(cntlid, 10 + at as u16, 16, true);
        let mut pdu = capsule(&mut host);
        spoil(&mut pdu);
        host.send_raw(&pdu).unwrap();
        assert_eq!(ending(&mut host), expected, "{what}");
        assert!(bystander.read(1, 0, 1, 512).is_ok(), "{what}: others are served");
    }
    assert!(admin.csts().ready());
    running.stop();
}

fn icreq(pfv: u16) -> Vec<u8> {
    let mut out = [0; MAX_HEADER_BYTES];
    let len = IcReq { pfv, hpda: DataAlignment::NONE, digests: Digests::NONE, maxr2t: 1 }.encode(&mut out);
    out[..len].to_vec()
}

fn h2c(ttag: u16, len: u32) -> Vec<u8> {
    let pdu = DataPdu {
        cccid: nvferry_wire::CommandId(1),
        ttag: TransferTag(ttag),
        datao: 0,
        datal: len,
        end: DataEnd::Last,
    };
    let mut out = [0; MAX_HEADER_BYTES];
    let header = pdu.encode_h2c(&Default::default(), &mut out);
    let mut bytes = out[..header].to_vec();
    bytes.resize(header + len as usize, 0xCC);
    bytes
}

/// A connection on which nothing has been said, read as a host would.
fn silent(running: &Running) -> Host<TcpStream> {
    Host {
        io: running.tcp(),
        rules: PduRules::initial(Role::Host),
        framing: Default::default(),
        icresp: nvferry_wire::pdu::IcResp {
            pfv: 0,
            cpda: DataAlignment::NONE,
            digests: Digests::NONE,
            maxh2cdata: 4096,
        },
        next_cid: 0,
        no_flow_control: false,
        corrupt_next_data: false,
    }
}

#[test]
fn p14_a_connection_begins_with_icreq_and_nothing_else() {
    let running = Running::with_file(MIB as usize);
    let (mut admin, _io) = running.queues();
    let mut host = silent(&running);
    let pdu = capsule(&mut host);
    host.send_raw(&pdu).unwrap();
    assert_eq!(ending(&mut host), sequence(), "a command");
    let mut host = silent(&running);
    host.send_raw(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n").unwrap();
    assert_eq!(ending(&mut host), invalid(PduField::PDU_TYPE), "another protocol");
    let mut host = silent(&running);
    host.send_raw(&icreq(1)).unwrap();
    let unsupported = TermReq { fes: FatalErrorStatus::UnsupportedParameter, fei: PduField::PFV.0.into() };
    assert_eq!(ending(&mut host), unsupported, "another version");
    // One that says goodbye itself is let go without a word.
    let mut host = Host::plain(running.tcp());
    let mut out = [0; nvferry_wire::pdu::TERM_REQ_MAX_LEN];
    let len = sequence().encode(Role::Host, &[0; 24], &mut out);
    host.send_raw(&out[..len]).unwrap();
    assert!(host.receive().is_none());
    assert!(admin.csts().ready());
    running.stop();
}

#[test]
fn p14_nonsense_in_icreq_is_told_by_its_field() {
    let running = Running::with_file(MIB as usize);
    let (mut admin, _io) = running.queues();
    let version = TermReq { fes: FatalErrorStatus::UnsupportedParameter, fei: PduField::PFV.0.into() };
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(&str, Spoil, TermReq); 8] = [
        ("another version", |pdu| pdu[9] = 0x80, version),
        ("an alignment that there is not", |pdu| pdu[10] = 32, invalid(PduField::PDA)),
        ("an alignment far beyond", |pdu| pdu[10] = 0xFF, invalid(PduField::PDA)),
        ("a header of another length", |pdu| pdu[2] = 127, invalid(PduField::HLEN)),
        ("more than its header", |pdu| pdu[4] = 129, invalid(PduField::PLEN)),
        ("less than its header", |pdu| pdu[4] = 127, invalid(PduField::PLEN)),
        ("a length of four GiB", |pdu| pdu[4..8].fill(0xFF), invalid(PduField::PLEN)),
        ("a digest before one was agreed on", |pdu| pdu[1] = 1, invalid(PduField::FLAGS)),
    ];
    for (what, spoil, expected) in cases {
        let mut host = silent(&running);
        let mut pdu = icreq(0);
        spoil(&mut pdu);
        host.send_raw(&pdu).unwrap();
        assert_eq!(ending(&mut host), expected, "{what}");
    }
    // Reserved bits, and any number of R2Ts at once, are no reason to refuse.
    let mut host = silent(&running);
    let mut pdu = icreq(0);
    pdu[11] = 0xFC;
    pdu[12..].fill(0xFF);
    host.send_raw(&pdu).unwrap();
    let Some(Pdu::IcResp(response)) = host.receive().map(|received| received.pdu) else { panic!("ICResp") };
    assert_eq!(response.digests, Digests::NONE);
    assert!(admin.csts().ready());
    running.stop();
}

/// Begins a write of a mebibyte and returns what the controller asks for.
fn asked(host: &mut Host<TcpStream>) -> R2t {
    let mut sqe = host.write_sqe(1, 0, MIB / 512);
    sqe.set_sgl(SglDescriptor::Transport { length: MIB });
    host.send_command(&sqe, &[]);
    let Some(Pdu::R2t(r2t)) = host.receive().map(|received| received.pdu) else { panic!("an R2T") };
    assert_eq!((r2t.cccid, r2t.r2to, r2t.r2tl), (sqe.cid(), 0, MIB), "the whole transfer is asked for at once");
    r2t
}

#[test]
fn p14_data_that_does_not_answer_its_r2t_ends_the_connection() {
    let running = Running::with_file(MIB as usize);
    let (_admin, mut bystander) = running.queues();
    let cntlid = nvferry_target::TargetDriver::status(&*running.target).controllers.unwrap()[0].cntlid;
    let before = bystander.read(1, 0, MIB / 512, 512).unwrap();
    type Spoil = fn(&mut DataPdu);
    let out_of_range = TermReq { fes: FatalErrorStatus::DataOutOfRange, fei: PduField::LENGTH.0.into() };
    let cases: [(&str, Spoil, TermReq); 7] = [
        ("another transfer tag", |pdu| pdu.ttag.0 += 1, invalid(PduField::TTAG)),
        ("another command", |pdu| pdu.cccid.0 += 1, invalid(PduField::CCCID)),
        ("not from the start", |pdu| pdu.datao = 512, invalid(PduField::OFFSET)),
        ("an offset beyond everything", |pdu| pdu.datao = u32::MAX - 511, invalid(PduField::OFFSET)),
        ("the last part, and something is missing", |pdu| pdu.end = DataEnd::Last, invalid(PduField::LENGTH)),
        ("a part of no bytes", |pdu| pdu.datal = 0, invalid(PduField::LENGTH)),
        ("a second part that is too long", |pdu| pdu.datal = 0x5A5A, out_of_range),
    ];
    for (at, (what, spoil, expected)) in cases.into_iter().enumerate() {
        let mut host = Host::plain(running.tcp());
        host.connect_io(cntlid, 10 + at as u16, 16, true);
        let r2t = asked(&mut host);
        let mut pdu = DataPdu { cccid: r2t.cccid, ttag: r2t.ttag, datao: 0, datal: 512, end: DataEnd::More };
        spoil(&mut pdu);
        if pdu.datal == 0x5A5A {
            // All but one block first; then two.
            let first = DataPdu { datal: MIB - 512, ..pdu };
            host.send_h2c(&first, &vec![0xAA; MIB as usize - 512]);
            pdu = DataPdu { datao: MIB - 512, datal: 1024, end: DataEnd::Last, ..pdu };
        }
        host.send_h2c(&pdu, &vec![0xAA; pdu.datal as usize]);
        assert_eq!(ending(&mut host), expected, "{what}");
    }
    assert!(bystander.read(1, 0, MIB / 512, 512).unwrap() == before, "nothing was written");
    // Answered twice: the tag is used up.
    let mut host = Host::plain(running.tcp());
    host.connect_io(cntlid, 30, 16, true);
    let r2t = asked(&mut host);
    host.answer(&r2t, &before, usize::MAX);
    assert!(host.finish(r2t.cccid, &[], 0).status().is_success());
    host.answer(&r2t, &before, usize::MAX);
    assert_eq!(ending(&mut host), invalid(PduField::TTAG));
    running.stop();
}

#[test]
fn p14_bytes_after_the_end_are_not_looked_at() {
    let running = Running::with_file(MIB as usize);
    let (mut admin, mut io) = running.queues();
    io.send_raw(&[0x44; 8]).unwrap();
    // As much as it likes: nothing of it is kept.
    for _ in 0..64 {
        if io.io.write_all(&[0x04; 65536]).is_err() {
            break;
        }
    }
    drop(io);
    assert!(admin.csts().ready());
    running.stop();
}
