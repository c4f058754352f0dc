//! Fabrics commands (base specification 6): Connect, Property Get and Set, Disconnect, and the opcodes of
//! authentication.
//!
//! All have opcode 7Fh and say in FCTYPE which one they are. Completions carry values: Connect's in
//! [`ConnectResult`], Property Get's the property itself. Read their status with
//! [`Status::for_fabrics`](crate::Status::for_fabrics).

mod connect;
mod property;

pub use connect::{CONNECT_DATA_LEN, Connect, ConnectData, ConnectInvalid, ConnectResult};
pub use property::{Cap, Cc, Csts, Property, PropertyGet, PropertySet, PropertySize, Shn, Shst, Vs};

use crate::ids::{CommandId, Nsid};
use crate::sqe::Sqe;
use crate::status::StatusCode;

/// The opcode of all fabrics commands, on any queue.
pub const FABRICS_OPCODE: u8 = 0x7F;

/// Which fabrics command (FCTYPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FabricsType {
    /// Sets a controller property.
    PropertySet = 0x00,
    /// Makes a queue on a connection.
    Connect = 0x01,
    /// Returns a controller property.
    PropertyGet = 0x04,
    /// Sends an authentication message to the controller.
    AuthSend = 0x05,
    /// Gets an authentication message from the controller.
    AuthReceive = 0x06,
    /// Ends an I/O queue.
    Disconnect = 0x08,
}

impl FabricsType {
    /// The command with this number.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::PropertySet,
            0x01 => Self::Connect,
            0x04 => Self::PropertyGet,
            0x05 => Self::AuthSend,
            0x06 => Self::AuthReceive,
            0x08 => Self::Disconnect,
            _ => return None,
        })
    }

    /// Which fabrics command `sqe` is.
    ///
    /// # Errors
    /// The status to return, if it is none.
    pub fn of(sqe: &Sqe) -> Result<Self, StatusCode> {
        if sqe.opcode() != FABRICS_OPCODE {
            return Err(StatusCode::InvalidOpcode);
        }
        Self::from_u8(sqe.fctype()).ok_or(StatusCode::InvalidOpcode)
    }
}

/// Ends an I/O queue (the association lives on). RECFMT is 0, the only format there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect;

impl Disconnect {
    /// The command.
    pub fn sqe(self, cid: CommandId) -> Sqe {
        fabrics_sqe(FabricsType::Disconnect, cid)
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: a record format other than 0.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        if sqe.cdw10() as u16 == 0 { Ok(Self) } else { Err(StatusCode::ConnectIncompatibleFormat) }
    }
}

/// A fabrics command with nothing but its type; FCTYPE stands where other commands have the namespace.
pub(crate) fn fabrics_sqe(fctype: FabricsType, cid: CommandId) -> Sqe {
    Sqe::new(FABRICS_OPCODE, cid, Nsid(fctype as u32))
}
