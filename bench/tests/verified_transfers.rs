//! A target and an initiator as separate processes move verified data: reads and writes, all block sizes, one file
//! and eight, one thread and four.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Room, Running, metadata};
use nvferry_store::MetadataServer;

const BLOCK_SIZES: [&str; 6] = ["512", "4k", "64k", "1M", "8M", "12345"];

fn start_target(room: &Room, server: &MetadataServer, files: usize, file_bytes: u64) -> Running {
    let paths: Vec<_> = (0..files)
        .map(|n| {
            let path = room.path().join(format!("file{n}"));
            std::fs::File::create(&path).unwrap().set_len(file_bytes).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let mut target = room.start(&[
        "--mode=target",
        &format!("--metadata_server={}", server.url()),
        "--local_server_name=target",
        "--trsvcid=0",
        &format!("--files={}", paths.join(" ")),
    ]);
    target.wait_for("Serving segment target");
    target
}

/// Every block size in both directions with so many files and threads.
fn moves_verified_data(files: usize, threads: u32, more: &[&str]) {
    let (room, server) = (Room::new(), metadata());
    // Not a multiple of anything; four blocks of 8 MiB for four threads.
    let file_bytes = (40 << 20) / files.min(4) as u64 + 12345;
    let target = start_target(&room, &server, files, file_bytes);
    for block_size in BLOCK_SIZES {
        for operation in ["write", "read"] {
            // Small blocks need not go over whole files.
            let range = if ["1M", "8M"].contains(&block_size) { "1G" } else { "3M" };
            let flags = [
                "--mode=initiator",
                &format!("--metadata_server={}", server.url()),
                "--segment_id=target",
                "--overwrite",
                "--verify",
                "--warmup=0",
                "--duration=0.2",
                &format!("--operation={operation}"),
                &format!("--block_size={block_size}"),
                &format!("--threads={threads}"),
                &format!("--range={range}"),
            ];
            let ended = room.run(&[&flags[..], more].concat());
            ended.assert_ok();
            assert!(ended.stdout.contains("no mismatch"), "{ended:#?}");
            assert!(ended.number_after("Verified ") >= 1.0, "{ended:#?}");
        }
    }
    target.signal(nix::sys::signal::Signal::SIGTERM);
    target.end().assert_ok();
}

#[test]
fn one_file_one_thread() {
    moves_verified_data(1, 1, &[]);
}

#[test]
fn one_file_four_threads() {
    moves_verified_data(1, 4, &[]);
}

#[test]
fn eight_files_one_thread() {
    moves_verified_data(8, 1, &[]);
}

#[test]
fn eight_files_four_threads() {
    moves_verified_data(8, 4, &[]);
}

#[test]
fn with_both_digests_and_several_workers() {
    moves_verified_data(2, 2, &["--digests=both", "--workers=3"]);
}

#[test]
fn one_after_the_other_and_one_at_a_time() {
    moves_verified_data(1, 1, &["--pattern=sequential", "--queue_depth=1"]);
}

#[test]
fn through_the_local_driver() {
    moves_verified_data(2, 2, &["--host_driver=local"]);
}
