//! File I/O by plain system calls on a bounded pool of threads: works on every kernel and every file.
//!
//! Requests wait in one lane a file. A lane may keep only so many threads busy, and a file of which nothing is under
//! way always gets a thread, above the pool's limit if need be: files that stall take no thread from any other (P7).
//! Threads start on demand and end when idle for a while. A thread owns its request, so its memory stays alive
//! however the engine ends.

use super::progress::MAX_BYTES_PER_CALL;
use super::signal::Signal;
use super::{IoCompletion, IoEngine, IoRequest, blocking};
use crate::file::IoFile;
use crate::sys;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long dropping an engine waits for operations under way.
pub(crate) const DROP_WAIT: Duration = Duration::from_secs(5);

/// Limits of a [`ThreadsEngine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadsConfig {
    /// Operations that may be under way at once.
    pub capacity: usize,
    /// Threads that share the work; above it, each file of which nothing runs may have one.
    pub max_threads: usize,
    /// Threads that one file may keep busy.
    pub max_threads_per_file: usize,
    /// How long a thread without work stays.
    pub idle: Duration,
    /// The most that one system call shall move, in bytes; what is longer takes several.
    pub max_bytes_per_call: usize,
}

impl ThreadsConfig {
    /// 32 threads, 16 a file, gone after ten seconds without work.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            max_threads: 32,
            max_threads_per_file: 16,
            idle: Duration::from_secs(10),
            max_bytes_per_call: MAX_BYTES_PER_CALL,
        }
    }
}

/// The threads engine.
#[derive(Debug)]
pub struct ThreadsEngine {
    shared: Arc<Shared>,
    /// Submitted and not handed over.
    staged: Vec<IoRequest>,
    /// Scratch that changes places with the pool's list of what has ended.
    ended: Vec<IoCompletion>,
    in_flight: usize,
}

/// What a thread does with a request; the second argument is the most bytes per call.
type Run = fn(&IoRequest, usize) -> io::Result<usize>;

#[derive(Debug)]
struct Shared {
    config: ThreadsConfig,
    run: Run,
    state: Mutex<State>,
    /// Idle threads wait here for a ticket.
    work: Condvar,
    /// Told when the last running operation ends after closing.
    quiet: Condvar,
    ended: Signal,
}

/// The requests of one file.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<IoRequest>,
    running: usize,
}

#[derive(Debug, Default)]
struct State {
    lanes: Vec<Lane>,
    free_lanes: Vec<usize>,
    lane_of: HashMap<usize, usize>,
    /// Lanes with waiting requests, in the order of their turns.
    turns: VecDeque<usize>,
    /// Requests that may begin and that no thread has taken yet, with their lanes.
    assigned: VecDeque<(usize, IoRequest)>,
    /// Requests that are assigned or being done.
    running: usize,
    /// Threads that are there.
    threads: usize,
    /// Of these, the ones that sleep and were not called.
    idle: usize,
    /// Of these, the ones that were started or called and have not looked for work yet.
    looking: usize,
    /// Calls to sleeping threads that none has heard yet.
    calls: usize,
    ended: Vec<IoCompletion>,
    /// Whether the descriptor was made readable since the last reap.
    signalled: bool,
    closing: bool,
}

/// Tells files apart. An address, which no other file can have while a waiting or running request keeps this one.
fn key_of(file: &Arc<IoFile>) -> usize {
    Arc::as_ptr(file) as usize
}

impl State {
    fn enqueue(&mut self, request: IoRequest) {
        let key = key_of(&request.file);
        let lane = match self.lane_of.get(&key) {
            Some(&lane) => lane,
            None => {
                let lane = self.free_lanes.pop().unwrap_or_else(|| {
                    self.lanes.push(Lane::default());
                    self.lanes.len() - 1
                });
                self.lane_of.insert(key, lane);
                lane
            }
        };
        if self.lanes[lane].waiting.is_empty() {
            self.turns.push_back(lane);
        }
        self.lanes[lane].waiting.push_back(request);
    }

    /// The place in the turns of the first lane that may have another thread.
    fn startable(&self, config: &ThreadsConfig) -> Option<usize> {
        let full = self.running >= config.max_threads;
        self.turns.iter().position(|&lane| {
            let running = self.lanes[lane].running;
            running == 0 || (!full && running < config.max_threads_per_file)
        })
    }

    fn take(&mut self, config: &ThreadsConfig) -> Option<(usize, IoRequest)> {
        let lane = self.turns.remove(self.startable(config)?)?;
        let request = self.lanes[lane].waiting.pop_front()?;
        if !self.lanes[lane].waiting.is_empty() {
            self.turns.push_back(lane);
        }
        self.lanes[lane].running += 1;
        self.running += 1;
        Some((lane, request))
    }

    fn finish(&mut self, lane: usize, key: usize) {
        self.running -= 1;
        self.lanes[lane].running -= 1;
        if self.lanes[lane].running == 0 && self.lanes[lane].waiting.is_empty() {
            self.lane_of.remove(&key);
            self.free_lanes.push(lane);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way, short of memory running out, which aborts.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push_ended(&self, state: &mut State, completion: IoCompletion) {
        state.ended.push(completion);
        if !state.signalled {
            state.signalled = true;
            self.ended.raise();
        }
    }

    /// Assigns what may begin, and sees that there are threads for it: idle ones, or new ones.
    fn staff(self: &Arc<Self>, state: &mut State) {
        while let Some(job) = state.take(&self.config) {
            state.assigned.push_back(job);
            if state.looking >= state.assigned.len() {
                continue;
            }
            if state.idle > 0 {
                state.idle -= 1;
                state.looking += 1;
                state.calls += 1;
                self.work.notify_one();
                continue;
            }
            let shared = Arc::clone(self);
            match std::thread::Builder::new().name("nvferry-io".into()).spawn(move || shared.work()) {
                Ok(_) => {
                    state.threads += 1;
                    state.looking += 1;
                }
                Err(error) if state.threads == 0 => self.fail_assigned(state, &error),
                // The threads that there are will come to it.
                Err(_) => {}
            }
        }
    }

    fn fail_assigned(&self, state: &mut State, error: &io::Error) {
        while let Some((lane, request)) = state.assigned.pop_front() {
            state.finish(lane, key_of(&request.file));
            let result = Err(io::Error::new(error.kind(), format!("cannot start an I/O thread: {error}")));
            self.push_ended(state, IoCompletion { token: request.token, result, buf: request.buf });
        }
    }

    /// The life of a thread, from being started until it was idle for too long.
    fn work(self: Arc<Self>) {
        let mut state = self.lock();
        loop {
            state.looking -= 1;
            while let Some((lane, request)) = state.assigned.pop_front().or_else(|| state.take(&self.config)) {
                drop(state);
                let result = (self.run)(&request, self.config.max_bytes_per_call);
                let IoRequest { token, file, buf, .. } = request;
                let key = key_of(&file);
                // If it is the last to hold the file this closes it, which may take time. Should another file get the
                // same key before the lane knows, the two share a lane, which is harmless.
                drop(file);
                let completion = IoCompletion { token, result, buf };
                state = self.lock();
                if state.closing {
                    // Whoever waits for the end wants the memory back, too.
                    drop(state);
                    drop(completion);
                    state = self.lock();
                    state.finish(lane, key);
                    self.quiet.notify_all();
                } else {
                    state.finish(lane, key);
                    self.push_ended(&mut state, completion);
                }
            }
            state.idle += 1;
            let asleep =
                self.work.wait_timeout_while(state, self.config.idle, |state| state.calls == 0 && !state.closing);
            state = asleep.unwrap_or_else(PoisonError::into_inner).0;
            if state.calls == 0 {
                state.idle -= 1;
                state.threads -= 1;
                return;
            }
            state.calls -= 1;
        }
    }
}

impl ThreadsEngine {
    /// An engine without threads yet.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(config: ThreadsConfig) -> io::Result<Self> {
        Self::with_run(config, blocking::run)
    }

    fn with_run(config: ThreadsConfig, run: Run) -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                run,
                state: Mutex::new(State::default()),
                work: Condvar::new(),
                quiet: Condvar::new(),
                ended: Signal::new()?,
            }),
            staged: Vec::new(),
            ended: Vec::new(),
            in_flight: 0,
        })
    }

    /// Threads that exist now.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.lock().threads
    }
}

impl IoEngine for ThreadsEngine {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn capacity(&self) -> usize {
        self.shared.config.capacity
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        if self.in_flight >= self.capacity() {
            return Err(request);
        }
        self.in_flight += 1;
        self.staged.push(request);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let mut state = self.shared.lock();
        for request in self.staged.drain(..) {
            state.enqueue(request);
        }
        self.shared.staff(&mut state);
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        {
            let mut state = self.shared.lock();
            std::mem::swap(&mut state.ended, &mut self.ended);
            if state.signalled {
                state.signalled = false;
                self.shared.ended.clear();
            }
        }
        self.in_flight -= self.ended.len();
        done.append(&mut self.ended);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.ended.as_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.flush()?;
        if self.in_flight > 0 {
            sys::wait_readable(self.wake_fd(), timeout)?;
        }
        Ok(())
    }
}

impl Drop for ThreadsEngine {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.work.notify_all();
        // What no thread has begun never begins.
        let assigned = std::mem::take(&mut state.assigned);
        state.running -= assigned.len();
        state.turns.clear();
        let waiting: Vec<IoRequest> = state.lanes.iter_mut().flat_map(|lane| lane.waiting.drain(..)).collect();
        let quiet = self.shared.quiet.wait_timeout_while(state, DROP_WAIT, |state| state.running > 0);
        let mut state = quiet.unwrap_or_else(PoisonError::into_inner).0;
        // Threads that have yet to notice the end keep the shared part alive; no request's memory shall wait for them.
        let ended = std::mem::take(&mut state.ended);
        if state.running > 0 {
            tracing::warn!(operations = state.running, "left behind: file operations that did not end");
        }
        drop(state);
        drop((assigned, waiting, ended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{IoBuf, IoKind};
    use std::collections::HashSet;
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn file(name: &str) -> Arc<IoFile> {
        Arc::new(IoFile::in_memory(name, 4096).unwrap())
    }

    fn request(token: u64, file: &Arc<IoFile>) -> IoRequest {
        IoRequest { token, file: Arc::clone(file), kind: IoKind::SyncData, offset: 0, buf: IoBuf::None }
    }

    fn finish(engine: &mut ThreadsEngine, count: usize) -> Vec<u64> {
        let deadline = Instant::now() + PATIENCE;
        let mut done = Vec::new();
        engine.flush().unwrap();
        while done.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} ended", done.len());
            engine.wait(Some(PATIENCE)).unwrap();
            engine.reap(&mut done);
        }
        done.into_iter().map(|done| done.token).collect()
    }

    /// A file of the name "stalled" does nothing until the gate opens.
    static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

    fn stall(request: &IoRequest, _: usize) -> io::Result<usize> {
        if request.file.path().to_string_lossy().starts_with("stalled") {
            let open = GATE.0.lock().unwrap();
            let _open = GATE.1.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap();
        }
        Ok(0)
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files in memory")]
    fn p07_stalled_files_take_no_thread_from_others() {
        let config = ThreadsConfig { max_threads: 4, max_threads_per_file: 2, ..ThreadsConfig::with_capacity(1000) };
        let mut engine = ThreadsEngine::with_run(config, stall).unwrap();
        // More stalled files than threads, each with more to do than it may have threads.
        let stalled: Vec<_> = (0..6).map(|n| file(&format!("stalled {n}"))).collect();
        for (token, file) in (0..60).zip(stalled.iter().cycle()) {
            engine.submit(request(token, file)).expect("has room");
        }
        engine.flush().unwrap();
        let well = file("well");
        for token in 1000..1100 {
            engine.submit(request(token, &well)).expect("has room");
        }
        let ended: HashSet<u64> = finish(&mut engine, 100).into_iter().collect();
        assert_eq!(ended, (1000..1100).collect(), "only the other file's operations can have ended");
        assert!(engine.threads() <= 4 + 7, "{} threads", engine.threads());
        *GATE.0.lock().unwrap() = true;
        GATE.1.notify_all();
        assert_eq!(finish(&mut engine, 60).into_iter().collect::<HashSet<_>>(), (0..60).collect());
        assert_eq!(engine.in_flight(), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs files in memory")]
    fn threads_start_on_demand_stay_bounded_and_end_when_idle() {
        let config =
            ThreadsConfig { max_threads: 3, idle: Duration::from_millis(1), ..ThreadsConfig::with_capacity(500) };
        let mut engine = ThreadsEngine::new(config).unwrap();
        assert_eq!(engine.threads(), 0);
        let file = file("one");
        for round in 0..20 {
            for token in 0..500 {
                engine.submit(request(token, &file)).expect("has room");
            }
            engine.flush().unwrap();
            assert!(engine.threads() <= 3, "round {round}: {} threads for one file", engine.threads());
            assert_eq!(finish(&mut engine, 500).len(), 500);
        }
        let deadline = Instant::now() + PATIENCE;
        while engine.threads() > 0 {
            assert!(Instant::now() < deadline, "idle threads stay");
            std::thread::yield_now();
        }
        assert_eq!(finish_one(&mut engine, &file), 9);
        let state = engine.shared.lock();
        assert!(state.lane_of.is_empty() && state.turns.is_empty() && state.running == 0);
        assert_eq!(state.free_lanes.len(), state.lanes.len(), "a lane leaked");
    }

    fn finish_one(engine: &mut ThreadsEngine, file: &Arc<IoFile>) -> u64 {
        engine.submit(request(9, file)).expect("has room");
        finish(engine, 1)[0]
    }
}
