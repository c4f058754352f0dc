//! The completion queue entry: how a command ended, 16 bytes (base specification 3.3.3.2).

use crate::codec::{get_u16, get_u64, put_u16, put_u64};
use crate::ids::{CommandId, QueueId};
use crate::status::{Status, StatusCode};

/// How long a completion queue entry is.
pub const CQE_LEN: usize = 16;

/// How a command ended. Fabrics have no phase bit; it is sent as zero and ignored when read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cqe {
    /// Dwords 0 and 1: what the command returns besides data.
    pub result: u64,
    /// The controller's position in the submission queue; 0 where submission queue flow control is off.
    pub sqhd: u16,
    /// The submission queue, for transports that share completion queues; reserved in fabrics.
    pub sqid: QueueId,
    /// The command that ended.
    pub cid: CommandId,
    /// With what.
    pub status: Status,
}

impl Cqe {
    /// A completion with `status` and no result.
    #[inline]
    pub fn new(cid: CommandId, sqhd: u16, status: impl Into<Status>) -> Self {
        Self { result: 0, sqhd, sqid: QueueId(0), cid, status: status.into() }
    }

    /// A successful completion that returns `result`.
    #[inline]
    pub fn success(cid: CommandId, sqhd: u16, result: u64) -> Self {
        Self { result, ..Self::new(cid, sqhd, StatusCode::Success) }
    }

    /// Dword 0 of the result.
    pub fn dw0(&self) -> u32 {
        self.result as u32
    }

    /// Writes the entry.
    #[inline]
    pub fn encode(&self) -> [u8; CQE_LEN] {
        let mut out = [0; CQE_LEN];
        put_u64::<0, _>(&mut out, self.result);
        put_u16::<8, _>(&mut out, self.sqhd);
        put_u16::<10, _>(&mut out, self.sqid.0);
        put_u16::<12, _>(&mut out, self.cid.0);
        put_u16::<14, _>(&mut out, self.status.to_wire());
        out
    }

    /// Reads an entry.
    #[inline]
    pub fn decode(bytes: &[u8; CQE_LEN]) -> Self {
        Self {
            result: get_u64::<0, _>(bytes),
            sqhd: get_u16::<8, _>(bytes),
            sqid: QueueId(get_u16::<10, _>(bytes)),
            cid: CommandId(get_u16::<12, _>(bytes)),
            status: Status::from_wire(get_u16::<14, _>(bytes)),
        }
    }
}
