//! I/O commands: what each is to do, checked against its namespace, and the file operations that it takes.

use super::lane::{LaneFiles, LaneId};
use super::limits;
use super::namespace::Namespace;
use nvferry_io::{IoFile, IoKind, PoolBuf};
use nvferry_wire::nvm::{DSM_MAX_RANGES, DSM_RANGE_LEN, DatasetManagement, NvmOpcode, ReadWrite, WriteZeroes};
use nvferry_wire::sqe::Fuse;
use nvferry_wire::{BlockCount, Lba, SglDescriptor, Sqe, Status, StatusCode};
use rustix::io::Errno;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Which way a command's data goes, and how much it is in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    FromHost(u32),
    ToHost(u32),
}

/// Which part of a change to the file is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// What Direct I/O can reach.
    Body,
    /// The last bytes of the namespace, which it cannot.
    Tail,
    /// Making it durable.
    Sync,
    Done,
}

/// How a range is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Write,
    Zero,
}

/// What a command is to do. Offsets and lengths are bytes of the file, cut at the namespace's size.
#[derive(Debug)]
pub(crate) enum Work {
    Read {
        offset: u64,
    },
    Modify {
        change: Change,
        offset: u64,
        body: u64,
        tail: u64,
        durable: bool,
        step: Step,
    },
    Compare {
        offset: u64,
    },
    /// Dataset Management; the ranges are known when the data is there.
    Ranges {
        command: DatasetManagement,
        ranges: Vec<(u64, u64)>,
    },
    /// Sync this lane's namespace, then those of the rest.
    Flush {
        rest: Vec<LaneId>,
    },
    /// Connect, once its data is there.
    Connect,
    /// Authentication Send, once its message is there.
    AuthSend,
}

/// One operation on a file.
pub(crate) struct Operation {
    pub(crate) file: Arc<IoFile>,
    pub(crate) kind: IoKind,
    pub(crate) offset: u64,
    pub(crate) buffer: OperationBuffer,
}

/// The memory that an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OperationBuffer {
    None,
    /// The first bytes of the command's buffer.
    Own(usize),
    /// Another buffer.
    Extra(usize),
}

/// What comes after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Perhaps another operation: ask [`Work::operation`].
    Continue,
    /// Flush goes on with the next namespace.
    NextLane(LaneId),
    /// The command has ended.
    Done(Status),
}

impl Work {
    /// What a command on a namespace is to do, and which data that takes.
    ///
    /// # Errors
    /// The status to complete it with; it would fail again.
    pub(crate) fn plan(sqe: &Sqe, namespace: &Namespace) -> Result<(Self, Data), StatusCode> {
        if sqe.fuse() != Fuse::Normal || !sqe.uses_sgl() {
            return Err(StatusCode::InvalidField);
        }
        let opcode = NvmOpcode::from_u8(sqe.opcode()).ok_or(StatusCode::InvalidOpcode)?;
        match opcode {
            NvmOpcode::Read | NvmOpcode::Write | NvmOpcode::Compare => Self::plan_transfer(opcode, sqe, namespace),
            NvmOpcode::Flush => Ok((Self::Flush { rest: Vec::new() }, Data::None)),
            NvmOpcode::WriteZeroes => {
                let command = WriteZeroes::decode(sqe);
                check_writable(namespace)?;
                let (offset, len) = range(namespace, command.slba, command.blocks.0)?;
                Ok((Self::modify(Change::Zero, namespace, offset, len, command.fua), Data::None))
            }
            NvmOpcode::DatasetManagement => {
                let command = DatasetManagement::decode(sqe);
                check_writable(namespace)?;
                let data = expect_ranges(sqe, command.data_bytes())?;
                Ok((Self::Ranges { command, ranges: Vec::new() }, data))
            }
            NvmOpcode::WriteUncorrectable | NvmOpcode::Verify | NvmOpcode::Copy => Err(StatusCode::InvalidOpcode),
        }
    }

    fn plan_transfer(opcode: NvmOpcode, sqe: &Sqe, namespace: &Namespace) -> Result<(Self, Data), StatusCode> {
        let command = ReadWrite::decode(sqe);
        if opcode == NvmOpcode::Write {
            check_writable(namespace)?;
        }
        let (offset, len) = range(namespace, command.slba, command.blocks.0)?;
        let data_bytes = u32::try_from(len).ok().filter(|&len| len <= limits::MAX_TRANSFER_BYTES);
        let data_bytes = data_bytes.ok_or(StatusCode::InvalidField)?;
        Ok(match opcode {
            NvmOpcode::Read => (Self::Read { offset }, expect_to_host(sqe, data_bytes)?),
            NvmOpcode::Compare => (Self::Compare { offset }, expect_from_host(sqe, data_bytes)?),
            _ => {
                let work = Self::modify(Change::Write, namespace, offset, len, command.fua);
                (work, expect_from_host(sqe, data_bytes)?)
            }
        })
    }

    /// A change of the blocks at `offset`: what lies beyond the namespace's size is dropped.
    fn modify(change: Change, namespace: &Namespace, offset: u64, len: u64, durable: bool) -> Self {
        let end = (offset + len).min(namespace.info.size_bytes);
        let body_end = end.min(namespace.tail_offset);
        Self::Modify {
            change,
            offset,
            body: body_end.saturating_sub(offset),
            tail: end.saturating_sub(body_end.max(offset)),
            durable,
            step: Step::Body,
        }
    }

    /// The bytes of the file that it changes, if any.
    pub(crate) fn changes(&self) -> Option<Range<u64>> {
        match self {
            Self::Modify { offset, body, tail, .. } => Some(*offset..*offset + *body + *tail),
            Self::Ranges { ranges, .. } => {
                let start = ranges.iter().map(|(offset, _)| *offset).min()?;
                let end = ranges.iter().map(|(offset, len)| offset + len).max()?;
                Some(start..end)
            }
            Self::Read { .. } | Self::Compare { .. } | Self::Flush { .. } | Self::Connect | Self::AuthSend => None,
        }
    }

    /// Takes in the data that the host sent: the ranges of Dataset Management.
    ///
    /// # Errors
    /// The status to complete the command with.
    pub(crate) fn take_data(&mut self, namespace: &Namespace, data: &[u8]) -> Result<(), StatusCode> {
        let Self::Ranges { command, ranges } = self else { return Ok(()) };
        if !command.deallocate {
            return Ok(());
        }
        for asked in command.ranges_in(data)? {
            let BlockCount(blocks) = asked.blocks;
            if blocks > 0 {
                let (offset, len) = range(namespace, asked.slba, blocks)?;
                ranges.push((offset, len.min(namespace.info.size_bytes - offset)));
            }
        }
        // Taken from the end.
        ranges.reverse();
        Ok(())
    }

    /// The operation to do next; nothing when all are done. `buffer` is the command's own.
    pub(crate) fn operation(
        &mut self,
        files: &LaneFiles,
        data_bytes: u32,
        buffer: Option<&mut PoolBuf>,
    ) -> Option<Operation> {
        let on_file = |kind, offset, buffer| Some(Operation { file: Arc::clone(&files.file), kind, offset, buffer });
        match self {
            Self::Read { offset } => on_file(IoKind::Read, *offset, OperationBuffer::Own(data_bytes as usize)),
            Self::Compare { offset } => on_file(IoKind::Read, *offset, OperationBuffer::Extra(data_bytes as usize)),
            Self::Flush { .. } => on_file(IoKind::SyncData, 0, OperationBuffer::None),
            Self::Ranges { ranges, .. } => {
                let &(offset, len) = ranges.last()?;
                on_file(IoKind::Deallocate { len }, offset, OperationBuffer::None)
            }
            Self::Connect | Self::AuthSend => None,
            Self::Modify { change, offset, body, tail, durable, step } => {
                if *step == Step::Body && *body == 0 {
                    *step = Step::Tail;
                }
                if *step == Step::Tail && *tail == 0 {
                    *step = Step::Sync;
                }
                if *step == Step::Sync && !*durable {
                    *step = Step::Done;
                }
                let (at, len) = match step {
                    Step::Body => (*offset, *body),
                    Step::Tail => (*offset + *body, *tail),
                    Step::Sync => return on_file(IoKind::SyncData, 0, OperationBuffer::None),
                    Step::Done => return None,
                };
                let file = match (*step, &files.tail) {
                    (Step::Tail, Some(tail)) => Arc::clone(tail),
                    _ => Arc::clone(&files.file),
                };
                let (kind, buffer) = match change {
                    Change::Zero => (IoKind::WriteZeroes { len }, OperationBuffer::None),
                    Change::Write => {
                        if let (Step::Tail, Some(buffer)) = (*step, buffer) {
                            // Operations take the first bytes of a buffer; the body is on the file already.
                            buffer.copy_within(*body as usize..(*body + *tail) as usize, 0);
                        }
                        (IoKind::Write, OperationBuffer::Own(len as usize))
                    }
                };
                Some(Operation { file, kind, offset: at, buffer })
            }
        }
    }

    /// Takes in the end of an operation. `moved` is what the operation read, where that is not the command's own buffer.
    pub(crate) fn operation_ended(
        &mut self,
        namespace: &Namespace,
        data_bytes: u32,
        result: io::Result<usize>,
        own: Option<&mut PoolBuf>,
        extra: Option<&[u8]>,
    ) -> After {
        let len = data_bytes as usize;
        match self {
            Self::Read { offset } => {
                let backed = backed(namespace, *offset, len);
                match (result, own) {
                    (Ok(read), Some(buffer)) if read >= backed => {
                        buffer[backed..len].fill(0);
                        After::Done(Status::SUCCESS)
                    }
                    // The file has been cut short: better no data than zeroes that nobody wrote. Nor will reading again
                    // bring it back.
                    (Ok(_), _) => After::Done(Status::permanent(StatusCode::UnrecoveredReadError)),
                    (Err(error), _) => After::Done(read_status(&error)),
                }
            }
            Self::Compare { offset } => {
                let backed = backed(namespace, *offset, len);
                match (result, own, extra) {
                    (Ok(read), Some(own), Some(there)) if read >= backed => {
                        let same = own[..backed] == there[..backed] && own[backed..len].iter().all(|&byte| byte == 0);
                        let failure = Status::permanent(StatusCode::CompareFailure);
                        After::Done(if same { Status::SUCCESS } else { failure })
                    }
                    (Err(error), ..) => After::Done(read_status(&error)),
                    _ => After::Done(Status::permanent(StatusCode::UnrecoveredReadError)),
                }
            }
            Self::Flush { rest } => match (result, rest.pop()) {
                (Err(error), _) => After::Done(write_status(&error)),
                (Ok(_), Some(lane)) => After::NextLane(lane),
                (Ok(_), None) => After::Done(Status::SUCCESS),
            },
            Self::Ranges { ranges, .. } => {
                ranges.pop();
                match result {
                    // Deallocation is a wish, which not every file system can fulfil.
                    Err(error) if error.kind() != io::ErrorKind::Unsupported => After::Done(write_status(&error)),
                    _ => After::Continue,
                }
            }
            Self::Modify { change, body, tail, step, .. } => {
                let expected = match (*step, *change) {
                    (Step::Body, Change::Write) => *body as usize,
                    (Step::Tail, Change::Write) => *tail as usize,
                    _ => 0,
                };
                *step = match *step {
                    Step::Body => Step::Tail,
                    Step::Tail => Step::Sync,
                    Step::Sync | Step::Done => Step::Done,
                };
                match result {
                    Ok(written) if written >= expected => After::Continue,
                    Ok(_) => After::Done(Status::new(StatusCode::WriteFault)),
                    Err(error) => After::Done(write_status(&error)),
                }
            }
            Self::Connect | Self::AuthSend => After::Done(Status::new(StatusCode::InternalError)),
        }
    }
}

/// Bytes of the blocks from `offset` that the namespace really has.
fn backed(namespace: &Namespace, offset: u64, len: usize) -> usize {
    usize::try_from(namespace.info.size_bytes.saturating_sub(offset)).map_or(len, |left| left.min(len))
}

fn check_writable(namespace: &Namespace) -> Result<(), StatusCode> {
    if namespace.info.read_only { Err(StatusCode::NamespaceWriteProtected) } else { Ok(()) }
}

/// The bytes of a range of blocks: offset and length. The range is inside the namespace.
fn range(namespace: &Namespace, slba: Lba, blocks: u32) -> Result<(u64, u64), StatusCode> {
    let end = slba.0.checked_add(blocks.into()).filter(|&end| end <= namespace.info.blocks);
    end.ok_or(StatusCode::LbaOutOfRange)?;
    // The namespace's bytes fit a u64 with its last block rounded up, or its file could not be so large.
    Ok((slba.0 << namespace.block_shift, u64::from(blocks) << namespace.block_shift))
}

fn expect_to_host(sqe: &Sqe, data_bytes: u32) -> Result<Data, StatusCode> {
    match sqe.sgl().map_err(|error| error.status())? {
        SglDescriptor::Transport { length } if length == data_bytes => Ok(Data::ToHost(data_bytes)),
        SglDescriptor::Transport { .. } => Err(StatusCode::SglDataLengthInvalid),
        SglDescriptor::InCapsule { .. } | SglDescriptor::Keyed { .. } => Err(StatusCode::SglDescriptorTypeInvalid),
    }
}

fn expect_from_host(sqe: &Sqe, data_bytes: u32) -> Result<Data, StatusCode> {
    match sqe.sgl().map_err(|error| error.status())? {
        SglDescriptor::Keyed { .. } => Err(StatusCode::SglDescriptorTypeInvalid),
        sgl if sgl.length_bytes() == data_bytes => Ok(Data::FromHost(data_bytes)),
        _ => Err(StatusCode::SglDataLengthInvalid),
    }
}

/// The ranges of Dataset Management. Linux always sends the longest list that there can be, whatever it announces.
fn expect_ranges(sqe: &Sqe, needed_bytes: u32) -> Result<Data, StatusCode> {
    let sent_bytes = sqe.sgl().map_err(|error| error.status())?.length_bytes();
    if sent_bytes < needed_bytes || sent_bytes > DSM_MAX_RANGES * DSM_RANGE_LEN as u32 {
        return Err(StatusCode::SglDataLengthInvalid);
    }
    expect_from_host(sqe, sent_bytes)
}

/// The status of a read that the system refused.
fn read_status(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Status::permanent(StatusCode::AccessDenied),
        _ if is_lasting(error) => Status::permanent(StatusCode::UnrecoveredReadError),
        _ => common_status(error).unwrap_or(Status::new(StatusCode::UnrecoveredReadError)),
    }
}

/// The status of a change that the system refused.
fn write_status(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Status::permanent(StatusCode::CapacityExceeded)
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            Status::permanent(StatusCode::NamespaceWriteProtected)
        }
        io::ErrorKind::Unsupported => Status::permanent(StatusCode::InvalidOpcode),
        _ if is_lasting(error) => Status::permanent(StatusCode::WriteFault),
        _ => common_status(error).unwrap_or(Status::new(StatusCode::WriteFault)),
    }
}

/// Whether the device has given these blocks up, so that the same command would fail again (DNR, base specification
/// 3.3.3.2.1). The system says so with errors of their own; its plain I/O error also stands for what passes, such as a path
/// that is lost for a moment.
fn is_lasting(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    // Linux's names for a medium error, a failed checksum, and a device that refuses (`blk_errors` in block/blk-core.c).
    matches!(errno, Some(Errno::NODATA | Errno::ILSEQ | Errno::REMOTEIO))
}

/// What has nothing to do with the medium: the machine is short of something, or the operation was wrong.
fn common_status(error: &io::Error) -> Option<Status> {
    match error.kind() {
        io::ErrorKind::OutOfMemory
        | io::ErrorKind::WouldBlock
        | io::ErrorKind::Interrupted
        | io::ErrorKind::ResourceBusy
        | io::ErrorKind::TimedOut => Some(Status::new(StatusCode::InternalError)),
        io::ErrorKind::InvalidInput => Some(Status::permanent(StatusCode::InternalError)),
        _ => None,
    }
}
