//! Digests: what was changed on its way is found.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::{Host, Way};
use common::{Running, pattern};
use nvferry_target::TargetDriver;
use nvferry_wire::digest::crc32c;
use nvferry_wire::pdu::{CapsuleCmd, DataAlignment, Digests, FatalErrorStatus, MAX_HEADER_BYTES, Pdu};
use nvferry_wire::{Status, StatusCode};
use std::net::TcpStream;

const MIB: usize = 1 << 20;

fn queues(running: &Running, digests: Digests) -> (Host<TcpStream>, Host<TcpStream>) {
    let (admin, cntlid) = running.admin();
    let mut io = Host::open(running.tcp(), digests, DataAlignment::NONE);
    io.connect_io(cntlid, 1, 128, true);
    (admin, io)
}

#[test]
fn p15_data_that_was_changed_on_its_way_is_not_written() {
    let running = Running::with_file(MIB);
    for digests in [Digests { header: false, data: true }, Digests::BOTH] {
        let (_admin, mut io) = queues(&running, digests);
        let original = io.read(1, 0, 2048, 512).unwrap();
        for (bytes, way) in [
            (512, Way::InCapsule),
            (16384, Way::InCapsule),
            (4096, Way::Asked(usize::MAX)),
            (MIB, Way::Asked(usize::MAX)),
            // Wrong in the first of many parts: the others still have to pass.
            (65536, Way::Asked(1000)),
        ] {
            io.corrupt_next_data = true;
            let status = io.write(1, 0, &vec![0xAA; bytes], 512, way);
            assert_eq!(status, Status::new(StatusCode::TransientTransportError), "{bytes} bytes, {way:?}");
            assert!(io.read(1, 0, 2048, 512).unwrap() == original, "{bytes} bytes, {way:?}");
        }
        // The connection lives, and the same write succeeds when it comes whole.
        assert!(io.write(1, 0, &original, 512, Way::Asked(usize::MAX)).is_success());
    }
    assert_eq!(running.target.status().faults.digest_errors, 10);
    running.stop();
}

#[test]
fn p15_a_header_that_was_changed_on_its_way_ends_the_connection() {
    let running = Running::with_file(MIB);
    let (mut admin, mut io) = queues(&running, Digests::BOTH);
    let mut out = [0; MAX_HEADER_BYTES];
    let sqe = io.read_sqe(1, 0, 8, 512);
    let len = CapsuleCmd { sqe, data_bytes: 0 }.encode(&io.framing, &mut out);
    // One bit of the starting block.
    out[8 + 40] ^= 4;
    io.send_raw(&out[..len]).unwrap();
    let Some(Pdu::C2hTermReq(reason)) = io.receive().map(|received| received.pdu) else {
        panic!("the host is told why");
    };
    assert_eq!(reason.fes, FatalErrorStatus::HeaderDigestError);
    assert_eq!(reason.fei, u32::from_le_bytes(out[72..76].try_into().unwrap()));
    assert_ne!(reason.fei, crc32c(&out[..72]));
    assert!(admin.csts().ready(), "other connections are not concerned");
    running.stop();
}

#[test]
fn all_digests_and_alignments_carry_the_same_data() {
    let running = Running::with_file(MIB);
    let (_admin, cntlid) = running.admin();
    let all =
        [Digests::NONE, Digests { header: true, data: false }, Digests { header: false, data: true }, Digests::BOTH];
    let mut qid = 0;
    for digests in all {
        for hpda in [0, 1, 7, 31] {
            qid += 1;
            let mut io = Host::open(running.tcp(), digests, DataAlignment::from_wire(hpda).unwrap());
            io.connect_io(cntlid, qid, 16, qid % 2 == 0);
            let small = pattern(qid.into(), 4096);
            assert!(io.write(1, 8, &small, 512, Way::InCapsule).is_success());
            let large = pattern(1000 + u64::from(qid), 200 * 512);
            assert!(io.write(1, 100, &large, 512, Way::Asked(40_000)).is_success());
            assert_eq!(io.read(1, 8, 8, 512).unwrap(), small, "{digests:?}, HPDA {hpda}");
            assert_eq!(io.read(1, 100, 200, 512).unwrap(), large, "{digests:?}, HPDA {hpda}");
        }
    }
    assert_eq!(running.target.status().faults.digest_errors, 0);
    running.stop();
}
