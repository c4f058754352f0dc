//! The header that all PDUs begin with, and the rules of a connection that it is checked against.

use super::error::PduError;
use super::layout::PduLayout;
use super::{
    CMD_PDU_LEN, COMMON_HEADER_LEN, DATA_PDU_LEN, IC_LEN, R2T_PDU_LEN, RESP_PDU_LEN, TERM_REQ_LEN,
    TERM_REQ_MAX_DATA_LEN,
};
use crate::codec::{get_u8, get_u32, put_u8, put_u32};
use crate::digest::DIGEST_LEN;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sends commands.
    Host,
    /// Executes them.
    Controller,
}

/// The kinds of PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PduType {
    /// Initialize Connection Request.
    IcReq = 0x00,
    /// Initialize Connection Response.
    IcResp = 0x01,
    /// Host to Controller Terminate Connection Request.
    H2cTermReq = 0x02,
    /// Controller to Host Terminate Connection Request.
    C2hTermReq = 0x03,
    /// Command Capsule.
    CapsuleCmd = 0x04,
    /// Response Capsule.
    CapsuleResp = 0x05,
    /// Host to Controller Data Transfer.
    H2cData = 0x06,
    /// Controller to Host Data Transfer.
    C2hData = 0x07,
    /// Ready to Transfer.
    R2t = 0x09,
}

impl PduType {
    /// The type with this number.
    #[inline]
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2cTermReq,
            0x03 => Self::C2hTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return None,
        })
    }

    /// Bytes of its header (HLEN), without digest and padding.
    pub const fn header_bytes(self) -> usize {
        match self {
            Self::IcReq | Self::IcResp => IC_LEN,
            Self::H2cTermReq | Self::C2hTermReq => TERM_REQ_LEN,
            Self::CapsuleCmd => CMD_PDU_LEN,
            Self::CapsuleResp => RESP_PDU_LEN,
            Self::H2cData | Self::C2hData => DATA_PDU_LEN,
            Self::R2t => R2T_PDU_LEN,
        }
    }

    /// Who receives it.
    pub const fn receiver(self) -> Role {
        match self {
            Self::IcReq | Self::H2cTermReq | Self::CapsuleCmd | Self::H2cData => Role::Controller,
            Self::IcResp | Self::C2hTermReq | Self::CapsuleResp | Self::C2hData | Self::R2t => Role::Host,
        }
    }

    /// Whether the digests that a connection agreed on apply to it at all.
    pub(super) const fn has_digests(self) -> bool {
        !matches!(self, Self::IcReq | Self::IcResp | Self::H2cTermReq | Self::C2hTermReq)
    }

    /// Whether PDO and data digest have a meaning for it.
    const fn has_data(self) -> bool {
        matches!(self, Self::CapsuleCmd | Self::H2cData | Self::C2hData)
    }
}

/// The FLAGS of a common header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PduFlags(pub u8);

impl PduFlags {
    /// HDGSTF: a header digest follows the header.
    pub const HDGST: Self = Self(1 << 0);
    /// DDGSTF: a data digest follows the data.
    pub const DDGST: Self = Self(1 << 1);
    /// LAST_PDU: no more data PDUs for this command or R2T.
    pub const LAST: Self = Self(1 << 2);
    /// SUCCESS: the command succeeded, and no response capsule follows.
    pub const SUCCESS: Self = Self(1 << 3);

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// These, and those if `on`.
    #[must_use]
    pub const fn with_if(self, on: bool, flags: Self) -> Self {
        if on { self.with(flags) } else { self }
    }
}

/// Which digests a connection uses: what ICReq asked for and ICResp granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digests {
    /// Headers carry a digest.
    pub header: bool,
    /// Data carries a digest.
    pub data: bool,
}

impl Digests {
    /// Neither.
    pub const NONE: Self = Self { header: false, data: false };
    /// Both.
    pub const BOTH: Self = Self { header: true, data: true };

    /// As the DGST field holds it.
    pub const fn to_wire(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }

    /// From the DGST field; its reserved bits are ignored.
    pub const fn from_wire(dgst: u8) -> Self {
        Self { header: dgst & 1 != 0, data: dgst & 2 != 0 }
    }

    /// Those that both want.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { header: self.header && other.header, data: self.data && other.data }
    }
}

/// What the data of a PDU must be aligned to, counted from the PDU's start: HPDA or CPDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DataAlignment(u8);

impl DataAlignment {
    /// Four bytes: no padding ever.
    pub const NONE: Self = Self(0);
    /// 128 bytes, the largest.
    pub const MAX: Self = Self(31);

    /// From HPDA or CPDA, which count dwords from zero; none above 31 is defined.
    pub const fn from_wire(pda: u8) -> Option<Self> {
        if pda <= Self::MAX.0 { Some(Self(pda)) } else { None }
    }

    /// As HPDA or CPDA.
    pub const fn to_wire(self) -> u8 {
        self.0
    }

    /// In bytes, 4 to 128.
    pub const fn bytes(self) -> u32 {
        (self.0 as u32 + 1) * 4
    }
}

/// How PDUs are built on a connection, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Framing {
    /// The digests agreed on.
    pub digests: Digests,
    /// What the receiver wants data aligned to: CPDA towards the controller, HPDA towards the host.
    pub alignment: DataAlignment,
}

/// What a side of a connection takes. It begins with [`PduRules::initial`] and is set once more when the
/// connection has been initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PduRules {
    /// Who receives.
    pub receiver: Role,
    /// How the peer must build its PDUs.
    pub framing: Framing,
    /// The most data in a command capsule.
    pub max_capsule_data_bytes: u32,
    /// The most data in one H2CData (the controller's MAXH2CDATA) or C2HData (the longest transfer that the host asks
    /// for).
    pub max_data_bytes: u32,
}

impl PduRules {
    /// Before ICReq and ICResp: no digests, no padding, no data.
    pub const fn initial(receiver: Role) -> Self {
        Self {
            receiver,
            framing: Framing { digests: Digests::NONE, alignment: DataAlignment::NONE },
            max_capsule_data_bytes: 0,
            max_data_bytes: 0,
        }
    }
}

/// The first 8 bytes of a PDU, checked: its [`layout`](Self::layout) follows from them without further checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommonHeader {
    /// What kind of PDU it is.
    pub pdu_type: PduType,
    /// Its flags.
    pub flags: PduFlags,
    /// Bytes of header.
    pub hlen: u8,
    /// Where its data begins, from the PDU's start; meaningless without data.
    pub pdo: u8,
    /// Bytes of the whole PDU.
    pub plen: u32,
}

impl CommonHeader {
    /// Reads and checks the first 8 bytes of a PDU: that `rules.receiver` may get this type, that HLEN is exactly
    /// what the type has, that flags match the digests agreed on, and that PDO and PLEN agree with each other and
    /// stay within the limits.
    ///
    /// # Errors
    /// A [`PduError`] after which the connection has to end; it says what to tell the peer.
    #[inline]
    pub fn decode(bytes: &[u8; COMMON_HEADER_LEN], rules: &PduRules) -> Result<Self, PduError> {
        let type_byte = get_u8::<0, _>(bytes);
        let pdu_type = PduType::from_u8(type_byte).ok_or(PduError::UnknownType(type_byte))?;
        if pdu_type.receiver() != rules.receiver {
            return Err(PduError::WrongDirection { pdu_type, receiver: rules.receiver });
        }
        let header = Self {
            pdu_type,
            flags: PduFlags(get_u8::<1, _>(bytes)),
            hlen: get_u8::<2, _>(bytes),
            pdo: get_u8::<3, _>(bytes),
            plen: get_u32::<4, _>(bytes),
        };
        header.check(rules)?;
        Ok(header)
    }

    #[inline]
    fn check(&self, rules: &PduRules) -> Result<(), PduError> {
        let Self { pdu_type, flags, hlen, pdo, plen } = *self;
        let expected = pdu_type.header_bytes() as u8; // at most 128
        if hlen != expected {
            return Err(PduError::HeaderLength { pdu_type, hlen, expected });
        }
        let digests = if pdu_type.has_digests() { rules.framing.digests } else { Digests::NONE };
        let wrong_flags =
            PduError::DigestFlags { pdu_type, flags: flags.0, header: digests.header, data: digests.data };
        if flags.contains(PduFlags::HDGST) != digests.header {
            return Err(wrong_flags);
        }
        let min_header = u32::from(hlen) + if digests.header { DIGEST_LEN as u32 } else { 0 };
        let length = |min, max| {
            if (min..=max).contains(&plen) { Ok(()) } else { Err(PduError::Length { pdu_type, plen, min, max }) }
        };
        if !pdu_type.has_data() {
            // A termination request quotes the offending header; nothing else brings bytes after its header.
            let quote = if pdu_type.has_digests() || hlen as usize != TERM_REQ_LEN { 0 } else { TERM_REQ_MAX_DATA_LEN };
            return length(min_header, min_header + quote as u32);
        }
        if plen == min_header {
            // No data: fine for a command; data PDUs may be empty too, and then PDO and DDGSTF say nothing.
            return Ok(());
        }
        if flags.contains(PduFlags::DDGST) != digests.data {
            return Err(wrong_flags);
        }
        let alignment = rules.framing.alignment.bytes();
        if u32::from(pdo) < min_header
            || !u32::from(pdo).is_multiple_of(alignment)
            || usize::from(pdo) > super::MAX_HEADER_BYTES
        {
            return Err(PduError::DataOffset { pdu_type, pdo, min: min_header as u8, alignment });
        }
        let around = u32::from(pdo) + if digests.data { DIGEST_LEN as u32 } else { 0 };
        let max_data = match pdu_type {
            PduType::CapsuleCmd => rules.max_capsule_data_bytes,
            _ => rules.max_data_bytes,
        };
        length(around + 1, around.saturating_add(max_data))
    }

    /// Which bytes the PDU consists of.
    #[inline]
    pub fn layout(&self) -> PduLayout {
        PduLayout::of_received(self)
    }

    /// Writes the 8 bytes.
    #[inline]
    pub(super) fn encode(&self, out: &mut [u8; super::MAX_HEADER_BYTES]) {
        put_u8::<0, _>(out, self.pdu_type as u8);
        put_u8::<1, _>(out, self.flags.0);
        put_u8::<2, _>(out, self.hlen);
        put_u8::<3, _>(out, self.pdo);
        put_u32::<4, _>(out, self.plen);
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::{FatalErrorStatus, PduField};
    use super::*;

    const DIGESTS: Digests = Digests::BOTH;

    fn rules(receiver: Role, digests: Digests, alignment: u8) -> PduRules {
        let alignment = DataAlignment::from_wire(alignment).unwrap();
        PduRules {
            receiver,
            framing: Framing { digests, alignment },
            max_capsule_data_bytes: 8192,
            max_data_bytes: 65536,
        }
    }

    fn decode(header: [u8; 4], plen: u32, rules: &PduRules) -> Result<CommonHeader, PduError> {
        let [a, b, c, d] = header;
        let [e, f, g, h] = plen.to_le_bytes();
        CommonHeader::decode(&[a, b, c, d, e, f, g, h], rules)
    }

    /// What the peer is told: an invalid header field, and which one.
    fn told(result: Result<CommonHeader, PduError>) -> (FatalErrorStatus, u32) {
        let error = result.expect_err("must be refused");
        (error.fes(), error.fei())
    }

    fn field(field: PduField) -> (FatalErrorStatus, u32) {
        (FatalErrorStatus::InvalidHeaderField, field.0.into())
    }

    #[test]
    fn each_type_goes_one_way_and_has_one_header_length() {
        for (pdu_type, receiver, hlen) in [
            (0, Role::Controller, 128),
            (1, Role::Host, 128),
            (2, Role::Controller, 24),
            (3, Role::Host, 24),
            (4, Role::Controller, 72),
            (5, Role::Host, 24),
            (6, Role::Controller, 24),
            (7, Role::Host, 24),
            (9, Role::Host, 24),
        ] {
            let other = if receiver == Role::Host { Role::Controller } else { Role::Host };
            let header = |hlen| [pdu_type, 0, hlen, 0];
            assert!(decode(header(hlen), hlen.into(), &rules(receiver, Digests::NONE, 0)).is_ok(), "{pdu_type}");
            let wrong_way = decode(header(hlen), hlen.into(), &rules(other, Digests::NONE, 0));
            assert_eq!(told(wrong_way).0, FatalErrorStatus::PduSequenceError, "{pdu_type}");
            for wrong in [hlen - 1, hlen + 1, 0, 255] {
                let refused = decode(header(wrong), hlen.into(), &rules(receiver, Digests::NONE, 0));
                assert_eq!(told(refused), field(PduField::HLEN), "{pdu_type} {wrong}");
            }
        }
        for unknown in (0..=255).filter(|t| !matches!(t, 0..=7 | 9)) {
            let refused = decode([unknown, 0, 24, 0], 24, &rules(Role::Host, Digests::NONE, 0));
            assert_eq!(told(refused), field(PduField::PDU_TYPE), "{unknown}");
        }
    }

    #[test]
    fn digest_flags_are_as_agreed() {
        let command =
            |flags, pdo, plen, digests| decode([4, flags, 72, pdo], plen, &rules(Role::Controller, digests, 0));
        assert!(command(1, 0, 76, DIGESTS).is_ok());
        assert!(command(3, 76, 76 + 512 + 4, DIGESTS).is_ok());
        assert_eq!(told(command(0, 0, 72, DIGESTS)), field(PduField::FLAGS));
        assert_eq!(told(command(1, 0, 76, Digests::NONE)), field(PduField::FLAGS));
        assert_eq!(told(command(1, 76, 76 + 512, DIGESTS)), field(PduField::FLAGS));
        assert_eq!(told(command(2, 72, 72 + 512 + 4, Digests::NONE)), field(PduField::FLAGS));
        // A data digest flag without data means nothing; there is no digest either.
        let no_data = command(3, 0, 76, DIGESTS).unwrap().layout();
        assert_eq!((no_data.data_bytes, no_data.data_digest_bytes, no_data.total_bytes()), (0, 0, 76));
        // Initialisation and termination never have digests, whatever was agreed.
        assert!(decode([2, 0, 24, 0], 24 + 72, &rules(Role::Controller, DIGESTS, 0)).is_ok());
        assert_eq!(told(decode([2, 1, 24, 0], 28, &rules(Role::Controller, DIGESTS, 0))), field(PduField::FLAGS));
    }

    #[test]
    fn data_begins_after_the_header_and_aligned() {
        let at = |pdo, alignment| {
            decode([7, 0, 24, pdo], u32::from(pdo) + 512, &rules(Role::Host, Digests::NONE, alignment))
        };
        assert!(at(24, 0).is_ok());
        assert_eq!(at(28, 0).unwrap().layout().padding_bytes, 4);
        assert_eq!(at(128, 31).unwrap().layout().padding_bytes, 104);
        for (pdo, alignment) in [(20, 0), (0, 0), (26, 0), (24, 31), (148, 0), (255, 0), (24, 3)] {
            assert_eq!(told(at(pdo, alignment)), field(PduField::PDO), "{pdo} {alignment}");
        }
    }

    #[test]
    fn lengths_stay_within_the_limits() {
        let command = |plen| decode([4, 0, 72, 72], plen, &rules(Role::Controller, Digests::NONE, 0));
        assert_eq!(command(72 + 8192).unwrap().layout().data_bytes, 8192);
        for plen in [0, 8, 71, 72 + 8193, u32::MAX] {
            assert_eq!(told(command(plen)), field(PduField::PLEN), "{plen}");
        }
        let data = |plen| decode([6, 3, 24, 28], plen, &rules(Role::Controller, DIGESTS, 0));
        assert_eq!(data(28 + 65536 + 4).unwrap().layout().data_bytes, 65536);
        // 28 bytes are a PDU without data; 29 to 32 would leave none besides the digest.
        for plen in [0, 27, 29, 32, 28 + 65537 + 4, u32::MAX] {
            assert_eq!(told(data(plen)), field(PduField::PLEN), "{plen}");
        }
        let term = |plen| decode([3, 0, 24, 0], plen, &rules(Role::Host, Digests::NONE, 0));
        assert_eq!(term(152).unwrap().layout().data_bytes, 128);
        for plen in [23, 153, u32::MAX] {
            assert_eq!(told(term(plen)), field(PduField::PLEN), "{plen}");
        }
        let response = |plen| decode([5, 1, 24, 0], plen, &rules(Role::Host, DIGESTS, 0));
        assert!(response(28).is_ok());
        for plen in [24, 32] {
            assert_eq!(told(response(plen)), field(PduField::PLEN), "{plen}");
        }
        let request = |plen| decode([0, 0, 128, 0], plen, &PduRules::initial(Role::Controller));
        assert!(request(128).is_ok());
        assert_eq!(told(request(152)), field(PduField::PLEN));
    }
}
