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
    assert!(
        failure.message.ends_with("nothing listens there (connection refused): is the target running?"),
        "{failure:?}"
    );
    assert!(!memory.is_leased());
}

/// Three files of one size, and a node that has them in this order.
struct Three {
    paths: [std::path::PathBuf; 3],
    contents: [Vec<u8>; 3],
    _dir: tempfile::TempDir,
}

impl Three {
    fn new() -> Self {
        let dir = temp_dir();
        let contents = [1, 2, 3].map(|seed| pattern(1 << 20, seed));
        let paths = [0, 1, 2].map(|i| make_file(dir.path(), &format!("file{i}"), &contents[i]));
        Self { paths, contents, _dir: dir }
    }

    fn serve(&self, port: &str, order: [usize; 3]) -> Node {
        let paths = order.map(|i| self.paths[i].as_path());
        Node::serving_at("node", &format!("trtype=tcp traddr=127.0.0.1 trsvcid={port}"), &paths)
    }

    #[track_caller]
    fn assert_untouched(&self) {
        for (path, content) in self.paths.iter().zip(&self.contents) {
            assert!(std::fs::read(path).unwrap() == *content, "{} was changed", path.display());
        }
    }
}

fn port_of(segment: &nvferry_engine::SegmentDesc) -> String {
    segment.extra["nvmeof_generic_trid"]["trsvcid"].as_str().unwrap().to_owned()
}

#[test]
fn p08_a_target_that_comes_back_with_its_files_exchanged_has_none_of_the_wrong_one_read_or_written() {
    let three = Three::new();
    let node = three.serve("0", [0, 1, 2]);
    let segment = node.describe();
    let port = port_of(&segment);
    let host = Host::attach(NvmeofOptions::new(), &segment);
    let files = [1, 2, 3].map(FileBufferId);
    for (file, content) in files.iter().zip(&three.contents) {
        assert_eq!(host.read(*file, 0, 4096).unwrap(), content[..4096]);
    }
    node.transport.uninstall(soon());

    // These wait for the target: whole blocks, parts of blocks, reads.
    let memory = RegisteredMemory::allocate(3 * 65_536);
    let waiting: Vec<_> =
        [Transfer::write(files[0], 65_536), Transfer::write(files[1], 7), Transfer::read(files[0], 0)]
            .iter()
            .zip(0..)
            .map(|(transfer, at)| host.start(transfer, &memory, at * 65_536..(at + 1) * 65_536 - 512))
            .collect();
    let exchanged = three.serve(&port, [1, 0, 2]);
    let ends: Vec<_> = waiting.into_iter().map(|request| host.ends.wait(request)).collect();
    assert_eq!(host.read(files[2], 0, 4096).unwrap(), three.contents[2][..4096], "the third file is where it was");
    for (end, at) in ends.into_iter().zip([0, 1, 0]) {
        let failure = end.unwrap_err();
        assert_eq!(failure.state, TransferState::Failed, "{failure:?}");
        let [was, now] = [&node, &exchanged].map(|node| node.files[at].identity.as_deref().unwrap());
        for words in ["another file in its place", was, now, "open it anew"] {
            assert!(failure.message.contains(words), "{words} is not in {failure:?}");
        }
    }
    host.write(files[0], 512, &[9; 512]).unwrap_err();
    host.read(files[1], 0, 512).unwrap_err();
    // Also when the description has followed: who has the segment open means the old files.
    host.segment.update(&exchanged.describe(), soon()).unwrap();
    host.write(files[0], 512, &[9; 512]).unwrap_err();
    three.assert_untouched();

    // Who opens it anew has what is there now.
    let anew = Host::attach(NvmeofOptions::new(), &exchanged.describe());
    assert_eq!(anew.read(files[0], 0, 4096).unwrap(), three.contents[1][..4096]);
    assert_eq!(anew.read(files[1], 0, 4096).unwrap(), three.contents[0][..4096]);

    // And when each file is again where it was, it is used again.
    exchanged.transport.uninstall(soon());
    let _right = three.serve(&port, [0, 1, 2]);
    let deadline = soon();
    let bytes = loop {
        match host.read(files[0], 0, 4096) {
            Ok(bytes) => break bytes,
            Err(failure) => assert!(Instant::now() < deadline, "{failure:?}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(bytes, three.contents[0][..4096]);
    host.write(files[1], 512, &[9; 512]).unwrap();
    assert_eq!(std::fs::read(&three.paths[1]).unwrap()[512..1024], [9; 512]);
}

#[test]
fn p08_a_description_of_other_files_than_the_target_has_is_not_followed() {
    let three = Three::new();
    let node = three.serve("0", [0, 1, 2]);
    let stale = node.describe();
    node.transport.uninstall(soon());
    let exchanged = three.serve(&port_of(&stale), [1, 0, 2]);
    let host = Host::attach(NvmeofOptions::new(), &stale);
    let [one, two, three_] = [1, 2, 3].map(FileBufferId);
    for file in [one, two] {
        let failure = host.write(file, 0, &[9; 4096]).unwrap_err();
        assert!(failure.message.contains("another file in its place"), "{failure:?}");
        host.read(file, 100, 300).unwrap_err();
    }
    assert_eq!(host.read(three_, 0, 4096).unwrap(), three.contents[2][..4096], "other files are none the worse for it");
    three.assert_untouched();
    // One that says nothing of what the files are is followed, as it was before such things were said.
    let mut silent = exchanged.describe();
    silent.file_buffers.iter_mut().for_each(|file| file.identity = None);
    let host = Host::attach(NvmeofOptions::new(), &silent);
    assert_eq!(host.read(one, 0, 4096).unwrap(), three.contents[1][..4096]);
}
