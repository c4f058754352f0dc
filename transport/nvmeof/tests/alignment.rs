//! Any address, offset and length, by every host driver, with digests and without.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, Node, Random, Transfer, make_file, pattern, temp_dir};
use nvferry_engine::FileBufferId;
use nvferry_io::file::{FileError, FileOptions};
use nvferry_io::{IoFile, RegisteredMemory};
use nvferry_nvmeof::{HostDriver, NvmeofOptions};
use nvferry_wire::pdu::Digests;
use std::path::PathBuf;
use std::sync::Arc;

const FILE: FileBufferId = FileBufferId(1);
const FILE_BYTES: usize = 3 << 20;

/// A host, the file behind it, and what should be in it.
struct Bench {
    host: Host,
    node: Node,
    path: PathBuf,
    model: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(options: NvmeofOptions, len: usize) -> Self {
        Self::on(temp_dir(), options, len)
    }

    fn on(dir: tempfile::TempDir, options: NvmeofOptions, len: usize) -> Self {
        let model = pattern(len, 7);
        let path = make_file(dir.path(), "a", &model);
        let node = Node::serving("node", &[&path]);
        let host = Host::attach(options, &node.describe());
        Self { host, node, path, model, _dir: dir }
    }

    /// Reads into memory that is not aligned, and looks that nothing around it was touched.
    fn read(&self, offset: usize, len: usize, misaligned_by: usize) {
        let mut memory = RegisteredMemory::from(vec![0xA5; misaligned_by + len + 64]);
        let range = misaligned_by..misaligned_by + len;
        let request = self.host.start(&Transfer::read(FILE, offset as u64), &memory, range.clone());
        self.host.ends.wait(request).unwrap();
        let bytes = memory.bytes().unwrap();
        assert!(bytes[range.clone()] == self.model[offset..offset + len], "{len} bytes at {offset}");
        assert!(bytes[..range.start].iter().chain(&bytes[range.end..]).all(|&b| b == 0xA5), "{len} bytes at {offset}");
    }

    fn write(&mut self, offset: usize, len: usize, misaligned_by: usize, seed: u64) {
        let bytes = pattern(misaligned_by + len, seed);
        self.model[offset..offset + len].copy_from_slice(&bytes[misaligned_by..]);
        let memory = RegisteredMemory::from(bytes);
        let range = misaligned_by..misaligned_by + len;
        let request = self.host.start(&Transfer::write(FILE, offset as u64), &memory, range);
        self.host.ends.wait(request).unwrap();
    }

    fn check_file(&self) {
        assert!(std::fs::read(&self.path).unwrap() == self.model, "the file is not what was written");
    }
}

/// Lengths and offsets around everything that is special: bytes, blocks, in-capsule data, in-place receives, transfers.
const LENGTHS: &[usize] = &[
    1,
    2,
    511,
    512,
    513,
    1000,
    4095,
    4096,
    4097,
    12345,
    16383,
    16384,
    16385,
    65536,
    66000,
    131_072,
    1 << 20,
    (1 << 20) + 1,
];
const OFFSETS: &[usize] = &[0, 1, 511, 512, 513, 4095, 4096, 65535, 65536, 1 << 20];

fn any_address_offset_and_length_works(options: NvmeofOptions) {
    any_address_offset_and_length_works_on(Bench::new(options, FILE_BYTES));
}

fn any_address_offset_and_length_works_on(mut bench: Bench) {
    let mut random = Random::new();
    for &len in LENGTHS {
        for &offset in OFFSETS {
            bench.write(offset, len, random.below(4097) as usize, random.next());
            bench.read(offset, len, random.below(4097) as usize);
        }
        // The very end of the file.
        bench.write(FILE_BYTES - len, len, 0, random.next());
        bench.read(FILE_BYTES - len, len, 0);
    }
    bench.check_file();
    for _ in 0..200 {
        let len = 1 + random.below(100_000) as usize;
        let offset = random.below((FILE_BYTES - len) as u64) as usize;
        bench.write(offset, len, random.below(600) as usize, random.next());
        let len = 1 + random.below(1_500_000) as usize;
        let offset = random.below((FILE_BYTES - len) as u64) as usize;
        bench.read(offset, len, random.below(600) as usize);
    }
    bench.check_file();
}

#[test]
fn p04_any_address_offset_and_length_works() {
    any_address_offset_and_length_works(NvmeofOptions::new().workers(1));
}

#[test]
fn p04_any_address_offset_and_length_works_with_many_workers_and_digests() {
    any_address_offset_and_length_works(NvmeofOptions::new().workers(4).digests(Digests::BOTH));
}

#[test]
fn p04_any_address_offset_and_length_works_on_local_files() {
    any_address_offset_and_length_works(NvmeofOptions::new().workers(2).host_driver(HostDriver::Local));
}

#[test]
fn p04_any_address_offset_and_length_works_on_local_files_through_the_page_cache() {
    any_address_offset_and_length_works(NvmeofOptions::new().workers(2).host_driver(HostDriver::Local).direct(false));
}

/// Whatever the temporary directory is on: usually a disk, which has an alignment, as memory has not.
#[test]
fn p04_any_address_offset_and_length_works_on_a_disk() {
    for driver in [HostDriver::Userspace, HostDriver::Local] {
        let dir = tempfile::tempdir().unwrap();
        let probe = make_file(dir.path(), "probe", &[0; 8192]);
        if let Err(FileError::DirectUnsupported { .. }) = IoFile::open(&probe, FileOptions::default()) {
            eprintln!("skipped: the temporary directory's file system has no Direct I/O");
            return;
        }
        let mut bench = Bench::on(dir, NvmeofOptions::new().workers(2).host_driver(driver), FILE_BYTES - 700);
        bench.write(FILE_BYTES - 800, 100, 1, 1);
        bench.check_file();
        let dir = tempfile::tempdir().unwrap();
        any_address_offset_and_length_works_on(Bench::on(dir, NvmeofOptions::new().host_driver(driver), FILE_BYTES));
    }
}

/// A file whose size is no multiple of anything: its last block is only partly backed.
fn a_file_of_any_size_is_reached_to_its_last_byte(options: NvmeofOptions) {
    let len = 100_003;
    let mut bench = Bench::new(options, len);
    bench.read(0, len, 0);
    bench.write(len - 1, 1, 3, 1);
    bench.read(len - 1, 1, 0);
    bench.write(len - 700, 700, 0, 2);
    bench.read(len - 5000, 5000, 1);
    bench.check_file();
    assert_eq!(std::fs::metadata(&bench.path).unwrap().len(), len as u64, "the file has not grown");
}

#[test]
fn p04_a_file_of_any_size_is_reached_to_its_last_byte() {
    a_file_of_any_size_is_reached_to_its_last_byte(NvmeofOptions::new().workers(2));
    a_file_of_any_size_is_reached_to_its_last_byte(NvmeofOptions::new().workers(2).host_driver(HostDriver::Local));
}

/// Many writes of neighbouring bytes at once: blocks are shared, and no write undoes another.
fn neighbours_do_not_undo_each_other(options: NvmeofOptions) {
    let mut bench = Bench::new(options, 1 << 16);
    let mut random = Random::new();
    for _ in 0..20 {
        let mut cuts: Vec<usize> = (0..200).map(|_| random.below(1 << 16) as usize).collect();
        cuts.extend([0, 1 << 16]);
        cuts.sort_unstable();
        cuts.dedup();
        let bytes = pattern(1 << 16, random.next());
        bench.model.copy_from_slice(&bytes);
        let memory = RegisteredMemory::from(bytes);
        let requests: Vec<_> = cuts
            .windows(2)
            .map(|pair| bench.host.start(&Transfer::write(FILE, pair[0] as u64), &memory, pair[0]..pair[1]))
            .collect();
        requests.into_iter().for_each(|request| bench.host.ends.wait(request).unwrap());
        bench.check_file();
    }
    let bounced = bench.host.transport.status().totals().counters.bounced_bytes;
    assert!(bounced > 0, "bounced bytes are counted");
}

#[test]
fn p04_neighbours_do_not_undo_each_other() {
    neighbours_do_not_undo_each_other(NvmeofOptions::new().workers(1));
    neighbours_do_not_undo_each_other(NvmeofOptions::new().workers(4));
}

#[test]
fn aligned_transfers_do_not_bounce() {
    let mut bench = Bench::new(NvmeofOptions::new().workers(2), FILE_BYTES);
    for (offset, len) in [(0, 512), (4096, 65536), (1 << 20, 1 << 20)] {
        bench.write(offset, len, 0, 3);
        bench.read(offset, len, 0);
        // Reads never bounce, whatever their alignment.
        bench.read(offset + 1, len, 1);
    }
    assert_eq!(bench.host.transport.status().totals().counters.bounced_bytes, 0);
    let _ = Arc::clone(&bench.node.transport);
}
