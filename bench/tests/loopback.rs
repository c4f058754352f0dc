//! Loopback runs with nothing given: what they print, what they leave.

mod common;

use common::{Room, http_get, metadata, published};
use nix::sys::signal::Signal;

const QUICK: [&str; 3] = ["--duration=0.3", "--warmup=0", "--file_size=16M"];

#[test]
fn the_references_line_is_printed_and_nothing_is_left() {
    let room = Room::new();
    let ended = room.run(&QUICK);
    ended.assert_ok();
    let line = ended.stdout.lines().find(|line| line.starts_with("Test completed: ")).unwrap();
    assert!(ended.number_after("duration ") >= 0.3, "{line}");
    assert!(ended.number_after("throughput ") > 0.0, "{line}");
    assert!(line.contains(", batch count ") && line.ends_with(" GB/s"), "{line}");
    assert!(ended.number_after("IOPS ") > 0.0);
    assert_eq!(ended.stderr, "", "a pipe gets no progress");
    assert!(room.entries().is_empty());
}

#[test]
fn units_and_digits_are_as_asked() {
    let room = Room::new();
    let ended = room.run(&[&QUICK[..], &["--report-unit=MiB", "--report-precision=4"]].concat());
    let line = ended.assert_ok().stdout.lines().find(|line| line.starts_with("Test completed")).unwrap();
    let rate = line.strip_suffix(" MiB/s").unwrap().rsplit(' ').next().unwrap();
    assert_eq!(rate.split('.').nth(1).map(str::len), Some(4), "{line}");
}

#[test]
fn reads_and_writes_of_its_own_file_are_verified() {
    let room = Room::new();
    for operation in ["--operation=read", "--operation=write"] {
        let ended = room.run(&[&QUICK[..], &["--verify", operation, "--seed=7"]].concat());
        assert!(ended.assert_ok().stdout.contains("no mismatch"), "{ended:#?}");
    }
    assert!(room.entries().is_empty());
}

#[test]
fn a_wrong_byte_is_found_and_told() {
    // The null transport moves nothing, so every block that is read back is wrong.
    let room = Room::new();
    let ended = room.run(&[&QUICK[..], &["--protocol=null", "--verify", "--seed=7"]].concat());
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("expected") && ended.stderr.contains("got 5a5a5a5a"), "{ended:#?}");
    assert!(ended.stdout.contains("mismatched"), "{ended:#?}");
}

#[test]
fn latencies_are_ordered() {
    let room = Room::new();
    let ended = room.run(&[&QUICK[..], &["--latency"]].concat());
    ended.assert_ok();
    let all: Vec<_> = ["p50 ", "p90 ", "p99 ", "p99.9 ", "max "].map(|name| ended.number_after(name)).into();
    assert!(all[0] > 0.0 && all.is_sorted(), "{all:?}");
}

#[test]
fn json_alone_is_on_standard_output() {
    let room = Room::new();
    let flags = [&QUICK[..], &["--json", "--latency", "--verify", "--seed=3", "--block_size=4k"]].concat();
    let ended = room.run(&flags);
    let report: serde_json::Value = serde_json::from_str(&ended.assert_ok().stdout).unwrap();
    let results = &report["results"];
    assert_eq!(report["parameters"]["block_size"], 4096);
    assert_eq!(report["parameters"]["seed"], 3);
    let bytes = results["bytes"].as_u64().unwrap();
    assert_eq!(bytes, results["requests"].as_u64().unwrap() * 4096);
    assert_eq!(bytes, report["files"][0]["bytes"].as_u64().unwrap());
    assert!(results["bytes_per_second"].as_f64().unwrap() > 0.0);
    assert!(results["cpu_seconds_per_gb"].as_f64().unwrap() > 0.0);
    assert!(results["latency_us"]["p99.9"].as_f64().unwrap() > 0.0);
    assert_eq!(report["verify"]["mismatched"], 0);
    assert!(report["verify"]["blocks"].as_u64().unwrap() > 0);
    assert_eq!(report["errors"]["failed_requests"], 0);
    assert!(ended.stderr.contains("Test completed: "), "{ended:#?}");
}

#[test]
fn json_goes_to_a_file() {
    let room = Room::new();
    let path = room.path().join("report.json");
    let ended = room.run(&[&QUICK[..], &[&format!("--json={}", path.display())]].concat());
    assert!(ended.assert_ok().stdout.contains("Test completed: "));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(report["results"]["requests"].as_u64().unwrap() > 0);
}

#[test]
fn a_service_of_others_is_used_and_left_clean() {
    let (room, server) = (Room::new(), metadata());
    let url = format!("--metadata_server={}", server.url());
    let file = room.file("file", 1 << 20);
    let files = format!("--files={}", file.display());
    let mut running = room.start(&[&url, &files, "--local_server_name=me", "--duration=60", "--block_size=4k"]);
    running.wait_for("Segment me");
    assert!(published(&server, "me").is_some());
    running.signal(Signal::SIGINT);
    let ended = running.end();
    assert_eq!(ended.code(), Some(130), "{ended:#?}");
    assert!(ended.stdout.contains("Test interrupted: "), "what was measured so far: {ended:#?}");
    assert_eq!(published(&server, "me"), None);
    assert_eq!(room.entries(), ["file"]);
}

#[test]
fn the_temporary_file_goes_on_every_signal() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let room = Room::new();
        let mut running = room.start(&["--duration=60", "--file_size=16M"]);
        running.wait_for("Segment loopback");
        assert_eq!(room.entries().len(), 1);
        running.signal(signal);
        assert_eq!(running.end().code(), Some(code));
        assert!(room.entries().is_empty());
    }
}

#[test]
fn a_live_view_is_for_terminals_only() {
    let room = Room::new();
    let ended = room.run(&[&QUICK[..], &["--live", "--duration=1.2"]].concat());
    assert_eq!(ended.assert_ok().stderr, "", "a pipe gets no view");
    assert_eq!(ended.stdout.lines().count(), 5, "{ended:#?}");
}

#[test]
fn lingering_stays_connected_and_tells_what_it_costs() {
    let room = Room::new();
    let ended = room.run(&[&QUICK[..], &["--linger=0.3"]].concat());
    assert!(ended.assert_ok().stdout.contains("Lingering for 0.3 s"), "{ended:#?}");
    assert!(ended.number_after("CPU ") >= 0.0 && ended.stdout.contains("ms while it lingered"), "{ended:#?}");

    let mut running = room.start(&[&QUICK[..], &["--linger=600"]].concat());
    running.wait_for("Lingering");
    running.signal(Signal::SIGINT);
    assert_eq!(running.end().code(), Some(130), "it does not outstay a signal");
    assert!(room.entries().is_empty());
}

#[test]
fn metrics_of_both_sides_are_told_while_it_runs() {
    let room = Room::new();
    let flags = ["--file_size=8M", "--duration=60", "--warmup=0", "--block_size=4k", "--metrics_listen=127.0.0.1:0"];
    let mut running = room.start(&flags);
    let line = running.wait_for("Metrics at http://");
    let address = line.split("http://").nth(1).unwrap().strip_suffix("/metrics").unwrap().parse().unwrap();
    let moved = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    };
    let names = ["nvferry_target_read_bytes_total{", "nvferry_host_read_bytes_total{"];
    loop {
        let (status, text) = http_get(address, "/metrics");
        assert_eq!(status, 200);
        if names.iter().all(|name| moved(&text, name) >= 4096.0) {
            break;
        }
        // Its own end is the limit.
        std::thread::yield_now();
    }
    running.signal(Signal::SIGINT);
    running.end();
}
