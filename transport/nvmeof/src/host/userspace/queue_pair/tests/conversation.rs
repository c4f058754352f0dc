//! What is said, when both sides behave: any split of the stream, any cut of the data, all limits obeyed.

use crate::testing::random;
use crate::testing::rig::{Rig, memory, store};
use crate::testing::scripted::BLOCK;
use nvferry_io::RegisteredMemory;
use nvferry_wire::nvm::NvmOpcode;
use nvferry_wire::pdu::{DataAlignment, Digests, Pdu};
use nvferry_wire::sgl::SglDescriptor;
use nvferry_wire::{BlockCount, Lba, Nsid, QueueId};

/// A read and a write of each kind: small, in capsule, in place, of any alignment.
fn converse(rig: &mut Rig, store: &mut [u8], max_data: usize, success: bool) {
    let reads: Vec<(u64, RegisteredMemory)> =
        [(0, 512), (5, 100), (512, 4096), (700, 20_000), (8192, 65_536), (100_001, 40_000)]
            .map(|(offset, len)| (offset, memory(len)))
            .into();
    let writes: Vec<(u64, Vec<u8>)> = [(1 << 20, 512), ((1 << 20) + 4096, 8192), ((1 << 20) + 65_536, 40 * BLOCK)]
        .map(|(offset, len)| {
            let mut bytes = vec![0; len];
            random("converse").fill(&mut bytes);
            (offset, bytes)
        })
        .into();
    let mut requests = Vec::new();
    for (offset, memory) in &reads {
        requests.push(rig.read(1, *offset, memory));
    }
    for (offset, bytes) in &writes {
        let memory = RegisteredMemory::from(bytes.clone());
        requests.push(rig.write(1, *offset, &memory));
    }
    rig.serve_with(store, max_data, success);
    requests.into_iter().for_each(|request| rig.assert_completed(request));
    for (offset, mut memory) in reads {
        let bytes = memory.bytes().expect("no lease is left");
        let offset = offset as usize;
        assert!(*bytes == store[offset..offset + bytes.len()], "{} bytes at {offset}", bytes.len());
    }
    for (offset, bytes) in writes {
        assert!(store[offset as usize..][..bytes.len()] == bytes);
    }
    assert!(rig.queue.is_idle());
}

#[test]
fn data_moves_whatever_the_split() {
    for digests in [Digests::NONE, Digests::BOTH] {
        for bytes_per_call in [1, 2, 7, 23, 24, 25, 71, 72, 73, 511, 4096, 100_000] {
            let mut rig = Rig::new();
            rig.params.digests = digests;
            rig.target.grants.digests = Digests::BOTH;
            rig.connect(16 << 20);
            let stream = rig.stream.as_ref().unwrap();
            stream.incoming().set_max_bytes_per_call(bytes_per_call);
            stream.outgoing().set_max_bytes_per_call(bytes_per_call);
            rig.open();
            assert_eq!(rig.queue.digests(), digests);
            let mut store = store(1);
            converse(&mut rig, &mut store, usize::MAX, true);
        }
    }
}

#[test]
fn success_may_stand_in_the_data_or_in_a_response_and_data_may_come_in_pieces() {
    for success in [true, false] {
        for max_data in [512, 1000, 16_384, 20_000, usize::MAX] {
            let mut rig = Rig::ready();
            let mut store = store(3);
            converse(&mut rig, &mut store, max_data, success);
        }
    }
}

#[test]
fn padding_is_sent_as_asked_and_taken_as_sent() {
    for dwords in [1, 7, 31] {
        let mut rig = Rig::new();
        rig.params.digests = Digests::BOTH;
        rig.target.grants.digests = Digests::BOTH;
        rig.target.grants.cpda = DataAlignment::from_wire(dwords).unwrap();
        rig.connect(16 << 20);
        rig.open();
        // The scripted target panics at any PDU that is not padded as it asked.
        let mut store = store(4);
        converse(&mut rig, &mut store, usize::MAX, true);
    }
}

#[test]
fn connect_says_who_and_which_queue() {
    let mut rig = Rig::new();
    rig.connect(1 << 20);
    let icreq = rig.hear_one();
    assert!(matches!(icreq.pdu, Pdu::IcReq(request) if request.maxr2t == 1));
    assert!(rig.target.open(&icreq));
    let heard = rig.hear_one();
    let sqe = heard.command().unwrap();
    let connect = nvferry_wire::fabrics::Connect::decode(&sqe).unwrap();
    assert_eq!((connect.qid, connect.sq_entries), (QueueId(1), 128));
    assert!(connect.disable_sq_flow_control);
    let data = nvferry_wire::fabrics::ConnectData::decode(&heard.data).unwrap();
    assert_eq!((data.cntlid, data.hostid), (rig.params.cntlid, rig.params.host_id));
    assert_eq!((data.subnqn, data.hostnqn), (rig.params.subnqn.clone(), rig.params.host_nqn.clone()));
}

#[test]
fn a_read_of_any_alignment_is_one_command() {
    let mut rig = Rig::ready();
    let mut memory = memory(5000);
    let request = rig.read(2, 1000, &memory);
    let heard = rig.hear_one();
    let (opcode, command) = heard.io();
    assert_eq!(opcode, NvmOpcode::Read);
    assert_eq!((command.nsid, command.slba, command.blocks), (Nsid(2), Lba(1), BlockCount(11)));
    assert_eq!(heard.command().unwrap().sgl().unwrap(), SglDescriptor::Transport { length: 11 * 512 });
    let mut store = store(5);
    rig.target.serve(&heard, &mut store, usize::MAX, true);
    rig.drive().unwrap();
    rig.assert_completed(request);
    assert!(*memory.bytes().unwrap() == store[1000..6000]);
    assert_eq!(rig.queue.counters().bounced_bytes, 0);
}

#[test]
fn small_writes_go_in_the_capsule_and_large_ones_on_demand() {
    let mut rig = Rig::ready();
    let (small, large) = (memory(8192), memory(8192 + 512));
    rig.write(1, 0, &small);
    rig.write(1, 1 << 16, &large);
    let heard = rig.hear();
    let sgl = |i: usize| heard[i].command().unwrap().sgl().unwrap();
    assert_eq!(sgl(0), SglDescriptor::InCapsule { offset: 0, length: 8192 });
    assert_eq!(heard[0].data.len(), 8192);
    assert_eq!(sgl(1), SglDescriptor::Transport { length: 8704 });
    assert!(heard[1].data.is_empty());
}

#[test]
fn maxh2cdata_is_obeyed_and_several_r2ts_are_answered() {
    let mut rig = Rig::new();
    rig.target.grants.maxh2cdata = 4096;
    rig.connect(16 << 20);
    rig.open();
    let mut bytes = vec![0; 20_480];
    random("maxh2cdata").fill(&mut bytes);
    let memory = RegisteredMemory::from(bytes.clone());
    let request = rig.write(1, 0, &memory);
    let cid = rig.hear_one().command().unwrap().cid();
    let mut got = Vec::new();
    for (ttag, at, len) in [(10, 0, 10_240), (11, 10_240, 512), (12, 10_752, 9728)] {
        rig.target.say_r2t(cid, ttag, at, len);
        let mut expected_at = at;
        let heard = rig.hear();
        let last = heard.len() - 1;
        for (i, one) in heard.into_iter().enumerate() {
            let Pdu::H2cData(pdu) = one.pdu else { panic!("{one:?}") };
            assert_eq!((pdu.ttag.0, pdu.datao, pdu.cccid), (ttag, expected_at, cid));
            assert!(pdu.datal <= 4096);
            assert_eq!(pdu.end.is_last(), i == last, "of each R2T");
            expected_at += pdu.datal;
            got.extend(one.data);
        }
        assert_eq!(expected_at, at + len);
    }
    assert!(got == bytes);
    rig.assert_pending(request);
    rig.target.complete(cid, nvferry_wire::StatusCode::Success);
    rig.drive().unwrap();
    rig.assert_completed(request);
}

#[test]
fn no_more_commands_are_under_way_than_the_queue_has_room_for() {
    let mut rig = Rig::new();
    rig.params.entries = 8;
    rig.connect(16 << 20);
    rig.open();
    let memories: Vec<_> = (0..50).map(|_| memory(512)).collect();
    let requests: Vec<_> = memories.iter().map(|memory| rig.read(1, 0, memory)).collect();
    let heard = rig.hear();
    // One entry stays empty, and one file never takes all.
    assert!((5..=7).contains(&heard.len()), "{}", heard.len());
    let mut store = store(6);
    let mut most = heard.len();
    heard.iter().for_each(|one| rig.target.serve(one, &mut store, usize::MAX, true));
    loop {
        let heard = rig.hear();
        if heard.is_empty() {
            break;
        }
        most = most.max(heard.len());
        heard.iter().for_each(|one| rig.target.serve(one, &mut store, usize::MAX, true));
    }
    assert!(most <= 7);
    requests.into_iter().for_each(|request| rig.assert_completed(request));
}

#[test]
fn many_commands_leave_in_one_call() {
    let mut rig = Rig::ready();
    let memories: Vec<_> = (0..64).map(|_| memory(4096)).collect();
    let before = rig.queue.counters();
    memories.iter().for_each(|memory| {
        rig.read(1, 0, memory);
    });
    assert_eq!(rig.hear().len(), 64);
    assert_eq!(rig.queue.counters().sends - before.sends, 1);
}
