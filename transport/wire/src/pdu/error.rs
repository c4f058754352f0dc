//! What can be wrong with a PDU, and how the peer is told (TCP transport, H2CTermReq and C2HTermReq).

use super::header::{PduType, Role};

/// Why a connection ends: the FES field of a termination request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FatalErrorStatus {
    /// A field of a PDU header is invalid; FEI is its offset in bytes.
    InvalidHeaderField,
    /// A PDU came that must not come now.
    PduSequenceError,
    /// The header digest does not match; FEI is the digest received.
    HeaderDigestError,
    /// Data outside what the command or R2T covers.
    DataOutOfRange,
    /// More data than MAXH2CDATA allows (from the controller), or more R2Ts than MAXR2T allows (from the host).
    LimitExceeded,
    /// A parameter that is not supported; FEI is its offset in bytes.
    UnsupportedParameter,
    /// A value that has no name here.
    Unknown(u16),
}

impl FatalErrorStatus {
    /// As it is sent.
    pub fn to_wire(self) -> u16 {
        match self {
            Self::InvalidHeaderField => 0x01,
            Self::PduSequenceError => 0x02,
            Self::HeaderDigestError => 0x03,
            Self::DataOutOfRange => 0x04,
            Self::LimitExceeded => 0x05,
            Self::UnsupportedParameter => 0x06,
            Self::Unknown(fes) => fes,
        }
    }

    /// From the wire.
    pub fn from_wire(fes: u16) -> Self {
        match fes {
            0x01 => Self::InvalidHeaderField,
            0x02 => Self::PduSequenceError,
            0x03 => Self::HeaderDigestError,
            0x04 => Self::DataOutOfRange,
            0x05 => Self::LimitExceeded,
            0x06 => Self::UnsupportedParameter,
            other => Self::Unknown(other),
        }
    }
}

impl std::fmt::Display for FatalErrorStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InvalidHeaderField => f.write_str("Invalid PDU Header Field"),
            Self::PduSequenceError => f.write_str("PDU Sequence Error"),
            Self::HeaderDigestError => f.write_str("Header Digest Error"),
            Self::DataOutOfRange => f.write_str("Data Transfer Out of Range"),
            Self::LimitExceeded => f.write_str("Data Transfer Limit or R2T Limit Exceeded"),
            Self::UnsupportedParameter => f.write_str("Unsupported Parameter"),
            Self::Unknown(fes) => write!(f, "fatal error status {fes:#06x}"),
        }
    }
}

/// A field of a PDU header, as its offset in bytes from the PDU's start: what FEI tells the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PduField(pub u8);

impl PduField {
    /// PDU-Type.
    pub const PDU_TYPE: Self = Self(0);
    /// FLAGS.
    pub const FLAGS: Self = Self(1);
    /// HLEN.
    pub const HLEN: Self = Self(2);
    /// PDO.
    pub const PDO: Self = Self(3);
    /// PLEN.
    pub const PLEN: Self = Self(4);
    /// PFV of ICReq and ICResp.
    pub const PFV: Self = Self(8);
    /// HPDA of ICReq, CPDA of ICResp.
    pub const PDA: Self = Self(10);
    /// DGST of ICReq and ICResp.
    pub const DGST: Self = Self(11);
    /// MAXR2T of ICReq, MAXH2CDATA of ICResp.
    pub const LIMIT: Self = Self(12);
    /// CCCID of H2CData, C2HData and R2T.
    pub const CCCID: Self = Self(8);
    /// TTAG of H2CData and R2T.
    pub const TTAG: Self = Self(10);
    /// DATAO of H2CData and C2HData, R2TO of R2T.
    pub const OFFSET: Self = Self(12);
    /// DATAL of H2CData and C2HData, R2TL of R2T.
    pub const LENGTH: Self = Self(16);
}

/// A PDU that the connection cannot go on after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PduError {
    /// A type that NVMe/TCP does not have.
    #[error("PDU type {0:#04x} is not one of NVMe/TCP; the peer speaks something else, or the stream lost its place")]
    UnknownType(u8),
    /// A type that only the other side may send.
    #[error("a {pdu_type:?} PDU cannot be sent to a {receiver:?}")]
    WrongDirection {
        /// What came.
        pdu_type: PduType,
        /// Who got it.
        receiver: Role,
    },
    /// HLEN is not what the type has.
    #[error("{pdu_type:?}: HLEN is {hlen}, must be {expected}")]
    HeaderLength {
        /// The PDU.
        pdu_type: PduType,
        /// What came.
        hlen: u8,
        /// What its type has.
        expected: u8,
    },
    /// PDO does not point at data that follows the header.
    #[error("{pdu_type:?}: data offset PDO is {pdo}, must be a multiple of {alignment} and at least {min}")]
    DataOffset {
        /// The PDU.
        pdu_type: PduType,
        /// What came.
        pdo: u8,
        /// The end of header and header digest.
        min: u8,
        /// What the receiver asked for in ICReq or ICResp.
        alignment: u32,
    },
    /// PLEN is not what the other fields or the limits allow.
    #[error("{pdu_type:?}: PLEN is {plen}, must be {min} to {max}")]
    Length {
        /// The PDU.
        pdu_type: PduType,
        /// What came.
        plen: u32,
        /// The least that would do.
        min: u32,
        /// The most that this receiver takes.
        max: u32,
    },
    /// A digest flag is not what ICReq and ICResp agreed on.
    #[error(
        "{pdu_type:?}: FLAGS are {flags:#04x}, which contradicts the digests agreed on (header {header}, data {data})"
    )]
    DigestFlags {
        /// The PDU.
        pdu_type: PduType,
        /// What came.
        flags: u8,
        /// Whether header digests are on.
        header: bool,
        /// Whether data digests are on.
        data: bool,
    },
    /// SUCCESS without LAST_PDU, or in H2CData.
    #[error("{pdu_type:?}: FLAGS are {flags:#04x}: SUCCESS is only for the last C2HData of a command")]
    SuccessFlag {
        /// The PDU.
        pdu_type: PduType,
        /// What came.
        flags: u8,
    },
    /// The header digest does not match.
    #[error("header digest is {received:#010x}, must be {computed:#010x}: the header was changed on its way")]
    HeaderDigest {
        /// What came.
        received: u32,
        /// What the header gives.
        computed: u32,
    },
    /// DATAL is not the length of the data that the PDU brings.
    #[error("{pdu_type:?}: DATAL is {datal}, but the PDU brings {data_bytes} bytes")]
    DataLength {
        /// The PDU.
        pdu_type: PduType,
        /// What came.
        datal: u32,
        /// What PLEN and PDO leave.
        data_bytes: u32,
    },
    /// A field of a header is invalid.
    #[error("{what} is {value:#x}, {why}")]
    Field {
        /// The field, for people.
        what: &'static str,
        /// The field, for the peer.
        field: PduField,
        /// What came.
        value: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A parameter of ICReq or ICResp that cannot be met.
    #[error("{what} is {value:#x}, {why}")]
    Unsupported {
        /// The field, for people.
        what: &'static str,
        /// The field, for the peer.
        field: PduField,
        /// What came.
        value: u32,
        /// Why it cannot be met.
        why: &'static str,
    },
    /// The caller gave fewer bytes than the header has; the peer is not to blame.
    #[error("a PDU header of {needed} bytes was to be read from {available} bytes")]
    HeaderTruncated {
        /// Bytes of the header.
        needed: usize,
        /// Bytes given.
        available: usize,
    },
}

impl PduError {
    /// What a termination request says about it.
    pub fn fes(&self) -> FatalErrorStatus {
        match self {
            Self::WrongDirection { .. } => FatalErrorStatus::PduSequenceError,
            Self::HeaderDigest { .. } => FatalErrorStatus::HeaderDigestError,
            Self::Unsupported { .. } => FatalErrorStatus::UnsupportedParameter,
            _ => FatalErrorStatus::InvalidHeaderField,
        }
    }

    /// The details that go with it (FEI): the offset of the field that is wrong, or the digest received.
    pub fn fei(&self) -> u32 {
        let field = match *self {
            Self::UnknownType(_) => PduField::PDU_TYPE,
            Self::HeaderLength { .. } => PduField::HLEN,
            Self::DataOffset { .. } => PduField::PDO,
            Self::Length { .. } => PduField::PLEN,
            Self::DigestFlags { .. } | Self::SuccessFlag { .. } => PduField::FLAGS,
            Self::DataLength { .. } => PduField::LENGTH,
            Self::Field { field, .. } | Self::Unsupported { field, .. } => field,
            Self::HeaderDigest { received, .. } => return received,
            Self::WrongDirection { .. } | Self::HeaderTruncated { .. } => return 0,
        };
        field.0.into()
    }
}
