//! What a running target tells of itself: `nvferry target status`, `nvferry segment show`, and its metrics.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
use common::*;
use nix::sys::signal::Signal;
use nvferry_engine::{Deadline, FileBufferId, Request, TransferEngine};
use nvferry_nvmeof::{NvmeofOptions, PROTOCOL};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;

const NAME: &str = "node-a:8081";

/// A target with a file of 64 KiB that tells its metrics, and where.
fn target(url: &str, path: &str, more: &[&str]) -> (Role, String) {
    let args = ["target", "--metadata-server", url, "--server-name", NAME, "--trsvcid", "0", "--direct", "off"];
    let args = [&args[..], &["--file", path, "--metrics-listen", "127.0.0.1:0"], more].concat();
    let role = Role::start(&mut nvferry(&args));
    let metrics = role.ready.split("metrics at http://").nth(1).unwrap();
    let address = metrics.strip_suffix("/metrics").unwrap().to_owned();
    (role, address)
}

#[test]
fn a_running_target_says_what_it_does_file_by_file_and_host_by_host() {
    let service = metadata();
    let url = service.word("http://");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.seg").to_str().unwrap().to_owned();
    File::create(&path).unwrap().set_len(64 << 10).unwrap();
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "nqn.2020-01.org.example:reader\nnqn.2020-01.org.example:other\n").unwrap();
    std::fs::set_permissions(&hosts, Permissions::from_mode(0o600)).unwrap();
    let (target, address) = target(&url, &path, &["--allowed-hosts", hosts.to_str().unwrap()]);

    let (code, idle, stderr) = run(&["target", "status", "--metrics-listen", &address, "--interval", "0"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(idle.contains("no host is connected") && idle.contains("serving, since 20"), "{idle}");
    assert!(idle.contains("hosts that may connect: 2, of which 0 have a secret"), "{idle}");

    let options = NvmeofOptions::new().host_nqn("nqn.2020-01.org.example:reader".parse().unwrap());
    let engine = TransferEngine::builder()
        .metadata(url.as_str())
        .server_name("reader")
        .transport(nvferry_nvmeof::factory(options))
        .build()
        .unwrap();
    engine.install_transport(PROTOCOL, "").unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 8192]).unwrap();
    let batch = engine.batch(1).unwrap();
    batch.submit(&[Request::read(&memory, 0..8192, segment, FileBufferId(1), 4096)]).unwrap();
    batch.wait(Deadline::after(PATIENCE)).unwrap();

    let (code, busy, _) = run(&["target", "status", "--metrics-listen", &address, "--interval", "1"]);
    assert_eq!(code, 0);
    let row = busy.lines().find(|line| line.ends_with(&path)).unwrap();
    let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    // ID READ WRITTEN READ/s WRITTEN/s OPS/s IN-FLIGHT WAITING ERRORS
    assert_eq!(cells[..9], ["1", "8.0 KiB", "0 B", "0 B", "0 B", "0", "0", "0", "0"], "{busy}");
    let host = busy.lines().find(|line| line.starts_with("nqn.2020-01.org.example:reader")).unwrap();
    assert!(host.contains("127.0.0.1:") && host.contains("8.0 KiB"), "{host}");

    let (code, json, _) = run(&["target", "status", "--metrics-listen", &address, "--json"]);
    let page: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &page["targets"][0]["files"][0]["io"]["read_bytes"]), (0, &8192.into()));
    assert_eq!(page["targets"][0]["hosts"][0]["authenticated"], serde_json::Value::Null);
    assert_eq!(page["targets"][0]["allowed_hosts"][0]["nqn"], "nqn.2020-01.org.example:reader");

    // Whoever finds the segment finds that, too.
    let (code, shown, _) = run(&["segment", "show", NAME, "--metadata-server", &url]);
    assert!(code == 0 && shown.contains("READ/s") && shown.contains("nqn.2020-01.org.example:reader"), "{shown}");
    let (code, shown, _) = run(&["segment", "show", NAME, "--metadata-server", &url, "--no-status"]);
    assert!(code == 0 && !shown.contains("READ/s"), "{shown}");

    let (status, metrics) = http(&format!("http://{address}/metrics"), "GET", "", "");
    assert_eq!(status, 200);
    let read = format!("file=\"{path}\"}} 8192");
    let line = metrics.lines().find(|line| line.starts_with("nvferry_target_read_bytes_total{")).unwrap();
    assert!(line.ends_with(&read), "{line}");

    drop(engine);
    assert_eq!(target.stop(Signal::SIGTERM).0, 0);
    let (code, stdout, stderr) = run(&["target", "status", "--metrics-listen", &address]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains(&address) && stderr.contains("--metrics-listen"), "{stderr}");
}

#[test]
fn a_target_that_cannot_be_asked_is_shown_all_the_same() {
    let service = metadata();
    let url = service.word("http://");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.seg").to_str().unwrap().to_owned();
    File::create(&path).unwrap().set_len(64 << 10).unwrap();
    let (mut target, address) = target(&url, &path, &[]);
    // Its segment stays for a while.
    target.signal(Signal::SIGKILL);
    target.end();
    let (code, shown, stderr) = run(&["segment", "show", NAME, "--metadata-server", &url]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(shown.contains(&path) && shown.contains(&format!("told at http://{address}/status, but: ")), "{shown}");
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_is_published() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let service = metadata();
    let url = service.word("http://");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.seg").to_str().unwrap().to_owned();
    File::create(&path).unwrap().set_len(64 << 10).unwrap();
    let args = ["target", "--metadata-server", &url, "--server-name", NAME, "--file", &path, "--metrics-listen"];
    let (code, stdout, stderr) = run(&[&args[..], &[&address]].concat());
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains(&address) && stderr.contains("for metrics"), "{stderr}");
    assert_eq!(stderr.matches("os error").count(), 1, "the same twice: {stderr}");
}
