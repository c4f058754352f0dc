//! I/O commands of all kinds and sizes, on files of any size.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::host::{Host, Way};
use common::{Running, buffered, make_file, pattern, spec};
use nvferry_target::{NamespaceSpec, TargetDriver, UserspaceOptions, UserspaceTarget};
use nvferry_wire::nvm::{DatasetManagement, DsmRange, Flush, NvmOpcode, ReadWrite, WriteZeroes};
use nvferry_wire::{BlockCount, Lba, Nsid, SglDescriptor, Status, StatusCode};
use std::net::TcpStream;
use std::path::PathBuf;

const MIB: usize = 1 << 20;

type Io = Host<TcpStream>;

/// A target that serves one file as `change` wants it, an I/O queue, and the file.
fn serve(len: usize, size: usize, change: impl FnOnce(&mut NamespaceSpec)) -> (Running, Io, PathBuf, Host<TcpStream>) {
    let dir = tempfile::tempdir().unwrap();
    let path = make_file(dir.path(), "one", 1, len);
    let mut spec = spec();
    let mut namespace = buffered(1, &path, size as u64);
    change(&mut namespace);
    spec.namespaces.push(namespace);
    let running = Running { target: UserspaceTarget::start(spec, UserspaceOptions::default()).unwrap(), dir };
    let (admin, io) = running.queues();
    (running, io, path, admin)
}

fn compare(io: &mut Io, slba: u64, data: &[u8], way: Way) -> Status {
    let cid = io.cid();
    let command = ReadWrite::new(Nsid(1), Lba(slba), BlockCount(data.len() as u32 / 512));
    io.execute_with(command.sqe(NvmOpcode::Compare, cid, SglDescriptor::Transport { length: 0 }), data, way).status()
}

fn write_zeroes(io: &mut Io, slba: u64, blocks: u32) -> Status {
    let cid = io.cid();
    let (slba, blocks) = (Lba(slba), BlockCount(blocks));
    io.execute(&WriteZeroes { nsid: Nsid(1), slba, blocks, deallocate: false, fua: true }.sqe(cid)).status()
}

fn flush(io: &mut Io, nsid: u32) -> Status {
    let cid = io.cid();
    io.execute(&Flush { nsid: Nsid(nsid) }.sqe(cid)).status()
}

/// Sends the ranges in a list of `list_bytes`, as long as they or longer.
fn deallocate(io: &mut Io, ranges: &[(u64, u32)], list_bytes: usize, way: Way) -> Status {
    let cid = io.cid();
    let mut data: Vec<u8> = ranges
        .iter()
        .flat_map(|&(slba, blocks)| DsmRange { context: 0, blocks: BlockCount(blocks), slba: Lba(slba) }.encode())
        .collect();
    data.resize(list_bytes.max(data.len()), 0xFF);
    let command = DatasetManagement::deallocate(Nsid(1), ranges.len() as u32);
    io.execute_with(command.sqe(cid, SglDescriptor::Transport { length: 0 }), &data, way).status()
}

#[test]
fn all_sizes_are_written_and_read_by_all_ways() {
    let (running, mut io, path, _admin) = serve(8 * MIB, 8 * MIB, |_| {});
    let mut model = pattern(1, 8 * MIB);
    for (step, bytes) in
        [512, 1024, 4096, 8192, 16384, 16896, 65536, 66048, 262_144, 1_048_064, MIB].into_iter().enumerate()
    {
        let at = step * 3 * 512;
        for way in [Way::InCapsule, Way::Asked(usize::MAX), Way::Asked(4096), Way::Asked(1000)] {
            if way == Way::InCapsule && bytes > 65536 {
                continue;
            }
            let data = pattern(step as u64 * 7 + 3, bytes);
            assert!(io.write(1, at as u64 / 512, &data, 512, way).is_success(), "{bytes} bytes, {way:?}");
            model[at..at + bytes].copy_from_slice(&data);
        }
        assert!(
            io.read(1, at as u64 / 512, bytes as u32 / 512, 512).unwrap() == model[at..at + bytes],
            "{bytes} bytes"
        );
    }
    assert!(std::fs::read(path).unwrap() == model);
    running.stop();
}

#[test]
fn many_commands_are_under_way_at_once() {
    let (running, mut io, _path, _admin) = serve(8 * MIB, 8 * MIB, |_| {});
    let file = pattern(1, 8 * MIB);
    for round in 0..20_usize {
        let mut sqes = Vec::new();
        for at in 0..127_usize {
            let sqe = io.read_sqe(1, ((at * 61 + round * 17) % 128) as u64 * 128, 128, 512);
            io.send_command(&sqe, &[]);
            sqes.push(sqe);
        }
        while !sqes.is_empty() {
            let received = io.receive().unwrap();
            let nvferry_wire::pdu::Pdu::C2hData(data) = received.pdu else { panic!("{:?}", received.pdu) };
            let at = sqes.iter().position(|sqe| sqe.cid() == data.cccid).expect("an outstanding command");
            let slba = ReadWrite::decode(&sqes.swap_remove(at)).slba.0 as usize;
            assert!(received.data == file[slba * 512..slba * 512 + 65536]);
        }
    }
    running.stop();
}

#[test]
fn p03_nothing_outside_the_namespace_can_be_reached() {
    // The file is larger than what is offered of it.
    let (running, mut io, path, _admin) = serve(MIB, 64 << 10, |_| {});
    let before = std::fs::read(&path).unwrap();
    let out = Status::permanent(StatusCode::LbaOutOfRange);
    for (slba, blocks) in [(128, 1), (127, 2), (0, 129), (u64::MAX, 1), (u64::MAX - 1, 2), (1 << 55, 1), (1 << 63, 8)] {
        let data = vec![0xAA; blocks as usize * 512];
        assert_eq!(io.read(1, slba, blocks, 512), Err(out), "read {slba}+{blocks}");
        assert_eq!(io.write(1, slba, &data, 512, Way::Asked(usize::MAX)), out, "write {slba}+{blocks}");
        if data.len() <= 65536 {
            assert_eq!(io.write(1, slba, &data, 512, Way::InCapsule), out, "write {slba}+{blocks}");
        }
        assert_eq!(compare(&mut io, slba, &data, Way::Asked(usize::MAX)), out, "compare {slba}+{blocks}");
        assert_eq!(write_zeroes(&mut io, slba, blocks), out, "write zeroes {slba}+{blocks}");
        assert_eq!(deallocate(&mut io, &[(slba, blocks)], 0, Way::InCapsule), out, "deallocate {slba}+{blocks}");
    }
    let nowhere = Status::permanent(StatusCode::InvalidNamespace);
    for nsid in [0, 2, 77, u32::MAX] {
        assert_eq!(io.read(nsid, 0, 1, 512), Err(nowhere), "namespace {nsid}");
    }
    assert!(io.read(1, 127, 1, 512).is_ok(), "the last block can be reached");
    assert!(std::fs::read(path).unwrap() == before, "the file has not changed");
    running.stop();
}

#[test]
fn transfers_must_fit_their_buffers_and_the_limit() {
    let (running, mut io, _path, _admin) = serve(4 * MIB, 4 * MIB, |_| {});
    assert_eq!(io.read(1, 0, 2049, 512), Err(Status::permanent(StatusCode::InvalidField)), "beyond MDTS");
    let wrong_length = Status::permanent(StatusCode::SglDataLengthInvalid);
    for length in [0, 511, 512, 1536, u32::MAX] {
        let sqe = io.read_sqe(1, 0, 2, 512).with_sgl(SglDescriptor::Transport { length });
        assert_eq!(io.execute(&sqe).status(), wrong_length, "read, {length}");
        let sqe = io.write_sqe(1, 0, 2).with_sgl(SglDescriptor::Transport { length });
        assert_eq!(io.execute(&sqe).status(), wrong_length, "write, {length}");
    }
    let sqe = io.read_sqe(1, 0, 2, 512).with_sgl(SglDescriptor::InCapsule { offset: 0, length: 1024 });
    assert_eq!(io.execute(&sqe).status(), Status::permanent(StatusCode::SglDescriptorTypeInvalid));
    let keyed = SglDescriptor::Keyed { address: 0, length: 1024, key: 1, invalidate: false };
    let sqe = io.read_sqe(1, 0, 2, 512).with_sgl(keyed);
    assert_eq!(io.execute(&sqe).status(), Status::permanent(StatusCode::SglDescriptorTypeInvalid));
    // The descriptor points beyond what the capsule brought. Its data has to pass all the same.
    let mut sqe = io.write_sqe(1, 0, 2);
    sqe.set_sgl(SglDescriptor::InCapsule { offset: 512, length: 1024 });
    io.send_command(&sqe, &[0xAA; 1024]);
    let refused = io.finish(sqe.cid(), &[], 0).status();
    assert_eq!(refused, Status::permanent(StatusCode::SglOffsetInvalid));
    assert_eq!(io.read(1, 0, 2, 512).unwrap(), pattern(1, 1024));
    running.stop();
}

/// 12345 bytes are 24 whole blocks and 57 bytes: all of them can be reached, nothing after them can.
#[test]
fn a_file_of_odd_size_is_served_to_its_last_byte_and_never_grows() {
    for (file_len, direct) in [(12345, false), (12345, true), (20_000, false), (20_000, true)] {
        let Ok(what) = std::panic::catch_unwind(|| odd_size(file_len, direct)) else {
            panic!("a file of {file_len} bytes, direct: {direct}");
        };
        if let Some(why) = what {
            println!("skipped Direct I/O: {why}");
        }
    }
}

fn odd_size(file_len: usize, direct: bool) -> Option<String> {
    const SIZE: usize = 12345;
    // Direct I/O needs a file system that has it; the temporary directory's may not.
    let probe = tempfile::tempdir().unwrap();
    let path = make_file(probe.path(), "probe", 0, 8192);
    let options = nvferry_io::file::FileOptions { direct, write: true };
    if let Err(error) = nvferry_io::IoFile::open(path, options) {
        return Some(error.to_string());
    }
    let (running, mut io, path, _admin) = serve(file_len, SIZE, |namespace| namespace.direct = direct);
    let info = running.target.status().namespaces.remove(0).info;
    assert_eq!((info.size_bytes, info.direct), (SIZE as u64, direct));
    let block = info.block_bytes;
    let blocks = info.blocks as u32;
    assert_eq!(blocks, (SIZE as u32).div_ceil(block));
    let whole = blocks as usize * block as usize;
    let original = pattern(1, file_len);

    let mut expected = original[..SIZE].to_vec();
    expected.resize(whole, 0);
    assert_eq!(io.read(1, 0, blocks, block).unwrap(), expected, "beyond the size there are zeroes");

    let data = pattern(5, whole);
    assert!(io.write(1, 0, &data, block, Way::Asked(usize::MAX)).is_success());
    expected[..SIZE].copy_from_slice(&data[..SIZE]);
    assert_eq!(io.read(1, 0, blocks, block).unwrap(), expected);
    let last = pattern(6, block as usize);
    assert!(io.write(1, u64::from(blocks - 1), &last, block, Way::InCapsule).is_success());
    let start = whole - block as usize;
    expected[start..SIZE].copy_from_slice(&last[..SIZE - start]);
    assert_eq!(io.read(1, 0, blocks, block).unwrap(), expected);
    if block == 512 {
        let mut same = expected[start..].to_vec();
        assert!(compare(&mut io, u64::from(blocks - 1), &same, Way::InCapsule).is_success());
        *same.last_mut().unwrap() = 1;
        let differs = compare(&mut io, u64::from(blocks - 1), &same, Way::InCapsule);
        assert_eq!(differs, Status::permanent(StatusCode::CompareFailure), "the padding is zero");
    }
    let file = std::fs::read(&path).unwrap();
    assert_eq!(file[..SIZE], expected[..SIZE]);
    assert_eq!(file[SIZE..], original[SIZE..], "what is not offered is not touched");

    assert!(write_zeroes(&mut io, u64::from(blocks - 1), 1).is_success());
    assert!(deallocate(&mut io, &[(u64::from(blocks - 2), 1)], 0, Way::InCapsule).is_success());
    let file = std::fs::read(&path).unwrap();
    assert_eq!(file[start - block as usize..SIZE], vec![0; SIZE + block as usize - start]);
    assert_eq!(file[SIZE..], original[SIZE..], "what is not offered is not touched");
    running.stop();
    None
}

#[test]
fn zeroes_deallocation_and_comparison_do_what_they_say() {
    let (running, mut io, path, _admin) = serve(MIB, MIB, |_| {});
    let mut model = pattern(1, MIB);
    assert!(write_zeroes(&mut io, 10, 100).is_success());
    model[5120..56320].fill(0);
    assert!(write_zeroes(&mut io, 0, 2048).is_success());
    model.fill(0);
    assert_eq!(io.read(1, 0, 2048, 512).unwrap(), model);

    let data = pattern(9, MIB);
    assert!(io.write(1, 0, &data, 512, Way::Asked(usize::MAX)).is_success());
    model.copy_from_slice(&data);
    // By both ways, and in a list longer than the ranges, as Linux sends it.
    assert!(deallocate(&mut io, &[(0, 8), (100, 0), (16, 8)], 0, Way::InCapsule).is_success());
    assert!(deallocate(&mut io, &[(32, 8)], 4096, Way::InCapsule).is_success());
    assert!(deallocate(&mut io, &[(2040, 8)], 0, Way::Asked(usize::MAX)).is_success());
    for first in [0, 16, 32, 2040] {
        model[first * 512..(first + 8) * 512].fill(0);
    }
    let got = io.read(1, 0, 2048, 512).unwrap();
    assert!(got == model, "deallocated blocks read as zeroes, and no others");
    let ranges: Vec<_> = (0..256).map(|at| (at * 8, 4)).collect();
    assert!(deallocate(&mut io, &ranges, 0, Way::InCapsule).is_success());
    // A list that is wrong at its end changes nothing.
    let before = std::fs::read(&path).unwrap();
    assert!(!deallocate(&mut io, &[(4, 4), (4096, 1)], 0, Way::InCapsule).is_success());
    assert!(std::fs::read(&path).unwrap() == before);

    let data = pattern(11, 65536);
    assert!(io.write(1, 64, &data, 512, Way::Asked(usize::MAX)).is_success());
    for way in [Way::InCapsule, Way::Asked(usize::MAX), Way::Asked(512)] {
        let part = &data[..16384];
        assert!(compare(&mut io, 64, part, way).is_success(), "{way:?}");
        let mut other = part.to_vec();
        other[16383] ^= 1;
        let failure = Status::permanent(StatusCode::CompareFailure);
        assert_eq!(compare(&mut io, 64, &other, way), failure, "{way:?}");
    }
    assert!(flush(&mut io, 1).is_success() && flush(&mut io, u32::MAX).is_success());
    assert_eq!(flush(&mut io, 2), Status::permanent(StatusCode::InvalidNamespace));
    let cid = io.cid();
    let durable = ReadWrite { fua: true, ..ReadWrite::new(Nsid(1), Lba(0), BlockCount(8)) };
    let sqe = durable.sqe(NvmOpcode::Write, cid, SglDescriptor::Transport { length: 0 });
    assert!(io.execute_with(sqe, &[3; 4096], Way::InCapsule).status().is_success());
    assert_eq!(std::fs::read(path).unwrap()[..4096], [3; 4096]);
    running.stop();
}

#[test]
fn a_read_only_namespace_can_be_read_only() {
    let (running, mut io, path, _admin) = serve(MIB, MIB, |namespace| namespace.read_only = true);
    let before = std::fs::read(&path).unwrap();
    let protected = Status::permanent(StatusCode::NamespaceWriteProtected);
    assert_eq!(io.write(1, 0, &[0; 4096], 512, Way::InCapsule), protected);
    assert_eq!(io.write(1, 0, &[0; 4096], 512, Way::Asked(usize::MAX)), protected);
    assert_eq!(write_zeroes(&mut io, 0, 1), protected);
    assert_eq!(deallocate(&mut io, &[(0, 1)], 0, Way::InCapsule), protected);
    assert!(flush(&mut io, 1).is_success());
    assert!(compare(&mut io, 0, &before[..512], Way::InCapsule).is_success());
    assert!(io.read(1, 0, 2048, 512).unwrap() == before);
    assert!(std::fs::read(path).unwrap() == before);
    running.stop();
}

#[test]
fn a_file_that_was_cut_short_is_an_error_and_not_zeroes() {
    let (running, mut io, path, _admin) = serve(MIB, MIB, |_| {});
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(100_000).unwrap();
    let lost = Status::permanent(StatusCode::UnrecoveredReadError);
    assert!(io.read(1, 0, 195, 512).is_ok(), "what is there is served");
    assert_eq!(io.read(1, 195, 1, 512).unwrap_err(), lost, "the block that the cut went through");
    assert_eq!(io.read(1, 0, 2048, 512).unwrap_err(), lost);
    assert_eq!(io.read(1, 2000, 8, 512).unwrap_err(), lost);
    assert_eq!(compare(&mut io, 2000, &[0; 512], Way::InCapsule), lost);
    running.stop();
}

#[test]
fn larger_blocks_are_served_when_asked_for() {
    let (running, mut io, _path, _admin) = serve(MIB, MIB - 100, |namespace| namespace.block_bytes = Some(4096));
    let mut file = pattern(1, MIB);
    file[MIB - 100..].fill(0);
    assert_eq!(io.read(1, 255, 1, 4096).unwrap(), file[255 * 4096..]);
    assert_eq!(io.read(1, 0, 256, 4096).unwrap(), file);
    assert!(io.read(1, 0, 257, 4096).is_err());
    running.stop();
}
