//! The messages of DH-HMAC-CHAP (base specification 8.13.5.3 to 8.13.5.9).
//!
//! Decoding takes a whole message out of a buffer that may be longer, as hosts and controllers pad it.

use super::{AuthHash, DhGroup};
use crate::WireError;
use crate::codec::Reader;
use std::fmt;

/// The longest challenge or response in bytes.
pub const MAX_CHALLENGE_BYTES: usize = 64;
/// The longest DH value in bytes.
pub const MAX_DH_VALUE_BYTES: usize = 1024;
/// The longest message in bytes: a Reply with everything in it.
pub const MAX_MESSAGE_BYTES: usize = 16 + 2 * MAX_CHALLENGE_BYTES + MAX_DH_VALUE_BYTES;

const COMMON: u8 = 0;
const DHCHAP: u8 = 1;
/// The identifiers that a list in Negotiate has room for.
const LIST_LEN: usize = 30;

/// What the host can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiate {
    /// Chosen by the host; all messages of the exchange carry it.
    pub transaction: u16,
    /// SC_C: 0 asks for no secure channel.
    pub secure_channel: u8,
    /// Whether the host offers DH-HMAC-CHAP at all.
    pub dhchap: bool,
    /// HashIDList, as sent: unknown numbers are kept.
    pub hashes: Vec<u8>,
    /// DHgIDList, likewise.
    pub groups: Vec<u8>,
}

/// What the host has to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// As negotiated.
    pub transaction: u16,
    /// The chosen hash.
    pub hash: AuthHash,
    /// The chosen group.
    pub group: DhGroup,
    /// S1.
    pub sequence: u32,
    /// C1, as long as the hash's result.
    pub challenge: Vec<u8>,
    /// g^x, as long as the group's values.
    pub dh_value: Vec<u8>,
}

/// The host's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// As negotiated.
    pub transaction: u16,
    /// S2.
    pub sequence: u32,
    /// R1, as long as the hash's result.
    pub response: Vec<u8>,
    /// C2, where the controller shall prove itself, too.
    pub challenge: Option<Vec<u8>>,
    /// g^y.
    pub dh_value: Vec<u8>,
}

/// The host has proved itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Success1 {
    /// As negotiated.
    pub transaction: u16,
    /// HL: bytes of the hash's result. Linux looks at it also where there is no response.
    pub hash_bytes: u8,
    /// R2, where the host asked for it; as long as that.
    pub response: Option<Vec<u8>>,
}

/// The exchange has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// As negotiated.
    pub transaction: u16,
    /// Why.
    pub reason: FailureReason,
}

/// Why an exchange failed (reason code 1 and its explanation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureReason {
    /// The peer did not prove itself.
    AuthenticationFailed = 1,
    /// No protocol in common.
    ProtocolNotUsable = 2,
    /// A secure channel is asked for by one side alone.
    SecureChannelMismatch = 3,
    /// No hash in common.
    HashNotUsable = 4,
    /// No DH group in common.
    GroupNotUsable = 5,
    /// A message with values that it may not have.
    IncorrectPayload = 6,
    /// Another message than the next.
    IncorrectMessage = 7,
}

impl FailureReason {
    /// The reason with this explanation code; those that are not known count as a failed proof.
    fn from_u8(code: u8) -> Self {
        match code {
            2 => Self::ProtocolNotUsable,
            3 => Self::SecureChannelMismatch,
            4 => Self::HashNotUsable,
            5 => Self::GroupNotUsable,
            6 => Self::IncorrectPayload,
            7 => Self::IncorrectMessage,
            _ => Self::AuthenticationFailed,
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuthenticationFailed => "authentication failed",
            Self::ProtocolNotUsable => "authentication protocol not usable",
            Self::SecureChannelMismatch => "secure channel concatenation mismatch",
            Self::HashNotUsable => "hash not usable",
            Self::GroupNotUsable => "DH group not usable",
            Self::IncorrectPayload => "incorrect payload",
            Self::IncorrectMessage => "incorrect protocol message",
        })
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMessage {
    /// AUTH_Negotiate.
    Negotiate(Negotiate),
    /// DH-HMAC-CHAP_Challenge.
    Challenge(Challenge),
    /// DH-HMAC-CHAP_Reply.
    Reply(Reply),
    /// DH-HMAC-CHAP_Success1.
    Success1(Success1),
    /// DH-HMAC-CHAP_Success2: the controller has proved itself, too. Its transaction.
    Success2(u16),
    /// AUTH_Failure1, the controller's.
    Failure1(Failure),
    /// AUTH_Failure2, the host's.
    Failure2(Failure),
}

impl AuthMessage {
    /// The message's transaction.
    #[must_use]
    pub fn transaction(&self) -> u16 {
        match self {
            Self::Negotiate(it) => it.transaction,
            Self::Challenge(it) => it.transaction,
            Self::Reply(it) => it.transaction,
            Self::Success1(it) => it.transaction,
            Self::Success2(transaction) => *transaction,
            Self::Failure1(it) | Self::Failure2(it) => it.transaction,
        }
    }

    /// The message's bytes, at most [`MAX_MESSAGE_BYTES`]. Lists in Negotiate are cut at 30 entries.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, id) = match self {
            Self::Negotiate(_) => (COMMON, 0x00),
            Self::Challenge(_) => (DHCHAP, 0x01),
            Self::Reply(_) => (DHCHAP, 0x02),
            Self::Success1(_) => (DHCHAP, 0x03),
            Self::Success2(_) => (DHCHAP, 0x04),
            Self::Failure1(_) => (COMMON, 0xF1),
            Self::Failure2(_) => (COMMON, 0xF0),
        };
        let mut out = vec![kind, id, 0, 0];
        out.extend_from_slice(&self.transaction().to_le_bytes());
        // Challenges and DH values have the lengths that a byte and two can tell; see MAX_MESSAGE_BYTES.
        match self {
            Self::Negotiate(it) => {
                out.extend_from_slice(&[it.secure_channel, u8::from(it.dhchap)]);
                if it.dhchap {
                    let list = |ids: &[u8]| {
                        let mut list = [0; LIST_LEN];
                        let len = ids.len().min(LIST_LEN);
                        list[..len].copy_from_slice(&ids[..len]);
                        (len as u8, list)
                    };
                    let ((halen, hashes), (dhlen, groups)) = (list(&it.hashes), list(&it.groups));
                    out.extend_from_slice(&[1, 0, halen, dhlen]);
                    out.extend_from_slice(&hashes);
                    out.extend_from_slice(&groups);
                }
            }
            Self::Challenge(it) => {
                out.extend_from_slice(&[it.hash.len_bytes() as u8, 0, it.hash as u8, it.group as u8]);
                out.extend_from_slice(&(it.dh_value.len() as u16).to_le_bytes());
                out.extend_from_slice(&it.sequence.to_le_bytes());
                out.extend_from_slice(&it.challenge);
                out.extend_from_slice(&it.dh_value);
            }
            Self::Reply(it) => {
                out.extend_from_slice(&[it.response.len() as u8, 0, u8::from(it.challenge.is_some()), 0]);
                out.extend_from_slice(&(it.dh_value.len() as u16).to_le_bytes());
                out.extend_from_slice(&it.sequence.to_le_bytes());
                out.extend_from_slice(&it.response);
                match &it.challenge {
                    Some(challenge) => out.extend_from_slice(challenge),
                    None => out.resize(out.len() + it.response.len(), 0),
                }
                out.extend_from_slice(&it.dh_value);
            }
            Self::Success1(it) => {
                let response = it.response.as_deref().unwrap_or_default();
                out.extend_from_slice(&[it.hash_bytes, 0, u8::from(it.response.is_some()), 0, 0, 0, 0, 0, 0, 0]);
                out.extend_from_slice(response);
            }
            Self::Success2(_) => out.resize(16, 0),
            Self::Failure1(it) | Self::Failure2(it) => out.extend_from_slice(&[1, it.reason as u8]),
        }
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it. An exchange ends with [`FailureReason::IncorrectPayload`] then.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes, "an authentication message");
        let [kind, id, _, _, t0, t1] = *reader.array::<6>()?;
        let transaction = u16::from_le_bytes([t0, t1]);
        match (kind, id) {
            (COMMON, 0x00) => negotiate(transaction, &mut reader).map(Self::Negotiate),
            (DHCHAP, 0x01) => challenge(transaction, &mut reader).map(Self::Challenge),
            (DHCHAP, 0x02) => reply(transaction, &mut reader).map(Self::Reply),
            (DHCHAP, 0x03) => success1(transaction, &mut reader).map(Self::Success1),
            (DHCHAP, 0x04) => {
                reader.bytes(10)?;
                Ok(Self::Success2(transaction))
            }
            (COMMON, 0xF1) => failure(transaction, &mut reader).map(Self::Failure1),
            (COMMON, 0xF0) => failure(transaction, &mut reader).map(Self::Failure2),
            _ => Err(invalid("AUTH_TYPE and AUTH_ID", u64::from(kind) << 8 | u64::from(id), "name no known message")),
        }
    }
}

fn invalid(field: &'static str, value: u64, why: &'static str) -> WireError {
    WireError::InvalidField { what: "an authentication message", field, value, why }
}

/// The length of a hash's result, from the byte that tells it.
fn hash_len(hl: u8) -> Result<usize, WireError> {
    match hl {
        32 | 48 | 64 => Ok(hl.into()),
        _ => Err(invalid("HL", hl.into(), "is the length of no known hash")),
    }
}

/// A DH value of the length told, which must be that of some group's.
fn dh_value(len: u16, reader: &mut Reader<'_>) -> Result<Vec<u8>, WireError> {
    if !DhGroup::ALL.iter().any(|group| group.len_bytes() == usize::from(len)) {
        return Err(invalid("DHVLEN", len.into(), "is the length of no known group's values"));
    }
    reader.bytes(len.into()).map(<[u8]>::to_vec)
}

fn negotiate(transaction: u16, reader: &mut Reader<'_>) -> Result<Negotiate, WireError> {
    let [secure_channel, napd] = *reader.array()?;
    let mut negotiate =
        Negotiate { transaction, secure_channel, dhchap: false, hashes: Vec::new(), groups: Vec::new() };
    for _ in 0..napd {
        let [auth_id, _, halen, dhlen] = *reader.array()?;
        let (hashes, groups) = (reader.array::<LIST_LEN>()?, reader.array::<LIST_LEN>()?);
        if auth_id != 1 || negotiate.dhchap {
            continue;
        }
        let list = |field, len: u8, ids: &[u8; LIST_LEN]| match ids.get(..usize::from(len)) {
            Some(ids) => Ok(ids.to_vec()),
            None => Err(invalid(field, len.into(), "is more than its list has room for")),
        };
        negotiate.dhchap = true;
        negotiate.hashes = list("HALEN", halen, hashes)?;
        negotiate.groups = list("DHLEN", dhlen, groups)?;
    }
    Ok(negotiate)
}

fn challenge(transaction: u16, reader: &mut Reader<'_>) -> Result<Challenge, WireError> {
    let [hl, _, hash, group, v0, v1] = *reader.array()?;
    let hash = AuthHash::from_u8(hash).ok_or_else(|| invalid("HashID", hash.into(), "is no known hash"))?;
    let group = DhGroup::from_u8(group).ok_or_else(|| invalid("DHgID", group.into(), "is no known DH group"))?;
    let dhvlen = u16::from_le_bytes([v0, v1]);
    if usize::from(hl) != hash.len_bytes() {
        return Err(invalid("HL", hl.into(), "is not the length of the hash"));
    }
    if usize::from(dhvlen) != group.len_bytes() {
        return Err(invalid("DHVLEN", dhvlen.into(), "is not the length of the group's values"));
    }
    Ok(Challenge {
        transaction,
        hash,
        group,
        sequence: reader.u32()?,
        challenge: reader.bytes(hl.into())?.to_vec(),
        dh_value: dh_value(dhvlen, reader)?,
    })
}

fn reply(transaction: u16, reader: &mut Reader<'_>) -> Result<Reply, WireError> {
    let [hl, _, cvalid, _, v0, v1] = *reader.array()?;
    let len = hash_len(hl)?;
    let sequence = reader.u32()?;
    let response = reader.bytes(len)?.to_vec();
    let challenge = reader.bytes(len)?;
    Ok(Reply {
        transaction,
        sequence,
        response,
        challenge: (cvalid & 1 != 0).then(|| challenge.to_vec()),
        dh_value: dh_value(u16::from_le_bytes([v0, v1]), reader)?,
    })
}

fn success1(transaction: u16, reader: &mut Reader<'_>) -> Result<Success1, WireError> {
    let [hl, _, rvalid, _, _, _, _, _, _, _] = *reader.array()?;
    let response = if rvalid & 1 == 0 { None } else { Some(reader.bytes(hash_len(hl)?)?.to_vec()) };
    Ok(Success1 { transaction, hash_bytes: hl, response })
}

fn failure(transaction: u16, reader: &mut Reader<'_>) -> Result<Failure, WireError> {
    let [_, explanation] = *reader.array()?;
    Ok(Failure { transaction, reason: FailureReason::from_u8(explanation) })
}
