//! The corpus, replayed; and that what it was begun with reaches what it should.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use nvferry_fuzz::{TARGETS, record};
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "there is no input in {}", dir.display());
    files
}

/// Replays a target's inputs, with their beginnings: conversations break off anywhere.
fn replay(name: &str) {
    let target = nvferry_fuzz::target(name).unwrap();
    for file in corpus(name) {
        println!("{}", file.display());
        let input = std::fs::read(&file).unwrap();
        (target.run)(&input);
        for part in 1..4 {
            (target.run)(&input[..input.len() * part / 4]);
        }
    }
}

macro_rules! targets {
    ($($test:ident $name:literal)*) => {
        $(#[test]
        fn $test() {
            replay($name);
        })*

        #[test]
        fn every_target_is_replayed() {
            let all: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(all, [$($name),*]);
        }
    };
}

targets! {
    p14_pdus "pdu"
    p14_commands "command"
    p14_identify_structures_and_log_pages "identify_log"
    p14_transport_ids_and_names "text"
    p14_authentication_messages "auth_message"
    p14_authentication_exchanges "auth_exchange"
    p14_conversations_with_the_target "target"
    p14_conversations_with_a_hosts_io_queue "host_queue"
    p14_conversations_with_a_hosts_admin_queue "host_admin"
    p14_segment_descriptions "segment_json"
    p14_http_connections "http"
}

#[test]
fn the_corpus_is_small() {
    let bytes: u64 =
        TARGETS.iter().flat_map(|target| corpus(target.name)).map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < 300 << 10, "{bytes} bytes");
}

/// What is recorded now passes, too, whatever has changed since the corpus was made. With `NVFERRY_FUZZ_SEEDS` it is
/// written to that directory.
#[test]
fn conversations_of_the_real_host_with_the_real_target_pass() {
    for seed in record::seeds() {
        (nvferry_fuzz::target(seed.target).unwrap().run)(&seed.bytes);
        if let Some(dir) = std::env::var_os("NVFERRY_FUZZ_SEEDS") {
            let dir = Path::new(&dir).join(seed.target);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(seed.name), seed.bytes).unwrap();
        }
    }
}
