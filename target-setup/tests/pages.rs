//! Reads that are sent as pages of their file, without a copy: the same bytes as with one, whatever happens meanwhile.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::Host;
use common::{Running, buffered, make_file, pattern, spec};
use nvferry_target::{NamespaceSpec, TargetDriver, UserspaceOptions, UserspaceTarget};
use nvferry_wire::pdu::{DataAlignment, Digests, Pdu};
use nvferry_wire::{Status, StatusCode};
use std::collections::HashMap;
use std::net::TcpStream;
use std::path::Path;

const MIB: usize = 1 << 20;
const FILE_BYTES: usize = 8 * MIB;

/// A target that serves a file of a pattern in `dir`, and an I/O queue to it.
struct Served {
    running: Running,
    path: std::path::PathBuf,
    bytes: Vec<u8>,
    _admin: Host<TcpStream>,
    io: Host<TcpStream>,
}

fn serve(place: &Path, direct: bool, send_pages: bool, digests: Digests) -> Served {
    let dir = tempfile::tempdir_in(place).unwrap();
    let path = make_file(dir.path(), "one", 9, FILE_BYTES);
    let mut spec = spec();
    spec.namespaces.push(NamespaceSpec { direct, ..buffered(1, &path, FILE_BYTES as u64) });
    let mut options = UserspaceOptions::default();
    options.send_pages = send_pages;
    let running = Running { target: UserspaceTarget::start(spec, options).unwrap(), dir };
    let (admin, cntlid) = running.admin();
    let mut io = Host::open(running.tcp(), digests, DataAlignment::NONE);
    io.connect_io(cntlid, 1, 128, true);
    Served { running, path, bytes: pattern(9, FILE_BYTES), _admin: admin, io }
}

/// Numbers that look random, the same for the same seed.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

impl Served {
    /// Sends `count` reads of random places and sizes before it receives any answer.
    fn read_many(&mut self, count: usize, seed: u64) {
        let block = self.running.target.status().namespaces[0].info.block_bytes as usize;
        let mut state = seed;
        let mut asked = HashMap::new();
        for _ in 0..count {
            let blocks = 1 + random(&mut state) % (MIB / block);
            let first = random(&mut state) % (FILE_BYTES / block - blocks + 1);
            let sqe = self.io.read_sqe(1, first as u64, blocks as u32, block as u32);
            self.io.send_command(&sqe, &[]);
            asked.insert(sqe.cid(), (first * block, blocks * block, 0));
        }
        while !asked.is_empty() {
            let received = self.io.receive().expect("the target goes on");
            let Pdu::C2hData(pdu) = received.pdu else { panic!("seed {seed}: {:?}", received.pdu) };
            let (at, len, done): &mut (usize, usize, usize) = asked.get_mut(&pdu.cccid).expect("it was asked for");
            let from = *at + pdu.datao as usize;
            assert!(received.data == self.bytes[from..from + received.data.len()], "seed {seed}: bytes at {from}");
            *done += received.data.len();
            if done == len {
                asked.remove(&pdu.cccid);
            }
        }
    }
}

/// Where files are memory, and where they are on a disk.
fn places() -> Vec<(&'static Path, bool)> {
    let mut places = vec![(Path::new("/var/tmp"), false)];
    if Path::new("/dev/shm").is_dir() {
        places.extend([(Path::new("/dev/shm"), false), (Path::new("/dev/shm"), true)]);
    }
    places
}

#[test]
fn the_same_bytes_come_with_and_without_a_copy() {
    for (place, direct) in places() {
        for send_pages in [true, false] {
            for digests in [Digests::NONE, Digests { header: true, data: true }] {
                let mut served = serve(place, direct, send_pages, digests);
                (0..8).for_each(|seed| served.read_many(100, seed));
                served.running.stop();
            }
        }
    }
}

#[test]
fn p05_a_file_that_was_cut_short_is_an_error_and_the_connection_goes_on() {
    for (place, direct) in places() {
        let mut served = serve(place, direct, true, Digests::NONE);
        let file = std::fs::OpenOptions::new().write(true).open(&served.path).unwrap();
        file.set_len(MIB as u64).unwrap();
        let block = served.running.target.status().namespaces[0].info.block_bytes;
        let blocks = 65536 / block;
        let beyond = served.io.read(1, u64::from(32 * blocks), blocks, block);
        assert_eq!(beyond, Err(Status::permanent(StatusCode::UnrecoveredReadError)), "{place:?}");
        assert!(served.io.read(1, 0, blocks, block).unwrap() == served.bytes[..65536]);
        served.running.stop();
    }
}

#[test]
fn p14_a_host_that_goes_away_with_pages_on_their_way_costs_nothing() {
    let mut served = serve(Path::new("/var/tmp"), false, true, Digests::NONE);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut most = 0;
    for round in 0..20 {
        let (admin, cntlid) = served.running.admin();
        let mut io = Host::plain(served.running.tcp());
        io.connect_io(cntlid, 1, 128, true);
        for at in 0..100 {
            let sqe = io.read_sqe(1, at % 8, 2048, 512);
            io.send_command(&sqe, &[]);
        }
        // It takes one answer, so that the others are on their way, and then goes.
        assert!(matches!(io.receive().unwrap().pdu, Pdu::C2hData(_)));
        drop((io, admin));
        served.read_many(20, round);
        if round == 4 {
            most = descriptors();
        }
    }
    // Four reactors have at most 64 pipes of two descriptors each, however many connections end.
    assert!(descriptors() <= most + 4 * 64 * 2, "{} descriptors, {most} before", descriptors());
    served.running.stop();
}
