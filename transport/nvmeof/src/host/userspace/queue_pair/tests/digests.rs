//! Damage on the wire is found, and is never taken for success (P15).

use crate::testing::rig::{Rig, memory, store};
use nvferry_engine::TransferState;
use nvferry_io::RegisteredMemory;
use nvferry_wire::pdu::{DataEnd, Digests};

fn rig(digests: Digests) -> Rig {
    let mut rig = Rig::new();
    rig.params.digests = digests;
    rig.target.grants.digests = Digests::BOTH;
    rig.connect(16 << 20);
    rig.open();
    rig
}

const DATA: Digests = Digests { header: false, data: true };

/// Reads of this length, small enough to be copied or large enough to be received in place.
fn damaged_data_is_read_again(len: usize) {
    let mut rig = rig(DATA);
    let mut store = store(1);
    let mut memory = memory(len);
    let request = rig.read(1, 0, &memory);
    let heard = rig.hear_one();
    let cid = heard.command().unwrap().cid();
    let mut pdu = rig.target.data_pdu(cid, 0, &store[..len], DataEnd::LastWithSuccess);
    pdu[24 + len / 2] ^= 0x10;
    rig.target.say_raw(&pdu);
    let again = rig.hear_one();
    rig.assert_pending(request);
    rig.target.serve(&again, &mut store, usize::MAX, true);
    rig.drive().unwrap();
    rig.assert_completed(request);
    assert!(*memory.bytes().unwrap() == store[..len]);
    let counters = rig.queue.counters();
    assert_eq!((counters.digest_errors, counters.retries), (1, 1));
}

#[test]
fn p15_damaged_data_is_read_again() {
    damaged_data_is_read_again(4096);
    damaged_data_is_read_again(65_536);
}

#[test]
fn p15_data_that_is_always_damaged_is_a_failure() {
    let mut rig = rig(DATA);
    let store = store(2);
    let memory = memory(65_536);
    let request = rig.read(1, 0, &memory);
    let mut tries = 0;
    while let Some(heard) = rig.hear().first() {
        tries += 1;
        let cid = heard.command().unwrap().cid();
        let mut pdu = rig.target.data_pdu(cid, 0, &store[..65_536], DataEnd::LastWithSuccess);
        pdu[100] ^= 1;
        rig.target.say_raw(&pdu);
    }
    assert!((2..20).contains(&tries), "{tries}");
    rig.assert_ended(request, TransferState::Failed, "damaged on its way");
}

#[test]
fn p15_a_damaged_header_ends_the_connection() {
    let mut rig = rig(Digests::BOTH);
    let mut store = store(3);
    let mut memory = memory(4096);
    let request = rig.read(1, 0, &memory);
    let cid = rig.hear_one().command().unwrap().cid();
    let mut pdu = rig.target.data_pdu(cid, 0, &store[..4096], DataEnd::LastWithSuccess);
    pdu[12] ^= 0x02;
    rig.target.say_raw(&pdu);
    let error = rig.drive().unwrap_err();
    assert!(error.to_string().contains("header digest"), "{error}");
    rig.connect(16 << 20);
    rig.open();
    rig.serve(&mut store);
    rig.assert_completed(request);
    assert!(*memory.bytes().unwrap() == store[..4096]);
    assert_eq!(rig.queue.counters().digest_errors, 1);
}

#[test]
fn p15_no_flipped_bit_is_taken_for_data() {
    // Every bit of the answer's last 40 bytes and first 40, one at a time.
    let len = 512;
    for bit in (0..40 * 8).chain((24 + 4 + len - 36) * 8..(24 + 4 + len + 4) * 8) {
        let mut rig = rig(Digests::BOTH);
        let store = store(4);
        let mut memory = memory(len);
        let request = rig.read(1, 0, &memory);
        let cid = rig.hear_one().command().unwrap().cid();
        let mut pdu = rig.target.data_pdu(cid, 0, &store[..len], DataEnd::LastWithSuccess);
        pdu[bit / 8] ^= 1 << (bit % 8);
        rig.target.say_raw(&pdu);
        // Either the connection ends, or the read is tried again, or more is waited for.
        let _ = rig.drive();
        rig.assert_pending(request);
        rig.stream = None;
        let (queue, scratch) = (&mut rig.queue, &mut rig.scratch);
        queue.close(scratch, rig.now, || nvferry_engine::Failure::canceled(""));
        drop(memory.bytes());
    }
}

#[test]
fn digests_that_were_not_asked_for_are_refused() {
    let mut rig = Rig::new();
    rig.connect(1 << 20);
    rig.hear_one();
    rig.target.grants.digests = Digests::BOTH;
    rig.target.say_icresp();
    assert!(rig.drive().unwrap_err().to_string().contains("not asked for"));
}

#[test]
fn a_target_without_digests_is_used_without() {
    let mut rig = Rig::new();
    rig.params.digests = Digests::BOTH;
    rig.connect(1 << 20);
    rig.open();
    assert_eq!(rig.queue.digests(), Digests::NONE);
    let bytes = RegisteredMemory::from(vec![5; 4096]);
    let request = rig.write(1, 0, &bytes);
    rig.serve(&mut store(5));
    rig.assert_completed(request);
}
