//! The queue pair against a scripted target: streams cut and split anywhere, targets that are late, silent, wrong or
//! malicious, and a clock that only the test moves.

use crate::testing::random;
use crate::testing::rig::{BLOCKS, Rig, memory, store};
use crate::testing::scripted::BLOCK;
use nvferry_engine::{Operation, TransferState};
use nvferry_io::RegisteredMemory;
use nvferry_wire::nvm::NvmOpcode;
use nvferry_wire::pdu::{DataEnd, Digests};
use nvferry_wire::{CommandId, Status, StatusCode};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn bytes(memory: &mut RegisteredMemory) -> Vec<u8> {
    memory.bytes().expect("nothing is leased any more").to_vec()
}

#[test]
fn reads_and_writes_of_all_kinds_move_what_they_should() {
    let mut random = random("reads_and_writes_of_all_kinds_move_what_they_should");
    for (max_data, success) in [(usize::MAX, true), (4096, true), (512, false), (usize::MAX, false)] {
        let mut rig = Rig::ready();
        let mut file = store(1);
        for len in [1, 511, 512, 513, 4096, 8192, 8704, 16_384, 70_000, 1 << 20] {
            let offset = random.below((file.len() - len) as u64 + 1);
            let range = offset as usize..offset as usize + len;
            let mut read = memory(len);
            let request = rig.read(1, offset, &read);
            rig.serve_with(&mut file, max_data, success);
            rig.assert_completed(request);
            assert!(bytes(&mut read) == file[range.clone()], "read of {len} at {offset}");

            let mut content = vec![0; len];
            random.fill(&mut content);
            let mut expected = file.clone();
            expected[range].copy_from_slice(&content);
            let request = rig.write(1, offset, &RegisteredMemory::from(content));
            rig.serve_with(&mut file, max_data, success);
            rig.assert_completed(request);
            assert!(file == expected, "write of {len} at {offset}");
        }
        assert!(rig.queue.is_idle(), "no slot, buffer or block lock is left");
    }
}

#[test]
fn p05_a_conversation_may_be_split_at_any_byte() {
    for piece in [1, 2, 3, 7, 8, 23, 24, 71, 72, 73, 500, 513] {
        let mut rig = Rig::new();
        rig.connect(16 << 20);
        let stream = rig.stream.as_ref().unwrap();
        stream.incoming().set_max_bytes_per_call(piece);
        stream.outgoing().set_max_bytes_per_call(piece);
        rig.open();
        let mut file = store(2);
        let mut read = memory(3 * BLOCK);
        let (first, second) = (rig.read(1, 100, &read), rig.write(2, 4096, &RegisteredMemory::from(vec![7; 9000])));
        rig.serve(&mut file);
        rig.assert_completed(first);
        rig.assert_completed(second);
        assert!(bytes(&mut read) == store(2)[100..100 + 3 * BLOCK], "in pieces of {piece} bytes");
        assert!(file[4096..13_096].iter().all(|&byte| byte == 7), "in pieces of {piece} bytes");
    }
}

#[test]
fn p01_a_slice_that_is_not_answered_ends_at_its_deadline_and_its_memory_is_left_alone() {
    let mut rig = Rig::ready();
    let (mut late, other) = (memory(4096), memory(4096));
    let request = rig.submit(Operation::Read, 1, 0, &late, SECOND);
    let patient = rig.read(1, 4096, &other);
    let cids: Vec<_> = rig.hear().iter().map(|heard| heard.command().unwrap().cid()).collect();
    rig.pass(SECOND / 2).unwrap();
    rig.assert_pending(request);
    rig.pass(SECOND / 2).unwrap();
    rig.assert_ended(request, TransferState::Timeout, "deadline");
    rig.assert_pending(patient);
    // The answer comes all the same.
    rig.target.say_data(cids[0], 0, &[1; 4096], DataEnd::LastWithSuccess);
    rig.target.say_data(cids[1], 0, &[2; 4096], DataEnd::LastWithSuccess);
    rig.drive().unwrap();
    assert!(bytes(&mut late).iter().all(|&byte| byte == 0xA5), "the caller's memory is the caller's again");
    rig.assert_completed(patient);
    assert!(rig.queue.is_idle(), "the late answer freed its slot");
}

#[test]
fn p01_a_target_that_is_never_there_ends_every_slice() {
    let mut rig = Rig::new();
    let memory = memory(4096);
    let requests: Vec<_> = (0..1000).map(|_| rig.submit(Operation::Write, 1, 0, &memory, SECOND)).collect();
    rig.queue.tick(rig.now).unwrap();
    rig.pass(SECOND).unwrap();
    for request in requests {
        rig.assert_ended(request, TransferState::Timeout, "before there was a connection");
    }
    assert!(rig.queue.is_idle());
    assert!(!memory.is_leased());
}

#[test]
fn p05_an_error_carries_the_nvme_status() {
    let mut rig = Rig::ready();
    let memory = memory(4096);
    let request = rig.read(1, 0, &memory);
    let cid = rig.hear_one().command().unwrap().cid();
    rig.target.complete(cid, Status::permanent(StatusCode::UnrecoveredReadError));
    rig.drive().unwrap();
    rig.assert_ended(request, TransferState::Failed, "");
    let failure = rig.outcome(request).unwrap().unwrap_err();
    assert_eq!(failure.device_status, Some(0x281), "{failure:?}");
}

#[test]
fn p03_what_lies_outside_the_namespace_is_never_sent() {
    let mut rig = Rig::ready();
    let memory = memory(4096);
    for offset in [BLOCKS * BLOCK as u64 - 4095, u64::MAX - 4095, u64::MAX] {
        let request = rig.read(1, offset, &memory);
        rig.assert_ended(request, TransferState::Failed, "");
    }
    let request = rig.read(3, 0, &memory);
    rig.assert_ended(request, TransferState::Failed, "does not offer this file");
    assert!(rig.hear().is_empty());
}

#[test]
fn p07_a_file_that_stalls_never_holds_all_slots() {
    let mut rig = Rig::ready();
    let block = memory(BLOCK);
    for at in 0..500 {
        rig.read(1, at * BLOCK as u64, &block);
    }
    // The target leaves all of these unanswered.
    let stalled = rig.hear().len();
    assert!((50..127).contains(&stalled), "{stalled} of 127 slots");
    let mut file = store(3);
    for at in 0..300 {
        let request = rig.read(2, at * BLOCK as u64, &block);
        rig.serve(&mut file);
        rig.assert_completed(request);
    }
}

#[test]
fn p08_what_was_under_way_when_the_connection_broke_is_sent_again_on_the_next() {
    let mut rig = Rig::ready();
    let mut file = store(4);
    let mut read = memory(70_000);
    let (first, second) = (rig.read(1, 0, &read), rig.write(1, 100_000, &RegisteredMemory::from(vec![9; 70_001])));
    let heard = rig.hear();
    // A part of the first answer comes, then nothing: the target is gone.
    let cid = heard[0].command().unwrap().cid();
    rig.target.say_data(cid, 0, &file[..4096], DataEnd::More);
    rig.drive().unwrap();
    let (_, other) = nvferry_io::stream::memory_pair(1);
    drop(std::mem::replace(&mut rig.target, crate::testing::scripted::ScriptedTarget::new(other)));
    rig.drive().expect_err("the connection has ended");
    assert!(rig.queue.is_down());
    rig.assert_pending(first);
    rig.assert_pending(second);
    rig.connect(16 << 20);
    rig.open();
    rig.serve(&mut file);
    rig.assert_completed(first);
    rig.assert_completed(second);
    assert!(bytes(&mut read) == store(4)[..70_000]);
    assert!(file[100_000..170_001].iter().all(|&byte| byte == 9));
    assert!(rig.queue.is_idle());
}

#[test]
fn p15_data_that_was_changed_on_its_way_is_read_again_and_never_taken_for_good() {
    let both = Digests { header: true, data: true };
    let mut rig = Rig::new();
    rig.params.digests = both;
    rig.target.grants.digests = both;
    rig.connect(16 << 20);
    rig.open();
    assert_eq!(rig.queue.digests(), both);
    let mut file = store(5);
    for len in [4096, 70_000] {
        let mut read = memory(len);
        let request = rig.read(1, 0, &read);
        let heard = rig.hear_one();
        let whole = len.next_multiple_of(BLOCK);
        let mut pdu = rig.target.data_pdu(heard.command().unwrap().cid(), 0, &file[..whole], DataEnd::LastWithSuccess);
        pdu[1000] ^= 0x10;
        rig.target.say_raw(&pdu);
        rig.drive().unwrap();
        rig.assert_pending(request);
        rig.serve(&mut file);
        rig.assert_completed(request);
        assert!(bytes(&mut read) == file[..len]);
    }
    assert_eq!(rig.queue.counters().digest_errors, 2);
}

#[test]
fn p15_a_header_that_was_changed_on_its_way_ends_the_connection() {
    let both = Digests { header: true, data: true };
    let mut rig = Rig::new();
    rig.params.digests = both;
    rig.target.grants.digests = both;
    rig.connect(16 << 20);
    rig.open();
    let memory = memory(BLOCK);
    let request = rig.read(1, 0, &memory);
    let cid = rig.hear_one().command().unwrap().cid();
    let mut pdu = rig.target.data_pdu(cid, 0, &[0; BLOCK], DataEnd::LastWithSuccess);
    pdu[12] ^= 1;
    rig.target.say_raw(&pdu);
    rig.drive().expect_err("nothing after a damaged header can be understood");
    rig.assert_pending(request);
}

/// Each is something that a target must not do; the connection ends, and the slice waits for the next one.
#[test]
fn p14_a_target_that_breaks_the_protocol_is_left_and_nothing_is_taken_for_good() {
    type Misdeed = fn(&mut Rig, CommandId);
    let misdeeds: [(&str, Misdeed); 9] = [
        ("data beyond the command", |rig, cid| rig.target.say_data(cid, 61_440, &[0; 8192], DataEnd::LastWithSuccess)),
        ("data at the wrong place", |rig, cid| rig.target.say_data(cid, 4096, &[0; 4096], DataEnd::More)),
        ("data for nobody", |rig, cid| rig.target.say_data(CommandId(cid.0 ^ 0x80), 0, &[0; 512], DataEnd::More)),
        ("an R2T for a read", |rig, cid| rig.target.say_r2t(cid, 1, 0, 65_536)),
        ("an R2T for nobody", |rig, cid| rig.target.say_r2t(CommandId(cid.0 ^ 0x80), 1, 0, 512)),
        ("the end of nothing", |rig, cid| rig.target.complete(CommandId(cid.0 ^ 0x80), StatusCode::Success)),
        ("ICResp again", |rig, _| rig.target.say_icresp()),
        ("no PDU at all", |rig, _| rig.target.say_raw(&[0xFF; 64])),
        ("a length that cannot be", |rig, _| rig.target.say_raw(&[7, 0, 24, 24, 0xFF, 0xFF, 0xFF, 0xFF])),
    ];
    for (name, misdeed) in misdeeds {
        let mut rig = Rig::ready();
        let mut read = memory(65_536);
        let request = rig.read(1, 0, &read);
        let cid = rig.hear_one().command().unwrap().cid();
        misdeed(&mut rig, cid);
        assert!(rig.drive().is_err(), "{name}");
        assert!(rig.outcome(request).is_none(), "{name}: the slice waits for the next connection");
        rig.connect(16 << 20);
        rig.open();
        rig.serve(&mut store(6));
        rig.assert_completed(request);
        assert!(bytes(&mut read) == store(6)[..65_536], "{name}");
    }
}

#[test]
fn p14_an_r2t_beyond_the_write_ends_the_connection() {
    for (offset, length) in [(0, 65_537), (4096, 65_536), (u32::MAX, 512), (512, 512), (0, 0)] {
        let mut rig = Rig::ready();
        let memory = memory(65_536);
        rig.write(1, 0, &memory);
        let heard = rig.hear_one();
        assert_eq!(heard.io().0, NvmOpcode::Write);
        rig.target.say_r2t(heard.command().unwrap().cid(), 1, offset, length);
        assert!(rig.drive().is_err(), "R2T of {length} bytes at {offset}");
    }
}

#[test]
fn p14_random_bytes_hurt_nobody() {
    let mut random = random("p14_random_bytes_hurt_nobody");
    for _ in 0..500 {
        let mut rig = if random.below(2) == 0 { Rig::ready() } else { Rig::new() };
        if rig.stream.is_none() {
            rig.connect(16 << 20);
        }
        let mut read = memory(20_000);
        let request = rig.read(1, 0, &read);
        let _ = rig.drive();
        let mut noise = vec![0; 1 + random.below(300) as usize];
        random.fill(&mut noise);
        // A header that is often almost right gets further.
        noise[0] = [1, 3, 5, 7, 9][random.below(5) as usize];
        if noise.len() > 8 && random.below(2) == 0 {
            noise[1..8].copy_from_slice(&[random.below(16) as u8, 24, [0, 24][random.below(2) as usize], 24, 2, 0, 0]);
        }
        rig.target.say_raw(&noise);
        let _ = rig.drive();
        assert!(rig.outcome(request).is_none_or(|result| result.is_err()), "noise is no success");
        let _ = rig.pass(Duration::from_secs(31));
        assert!(rig.outcome(request).is_some(), "it has ended");
        assert!(bytes(&mut read).len() == 20_000);
    }
}
