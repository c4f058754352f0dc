//! Sweeps, comparisons and charts as a person would run them.

#![allow(clippy::unwrap_used)]

mod common;

use common::Room;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A sweep that takes little time and space.
const QUICK: [&str; 4] = ["sweep", "--rounds=2", "--duration=0.1", "--block-sizes=4k,64k"];
const RUN: [&str; 3] = ["--", "--warmup=0", "--file_size=8M"];

#[test]
fn a_sweep_gives_table_json_csv_and_chart_and_leaves_nothing_else() {
    let room = Room::new();
    let flags = ["--depths=1,8", "--json=s.json", "--csv=s.csv", "--chart=s.svg"];
    let mut command = room.command(&[&QUICK[..], &flags, &RUN].concat());
    let output = command.current_dir(room.path()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "a pipe gets no progress: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.lines().count(), 1 + 4, "{stdout}");
    assert!(stdout.contains("64 KiB") && stdout.contains("userspace to userspace"), "{stdout}");

    let read = |name: &str| std::fs::read_to_string(room.path().join(name)).unwrap();
    let report: Value = serde_json::from_str(&read("s.json")).unwrap();
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        assert_eq!(case["rounds"].as_array().unwrap().len(), 2, "{case}");
        for round in case["rounds"].as_array().unwrap() {
            let figure = |name: &str| round[name].as_f64().unwrap();
            assert!(figure("bytes_per_second") > 0.0 && figure("latency_p99_us") > 0.0, "{case}");
            let block = case["block_size"].as_f64().unwrap();
            assert!((figure("iops") * block / figure("bytes_per_second") - 1.0).abs() < 1e-6, "{case}");
        }
    }
    let csv = read("s.csv");
    let columns = csv.lines().next().unwrap().split(',').count();
    assert_eq!(csv.lines().count(), 1 + 4);
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
    assert!(read("s.svg").starts_with("<svg") && read("s.svg").contains("queue depth"));
    assert_eq!(room.entries(), ["s.csv", "s.json", "s.svg"]);

    // What it wrote is what the other tools read.
    let path = |name: &str| room.path().join(name).display().to_string();
    let same = room.run(&["compare", &path("s.json"), &path("s.json"), "--max-loss=0%"]);
    assert_eq!(same.assert_ok().stdout.lines().count(), 1 + 4, "{same:#?}");
    room.run(&["chart", &path("s.json"), &path("again.svg")]).assert_ok();
    assert_eq!(read("again.svg"), read("s.svg"));
}

#[test]
fn a_case_that_fails_is_named_and_the_others_are_measured() {
    let room = Room::new();
    // A block of 1 GiB does not fit into the file.
    let ended = room.run(&[
        "sweep",
        "--rounds=1",
        "--duration=0.1",
        "--block_sizes=4k,1G",
        "--depths=1",
        "--",
        "--file_size=8M",
    ]);
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("1 of 2 cases failed") && ended.stderr.contains("does not fit"), "{ended:#?}");
    assert!(ended.stdout.lines().any(|line| line.contains("4 KiB") && !line.contains("failed")), "{ended:#?}");
    assert!(room.entries().is_empty());
}

#[test]
fn a_sweep_that_is_told_to_end_does_and_leaves_nothing() {
    let room = Room::new();
    let running = room.start(&["sweep", "--rounds=100", "--duration=60", "--", "--file_size=8M"]);
    // Its temporary file shows that it has begun; a signal before that would end it just as well.
    while room.entries().is_empty() {
        std::thread::yield_now();
    }
    running.signal(Signal::SIGTERM);
    let ended = running.end();
    assert_eq!(ended.code(), Some(143), "{ended:#?}");
    assert!(room.entries().is_empty(), "{:?}", room.entries());
}

#[test]
fn what_cannot_be_swept_is_refused() {
    let room = Room::new();
    for (flags, word) in [
        (&["sweep", "--block_sizes=0"][..], "above 0"),
        (&["sweep", "--depths=0"], "0"),
        (&["sweep", "--duration=0"], "--duration"),
        (&["sweep", "--host_drivers=magic"], "magic"),
        (&["sweep", "--json=/no/such/dir/x.json"], "directory"),
        (&["sweep", "--", "--mode=target"], "target"),
        (&["sweep", "--operations=read,write", "--", "--files=/etc/passwd"], "--overwrite"),
    ] {
        room.run(flags).assert_refused(2, &[word]);
    }
    assert!(room.entries().is_empty());
}

#[test]
fn a_loss_beyond_the_limit_is_exit_status_1() {
    let room = Room::new();
    let write = |name: &str, rates: &[f64]| {
        let rounds: Vec<_> = rates.iter().map(|rate| json!({ "bytes_per_second": rate })).collect();
        let path = room.path().join(name);
        std::fs::write(&path, json!({ "cases": [{ "name": "a", "rounds": rounds }] }).to_string()).unwrap();
        path.display().to_string()
    };
    let (old, new) = (write("old.json", &[99.0, 100.0, 101.0]), write("new.json", &[84.0, 85.0, 86.0]));
    let lost = room.run(&["compare", &old, &new]);
    assert_eq!(lost.code(), Some(1), "{lost:#?}");
    assert!(lost.stdout.contains("0.850") && lost.stdout.contains("LOST, outside of both spreads"), "{lost:#?}");
    assert!(lost.stderr.contains("1 of 1 cases lost more than 10 %"), "{lost:#?}");
    room.run(&["compare", &old, &new, "--max_loss=16%"]).assert_ok();
    assert!(room.run(&["compare", &new, &old]).assert_ok().stdout.contains("better"), "faster is no loss");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let room = Room::new();
    let file = |name: &str, text: &str| {
        let path = room.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let a = file("a.json", r#"{"cases":[{"name":"a","rounds":[{"bytes_per_second":1}]}]}"#);
    let b = file("b.json", r#"{"cases":[{"name":"b","rounds":[{"bytes_per_second":1}]}]}"#);
    let text = file("text", "no JSON");
    let other = file("other.json", r#"{"x":1}"#);
    room.run(&["compare", &a, &b]).assert_refused(2, &["no case in common"]);
    room.run(&["compare", &a, &text]).assert_refused(2, &["not JSON"]);
    room.run(&["compare", &other, &a]).assert_refused(2, &["no measured case"]);
    room.run(&["compare", &a, "/no/such/file"]).assert_refused(2, &["cannot read"]);
    room.run(&["compare", &a]).assert_refused(2, &[]);
    room.run(&["compare", &a, &a, "--max-loss=much"]).assert_refused(2, &["percent"]);
    room.run(&["chart", &other, "x.svg"]).assert_refused(2, &["no measured case"]);
}

#[test]
fn two_runs_are_compared() {
    let room = Room::new();
    let report = room.path().join("run.json");
    let json = format!("--json={}", report.display());
    room.run(&["--duration=0.1", "--warmup=0", "--file_size=8M", &json]).assert_ok();
    let path = report.display().to_string();
    let same = room.run(&["compare", &path, &path]);
    assert!(same.assert_ok().stdout.contains("random read of 64 KiB"), "{same:#?}");
    room.run(&["chart", &path, "x.svg"]).assert_refused(2, &["nothing to draw"]);
}
