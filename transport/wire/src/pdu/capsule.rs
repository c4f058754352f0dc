//! Commands and completions on their way: CapsuleCmd and CapsuleResp (TCP transport 3.6.2.6, 3.6.2.7).

use super::error::PduError;
use super::header::{CommonHeader, Framing, PduFlags, PduType};
use super::layout::PduLayout;
use super::{CMD_PDU_LEN, MAX_HEADER_BYTES, RESP_PDU_LEN, header_of};
use crate::codec::{get, put};
use crate::cqe::{CQE_LEN, Cqe};
use crate::sqe::{SQE_LEN, Sqe};

/// A command, and how much data its capsule brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapsuleCmd {
    /// The command.
    pub sqe: Sqe,
    /// Bytes of in-capsule data that follow the header.
    pub data_bytes: u32,
}

impl CapsuleCmd {
    /// Writes everything before the data; returns how many bytes that is. If `data_bytes` is not 0, the caller sends
    /// the data, and its digest, after it.
    #[inline]
    pub fn encode(&self, framing: &Framing, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        put::<8, SQE_LEN, _>(out, *self.sqe.as_bytes());
        let layout = PduLayout::to_send(PduType::CapsuleCmd, self.data_bytes, framing);
        layout.finish(PduType::CapsuleCmd, PduFlags::default(), out)
    }

    /// Reads the header.
    ///
    /// # Errors
    /// Too few bytes.
    #[inline]
    pub fn decode(common: &CommonHeader, bytes: &[u8]) -> Result<Self, PduError> {
        let header = header_of::<CMD_PDU_LEN>(bytes)?;
        let sqe = Sqe::from_bytes(get::<8, SQE_LEN, _>(header));
        Ok(Self { sqe, data_bytes: common.layout().data_bytes })
    }
}

/// A completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapsuleResp {
    /// The completion.
    pub cqe: Cqe,
}

impl CapsuleResp {
    /// Writes the PDU; returns its length.
    #[inline]
    pub fn encode(&self, framing: &Framing, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        put::<8, CQE_LEN, _>(out, self.cqe.encode());
        let layout = PduLayout::to_send(PduType::CapsuleResp, 0, framing);
        layout.finish(PduType::CapsuleResp, PduFlags::default(), out)
    }

    /// Reads the PDU.
    ///
    /// # Errors
    /// Too few bytes.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, PduError> {
        let header = header_of::<RESP_PDU_LEN>(bytes)?;
        Ok(Self { cqe: Cqe::decode(&get::<8, CQE_LEN, _>(header)) })
    }
}
