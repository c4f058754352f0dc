//! Ending a connection because of an error: H2CTermReq and C2HTermReq (TCP transport 3.6.2.4, 3.6.2.5).

use super::error::{FatalErrorStatus, PduError};
use super::header::{PduFlags, PduType, Role};
use super::layout::PduLayout;
use super::{MAX_HEADER_BYTES, TERM_REQ_LEN, TERM_REQ_MAX_DATA_LEN, TERM_REQ_MAX_LEN, header_of};
use crate::codec::{get_u16, get_u32, put_u16, put_u32};

/// Why the sender ends the connection. The header that offended it follows as the PDU's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TermReq {
    /// What kind of error.
    pub fes: FatalErrorStatus,
    /// Details: the offset of the wrong field, or the digest received, as `fes` has it.
    pub fei: u32,
}

impl TermReq {
    /// What to tell the peer about `error`.
    pub fn for_error(error: &PduError) -> Self {
        Self { fes: error.fes(), fei: error.fei() }
    }

    /// Writes the whole PDU, which `sender` sends and which quotes at most 128 bytes of the offending PDU's header.
    /// Returns its length.
    pub fn encode(&self, sender: Role, offending_header: &[u8], out: &mut [u8; TERM_REQ_MAX_LEN]) -> usize {
        let pdu_type = match sender {
            Role::Host => PduType::H2cTermReq,
            Role::Controller => PduType::C2hTermReq,
        };
        let quote = &offending_header[..offending_header.len().min(TERM_REQ_MAX_DATA_LEN)];
        let mut header = [0; MAX_HEADER_BYTES];
        put_u16::<8, _>(&mut header, self.fes.to_wire());
        put_u32::<10, _>(&mut header, self.fei);
        let layout = PduLayout::to_send(pdu_type, quote.len() as u32, &Default::default());
        layout.finish(pdu_type, PduFlags::default(), &mut header);
        let len = TERM_REQ_LEN + quote.len();
        out[..TERM_REQ_LEN].copy_from_slice(&header[..TERM_REQ_LEN]);
        out[TERM_REQ_LEN..len].copy_from_slice(quote);
        len
    }

    /// Reads the header; the quote is data.
    ///
    /// # Errors
    /// Too few bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, PduError> {
        let header = header_of::<TERM_REQ_LEN>(bytes)?;
        Ok(Self { fes: FatalErrorStatus::from_wire(get_u16::<8, _>(header)), fei: get_u32::<10, _>(header) })
    }
}
