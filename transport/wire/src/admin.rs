//! Admin commands (base specification 5). What they return is in [`identify`](crate::identify),
//! [`log_page`](crate::log_page), [`feature`](crate::feature) and [`async_event`](crate::async_event).

use crate::feature::FeatureId;
use crate::identify::{Cns, IDENTIFY_LEN};
use crate::ids::{CommandId, ControllerId, Nsid, QueueId};
use crate::log_page::LogPageId;
use crate::sgl::SglDescriptor;
use crate::sqe::Sqe;
use crate::status::StatusCode;

/// An admin command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AdminOpcode {
    /// Not in fabrics.
    DeleteIoSubmissionQueue = 0x00,
    /// Not in fabrics.
    CreateIoSubmissionQueue = 0x01,
    /// Returns a log page.
    GetLogPage = 0x02,
    /// Not in fabrics.
    DeleteIoCompletionQueue = 0x04,
    /// Not in fabrics.
    CreateIoCompletionQueue = 0x05,
    /// Returns what a controller, a namespace or a list of them is.
    Identify = 0x06,
    /// Asks to abort a command.
    Abort = 0x08,
    /// Sets a feature.
    SetFeatures = 0x09,
    /// Returns a feature.
    GetFeatures = 0x0A,
    /// Completes when something has happened.
    AsyncEventRequest = 0x0C,
    /// Manages namespaces.
    NamespaceManagement = 0x0D,
    /// Attaches namespaces.
    NamespaceAttachment = 0x15,
    /// Shows that the host is alive.
    KeepAlive = 0x18,
    /// Formats a namespace.
    FormatNvm = 0x80,
}

impl AdminOpcode {
    /// The command with this opcode.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::DeleteIoSubmissionQueue,
            0x01 => Self::CreateIoSubmissionQueue,
            0x02 => Self::GetLogPage,
            0x04 => Self::DeleteIoCompletionQueue,
            0x05 => Self::CreateIoCompletionQueue,
            0x06 => Self::Identify,
            0x08 => Self::Abort,
            0x09 => Self::SetFeatures,
            0x0A => Self::GetFeatures,
            0x0C => Self::AsyncEventRequest,
            0x0D => Self::NamespaceManagement,
            0x15 => Self::NamespaceAttachment,
            0x18 => Self::KeepAlive,
            0x80 => Self::FormatNvm,
            _ => return None,
        })
    }
}

/// Identify: returns 4096 bytes; [`Cns`] says of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identify {
    /// The namespace, or where a list begins.
    pub nsid: Nsid,
    /// Which structure.
    pub cns: Cns,
    /// For some structures: a controller.
    pub cntid: ControllerId,
    /// For structures of an I/O command set: which one; 0 is NVM.
    pub csi: u8,
}

impl Identify {
    /// The controller's own structure.
    pub fn controller() -> Self {
        Self::of(Cns::Controller, Nsid::NONE)
    }

    /// The structure `cns` of `nsid`.
    pub fn of(cns: Cns, nsid: Nsid) -> Self {
        Self { nsid, cns, cntid: ControllerId(0), csi: 0 }
    }

    /// The command.
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::Identify as u8, cid, self.nsid)
            .with_sgl(SglDescriptor::Transport { length: IDENTIFY_LEN as u32 });
        sqe.set_cdw10(self.cns as u32 | u32::from(self.cntid.0) << 16);
        sqe.set_cdw11(u32::from(self.csi) << 24);
        sqe
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: a CNS that is not known.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        Ok(Self {
            nsid: sqe.nsid(),
            cns: Cns::from_u8(sqe.cdw10() as u8).ok_or(StatusCode::InvalidField)?,
            cntid: ControllerId((sqe.cdw10() >> 16) as u16),
            csi: (sqe.cdw11() >> 24) as u8,
        })
    }
}

/// Get Log Page: returns part of a log page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetLogPage {
    /// The namespace, or [`Nsid::ALL`] (or [`Nsid::NONE`]) for the controller.
    pub nsid: Nsid,
    /// Which page, as its number: [`LogPageId::from_u8`] names it.
    pub lid: u8,
    /// Log specific parameter, 7 bits.
    pub lsp: u8,
    /// Retain Asynchronous Event: reading does not clear the event.
    pub rae: bool,
    /// How much to return, in bytes: a multiple of 4, from 4 on (NUMD).
    pub length_bytes: u64,
    /// From where (LPO): in bytes, a multiple of 4; an index where `index_offset` says so.
    pub offset: u64,
    /// LPO is an index of an entry (OT).
    pub index_offset: bool,
    /// Log specific identifier.
    pub lsi: u16,
    /// Which I/O command set, for pages that differ.
    pub csi: u8,
}

impl GetLogPage {
    /// The first `length_bytes` bytes of a page, for the controller, clearing its event.
    pub fn new(lid: LogPageId, length_bytes: u32) -> Self {
        Self {
            nsid: Nsid::ALL,
            lid: lid as u8,
            lsp: 0,
            rae: false,
            length_bytes: length_bytes.into(),
            offset: 0,
            index_offset: false,
            lsi: 0,
            csi: 0,
        }
    }

    /// The command. A length that is no multiple of 4 is rounded up.
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let numd = self.length_bytes.div_ceil(4).clamp(1, 1 << 32) - 1;
        let length = ((numd + 1) * 4).min(u64::from(u32::MAX)) as u32;
        let mut sqe =
            Sqe::new(AdminOpcode::GetLogPage as u8, cid, self.nsid).with_sgl(SglDescriptor::Transport { length });
        sqe.set_cdw10(
            u32::from(self.lid)
                | u32::from(self.lsp & 0x7F) << 8
                | u32::from(self.rae) << 15
                | (numd as u32 & 0xFFFF) << 16,
        );
        sqe.set_cdw11((numd >> 16) as u32 & 0xFFFF | u32::from(self.lsi) << 16);
        sqe.set_cdw12(self.offset as u32);
        sqe.set_cdw13((self.offset >> 32) as u32);
        sqe.set_cdw14(u32::from(self.index_offset) << 23 | u32::from(self.csi) << 24);
        sqe
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: a byte offset that is no multiple of 4.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        let (cdw10, cdw11, cdw14) = (sqe.cdw10(), sqe.cdw11(), sqe.cdw14());
        let numd = u64::from(cdw10 >> 16) | u64::from(cdw11 & 0xFFFF) << 16;
        let command = Self {
            nsid: sqe.nsid(),
            lid: cdw10 as u8,
            lsp: (cdw10 >> 8 & 0x7F) as u8,
            rae: cdw10 >> 15 & 1 == 1,
            length_bytes: (numd + 1) * 4,
            offset: u64::from(sqe.cdw12()) | u64::from(sqe.cdw13()) << 32,
            index_offset: cdw14 >> 23 & 1 == 1,
            lsi: (cdw11 >> 16) as u16,
            csi: (cdw14 >> 24) as u8,
        };
        if !command.index_offset && !command.offset.is_multiple_of(4) {
            return Err(StatusCode::InvalidField);
        }
        Ok(command)
    }
}

/// Which value of a feature Get Features returns (SEL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FeatureSelect {
    /// The one in force.
    Current = 0,
    /// The one of the factory.
    Default = 1,
    /// The one that survives a reset.
    Saved = 2,
    /// Not a value: what the feature can do.
    Supported = 3,
}

/// Get Features: the completion's dword 0 is the value; some features also return data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetFeatures {
    /// The namespace, for features of a namespace.
    pub nsid: Nsid,
    /// Which feature, as its number: [`FeatureId::from_u8`] names it.
    pub fid: u8,
    /// Which of its values.
    pub select: FeatureSelect,
    /// Command dword 11, which some features need.
    pub cdw11: u32,
}

impl GetFeatures {
    /// The value in force.
    pub fn current(fid: FeatureId) -> Self {
        Self { nsid: Nsid::NONE, fid: fid as u8, select: FeatureSelect::Current, cdw11: 0 }
    }

    /// The command; features that return data need an SGL for it ([`Sqe::set_sgl`]).
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::GetFeatures as u8, cid, self.nsid);
        sqe.set_cdw10(u32::from(self.fid) | (self.select as u32) << 8);
        sqe.set_cdw11(self.cdw11);
        sqe
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: a selection that does not exist.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        let select = match sqe.cdw10() >> 8 & 0x7 {
            0 => FeatureSelect::Current,
            1 => FeatureSelect::Default,
            2 => FeatureSelect::Saved,
            3 => FeatureSelect::Supported,
            _ => return Err(StatusCode::InvalidField),
        };
        Ok(Self { nsid: sqe.nsid(), fid: sqe.cdw10() as u8, select, cdw11: sqe.cdw11() })
    }
}

/// Set Features. Values for dword 11 are in [`feature`](crate::feature).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetFeatures {
    /// The namespace, for features of a namespace.
    pub nsid: Nsid,
    /// Which feature, as its number: [`FeatureId::from_u8`] names it.
    pub fid: u8,
    /// The value shall survive a reset (SV).
    pub save: bool,
    /// The value.
    pub cdw11: u32,
    /// More of the value.
    pub cdw12: u32,
}

impl SetFeatures {
    /// Sets `fid` to `cdw11`, not beyond a reset.
    pub fn new(fid: FeatureId, cdw11: u32) -> Self {
        Self { nsid: Nsid::NONE, fid: fid as u8, save: false, cdw11, cdw12: 0 }
    }

    /// The command; features that take data need an SGL for it ([`Sqe::set_sgl`]).
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::SetFeatures as u8, cid, self.nsid);
        sqe.set_cdw10(u32::from(self.fid) | u32::from(self.save) << 31);
        sqe.set_cdw11(self.cdw11);
        sqe.set_cdw12(self.cdw12);
        sqe
    }

    /// Reads the command's fields.
    pub fn decode(sqe: &Sqe) -> Self {
        Self {
            nsid: sqe.nsid(),
            fid: sqe.cdw10() as u8,
            save: sqe.cdw10() >> 31 == 1,
            cdw11: sqe.cdw11(),
            cdw12: sqe.cdw12(),
        }
    }
}

/// Abort: asks the controller to give a command up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abort {
    /// The queue that the command is on.
    pub sqid: QueueId,
    /// The command.
    pub cid: CommandId,
}

impl Abort {
    /// Bit 0 of the completion's dword 0: the command was *not* aborted.
    pub const NOT_ABORTED: u64 = 1;

    /// The command, named `cid` itself.
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::Abort as u8, cid, Nsid::NONE);
        sqe.set_cdw10(u32::from(self.sqid.0) | u32::from(self.cid.0) << 16);
        sqe
    }

    /// Reads the command's fields.
    pub fn decode(sqe: &Sqe) -> Self {
        Self { sqid: QueueId(sqe.cdw10() as u16), cid: CommandId((sqe.cdw10() >> 16) as u16) }
    }
}

/// A Keep Alive command.
pub fn keep_alive(cid: CommandId) -> Sqe {
    Sqe::new(AdminOpcode::KeepAlive as u8, cid, Nsid::NONE)
}

/// An Asynchronous Event Request, which completes when something has happened.
pub fn async_event_request(cid: CommandId) -> Sqe {
    Sqe::new(AdminOpcode::AsyncEventRequest as u8, cid, Nsid::NONE)
}
