//! Every slice ends by its deadline, and what has ended touches no memory (P1, P7).

use crate::testing::rig::{Rig, memory, store};
use nvferry_engine::{Operation, TransferState};
use nvferry_io::pages::Pages;
use nvferry_io::vector::{Gather, Scatter};
use nvferry_io::{RegisteredMemory, Stream};
use nvferry_wire::StatusCode;
use nvferry_wire::pdu::DataEnd;
use std::io;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn p01_a_silent_target_holds_nothing_beyond_the_deadline() {
    let mut rig = Rig::ready();
    let (short, long) = (memory(4096), memory(4096));
    let first = rig.submit(Operation::Read, 1, 0, &short, SECOND);
    let second = rig.submit(Operation::Write, 1, 0, &long, 2 * SECOND);
    assert_eq!(rig.hear().len(), 2);
    assert_eq!(rig.queue.next_timer(), Some(rig.now + SECOND));
    rig.pass(SECOND - Duration::from_millis(1)).unwrap();
    rig.assert_pending(first);
    rig.pass(Duration::from_millis(1)).unwrap();
    rig.assert_ended(first, TransferState::Timeout, "before the target was done");
    rig.assert_pending(second);
    rig.pass(SECOND).unwrap();
    rig.assert_ended(second, TransferState::Timeout, "before the target was done");
    assert!(!short.is_leased() && !long.is_leased(), "the memory is free");
}

#[test]
fn p01_without_a_connection_slices_end_too() {
    let mut rig = Rig::new();
    let memory = memory(512);
    let request = rig.submit(Operation::Read, 1, 0, &memory, SECOND);
    rig.pass(SECOND).unwrap();
    rig.assert_ended(request, TransferState::Timeout, "before there was a connection");
    assert!(rig.queue.is_idle());
}

#[test]
fn p01_a_target_that_does_not_answer_the_opening_is_given_up() {
    for answered in [0, 1] {
        let mut rig = Rig::new();
        rig.connect(1 << 20);
        for _ in 0..answered {
            let icreq = rig.hear_one();
            rig.target.open(&icreq);
            rig.drive().unwrap();
        }
        let timer = rig.queue.next_timer().expect("there is a limit");
        let error = rig.pass(timer - rig.now).unwrap_err();
        let words = ["ICReq was not answered", "Connect was not answered"][answered];
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// A stream whose peer is gone, and whose kernel knows.
struct Dead;

impl Stream for Dead {
    fn recv(&mut self, _into: &mut Scatter<'_>) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, _from: &Gather<'_>) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send_pages(&mut self, _pages: &mut Pages, _more: bool) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn check_peer(&mut self, _now: Instant) -> io::Result<()> {
        Err(io::ErrorKind::TimedOut.into())
    }
}

#[test]
fn p08_a_target_that_is_gone_is_found_while_commands_are_under_way() {
    let mut rig = Rig::ready();
    let mut now = rig.now + 6 * SECOND;
    assert_eq!(rig.queue.next_timer(), None, "nothing to look for");
    rig.queue.tick(Some(&mut Dead), now).unwrap();
    let memory = memory(4096);
    rig.read(1, 0, &memory);
    assert_eq!(rig.hear().len(), 1);
    let check = rig.queue.next_timer().expect("it is looked for");
    assert!(check <= now + 5 * SECOND, "before the request's deadline");
    now = check;
    let error = rig.queue.tick(Some(&mut Dead), now).unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[test]
fn late_data_touches_nothing_and_the_slot_is_used_again() {
    let mut rig = Rig::ready();
    let mut late = memory(65_536);
    let request = rig.submit(Operation::Read, 1, 0, &late, SECOND);
    let cid = rig.hear_one().command().unwrap().cid();
    // Half of it comes in time.
    rig.target.say_data(cid, 0, &[1; 32_768], DataEnd::More);
    rig.drive().unwrap();
    rig.pass(SECOND).unwrap();
    rig.assert_ended(request, TransferState::Timeout, "");
    let bytes = late.bytes().expect("the lease is over");
    bytes.fill(0x77);
    assert_eq!(rig.queue.in_flight(), 1, "the command is still under way");
    rig.target.say_data(cid, 32_768, &[2; 32_768], DataEnd::LastWithSuccess);
    rig.drive().unwrap();
    assert!(late.bytes().unwrap().iter().all(|&b| b == 0x77), "what came late went nowhere");
    assert!(rig.queue.is_idle());
    // In the middle of a PDU, too.
    let mut again = memory(65_536);
    let request = rig.submit(Operation::Read, 1, 0, &again, SECOND);
    let cid = rig.hear_one().command().unwrap().cid();
    let pdu = rig.target.data_pdu(cid, 0, &[3; 65_536], DataEnd::LastWithSuccess);
    rig.target.say_raw(&pdu[..40_000]);
    rig.drive().unwrap();
    rig.pass(SECOND).unwrap();
    rig.assert_ended(request, TransferState::Timeout, "");
    again.bytes().unwrap().fill(0x77);
    rig.target.say_raw(&pdu[40_000..]);
    rig.drive().unwrap();
    assert!(again.bytes().unwrap().iter().all(|&b| b == 0x77));
    let mut store = store(1);
    let mut memory = memory(512);
    let request = rig.read(1, 0, &memory);
    rig.serve(&mut store);
    rig.assert_completed(request);
    assert!(*memory.bytes().unwrap() == store[..512]);
}

#[test]
fn a_write_that_timed_out_is_not_asked_for_its_data() {
    let mut rig = Rig::ready();
    let bytes = memory(32_768);
    let request = rig.submit(Operation::Write, 1, 0, &bytes, SECOND);
    let cid = rig.hear_one().command().unwrap().cid();
    rig.pass(SECOND).unwrap();
    rig.assert_ended(request, TransferState::Timeout, "");
    assert!(!bytes.is_leased());
    rig.target.say_r2t(cid, 1, 0, 32_768);
    let error = rig.drive().unwrap_err();
    assert!(error.to_string().contains("a write that had timed out"), "{error}");
}

#[test]
fn a_deadline_within_a_payload_ends_the_connection_and_only_that_slice() {
    let mut rig = Rig::new();
    rig.connect(4096);
    rig.open();
    let (bytes, other) = (memory(8192), memory(512));
    let stuck = rig.submit(Operation::Write, 1, 0, &bytes, SECOND);
    let patient = rig.submit(Operation::Read, 1, 0, &other, 10 * SECOND);
    // The stream is full in the middle of the capsule, and the target reads no more.
    rig.drive().unwrap();
    let error = rig.pass(SECOND).unwrap_err();
    assert!(error.to_string().contains("while its data was being sent"), "{error}");
    rig.assert_ended(stuck, TransferState::Timeout, "");
    assert!(!bytes.is_leased());
    rig.assert_pending(patient);
    rig.connect(1 << 20);
    rig.open();
    rig.serve(&mut store(1));
    rig.assert_completed(patient);
}

/// Commands for another file waited for room to send, and nothing looked again when all had been sent, as long as nothing was
/// answered.
#[test]
fn p07_what_waits_for_room_is_sent_when_there_is_some_though_nothing_is_answered() {
    let mut rig = Rig::new();
    rig.params.in_capsule_bytes = 16 << 10;
    rig.connect(600 << 10);
    rig.open();
    let bytes = memory(16 << 10);
    // More than the stream and the queue behind it hold. The target takes them, and never answers.
    (0..90).for_each(|_| _ = rig.write(1, 0, &bytes));
    rig.drive().unwrap();
    let other = memory(512);
    rig.read(2, 0, &other);
    rig.drive().unwrap();
    let mut heard = rig.target.hear();
    loop {
        let stream = rig.stream.as_mut().unwrap();
        let driven = rig.queue.drive(stream, &mut rig.scratch, rig.now, false).unwrap();
        heard.extend(rig.target.hear());
        if !driven.blocked {
            // No event would have it driven again.
            break;
        }
    }
    let nsids: Vec<u32> = heard.iter().map(|heard| heard.command().unwrap().nsid().0).collect();
    assert_eq!(nsids.len(), 91, "all commands have been sent: {nsids:?}");
    assert!(nsids.contains(&2));
}

#[test]
fn p07_a_stalled_file_holds_only_its_own_slots() {
    let mut rig = Rig::ready();
    let stalled = memory(512);
    let requests: Vec<_> = (0..500).map(|_| rig.submit(Operation::Read, 1, 0, &stalled, 60 * SECOND)).collect();
    // The target never answers for file 1.
    let held = rig.hear().len();
    assert!(held < 127, "one file does not get all slots");
    let mut store = store(2);
    for _ in 0..100 {
        let mut memory = memory(4096);
        let request = rig.read(2, 512, &memory);
        rig.serve(&mut store);
        rig.assert_completed(request);
        assert!(*memory.bytes().unwrap() == store[512..4608]);
    }
    // A minute later file 1's have timed out, and file 2 goes on over the same connection.
    rig.pass(60 * SECOND).unwrap();
    requests.iter().for_each(|&request| rig.assert_ended(request, TransferState::Timeout, ""));
    assert_eq!(rig.queue.in_flight(), held);
    let memory = memory(4096);
    let request = rig.read(2, 0, &memory);
    rig.serve(&mut store);
    rig.assert_completed(request);
}

#[test]
fn a_connection_on_which_nothing_is_answered_is_replaced() {
    let mut rig = Rig::new();
    rig.params.entries = 2;
    rig.connect(1 << 20);
    rig.open();
    let memory = memory(512);
    rig.submit(Operation::Read, 1, 0, &memory, SECOND);
    rig.drive().unwrap();
    let error = rig.pass(SECOND).unwrap_err();
    assert!(error.to_string().contains("none of its commands was answered"), "{error}");
}

#[test]
fn an_error_while_data_is_leaving_waits_for_the_data_to_have_left() {
    let mut rig = Rig::new();
    rig.connect(4096);
    rig.open();
    let bytes = RegisteredMemory::from(vec![1; 65_536]);
    let request = rig.write(1, 0, &bytes);
    let cid = rig.hear_one().command().unwrap().cid();
    rig.target.say_r2t(cid, 1, 0, 65_536);
    rig.drive().unwrap();
    // The disk is full; most of the data has not left.
    rig.target.complete(cid, StatusCode::CapacityExceeded);
    rig.drive().unwrap();
    rig.assert_pending(request);
    assert!(bytes.is_leased());
    while !rig.hear().is_empty() || rig.outcome(request).is_none() {}
    rig.assert_ended(request, TransferState::Failed, "Capacity Exceeded");
    assert!(!bytes.is_leased());
}

#[test]
fn closing_ends_everything() {
    let mut rig = Rig::ready();
    let (reading, writing, edge) = (memory(65_536), memory(65_536), memory(10));
    let requests =
        [rig.read(1, 0, &reading), rig.write(1, 0, &writing), rig.write(2, 3, &edge), rig.write(2, 5, &edge)];
    rig.drive().unwrap();
    rig.stream = None;
    let (queue, scratch) = (&mut rig.queue, &mut rig.scratch);
    queue.close(scratch, rig.now, || nvferry_engine::Failure::canceled("closed"));
    requests.iter().for_each(|&request| rig.assert_ended(request, TransferState::Canceled, "closed"));
    assert!(!reading.is_leased() && !writing.is_leased() && !edge.is_leased());
}
