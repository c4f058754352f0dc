//! Errors that the target reports, and what is tried again (P5, P6, P8).

use crate::host::namespaces::NamespaceTable;
use crate::status::CommandLatencies;
use crate::testing::rig::{Rig, memory, store, table};
use nvferry_engine::{Operation, TransferState};
use nvferry_io::RegisteredMemory;
use nvferry_io::tally::Latencies;
use nvferry_wire::{Status, StatusCode};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn p05_an_error_carries_the_nvme_status() {
    let mut rig = Rig::ready();
    let memory = memory(4096);
    let request = rig.write(2, 8192, &memory);
    let cid = rig.hear_one().command().unwrap().cid();
    rig.target.complete(cid, Status::permanent(StatusCode::WriteFault));
    rig.drive().unwrap();
    rig.assert_ended(request, TransferState::Failed, "Write Fault");
    let failure = rig.outcome(request).unwrap().unwrap_err();
    assert_eq!(failure.device_status, Some(0x0280));
}

#[test]
fn p08_what_may_be_tried_again_is_until_it_works() {
    let mut rig = Rig::ready();
    let mut store = store(1);
    let mut memory = memory(512);
    let request = rig.read(1, 0, &memory);
    // At once.
    let cid = rig.hear_one().command().unwrap().cid();
    rig.target.complete(cid, StatusCode::TransientTransportError);
    // Later.
    let cid = rig.hear_one().command().unwrap().cid();
    rig.target.complete(cid, StatusCode::NamespaceNotReady);
    assert!(rig.hear().is_empty(), "not at once");
    let timer = rig.queue.next_timer().unwrap();
    rig.pass(timer - rig.now).unwrap();
    let heard = rig.hear_one();
    rig.target.serve(&heard, &mut store, usize::MAX, false);
    rig.drive().unwrap();
    rig.assert_completed(request);
    assert!(*memory.bytes().unwrap() == store[..512]);
    assert_eq!(rig.queue.counters().retries, 2);
}

#[test]
fn a_retry_that_would_come_after_the_deadline_is_not_waited_for() {
    let mut rig = Rig::ready();
    let memory = memory(512);
    let request = rig.submit(Operation::Read, 1, 0, &memory, Duration::from_millis(50));
    let cid = rig.hear_one().command().unwrap().cid();
    rig.target.complete(cid, StatusCode::NamespaceNotReady);
    rig.drive().unwrap();
    rig.assert_ended(request, TransferState::Failed, "Namespace Not Ready");
}

#[test]
fn p08_what_was_under_way_is_sent_again_on_the_next_connection() {
    let mut rig = Rig::ready();
    let mut store = store(2);
    let memories: Vec<_> = (0..40).map(|i| RegisteredMemory::from(vec![i; 4096])).collect();
    let requests: Vec<_> =
        memories.iter().enumerate().map(|(i, memory)| rig.write(1, 4096 * i as u64, memory)).collect();
    let heard = rig.hear();
    // Some are done, some were carried out but not answered, some were not even heard.
    heard[..10].iter().for_each(|one| rig.target.serve(one, &mut store, usize::MAX, true));
    rig.drive().unwrap();
    rig.target.stream.outgoing().cut(nvferry_io::stream::Cut::Reset);
    rig.drive().unwrap_err();
    assert_eq!(rig.outcomes.ended().len(), 10);
    rig.connect(16 << 20);
    rig.open();
    rig.serve(&mut store);
    requests.into_iter().for_each(|request| rig.assert_completed(request));
    (0..40).for_each(|i| assert!(store[i * 4096..][..4096].iter().all(|&b| b == i as u8)));
}

/// How long a queue waits to be made again depends on it.
#[test]
fn p08_a_queue_has_worked_when_a_command_was_carried_out_on_this_connection() {
    let mut rig = Rig::ready();
    let mut store = store(2);
    assert!(!rig.queue.has_worked(), "Connect is no work");
    let memory = memory(512);
    rig.read(1, 0, &memory);
    let cid = rig.hear_one().command().unwrap().cid();
    rig.target.complete(cid, Status::permanent(StatusCode::UnrecoveredReadError));
    rig.drive().unwrap();
    assert!(!rig.queue.has_worked(), "nor is an error");
    let request = rig.read(1, 0, &memory);
    rig.serve(&mut store);
    rig.assert_completed(request);
    assert!(rig.queue.has_worked());
    rig.target.stream.outgoing().cut(nvferry_io::stream::Cut::Close);
    rig.drive().unwrap_err();
    assert!(rig.queue.has_worked(), "it had, when it broke");
    rig.connect(16 << 20);
    rig.open();
    assert!(!rig.queue.has_worked(), "this connection is another");
}

#[test]
fn how_long_a_slice_took_is_counted_from_its_submit_on() {
    let mut rig = Rig::new();
    let mut store = store(2);
    let latencies = Arc::new(CommandLatencies::default());
    rig.queue.note_latencies_in(Arc::clone(&latencies));
    let (read, part_of_a_block) = (memory(512), memory(10));
    // There is no connection yet.
    let requests = [rig.read(1, 0, &read), rig.write(1, 5000, &part_of_a_block)];
    rig.pass(Duration::from_secs(3)).unwrap();
    rig.connect(16 << 20);
    rig.open();
    rig.serve(&mut store);
    requests.into_iter().for_each(|request| rig.assert_completed(request));
    let totals = |latencies: &[Latencies; 2]| latencies.each_ref().map(|it| (it.totals().count(), it.totals().sum_us));
    assert_eq!(totals(&latencies.slices), [(1, 3_000_000), (1, 3_000_000)]);
    assert_eq!(totals(&latencies.operations), [(1, 0), (0, 0)], "a block that is changed in part is no slice");
}

#[test]
fn p06_a_withdrawn_file_fails_its_requests_and_no_others() {
    let mut rig = Rig::ready();
    let memory = memory(512);
    // More than get slots, so that some wait.
    let one: Vec<_> = (0..200).map(|_| rig.read(1, 0, &memory)).collect();
    let other = rig.read(2, 0, &memory);
    let heard = rig.hear();
    let two_only = table(2).iter().skip(1).copied().collect();
    rig.queue.set_namespaces(Arc::new(NamespaceTable::new(two_only)));
    let mut store = store(3);
    for heard in heard {
        let (_, command) = heard.io();
        if command.nsid.0 == 1 {
            rig.target.complete(heard.command().unwrap().cid(), Status::permanent(StatusCode::InvalidNamespace));
        } else {
            rig.target.serve(&heard, &mut store, usize::MAX, true);
        }
    }
    rig.drive().unwrap();
    one.into_iter()
        .for_each(|request| rig.assert_ended(request, TransferState::Failed, "the target has withdrawn this file"));
    rig.assert_completed(other);
    let late = rig.read(1, 0, &memory);
    rig.assert_ended(late, TransferState::Failed, "withdrawn");
    assert!(rig.queue.is_idle());
}

#[test]
fn p08_files_that_a_restarted_target_does_not_offer_yet_are_awaited() {
    let mut rig = Rig::ready();
    let mut store = store(4);
    let memory = memory(512);
    let request = rig.read(1, 0, &memory);
    rig.hear_one();
    rig.target.stream.outgoing().cut(nvferry_io::stream::Cut::Close);
    rig.drive().unwrap_err();
    // It is back, with file 2 only.
    let before = table(2);
    let now = NamespaceTable::new(before.iter().skip(1).copied().collect());
    let awaited = Arc::new(before.after_reconnect(&now));
    rig.queue.set_namespaces(Arc::clone(&awaited));
    rig.connect(16 << 20);
    rig.open();
    let other = rig.read(2, 0, &memory);
    rig.serve(&mut store);
    rig.assert_completed(other);
    rig.assert_pending(request);
    rig.queue.set_namespaces(Arc::new(awaited.after_change(&before)));
    rig.serve(&mut store);
    rig.assert_completed(request);
}

#[test]
fn p03_what_lies_beyond_the_file_is_refused_before_anything_is_sent() {
    let mut rig = Rig::ready();
    let memory = memory(1024);
    let capacity = crate::testing::rig::BLOCKS * 512;
    for offset in [capacity, capacity - 1023, u64::MAX, u64::MAX - 1023] {
        let request = rig.read(1, offset, &memory);
        rig.assert_ended(request, TransferState::Failed, "beyond the 2097152 bytes");
    }
    let unknown = rig.read(99, 0, &memory);
    rig.assert_ended(unknown, TransferState::Failed, "does not offer this file");
    assert!(rig.hear().is_empty());
}

#[test]
fn a_target_with_smaller_transfers_after_a_restart_is_obeyed() {
    let mut rig = Rig::new();
    let mut store = store(5);
    // Cut for 1 MiB, while there is no connection.
    let mut big = memory(1 << 20);
    let request = rig.read(1, 700, &big);
    rig.params.max_transfer_bytes = 65_536;
    rig.connect(16 << 20);
    rig.open();
    loop {
        let heard = rig.hear();
        if heard.is_empty() {
            break;
        }
        for one in heard {
            assert!(one.io().1.data_bytes(512) <= 65_536);
            rig.target.serve(&one, &mut store, usize::MAX, true);
        }
    }
    rig.assert_completed(request);
    assert!(*big.bytes().unwrap() == store[700..700 + (1 << 20)]);
}

#[test]
fn slices_that_are_evicted_complete_elsewhere() {
    let mut rig = Rig::ready();
    let (a, b) = (memory(65_536), RegisteredMemory::from(vec![6; 100]));
    let requests = [rig.read(1, 0, &a), rig.write(1, 1_000_000, &b)];
    rig.drive().unwrap();
    rig.stream = None;
    let slices = rig.queue.evict(&mut rig.scratch, rig.now);
    assert_eq!(slices.len(), 2);
    let mut other = Rig::ready();
    let mut store = store(6);
    slices.into_iter().for_each(|slice| other.queue.submit(slice));
    other.serve(&mut store);
    requests.into_iter().for_each(|request| rig.assert_completed(request));
    assert!(store[1_000_000..1_000_100].iter().all(|&b| b == 6));
}
