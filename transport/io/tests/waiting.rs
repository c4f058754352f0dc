//! Pollers, and waking a sleeper from other threads.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use nvferry_io::poller::{Events, Interest, Poller, Trigger, Waker};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const NOW: Option<Duration> = Some(Duration::ZERO);

fn ready(poller: &Poller, timeout: Option<Duration>) -> Vec<(u64, bool, bool)> {
    let mut events = Events::with_capacity(8);
    poller.wait(&mut events, timeout).unwrap();
    events.iter().map(|event| (event.token, event.readable, event.writable)).collect()
}

#[test]
fn level_is_told_while_it_lasts_and_edge_once() {
    let poller = Poller::new().unwrap();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    let (mut c, mut d) = UnixStream::pair().unwrap();
    poller.add(a.as_fd(), 1, Interest::READ, Trigger::Level).unwrap();
    poller.add(c.as_fd(), 2, Interest::READ, Trigger::Edge).unwrap();
    assert_eq!(ready(&poller, NOW), []);
    b.write_all(b"x").unwrap();
    d.write_all(b"x").unwrap();
    let mut both = ready(&poller, Some(PATIENCE));
    both.sort_unstable();
    assert_eq!(both, [(1, true, false), (2, true, false)]);
    assert_eq!(ready(&poller, NOW), [(1, true, false)]);
    d.write_all(b"y").unwrap();
    a.read_exact(&mut [0]).unwrap();
    assert_eq!(ready(&poller, Some(PATIENCE)), [(2, true, false)]);
    c.read_exact(&mut [0; 2]).unwrap();
    assert_eq!(ready(&poller, NOW), []);
}

#[test]
fn interest_can_be_changed_and_taken_back() {
    let poller = Poller::new().unwrap();
    let (a, mut b) = UnixStream::pair().unwrap();
    poller.add(a.as_fd(), u64::MAX, Interest::BOTH, Trigger::Level).unwrap();
    b.write_all(b"x").unwrap();
    assert_eq!(ready(&poller, NOW), [(u64::MAX, true, true)]);
    poller.modify(a.as_fd(), 5, Interest::WRITE, Trigger::Level).unwrap();
    assert_eq!(ready(&poller, NOW), [(5, false, true)]);
    poller.modify(a.as_fd(), 5, Interest::NONE, Trigger::Level).unwrap();
    assert_eq!(ready(&poller, NOW), []);
    let again = poller.add(a.as_fd(), 6, Interest::READ, Trigger::Level).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    drop(b);
    assert_eq!(ready(&poller, NOW), [(5, true, true)], "a hang-up is told without interest");
    poller.remove(a.as_fd()).unwrap();
    assert_eq!(ready(&poller, NOW), []);
    assert_eq!(poller.remove(a.as_fd()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_wait_lasts_as_long_as_asked() {
    let poller = Poller::new().unwrap();
    for us in [1, 300, 1500, 20_000] {
        let time = Duration::from_micros(us);
        let start = Instant::now();
        assert_eq!(ready(&poller, Some(time)), []);
        assert!(start.elapsed() >= time, "{time:?}");
    }
}

#[test]
fn more_events_than_room_come_with_the_next_wait() {
    let poller = Poller::new().unwrap();
    let pairs: Vec<_> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
    for (token, (a, _)) in (0..).zip(&pairs) {
        poller.add(a.as_fd(), token, Interest::WRITE, Trigger::Edge).unwrap();
    }
    let mut events = Events::with_capacity(2);
    let mut tokens = Vec::new();
    for expected in [2, 2, 1, 0] {
        poller.wait(&mut events, NOW).unwrap();
        assert_eq!(events.len(), expected);
        tokens.extend(events.iter().map(|event| event.token));
    }
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2, 3, 4]);
}

#[test]
fn waking_one_who_is_awake_costs_no_system_call_and_is_not_forgotten() {
    let poller = Poller::new().unwrap();
    let (waker, sleeper) = Waker::new().unwrap();
    poller.add_sleeper(&sleeper, 9).unwrap();
    for _ in 0..100 {
        waker.wake();
    }
    assert_eq!(ready(&poller, NOW), [], "the descriptor was written");
    assert!(!sleeper.prepare_sleep(), "there is work");
    assert!(sleeper.prepare_sleep());
    let clone = waker.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| clone.wake());
    });
    waker.wake();
    assert_eq!(ready(&poller, Some(PATIENCE)), [(9, true, false)]);
    assert!(sleeper.woke());
    assert_eq!(ready(&poller, NOW), [], "one event, which nobody has to clear");
    // And again: a descriptor that is readable already still wakes.
    assert!(sleeper.prepare_sleep());
    waker.wake();
    assert_eq!(ready(&poller, Some(PATIENCE)), [(9, true, false)]);
    assert!(sleeper.woke());
    assert!(sleeper.prepare_sleep());
    assert!(!sleeper.woke(), "nobody woke it");
}

/// Threads hand numbers over one at a time, each waiting until its last was taken, so that a lost wake-up is not made
/// good by the next. It ends in a sleep that times out.
fn hand_over(threads: u64, each: u64) {
    let poller = Poller::new().unwrap();
    let (waker, sleeper) = Waker::new().unwrap();
    poller.add_sleeper(&sleeper, 1).unwrap();
    let queue: Mutex<VecDeque<(usize, u64)>> = Mutex::default();
    let taken: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    let (mut count, mut sleeps) = (0, 0_u64);
    std::thread::scope(|scope| {
        for thread in 0..threads as usize {
            let (waker, queue, taken) = (waker.clone(), &queue, &taken);
            scope.spawn(move || {
                for n in 1..=each {
                    queue.lock().unwrap().push_back((thread, n));
                    waker.wake();
                    let start = Instant::now();
                    let mut looks = 0_u32;
                    while taken[thread].load(Ordering::Acquire) < n {
                        looks += 1;
                        if looks.is_multiple_of(256) {
                            std::thread::yield_now();
                            assert!(start.elapsed() < 2 * PATIENCE, "thread {thread}: {n} was never taken");
                        }
                    }
                }
            });
        }
        let mut events = Events::with_capacity(1);
        while count < threads * each {
            while let Some((thread, n)) = { queue.lock().unwrap().pop_front() } {
                count += 1;
                assert_eq!(taken[thread].swap(n, Ordering::AcqRel), n - 1);
            }
            // Of ever-changing length, so that wake-ups fall into every gap between here and the sleep.
            (0..count % 211).for_each(|_| std::hint::spin_loop());
            if count < threads * each && sleeper.prepare_sleep() {
                let start = Instant::now();
                poller.wait(&mut events, Some(PATIENCE)).unwrap();
                sleeper.woke();
                assert!(start.elapsed() < PATIENCE, "a wake-up was lost after {count} of {}", threads * each);
                sleeps += 1;
            }
        }
    });
    assert!(sleeps > 0, "it never slept, so nothing was tested");
}

#[test]
fn no_wake_up_is_lost() {
    for threads in [1, 2, 3, 8] {
        hand_over(threads, 24_000 / threads);
    }
}
