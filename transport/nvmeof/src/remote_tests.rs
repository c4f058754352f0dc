//! Whole transports against a scripted target on real sockets.

use crate::config::NvmeofOptions;
use crate::testing::admin::AdminScript;
use crate::testing::rig::{memory, store};
use crate::testing::socket::SocketTarget;
use crate::testing::{Outcomes, Random};
use crate::trid;
use nvferry_engine::{FileBufferId, Operation, RemoteSegment, SegmentDesc, Slice, SliceSink, Transport};
use nvferry_io::RegisteredMemory;
use nvferry_wire::{Nqn, TransportId};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn segment(target: &SocketTarget) -> SegmentDesc {
    let mut segment = SegmentDesc::new("scripted", crate::PROTOCOL);
    let subnqn = Nqn::new("nqn.2016-06.io.mc:scripted").unwrap();
    trid::describe(&mut segment, &TransportId::tcp(target.address).with_subnqn(subnqn));
    segment
}

fn script(queues: u32) -> AdminScript {
    let mut script = AdminScript::new();
    script.queues = queues;
    script.namespaces = [(1, (crate::testing::rig::BLOCKS, 9))].into();
    script
}

/// Hands all slices over in one batch.
fn submit(remote: &dyn RemoteSegment, outcomes: &Arc<Outcomes>, requests: &[(Operation, u64, &RegisteredMemory)]) {
    let deadline = Instant::now() + PATIENCE;
    let slice = |(i, &(op, offset, memory)): (usize, &(Operation, u64, &RegisteredMemory))| {
        let lease = memory.lease(0..memory.len()).unwrap();
        let sink = Arc::clone(outcomes) as Arc<dyn SliceSink>;
        Slice::new(op, FileBufferId(1), offset, lease, deadline, sink, i as u32)
    };
    let mut slices: Vec<_> = requests.iter().enumerate().map(slice).collect();
    remote.submit(&mut slices);
}

fn wait_for(outcomes: &Outcomes, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while outcomes.ended().len() < count {
        assert!(Instant::now() < deadline, "{} of {count} ended", outcomes.ended().len());
        std::thread::yield_now();
    }
    outcomes.ended().iter().for_each(|(request, result)| assert_eq!(*result, Ok(()), "request {request}"));
}

#[test]
fn workers_without_a_queue_leave_it_to_those_with() {
    let target = SocketTarget::start(script(2), store(1));
    let transport = crate::factory(NvmeofOptions::new().workers(4)).install_transport("host", None).unwrap();
    let remote = transport.attach(&segment(&target), Instant::now() + PATIENCE).unwrap();
    let memories: Vec<_> = (0..256).map(|_| memory(4096)).collect();
    let requests: Vec<_> = memories.iter().enumerate().map(|(i, m)| (Operation::Read, i as u64 * 4096, m)).collect();
    let outcomes = Outcomes::new();
    submit(&*remote, &outcomes, &requests);
    wait_for(&outcomes, 256);
    assert_eq!(target.qids(), [1, 2], "much work is spread over all queues that there are");
    let content = target.store();
    for (i, memory) in memories.iter().enumerate() {
        assert!(memory.lease(0..4096).unwrap().to_vec() == content[i * 4096..][..4096]);
    }
}

#[test]
fn p08_a_target_that_comes_back_with_fewer_queues_still_gets_everything() {
    let target = SocketTarget::start(script(4), store(2));
    let transport = crate::factory(NvmeofOptions::new().workers(4)).install_transport("host", None).unwrap();
    let remote = transport.attach(&segment(&target), Instant::now() + PATIENCE).unwrap();
    let first = Outcomes::new();
    let memories: Vec<_> = (0..256).map(|_| memory(512)).collect();
    let requests: Vec<_> = memories.iter().map(|m| (Operation::Read, 0, m)).collect();
    submit(&*remote, &first, &requests);
    wait_for(&first, 256);
    assert_eq!(target.qids(), [1, 2, 3, 4]);

    // Four workers have work for it when it is gone; it comes back with one queue.
    target.sleep();
    let mut expected = target.store();
    let mut random = Random::seeded(3);
    let second = Outcomes::new();
    let writes: Vec<_> = (0..200_usize)
        .map(|i| {
            let mut bytes = vec![0; 5000];
            random.fill(&mut bytes);
            expected[i * 5000..][..5000].copy_from_slice(&bytes);
            RegisteredMemory::from(bytes)
        })
        .collect();
    let requests: Vec<_> = writes.iter().enumerate().map(|(i, m)| (Operation::Write, i as u64 * 5000, m)).collect();
    submit(&*remote, &second, &requests);
    target.wake(1);
    wait_for(&second, 200);
    assert_eq!(target.qids(), [1]);
    assert!(target.store() == expected, "neighbouring writes share blocks, and none undid another");
}

/// A target that restarted may have other files under the ids of those that were there: they are looked at first.
#[test]
fn p08_no_io_queue_is_made_before_it_is_known_which_files_a_target_has() {
    let target = SocketTarget::start(script(4), store(4));
    let transport = crate::factory(NvmeofOptions::new().workers(4)).install_transport("host", None).unwrap();
    let remote = transport.attach(&segment(&target), Instant::now() + PATIENCE).unwrap();
    target.sleep();
    target.list_slowly(Duration::from_millis(300));
    target.wake(4);
    let deadline = Instant::now() + PATIENCE;
    while target.lists().is_empty() {
        assert!(Instant::now() < deadline, "the host does not come back");
        std::thread::sleep(Duration::from_millis(1));
    }
    // The association stands, and the answer is on its way, when somebody wants an I/O queue.
    let (memory, outcomes) = (memory(4096), Outcomes::new());
    submit(&*remote, &outcomes, &[(Operation::Read, 0, &memory)]);
    wait_for(&outcomes, 1);
    assert_eq!(target.lists()[0], Some(Vec::new()), "an I/O queue came before the list");
    assert_eq!(target.qids().len(), 1);
}
