//! Writes of parts of blocks: read, merge, write, under a lock on the block (P4).

use crate::testing::rig::{Rig, memory, store};
use crate::testing::scripted::Heard;
use nvferry_engine::{Operation, TransferState};
use nvferry_io::RegisteredMemory;
use nvferry_wire::nvm::NvmOpcode;
use nvferry_wire::{Status, StatusCode};
use std::time::Duration;

fn is(heard: &Heard, opcode: NvmOpcode, lba: u64, blocks: u32) -> bool {
    let (got, command) = heard.io();
    (got, command.slba.0, command.blocks.0) == (opcode, lba, blocks)
}

#[test]
fn head_and_tail_are_merged_and_the_middle_is_written_straight() {
    let mut rig = Rig::ready();
    let mut store = store(1);
    let mut expected = store.clone();
    let bytes = RegisteredMemory::from(vec![0xEE; 2000]);
    expected[300..2300].fill(0xEE);
    let request = rig.write(1, 300, &bytes);
    let heard = rig.hear();
    assert_eq!(heard.len(), 3);
    assert!(heard.iter().any(|one| is(one, NvmOpcode::Read, 0, 1)));
    assert!(heard.iter().any(|one| is(one, NvmOpcode::Write, 1, 3)));
    assert!(heard.iter().any(|one| is(one, NvmOpcode::Read, 4, 1)));
    heard.iter().for_each(|one| rig.target.serve(one, &mut store, usize::MAX, true));
    rig.serve(&mut store);
    rig.assert_completed(request);
    assert!(store == expected);
    // What was bounced: 212 bytes of the head, 252 of the tail.
    assert_eq!(rig.queue.counters().bounced_bytes, 464);
}

#[test]
fn writes_to_one_block_are_merged_or_wait_for_each_other() {
    let mut rig = Rig::ready();
    let mut store = store(2);
    let mut expected = store.clone();
    let part = |byte| RegisteredMemory::from(vec![byte; 10]);
    let mut requests = vec![rig.write(1, 0, &part(1)), rig.write(1, 20, &part(2))];
    let read = rig.hear_one();
    assert!(is(&read, NvmOpcode::Read, 0, 1), "one read for both");
    // One more while the block is being read; one more while it is being written.
    requests.push(rig.write(1, 40, &part(3)));
    assert!(rig.hear().is_empty());
    rig.target.serve(&read, &mut store, usize::MAX, true);
    let write = rig.hear_one();
    assert!(is(&write, NvmOpcode::Write, 0, 1), "one write for three");
    requests.push(rig.write(1, 60, &part(4)));
    assert!(rig.hear().is_empty(), "the block is locked");
    rig.target.serve(&write, &mut store, usize::MAX, true);
    rig.drive().unwrap();
    requests[..3].iter().for_each(|&request| rig.assert_completed(request));
    rig.assert_pending(requests[3]);
    rig.serve(&mut store);
    rig.assert_completed(requests[3]);
    for (i, byte) in [1, 2, 3, 4].into_iter().enumerate() {
        expected[i * 20..i * 20 + 10].fill(byte);
    }
    assert!(store == expected);
    assert!(rig.queue.is_idle());
}

#[test]
fn a_block_stays_locked_until_its_write_has_really_ended() {
    let mut rig = Rig::ready();
    let mut store = store(3);
    let first = RegisteredMemory::from(vec![1; 10]);
    let request = rig.submit(Operation::Write, 1, 0, &first, Duration::from_secs(1));
    let read = rig.hear_one();
    rig.target.serve(&read, &mut store, usize::MAX, true);
    let write = rig.hear_one();
    rig.pass(Duration::from_secs(1)).unwrap();
    rig.assert_ended(request, TransferState::Timeout, "");
    assert!(!first.is_leased(), "the merged block is a copy");
    let second = RegisteredMemory::from(vec![2; 10]);
    let next = rig.write(1, 100, &second);
    assert!(rig.hear().is_empty(), "the late write would undo it");
    rig.target.serve(&write, &mut store, usize::MAX, true);
    rig.serve(&mut store);
    rig.assert_completed(next);
    assert!(store[..10].iter().all(|&b| b == 1) && store[100..110].iter().all(|&b| b == 2));
}

#[test]
fn a_write_that_times_out_before_its_block_was_read_is_not_written() {
    let mut rig = Rig::ready();
    let mut store = store(4);
    let before = store.clone();
    let bytes = memory(10);
    rig.submit(Operation::Write, 1, 0, &bytes, Duration::from_secs(1));
    let read = rig.hear_one();
    rig.pass(Duration::from_secs(1)).unwrap();
    rig.target.serve(&read, &mut store, usize::MAX, true);
    assert!(rig.hear().is_empty());
    assert!(store == before && rig.queue.is_idle());
}

#[test]
fn p05_a_block_that_cannot_be_read_or_written_fails_its_writes() {
    for fails_at in [NvmOpcode::Read, NvmOpcode::Write] {
        let mut rig = Rig::ready();
        let mut store = store(5);
        let bytes = memory(10);
        let requests = [rig.write(1, 0, &bytes), rig.write(1, 50, &bytes)];
        loop {
            let heard = rig.hear();
            if heard.is_empty() {
                break;
            }
            for one in heard {
                if one.io().0 == fails_at {
                    let status = Status::permanent(StatusCode::InternalError);
                    rig.target.complete(one.command().unwrap().cid(), status);
                } else {
                    rig.target.serve(&one, &mut store, usize::MAX, true);
                }
            }
        }
        for request in requests {
            rig.assert_ended(request, TransferState::Failed, "Internal Error");
        }
        assert!(rig.queue.is_idle() && !bytes.is_leased());
    }
}

#[test]
fn p08_a_block_begins_again_on_the_next_connection() {
    // Lost while reading, and while writing.
    for served in [0, 1] {
        let mut rig = Rig::ready();
        let mut store = store(6);
        let mut expected = store.clone();
        expected[5..15].fill(8);
        let bytes = RegisteredMemory::from(vec![8; 10]);
        let request = rig.write(1, 5, &bytes);
        for _ in 0..served {
            let heard = rig.hear_one();
            rig.target.serve(&heard, &mut store, usize::MAX, true);
        }
        rig.hear_one();
        rig.target.stream.outgoing().cut(nvferry_io::stream::Cut::Reset);
        rig.drive().unwrap_err();
        rig.connect(1 << 20);
        rig.open();
        rig.serve(&mut store);
        rig.assert_completed(request);
        assert!(store == expected);
    }
}
