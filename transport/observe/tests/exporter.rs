//! Figures are the truth, also while they change, and telling them holds nobody up.

#![allow(clippy::unwrap_used)]

mod common;

use common::{PATIENCE, Scrape, get, parse, until};
use nvferry_engine::{Deadline, FileBufferId, Request, SegmentId, TransferEngine, TransferState};
use nvferry_nvmeof::{NvmeofOptions, PROTOCOL, factory};
use nvferry_observe::server::MAX_CONNECTIONS;
use nvferry_observe::{Exporter, ExporterSocket, Observer, Page};
use nvferry_wire::Nqn;
use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const FILE_BYTES: u64 = 1 << 20;
const HOST: &str = "nqn.2020-01.org.example:observed";

/// An engine that offers two files and reaches them over a real socket, and its exporter.
struct Loop {
    engine: TransferEngine,
    segment: SegmentId,
    files: [FileBufferId; 2],
    paths: [String; 2],
    exporter: Exporter,
    _dir: tempfile::TempDir,
}

impl Loop {
    fn new(name: &str, options: NvmeofOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let factory = factory(options.workers(2).direct(false).host_nqn(Nqn::new(HOST).unwrap()));
        let exporter = ExporterSocket::bind("127.0.0.1:0").unwrap().serve(Observer::new(factory.clone())).unwrap();
        let engine = TransferEngine::builder()
            .metadata(format!("memory:{name}"))
            .server_name(name)
            .transport(factory)
            .build()
            .unwrap();
        engine.install_transport(PROTOCOL, "traddr=127.0.0.1 trsvcid=0").unwrap();
        // What a label's value has to escape.
        let paths = ["a \"quoted\\\" one", "b"].map(|name| dir.path().join(name));
        let files = paths.each_ref().map(|path| {
            std::fs::write(path, vec![7; FILE_BYTES as usize]).unwrap();
            engine.register_local_file(path, FILE_BYTES).unwrap()
        });
        let segment = engine.open_segment(name).unwrap();
        let paths = paths.map(|path| path.to_str().unwrap().to_owned());
        Self { engine, segment, files, paths, exporter, _dir: dir }
    }

    fn scrape(&self) -> Scrape {
        let (status, kind, body) = get(self.exporter.address(), "GET", "/metrics");
        assert_eq!((status, kind.as_str()), (200, nvferry_observe::CONTENT_TYPE));
        parse(&body)
    }

    fn page(&self) -> Page {
        let (status, kind, body) = get(self.exporter.address(), "GET", "/status");
        assert_eq!((status, kind.as_str()), (200, "application/json"));
        serde_json::from_str(&body).unwrap()
    }

    /// Moves one range, and waits for it.
    fn transfer(&self, file: usize, write: bool, offset: u64, len: usize) {
        let memory = self.engine.register_memory(vec![1; len]).unwrap();
        let batch = self.engine.batch(1).unwrap();
        let request = match write {
            true => Request::write(&memory, 0..len, self.segment, self.files[file], offset),
            false => Request::read(&memory, 0..len, self.segment, self.files[file], offset),
        };
        batch.submit(&[request]).unwrap();
        batch.wait(Deadline::after(PATIENCE)).unwrap();
        assert_eq!(batch.status(0).unwrap().state, TransferState::Completed, "{:?}", batch.status(0));
    }
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_scraped_under_load_is_what_was_moved() {
    let looped = Loop::new("observed-load", NvmeofOptions::new());
    let moved = [[const { AtomicU64::new(0) }; 2], [const { AtomicU64::new(0) }; 2]];
    let transfers = [[const { AtomicU64::new(0) }; 2], [const { AtomicU64::new(0) }; 2]];
    let stop = AtomicBool::new(false);
    let mut before = Scrape::default();
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (looped, moved, transfers, stop) = (&looped, &moved, &transfers, &stop);
            scope.spawn(move || {
                let (file, write) = (thread % 2, thread / 2 == 1);
                let mut round = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let len = [4096, 512, 65536, 8192][(round % 4) as usize];
                    looped.transfer(file, write, (round * 4096) % (FILE_BYTES - 65536), len);
                    moved[file][usize::from(write)].fetch_add(len as u64, Ordering::Relaxed);
                    // Whole blocks, and no more than one command takes.
                    transfers[file][usize::from(write)].fetch_add(1, Ordering::Relaxed);
                    round += 1;
                }
            });
        }
        // Also when this fails, the others have to end.
        let stopper = Stopper(&stop);
        for _ in 0..50 {
            let now = looped.scrape();
            now.must_not_fall(&before);
            before = now;
        }
        until("some of everything", || moved.iter().flatten().all(|bytes| bytes.load(Ordering::Relaxed) > 1 << 20));
        drop(stopper);
    });
    let moved = moved.map(|file| file.map(|bytes| bytes.into_inner() as f64));
    let all = [0, 1].map(|way| moved[0][way] + moved[1][way]);
    // Workers say what they did just after those who waited for it are woken.
    until("the host's figures", || {
        let now = looped.scrape();
        [now.sum("nvferry_host_read_bytes_total", &[]), now.sum("nvferry_host_written_bytes_total", &[])] == all
    });
    let now = looped.scrape();
    for (file, path) in looped.paths.iter().enumerate() {
        let of_file = [("file", path.as_str())];
        assert_eq!(now.value("nvferry_target_read_bytes_total", &of_file), moved[file][0]);
        assert_eq!(now.value("nvferry_target_written_bytes_total", &of_file), moved[file][1]);
        assert_eq!(now.value("nvferry_target_commands_in_flight", &of_file), 0.0);
        for (way, operation) in ["read", "write"].into_iter().enumerate() {
            let labels = [("file", path.as_str()), ("operation", operation)];
            let commands = now.value("nvferry_target_commands_total", &labels);
            assert_eq!(commands, transfers[file][way].load(Ordering::Relaxed) as f64);
            assert_eq!(now.value("nvferry_target_command_duration_seconds_count", &labels), commands);
            assert!(now.value("nvferry_target_command_duration_seconds_sum", &labels) < 60.0 * commands);
        }
    }
    let of_host = [("host", HOST)];
    assert_eq!(now.value("nvferry_target_host_read_bytes_total", &of_host), all[0]);
    assert_eq!(now.value("nvferry_target_host_written_bytes_total", &of_host), all[1]);
    for operation in ["read", "write"] {
        let slices = now.sum("nvferry_host_slices_total", &[("operation", operation), ("status", "success")]);
        for durations in ["nvferry_host_operation_duration_seconds_count", "nvferry_host_slice_duration_seconds_count"]
        {
            assert_eq!(now.sum(durations, &[("operation", operation)]), slices, "{durations}");
        }
    }
    assert_eq!(now.value("nvferry_host_connected", &[]), 1.0);
    assert!(now.value("nvferry_target_connections", &[]) >= 2.0);
    assert_eq!(now.value("nvferry_target_created_controllers_total", &[]), 1.0);

    let page = looped.page();
    let target = &page.targets[0];
    assert_eq!((target.state.as_str(), target.accounts, target.files.len()), ("serving", true, 2));
    let io = target.files[0].io.unwrap();
    assert_eq!((io.read_bytes as f64, io.written_bytes as f64, io.errors), (moved[0][0], moved[0][1], 0));
    assert_eq!(target.files[0].path, looped.paths[0]);
    let host = &target.hosts.as_ref().unwrap()[0];
    assert_eq!((host.nqn.as_str(), host.authenticated), (HOST, None));
    assert_eq!((host.connections, host.io.unwrap().read_bytes as f64), (Some(host.io_queues.unwrap() + 1), all[0]));
    assert_eq!((page.attached[0].state.as_str(), page.attached[0].io.read_bytes as f64), ("connected", all[0]));
}

#[test]
fn counters_do_not_fall_when_a_host_comes_again() {
    let looped = Loop::new("observed-again", NvmeofOptions::new());
    looped.transfer(0, false, 0, 4096);
    let before = looped.scrape();
    looped.engine.close_segment(looped.segment).unwrap();
    until("the host to go", || looped.scrape().value("nvferry_target_controllers", &[]) == 0.0);
    let gone = looped.scrape();
    gone.must_not_fall(&before);
    assert_eq!(gone.value("nvferry_target_host_read_bytes_total", &[("host", HOST)]), 4096.0);
    assert_eq!(gone.sum("nvferry_host_read_bytes_total", &[]), 4096.0);
    assert!(looped.page().targets[0].hosts.as_ref().unwrap().is_empty());

    let again = Loop { segment: looped.engine.open_segment("observed-again").unwrap(), ..looped };
    again.transfer(1, false, 0, 8192);
    until("the host's figures", || again.scrape().sum("nvferry_host_read_bytes_total", &[]) == 12288.0);
    let now = again.scrape();
    now.must_not_fall(&gone);
    assert_eq!(now.value("nvferry_target_host_connects_total", &[("host", HOST)]), 2.0);
    assert_eq!(now.value("nvferry_target_host_read_bytes_total", &[("host", HOST)]), 12288.0);
}

#[test]
fn readers_that_are_slow_or_too_many_hold_nobody_up() {
    let looped = Loop::new("observed-slow", NvmeofOptions::new());
    let address = looped.exporter.address();
    let mut idle: Vec<_> = (0..MAX_CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
    // They say nothing; one more is told so, or cut off.
    let mut one_more = TcpStream::connect(address).unwrap();
    one_more.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    if one_more.read_to_string(&mut said).is_ok() {
        assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    }
    // Meanwhile data moves.
    for round in 0..20 {
        looped.transfer(0, false, round * 4096, 4096);
    }
    idle.pop();
    until("a place", || {
        let mut stream = TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200 ")
    });
    // Stopping does not wait for those who are still there.
    let begun = Instant::now();
    drop(looped.exporter);
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn what_is_not_there_is_said() {
    let looped = Loop::new("observed-http", NvmeofOptions::new());
    let address = looped.exporter.address();
    assert_eq!(get(address, "GET", "/").0, 404);
    assert_eq!(get(address, "POST", "/metrics").0, 405);
    let taken = ExporterSocket::bind(&address.to_string()).unwrap_err().to_string();
    assert!(taken.contains(&address.to_string()) && taken.contains("another port"), "{taken}");
    let wrong = ExporterSocket::bind("nonsense").unwrap_err().to_string();
    assert!(wrong.contains("nonsense") && wrong.contains("127.0.0.1:9420"), "{wrong}");
}

#[test]
fn every_metric_is_in_the_documentation_and_nothing_else_is() {
    let looped = Loop::new("observed-names", NvmeofOptions::new());
    looped.transfer(0, true, 0, 4096);
    until("the host's figures", || looped.scrape().sum("nvferry_host_written_bytes_total", &[]) > 0.0);
    let documentation = include_str!("../../../docs/observability.md");
    let is_row = |line: &&str| line.starts_with("| `nvferry_target_") || line.starts_with("| `nvferry_host_");
    let tables: Vec<_> = documentation.lines().filter(is_row).collect();
    // The first column names them.
    let first_column = tables.iter().filter_map(|line| line.split('|').nth(1));
    let documented: std::collections::BTreeSet<_> =
        first_column.flat_map(|names| names.split('`')).filter(|name| name.starts_with("nvferry_")).collect();
    let exported = looped.scrape().names();
    assert_eq!(exported.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(), documented);
}

#[test]
fn p05_a_request_that_fails_names_what_failed_and_where_and_is_counted() {
    let looped = Loop::new("observed-failure", NvmeofOptions::new());
    looped.transfer(1, false, 0, 4096);
    // The file loses its end while it is served.
    std::fs::OpenOptions::new().write(true).open(&looped.paths[1]).unwrap().set_len(8192).unwrap();
    let memory = looped.engine.register_memory(vec![0; 4096]).unwrap();
    let batch = looped.engine.batch(1).unwrap();
    batch.submit(&[Request::read(&memory, 0..4096, looped.segment, looped.files[1], 65536)]).unwrap();
    let failed = batch.wait(Deadline::after(PATIENCE)).unwrap_err().to_string();
    let address = looped.page().targets[0].address.clone();
    let port = address.split("trsvcid=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    for word in ["read of 4096 bytes", "at 65536", "file 2", &looped.paths[1], "segment observed-failure"] {
        assert!(failed.contains(word), "{word} is not in: {failed}");
    }
    for word in [format!("127.0.0.1:{port}"), "Unrecovered Read Error".to_owned()] {
        assert!(failed.contains(&word), "{word} is not in: {failed}");
    }
    let labels = [("file", looped.paths[1].as_str()), ("operation", "read"), ("status", "media_error")];
    // Tried again a few times, each of which is a command.
    assert!(looped.scrape().value("nvferry_target_commands_total", &labels) >= 1.0);
    until("the host's figures", || looped.scrape().sum("nvferry_host_slices_total", &[("status", "failure")]) == 1.0);
}
