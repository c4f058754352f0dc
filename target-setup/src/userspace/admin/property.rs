//! Controller properties (base specification 3.1.3).

use super::super::controller::Controller;
use super::super::limits;
use super::Reply;
use nvferry_wire::fabrics::{Cap, Cc, Property, PropertyGet, PropertySet, PropertySize, Vs};
use nvferry_wire::{Sqe, StatusCode};

/// How long enabling, disabling and shutting down may take, in units of 500 ms (CAP.TO): I/O queues drain first.
const READY_TIMEOUT_500MS: u8 = 60;
/// The version of the specification that controllers follow.
pub(super) const VERSION: Vs = Vs::V1_4;

/// CAP.
fn capabilities() -> Cap {
    Cap::fabrics(limits::MAX_QUEUE_ENTRIES.into(), READY_TIMEOUT_500MS)
}

pub(super) fn get(controller: &Controller, sqe: &Sqe) -> Result<Reply, StatusCode> {
    let command = PropertyGet::decode(sqe)?;
    let property = Property::from_offset(command.offset).ok_or(StatusCode::InvalidField)?;
    let value = match property {
        Property::Cap => capabilities().0,
        Property::Vs => VERSION.0.into(),
        Property::Cc => controller.cc().0.into(),
        Property::Csts => controller.csts().0.into(),
        Property::Nssr | Property::Crto => return Err(StatusCode::InvalidField),
    };
    if command.size != property.size() {
        return Err(StatusCode::InvalidField);
    }
    Ok(Reply::value(value))
}

pub(super) fn set(controller: &Controller, sqe: &Sqe) -> Result<Reply, StatusCode> {
    let command = PropertySet::decode(sqe)?;
    if Property::from_offset(command.offset) != Some(Property::Cc) || command.size != PropertySize::Four {
        return Err(StatusCode::InvalidField);
    }
    // Decoded from four bytes.
    let cc = Cc(command.value as u32);
    let nvm = matches!(cc.css(), 0 | 6);
    let entries = cc.iosqes() == 6 && cc.iocqes() == 4;
    if cc.enable() && !(nvm && entries && cc.page_bytes() == 4096 && cc.ams() == 0) && !is_discovery(controller) {
        return Err(StatusCode::InvalidField);
    }
    controller.set_cc(cc);
    Ok(Reply::value(0))
}

/// Discovery controllers have no I/O queues, and so do not care what those would be like.
fn is_discovery(controller: &Controller) -> bool {
    controller.kind == super::ControllerKind::Discovery
}
