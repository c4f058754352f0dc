//! What happens when the disk fails, and what a slow disk does to renewals.

use super::super::directory::Claim;
use super::*;
use hyper::body::Bytes;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// A disk that can be made to fail.
#[derive(Debug)]
struct Failing {
    inner: InMemoryBackend,
    failing: Arc<AtomicBool>,
}

impl StorageBackend for Failing {
    fn len(&self) -> Result<u64, io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.inner.write(offset, data)
    }
}

fn writer(disk: Option<Disk>, store: Option<PathBuf>) -> (Writer, WriterHandle) {
    let limits = Limits::default();
    let shared = Arc::new(Shared::new(View::default()));
    let (sender, requests) = sync_channel(8);
    let writer = Writer {
        directory: Directory::new(View::default(), Vec::new(), limits.clone(), Instant::now()),
        disk,
        store,
        limits,
        shared: Arc::clone(&shared),
        requests,
        batch: Vec::new(),
        metrics: Arc::new(Metrics::new()),
    };
    (writer, WriterHandle { requests: sender, shared })
}

/// Has the writer carry out these as one batch.
fn carry_out(writer: &mut Writer, commands: Vec<Command>) -> Vec<Result<Outcome, WriteError>> {
    let answers: Vec<_> = commands
        .into_iter()
        .map(|command| {
            let (answer, answered) = oneshot::channel();
            writer.batch.push(Request { command, answer, room: None });
            answered
        })
        .collect();
    writer.carry_out();
    answers.into_iter().map(|mut answer| answer.try_recv().expect("every request is answered")).collect()
}

fn put(key: &str, value: &'static str, ttl: Option<Duration>) -> Command {
    let claim = ttl.map(|ttl| Claim { owner: "owner".into(), ttl: Some(ttl) });
    Command::Put { key: key.into(), value: Bytes::from_static(value.as_bytes()), claim }
}

#[test]
fn what_the_disk_did_not_take_is_neither_acknowledged_nor_shown_and_the_store_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let failing = Arc::new(AtomicBool::new(false));
    let backend = Failing { inner: InMemoryBackend::new(), failing: Arc::clone(&failing) };
    let disk = Disk::on_backend(backend, &store).unwrap();
    let (mut writer, handle) = writer(Some(disk), Some(store.clone()));
    assert_eq!(carry_out(&mut writer, vec![put("a", "1", None)]), [Ok(Outcome::Updated(1))]);
    assert_eq!(handle.shared.failing(), None);

    failing.store(true, Ordering::Relaxed);
    let answers = carry_out(&mut writer, vec![put("a", "2", None), put("b", "2", None)]);
    for answer in &answers {
        let Err(WriteError::Disk(reason)) = answer else { panic!("{answer:?}") };
        assert!(reason.contains("cannot be written: ") && reason.contains("No space left"), "{reason}");
    }
    assert_eq!(handle.shared.view().entries["a"].value, "1");
    assert!(!handle.shared.view().entries.contains_key("b"));
    assert!(handle.shared.failing().is_some());
    assert_eq!(writer.metrics.store_failing.get(), 1);

    // While the file cannot be opened, it stays so.
    std::fs::create_dir(&store).unwrap();
    assert!(matches!(carry_out(&mut writer, vec![put("c", "3", None)])[..], [Err(WriteError::Disk(_))]));
    std::fs::remove_dir(&store).unwrap();

    // Then the file's own content counts; here it is a new one.
    assert_eq!(carry_out(&mut writer, vec![put("d", "4", None)]), [Ok(Outcome::Updated(1))]);
    assert_eq!((handle.shared.failing(), writer.metrics.store_failing.get()), (None, 0));
    assert_eq!(handle.shared.view().entries.keys().map(|key| &**key).collect::<Vec<_>>(), ["d"]);
}

#[test]
fn a_renewal_that_waited_for_a_slow_disk_came_in_time() {
    let (mut writer, handle) = writer(None, None);
    let ttl = Duration::from_nanos(1);
    carry_out(&mut writer, vec![put("a", "1", Some(ttl))]);
    assert!(writer.directory.next_expiry().is_some_and(|at| at <= Instant::now()), "its time is over");
    let answers = carry_out(&mut writer, vec![put("a", "1", Some(Duration::from_secs(60)))]);
    assert_eq!(answers, [Ok(Outcome::Unchanged(1))]);
    assert!(handle.shared.view().entries.contains_key("a"));
}

#[test]
fn a_full_queue_and_a_writer_that_is_gone_are_told_apart() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (writer, handle) = writer(None, None);
    let mut waiting: Vec<_> = (0..8).map(|_| Box::pin(handle.execute(put("a", "1", None), None))).collect();
    runtime.block_on(async {
        for request in &mut waiting {
            let polled = std::future::poll_fn(|context| std::task::Poll::Ready(request.as_mut().poll(context))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(handle.execute(put("a", "1", None), None).await, Err(WriteError::Busy));
        drop(writer);
        assert_eq!(waiting.remove(0).await, Err(WriteError::Stopping));
        assert_eq!(handle.execute(put("a", "1", None), None).await, Err(WriteError::Stopping));
    });
}
