//! Batches that are awaited, with an executor as plain as can be: any will do.
#![allow(clippy::unwrap_used)] // Failing is what tests do.

mod common;

use common::{Fate, NAME, Script, engine};
use nvferry_engine::{Failure, FileBufferId, Request, TransferState, WaitError};
use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

const FILE: FileBufferId = FileBufferId(1);

/// Wakes by a message.
struct Bell(Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Nobody listens any more when the future has ended.
        let _ = self.0.send(());
    }
}

/// Polls when woken, and fails when no wake-up comes for ten seconds. Returns how often it polled, too.
fn block_on<T>(future: impl IntoFuture<Output = T>) -> (T, u32) {
    let (bell, woken) = channel();
    let waker = Waker::from(Arc::new(Bell(bell)));
    let mut future = pin!(future.into_future());
    for polls in 1.. {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (value, polls);
        }
        woken.recv_timeout(Duration::from_secs(10)).expect("nobody woke the future");
    }
    unreachable!("a future was polled four billion times")
}

#[test]
fn it_is_ready_when_nothing_is_under_way() {
    let script = Script::new();
    let engine = engine(&script);
    let batch = engine.batch(1).unwrap();
    assert!(block_on(&batch).0.is_ok());
}

#[test]
fn several_waiters_are_all_woken_once_all_has_ended() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let batch = engine.batch(16).unwrap();
    let requests = vec![Request::read(&memory, 0..4096, segment, FILE, 0); 16];
    batch.submit(&requests).unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3).map(|_| scope.spawn(|| block_on(batch.done()))).collect();
        for slice in script.take_held() {
            script.complete(slice);
        }
        for waiter in waiters {
            let (result, polls) = waiter.join().unwrap();
            result.unwrap();
            assert!(polls <= 2, "woken {polls} times for one thing");
        }
    });
}

#[test]
fn a_failure_is_what_is_awaited() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 4096).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    script.decide(|_| Fate::Fail(Failure::failed("no")));
    let batch = engine.batch(1).unwrap();
    batch.submit(&[Request::read(&memory, 0..4096, segment, FILE, 0)]).unwrap();
    let (result, _) = block_on(&batch);
    assert!(matches!(result, Err(WaitError::Failed { failed: 1, submitted: 1, .. })));
}

#[test]
fn p01_a_transport_that_never_answers_does_not_hang_those_who_await() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 4096).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let mut batch = engine.batch(1).unwrap().with_request_timeout(Duration::from_millis(5));
    // Twice: whoever looked at the clock for the first does so for the second, too.
    for _ in 0..2 {
        batch.submit(&[Request::read(&memory, 0..4096, segment, FILE, 0)]).unwrap();
        block_on(&batch).0.unwrap_err();
        assert_eq!(batch.status(0).unwrap().state, TransferState::Timeout);
        batch.reset().unwrap();
    }
    assert_eq!(script.held(), 2);
}
