//! Connections, what ends them, and draining each leave one event with who, where and why. Commands leave none.

#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, until};
use nvferry_engine::{Deadline, FileBufferId, Request, TransferEngine};
use nvferry_nvmeof::{NvmeofOptions, PROTOCOL, factory};
use std::io::Write;
use std::sync::{Arc, Mutex};

/// Events, one a line.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Said {
    /// Lines with all these words.
    fn with(&self, words: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        lines.map(str::to_owned).collect()
    }

    /// The one line with all these words, which comes soon.
    fn one(&self, words: &[&str]) -> String {
        until(&format!("{words:?}"), || !self.with(words).is_empty());
        let lines = self.with(words);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    }
}

// One test: events are the process's.
#[test]
fn each_connection_and_each_end_is_one_event_that_says_who_and_why() {
    const HOST: &str = "host=nqn.2020-01.org.example:said";
    let said = Said::default();
    let writer = said.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .init();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let engine = |name: &str, text: &str| {
        let options = NvmeofOptions::new().workers(1).direct(false);
        let options = options.host_nqn("nqn.2020-01.org.example:said".parse().unwrap());
        let engine = TransferEngine::builder().metadata("memory:said").server_name(name).transport(factory(options));
        let engine = engine.build().unwrap();
        engine.install_transport(PROTOCOL, text).unwrap();
        engine
    };
    let target = engine("said", "traddr=127.0.0.1 trsvcid=0");
    target.register_local_file(&path, 1 << 20).unwrap();
    said.one(&["INFO", "nvferry::target", "namespace offered", "nsid=1"]);
    let host = engine("other", "");
    let segment = host.open_segment("said").unwrap();
    let memory = host.register_memory(vec![0; 4096]).unwrap();
    let read = || {
        let batch = host.batch(1).unwrap();
        batch.submit(&[Request::read(&memory, 0..4096, segment, FileBufferId(1), 0)]).unwrap();
        batch.wait(Deadline::after(PATIENCE)).unwrap();
    };
    read();
    let queue = said.one(&["INFO", "nvferry::target", "queue connected", HOST, "cntlid=", "qid=0", "peer=127.0.0.1:"]);
    // Each target begins with another one.
    let cntlid = queue.split_whitespace().find(|word| word.starts_with("cntlid=")).unwrap();
    said.one(&["INFO", "nvferry::target", "queue connected", HOST, cntlid, "qid=1"]);
    said.one(&["INFO", "nvferry::host", " connected", HOST, cntlid, "io_queues=1", "again=false"]);
    said.one(&["INFO", "nvferry::host", "queue connected", cntlid, "qid=1"]);

    // Commands leave no event.
    let before = said.with(&[]).len();
    (0..100).for_each(|_| read());
    assert_eq!(said.with(&[]).len(), before, "{:?}", said.with(&[]));

    drop(target);
    let draining = said.one(&["INFO", "nvferry::target", " draining", "connections=2"]);
    assert!(draining.contains("127.0.0.1"), "{draining}");
    said.one(&["INFO", "nvferry::target", " drained", "drained=true", "given_up=0"]);
    said.one(&["INFO", "nvferry::target", "queue disconnected", HOST, cntlid, "qid=0", "reason="]);
    said.one(&["INFO", "nvferry::target", "queue disconnected", HOST, cntlid, "qid=1", "reason="]);
    said.one(&["WARN", "nvferry::host", "connection lost", HOST, cntlid, "reason=", "retry_ms="]);
    until("an attempt", || !said.with(&["DEBUG", "nvferry::host", "reconnect failed", "reason="]).is_empty());
    host.close_segment(segment).unwrap();
    said.one(&["INFO", "nvferry::host", " disconnected", HOST, "reason="]);
}
