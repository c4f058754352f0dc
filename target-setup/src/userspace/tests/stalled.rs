//! A namespace whose storage stalls takes down no other.

use super::harness::Target;
use super::host::Way;
use crate::userspace::limits;
use nvferry_io::engine::{Fault, FaultRule};
use nvferry_wire::pdu::{DataAlignment, Digests, Pdu};
use nvferry_wire::{SglDescriptor, StatusCode};

const MIB: usize = 1 << 20;

fn stall(target: &Target, nsid: u32) {
    target.with(|sim| {
        let namespaces = sim.subsystem.namespaces.snapshot().1;
        let file = Some(namespaces[&nvferry_wire::Nsid(nsid)].identity);
        sim.faults.add_rule(FaultRule { file, ..FaultRule::always(Fault::Stall) });
    });
}

/// Storage with room for 64 operations, three of four files stalled with far more commands than that, on the very
/// queue that the fourth is used on.
#[test]
fn p07_stalled_namespaces_leave_room_for_others_on_the_same_queue() {
    let target = Target::new();
    for nsid in 1..=4 {
        target.offer(nsid, &vec![nsid as u8; 2 * MIB]);
    }
    let (_admin, cntlid) = target.admin(0);
    let mut io = target.io(cntlid, 1, Digests::NONE, DataAlignment::NONE);
    for nsid in 1..=3 {
        stall(&target, nsid);
    }
    let mut stalled = Vec::new();
    for nsid in 1..=3 {
        for _ in 0..100 {
            let sqe = io.read_sqe(nsid, 0, 2048, 512);
            io.send_command(&sqe, &[]);
            stalled.push(sqe.cid());
        }
    }
    for _ in 0..20 {
        assert_eq!(io.read(4, 0, 2048, 512).unwrap(), vec![4; MIB]);
        assert!(io.write(4, 2048, &vec![4; MIB], 512, Way::Asked(usize::MAX)).is_success());
        assert!(io.write(4, 0, &[4; 512], 512, Way::InCapsule).is_success());
    }
    target.with(|sim| {
        assert!(sim.worker.core.data_pool.stats().in_use_bytes < limits::DATA_POOL_BYTES, "something is left");
        sim.faults.clear();
        sim.faults.release_stalled();
    });
    // What stalled is not lost.
    while !stalled.is_empty() {
        let received = io.receive().unwrap();
        let Pdu::C2hData(data) = received.pdu else { panic!("{:?}", received.pdu) };
        assert_eq!(received.data.len(), MIB);
        stalled.retain(|&cid| cid != data.cccid);
    }
}

/// Writes with their data in the capsule must be put somewhere when they come. A stalled namespace gets half of that
/// memory; what goes beyond is refused in a way that the host may repeat.
#[test]
fn p07_in_capsule_writes_to_a_stalled_namespace_leave_memory_for_others() {
    let target = Target::new();
    target.offer(1, &vec![1; MIB]);
    target.offer(2, &vec![2; MIB]);
    let (_admin, cntlid) = target.admin(0);
    stall(&target, 1);
    let data = vec![7; limits::MAX_IN_CAPSULE_BYTES as usize];
    let mut queues: Vec<_> = (1..=3).map(|qid| target.io(cntlid, qid, Digests::NONE, DataAlignment::NONE)).collect();
    const COMMANDS: usize = 400;
    let mut sent = 0;
    for io in &mut queues {
        for _ in 0..COMMANDS {
            let mut sqe = io.write_sqe(1, 0, limits::MAX_IN_CAPSULE_BYTES / 512);
            sqe.set_sgl(SglDescriptor::InCapsule { offset: 0, length: data.len() as u32 });
            io.send_command(&sqe, &data);
            sent += 1;
        }
    }
    target.turn_until_quiet();
    let half = limits::CAPSULE_POOL_BYTES / 2;
    target.with(|sim| {
        let used = sim.worker.core.capsule_pool.stats().in_use_bytes;
        assert!((half..=half + data.len()).contains(&used), "{used} bytes are in use");
    });
    let mut other = target.io(cntlid, 4, Digests::NONE, DataAlignment::NONE);
    assert!(other.write(2, 0, &data, 512, Way::InCapsule).is_success());
    assert_eq!(other.read(2, 0, 1, 512).unwrap(), [7; 512]);

    target.with(|sim| {
        sim.faults.clear();
        sim.faults.release_stalled();
    });
    let (mut succeeded, mut interrupted) = (0, 0);
    for io in &mut queues {
        for _ in 0..COMMANDS {
            let Pdu::CapsuleResp(response) = io.receive().unwrap().pdu else { panic!("something else came") };
            match response.cqe.status.code {
                StatusCode::Success => succeeded += 1,
                StatusCode::CommandInterrupted if !response.cqe.status.do_not_retry => interrupted += 1,
                other => panic!("{other}"),
            }
        }
    }
    assert_eq!(succeeded + interrupted, sent);
    assert!(interrupted > 0 && succeeded >= half / data.len(), "{succeeded} succeeded, {interrupted} interrupted");
    target.with(|sim| assert_eq!(sim.worker.core.capsule_pool.stats().in_use_bytes, 0));
}
