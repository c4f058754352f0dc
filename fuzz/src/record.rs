//! Inputs to begin with: conversations between the real host and the real target, as each side hears them.

use crate::host::{Host, admin, queue};
use crate::input::Input;
use crate::target::Attack;

/// An input for one of the targets.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// What it is called.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

/// Everything that is recorded.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for digests in 0..4 {
        let act: [&[u8]; 0] = [];
        seeds.extend(converse::<admin::Attack>("host_admin", digests, &act, false));
        // Reads and writes, in the capsule and on demand, aligned and not, and one beyond the target's file.
        let requests: [&[u8]; 6] = [
            &[0, 0, 0, 2, 1, 0xFF, 0x0F, 0],
            &[0, 1, 0, 4, 1, 0xFF, 0x0F, 0],
            &[0, 1, 0, 8, 1, 0xFF, 0x7F, 0],
            &[0, 0, 2, 3, 2, 0x11, 0x20, 0],
            &[0, 1, 0, 7, 2, 0x11, 0x01, 0],
            &[0, 0, 0, 249, 1, 0xFF, 0xFF, 0],
        ];
        seeds.extend(converse::<queue::Attack>("host_queue", digests, &requests, true));
    }
    seeds
}

/// Lets a host do these things and talk with the target, and writes both sides' inputs.
fn converse<H: Host>(name: &'static str, setup: u8, acts: &[&[u8]], io: bool) -> [Seed; 2] {
    let mut host = H::begin(setup);
    let mut target = Attack::new(1, false);
    // A queue needs a controller.
    let mut target_bytes = vec![0];
    if io {
        target_bytes.extend([23, 0]);
        target.act_on(&[23, 0]);
    }
    target_bytes.extend([0, 0]);
    target.act_on(&[0, 0]);
    let mut host_bytes = vec![setup];
    for act in std::iter::once(&[][..]).chain(acts.iter().copied()) {
        host_bytes.extend_from_slice(act);
        if !act.is_empty() {
            host.act(&mut Input::new(act));
        }
        loop {
            host.drive();
            let said = host.said();
            let mut quiet = said.is_empty();
            for part in said.chunks(usize::from(u16::MAX)) {
                let operation = raw(10, part);
                target.act_on(&operation);
                target_bytes.extend(operation);
            }
            target.act_on(&[9]);
            target_bytes.push(9);
            let answer = target.heard();
            quiet &= answer.is_empty();
            for part in answer.chunks(usize::from(u16::MAX)) {
                let operation = raw(H::RAW, part);
                host.act(&mut Input::new(&operation));
                host_bytes.extend(operation);
            }
            if quiet {
                break;
            }
        }
    }
    target.end();
    let name_of = |side: &str| format!("recorded-{name}-{side}-{setup}");
    [
        Seed { target: "target", name: name_of("said"), bytes: target_bytes },
        Seed { target: name, name: name_of("heard"), bytes: host_bytes },
    ]
}

fn raw(operation: u8, bytes: &[u8]) -> Vec<u8> {
    // Parts have no more than 16 bits count.
    let len = (bytes.len() as u16).to_le_bytes();
    [&[operation, len[0], len[1]], bytes].concat()
}
