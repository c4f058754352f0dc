//! Opening a connection: ICReq and ICResp (TCP transport 3.6.2.2, 3.6.2.3). Neither has digests, padding or data.

use super::error::{PduError, PduField};
use super::header::{DataAlignment, Digests, PduFlags, PduType};
use super::layout::PduLayout;
use super::{IC_LEN, MAX_HEADER_BYTES, header_of};
use crate::codec::{get_u8, get_u16, get_u32, put_u8, put_u16, put_u32};

/// The only PDU format version there is.
pub const PFV_1_0: u16 = 0;

/// What the host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcReq {
    /// PDU format version; one that is not [`PFV_1_0`] is refused by whoever decodes it.
    pub pfv: u16,
    /// What C2HData's data shall be aligned to.
    pub hpda: DataAlignment,
    /// The digests that the host wants.
    pub digests: Digests,
    /// How many R2Ts may be outstanding for one command, as people count (on the wire: from zero).
    pub maxr2t: u32,
}

/// What the controller grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcResp {
    /// PDU format version.
    pub pfv: u16,
    /// What the data of capsules and H2CData shall be aligned to.
    pub cpda: DataAlignment,
    /// The digests in use.
    pub digests: Digests,
    /// The most data in one H2CData, in bytes: at least 4096, a multiple of 4.
    pub maxh2cdata: u32,
}

/// The bounds of MAXH2CDATA: at least this many bytes.
const MIN_MAXH2CDATA: u32 = 4096;

impl IcReq {
    /// Writes the PDU; returns its length, [`IC_LEN`].
    pub fn encode(&self, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        encode(PduType::IcReq, self.pfv, self.hpda, self.digests, self.maxr2t.saturating_sub(1), out)
    }

    /// Reads the PDU.
    ///
    /// # Errors
    /// Too few bytes, another format version, or an alignment that does not exist.
    pub fn decode(bytes: &[u8]) -> Result<Self, PduError> {
        let (pfv, hpda, digests, maxr2t) = decode(bytes, "HPDA of ICReq")?;
        Ok(Self { pfv, hpda, digests, maxr2t: maxr2t.saturating_add(1) })
    }
}

impl IcResp {
    /// Writes the PDU; returns its length, [`IC_LEN`].
    pub fn encode(&self, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        encode(PduType::IcResp, self.pfv, self.cpda, self.digests, self.maxh2cdata, out)
    }

    /// Reads the PDU.
    ///
    /// # Errors
    /// Too few bytes, another format version, an alignment that does not exist, or a MAXH2CDATA below 4096 or not in dwords.
    pub fn decode(bytes: &[u8]) -> Result<Self, PduError> {
        let (pfv, cpda, digests, maxh2cdata) = decode(bytes, "CPDA of ICResp")?;
        if maxh2cdata < MIN_MAXH2CDATA || !maxh2cdata.is_multiple_of(4) {
            return Err(PduError::Field {
                what: "MAXH2CDATA of ICResp",
                field: PduField::LIMIT,
                value: maxh2cdata,
                why: "must be at least 4096 and a multiple of 4",
            });
        }
        Ok(Self { pfv, cpda, digests, maxh2cdata })
    }
}

fn encode(
    pdu_type: PduType,
    pfv: u16,
    alignment: DataAlignment,
    digests: Digests,
    limit: u32,
    out: &mut [u8; MAX_HEADER_BYTES],
) -> usize {
    out.fill(0);
    put_u16::<8, _>(out, pfv);
    put_u8::<10, _>(out, alignment.to_wire());
    put_u8::<11, _>(out, digests.to_wire());
    put_u32::<12, _>(out, limit);
    PduLayout::to_send(pdu_type, 0, &Default::default()).finish(pdu_type, PduFlags::default(), out)
}

fn decode(bytes: &[u8], alignment_name: &'static str) -> Result<(u16, DataAlignment, Digests, u32), PduError> {
    let header = header_of::<IC_LEN>(bytes)?;
    let pfv = get_u16::<8, _>(header);
    if pfv != PFV_1_0 {
        return Err(PduError::Unsupported {
            what: "PDU format version PFV",
            field: PduField::PFV,
            value: pfv.into(),
            why: "only 0 (NVMe/TCP 1.0) is supported",
        });
    }
    let pda = get_u8::<10, _>(header);
    let alignment = DataAlignment::from_wire(pda).ok_or(PduError::Field {
        what: alignment_name,
        field: PduField::PDA,
        value: pda.into(),
        why: "must be 0 to 31",
    })?;
    Ok((pfv, alignment, Digests::from_wire(get_u8::<11, _>(header)), get_u32::<12, _>(header)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(at: usize, value: u8) -> [u8; MAX_HEADER_BYTES] {
        let response =
            IcResp { pfv: PFV_1_0, cpda: DataAlignment::NONE, digests: Digests::NONE, maxh2cdata: MIN_MAXH2CDATA };
        let mut out = [0; MAX_HEADER_BYTES];
        assert_eq!(response.encode(&mut out), IC_LEN);
        out[at] = value;
        out
    }

    #[test]
    fn parameters_out_of_range_are_refused_by_name() {
        for (at, value, fes, fei) in
            [(8, 1, 0x06, 8), (9, 1, 0x06, 8), (10, 32, 0x01, 10), (12, 1, 0x01, 12), (13, 15, 0x01, 12)]
        {
            let refused = IcResp::decode(&changed(at, value)).expect_err("must be refused");
            assert_eq!((refused.fes().to_wire(), refused.fei()), (fes, fei), "byte {at} = {value}");
        }
        // The host's MAXR2T may be anything.
        assert_eq!(IcReq::decode(&changed(12, 255)).map(|request| request.maxr2t), Ok(0x1000 + 256));
        assert_eq!(IcReq::decode(&changed(10, 32)).map_err(|e| e.fei()), Err(10));
        assert!(matches!(IcReq::decode(&[0; 127]), Err(PduError::HeaderTruncated { needed: 128, available: 127 })));
    }

    #[test]
    fn reserved_bits_are_ignored() {
        let response = IcResp::decode(&changed(11, 0xFE)).unwrap();
        assert_eq!(response.digests, Digests { header: false, data: true });
        assert_eq!(IcResp::decode(&changed(127, 0xFF)), IcResp::decode(&changed(127, 0)));
    }
}
