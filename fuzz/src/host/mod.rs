//! The host under attack: the input is what a target says.
//!
//! - [`queue`]: an I/O queue, with requests of an application.
//! - [`admin`]: the admin queue, from Connect to namespaces.
//! - [`peer`]: the target's end: it says what the input says, and checks every byte that the host says.

pub(crate) mod admin;
mod peer;
pub(crate) mod queue;

use crate::input::Input;
use crate::target::{HOST, SECRET};
use nvferry_auth::Secret;
use nvferry_nvmeof::config::HostSettings;
use nvferry_wire::pdu::Digests;
use nvferry_wire::{HostId, Nqn};
use std::time::Duration;

/// A host under attack.
pub(crate) trait Host {
    /// The operation of an input that stands for bytes from the target.
    const RAW: u8;

    /// One that has been connected; an input's first byte says how.
    fn begin(setup: u8) -> Self;

    /// Does what the next bytes say, and looks whether that went well.
    fn act(&mut self, input: &mut Input<'_>);

    /// Lets the host do what it can, and hears what it says.
    fn drive(&mut self);

    /// What it has said since this was last asked, for those who record it.
    fn said(&mut self) -> Vec<u8>;

    /// The target falls silent, and time passes: everything must have ended.
    fn end(self);
}

/// One conversation, from an input.
pub(crate) fn converse<H: Host>(input: &[u8]) {
    let mut input = Input::new(input);
    let mut host = H::begin(input.u8());
    while !input.is_empty() {
        host.act(&mut input);
    }
    host.end();
}

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
