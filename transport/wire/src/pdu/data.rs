//! Data on its way: H2CData, C2HData and R2T (TCP transport 3.6.2.8 to 3.6.2.10).

use super::error::{PduError, PduField};
use super::header::{CommonHeader, Framing, PduFlags, PduType};
use super::layout::PduLayout;
use super::{DATA_PDU_LEN, MAX_HEADER_BYTES, R2T_PDU_LEN, header_of};
use crate::codec::{get_u16, get_u32, put_u16, put_u32};
use crate::ids::{CommandId, TransferTag};

/// Whether more data PDUs follow for the same command (C2HData) or the same R2T (H2CData).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataEnd {
    /// More follow.
    More,
    /// This is the last one (LAST_PDU).
    Last,
    /// This is the last one, and the command succeeded: no response capsule follows (LAST_PDU and SUCCESS; C2HData
    /// only).
    LastWithSuccess,
}

impl DataEnd {
    /// Whether this is the last data PDU.
    pub fn is_last(self) -> bool {
        !matches!(self, Self::More)
    }

    fn flags(self) -> PduFlags {
        match self {
            Self::More => PduFlags::default(),
            Self::Last => PduFlags::LAST,
            Self::LastWithSuccess => PduFlags::LAST.with(PduFlags::SUCCESS),
        }
    }
}

/// The header of H2CData or C2HData.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPdu {
    /// The command that the data belongs to.
    pub cccid: CommandId,
    /// H2CData: the R2T that asked for it. Reserved in C2HData.
    pub ttag: TransferTag,
    /// Where the data belongs, in bytes from the start of the command's data.
    pub datao: u32,
    /// Bytes of data.
    pub datal: u32,
    /// Whether more follow.
    pub end: DataEnd,
}

impl DataPdu {
    /// Writes everything of an H2CData before the data; returns how many bytes that is.
    /// [`DataEnd::LastWithSuccess`] is sent as [`DataEnd::Last`]: a host has no success to report.
    #[inline]
    pub fn encode_h2c(&self, framing: &Framing, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        let end = if self.end.is_last() { DataEnd::Last } else { DataEnd::More };
        self.encode(PduType::H2cData, self.ttag, end, framing, out)
    }

    /// Writes everything of a C2HData before the data; returns how many bytes that is. The reserved `ttag` is sent as
    /// 0.
    #[inline]
    pub fn encode_c2h(&self, framing: &Framing, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        self.encode(PduType::C2hData, TransferTag(0), self.end, framing, out)
    }

    #[inline]
    fn encode(
        &self,
        pdu_type: PduType,
        ttag: TransferTag,
        end: DataEnd,
        framing: &Framing,
        out: &mut [u8; MAX_HEADER_BYTES],
    ) -> usize {
        put_u16::<8, _>(out, self.cccid.0);
        put_u16::<10, _>(out, ttag.0);
        put_u32::<12, _>(out, self.datao);
        put_u32::<16, _>(out, self.datal);
        put_u32::<20, _>(out, 0);
        PduLayout::to_send(pdu_type, self.datal, framing).finish(pdu_type, end.flags(), out)
    }

    /// Reads the header of either kind.
    ///
    /// # Errors
    /// Too few bytes, a DATAL that is not the PDU's data, or a SUCCESS flag where none may be.
    #[inline]
    pub fn decode(common: &CommonHeader, bytes: &[u8]) -> Result<Self, PduError> {
        let header = header_of::<DATA_PDU_LEN>(bytes)?;
        let pdu_type = common.pdu_type;
        let end = match (common.flags.contains(PduFlags::LAST), common.flags.contains(PduFlags::SUCCESS)) {
            (false, false) => DataEnd::More,
            (true, false) => DataEnd::Last,
            (true, true) if pdu_type == PduType::C2hData => DataEnd::LastWithSuccess,
            _ => return Err(PduError::SuccessFlag { pdu_type, flags: common.flags.0 }),
        };
        let pdu = Self {
            cccid: CommandId(get_u16::<8, _>(header)),
            ttag: TransferTag(get_u16::<10, _>(header)),
            datao: get_u32::<12, _>(header),
            datal: get_u32::<16, _>(header),
            end,
        };
        let data_bytes = common.layout().data_bytes;
        if pdu.datal != data_bytes {
            return Err(PduError::DataLength { pdu_type, datal: pdu.datal, data_bytes });
        }
        Ok(pdu)
    }
}

/// The controller asks for data of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct R2t {
    /// The command.
    pub cccid: CommandId,
    /// What the host repeats in each H2CData that answers this.
    pub ttag: TransferTag,
    /// Where the data lies, in bytes from the start of the command's data.
    pub r2to: u32,
    /// Bytes of data.
    pub r2tl: u32,
}

impl R2t {
    /// Writes the PDU; returns its length.
    #[inline]
    pub fn encode(&self, framing: &Framing, out: &mut [u8; MAX_HEADER_BYTES]) -> usize {
        put_u16::<8, _>(out, self.cccid.0);
        put_u16::<10, _>(out, self.ttag.0);
        put_u32::<12, _>(out, self.r2to);
        put_u32::<16, _>(out, self.r2tl);
        put_u32::<20, _>(out, 0);
        PduLayout::to_send(PduType::R2t, 0, framing).finish(PduType::R2t, PduFlags::default(), out)
    }

    /// Reads the PDU.
    ///
    /// # Errors
    /// Too few bytes, or an R2T that asks for nothing.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, PduError> {
        let header = header_of::<R2T_PDU_LEN>(bytes)?;
        let r2t = Self {
            cccid: CommandId(get_u16::<8, _>(header)),
            ttag: TransferTag(get_u16::<10, _>(header)),
            r2to: get_u32::<12, _>(header),
            r2tl: get_u32::<16, _>(header),
        };
        if r2t.r2tl == 0 {
            return Err(PduError::Field {
                what: "R2TL of R2T",
                field: PduField::LENGTH,
                value: 0,
                why: "an R2T must ask for at least one byte",
            });
        }
        Ok(r2t)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PduRules, Role};
    use super::*;

    const RULES: PduRules = PduRules { max_data_bytes: 65536, ..PduRules::initial(Role::Host) };

    fn decode(flags: u8, plen: u32, datal: u32) -> Result<DataPdu, PduError> {
        let mut bytes = [7, flags, 24, 24, 0, 0, 0, 0, 5, 0, 9, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..8].copy_from_slice(&plen.to_le_bytes());
        bytes[16..20].copy_from_slice(&datal.to_le_bytes());
        let common = CommonHeader::decode(bytes.first_chunk().unwrap(), &RULES)?;
        DataPdu::decode(&common, &bytes)
    }

    #[test]
    fn datal_is_the_data_that_the_pdu_brings() {
        let pdu = decode(4, 24 + 512, 512).unwrap();
        assert_eq!((pdu.cccid, pdu.datao, pdu.datal, pdu.end), (CommandId(5), 512, 512, DataEnd::Last));
        for datal in [0, 511, 513, u32::MAX] {
            let refused = decode(4, 24 + 512, datal).expect_err("must be refused");
            assert_eq!((refused.fes().to_wire(), refused.fei()), (0x01, 16), "{datal}");
        }
        assert_eq!(decode(4, 24, 0).map(|pdu| pdu.datal), Ok(0));
    }

    #[test]
    fn success_comes_with_the_last_data_only() {
        assert_eq!(decode(0x0C, 24 + 512, 512).map(|pdu| pdu.end), Ok(DataEnd::LastWithSuccess));
        assert_eq!(decode(0x08, 24 + 512, 512).map_err(|e| (e.fes().to_wire(), e.fei())), Err((0x01, 1)));
        let mut out = [0; MAX_HEADER_BYTES];
        let pdu = DataPdu { end: DataEnd::LastWithSuccess, ..decode(4, 24 + 512, 512).unwrap() };
        pdu.encode_h2c(&Framing::default(), &mut out);
        assert_eq!(out[1], PduFlags::LAST.0, "a host reports no success");
        out[1] |= PduFlags::SUCCESS.0;
        let rules = PduRules { receiver: Role::Controller, ..RULES };
        let common = CommonHeader::decode(out.first_chunk().unwrap(), &rules).unwrap();
        assert_eq!(DataPdu::decode(&common, &out).map_err(|e| e.fei()), Err(1));
    }

    #[test]
    fn an_r2t_asks_for_something() {
        let mut out = [0; MAX_HEADER_BYTES];
        let r2t = R2t { cccid: CommandId(1), ttag: TransferTag(2), r2to: 3, r2tl: 0 };
        r2t.encode(&Framing::default(), &mut out);
        assert_eq!(R2t::decode(&out).map_err(|e| (e.fes().to_wire(), e.fei())), Err((0x01, 16)));
    }
}
