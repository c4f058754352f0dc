//! Whatever is wrong with what is asked for is told in one sentence, and nothing of it happens.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::{PATIENCE, Running, buffered, make_file, spec};
use nvferry_target::{NamespaceSpec, TargetDriver, TargetError, TargetSpec, UserspaceOptions, UserspaceTarget};
use nvferry_wire::{Nqn, Nsid, TransportId};
use std::time::Instant;

/// The sentence that an error is, which must say `parts`.
fn sentence(error: &TargetError, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n') && text.len() > 20, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

fn start(spec: TargetSpec) -> TargetError {
    match UserspaceTarget::start(spec, UserspaceOptions::default()) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

#[test]
fn files_that_cannot_be_offered_are_refused() {
    let running = Running::with_file(4096);
    let dir = running.dir.path();
    let add = |spec: NamespaceSpec| running.target.add_namespace(spec).unwrap_err();

    sentence(&add(buffered(2, dir.join("nothing"), 512)), &["no file", "nothing"]);
    sentence(&add(buffered(2, dir, 512)), &["is a directory"]);
    sentence(&add(buffered(2, "/dev/null", 512)), &["character device"]);
    let empty = make_file(dir, "empty", 0, 0);
    sentence(&add(buffered(2, &empty, 512)), &["empty", "truncate"]);
    let small = make_file(dir, "small", 0, 1000);
    sentence(&add(buffered(2, &small, 1001)), &["1001 bytes", "only 1000"]);
    sentence(&add(buffered(2, &small, 0)), &["0 bytes", "1000"]);
    for nsid in [0, 1 << 21, u32::MAX] {
        sentence(&add(buffered(nsid, &small, 1000)), &["ids go from 1 to"]);
    }
    for block in [0, 1, 256, 513, 1000, 131_072] {
        let spec = NamespaceSpec { block_bytes: Some(block), ..buffered(2, &small, 1000) };
        sentence(&add(spec), &[&block.to_string(), "powers of two"]);
    }
    // The same file by another path, and an id that is taken.
    let link = dir.join("link");
    std::os::unix::fs::symlink(dir.join("one"), &link).unwrap();
    sentence(&add(buffered(2, &link, 512)), &["offered already", "namespace 1"]);
    sentence(&add(buffered(1, &small, 512)), &["namespace 1", "belongs to"]);

    let status = running.target.status();
    assert_eq!(status.namespaces.len(), 1, "nothing of all that was offered");
    running.target.add_namespace(buffered(2, &small, 1000)).unwrap();
    running.stop();
}

#[test]
fn a_file_without_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let running = Running::with_file(4096);
    let path = make_file(running.dir.path(), "locked", 0, 4096);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        println!("skipped: this user may open everything");
        return;
    }
    let error = running.target.add_namespace(buffered(2, &path, 4096)).unwrap_err();
    sentence(&error, &["no permission", "locked"]);
    running.stop();
}

#[test]
fn namespaces_that_are_not_there_cannot_be_removed() {
    let running = Running::with_file(4096);
    let error = running.target.remove_namespace(Nsid(2), Instant::now() + PATIENCE).unwrap_err();
    sentence(&error, &["no namespace 2"]);
    running.stop();
}

#[test]
fn addresses_that_cannot_be_listened_on_are_refused() {
    let running = Running::with_file(4096);
    let taken = TargetSpec { transport: running.target.address(), ..spec() };
    sentence(&start(taken), &["in use", &running.target.address().trsvcid.to_string()]);
    let elsewhere: TransportId = "traddr=192.0.2.1 trsvcid=4420".parse().unwrap();
    sentence(&start(TargetSpec { transport: elsewhere, ..spec() }), &["192.0.2.1", "does not have that address"]);
    let rdma: TransportId = "trtype=rdma traddr=127.0.0.1".parse().unwrap();
    sentence(&start(TargetSpec { transport: rdma, ..spec() }), &["tcp only"]);
    running.stop();
}

#[test]
fn names_that_cannot_be_are_refused() {
    sentence(&start(TargetSpec { subsystem: Nqn::discovery(), ..spec() }), &["discovery"]);
    sentence(&start(TargetSpec { serial: "x".repeat(21), ..spec() }), &["serial number", "20"]);
    sentence(&start(TargetSpec { model: "x".repeat(41), ..spec() }), &["model number", "40"]);
    sentence(&start(TargetSpec { model: "caf\u{e9}".to_owned(), ..spec() }), &["model number", "ASCII"]);
}

#[test]
fn a_target_with_one_wrong_file_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = spec();
    wrong.namespaces.push(buffered(1, make_file(dir.path(), "one", 1, 4096), 4096));
    wrong.namespaces.push(buffered(2, dir.path().join("nothing"), 4096));
    sentence(&start(wrong.clone()), &["no file"]);
    wrong.namespaces.pop();
    // What was opened for the first try is free again.
    let target = UserspaceTarget::start(wrong, UserspaceOptions::default()).unwrap();
    target.stop(Instant::now() + PATIENCE).unwrap();
}
