//! The wire limit runs in every form and prints its line.

mod common;

use common::Room;

#[test]
fn every_form_gives_figures() {
    let room = Room::new();
    let dir = format!("--dir={}", room.path().display());
    for form in [
        &["read", "64k", "8", "wait", "0.1", "memory"],
        &["write", "65536", "8", "wait", "0.1", "memory"],
        &["read", "4k", "1", "spin", "0.1", "memory"],
        &["write", "4k", "32", "wait", "0.1", "file"],
        &["read", "16k", "3", "wait", "0.1", "file"],
        &["read", "1000", "2", "wait", "0.1", "memory"],
    ] {
        // One CPU will do where there is no second one.
        let ended = room.run(&[&["wire-limit"], &form[..], &[&dir, "--client-cpu=0", "--json"]].concat());
        let report: serde_json::Value = serde_json::from_str(&ended.assert_ok().stdout).unwrap();
        assert!(report["operations"].as_u64().unwrap() > 0, "{form:?}: {report}");
        assert!(report["gb_per_second"].as_f64().unwrap() > 0.0, "{form:?}: {report}");
        assert_eq!(report["depth"].to_string(), form[2]);
    }
    assert!(room.entries().is_empty());
}

#[test]
fn the_line_is_the_originals() {
    let flags = ["wire-limit", "read", "4096", "4", "wait", "0.1", "memory", "--client_cpu=0"];
    let ended = Room::new().run(&flags);
    let line = ended.assert_ok().stdout.trim_end();
    assert!(line.starts_with("read 4096 depth 4 wait memory: "), "{line}");
    for words in [" ops/s ", " GB/s mean ", " us cpu client ", "% server "] {
        assert!(line.contains(words), "{line}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let room = Room::new();
    let run = |form: [&str; 6]| room.run(&[&["wire-limit"], &form[..]].concat());
    run(["read", "0", "1", "wait", "1", "memory"]).assert_refused(1, &["above 0"]);
    run(["read", "1000", "1", "wait", "1", "file"]).assert_refused(1, &["512"]);
    run(["read", "4096", "1", "wait", "0", "memory"]).assert_refused(1, &["seconds"]);
    run(["push", "4096", "1", "wait", "1", "memory"]).assert_refused(2, &["push"]);
}

#[test]
fn what_the_server_cannot_do_is_said_once() {
    let room = Room::new();
    let nowhere = room.path().join("nowhere").display().to_string();
    let run = |direction: &str, file: &str| {
        room.run(&["wire-limit", direction, "4096", "8", "wait", "0.1", "file", file, "--client_cpu=0"])
    };
    for direction in ["read", "write"] {
        let words = [&*nowhere, "cannot open", "Direct I/O", "No such file"];
        run(direction, &format!("--file={nowhere}")).assert_refused(1, &words);
        run(direction, &format!("--dir={nowhere}")).assert_refused(1, &[&*nowhere, "choose with --dir"]);
    }
    run("read", "--server_cpu=1023").assert_refused(1, &["cannot run on CPU 1023"]);
}
