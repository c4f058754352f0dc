//! Files that become shorter, full, or go away under a target that serves them, and disks that fill up.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{Host, Node, make_file, pattern, temp_dir};
use nvferry_engine::{Failure, FileBufferId, TransferState};
use nvferry_nvmeof::NvmeofOptions;
use nvferry_wire::StatusCode;
use std::path::Path;

const MIB: usize = 1 << 20;
const FIRST: FileBufferId = FileBufferId(1);
const SECOND: FileBufferId = FileBufferId(2);

/// It failed with this status, which says not to try again.
#[track_caller]
fn assert_status(failure: &Failure, status: StatusCode) {
    let (sct, sc) = status.to_raw();
    assert_eq!(failure.state, TransferState::Failed, "{failure:?}");
    assert_eq!(failure.device_status, Some(u16::from(sct) << 8 | u16::from(sc)), "{failure:?}");
    assert!(failure.message.contains("do not retry"), "{failure:?}");
}

#[test]
fn p07_a_file_that_is_cut_short_fails_beyond_its_end_and_nowhere_else() {
    let dir = temp_dir();
    let (first, second) = (pattern(MIB, 1), pattern(MIB, 2));
    let paths = [make_file(dir.path(), "first", &first), make_file(dir.path(), "second", &second)];
    let node = Node::serving("node", &[&paths[0], &paths[1]]);
    let host = Host::attach(NvmeofOptions::new(), &node.describe());
    let file = std::fs::OpenOptions::new().write(true).open(&paths[0]).unwrap();
    file.set_len(MIB as u64 / 2).unwrap();
    for (at, len) in [(MIB / 2 - 4096, 8192), (MIB - 100, 100), (MIB / 2, MIB / 2)] {
        assert_status(&host.read(FIRST, at as u64, len).unwrap_err(), StatusCode::UnrecoveredReadError);
    }
    assert_eq!(host.read(FIRST, 3, MIB / 2 - 3).unwrap(), first[3..MIB / 2]);
    assert_eq!(host.read(SECOND, 0, MIB).unwrap(), second);
    // A write makes it longer again, and what it does not cover reads as the file system has it: as zeroes.
    host.write(FIRST, MIB as u64 - 4096, &second[..4096]).unwrap();
    let mut expected = first[..MIB / 2].to_vec();
    expected.resize(MIB - 4096, 0);
    expected.extend_from_slice(&second[..4096]);
    assert!(host.read(FIRST, 0, MIB).unwrap() == expected);
}

#[test]
fn p07_a_file_that_is_removed_is_served_on_and_one_that_takes_its_name_is_another() {
    let dir = temp_dir();
    let content = pattern(MIB, 1);
    let path = make_file(dir.path(), "file", &content);
    let node = Node::serving("node", &[&path]);
    let host = Host::attach(NvmeofOptions::new(), &node.describe());
    std::fs::remove_file(&path).unwrap();
    make_file(dir.path(), "file", &pattern(MIB, 2));
    assert!(host.read(FIRST, 0, MIB).unwrap() == content);
    host.write(FIRST, 5, &[9; 10]).unwrap();
    assert!(std::fs::read(&path).unwrap() == pattern(MIB, 2), "the other is not touched");
}

/// Makes a file immutable, also for those who have it open, as long as this lives; where the file system and this user can.
struct Immutable<'a>(&'a Path);

impl<'a> Immutable<'a> {
    fn make(path: &'a Path) -> Option<Self> {
        let made = Self::chattr("+i", path).then_some(Self(path))?;
        // Some file systems take the flag and do not mind it.
        let refused = std::fs::OpenOptions::new().write(true).open(path).is_err();
        refused.then_some(made)
    }

    fn chattr(flag: &str, path: &Path) -> bool {
        std::process::Command::new("chattr").arg(flag).arg(path).output().is_ok_and(|done| done.status.success())
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        Self::chattr("-i", self.0);
    }
}

#[test]
fn p07_a_file_that_is_made_read_only_fails_its_writes_and_nothing_else() {
    // Not in memory: such a file system does not mind the flag.
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (pattern(MIB, 1), pattern(MIB, 2));
    let paths = [make_file(dir.path(), "first", &first), make_file(dir.path(), "second", &second)];
    let node = Node::serving("node", &[&paths[0], &paths[1]]);
    let host = Host::attach(NvmeofOptions::new(), &node.describe());
    let Some(immutable) = Immutable::make(&paths[0]) else {
        return println!("skipped: no file can be made immutable here (chattr +i, as root, on ext4)");
    };
    for (at, len) in [(0, 4096), (5, 10), (100, 300_000)] {
        assert_status(&host.write(FIRST, at, &second[..len]).unwrap_err(), StatusCode::NamespaceWriteProtected);
    }
    assert!(host.read(FIRST, 0, MIB).unwrap() == first);
    host.write(SECOND, 0, &first).unwrap();
    drop(immutable);
    host.write(FIRST, 0, &second).unwrap();
    assert!(host.read(FIRST, 0, MIB).unwrap() == second);
}

/// A file system of 8 MiB with two files that promise more than that together.
#[test]
fn p07_a_full_disk_fails_the_writes_that_need_room_and_nothing_else() {
    let test = "p07_a_full_disk_fails_the_writes_that_need_room_and_nothing_else";
    if !nvferry_testing::in_own_namespaces(test, "-Urm", "mount -t tmpfs -o size=8m,mode=777 none /mnt") {
        return;
    }
    let dir = Path::new("/mnt");
    let content = pattern(4 * MIB, 1);
    let there = make_file(dir, "there", &content);
    let promised = dir.join("promised");
    std::fs::File::create(&promised).unwrap().set_len(16 << 20).unwrap();
    let node = Node::serving("node", &[&there, &promised]);
    let host = Host::attach(NvmeofOptions::new(), &node.describe());
    let bytes = pattern(MIB, 2);
    let mut written = 0;
    let failure = loop {
        match host.write(SECOND, (written * MIB) as u64, &bytes) {
            Ok(()) => written += 1,
            Err(failure) => break failure,
        }
        assert!(written < 16, "it never filled up");
    };
    assert_status(&failure, StatusCode::CapacityExceeded);
    // A part of a block, too, which is read and written back.
    assert_status(&host.write(SECOND, (15 * MIB + 7) as u64, &[1; 3]).unwrap_err(), StatusCode::CapacityExceeded);
    // What has its room is read and overwritten, also in the full file.
    assert!(host.read(SECOND, 0, MIB).unwrap() == bytes);
    host.write(SECOND, 100, &bytes[..10_000]).unwrap();
    host.write(FIRST, 0, &bytes).unwrap();
    assert!(host.read(FIRST, MIB as u64, 3 * MIB).unwrap() == content[MIB..]);
    // And when there is room again, it is used.
    std::fs::OpenOptions::new().write(true).open(&there).unwrap().set_len(0).unwrap();
    host.write(SECOND, (written * MIB) as u64, &bytes).unwrap();
    assert!(host.read(SECOND, (written * MIB) as u64, MIB).unwrap() == bytes);
}
