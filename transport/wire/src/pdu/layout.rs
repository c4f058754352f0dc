//! Which bytes a PDU consists of, for the side that sends it and for the side that receives it.

use super::error::PduError;
use super::header::{CommonHeader, Framing, PduFlags, PduType};
use super::{MAX_HEADER_BYTES, TERM_REQ_LEN};
use crate::digest::{DIGEST_LEN, crc32c};

/// The parts of a PDU in their order on the wire, in bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PduLayout {
    /// The whole header, common part included (HLEN).
    pub header_bytes: u8,
    /// The header digest: 0 or 4.
    pub header_digest_bytes: u8,
    /// Padding before the data.
    pub padding_bytes: u8,
    /// The data.
    pub data_bytes: u32,
    /// The data digest: 0 or 4.
    pub data_digest_bytes: u8,
}

impl PduLayout {
    /// The layout of a PDU to send, with `data_bytes` of data.
    #[inline]
    pub fn to_send(pdu_type: PduType, data_bytes: u32, framing: &Framing) -> Self {
        let digests = if pdu_type.has_digests() { framing.digests } else { Default::default() };
        let header_bytes = pdu_type.header_bytes() as u8; // at most 128
        let header_digest_bytes = if digests.header { DIGEST_LEN as u8 } else { 0 };
        let mut layout = Self { header_bytes, header_digest_bytes, padding_bytes: 0, data_bytes, data_digest_bytes: 0 };
        if data_bytes > 0 && pdu_type.has_digests() {
            let before = u32::from(header_bytes) + u32::from(header_digest_bytes);
            // Less than an alignment, which is at most 128.
            layout.padding_bytes = (before.next_multiple_of(framing.alignment.bytes()) - before) as u8;
            layout.data_digest_bytes = if digests.data { DIGEST_LEN as u8 } else { 0 };
        }
        layout
    }

    /// The layout of a PDU whose common header has been checked.
    #[inline]
    pub(super) fn of_received(header: &CommonHeader) -> Self {
        let header_digest_bytes = if header.flags.contains(PduFlags::HDGST) { DIGEST_LEN as u8 } else { 0 };
        let mut layout = Self { header_bytes: header.hlen, header_digest_bytes, ..Self::default() };
        let before = u32::from(header.hlen) + u32::from(header_digest_bytes);
        let after = header.plen.saturating_sub(before);
        if after == 0 {
            return layout;
        }
        if matches!(header.pdu_type, PduType::H2cTermReq | PduType::C2hTermReq) {
            layout.data_bytes = header.plen.saturating_sub(TERM_REQ_LEN as u32);
            return layout;
        }
        layout.data_digest_bytes = if header.flags.contains(PduFlags::DDGST) { DIGEST_LEN as u8 } else { 0 };
        layout.padding_bytes = header.pdo.saturating_sub(before as u8);
        layout.data_bytes = after.saturating_sub(u32::from(layout.padding_bytes) + u32::from(layout.data_digest_bytes));
        layout
    }

    /// Where data begins: header, header digest and padding. At most [`MAX_HEADER_BYTES`].
    #[inline]
    pub fn data_offset(&self) -> usize {
        usize::from(self.header_bytes) + usize::from(self.header_digest_bytes) + usize::from(self.padding_bytes)
    }

    /// The whole PDU (PLEN).
    #[inline]
    pub fn total_bytes(&self) -> u32 {
        let around = self.data_offset() as u32 + u32::from(self.data_digest_bytes);
        // Only a sender could ask for more than 32 bits hold, and no command moves as much.
        self.data_bytes.saturating_add(around)
    }

    /// The common header of a PDU with this layout.
    #[inline]
    pub(super) fn common_header(&self, pdu_type: PduType, flags: PduFlags) -> CommonHeader {
        CommonHeader {
            pdu_type,
            flags: flags
                .with_if(self.header_digest_bytes > 0, PduFlags::HDGST)
                .with_if(self.data_digest_bytes > 0, PduFlags::DDGST),
            hlen: self.header_bytes,
            pdo: if self.data_bytes > 0 && pdu_type.has_digests() { self.data_offset() as u8 } else { 0 },
            plen: self.total_bytes(),
        }
    }

    /// Completes a header whose specific part is written: common header, header digest, padding. Returns the bytes
    /// before the data.
    #[inline]
    pub(super) fn finish(self, pdu_type: PduType, flags: PduFlags, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        self.common_header(pdu_type, flags).encode(out);
        let end = self.data_offset();
        let (header, rest) = out[..end].split_at_mut(usize::from(self.header_bytes));
        let (digest, padding) = rest.split_at_mut(usize::from(self.header_digest_bytes));
        if !digest.is_empty() {
            digest.copy_from_slice(&crc32c(header).to_le_bytes());
        }
        padding.fill(0);
        end
    }

    /// Checks the header digest, where there is one, of a PDU whose header and digest are the first bytes of `bytes`.
    ///
    /// # Errors
    /// The digest does not match, or the bytes are too few.
    #[inline]
    pub fn check_header_digest(&self, bytes: &[u8]) -> Result<(), PduError> {
        if self.header_digest_bytes == 0 {
            return Ok(());
        }
        let header_bytes = usize::from(self.header_bytes);
        let too_few = PduError::HeaderTruncated { needed: header_bytes + DIGEST_LEN, available: bytes.len() };
        let (header, rest) = bytes.split_at_checked(header_bytes).ok_or(too_few)?;
        let digest = rest.first_chunk::<DIGEST_LEN>().ok_or(too_few)?;
        let (received, computed) = (u32::from_le_bytes(*digest), crc32c(header));
        if received == computed { Ok(()) } else { Err(PduError::HeaderDigest { received, computed }) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DataAlignment, Digests};
    use super::*;

    #[test]
    fn no_alignment_leads_beyond_the_longest_header() {
        let mut longest = 0;
        for pda in 0..=DataAlignment::MAX.to_wire() {
            let alignment = DataAlignment::from_wire(pda).unwrap();
            for pdu_type in [PduType::CapsuleCmd, PduType::H2cData, PduType::C2hData] {
                for digests in [Digests::NONE, Digests::BOTH] {
                    let layout = PduLayout::to_send(pdu_type, 512, &Framing { digests, alignment });
                    assert!(layout.data_offset().is_multiple_of(alignment.bytes() as usize), "{pdu_type:?} {pda}");
                    longest = longest.max(layout.data_offset());
                }
            }
        }
        assert_eq!(longest, MAX_HEADER_BYTES);
    }
}
