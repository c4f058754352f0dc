//! Storage that answers when, in which order and how the input says. What it holds is in memory.

use nvferry_io::file::FileIdentity;
use nvferry_io::{IoBuf, IoCompletion, IoEngine, IoFile, IoKind, IoRequest};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Operations that it takes at once: few, so that the bound is met.
const CAPACITY: usize = 24;

/// What all files hold.
pub(crate) type Files = Arc<Mutex<HashMap<FileIdentity, Vec<u8>>>>;

#[derive(Default)]
struct State {
    files: Files,
    waiting: Vec<IoRequest>,
    done: Vec<IoCompletion>,
}

/// How an operation ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// As it should.
    Well,
    /// With this error number, after so many of its bytes.
    Error { errno: i32, after: usize },
    /// Fewer bytes than asked for, without an error.
    Short(usize),
}

/// The storage, from outside.
#[derive(Clone, Default)]
pub(crate) struct Storage(Arc<Mutex<State>>);

/// The storage, as the target has it.
struct Engine {
    storage: Storage,
    /// Never readable.
    null: File,
}

impl Storage {
    fn lock(&self) -> MutexGuard<'_, State> {
        // One thread; a panic ends everything.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The storage of one reactor.
    pub(crate) fn new(files: Files) -> Self {
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }

    pub(crate) fn engine(&self) -> Box<dyn IoEngine> {
        let null = File::open("/dev/null").expect("every system has it");
        Box::new(Engine { storage: self.clone(), null })
    }

    /// Ends an operation. Returns `false` when none is under way.
    pub(crate) fn end(&self, which: usize, ending: Ending) -> bool {
        let mut state = self.lock();
        let State { files, waiting, done } = &mut *state;
        if waiting.is_empty() {
            return false;
        }
        let mut request = waiting.remove(which % waiting.len());
        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.get_mut(&request.file.identity()).expect("the target opens only these files");
        let result = act(&mut request, file, ending);
        done.push(IoCompletion { token: request.token, result, buf: request.buf });
        true
    }

    pub(crate) fn has_done(&self) -> bool {
        !self.lock().done.is_empty()
    }
}

fn act(request: &mut IoRequest, file: &mut [u8], ending: Ending) -> io::Result<usize> {
    let most = match ending {
        Ending::Well => usize::MAX,
        Ending::Error { after: most, .. } | Ending::Short(most) => most,
    };
    let start = usize::try_from(request.offset).expect("offsets are within the file");
    assert!(start <= file.len(), "{:?} at {start} of a file of {} bytes", request.kind, file.len());
    let there = file.len() - start;
    let moved = match (request.kind, &mut request.buf) {
        (IoKind::Read, IoBuf::Pool(buffer, len)) => {
            let moved = (*len).min(there).min(most);
            buffer[..moved].copy_from_slice(&file[start..start + moved]);
            moved
        }
        (IoKind::Write, IoBuf::Pool(buffer, len)) => {
            assert!(*len <= there, "a write of {len} bytes at {start} makes a file of {} bytes longer", file.len());
            let moved = (*len).min(most);
            file[start..start + moved].copy_from_slice(&buffer[..moved]);
            moved
        }
        (IoKind::WriteZeroes { len } | IoKind::Deallocate { len }, _) => {
            assert!(len <= there as u64, "{len} bytes of zeroes at {start} of {}", file.len());
            let zeroed = (len as usize).min(most);
            file[start..start + zeroed].fill(0);
            0
        }
        (IoKind::SyncData, _) => 0,
        (kind, _) => panic!("{kind:?} without a buffer"),
    };
    match ending {
        Ending::Error { errno, .. } => Err(io::Error::from_raw_os_error(errno)),
        Ending::Well | Ending::Short(_) => Ok(moved),
    }
}

impl IoEngine for Engine {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }

    fn in_flight(&self) -> usize {
        let state = self.storage.lock();
        state.waiting.len() + state.done.len()
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        if self.in_flight() >= CAPACITY {
            return Err(request);
        }
        self.storage.lock().waiting.push(request);
        Ok(())
    }

    /// Every second block begins what is done at once.
    fn write_now(&mut self, file: &IoFile, offset: u64, bytes: &[u8]) -> Option<io::Result<usize>> {
        if (offset / 512).is_multiple_of(2) {
            return None;
        }
        let state = self.storage.lock();
        let mut files = state.files.lock().unwrap_or_else(PoisonError::into_inner);
        let there = files.get_mut(&file.identity()).expect("the target opens only these files");
        let start = usize::try_from(offset).expect("offsets are within the file");
        there[start..start + bytes.len()].copy_from_slice(bytes);
        Some(Ok(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        done.append(&mut self.storage.lock().done);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    fn wait(&mut self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}
