//! NVMe/TCP protocol data units (TCP transport specification, section 3.6).
//!
//! A PDU on the wire is: common header (8 bytes), PDU specific header, header digest, padding, data, data
//! digest; all but the headers may be absent. Receiving goes in three steps, so that data never needs to be
//! in the same buffer as the header:
//!
//! 1. [`CommonHeader::decode`] checks the first 8 bytes against the [`PduRules`] of the connection.
//! 2. [`CommonHeader::layout`] says exactly which bytes follow.
//! 3. [`Pdu::decode`] reads the whole header (`layout.header_bytes`), after
//!    [`PduLayout::check_header_digest`] where digests are on.
//!
//! Sending: each PDU's `encode` lays header, digest and padding into a buffer of [`MAX_HEADER_BYTES`] and returns
//! how many bytes that is. The caller sends those, then the data, then the data's [`Crc32c`](crate::digest::Crc32c).

mod capsule;
mod data;
mod error;
mod header;
mod ic;
mod layout;
mod term;

pub use capsule::{CapsuleCmd, CapsuleResp};
pub use data::{DataEnd, DataPdu, R2t};
pub use error::{FatalErrorStatus, PduError, PduField};
pub use header::{CommonHeader, DataAlignment, Digests, Framing, PduFlags, PduRules, PduType, Role};
pub use ic::{IcReq, IcResp, PFV_1_0};
pub use layout::PduLayout;
pub use term::TermReq;

/// Bytes of the header that all PDUs begin with.
pub const COMMON_HEADER_LEN: usize = 8;
/// Bytes of ICReq and of ICResp.
pub const IC_LEN: usize = 128;
/// Bytes of a command capsule's header.
pub const CMD_PDU_LEN: usize = 72;
/// Bytes of a response capsule.
pub const RESP_PDU_LEN: usize = 24;
/// Bytes of the header of H2CData and C2HData.
pub const DATA_PDU_LEN: usize = 24;
/// Bytes of an R2T.
pub const R2T_PDU_LEN: usize = 24;
/// Bytes of the header of H2CTermReq and C2HTermReq.
pub const TERM_REQ_LEN: usize = 24;
/// The most bytes of the offending PDU that a termination request may quote.
pub const TERM_REQ_MAX_DATA_LEN: usize = 128;
/// The longest termination request.
pub const TERM_REQ_MAX_LEN: usize = TERM_REQ_LEN + TERM_REQ_MAX_DATA_LEN;
/// The most bytes that come before a PDU's data: header, header digest and padding. (It is a command capsule
/// whose 76 bytes are padded to a multiple of 72.)
pub const MAX_HEADER_BYTES: usize = 144;

/// A PDU's whole header, decoded. Its data, if it has any, comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pdu {
    /// The host opens the connection.
    IcReq(IcReq),
    /// The controller accepts it.
    IcResp(IcResp),
    /// The host ends the connection because of an error; the offending header follows as data.
    H2cTermReq(TermReq),
    /// The controller ends the connection because of an error; the offending header follows as data.
    C2hTermReq(TermReq),
    /// A command, perhaps with data.
    CapsuleCmd(CapsuleCmd),
    /// A completion.
    CapsuleResp(CapsuleResp),
    /// Data that an R2T asked for.
    H2cData(DataPdu),
    /// Data that a command asked for.
    C2hData(DataPdu),
    /// The controller asks for data.
    R2t(R2t),
}

impl Pdu {
    /// Reads a PDU's header, given its common header (which has been checked) and at least
    /// `common.layout().header_bytes` bytes from the PDU's first byte on.
    ///
    /// # Errors
    /// The bytes are too few, or a field contradicts the common header or the specification.
    #[inline]
    pub fn decode(common: &CommonHeader, bytes: &[u8]) -> Result<Self, PduError> {
        Ok(match common.pdu_type {
            PduType::IcReq => Self::IcReq(IcReq::decode(bytes)?),
            PduType::IcResp => Self::IcResp(IcResp::decode(bytes)?),
            PduType::H2cTermReq => Self::H2cTermReq(TermReq::decode(bytes)?),
            PduType::C2hTermReq => Self::C2hTermReq(TermReq::decode(bytes)?),
            PduType::CapsuleCmd => Self::CapsuleCmd(CapsuleCmd::decode(common, bytes)?),
            PduType::CapsuleResp => Self::CapsuleResp(CapsuleResp::decode(bytes)?),
            PduType::H2cData => Self::H2cData(DataPdu::decode(common, bytes)?),
            PduType::C2hData => Self::C2hData(DataPdu::decode(common, bytes)?),
            PduType::R2t => Self::R2t(R2t::decode(bytes)?),
        })
    }
}

/// The header of `LEN` bytes at the start of `bytes`.
fn header_of<const LEN: usize>(bytes: &[u8]) -> Result<&[u8; LEN], PduError> {
    bytes.first_chunk().ok_or(PduError::HeaderTruncated { needed: LEN, available: bytes.len() })
}
