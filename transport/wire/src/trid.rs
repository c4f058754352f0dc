//! Transport ids: where a target listens, as people and the metadata service write it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::nqn::{Nqn, NqnError};

/// The port of NVMe over fabrics where none is given.
pub const DEFAULT_TRSVCID: u16 = 4420;

const EXAMPLE: &str = "trtype=tcp adrfam=ipv4 traddr=10.0.0.7 trsvcid=4420";

/// A fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrType {
    /// NVMe/TCP.
    #[default]
    Tcp,
    /// NVMe/RDMA.
    Rdma,
    /// The kernel's loopback: its host and its target on one machine, with no network between.
    Loop,
}

/// The family of a transport address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdrFam {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Where a target listens, and perhaps which subsystem is meant there.
///
/// Text: `trtype=tcp adrfam=ipv4 traddr=10.0.0.7 trsvcid=4420 subnqn=nqn.2016-06.io.mc:node7`. Only `traddr` is
/// needed; `adrfam` follows from it. `localhost` is the only name that may stand for an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TransportId {
    /// The fabric.
    pub trtype: TrType,
    /// The address; its kind is the address family.
    pub traddr: IpAddr,
    /// The port.
    pub trsvcid: u16,
    /// The subsystem, where one is named.
    pub subnqn: Option<Nqn>,
}

/// Why a text is no transport id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TridError {
    /// A word without `=`.
    #[error("transport id: {0:?} is not of the form key=value; write it like: {EXAMPLE}")]
    NotKeyValue(String),
    /// A key that transport ids do not have.
    #[error("transport id: unknown key {0:?}; the keys are trtype, adrfam, traddr, trsvcid, subnqn, as in: {EXAMPLE}")]
    UnknownKey(String),
    /// A key given twice.
    #[error("transport id: {0} is given twice; write it once, like: {EXAMPLE}")]
    Duplicate(&'static str),
    /// No address.
    #[error("transport id: traddr is missing; give the target's address, like: {EXAMPLE}")]
    MissingAddress,
    /// A value that its key cannot have.
    #[error("transport id: {key}={value} {why}, like: {EXAMPLE}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it must be.
        why: &'static str,
    },
    /// An address of one family and `adrfam` of the other.
    #[error(
        "transport id: adrfam={adrfam} does not fit traddr={traddr}; leave adrfam out, or make them agree, like: {EXAMPLE}"
    )]
    FamilyMismatch {
        /// What was given.
        adrfam: AdrFam,
        /// What was given.
        traddr: IpAddr,
    },
    /// A subsystem name that is no NQN.
    #[error("transport id: subnqn: {0}")]
    Subnqn(#[from] NqnError),
}

impl TransportId {
    /// NVMe/TCP at `address`, no subsystem named.
    pub fn tcp(address: SocketAddr) -> Self {
        Self { trtype: TrType::Tcp, traddr: address.ip(), trsvcid: address.port(), subnqn: None }
    }

    /// The same with a subsystem.
    #[must_use]
    pub fn with_subnqn(mut self, subnqn: Nqn) -> Self {
        self.subnqn = Some(subnqn);
        self
    }

    /// The address family.
    pub fn adrfam(&self) -> AdrFam {
        AdrFam::of(self.traddr)
    }

    /// Address and port, to connect to or to listen on.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.traddr, self.trsvcid)
    }

    /// Reads a transport id from its fields. Values are read regardless of case; empty ones count as absent.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn from_fields<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, TridError> {
        let (mut trtype, mut adrfam, mut traddr, mut trsvcid, mut subnqn) = (None, None, None, None, None);
        for (key, value) in fields {
            let (slot, key) = match key.to_ascii_lowercase().as_str() {
                "trtype" => (&mut trtype, "trtype"),
                "adrfam" => (&mut adrfam, "adrfam"),
                "traddr" => (&mut traddr, "traddr"),
                "trsvcid" => (&mut trsvcid, "trsvcid"),
                "subnqn" => (&mut subnqn, "subnqn"),
                _ => return Err(TridError::UnknownKey(key.to_owned())),
            };
            if slot.is_some() {
                return Err(TridError::Duplicate(key));
            }
            *slot = Some(value);
        }
        let present = |value: Option<&'a str>| value.filter(|v| !v.is_empty());

        let trtype = present(trtype).map(TrType::parse).transpose()?.unwrap_or_default();
        let adrfam = present(adrfam).map(AdrFam::parse).transpose()?;
        let traddr = parse_address(present(traddr).ok_or(TridError::MissingAddress)?, adrfam)?;
        if let Some(adrfam) = adrfam.filter(|&family| family != AdrFam::of(traddr)) {
            return Err(TridError::FamilyMismatch { adrfam, traddr });
        }
        let trsvcid = present(trsvcid).map(parse_port).transpose()?.unwrap_or(DEFAULT_TRSVCID);
        let subnqn = present(subnqn).map(Nqn::new).transpose()?;
        Ok(Self { trtype, traddr, trsvcid, subnqn })
    }

    /// The fields by name, in their usual order; all values are text. `subnqn` is absent where no subsystem is named.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("trtype", self.trtype.to_string()),
            ("adrfam", self.adrfam().to_string()),
            ("traddr", self.traddr.to_string()),
            ("trsvcid", self.trsvcid.to_string()),
        ];
        fields.extend(self.subnqn.as_ref().map(|nqn| ("subnqn", nqn.to_string())));
        fields
    }
}

fn parse_address(value: &str, adrfam: Option<AdrFam>) -> Result<IpAddr, TridError> {
    if value.eq_ignore_ascii_case("localhost") {
        return Ok(match adrfam {
            Some(AdrFam::Ipv6) => Ipv6Addr::LOCALHOST.into(),
            _ => Ipv4Addr::LOCALHOST.into(),
        });
    }
    let unbracketed = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
    unbracketed.parse().map_err(|_| TridError::Value {
        key: "traddr",
        value: value.to_owned(),
        why: "is no IP address (host names other than localhost are not looked up)",
    })
}

fn parse_port(value: &str) -> Result<u16, TridError> {
    let all_digits = value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|_| all_digits).ok_or_else(|| TridError::Value {
        key: "trsvcid",
        value: value.to_owned(),
        why: "is no port number from 0 to 65535",
    })
}

impl TrType {
    /// The fabric of this name, in any case.
    ///
    /// # Errors
    /// No fabric that exists here.
    pub fn parse(value: &str) -> Result<Self, TridError> {
        match value.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "rdma" => Ok(Self::Rdma),
            "loop" => Ok(Self::Loop),
            _ => Err(TridError::Value { key: "trtype", value: value.to_owned(), why: "must be tcp, rdma or loop" }),
        }
    }
}

impl AdrFam {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The family of this name, in any case.
    ///
    /// # Errors
    /// No family that exists here.
    pub fn parse(value: &str) -> Result<Self, TridError> {
        match value.to_ascii_lowercase().as_str() {
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => Err(TridError::Value { key: "adrfam", value: value.to_owned(), why: "must be ipv4 or ipv6" }),
        }
    }
}

impl FromStr for TransportId {
    type Err = TridError;

    fn from_str(text: &str) -> Result<Self, TridError> {
        let mut fields = Vec::new();
        for word in text.split_whitespace() {
            fields.push(word.split_once('=').ok_or_else(|| TridError::NotKeyValue(word.to_owned()))?);
        }
        Self::from_fields(fields)
    }
}

impl fmt::Display for TrType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
            Self::Loop => "loop",
        })
    }
}

impl fmt::Display for AdrFam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.fields().iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TransportId, TridError> {
        text.parse()
    }

    #[test]
    fn a_full_one_reads_and_writes_the_same() {
        for text in [
            "trtype=tcp adrfam=ipv4 traddr=10.0.0.7 trsvcid=4420 subnqn=nqn.2016-06.io.mc:node7",
            "trtype=rdma adrfam=ipv6 traddr=fe80::1 trsvcid=4421",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn only_the_address_is_needed() {
        assert_eq!(
            parse("traddr=10.0.0.7").unwrap().to_string(),
            "trtype=tcp adrfam=ipv4 traddr=10.0.0.7 trsvcid=4420"
        );
        assert_eq!(parse("traddr=[::1]").unwrap().adrfam(), AdrFam::Ipv6);
        assert_eq!(parse("traddr=localhost").unwrap().traddr, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(parse("adrfam=ipv6 traddr=localhost").unwrap().traddr, IpAddr::V6(Ipv6Addr::LOCALHOST));
        let shouted = "TRTYPE=TCP  AdrFam=IPv4\ttraddr=10.0.0.7 trsvcid= subnqn=";
        assert_eq!(parse(shouted), parse("traddr=10.0.0.7"));
    }

    #[test]
    fn each_wrong_field_is_named_with_an_example() {
        for (text, named) in [
            ("", "traddr is missing"),
            ("trtype=tcp trsvcid=4420", "traddr is missing"),
            ("10.0.0.7:4420", "\"10.0.0.7:4420\" is not of the form key=value"),
            ("traddr=10.0.0.7 port=4420", "unknown key \"port\""),
            ("traddr=10.0.0.7 traddr=10.0.0.8", "traddr is given twice"),
            ("traddr= traddr=10.0.0.8", "traddr is given twice"),
            ("traddr=storage7", "traddr=storage7 is no IP address"),
            ("traddr=10.0.0.256", "traddr=10.0.0.256 is no IP address"),
            ("trtype=fc traddr=10.0.0.7", "trtype=fc must be tcp, rdma or loop"),
            ("adrfam=ib traddr=10.0.0.7", "adrfam=ib must be ipv4 or ipv6"),
            ("adrfam=ipv6 traddr=10.0.0.7", "adrfam=ipv6 does not fit traddr=10.0.0.7"),
            ("adrfam=ipv4 traddr=::1", "adrfam=ipv4 does not fit traddr=::1"),
            ("traddr=10.0.0.7 trsvcid=65536", "trsvcid=65536 is no port number"),
            ("traddr=10.0.0.7 trsvcid=+1", "trsvcid=+1 is no port number"),
            ("traddr=10.0.0.7 trsvcid=-1", "trsvcid=-1 is no port number"),
            ("traddr=10.0.0.7 trsvcid=http", "trsvcid=http is no port number"),
        ] {
            let refused = parse(text).expect_err(text).to_string();
            assert!(refused.contains(named), "{text:?}: {refused}");
            assert!(refused.ends_with("trtype=tcp adrfam=ipv4 traddr=10.0.0.7 trsvcid=4420"), "{refused}");
        }
        let refused = parse("traddr=10.0.0.7 subnqn=node7").unwrap_err().to_string();
        assert!(refused.contains("subnqn: NQN \"node7\": it does not begin with nqn."), "{refused}");
    }
}
