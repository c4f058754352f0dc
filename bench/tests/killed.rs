//! Targets that are killed again and again while an initiator verifies what it reads and writes.
//!
//! A few kills here; with `NVFERRY_LONG_TESTS` two minutes of them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Ended, Room, initiator, metadata, port_of, published, start_target, strs};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// Between two kills.
const LIFE: Duration = Duration::from_secs(2);

/// Kills the target with SIGKILL and starts it again every two seconds, until the initiator has ended. Tells how often.
fn killed_all_the_time(operation: &str) -> (Ended, u32) {
    let is_long = std::env::var_os("NVFERRY_LONG_TESTS").is_some();
    let duration = if is_long { "--duration=120" } else { "--duration=7" };
    let (room, server) = (Room::new(), metadata());
    room.file("file", 64 << 20);
    let (mut target, _) = start_target(&room, &server, &["--trsvcid=0"]);
    let port = format!("--trsvcid={}", port_of(&published(&server, "target").unwrap()));
    let flags = ["--verify", "--overwrite", "--timeout=60", "--threads=2", "--block_size=12345", operation, duration];
    let mut running = room.start(&strs(&initiator(&server, &flags)));
    running.wait_for("Segment target");
    let mut kills = 0;
    'running: loop {
        let until = Instant::now() + LIFE;
        while Instant::now() < until {
            if running.has_ended() {
                break 'running;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        target.signal(Signal::SIGKILL);
        target.end();
        kills += 1;
        target = start_target(&room, &server, &[&port]).0;
    }
    (running.end(), kills)
}

fn assert_nothing_lost((ended, kills): (Ended, u32)) {
    // No request failed: none can have waited for a minute.
    ended.assert_ok();
    assert!(ended.stdout.contains(": no mismatch"), "{ended:#?}");
    assert!(ended.number_after("Verified ") > 0.0 && kills >= 3, "{kills} kills, {ended:#?}");
}

#[test]
fn p08_a_target_killed_every_two_seconds_keeps_what_it_acknowledged() {
    assert_nothing_lost(killed_all_the_time("--operation=write"));
}

#[test]
fn p08_a_target_killed_every_two_seconds_is_read_without_a_mismatch() {
    assert_nothing_lost(killed_all_the_time("--operation=read"));
}
