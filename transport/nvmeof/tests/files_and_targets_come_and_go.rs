//! Files that are registered and taken back while a host is attached; targets that end and start again.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, Node, Transfer, make_file, pattern, soon, temp_dir};
use nvferry_engine::{FileBufferId, TransferState, Transport};
use nvferry_io::RegisteredMemory;
use nvferry_nvmeof::NvmeofOptions;
use std::time::{Duration, Instant};

#[test]
fn p06_a_file_registered_after_the_host_attached_is_usable_at_once() {
    let dir = temp_dir();
    let (first, second) = (pattern(1 << 20, 1), pattern(1 << 20, 2));
    let mut node = Node::serving("node", &[&make_file(dir.path(), "first", &first)]);
    let host = Host::attach(NvmeofOptions::new(), &node.describe());
    assert_eq!(host.read(FileBufferId(1), 0, 4096).unwrap(), first[..4096]);

    let id = node.offer(&make_file(dir.path(), "second", &second));
    host.segment.update(&node.describe(), soon()).unwrap();
    assert_eq!(host.read(id, 5, 70_000).unwrap(), second[5..70_005]);
}

#[test]
fn p06_a_file_that_was_taken_back_is_refused_clearly_and_others_go_on() {
    let dir = temp_dir();
    let (first, second) = (pattern(1 << 20, 1), pattern(1 << 20, 2));
    let paths = [make_file(dir.path(), "first", &first), make_file(dir.path(), "second", &second)];
    let node = Node::serving("node", &[&paths[0], &paths[1]]);
    let host = Host::attach(NvmeofOptions::new(), &node.describe());
    host.read(FileBufferId(1), 0, 4096).unwrap();

    node.transport.unregister_file(FileBufferId(1), soon()).unwrap();
    let failure = host.read(FileBufferId(1), 0, 4096).unwrap_err();
    assert_eq!(failure.state, TransferState::Failed, "{failure:?}");
    assert_eq!(host.read(FileBufferId(2), 0, 4096).unwrap(), second[..4096]);
}

#[test]
fn p08_a_target_that_starts_again_is_found_again() {
    let dir = temp_dir();
    let content = pattern(4 << 20, 3);
    let path = make_file(dir.path(), "file", &content);
    let node = Node::serving("node", &[&path]);
    let segment = node.describe();
    let host = Host::attach(NvmeofOptions::new(), &segment);
    host.read(FileBufferId(1), 0, 4096).unwrap();
    let port = segment.extra["nvmeof_generic_trid"]["trsvcid"].as_str().unwrap().to_owned();

    node.transport.uninstall(soon());
    drop(node);
    // These wait for a target that is not there.
    let memory = RegisteredMemory::allocate(1 << 20);
    let waiting: Vec<_> = (0..16)
        .map(|at| {
            let range = at as usize * 65_536..(at as usize + 1) * 65_536;
            host.start(&Transfer::read(FileBufferId(1), at * 65_536), &memory, range)
        })
        .collect();
    let _again = Node::serving_at("node", &format!("trtype=tcp traddr=127.0.0.1 trsvcid={port}"), &[&path]);
    for request in waiting {
        host.ends.wait(request).unwrap();
    }
    assert!(memory.lease(0..1 << 20).unwrap().to_vec() == content[..1 << 20]);
}

#[test]
fn p01_without_a_target_requests_end_at_their_deadline() {
    let dir = temp_dir();
    let path = make_file(dir.path(), "file", &pattern(1 << 20, 4));
    let node = Node::serving("node", &[&path]);
    let host = Host::attach(NvmeofOptions::new(), &node.describe());
    host.read(FileBufferId(1), 0, 4096).unwrap();
    node.transport.uninstall(soon());
    drop(node);

    let memory = RegisteredMemory::allocate(65_536);
    let deadline = Instant::now() + Duration::from_millis(500);
    let request = host.start(&Transfer::write(FileBufferId(1), 0).by(deadline), &memory, 0..65_536);
    let failure = host.ends.wait(request).unwrap_err();
    assert_eq!(failure.state, TransferState::Timeout, "{failure:?}");
    assert!(Instant::now() >= deadline, "not before its time");
    // What the latest try met, and not how the connection once ended.
    assert!(failure.message.ends_with("connection refused"), "{failure:?}");
    assert!(!memory.is_leased());
}
