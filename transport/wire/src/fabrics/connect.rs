//! Connect: a connection becomes a queue, and on the admin queue an association with a controller.

use super::{FabricsType, fabrics_sqe};
use crate::codec::{get, get_u8, get_u16, get_u32, prefix, put, put_u8, put_u16, put_u32};
use crate::ids::{CommandId, ControllerId, HostId, QueueId};
use crate::nqn::{NQN_FIELD_LEN, Nqn, NqnError};
use crate::sgl::SglDescriptor;
use crate::sqe::Sqe;
use crate::status::StatusCode;

/// Bytes of data that go with Connect, in its capsule.
pub const CONNECT_DATA_LEN: usize = 1024;

/// The Connect command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect {
    /// The queue to be made.
    pub qid: QueueId,
    /// How many entries it has, as people count (on the wire: from zero). 2 to 65536.
    pub sq_entries: u32,
    /// The host does without submission queue flow control (CATTR bit 2): SQHD is not used, and C2HData may carry
    /// SUCCESS.
    pub disable_sq_flow_control: bool,
    /// The host allows individual I/O queues to be deleted (CATTR bit 3).
    pub individual_io_queue_deletion: bool,
    /// Admin queue: after how long without a Keep Alive the controller gives up, in milliseconds. 0 is never.
    pub kato_ms: u32,
}

impl Connect {
    /// The command, with its [`ConnectData`] as in-capsule data.
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let mut sqe = fabrics_sqe(FabricsType::Connect, cid)
            .with_sgl(SglDescriptor::InCapsule { offset: 0, length: CONNECT_DATA_LEN as u32 });
        let cattr = u8::from(self.disable_sq_flow_control) << 2 | u8::from(self.individual_io_queue_deletion) << 3;
        let sqsize = self.sq_entries.saturating_sub(1).min(0xFFFF) as u16;
        let out = sqe.as_bytes_mut();
        put_u16::<40, _>(out, 0); // RECFMT
        put_u16::<42, _>(out, self.qid.0);
        put_u16::<44, _>(out, sqsize);
        put_u8::<46, _>(out, cattr);
        put_u32::<48, _>(out, self.kato_ms);
        sqe
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: another record format.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        let bytes = sqe.as_bytes();
        if get_u16::<40, _>(bytes) != 0 {
            return Err(StatusCode::ConnectIncompatibleFormat);
        }
        let cattr = get_u8::<46, _>(bytes);
        Ok(Self {
            qid: QueueId(get_u16::<42, _>(bytes)),
            sq_entries: u32::from(get_u16::<44, _>(bytes)) + 1,
            disable_sq_flow_control: cattr & 1 << 2 != 0,
            individual_io_queue_deletion: cattr & 1 << 3 != 0,
            kato_ms: get_u32::<48, _>(bytes),
        })
    }
}

/// What goes with Connect: who connects, and to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectData {
    /// The host.
    pub hostid: HostId,
    /// The controller: [`ControllerId::DYNAMIC`] for a new one, or the one that an I/O queue belongs to.
    pub cntlid: ControllerId,
    /// The subsystem's name.
    pub subnqn: Nqn,
    /// The host's name.
    pub hostnqn: Nqn,
}

impl ConnectData {
    /// Writes the data.
    pub fn encode(&self, out: &mut [u8; CONNECT_DATA_LEN]) {
        out.fill(0);
        put::<0, _, _>(out, self.hostid.0);
        put_u16::<16, _>(out, self.cntlid.0);
        put::<256, _, _>(out, self.subnqn.to_wire());
        put::<512, _, _>(out, self.hostnqn.to_wire());
    }

    /// Reads the data. Names of any form are taken.
    ///
    /// # Errors
    /// Which field is wrong, to be told to the host with status Connect Invalid Parameters;
    /// data of less than 1024 bytes is reported with the length of the data as the wrong field's place.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConnectInvalid> {
        let bytes: &[u8; CONNECT_DATA_LEN] =
            prefix(bytes, "Connect data").map_err(|_| ConnectInvalid::in_data(bytes.len() as u16))?;
        let nqn = |field: [u8; NQN_FIELD_LEN]| -> Result<Nqn, NqnError> { Nqn::from_wire(&field) };
        Ok(Self {
            hostid: HostId(get::<0, 16, _>(bytes)),
            cntlid: ControllerId(get_u16::<16, _>(bytes)),
            subnqn: nqn(get::<256, NQN_FIELD_LEN, _>(bytes)).map_err(|_| ConnectInvalid::SUBNQN)?,
            hostnqn: nqn(get::<512, NQN_FIELD_LEN, _>(bytes)).map_err(|_| ConnectInvalid::HOSTNQN)?,
        })
    }
}

/// What a successful Connect returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectResult {
    /// The controller that the queue belongs to.
    pub cntlid: ControllerId,
    /// The host must authenticate before it sends other commands (AUTHREQ, ATR).
    pub authentication_required: bool,
    /// The host must authenticate, and set up a secure channel by it (AUTHREQ, ASCR).
    pub secure_channel_required: bool,
}

impl ConnectResult {
    /// For the completion's result.
    pub fn to_result(self) -> u64 {
        let authreq = u64::from(self.authentication_required) << 1 | u64::from(self.secure_channel_required) << 2;
        u64::from(self.cntlid.0) | authreq << 16
    }

    /// From the completion's result.
    pub fn from_result(result: u64) -> Self {
        Self {
            cntlid: ControllerId(result as u16),
            authentication_required: result >> 17 & 1 == 1,
            secure_channel_required: result >> 18 & 1 == 1,
        }
    }
}

/// What a Connect that failed with Connect Invalid Parameters returns: which parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid parameter at byte {offset} of the Connect {}", if *.in_data { "data" } else { "command" })]
pub struct ConnectInvalid {
    /// The offset of the parameter in bytes (IPO).
    pub offset: u16,
    /// Whether it is in the data rather than in the command (IATTR).
    pub in_data: bool,
}

impl ConnectInvalid {
    /// HOSTID.
    pub const HOSTID: Self = Self::in_data(0);
    /// CNTLID.
    pub const CNTLID: Self = Self::in_data(16);
    /// SUBNQN.
    pub const SUBNQN: Self = Self::in_data(256);
    /// HOSTNQN.
    pub const HOSTNQN: Self = Self::in_data(512);
    /// QID.
    pub const QID: Self = Self { offset: 42, in_data: false };
    /// SQSIZE.
    pub const SQSIZE: Self = Self { offset: 44, in_data: false };
    /// CATTR.
    pub const CATTR: Self = Self { offset: 46, in_data: false };
    /// KATO.
    pub const KATO: Self = Self { offset: 48, in_data: false };

    /// A parameter in the data.
    const fn in_data(offset: u16) -> Self {
        Self { offset, in_data: true }
    }

    /// For the completion's result.
    pub fn to_result(self) -> u64 {
        u64::from(self.offset) | u64::from(self.in_data) << 16
    }

    /// From the completion's result.
    pub fn from_result(result: u64) -> Self {
        Self { offset: result as u16, in_data: result >> 16 & 1 == 1 }
    }

    /// The parameter's name, where it is one of the usual.
    pub fn parameter(self) -> Option<&'static str> {
        Some(match self {
            Self::HOSTID => "HOSTID",
            Self::CNTLID => "CNTLID",
            Self::SUBNQN => "SUBNQN",
            Self::HOSTNQN => "HOSTNQN",
            Self::QID => "QID",
            Self::SQSIZE => "SQSIZE",
            Self::CATTR => "CATTR",
            Self::KATO => "KATO",
            _ => return None,
        })
    }
}
