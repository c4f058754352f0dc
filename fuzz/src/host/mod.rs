//! The host under attack: the input is what a target says.
//!
//! - [`queue`]: an I/O queue, with requests of an application.
//! - [`admin`]: the admin queue, from Connect to namespaces.
//! - [`peer`]: the target's end: it says what the input says, and checks every byte that the host says.

pub(crate) mod admin;
mod peer;
pub(crate) mod queue;

use crate::target::{HOST, SECRET};
use nvferry_auth::Secret;
use nvferry_nvmeof::config::HostSettings;
use nvferry_wire::pdu::Digests;
use nvferry_wire::{HostId, Nqn};
use std::time::Duration;

/// A host as its administrator set it up.
pub(crate) fn settings(digests: Digests, secret: bool) -> HostSettings {
    let secret = secret.then(|| Secret::from_key(&SECRET, None).unwrap());
    HostSettings {
        host_nqn: Nqn::new(HOST).unwrap(),
        host_id: HostId([5; 16]),
        queue_depth: 16,
        digests,
        kato: Duration::from_secs(4),
        controller_secret: secret.clone(),
        secret,
    }
}
