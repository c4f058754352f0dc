//! The files that the target offers, and a plain model of what they may hold: what they held at first, zeroes where a
//! command asked for that, and the data of writes that were addressed to them, nothing else.

use crate::reader::Seen;
use crate::storage;
use nvferry_io::IoFile;
use nvferry_io::file::{FileIdentity, FileOptions};
use nvferry_target::NamespaceSpec;
use nvferry_wire::nvm::{DatasetManagement, NvmOpcode, ReadWrite, WriteZeroes};
use nvferry_wire::pdu::DataPdu;
use nvferry_wire::{Nsid, SglDescriptor, Sqe};
use std::path::PathBuf;
use std::sync::{LazyLock, PoisonError};
use tempfile::TempDir;

/// A file that is there as long as the process is; what it holds is the storage's.
struct OnDisk {
    path: PathBuf,
    identity: FileIdentity,
}

/// Size, block, and whether it may only be read. The first ends within a block.
const SHAPES: [(usize, u32, bool); 3] = [(70_000, 512, false), (16_384, 512, true), (65_536, 4096, false)];

static ON_DISK: LazyLock<(TempDir, Vec<OnDisk>)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory for files");
    let make = |(at, &(size, ..)): (usize, &(usize, u32, bool))| {
        let path = dir.path().join(at.to_string());
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(size as u64).expect("a file may have a size");
        let options = FileOptions { direct: false, write: true };
        let identity = IoFile::open(&path, options).expect("it was just made").identity();
        OnDisk { path, identity }
    };
    let files = SHAPES.iter().enumerate().map(make).collect();
    (dir, files)
});

/// A change that a command asks for.
#[derive(Debug, Clone)]
pub(super) struct Record {
    file: usize,
    start: usize,
    /// As far as it has come.
    pub(super) data: Vec<u8>,
    /// Where the last data of it ended.
    pub(super) end: usize,
    pub(super) corrupt: bool,
    /// Only the ranges in its data are changed, to zero.
    ranges: Option<u32>,
    /// It has data of its own, which comes from the host.
    pub(super) takes_data: bool,
}

/// All files.
pub(super) struct Files {
    pub(super) storage: storage::Files,
    records: Vec<Record>,
}

/// What the files hold at first.
static INITIAL: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let byte =
        |file: usize, at: usize| ((at as u32).wrapping_mul(0x9E37_79B1) >> 24) as u8 ^ (file as u8).wrapping_mul(77);
    (0..SHAPES.len()).map(|file| (0..SHAPES[file].0).map(|at| byte(file, at)).collect()).collect()
});

/// Most of a file is as it was, which is seen fastest in pieces of this size.
const PIECE_BYTES: usize = 512;

fn shape(nsid: Nsid) -> Option<(usize, usize, usize, bool)> {
    let file = (nsid.0 as usize).checked_sub(1)?;
    let &(size, block, read_only) = SHAPES.get(file)?;
    Some((file, size, block as usize, read_only))
}

impl Files {
    pub(super) fn new() -> Self {
        let storage = storage::Files::default();
        {
            let mut files = storage.lock().unwrap_or_else(PoisonError::into_inner);
            for (at, file) in ON_DISK.1.iter().enumerate() {
                files.insert(file.identity, INITIAL[at].clone());
            }
        }
        Self { storage, records: Vec::new() }
    }

    pub(super) fn count() -> u32 {
        SHAPES.len() as u32
    }

    /// The description of a namespace.
    pub(super) fn spec(nsid: u32) -> NamespaceSpec {
        let at = nsid as usize - 1;
        let (size, block, read_only) = SHAPES[at];
        NamespaceSpec {
            direct: false,
            overwrite: true,
            read_only,
            block_bytes: Some(block),
            ..NamespaceSpec::new(Nsid(nsid), &ON_DISK.1[at].path, size as u64)
        }
    }

    /// A command has gone to the target on what may be an I/O queue, with its whole capsule or only the capsule's header:
    /// what it may change, if it is right.
    pub(super) fn command(&mut self, sqe: &Sqe, capsule: Option<&Seen>) -> Option<usize> {
        let (file, size, block, read_only) = shape(sqe.nsid())?;
        let blocks = size.div_ceil(block) as u64;
        let range = |slba: u64, count: u32| {
            let end = slba.checked_add(count.into()).filter(|&end| end <= blocks)?;
            Some((slba as usize * block, end as usize * block))
        };
        let sgl = sqe.sgl().ok();
        let (start, data, ranges) = match NvmOpcode::from_u8(sqe.opcode())? {
            NvmOpcode::Write => {
                let command = ReadWrite::decode(sqe);
                let (start, end) = range(command.slba.0, command.blocks.0)?;
                (sgl?.length_bytes() as usize == end - start).then_some(())?;
                (start, vec![0; end - start], None)
            }
            NvmOpcode::WriteZeroes => {
                let command = WriteZeroes::decode(sqe);
                let (start, end) = range(command.slba.0, command.blocks.0)?;
                (start, vec![0; end - start], None)
            }
            NvmOpcode::DatasetManagement => {
                let command = DatasetManagement::decode(sqe);
                let bytes = sgl?.length_bytes() as usize;
                (command.deallocate && bytes <= 4096).then_some(())?;
                (0, vec![0; bytes], Some(command.ranges))
            }
            _ => return None,
        };
        if read_only {
            return None;
        }
        let takes_data = NvmOpcode::from_u8(sqe.opcode()) != Some(NvmOpcode::WriteZeroes);
        if takes_data && capsule.is_none() {
            return None;
        }
        self.records.push(Record { file, start, data, end: 0, corrupt: false, ranges, takes_data });
        let record = self.records.len() - 1;
        if let (Some(SglDescriptor::InCapsule { offset, length }), Some(seen)) = (sgl, capsule)
            && let Ok(from) = usize::try_from(offset)
            && let Some(data) = seen.data.get(from..from.saturating_add(length as usize))
        {
            let part = Seen { data: data.to_vec(), ..seen.clone() };
            self.records[record].note(0, &part);
        }
        Some(record)
    }

    /// Data for a command has gone to the target.
    pub(super) fn data(&mut self, record: usize, data: &DataPdu, seen: &Seen) {
        let (record, at) = (&mut self.records[record], data.datao as usize);
        if at < record.end {
            // It was sent before, and may have been carried out with that.
            let mut another = record.clone();
            another.note(at, seen);
            self.records.push(another);
        } else {
            record.note(at, seen);
        }
    }

    /// Whether a byte of a file may be this.
    fn may_be(&self, file: usize, at: usize, byte: u8) -> bool {
        INITIAL[file][at] == byte || self.records.iter().any(|record| record.file == file && record.gives(at, byte))
    }

    /// The target answered a read with this.
    pub(super) fn check_read(&self, command: &ReadWrite, datao: u32, data: &[u8]) {
        let (file, size, block, _) = shape(command.nsid).expect("a read of a file that is there");
        let start = command.slba.0 as usize * block + datao as usize;
        let (data, beyond) = data.split_at(data.len().min(size.saturating_sub(start)));
        assert!(beyond.iter().all(|&byte| byte == 0), "a read of file {file} found more than zeroes beyond its end");
        if let Some((at, byte)) = self.first_wrong(file, start, data) {
            panic!("a read found {byte:#x} at byte {at} of file {file}, which nobody wrote there");
        }
    }

    /// Checks all files.
    pub(super) fn check(&self) {
        let contents = self.storage.lock().unwrap_or_else(PoisonError::into_inner);
        for (file, on_disk) in ON_DISK.1.iter().enumerate() {
            let content = &contents[&on_disk.identity];
            assert_eq!(content.len(), SHAPES[file].0, "file {file} must keep its size");
            if let Some((at, byte)) = self.first_wrong(file, 0, content) {
                panic!("byte {at} of file {file} became {byte:#x} without a write of it");
            }
        }
    }

    /// The first byte of these, from `start` on in a file, that may not be.
    fn first_wrong(&self, file: usize, start: usize, data: &[u8]) -> Option<(usize, u8)> {
        let before = &INITIAL[file][start.min(INITIAL[file].len())..];
        let pieces = (start..).step_by(PIECE_BYTES).zip(data.chunks(PIECE_BYTES).zip(before.chunks(PIECE_BYTES)));
        let changed = pieces.filter(|(_, (data, before))| *data != &before[..data.len()]);
        let mut bytes = changed.flat_map(|(start, (data, _))| (start..).zip(data.iter().copied()));
        bytes.find(|&(at, byte)| !self.may_be(file, at, byte))
    }
}

impl Record {
    fn gives(&self, at: usize, byte: u8) -> bool {
        if self.corrupt {
            return false;
        }
        if let Some(count) = self.ranges {
            let block = SHAPES[self.file].1 as usize;
            let ranges = self.data.chunks_exact(16).take(count as usize);
            return byte == 0
                && ranges.into_iter().any(|range| {
                    let blocks = u32::from_le_bytes(range[4..8].try_into().expect("four bytes"));
                    let slba = u64::from_le_bytes(range[8..16].try_into().expect("eight bytes"));
                    let block_at = (at / block) as u64;
                    slba <= block_at && block_at - slba < blocks.into()
                });
        }
        at.checked_sub(self.start).and_then(|at| self.data.get(at)) == Some(&byte)
    }
}
