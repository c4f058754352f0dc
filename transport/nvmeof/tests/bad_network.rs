//! Networks that cut, stall, delay, split and damage, between a real host and a real target.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, Node, Random, Transfer, make_file, pattern, temp_dir};
use nvferry_engine::{FileBufferId, SegmentDesc};
use nvferry_io::RegisteredMemory;
use nvferry_nvmeof::NvmeofOptions;
use nvferry_testing::{Faults, Proxy};
use nvferry_wire::pdu::Digests;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const FILE: FileBufferId = FileBufferId(1);
const FILE_BYTES: usize = 4 << 20;

/// A target with one file, and a network before it.
struct Net {
    _node: Node,
    proxy: Proxy,
    segment: SegmentDesc,
    content: Vec<u8>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn net() -> Net {
    let dir = temp_dir();
    let content = pattern(FILE_BYTES, 1);
    let path = make_file(dir.path(), "file", &content);
    let node = Node::serving("node", &[&path]);
    let mut segment = node.describe();
    let trid = segment.extra["nvmeof_generic_trid"].as_object_mut().unwrap();
    let target: SocketAddr = format!("127.0.0.1:{}", trid["trsvcid"].as_str().unwrap()).parse().unwrap();
    let proxy = Proxy::to(target);
    trid.insert("trsvcid".into(), proxy.address.port().to_string().into());
    Net { _node: node, proxy, segment, content, path, _dir: dir }
}

/// Writes and reads through a network that does this; at the end the file is what a model of it says.
fn moves_data_through(options: NvmeofOptions, to_target: Faults, to_host: Faults) -> Net {
    let mut net = net();
    let host = Host::attach(options, &net.segment);
    net.proxy.to_target(to_target);
    net.proxy.to_host(to_host);
    let mut random = Random::new();
    for _ in 0..8 {
        // Neighbours share blocks, and none overlaps another.
        let mut ends: Vec<_> = (0..25).map(|_| random.below(FILE_BYTES as u64) as usize).collect();
        ends.sort_unstable();
        let mut bytes = vec![0; FILE_BYTES];
        random.fill(&mut bytes);
        let ranges: Vec<_> = ends.windows(2).map(|ends| ends[0]..(ends[0] + 100_000).min(ends[1])).collect();
        let memory = RegisteredMemory::from(bytes.clone());
        let write = |range: &std::ops::Range<usize>| {
            host.start(&Transfer::write(FILE, range.start as u64), &memory, range.clone())
        };
        let writes: Vec<_> = ranges.iter().map(write).collect();
        for (request, range) in writes.into_iter().zip(&ranges) {
            host.ends.wait(request).unwrap();
            net.content[range.clone()].copy_from_slice(&bytes[range.clone()]);
        }
        for range in ranges {
            let (start, len) = (range.start.saturating_sub(1000), range.len() + 1);
            let bytes = host.read(FILE, start as u64, len).unwrap();
            assert!(bytes == net.content[start..start + len], "{len} bytes at {start}");
        }
    }
    assert!(std::fs::read(&net.path).unwrap() == net.content);
    net
}

#[test]
fn p08_a_network_that_cuts_at_any_byte_loses_nothing() {
    let cuts = Faults { cut_every_bytes: 6 << 20, ..Faults::default() };
    let net = moves_data_through(NvmeofOptions::new().workers(2), cuts, cuts);
    assert!(net.proxy.cuts() > 0);
}

#[test]
fn p15_a_network_that_flips_bits_changes_nothing() {
    let flips = Faults { flip_every_bytes: 1 << 20, ..Faults::default() };
    let net = moves_data_through(NvmeofOptions::new().digests(Digests::BOTH), flips, flips);
    assert!(net.proxy.flips() > 0);
}

#[test]
fn p05_a_network_that_stalls_delays_and_splits_is_waited_for() {
    let slow = Faults {
        stall_every_bytes: 2 << 20,
        stall: Duration::from_millis(100),
        delay: Duration::from_micros(20),
        bytes_per_second: 100 << 20,
        piece_bytes: 3001,
        ..Faults::default()
    };
    let net = moves_data_through(NvmeofOptions::new().workers(1), slow, slow);
    assert_eq!(net.proxy.accepted(), 2, "an admin queue and an I/O queue, and no other");
}

/// A target that does not read, as one whose storage stalls may: its window closes, and it stays connected.
#[test]
fn p07_a_target_that_does_not_read_for_longer_keeps_its_connection() {
    if !nvferry_testing::takes_long("20 s of waiting for a timer that must not exist") {
        return;
    }
    let net = net();
    let host = Host::attach(NvmeofOptions::new().workers(1), &net.segment);
    host.read(FILE, 0, 4096).unwrap();
    // The I/O queue's connection; what comes with its command is sent whether it is read or not.
    net.proxy.freeze_connection(1);
    let memory = RegisteredMemory::from(pattern(FILE_BYTES, 2));
    let step = 16 << 10;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let writes: Vec<_> = (0..FILE_BYTES / step)
        .map(|i| host.start(&Transfer::write(FILE, (i * step) as u64).by(deadline), &memory, i * step..(i + 1) * step))
        .collect();
    std::thread::sleep(Duration::from_secs(20));
    assert!(writes.iter().any(|&request| !host.ends.has_ended(request)));
    net.proxy.thaw();
    writes.into_iter().for_each(|request| host.ends.wait(request).unwrap());
    assert_eq!(net.proxy.accepted(), 2, "it was not given up: {:?}", host.transport.status());
}
