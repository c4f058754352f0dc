//! I/O commands of the NVM command set (NVM Command Set 1.0, section 3).

use crate::codec::{get_u32, get_u64, put_u32, put_u64};
use crate::ids::{BlockCount, CommandId, Lba, Nsid};
use crate::sgl::SglDescriptor;
use crate::sqe::Sqe;
use crate::status::StatusCode;

/// An I/O command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NvmOpcode {
    /// Makes written data durable.
    Flush = 0x00,
    /// Writes blocks.
    Write = 0x01,
    /// Reads blocks.
    Read = 0x02,
    /// Marks blocks as unreadable.
    WriteUncorrectable = 0x04,
    /// Compares blocks with data.
    Compare = 0x05,
    /// Sets blocks to zero without data.
    WriteZeroes = 0x08,
    /// Says how ranges will be used; deallocates them.
    DatasetManagement = 0x09,
    /// Verifies blocks.
    Verify = 0x0C,
    /// Copies blocks.
    Copy = 0x19,
}

impl NvmOpcode {
    /// The command with this opcode.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::Flush,
            0x01 => Self::Write,
            0x02 => Self::Read,
            0x04 => Self::WriteUncorrectable,
            0x05 => Self::Compare,
            0x08 => Self::WriteZeroes,
            0x09 => Self::DatasetManagement,
            0x0C => Self::Verify,
            0x19 => Self::Copy,
            _ => return None,
        })
    }
}

/// The most blocks that one command names.
pub const MAX_BLOCKS: u32 = 1 << 16;

/// Read, Write or Compare: which blocks, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadWrite {
    /// The namespace.
    pub nsid: Nsid,
    /// The first block.
    pub slba: Lba,
    /// How many, 1 to 65536 (on the wire: from zero).
    pub blocks: BlockCount,
    /// Force Unit Access: a write is durable when it completes, a read comes from the medium.
    pub fua: bool,
    /// Limited Retry: the controller should not try long.
    pub limited_retry: bool,
}

impl ReadWrite {
    /// Blocks without further wishes.
    pub fn new(nsid: Nsid, slba: Lba, blocks: BlockCount) -> Self {
        Self { nsid, slba, blocks, fua: false, limited_retry: false }
    }

    /// The command, with its data at `sgl`.
    ///
    /// # Panics
    /// In debug builds, if `blocks` is not 1 to 65536: no more and no less can be told, and the caller cuts ranges.
    #[inline]
    pub fn sqe(&self, opcode: NvmOpcode, cid: CommandId, sgl: SglDescriptor) -> Sqe {
        debug_assert!((1..=MAX_BLOCKS).contains(&self.blocks.0));
        let mut sqe = Sqe::new(opcode as u8, cid, self.nsid).with_sgl(sgl);
        sqe.set_cdw10_11(self.slba.0);
        sqe.set_cdw12(block_dword(self.blocks) | u32::from(self.fua) << 30 | u32::from(self.limited_retry) << 31);
        sqe
    }

    /// Reads the command's fields, which any bytes have.
    #[inline]
    pub fn decode(sqe: &Sqe) -> Self {
        let cdw12 = sqe.cdw12();
        Self {
            nsid: sqe.nsid(),
            slba: Lba(sqe.cdw10_11()),
            blocks: BlockCount((cdw12 & 0xFFFF) + 1),
            fua: cdw12 >> 30 & 1 == 1,
            limited_retry: cdw12 >> 31 & 1 == 1,
        }
    }

    /// Bytes of data that the command moves, with blocks of `block_bytes`.
    #[inline]
    pub fn data_bytes(&self, block_bytes: u32) -> u64 {
        u64::from(self.blocks.0) * u64::from(block_bytes)
    }
}

/// Sets blocks to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteZeroes {
    /// The namespace.
    pub nsid: Nsid,
    /// The first block.
    pub slba: Lba,
    /// How many, 1 to 65536.
    pub blocks: BlockCount,
    /// The controller may deallocate the blocks (DEAC).
    pub deallocate: bool,
    /// The zeros are durable when the command completes.
    pub fua: bool,
}

impl WriteZeroes {
    /// The command, which has no data.
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let mut sqe = Sqe::new(NvmOpcode::WriteZeroes as u8, cid, self.nsid);
        sqe.set_cdw10_11(self.slba.0);
        sqe.set_cdw12(block_dword(self.blocks) | u32::from(self.deallocate) << 25 | u32::from(self.fua) << 30);
        sqe
    }

    /// Reads the command's fields.
    pub fn decode(sqe: &Sqe) -> Self {
        let cdw12 = sqe.cdw12();
        Self {
            nsid: sqe.nsid(),
            slba: Lba(sqe.cdw10_11()),
            blocks: BlockCount((cdw12 & 0xFFFF) + 1),
            deallocate: cdw12 >> 25 & 1 == 1,
            fua: cdw12 >> 30 & 1 == 1,
        }
    }
}

/// NLB: a count from zero in 16 bits. A count of 0 cannot be told and becomes 1 block.
fn block_dword(blocks: BlockCount) -> u32 {
    blocks.0.clamp(1, MAX_BLOCKS) - 1
}

/// Makes what was written to a namespace durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    /// The namespace, or [`Nsid::ALL`].
    pub nsid: Nsid,
}

impl Flush {
    /// The command, which has no data.
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        Sqe::new(NvmOpcode::Flush as u8, cid, self.nsid)
    }

    /// Reads the command's field.
    pub fn decode(sqe: &Sqe) -> Self {
        Self { nsid: sqe.nsid() }
    }
}

/// Bytes of one range of Dataset Management.
pub const DSM_RANGE_LEN: usize = 16;
/// The most ranges of one Dataset Management command.
pub const DSM_MAX_RANGES: u32 = 256;

/// Says how ranges of blocks will be used. The ranges are the command's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatasetManagement {
    /// The namespace.
    pub nsid: Nsid,
    /// How many ranges follow, 1 to 256 (on the wire: from zero).
    pub ranges: u32,
    /// The blocks are no longer needed (AD).
    pub deallocate: bool,
    /// They will be written as a whole (IDW); a hint.
    pub integral_write: bool,
    /// They will be read as a whole (IDR); a hint.
    pub integral_read: bool,
}

impl DatasetManagement {
    /// To deallocate `ranges` ranges.
    pub fn deallocate(nsid: Nsid, ranges: u32) -> Self {
        Self { nsid, ranges, deallocate: true, integral_write: false, integral_read: false }
    }

    /// Bytes of data.
    pub fn data_bytes(&self) -> u32 {
        self.ranges.clamp(1, DSM_MAX_RANGES) * DSM_RANGE_LEN as u32
    }

    /// The command, with its ranges at `sgl`.
    ///
    /// # Panics
    /// In debug builds, if `ranges` is not 1 to 256.
    pub fn sqe(&self, cid: CommandId, sgl: SglDescriptor) -> Sqe {
        debug_assert!((1..=DSM_MAX_RANGES).contains(&self.ranges));
        let mut sqe = Sqe::new(NvmOpcode::DatasetManagement as u8, cid, self.nsid).with_sgl(sgl);
        sqe.set_cdw10(self.ranges.clamp(1, DSM_MAX_RANGES) - 1);
        sqe.set_cdw11(
            u32::from(self.integral_read) | u32::from(self.integral_write) << 1 | u32::from(self.deallocate) << 2,
        );
        sqe
    }

    /// Reads the command's fields.
    pub fn decode(sqe: &Sqe) -> Self {
        let attributes = sqe.cdw11();
        Self {
            nsid: sqe.nsid(),
            ranges: (sqe.cdw10() & 0xFF) + 1,
            deallocate: attributes >> 2 & 1 == 1,
            integral_write: attributes >> 1 & 1 == 1,
            integral_read: attributes & 1 == 1,
        }
    }

    /// The ranges in the command's data.
    ///
    /// # Errors
    /// The status to return: less data than the ranges take.
    pub fn ranges_in(self, data: &[u8]) -> Result<impl Iterator<Item = DsmRange>, StatusCode> {
        let data = data.get(..self.data_bytes() as usize).ok_or(StatusCode::SglDataLengthInvalid)?;
        Ok(data.as_chunks::<DSM_RANGE_LEN>().0.iter().map(DsmRange::decode))
    }
}

/// A range of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DsmRange {
    /// Hints about how the range is used.
    pub context: u32,
    /// How many blocks; 0 is none.
    pub blocks: BlockCount,
    /// The first block.
    pub slba: Lba,
}

impl DsmRange {
    /// Writes the range.
    pub fn encode(&self) -> [u8; DSM_RANGE_LEN] {
        let mut out = [0; DSM_RANGE_LEN];
        put_u32::<0, _>(&mut out, self.context);
        put_u32::<4, _>(&mut out, self.blocks.0);
        put_u64::<8, _>(&mut out, self.slba.0);
        out
    }

    /// Reads a range.
    pub fn decode(bytes: &[u8; DSM_RANGE_LEN]) -> Self {
        Self {
            context: get_u32::<0, _>(bytes),
            blocks: BlockCount(get_u32::<4, _>(bytes)),
            slba: Lba(get_u64::<8, _>(bytes)),
        }
    }
}
