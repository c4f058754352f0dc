//! A target process: what it says and publishes, how it ends, what happens to initiators when it dies.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Room, initiator, metadata, port_of, published, start_target, strs};
use nix::sys::signal::Signal;

#[test]
fn it_says_what_it_serves_and_withdraws_on_a_signal() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (room, server) = (Room::new(), metadata());
        let (target, line) = start_target(&room, &server, &["--trsvcid=0"]);
        let descriptor = published(&server, "target").unwrap();
        assert!(line.contains(&format!("127.0.0.1:{}", port_of(&descriptor))), "{line}");
        assert!(line.contains("file (8 MiB)") && line.contains(server.url()), "{line}");
        target.signal(signal);
        target.end().assert_ok();
        assert_eq!(published(&server, "target"), None);
    }
}

#[test]
fn what_it_publishes_is_the_documented_json() {
    let (room, server) = (Room::new(), metadata());
    let (_target, _) = start_target(&room, &server, &["--trsvcid=0", "--file_size=1M"]);
    let text = published(&server, "target").unwrap();
    let descriptor: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut top = keys(&descriptor);
    top.sort();
    let expected = ["file_buffers", "name", "nvmeof_generic_trid", "protocol", "tcp_data_port", "timestamp"];
    assert_eq!(top, expected, "{text}");
    assert_eq!(descriptor["name"], "target");
    assert_eq!(descriptor["protocol"], "nvmeof_generic");
    assert_eq!(descriptor["tcp_data_port"], 0);
    let trid = &descriptor["nvmeof_generic_trid"];
    for (key, value) in [("trtype", "tcp"), ("adrfam", "ipv4"), ("traddr", "127.0.0.1")] {
        assert_eq!(trid[key], value, "{text}");
    }
    assert_eq!(trid["subnqn"], "nqn.2016-06.io.mc:target");
    let file = &descriptor["file_buffers"][0];
    assert_eq!((&file["id"], &file["size"]), (&1.into(), &(1 << 20).into()), "{text}");
    assert_eq!(keys(file), ["id", "path", "size", "align", "nguid"], "{text}");
}

#[test]
fn p01_a_killed_target_ends_the_initiator_with_a_reason() {
    let (room, server) = (Room::new(), metadata());
    let (target, _) = start_target(&room, &server, &["--trsvcid=0"]);
    let port = port_of(&published(&server, "target").unwrap());
    let mut running = room.start(&strs(&initiator(&server, &["--duration=600", "--timeout=2"])));
    running.wait_for("Segment target");
    target.signal(Signal::SIGKILL);
    let ended = running.end();
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    // The operation, the file, the segment, the target, and why.
    for words in ["failed", "read of 65536 bytes at ", "file 1", "/file", "segment target", &port] {
        assert!(ended.stderr.contains(words), "{words:?} is not in {ended:#?}");
    }
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{ended:#?}");
    assert!(ended.stdout.contains("Test failed: "), "{ended:#?}");
    drop(target);
}

#[test]
fn p01_a_target_that_falls_silent_ends_the_initiator_with_a_reason() {
    let (room, server) = (Room::new(), metadata());
    let (target, _) = start_target(&room, &server, &["--trsvcid=0"]);
    let mut running = room.start(&strs(&initiator(&server, &["--duration=600", "--timeout=2"])));
    running.wait_for("Segment target");
    target.signal(Signal::SIGSTOP);
    let ended = running.end();
    target.signal(Signal::SIGCONT);
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("failed") && ended.stderr.contains("segment target"), "{ended:#?}");
}

#[test]
fn p09_a_killed_target_starts_again_at_once() {
    let (room, server) = (Room::new(), metadata());
    let (target, _) = start_target(&room, &server, &["--trsvcid=0"]);
    let port = format!("--trsvcid={}", port_of(&published(&server, "target").unwrap()));
    room.run(&strs(&initiator(&server, &["--duration=0.2"]))).assert_ok();
    target.signal(Signal::SIGKILL);
    target.end();
    // The same name, while the dead one's segment is still published, and the same port.
    let (_target, _) = start_target(&room, &server, &[&port]);
    room.run(&strs(&initiator(&server, &["--duration=0.2"]))).assert_ok();
}

#[test]
fn p08_a_target_that_restarts_is_found_again() {
    let (room, server) = (Room::new(), metadata());
    let (target, _) = start_target(&room, &server, &["--trsvcid=0"]);
    let port = format!("--trsvcid={}", port_of(&published(&server, "target").unwrap()));
    let mut running = room.start(&strs(&initiator(&server, &["--duration=4", "--timeout=60"])));
    running.wait_for("Segment target");
    target.signal(Signal::SIGKILL);
    target.end();
    let (_target, _) = start_target(&room, &server, &[&port]);
    running.end().assert_ok();
}

#[test]
fn a_second_signal_ends_an_initiator_that_waits() {
    let (room, server) = (Room::new(), metadata());
    let (target, _) = start_target(&room, &server, &["--trsvcid=0"]);
    let mut running = room.start(&strs(&initiator(&server, &["--duration=600", "--timeout=600"])));
    running.wait_for("Segment target");
    // Stopped, not dead: nothing tells the initiator, and its requests would wait for 600 s.
    target.signal(Signal::SIGSTOP);
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGTERM);
    let code = running.end().code();
    target.signal(Signal::SIGCONT);
    assert!([Some(130), Some(143)].contains(&code), "{code:?}");
}
