//! The Connect command, alike on admin and I/O queues, and what its answer means.

use super::link::{Flow, LinkError, Payload};
use nvferry_wire::fabrics::{CONNECT_DATA_LEN, Connect, ConnectData, ConnectInvalid, ConnectResult};
use nvferry_wire::{CommandId, Cqe, Sqe, StatusCode};

/// The command with its data, to be submitted to a link.
pub(crate) fn command(connect: &Connect, data: &ConnectData) -> (Sqe, Flow, Payload) {
    let mut bytes = Box::new([0; CONNECT_DATA_LEN]);
    data.encode(&mut bytes);
    // The link fills in the identifier.
    (connect.sqe(CommandId(0)), Flow::InCapsule(CONNECT_DATA_LEN as u32), Payload::Bytes(bytes))
}

/// The controller that the queue belongs to, and whether it wants authentication.
///
/// # Errors
/// Connect was refused.
pub(crate) fn accepted(what: &'static str, cqe: Cqe) -> Result<ConnectResult, LinkError> {
    if !cqe.status.is_success() {
        return Err(refused(what, cqe));
    }
    Ok(ConnectResult::from_result(cqe.result))
}

/// A fabrics command that was refused, in words.
pub(crate) fn refused(what: &'static str, cqe: Cqe) -> LinkError {
    let status = cqe.status.for_fabrics();
    let detail = match status.code {
        StatusCode::ConnectInvalidParameters => {
            let invalid = ConnectInvalid::from_result(cqe.result);
            match invalid {
                ConnectInvalid::SUBNQN => "; the target has no subsystem of that name".into(),
                ConnectInvalid::CNTLID => "; the target does not know the controller any more".into(),
                _ => format!("; {invalid}").into(),
            }
        }
        StatusCode::ConnectInvalidHost => "; this host is not on the target's list of allowed hosts".into(),
        _ => "".into(),
    };
    LinkError::Refused { what, status, detail }
}
