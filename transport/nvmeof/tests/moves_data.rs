//! Data moves between a host and a target over real sockets, and stays what it is.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, Node, make_file, pattern, temp_dir};
use nvferry_engine::FileBufferId;
use nvferry_nvmeof::NvmeofOptions;

const FILE: FileBufferId = FileBufferId(1);

#[test]
fn what_is_written_is_read_and_is_in_the_file() {
    let dir = temp_dir();
    let before = pattern(1 << 20, 1);
    let path = make_file(dir.path(), "a", &before);
    let node = Node::serving("node", &[&path]);
    let host = Host::attach(NvmeofOptions::new(), &node.describe());

    assert_eq!(host.read(FILE, 0, 4096).unwrap(), before[..4096]);
    assert_eq!(host.read(FILE, 65536, 65536).unwrap(), before[65536..131_072]);
    let bytes = pattern(65536, 2);
    host.write(FILE, 131_072, &bytes).unwrap();
    assert_eq!(host.read(FILE, 131_072, 65536).unwrap(), bytes);
    let mut expected = before;
    expected[131_072..196_608].copy_from_slice(&bytes);
    assert!(std::fs::read(&path).unwrap() == expected);
}
