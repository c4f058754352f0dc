//! Where subsystems are (log page 70h): a header, then an entry for each port of each subsystem.

use crate::codec::{get, get_u8, get_u16, get_u64, pad_text, padded_text, prefix, put, put_u8, put_u16, put_u64};
use crate::error::WireError;
use crate::ids::ControllerId;
use crate::nqn::{NQN_FIELD_LEN, Nqn};
use crate::trid::{AdrFam, TrType, TransportId, TridError};

/// Bytes of the header.
pub const DISCOVERY_HEADER_LEN: usize = 1024;
/// Bytes of an entry.
pub const DISCOVERY_ENTRY_LEN: usize = 1024;

/// The page's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiscoveryHeader {
    /// Grows with each change; if it changed while entries were read, they must be read again.
    pub genctr: u64,
    /// How many entries follow.
    pub numrec: u64,
    /// The format of entries: 0.
    pub recfmt: u16,
}

impl DiscoveryHeader {
    /// Writes the header.
    pub fn encode(&self, out: &mut [u8; DISCOVERY_HEADER_LEN]) {
        out.fill(0);
        put_u64::<0, _>(out, self.genctr);
        put_u64::<8, _>(out, self.numrec);
        put_u16::<16, _>(out, self.recfmt);
    }

    /// Reads the header; its first 18 bytes are enough.
    ///
    /// # Errors
    /// Fewer bytes than that.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; 18] = prefix(bytes, "discovery log page header")?;
        Ok(Self { genctr: get_u64::<0, _>(b), numrec: get_u64::<8, _>(b), recfmt: get_u16::<16, _>(b) })
    }
}

/// A fabric (TRTYPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiscoveryTrType {
    /// NVMe/RDMA.
    Rdma,
    /// NVMe over Fibre Channel.
    Fc,
    /// NVMe/TCP.
    Tcp,
    /// Within a host.
    Loop,
    /// A value without a name.
    Other(u8),
}

/// A kind of address (ADRFAM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiscoveryAdrFam {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// A value that is no IP family.
    Other(u8),
}

/// What an entry leads to (SUBTYPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubsystemType {
    /// Another discovery service.
    Referral,
    /// A subsystem with namespaces.
    Nvm,
    /// The discovery service that sent this.
    CurrentDiscovery,
    /// A value without a name.
    Other(u8),
}

/// What the transport demands (TREQ).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Treq(pub u8);

impl Treq {
    /// Nothing is said about a secure channel.
    pub const NOT_SPECIFIED: Self = Self(0);
    /// A secure channel is required.
    pub const SECURE_CHANNEL_REQUIRED: Self = Self(1);
    /// A secure channel is not required.
    pub const SECURE_CHANNEL_NOT_REQUIRED: Self = Self(2);
    /// The controller can do without submission queue flow control (bit 2).
    pub const NO_SQ_FLOW_CONTROL: Self = Self(1 << 2);

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A port of a subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryEntry {
    /// The fabric.
    pub trtype: DiscoveryTrType,
    /// The kind of address.
    pub adrfam: DiscoveryAdrFam,
    /// What it leads to.
    pub subtype: SubsystemType,
    /// What the transport demands.
    pub treq: Treq,
    /// The port, as the subsystem counts them.
    pub portid: u16,
    /// The controller to ask for: [`ControllerId::DYNAMIC`], or one of its own.
    pub cntlid: ControllerId,
    /// The largest admin queue, in entries; at least 32.
    pub asqsz: u16,
    /// Flags: bit 1, persistent connections to the discovery service are possible.
    pub eflags: u16,
    /// The port, as text; at most 32 characters.
    pub trsvcid: String,
    /// The subsystem.
    pub subnqn: Nqn,
    /// The address, as text; at most 256 characters.
    pub traddr: String,
    /// For TCP: the kind of secure channel (SECTYPE, first byte of TSAS); 0 is none.
    pub sectype: u8,
}

impl DiscoveryEntry {
    /// The entry for the subsystem `subnqn` with dynamic controllers that listens at `at`.
    pub fn nvm(at: &TransportId, subnqn: Nqn, portid: u16, asqsz: u16) -> Self {
        Self {
            trtype: match at.trtype {
                TrType::Tcp => DiscoveryTrType::Tcp,
                TrType::Rdma => DiscoveryTrType::Rdma,
                TrType::Loop => DiscoveryTrType::Loop,
            },
            adrfam: match at.adrfam() {
                AdrFam::Ipv4 => DiscoveryAdrFam::Ipv4,
                AdrFam::Ipv6 => DiscoveryAdrFam::Ipv6,
            },
            subtype: SubsystemType::Nvm,
            treq: Treq::NOT_SPECIFIED,
            portid,
            cntlid: ControllerId::DYNAMIC,
            asqsz,
            eflags: 0,
            trsvcid: at.trsvcid.to_string(),
            subnqn,
            traddr: at.traddr.to_string(),
            sectype: 0,
        }
    }

    /// Where the entry leads.
    ///
    /// # Errors
    /// A fabric that this implementation does not speak, or an address that is none.
    pub fn transport_id(&self) -> Result<TransportId, TridError> {
        let trtype = match self.trtype {
            DiscoveryTrType::Tcp => "tcp",
            DiscoveryTrType::Rdma => "rdma",
            _ => {
                return Err(TridError::Value {
                    key: "trtype",
                    value: format!("{:?}", self.trtype),
                    why: "must be tcp or rdma",
                });
            }
        };
        let fields = [("trtype", trtype), ("traddr", self.traddr.as_str()), ("trsvcid", self.trsvcid.as_str())];
        // The name came from a peer, and is held to no more than what a peer may send.
        TransportId::from_fields(fields).map(|trid| trid.with_subnqn(self.subnqn.clone()))
    }

    /// Writes the entry.
    pub fn encode(&self, out: &mut [u8; DISCOVERY_ENTRY_LEN]) {
        out.fill(0);
        put_u8::<0, _>(out, self.trtype.to_wire());
        put_u8::<1, _>(out, self.adrfam.to_wire());
        put_u8::<2, _>(out, self.subtype.to_wire());
        put_u8::<3, _>(out, self.treq.0);
        put_u16::<4, _>(out, self.portid);
        put_u16::<6, _>(out, self.cntlid.0);
        put_u16::<8, _>(out, self.asqsz);
        put_u16::<10, _>(out, self.eflags);
        put::<32, 32, _>(out, pad_text(&self.trsvcid));
        put::<256, NQN_FIELD_LEN, _>(out, self.subnqn.to_wire());
        put::<512, 256, _>(out, pad_text(&self.traddr));
        put_u8::<768, _>(out, self.sectype);
    }

    /// Reads an entry. Text may be padded with spaces or with NULs.
    ///
    /// # Errors
    /// Fewer than 1024 bytes, or a subsystem name that is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; DISCOVERY_ENTRY_LEN] = prefix(bytes, "discovery log page entry")?;
        Ok(Self {
            trtype: DiscoveryTrType::from_wire(get_u8::<0, _>(b)),
            adrfam: DiscoveryAdrFam::from_wire(get_u8::<1, _>(b)),
            subtype: SubsystemType::from_wire(get_u8::<2, _>(b)),
            treq: Treq(get_u8::<3, _>(b)),
            portid: get_u16::<4, _>(b),
            cntlid: ControllerId(get_u16::<6, _>(b)),
            asqsz: get_u16::<8, _>(b),
            eflags: get_u16::<10, _>(b),
            trsvcid: padded_text(&get::<32, 32, _>(b)),
            subnqn: Nqn::from_wire(&get::<256, NQN_FIELD_LEN, _>(b))?,
            traddr: padded_text(&get::<512, 256, _>(b)),
            sectype: get_u8::<768, _>(b),
        })
    }
}

impl DiscoveryTrType {
    fn to_wire(self) -> u8 {
        match self {
            Self::Rdma => 1,
            Self::Fc => 2,
            Self::Tcp => 3,
            Self::Loop => 254,
            Self::Other(value) => value,
        }
    }

    fn from_wire(value: u8) -> Self {
        match value {
            1 => Self::Rdma,
            2 => Self::Fc,
            3 => Self::Tcp,
            254 => Self::Loop,
            other => Self::Other(other),
        }
    }
}

impl DiscoveryAdrFam {
    fn to_wire(self) -> u8 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
            Self::Other(value) => value,
        }
    }

    fn from_wire(value: u8) -> Self {
        match value {
            1 => Self::Ipv4,
            2 => Self::Ipv6,
            other => Self::Other(other),
        }
    }
}

impl SubsystemType {
    fn to_wire(self) -> u8 {
        match self {
            Self::Referral => 1,
            Self::Nvm => 2,
            Self::CurrentDiscovery => 3,
            Self::Other(value) => value,
        }
    }

    fn from_wire(value: u8) -> Self {
        match value {
            1 => Self::Referral,
            2 => Self::Nvm,
            3 => Self::CurrentDiscovery,
            other => Self::Other(other),
        }
    }
}
