//! Authentication Send and Authentication Receive (base specification 6.1, 6.2): messages as data.

use crate::codec::{get_u8, get_u32, put_u8, put_u32};
use crate::fabrics::{FabricsType, fabrics_sqe};
use crate::ids::CommandId;
use crate::sqe::Sqe;
use crate::status::StatusCode;

/// The most data that either command may move here, in bytes: what hosts offer as a buffer, and more than three times
/// the longest message.
pub const MAX_AUTH_DATA_BYTES: u32 = 4096;

/// SECP: NVMe's own security protocol.
const SECP_NVME: u8 = 0xE9;

/// Brings a message to the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthSend {
    /// Bytes of the message (TL), 1 to [`MAX_AUTH_DATA_BYTES`].
    pub length_bytes: u32,
}

/// Gets a message from the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthReceive {
    /// Bytes that the host has room for (AL), 1 to [`MAX_AUTH_DATA_BYTES`].
    pub length_bytes: u32,
}

impl AuthSend {
    /// The command, its data pointer left to the caller.
    pub fn sqe(self, cid: CommandId) -> Sqe {
        sqe(FabricsType::AuthSend, cid, self.length_bytes)
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: another security protocol, or a length that no message has.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        decode(sqe).map(|length_bytes| Self { length_bytes })
    }
}

impl AuthReceive {
    /// The command, its data pointer left to the caller.
    pub fn sqe(self, cid: CommandId) -> Sqe {
        sqe(FabricsType::AuthReceive, cid, self.length_bytes)
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: another security protocol, or a length that is not allowed.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        decode(sqe).map(|length_bytes| Self { length_bytes })
    }
}

fn sqe(fctype: FabricsType, cid: CommandId, length_bytes: u32) -> Sqe {
    let mut sqe = fabrics_sqe(fctype, cid);
    let out = sqe.as_bytes_mut();
    put_u8::<41, _>(out, 1); // SPSP0
    put_u8::<42, _>(out, 1); // SPSP1
    put_u8::<43, _>(out, SECP_NVME);
    put_u32::<44, _>(out, length_bytes);
    sqe
}

fn decode(sqe: &Sqe) -> Result<u32, StatusCode> {
    let bytes = sqe.as_bytes();
    let protocol = [get_u8::<41, _>(bytes), get_u8::<42, _>(bytes), get_u8::<43, _>(bytes)];
    let length_bytes = get_u32::<44, _>(bytes);
    if protocol != [1, 1, SECP_NVME] || !(1..=MAX_AUTH_DATA_BYTES).contains(&length_bytes) {
        return Err(StatusCode::InvalidField);
    }
    Ok(length_bytes)
}
