//! Admin commands: what a controller answers from what it knows, without touching a file.
//!
//! A command goes in with the data that the host sent along, a [`Reply`] comes out; the connection sends it. Connect,
//! Keep Alive and Asynchronous Event Requests are the connection's own.

mod feature;
mod identify;
mod log_page;
mod property;

use super::controller::{Controller, ControllerKind};
use super::subsystem::Subsystem;
use nvferry_wire::admin::{Abort, AdminOpcode};
use nvferry_wire::fabrics::{FABRICS_OPCODE, FabricsType};
use nvferry_wire::nvm::NvmOpcode;
use nvferry_wire::{SglDescriptor, Sqe, Status, StatusCode};

/// What controllers say their firmware is.
pub(super) const FIRMWARE_REVISION: &str = env!("CARGO_PKG_VERSION");
/// The I/O commands that there are.
const IO_COMMANDS: &[NvmOpcode] = &[
    NvmOpcode::Flush,
    NvmOpcode::Write,
    NvmOpcode::Read,
    NvmOpcode::Compare,
    NvmOpcode::WriteZeroes,
    NvmOpcode::DatasetManagement,
];
/// The admin commands that there are.
const ADMIN_COMMANDS: &[AdminOpcode] = &[
    AdminOpcode::GetLogPage,
    AdminOpcode::Identify,
    AdminOpcode::Abort,
    AdminOpcode::SetFeatures,
    AdminOpcode::GetFeatures,
    AdminOpcode::AsyncEventRequest,
    AdminOpcode::KeepAlive,
];

/// How an admin command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: Status,
    pub(crate) result: u64,
    /// Sent to the host before the completion.
    pub(crate) data: Option<Box<[u8]>>,
}

impl Reply {
    /// Success with a value.
    pub(crate) fn value(result: u64) -> Self {
        Self { status: Status::SUCCESS, result, data: None }
    }

    /// Success with data.
    pub(crate) fn data(data: Box<[u8]>) -> Self {
        Self { status: Status::SUCCESS, result: 0, data: Some(data) }
    }
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        Self { status, result: 0, data: None }
    }
}

/// A command that is wrong in itself: it would fail again.
impl From<StatusCode> for Reply {
    fn from(code: StatusCode) -> Self {
        Status::permanent(code).into()
    }
}

/// Who asks whom.
pub(crate) struct Asked<'a> {
    pub(crate) subsystem: &'a Subsystem,
    pub(crate) controller: &'a Controller,
}

impl Asked<'_> {
    /// Executes a command that came on the admin queue.
    pub(crate) fn execute(&self, sqe: &Sqe) -> Reply {
        let result = if sqe.opcode() == FABRICS_OPCODE { self.fabrics(sqe) } else { self.admin(sqe) };
        result.unwrap_or_else(Reply::from)
    }

    fn fabrics(&self, sqe: &Sqe) -> Result<Reply, StatusCode> {
        match FabricsType::of(sqe)? {
            FabricsType::PropertyGet => property::get(self.controller, sqe),
            FabricsType::PropertySet => property::set(self.controller, sqe),
            // A queue is connected once.
            FabricsType::Connect => Err(StatusCode::CommandSequenceError),
            FabricsType::Disconnect => Err(StatusCode::DisconnectInvalidQueueType),
            FabricsType::AuthSend | FabricsType::AuthReceive => Err(StatusCode::InvalidOpcode),
        }
    }

    fn admin(&self, sqe: &Sqe) -> Result<Reply, StatusCode> {
        if !self.controller.is_ready() {
            return Err(StatusCode::CommandSequenceError);
        }
        match AdminOpcode::from_u8(sqe.opcode()).ok_or(StatusCode::InvalidOpcode)? {
            AdminOpcode::Identify => self.identify(sqe),
            AdminOpcode::GetLogPage => self.get_log_page(sqe),
            AdminOpcode::SetFeatures => self.set_features(sqe),
            AdminOpcode::GetFeatures => self.get_features(sqe),
            // Commands either end soon or wait for storage that cannot be called back: none is aborted, which the
            // specification allows and the completion says.
            AdminOpcode::Abort if self.is_io() => Ok(Reply::value(Abort::NOT_ABORTED)),
            _ => Err(StatusCode::InvalidOpcode),
        }
    }

    fn is_io(&self) -> bool {
        self.controller.kind == ControllerKind::Io
    }
}

/// Checks that the command's SGL asks for exactly `length_bytes` from the controller.
fn expects(sqe: &Sqe, length_bytes: u64) -> Result<(), StatusCode> {
    match sqe.sgl().map_err(|error| error.status())? {
        SglDescriptor::Transport { length } if u64::from(length) == length_bytes => Ok(()),
        SglDescriptor::Transport { .. } => Err(StatusCode::SglDataLengthInvalid),
        SglDescriptor::InCapsule { .. } | SglDescriptor::Keyed { .. } => Err(StatusCode::SglDescriptorTypeInvalid),
    }
}
