//! A connection to the metadata server, of any bytes, on loopback: the only target with threads and a real clock.
//!
//! Whatever comes, the server answers in HTTP or closes, in time; keeps no more than its limits; and serves the next one.

use crate::input::Input;
use nvferry_store::metadata::{Limits, MetadataServer, MetadataServerOptions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longer than the server takes for anything.
const PATIENCE: Duration = Duration::from_secs(10);
const ENTRIES: usize = 32;
/// How often it is asked whether all is well.
const EVERY: u32 = 16;

static SERVER: LazyLock<MetadataServer> = LazyLock::new(|| {
    // A panic on the server's thread would end a task, and nobody would hear of it.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    let limits = Limits {
        key_bytes: 64,
        value_bytes: 2048,
        entries: ENTRIES,
        total_bytes: 32 << 10,
        bodies_bytes: 8192,
        wait: Duration::from_millis(5),
        receive: Duration::from_secs(1),
        page_keys: 4,
        ..Limits::default()
    };
    let options = MetadataServerOptions { limits, ..MetadataServerOptions::default() };
    MetadataServer::start(options).expect("a port on loopback")
});
static RUNS: AtomicU32 = AtomicU32::new(0);

/// One connection, from an input.
pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let setup = input.u8();
    let mut stream = connect();
    // In pieces, or all at once.
    let pieces = if setup & 1 == 0 { 1 } else { 1 + usize::from(setup >> 4) };
    let rest = input.take(usize::MAX);
    let mut answer = Vec::new();
    for piece in rest.chunks(rest.len().div_ceil(pieces).max(1)) {
        // It may have closed by now.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    if setup & 2 != 0 {
        // Leaves without waiting for an answer.
        return;
    }
    let _ = stream.shutdown(Shutdown::Write);
    let end = stream.read_to_end(&mut answer);
    let reset = |error: &io::Error| matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    assert!(end.is_ok() || end.as_ref().is_err_and(reset), "the server neither answers nor closes: {end:?}");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    if RUNS.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY) {
        check_health();
    }
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect(SERVER.address()).expect("the server takes connections");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn check_health() {
    let mut stream = connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let json = answer.split("\r\n\r\n").nth(1).expect("a body");
    let health: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert!(health["entries"].as_u64().is_some_and(|entries| entries <= ENTRIES as u64), "{health}");
}
