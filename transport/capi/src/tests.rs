//! What only a transport that does as it is told can show: when a batch and an engine may go.
#![allow(unreachable_pub)]

#[path = "../../engine/tests/common/mod.rs"]
mod common;

use crate::entries::*;
use crate::entry::text;
use crate::handles;
use crate::layout::{TransferRequest, TransferStatus};
use common::{Fate, NAME, Script};
use nvferry_engine::{ErrorKind, TransferState};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BUSY: i32 = ErrorKind::BatchBusy as i32;
const INVALID: i32 = ErrorKind::InvalidArgument as i32;

fn last_error() -> String {
    // SAFETY: it is this thread's text, which ends with a zero byte.
    unsafe { text(nvferry_last_error(), "text") }.unwrap().to_owned()
}

/// An engine with one file, its segment open, and registered memory that outlives the test.
struct Rig {
    script: Arc<Script>,
    engine: *mut c_void,
    memory: *mut c_void,
    request: TransferRequest,
}

impl Rig {
    fn new() -> Self {
        let script = Script::new();
        let engine = common::engine(&script);
        let file = engine.register_local_file("/a", 1 << 20).unwrap();
        let segment = engine.open_segment(NAME).unwrap();
        let engine = handles::add_engine(engine);
        let memory: *mut c_void = Box::leak(Box::new([0_u8; 4096])).as_mut_ptr().cast();
        // SAFETY: the memory is never freed.
        assert_eq!(unsafe { registerLocalMemory(engine, memory, 4096, null_mut(), 0) }, 0);
        let request = TransferRequest {
            opcode: 0,
            source: memory,
            target_id: segment.0,
            file_id: file.0,
            target_offset: 0,
            length: 4096,
        };
        Self { script, engine, memory, request }
    }

    fn submit(&self, batch: u64) -> i32 {
        let mut request = self.request;
        // SAFETY: there is one request, and nothing else looks at the memory.
        unsafe { submitTransfer(self.engine, batch, &raw mut request, 1) }
    }

    fn state(&self, batch: u64, task: usize) -> i32 {
        let mut status = TransferStatus { status: -99, transferred_bytes: 0 };
        // SAFETY: the status may be written.
        match unsafe { getTransferStatus(self.engine, batch, task, &raw mut status) } {
            0 => status.status,
            error => error,
        }
    }
}

#[test]
fn destroying_says_when_memory_is_still_in_use_and_can_be_asked_again() {
    let rig = Rig::new();
    rig.script.decide(|_| Fate::Hold);
    let batch = allocateBatchID(rig.engine, 1);
    assert_eq!(nvferry_set_batch_timeout(rig.engine, batch, 20), 0);
    assert_eq!(rig.submit(batch), 0);

    assert_eq!(nvferry_destroy(rig.engine, 50), BUSY);
    assert!(last_error().contains(&format!("{:#x}", rig.memory.addr())), "{}", last_error());
    // The handle still stands, and the engine has ended.
    assert_eq!(allocateBatchID(rig.engine, 1), u64::MAX);
    assert!(last_error().contains("shut down"), "{}", last_error());
    assert_eq!(unregisterLocalMemory(rig.engine, rig.memory), BUSY);
    assert_eq!(nvferry_wait_batch(rig.engine, batch, 20_000), ErrorKind::Endpoint as i32);
    assert_eq!(rig.state(batch, 0), TransferState::Timeout as i32);

    let (held, handle) = (rig.script.take_held(), rig.engine.addr());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || nvferry_destroy(handle as *mut c_void, 60_000));
        drop(held);
        assert_eq!(waiting.join().unwrap(), 0);
    });
    assert_eq!(nvferry_destroy(rig.engine, 0), INVALID);
    assert_eq!(rig.state(batch, 0), INVALID);
}

#[test]
fn a_batch_is_not_freed_under_a_thread_that_uses_it() {
    let rig = Rig::new();
    rig.script.decide(|_| Fate::Hold);
    let batch = allocateBatchID(rig.engine, 2);
    let used = handles::batch(rig.engine, batch).unwrap();
    assert_eq!(freeBatchID(rig.engine, batch), BUSY);
    assert!(last_error().contains("another thread"), "{}", last_error());
    drop(used);
    assert_eq!(rig.submit(batch), 0);
    assert_eq!(freeBatchID(rig.engine, batch), BUSY);
    assert!(last_error().contains("under way"), "{}", last_error());
    rig.script.let_go();
    assert_eq!(freeBatchID(rig.engine, batch), 0);
    assert_eq!(rig.submit(batch), INVALID);
    assert_eq!(nvferry_destroy(rig.engine, 10_000), 0);
}

#[test]
fn submitting_and_freeing_at_once_never_loses_a_request() {
    for _ in 0..200 {
        let rig = Rig::new();
        let batch = allocateBatchID(rig.engine, 1);
        let handle = rig.engine.addr();
        let freed = std::thread::scope(|scope| {
            let freeing = scope.spawn(move || freeBatchID(handle as *mut c_void, batch));
            let submitted = rig.submit(batch);
            let freed = freeing.join().unwrap();
            match submitted {
                // Freed before it, or after it had ended, or not at all.
                0 => assert!(freed == 0 || freed == BUSY, "{freed}"),
                refused => assert_eq!((refused, freed), (INVALID, 0)),
            }
            freed
        });
        if freed != 0 {
            assert_eq!(rig.state(batch, 0), TransferState::Completed as i32);
        }
        assert_eq!(nvferry_destroy(rig.engine, 10_000), 0);
    }
}

#[test]
fn a_batchs_requests_end_by_its_timeout_and_say_why() {
    let rig = Rig::new();
    rig.script.decide(|_| Fate::Hold);
    let batch = allocateBatchID(rig.engine, 3);
    assert_eq!(nvferry_set_batch_timeout(rig.engine, batch, 20), 0);
    assert_eq!(rig.submit(batch), 0);
    assert_eq!(nvferry_set_batch_timeout(rig.engine, batch, 0), 0);
    assert_eq!(rig.submit(batch), 0);
    assert_eq!(nvferry_set_batch_timeout(rig.engine, batch, u64::MAX), 0);
    assert_eq!(rig.submit(batch), 0);
    let begun = Instant::now();
    while rig.state(batch, 0) == TransferState::Pending as i32 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it has not timed out");
        std::thread::yield_now();
    }
    let states = [0, 1, 2].map(|task| rig.state(batch, task));
    assert_eq!(states, [TransferState::Timeout, TransferState::Pending, TransferState::Pending].map(|s| s as i32));
    assert_eq!(rig.state(batch, 3), INVALID);
    // SAFETY: these are texts that end with a zero byte.
    let why = |task| unsafe { text(nvferry_transfer_error(rig.engine, batch, task), "text") }.map(str::to_owned);
    assert!(why(0).unwrap().contains("read of 4096 bytes at 0 of file 1 (/a) of segment"), "{:?}", why(0));
    assert_eq!(why(1).unwrap(), "");
    assert!(why(3).is_err(), "NULL for a request that was not submitted");
    assert_eq!(nvferry_set_batch_timeout(rig.engine, batch + 2, 20), INVALID);

    assert_eq!(nvferry_cancel_batch(rig.engine, batch), 0);
    assert_eq!(rig.state(batch, 1), TransferState::Canceled as i32);
    // What was canceled is over for the batch, but not for the memory.
    assert_eq!(freeBatchID(rig.engine, batch), 0);
    assert_eq!(unregisterLocalMemory(rig.engine, rig.memory), BUSY);
    rig.script.let_go();
    assert_eq!(unregisterLocalMemory(rig.engine, rig.memory), 0);
    assert_eq!(nvferry_destroy(rig.engine, 10_000), 0);
}

#[test]
fn the_own_segment_is_opened_again_after_it_was_closed() {
    let mut rig = Rig::new();
    rig.request.target_id = 0;
    let batch = allocateBatchID(rig.engine, 2);
    for task in [0, 1] {
        assert_eq!(rig.submit(batch), 0, "{}", last_error());
        assert_eq!(rig.state(batch, task), TransferState::Completed as i32);
        let mut id = 0;
        // SAFETY: the texts end with a zero byte, and the id may be written.
        unsafe {
            assert_eq!(removeLocalSegment(rig.engine, c"127.0.0.1:8081".as_ptr()), 0);
            // Published again with the next file.
            assert_eq!(registerLocalFile(rig.engine, c"/b".as_ptr(), 4096, &raw mut id), 0);
            assert_eq!(unregisterLocalFile(rig.engine, c"/b".as_ptr()), 0);
        }
    }
    assert_eq!(nvferry_destroy(rig.engine, 10_000), 0);
}

#[test]
fn a_batch_belongs_to_its_engine() {
    let (one, other) = (Rig::new(), Rig::new());
    let batch = allocateBatchID(one.engine, 1);
    assert_eq!(other.submit(batch), INVALID);
    assert_eq!(freeBatchID(other.engine, batch), INVALID);
    assert_eq!(nvferry_destroy(one.engine, 10_000), 0);
    assert_eq!(freeBatchID(one.engine, batch), INVALID);
    assert_eq!(nvferry_destroy(other.engine, 10_000), 0);
}
